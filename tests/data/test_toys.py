"""Points: against the libraries whose shapes they follow, and exact laws."""

import math

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from scipy.stats import ks_2samp
from support.image_files import (
    one_line,
    whole,
)

from dfm.basics.errors import UserError
from dfm.data.dataset import SPLITS
from dfm.data.toys import Checkerboard, EightGaussians, Mixture, Moons, SwissRoll

# ---- points ----------------------------------------------------------------------------------------------------------

TOYS = [Moons, Checkerboard, EightGaussians, SwissRoll]


@pytest.mark.parametrize("toy", TOYS)
def test_splits_and_seeds_are_independent_and_reproducible(toy):
    sizes = {"n_train": 500, "n_validation": 100, "n_test": 200}
    dataset = toy(**sizes)
    assert [len(dataset.split(name)) for name in SPLITS] == [500, 100, 200]
    assert torch.equal(whole(dataset), whole(toy(**sizes)))
    everything = torch.cat([whole(dataset), whole(toy(**sizes, seed=1))])
    assert len(everything.unique(dim=0)) == 1600, "no point is in two splits, or under two seeds"


@pytest.mark.parametrize("toy", TOYS)
@pytest.mark.parametrize("options", [{"n_train": 0}, {"n_test": -1}, {"seed": -1}])
def test_wrong_sizes_are_refused_at_once(toy, options):
    with pytest.raises(UserError, match="allowed") as error:
        toy(**options)
    one_line(error)


def same_law(ours: torch.Tensor, theirs: np.ndarray) -> None:
    """Kolmogorov-Smirnov on four directions."""
    for direction in np.array([[1, 0], [0, 1], [1, 1], [1, -1]]):
        assert ks_2samp(ours.numpy() @ direction, theirs @ direction).pvalue > 1e-3


def test_moons_and_eight_gaussians_are_torchcfms():
    torchcfm = pytest.importorskip("torchcfm.utils")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        np.random.seed(0)  # torchdyn draws from the global generator
        moons, gaussians = torchcfm.sample_moons(4000), torchcfm.sample_8gaussians(4000)
    same_law(Moons().split("test").values, moons.numpy())
    same_law(EightGaussians().split("test").values, gaussians.numpy())


def test_swiss_roll_is_scikit_learns():
    sklearn = pytest.importorskip("sklearn.datasets")
    points, _ = sklearn.make_swiss_roll(10_000, noise=1.0, random_state=0)
    same_law(SwissRoll().split("test").values, points[:, [0, 2]] / 5)


def test_moons_have_the_documented_mean_and_labels():
    train = Moons().split("train")
    error = train.values.std(0) / math.sqrt(len(train))
    assert ((train.values.mean(0) - torch.tensor([0.8, 0.05])).abs() < 4 * error).all()
    upper = train.values[train.labels == 0]
    assert upper[:, 1].min() >= -1 - 1e-6, "the upper moon starts at height 0, scaled to -1"
    assert abs(len(upper) / len(train) - 0.5) < 4 * 0.5 / math.sqrt(len(train))


def test_checkerboard_is_uniform_on_its_dark_fields():
    points = Checkerboard().split("train").values
    fields = (points / 2).floor().long()
    assert points.abs().max() <= 4
    assert (fields.sum(1) % 2 == 0).all()
    counts = torch.unique(fields, dim=0, return_counts=True)[1].double()
    expected = len(points) / 8
    assert len(counts) == 8
    assert ((counts - expected).square() / expected).sum() < 24.3  # chi-square of 7 degrees, p = 0.001
    inside = (points / 2 - fields).flatten().numpy()
    assert ks_2samp(inside, np.linspace(0, 1, 20_001)).pvalue > 1e-3


def test_eight_gaussians_labels_are_angles_and_the_mixture_is_exact():
    dataset = EightGaussians()
    train = dataset.split("train")
    angle = torch.atan2(train.values[:, 1], train.values[:, 0])
    turn = (angle - train.labels * math.pi / 4 + math.pi) % (2 * math.pi) - math.pi
    assert turn.abs().max() < math.pi / 4
    radius = torch.stack([train.values[train.labels == k].mean(0) for k in range(8)]).norm(dim=1)
    torch.testing.assert_close(radius, torch.full((8,), 5.0), atol=0.04, rtol=0)
    assert dataset.spec.std == pytest.approx(math.sqrt(dataset.mixture.variance), rel=0.01)


# ---- mixtures --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("covariances", "expected"),
    [
        (0.25, [[[0.25, 0], [0, 0.25]]] * 3),
        ([1.0, [1.0, 2.0], [[2.0, 1.0], [1.0, 2.0]]], [[[1, 0], [0, 1]], [[1, 0], [0, 2]], [[2, 1], [1, 2]]]),
    ],
)
@pytest.mark.parametrize("wrap", [lambda value: value, OmegaConf.create], ids=["lists", "omegaconf"])
def test_covariances_are_numbers_diagonals_or_matrices(covariances, expected, wrap):
    given = wrap(covariances) if isinstance(covariances, list) else covariances
    dataset = Mixture(means=wrap([[0, 0], [1, 1], [2, 3]]), covariances=given, weights=wrap([1, 1, 2]))
    assert dataset.mixture.covariances.tolist() == expected
    assert dataset.mixture.weights.tolist() == [0.25, 0.25, 0.5]


def test_one_gaussian_has_no_labels():
    dataset = Mixture(means=[[0, 0, 0]], covariances=0.25, n_test=4)
    assert dataset.split("test").labels is None
    assert dataset.spec.shape == (3,)
    assert dataset.spec.num_classes == 0
    assert dataset.spec.std == pytest.approx(0.5, rel=0.02)


def test_labels_are_the_components():
    dataset = Mixture(means=[[-50, 0], [50, 0]], n_train=200)
    train = dataset.split("train")
    assert torch.equal(train.labels, (train.values[:, 0] > 0).long())


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"means": [[0, 0], [1]]}, "equal length"),
        ({"means": [0, 0]}, "lists of numbers"),
        ({"means": []}, "lists of numbers"),
        ({"means": [["a", 0]]}, "equal length"),
        ({"means": [[0, 0]], "covariances": [1, 1]}, "2 covariances for 1 means"),
        ({"means": [[0, 0]], "covariances": [[1, 1, 1]]}, "2x2"),
        ({"means": [[0, 0]], "covariances": -1}, "positive definite"),
        ({"means": [[0, 0]], "weights": [1, 1]}, "weights (K,)"),
        ({"means": [[0, 0], [1, 1]], "weights": [1, -0.5]}, "positive"),
        ({"means": [[0, 0]], "n_train": 0}, "n_train=0"),
    ],
)
def test_a_wrong_mixture_is_refused_at_once(options, words):
    with pytest.raises(UserError) as error:
        Mixture(**options)
    assert words in one_line(error)

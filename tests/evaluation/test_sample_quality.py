"""The figures of quality against closed forms, brute force, another library, and their own spread over fresh draws."""

import math
from fractions import Fraction
from itertools import product

import numpy as np
import pytest
import torch
from scipy.linalg import sqrtm
from torch import Tensor

from dfm.basics.errors import UserError
from dfm.evaluation.sample_quality import (
    frechet_distance,
    frechet_spread,
    kernel_distance,
    precision_and_recall,
    quality,
)


def normal(n: int, d: int, seed: int, mean: float = 0.0, mix: Tensor | None = None) -> Tensor:
    """n points of N(mean, mix mix^T)."""
    z = torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return mean + (z if mix is None else z @ mix.T)


# ---- Fréchet distance ------------------------------------------------------------------------------------------------


def test_the_frechet_distance_of_gaussians_is_the_closed_form() -> None:
    """|m1 - m2|^2 + tr(S1 + S2 - 2 (S1 S2)^(1/2)), the root by scipy, for covariances that do not commute."""
    a = torch.tensor([[1.0, 0.5, 0.0], [0.0, 1.0, 0.3], [0.0, 0.0, 0.5]], dtype=torch.float64)
    b = torch.tensor([[0.7, 0.0, 0.0], [-0.6, 1.2, 0.0], [0.2, 0.1, 1.0]], dtype=torch.float64)
    s, t = (a @ a.T).numpy(), (b @ b.T).numpy()
    exact = 3 * 0.25 + np.trace(s + t - 2 * sqrtm(s @ t).real)
    found = frechet_distance(normal(200_000, 3, 1, mix=a), normal(200_000, 3, 2, mean=0.5, mix=b))
    assert found == pytest.approx(exact, rel=0.01)
    assert frechet_distance(normal(200_000, 1, 1), normal(200_000, 1, 2, mean=1.0)) == pytest.approx(1, rel=0.02)


def test_the_frechet_distance_of_equal_laws_falls_as_one_over_n() -> None:
    means = [
        np.mean([frechet_distance(normal(n, 8, 2 * k), normal(n, 8, 2 * k + 1)) for k in range(20)])
        for n in (100, 400, 1600)
    ]
    assert means[0] / means[1] == pytest.approx(4, rel=0.3)
    assert means[1] / means[2] == pytest.approx(4, rel=0.3)
    assert frechet_distance(*2 * [normal(50, 8, 0)]) == pytest.approx(0, abs=1e-9)


def test_the_bootstrap_error_is_the_spread_over_fresh_draws() -> None:
    pairs = [(normal(400, 4, 2 * k), normal(600, 4, 2 * k + 1, mean=0.3)) for k in range(60)]
    spread = np.std([frechet_distance(x, y) for x, y in pairs])
    stated = np.mean([frechet_spread(x, y) for x, y in pairs[:10]])
    assert stated == pytest.approx(spread, rel=0.3)
    assert frechet_spread(*pairs[0]) == frechet_spread(*pairs[0]), "the same for the same seed"
    assert frechet_spread(*pairs[0], seed=1) != frechet_spread(*pairs[0])


# ---- kernel distance -------------------------------------------------------------------------------------------------


def brute_kernel(x: Tensor, y: Tensor) -> float:
    """The three means of the definition, pair by pair."""

    def k(u: Tensor, v: Tensor) -> float:
        return (float(u @ v) / len(u) + 1) ** 3

    within = [np.mean([k(a, b) for i, a in enumerate(z) for j, b in enumerate(z) if i != j]) for z in (x, y)]
    return float(sum(within) - 2 * np.mean([k(a, b) for a, b in product(x, y)]))


def test_the_kernel_distance_is_the_double_sum_and_its_error_the_jackknife() -> None:
    x, y = normal(7, 3, 0), normal(9, 3, 1, mean=0.5)
    value, stderr = kernel_distance(x, y)
    assert value == pytest.approx(brute_kernel(x, y), rel=1e-12)
    rows = [
        np.array([brute_kernel(torch.cat([x[:i], x[i + 1 :]]), y) for i in range(7)]),
        np.array([brute_kernel(x, torch.cat([y[:j], y[j + 1 :]])) for j in range(9)]),
    ]
    assert stderr == pytest.approx(math.sqrt(sum((len(r) - 1) * r.var() for r in rows)), rel=1e-10)


def test_the_kernel_distance_is_that_of_torch_fidelity() -> None:
    """Whose mean over subsets is ours where the one subset is all of both sets."""
    from torch_fidelity.metric_kid import KEY_METRIC_KID_MEAN, kid_features_to_metric

    x, y = normal(120, 6, 0), normal(120, 6, 1, mean=0.4)
    theirs = kid_features_to_metric(x, y, kid_subsets=1, kid_subset_size=120, verbose=False)[KEY_METRIC_KID_MEAN]
    assert kernel_distance(x, y)[0] == pytest.approx(theirs, rel=1e-10)


def test_the_kernel_distance_of_equal_laws_scatters_about_zero() -> None:
    found = [kernel_distance(normal(60, 4, 2 * k), normal(90, 4, 2 * k + 1)) for k in range(200)]
    values = np.array([value for value, _ in found])
    assert abs(values.mean()) < 3 * values.std() / math.sqrt(len(values))
    assert 0.3 < (values > 0).mean() < 0.7
    assert 1 < np.mean([stderr for _, stderr in found]) / values.std() < 2, "too large where the laws are equal"


def test_the_kernel_error_is_the_spread_over_fresh_draws() -> None:
    found = [kernel_distance(normal(300, 4, 2 * k), normal(500, 4, 2 * k + 1, mean=0.5)) for k in range(100)]
    values, errors = np.array(found).T
    assert errors.mean() == pytest.approx(values.std(), rel=0.25)


def test_blocks_of_rows_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = normal(50, 4, 0), normal(70, 4, 1, mean=0.2)
    before = quality(x, y)
    monkeypatch.setattr("dfm.evaluation.sample_quality.BLOCK", 16)
    for name, value in vars(quality(x, y)).items():
        assert value == pytest.approx(vars(before)[name], rel=1e-10), name


# ---- precision and recall --------------------------------------------------------------------------------------------


def inside(points: np.ndarray, manifold: np.ndarray, k: int) -> float:
    """The share of points within the radius of some point of the manifold, by loops."""
    radii = [sorted(np.linalg.norm(m - other) for other in manifold)[k] for m in manifold]
    return float(
        np.mean([any(np.linalg.norm(p - m) <= r for m, r in zip(manifold, radii, strict=True)) for p in points])
    )


@pytest.mark.parametrize("k", [1, 3, 5])
def test_precision_and_recall_are_the_definition(k: int) -> None:
    x, y = normal(40, 2, 0, mean=0.8), normal(55, 2, 1)
    precision, recall = precision_and_recall(x, y, k)
    assert precision == pytest.approx(inside(x.numpy(), y.numpy(), k), abs=1e-6)
    assert recall == pytest.approx(inside(y.numpy(), x.numpy(), k), abs=1e-6)
    assert precision != recall


def test_one_mode_of_two() -> None:
    """Samples in one of two modes look real and miss half; the other way round, half of them look real."""
    two = torch.cat([normal(200, 3, 0, mean=-20), normal(200, 3, 1, mean=20)])
    one = normal(400, 3, 2, mean=20)
    assert precision_and_recall(one, two) == (pytest.approx(1, abs=0.1), pytest.approx(0.5, abs=0.05))
    assert precision_and_recall(two, one) == (pytest.approx(0.5, abs=0.05), pytest.approx(1, abs=0.1))


# ---- all together ----------------------------------------------------------------------------------------------------


def test_the_figures_do_not_depend_on_the_order_of_the_rows() -> None:
    x, y = normal(80, 5, 0), normal(90, 5, 1, mean=0.3)
    first, second = vars(quality(x, y)), vars(quality(x.flip(0), y[torch.randperm(90)]))
    for name in ("frechet", "kernel", "kernel_stderr", "precision", "recall"):
        assert second[name] == pytest.approx(first[name], rel=1e-9), name
    assert (first["num_samples"], first["num_references"]) == (80, 90)


def test_nothing_is_printed_and_no_global_seed_is_touched(capfd: pytest.CaptureFixture[str]) -> None:
    before = torch.random.get_rng_state(), np.random.get_state()[1].copy()  # type: ignore[index]
    quality(normal(20, 2, 0), normal(20, 2, 1))
    assert capfd.readouterr() == ("", "")
    assert torch.equal(before[0], torch.random.get_rng_state())
    assert np.array_equal(before[1], np.random.get_state()[1])  # type: ignore[index]


@pytest.mark.parametrize(
    ("x", "y", "says"),
    [
        (torch.zeros(3, 2), torch.zeros(9, 2), "at least 4 of each"),
        (torch.zeros(9, 2), torch.zeros(0, 2), "at least 4 of each"),
        (torch.zeros(9, 2), torch.zeros(9, 3), "shapes"),
        (torch.zeros(9, 2), torch.zeros(9), "shapes"),
        (torch.full((9, 2), math.nan), torch.zeros(9, 2), "features of the samples are not all finite"),
        (torch.zeros(9, 2), torch.full((9, 2), math.inf), "features of the references are not all finite"),
    ],
)
def test_what_cannot_be_compared_is_refused(x: Tensor, y: Tensor, says: str) -> None:
    with pytest.raises(UserError, match=says) as error:
        quality(x, y)
    assert "\n" not in str(error.value)


def test_no_neighbours_is_refused() -> None:
    with pytest.raises(UserError, match="neighbours=0"):
        quality(torch.zeros(9, 2), torch.zeros(9, 2), neighbours=0)


# ---- far from the origin ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shift", [1e6, -1e8])
def test_the_kernel_distance_keeps_its_digits_far_from_the_origin(shift: float) -> None:
    """Against the definition in exact fractions: every float64 is one, and so is the kernel of two rows."""
    x, y = normal(5, 2, 0) + shift, normal(6, 2, 1, mean=0.5) + shift
    rows = [[[Fraction(v) for v in row] for row in z.tolist()] for z in (x, y)]

    def mean(pairs: list[tuple[list[Fraction], list[Fraction]]]) -> Fraction:
        kernels = [(sum((a * b for a, b in zip(u, v, strict=True)), Fraction()) / 2 + 1) ** 3 for u, v in pairs]
        return sum(kernels, Fraction()) / len(kernels)

    own = [mean([(u, v) for i, u in enumerate(z) for j, v in enumerate(z) if i != j]) for z in rows]
    exact = sum(own, Fraction()) - 2 * mean(list(product(*rows)))
    assert kernel_distance(x, y)[0] == pytest.approx(float(exact), rel=1e-9)


@pytest.mark.parametrize("shift", [1e6, -1e8])
def test_the_other_measures_do_not_depend_on_the_place(shift: float) -> None:
    """The points far away, rounded to their last digit there, and the same points moved back."""
    x, y = normal(60, 3, 0) + shift, normal(80, 3, 1, mean=0.8) + shift
    assert precision_and_recall(x, y) == precision_and_recall(x - shift, y - shift)
    assert frechet_distance(x, y) == pytest.approx(frechet_distance(x - shift, y - shift), rel=1e-6)


def test_two_far_modes_are_two_manifolds() -> None:
    """Their middle is the centre of nothing: the radii within a mode must keep their digits."""
    near = [normal(60, 3, k, mean=0.8 * (k % 2)) for k in range(4)]
    x, y = (torch.cat([near[k] + 1e8, near[k + 2] - 1e8]) for k in (0, 1))
    rounded = [(torch.cat([z[:60] - 1e8 + 50, z[60:] + 1e8 - 50])) for z in (x, y)]
    assert precision_and_recall(x, y) == precision_and_recall(rounded[0], rounded[1])


def test_precision_and_recall_are_those_of_torch_fidelity() -> None:
    from torch_fidelity.metric_prc import prc_features_to_metric

    x, y = normal(150, 5, 0, mean=0.5), normal(120, 5, 1)
    theirs = prc_features_to_metric(
        x, y, prc_neighborhood=3, prc_batch_size=1000, save_cpu_ram=True, verbose=False
    )  # float32 shares
    assert precision_and_recall(x, y) == pytest.approx((theirs["precision"], theirs["recall"]), abs=1e-6)

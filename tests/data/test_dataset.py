"""Data sets in general: every preset, moments in closed form, and what is refused."""

import dataclasses
import math

import pytest
import torch
from hydra.utils import get_class, instantiate
from omegaconf import OmegaConf
from support import ROOT
from support.image_files import (
    one_line,
    write_everything,
)

from dfm.basics.errors import UserError
from dfm.data.dataset import SPLITS, Dataset, DatasetSpec, Split
from dfm.data.numbers.units import moments, scale_levels
from dfm.data.published.digits import Digits

PRESETS = sorted((ROOT / "configs" / "dataset").glob("*.yaml"))


# ---- presets ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("preset", "overrides", "shape", "levels", "num_classes", "flip"),
    [
        ("digits", {}, (1, 8, 8), 17, 10, False),
        ("mnist", {"validation": 5}, (1, 28, 28), 256, 10, False),
        ("fashion_mnist", {"validation": 5}, (1, 28, 28), 256, 10, False),
        ("cifar10", {"validation": 5}, (3, 32, 32), 256, 10, True),
        ("folder", {"path": "pictures", "validation": 0, "test": 0}, (3, 32, 32), 256, 1, False),
        ("array", {"path": "points.npy"}, (3,), None, 0, False),
        ("hf", {"path": "pictures", "validation": 0, "test": 0}, (3, 32, 32), 256, 0, False),
        ("webdataset", {"path": "shards", "validation": 0, "test": 0}, (3, 32, 32), 256, 3, False),
        ("moons", {}, (2,), None, 2, False),
        ("checkerboard", {}, (2,), None, 0, False),
        ("eight_gaussians", {}, (2,), None, 8, False),
        ("swiss_roll", {}, (2,), None, 0, False),
        ("mixture", {}, (2,), None, 3, False),
        ("table", {}, (4,), None, 3, False),
        ("signals", {}, (2, 64), None, 2, False),
        ("volumes", {}, (1, 12, 12, 12), None, 0, False),
    ],
)
def test_preset(preset, overrides, shape, levels, num_classes, flip, tmp_path, monkeypatch):
    if preset == "hf":
        pytest.importorskip("datasets")
    write_everything(tmp_path)
    monkeypatch.setenv("DFM_DATA", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    dataset = instantiate(OmegaConf.merge(OmegaConf.load(ROOT / "configs" / "dataset" / f"{preset}.yaml"), overrides))
    spec = dataset.spec
    assert (spec.name, spec.shape, spec.levels, spec.num_classes) == (preset, shape, levels, num_classes)
    assert dataset.flip is flip
    assert dataset.split("train") is dataset.split("train"), "loaded once"
    for name in SPLITS:
        split = dataset.split(name)
        assert tuple(split.values.shape[1:]) == shape
        assert split.values.dtype == (torch.float32 if levels is None else torch.uint8)
        assert (split.labels is None) == (num_classes == 0)
    plain = dataclasses.asdict(spec).values()
    assert {type(value) for value in plain} <= {str, tuple, int, float, bool, type(None)}, (
        "checkpoints hold plain values only"
    )


def test_every_preset_has_a_row_above():
    rows = test_preset.pytestmark[0].args[1]
    assert [path.stem for path in PRESETS] == sorted(row[0] for row in rows)


MIXTURE = {"means", "covariances", "weights"}
FIELD = {"n_train", "n_validation", "n_test", "sides", "means", "deviations", "correlation", "lengths", "exponents",
         "frequencies", "noise", "kinds"}  # fmt: skip
ILLUSTRATED = {"mixture": MIXTURE, "table": MIXTURE | {"columns", "kinds"}, "signals": FIELD, "volumes": FIELD}


@pytest.mark.parametrize("path", PRESETS, ids=lambda path: path.stem)
def test_preset_states_every_option_and_its_default(path):
    preset = OmegaConf.load(path)
    missing = dataclasses.MISSING
    fields = {
        f.name: f.default if f.default_factory is missing else f.default_factory()
        for f in dataclasses.fields(get_class(preset._target_))
        if f.init
    }
    assert set(preset) - {"_target_"} == set(fields)
    illustrated = {"root", "cache"} | ILLUSTRATED.get(path.stem, set())
    for name in set(fields) - illustrated:
        assert preset[name] == fields[name], name
    assert path.read_text().startswith("# "), "says what it is"


# ---- what all share --------------------------------------------------------------------------------------------------


def test_unknown_split_is_refused_with_the_names():
    with pytest.raises(UserError, match="train, validation"):
        Digits().split("valid")


@pytest.mark.parametrize("levels", [2, 17, 256])
def test_moments_of_images_are_those_of_dequantized_pixels(levels):
    """Brute force: every pixel dequantised many times."""
    generator = torch.Generator().manual_seed(0)
    values = (torch.rand(10, 1, 8, 8, generator=generator).square() * levels).to(torch.uint8)
    u = torch.rand(1000, *values.shape, generator=generator, dtype=torch.float64)
    data = 2 * (values + u) / levels - 1
    mean, std = moments(values, levels)
    squares = (data - mean).square()
    assert abs(data.mean() - mean) < 4 * data.std() / math.sqrt(data.numel())
    assert abs(squares.mean() - std**2) < 4 * squares.std() / math.sqrt(data.numel())
    torch.testing.assert_close(scale_levels(values + u, levels), data)


def test_moments_of_points_average_the_variances_of_coordinates():
    """Coordinates far apart: a plain standard deviation of all numbers would be 50."""
    values = torch.randn(4000, 2, generator=torch.Generator().manual_seed(0)) * torch.tensor([3.0, 4.0])
    mean, std = moments(values + torch.tensor([0.0, 100.0]), None)
    assert mean == pytest.approx(50, abs=0.2)
    assert std == pytest.approx(math.sqrt((9 + 16) / 2), rel=0.03)


class Given(Dataset):
    """A user's own data set, possibly wrong."""

    name, levels, num_classes = "given", 4, 2

    def __init__(self, values: torch.Tensor, labels: torch.Tensor | None) -> None:
        self.values, self.labels = values, labels

    def _load(self) -> dict[str, Split]:
        return {name: Split(values=self.values, labels=self.labels) for name in SPLITS}


@pytest.mark.parametrize(
    ("values", "labels", "words"),
    [
        (torch.full((1, 1, 2, 2), 4, dtype=torch.uint8), None, "the number 4; allowed: 0 to 3"),
        (torch.zeros(1, 1, 2, 2, dtype=torch.uint8), torch.tensor([2]), "labels 2 to 2; allowed: 0 to 1"),
        (torch.zeros(1, 1, 2, 2, dtype=torch.uint8), torch.tensor([-1]), "labels -1 to -1"),
        (torch.zeros(1, 1, 2, 2, dtype=torch.uint8), torch.tensor([0, 1]), "allowed: int64 (1,)"),
        (torch.zeros(1, 1, 2, 2), None, "allowed: integers with levels"),
        (torch.zeros(1, 2, dtype=torch.bool), None, "allowed: integers or real numbers"),
        (torch.zeros(0, 1, 2, 2, dtype=torch.uint8), None, "no training examples"),
    ],
)
def test_a_wrong_data_set_is_refused(values, labels, words):
    with pytest.raises(UserError) as error:
        _ = Given(values, labels).spec
    assert words in one_line(error)


def test_a_constant_data_set_is_refused():
    with pytest.raises(UserError, match="std above 0"):
        DatasetSpec(name="flat", shape=(2,), levels=None, num_classes=0, mean=1.0, std=0.0)


@pytest.mark.parametrize(("numbers", "told"), [([2, 2, 2], True), ([2, 2, 1], False)])
def test_one_level_only_is_told(numbers, told):
    values = torch.tensor(numbers, dtype=torch.uint8)[:, None, None, None].expand(-1, 1, 2, 2)
    lines = Given(values, None).all_notices
    assert [
        line.startswith("dataset given: all numbers of all training examples are 2, one of 4") for line in lines
    ] == ([True] if told else [])

"""Numbers of any type: one pass of statistics, levels and rows of a file, scaling, and the form of stored samples."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from dfm.basics.errors import UserError
from dfm.data import split as split_module
from dfm.data.dataset import SPLITS, Dataset, DatasetSpec, Split
from dfm.data.numbers.statistics import statistics
from dfm.data.numbers.stored_form import as_data, from_array, stored, to_array, to_stored
from dfm.data.numbers.units import from_model, log_volume, to_model

RANDOM = np.random.default_rng(3)


class Given(Dataset):
    """A data set of one array."""

    name, num_classes = "given", 0

    def __init__(self, array: np.ndarray, levels: int | None, normalize: str = "none", lowest: int = 0) -> None:
        self.array, self.levels, self.normalize, self.lowest = array, levels, normalize, lowest

    def _load(self) -> dict[str, Split]:
        values = torch.from_numpy(self.array)
        return {name: Split(values=values, labels=None, lowest=self.lowest) for name in SPLITS}


@pytest.mark.parametrize("block", [1, 7, 10**6])
@pytest.mark.parametrize("shape", [(20, 3), (20, 3, 5), (20, 2, 3, 4), (9, 2, 2, 3, 2)])
def test_statistics_are_those_of_the_whole_array(block: int, shape: tuple[int, ...], monkeypatch) -> None:
    """For blocks of any size, far from zero, against NumPy on the whole array."""
    monkeypatch.setattr(split_module, "BLOCK", block)
    array = RANDOM.normal(1e6, 2.0, shape)
    found = statistics(Split(values=torch.from_numpy(array), labels=None), "x", None)
    axes = (0, *range(2, len(shape)))
    for ours, theirs in [(found.mean, array.mean(axes)), (found.variance, array.var(axes)),
                         (found.low, array.min(axes)), (found.high, array.max(axes))]:  # fmt: skip
        np.testing.assert_allclose(ours.numpy(), theirs, rtol=1e-9)  # E[x^2] - E[x]^2 would be wrong by 1e-4
    assert found.count == array[:, 0].size


@pytest.mark.parametrize("block", [1, 10**6])
def test_rows_that_are_not_finite_are_named(block: int, monkeypatch) -> None:
    monkeypatch.setattr(split_module, "BLOCK", block)
    array = np.zeros((40, 2), np.float32)
    array[[3, 5, 7, 9, 11, 13, 30], 1] = [np.nan, np.inf, -np.inf, np.nan, np.nan, np.nan, np.nan]
    rows = np.arange(39, -1, -1)
    with pytest.raises(UserError, match=r"NaN or infinity in row 3, 5, 7, 9, 11 and 2 more; allowed: finite"):
        statistics(Split(values=torch.from_numpy(array), labels=None), "x", None)
    with pytest.raises(UserError, match=r"in row 30, 13, 11, 9, 7 and 2 more"):
        statistics(Split(values=torch.from_numpy(array), labels=None, rows=rows), "x", None)


@pytest.mark.parametrize("dtype", [np.uint8, np.int8, np.uint16, np.int16, np.int32, np.int64])
def test_integers_of_any_type_become_levels_and_come_back(dtype: type, tmp_path: Path) -> None:
    """The level is the number less the lowest; moments are those of dequantised numbers; samples have type and unit."""
    info = np.iinfo(dtype)
    lowest, levels = max(info.min, -300), 200 if info.max < 300 else 60_000
    array = RANDOM.integers(lowest, min(lowest + levels, int(info.max) + 1), (50, 3, 4)).astype(dtype)
    np.save(tmp_path / "x.npy", array)
    mapped = np.load(tmp_path / "x.npy", mmap_mode="c")
    data = Given(mapped, levels, lowest=lowest)
    data.dtype = np.dtype(dtype).name
    split, spec = data.split("train"), data.spec
    np.testing.assert_array_equal(split.all().numpy().astype(int), array.astype(int) - lowest)
    u = RANDOM.random((400, *array.shape))
    seen = 2 * (array.astype(float) - lowest + u) / levels - 1
    assert spec.mean == pytest.approx(seen.mean(), abs=1e-3)
    assert spec.std == pytest.approx(seen.std(), rel=1e-3)
    drawn = torch.from_numpy(seen[0])
    again = to_array(stored(drawn, spec), spec)
    assert again.dtype == array.dtype
    np.testing.assert_array_equal(again, array)
    np.testing.assert_array_equal(from_array(again, spec).numpy(), split.all().numpy())


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_real_numbers_of_any_type_come_back(dtype: type) -> None:
    array = (
        RANDOM.normal(size=(30, 3, 4))
        * [
            [[2.0]],
        ]
        + [[[5.0], [-7.0], [0.0]]]
    ).astype(dtype)
    data = Given(array, None, "channel")
    data.dtype, data.channels_last = np.dtype(dtype).name, True
    spec, values = data.spec, data.split("train").all()
    seen = to_model(values, spec)
    assert seen.dtype == (torch.float64 if dtype == np.float64 else torch.float32)
    np.testing.assert_allclose(seen.double().mean((0, 2)), 0, atol=1e-6)
    np.testing.assert_allclose(seen.double().std((0, 2), correction=0), 1, rtol=1e-6)
    back = to_array(to_stored(as_data(from_model(seen, spec) * 0 + seen, spec), spec), spec)
    assert back.dtype == array.dtype
    assert back.shape == (30, 4, 3), "channels last, as in the user's array"
    tolerance = 4 * np.finfo(dtype).eps if dtype == np.float16 else 1e-6
    np.testing.assert_allclose(back, np.moveaxis(array, 1, -1), rtol=tolerance, atol=1e-5)


@pytest.mark.parametrize("normalize", ["channel", "all", "none"])
def test_the_volume_is_that_of_the_scaling(normalize: str) -> None:
    """log |d data/d value|, by the derivative of the scaling itself."""
    array = (
        RANDOM.normal(
            3.0,
            [
                [[0.5]],
            ],
            (50, 2, 3),
        )
        * np.array([1.0, 40.0])[None, :, None]
    )
    spec = Given(array, None, normalize).spec
    x = torch.from_numpy(array[0])
    ends = [from_model(x + h, spec).double() for h in (0.5, -0.5)]
    assert log_volume(spec) == pytest.approx(float((ends[0] - ends[1]).log().sum()), abs=1e-12)
    assert (normalize == "none") == (log_volume(spec) == 0)


def test_a_date_in_seconds_keeps_its_digits() -> None:
    """Nine digits stand before the one that matters: the difference is taken before numbers become float32."""
    array = (1.7e9 + np.arange(100.0))[:, None]
    seen = to_model(torch.from_numpy(array), Given(array, None, "channel").spec)
    np.testing.assert_allclose(np.diff(seen[:, 0].numpy()), 1 / array.std(), rtol=1e-3)


def test_auto_scales_columns_that_are_unlike() -> None:
    alike = RANDOM.normal(size=(200, 2)) * [1.0, 3.0]
    assert Given(alike, None, "auto").spec.scale == ()
    unlike = alike * [1.0, 1000.0]
    np.testing.assert_allclose(Given(unlike, None, "auto").spec.scale, unlike.std(0))
    with pytest.raises(UserError, match=r"column 1 has one value only \(4\)"):
        _ = Given(np.stack([unlike[:, 0], np.full(200, 4.0)], 1), None, "channel").spec


def test_rows_of_a_file_are_taken_without_a_copy_of_it() -> None:
    array = np.arange(60, dtype=np.uint16).reshape(20, 3)
    rows = np.array([7, 3, 19])
    split = Split(values=torch.from_numpy(array), labels=torch.tensor([0, 1, 2]), rows=rows, lowest=0)
    assert len(split) == 3
    np.testing.assert_array_equal(split.take([2, 0]).numpy(), array[[19, 7]])
    part = split.part([2, 1])
    np.testing.assert_array_equal(part.all().numpy(), array[[19, 3]])
    assert part.labels is not None
    assert part.labels.tolist() == [2, 1]
    assert part.values.data_ptr() == split.values.data_ptr()
    np.testing.assert_array_equal(split.part(slice(1, 3)).all().numpy(), array[[3, 19]])
    assert len(split.take([])) == 0


def test_bits_of_sixteen_bit_data_are_those_of_uniform_noise() -> None:
    """A density that is 1/2 on [-1, 1] costs log2(K) bits/dim."""
    spec = DatasetSpec(name="x", shape=(2, 3), levels=65_536, num_classes=0, mean=0.0, std=0.6)
    from dfm.data.numbers.dequantization import UniformDequantization
    from dfm.data.numbers.pixel_levels import unit_of

    values = torch.from_numpy(RANDOM.integers(0, 65_536, (4, 2, 3)).astype(np.int32))
    u = torch.from_numpy(RANDOM.random((4, 2, 3)))
    data, log_q = UniformDequantization().draw(values, 65_536, u, 0.0)
    assert float(data.abs().max()) < 1
    nats = -(6 * math.log(1 / 2) - log_q)
    assert unit_of(spec).of(float(nats[0])) == pytest.approx(16.0)

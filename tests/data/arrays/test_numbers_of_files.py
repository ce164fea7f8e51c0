"""Types, levels and layouts of arrays: what a model is given, and what comes back."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from dfm.basics.errors import UserError
from dfm.data import ArrayFile
from dfm.data.arrays.array_file import ArrayFile as Same
from dfm.data.numbers.dequantization import UniformDequantization
from dfm.data.numbers.pixel_levels import unit_of
from dfm.data.numbers.stored_form import from_array, stored, to_array, to_stored
from dfm.data.numbers.units import to_model

RANDOM = np.random.default_rng(8)


def data_of(array: np.ndarray, folder: Path, **keys: Any) -> ArrayFile:
    np.save(folder / "x.npy", array)
    return ArrayFile(path=str(folder / "x.npy"), **{"validation": 0, "test": 0, **keys})


def test_the_class_has_one_home() -> None:
    assert Same is ArrayFile


@pytest.mark.parametrize(
    ("dtype", "low", "high", "levels", "lowest"),
    [
        ("uint8", 0, 255, 256, 0),
        ("uint8", 3, 16, 32, 0),
        ("uint8", 0, 1, 2, 0),
        ("bool", 0, 1, 2, 0),
        ("uint16", 90, 4000, 4096, 0),
        ("uint16", 0, 65_535, 65_536, 0),
        ("uint32", 5, 1000, 1024, 0),
        ("uint64", 0, 7, 8, 0),
        ("int8", -128, 127, 256, -128),
        ("int16", -1024, 3071, 4096, -1024),
        ("int16", -32_768, 32_767, 65_536, -32_768),
        ("int32", 100_000, 100_009, 10, 100_000),
        ("int64", 0, 9, 10, 0),
    ],
)
def test_whole_numbers_have_levels_and_come_back(
    dtype: str, low: int, high: int, levels: int, lowest: int, tmp_path: Path
) -> None:
    """Samples that lie in the cell of a number are that number again, in its own type."""
    array = RANDOM.integers(low, high + 1, (30, 2, 5)).astype(dtype)
    array[0, 0, :2] = low, high
    data = data_of(array, tmp_path, layout="channels_first")
    spec = data.spec
    assert (spec.levels, spec.lowest, spec.dtype) == (levels, lowest, dtype)
    examples = data.split("train").all()
    np.testing.assert_array_equal(examples.numpy().astype(np.int64) + lowest, array.astype(np.int64))
    cell = 2 * (examples.double() + torch.rand(examples.shape, dtype=torch.float64)) / levels - 1
    again = to_array(stored(cell, spec), spec)
    assert again.dtype == array.dtype
    np.testing.assert_array_equal(again, array)
    np.testing.assert_array_equal(from_array(array, spec).numpy(), examples.numpy())


@pytest.mark.parametrize(("dtype", "high"), [("uint8", 6), ("uint16", 40_000), ("int16", 999)])
def test_bits_are_those_of_the_closed_form(dtype: str, high: int, tmp_path: Path) -> None:
    """A law that is uniform on [-1, 1) has log2 K bits/dim; one that is uniform on half of it one bit less."""
    array = RANDOM.integers(0, high, (6, 3, 4)).astype(dtype)
    array.flat[:2] = 0, high - 1
    data = data_of(array, tmp_path, levels=high)
    spec = data.spec
    values = data.split("train").all()
    u = torch.rand(values.shape, dtype=torch.float64)
    x, log_q = UniformDequantization().draw(values, high, u, 0.0)
    for width in (2.0, 1.0):
        log_p = torch.full((6,), -12 * math.log(width), dtype=torch.float64)
        bits = [unit_of(spec).of(float(nats)) for nats in log_q - log_p]
        assert bits == pytest.approx([math.log2(high) - (width == 1.0)] * 6)
    assert float(x.min()) >= -1
    assert float(x.max()) < 1


@pytest.mark.parametrize("dtype", ["uint8", "int16", "uint16", "int32", "int64"])
def test_whole_numbers_as_real_ones(dtype: str, tmp_path: Path) -> None:
    array = RANDOM.integers(0, 100, (40, 3)).astype(dtype)
    data = data_of(array, tmp_path, integers="real", test=0.3)
    spec, wide = data.spec, dtype in ("int32", "int64")
    assert (spec.levels, spec.dtype) == (None, "float64" if wide else "float32")
    values = data.split("train").all()
    assert values.dtype == (torch.float64 if wide else torch.float32)
    kept = data.split("train").rows
    np.testing.assert_array_equal(values.numpy(), array[kept])
    np.testing.assert_allclose(to_model(values, spec).double().std(0, correction=0), 1, rtol=1e-5)


def test_more_levels_than_there_may_be_are_real_numbers(tmp_path: Path) -> None:
    array = RANDOM.integers(-(2**40), 2**40, (40, 3))
    with pytest.raises(UserError, match=r"whole numbers from -\d+ to \d+, \d+ levels; allowed: 2 to 65536; try data"):
        _ = data_of(array, tmp_path).spec
    assert data_of(array, tmp_path, integers="real").spec.scale[0] > 2**38
    with pytest.raises(UserError, match=r"the number 4294967295 of uint32; allowed: the range of signed ones"):
        _ = data_of(np.array([[0], [2**32 - 1]], np.uint32), tmp_path).spec
    with pytest.raises(UserError, match=r"the number 4294967295 of uint32; allowed: the range of signed ones"):
        _ = data_of(np.array([[0], [2**32 - 1]], np.uint32), tmp_path, integers="real").spec


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({"levels": 200}, r"dataset.levels=200: .* the number 249; allowed: 0 to 199; try dataset.levels=250"),
        ({"levels": 70_000}, r"dataset.levels=70000; allowed: 2 to 65536; try dataset.integers=real"),
        ({"lowest": 5}, r"dataset.lowest=5: .* holds the number 0; allowed: at most 0"),
    ],
)
def test_levels_that_do_not_hold_the_data_are_refused(keys: dict[str, int], words: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=words):
        _ = data_of(np.arange(250, dtype=np.uint8).reshape(25, 10), tmp_path, **keys).spec


def test_levels_and_lowest_as_given(tmp_path: Path) -> None:
    array = RANDOM.integers(-1000, 3000, (9, 4)).astype(np.int16)
    spec = data_of(array, tmp_path, levels=4096, lowest=-1024).spec
    assert (spec.levels, spec.lowest) == (4096, -1024)


def test_other_data_for_a_trained_model_have_its_levels_and_classes(tmp_path: Path) -> None:
    """Fewer numbers and fewer classes than those that it was trained on."""
    np.save(tmp_path / "y.npy", np.array(["b", "a", "c", "c"]))
    first = data_of(np.array([[0], [9], [-20], [1000]], np.int16), tmp_path, labels=str(tmp_path / "y.npy")).spec
    (tmp_path / "new").mkdir()
    np.save(tmp_path / "new" / "y.npy", np.array(["c", "b"]))
    new = data_of(np.array([[3], [40]], np.int16), tmp_path / "new", labels=str(tmp_path / "new" / "y.npy"))
    fits = new.like(first)
    assert fits.split("train").all().tolist() == [[23], [60]]
    assert fits.split("train").labels.tolist() == [2, 1]
    assert fits.spec.form == first.form
    assert new.spec.form != first.form


@pytest.mark.parametrize(
    ("shape", "keys", "expected"),
    [
        ((9,), {}, (1,)),
        ((9, 5), {}, (5,)),
        ((9, 5), {"layout": "no_channels"}, (1, 5)),
        ((9, 2, 50), {}, (2, 50)),
        ((9, 50, 2), {}, (2, 50)),
        ((9, 50, 2), {"layout": "channels_first"}, (50, 2)),
        ((9, 3, 8, 6), {}, (3, 8, 6)),
        ((9, 8, 6, 3), {}, (3, 8, 6)),
        ((9, 8, 6, 7), {"layout": "channels_last"}, (7, 8, 6)),
        ((9, 8, 8), {}, (1, 8, 8)),
        ((9, 8, 6), {"layout": "no_channels"}, (1, 8, 6)),
        ((9, 3, 3), {}, (3, 3)),
        ((9, 5, 5, 5), {}, (1, 5, 5, 5)),
        ((9, 2, 5, 5, 5), {}, (2, 5, 5, 5)),
        ((9, 5, 6, 7, 2), {}, (2, 5, 6, 7)),
    ],
)
def test_any_layout_is_read_and_written_back(
    shape: tuple[int, ...], keys: dict[str, str], expected: tuple[int, ...], tmp_path: Path
) -> None:
    """The header alone gives the shape; samples come back with the user's axes; channels are where they should be."""
    array = RANDOM.normal(size=shape).astype(np.float32)
    data = data_of(array, tmp_path, **keys)
    assert data.shape_of({"path": str(tmp_path / "x.npy"), **keys}) == expected
    spec, values = data.spec, data.split("train").all()
    assert spec.shape == expected
    if expected == (shape[-1], *shape[1:-1]) != shape[1:]:
        np.testing.assert_allclose(spec.shift, array.reshape(-1, shape[-1]).mean(0), atol=1e-6)
    again = to_array(to_stored(values, spec), spec)
    np.testing.assert_array_equal(again, array)
    np.testing.assert_array_equal(from_array(array, spec).numpy(), values.numpy())
    assert bool(data.notices) == (len(shape) > 2 and "layout" not in keys and expected != shape[1:])


def test_channels_last_copies_nothing(tmp_path: Path) -> None:
    data = data_of(RANDOM.normal(size=(9, 8, 6, 3)), tmp_path)
    values = data.split("train").values
    assert values.stride() == (8 * 6 * 3, 1, 6 * 3, 3)
    assert isinstance(values.numpy().base, object)


def test_the_header_alone_gives_the_shape(tmp_path: Path) -> None:
    """A file of which only the header was copied."""
    np.save(tmp_path / "x.npy", np.zeros((1000, 2, 30), np.float32))
    (tmp_path / "head.npy").write_bytes((tmp_path / "x.npy").read_bytes()[:128])
    assert ArrayFile.shape_of({"_target_": "dfm.data.ArrayFile", "path": str(tmp_path / "head.npy")}) == (2, 30)
    assert ArrayFile.shape_of({"path": str(tmp_path / "none.npy")}) is None
    assert ArrayFile.shape_of({"path": None}) is None


def test_nan_is_named_by_the_row_of_the_file(tmp_path: Path) -> None:
    array = RANDOM.normal(size=(300, 2))
    array[[7, 250], 1] = np.nan, np.inf
    data = data_of(array, tmp_path, validation=0.4, test=0.4)
    with pytest.raises(UserError, match=r"NaN or infinity in row (7|250)"):
        data.split("train")

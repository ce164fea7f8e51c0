"""Every kind of file gives the array that was saved in it, mapped where it lies if that can be."""

from pathlib import Path

import numpy as np
import pytest

from dfm.basics.errors import UserError
from dfm.data import memory_map
from dfm.data.arrays.formats import source as source_module
from dfm.data.arrays.formats.open_source import open_source
from dfm.data.rows.natural_order import natural

RANDOM = np.random.default_rng(5)
TYPES = ["u1", "u2", "u4", "u8", "i1", "i2", "i4", "i8", "f2", "f4", "f8", "?"]


def numbers(dtype: str, shape: tuple[int, ...] = (7, 3, 4)) -> np.ndarray:
    return RANDOM.integers(0, 100, shape).astype(dtype)


@pytest.fixture(params=["in memory", "in a file"])
def place(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Where decoded arrays go: small ones into memory, others into a cache file."""
    if request.param == "in a file":
        monkeypatch.setattr(source_module, "SMALL", 0)
        monkeypatch.setattr(memory_map, "BLOCK", 50)
    return request.param


def is_mapped(array: np.ndarray) -> bool:
    while array is not None and not isinstance(array, np.memmap):
        array = array.base
    return array is not None


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("ends", ["<", ">"])
def test_npy_of_any_type_and_order(dtype: str, order: str, ends: str, place: str, tmp_path: Path) -> None:
    array = np.asarray(numbers(ends + dtype if dtype != "?" else dtype), order=order)
    np.save(tmp_path / "x.npy", array)
    source = open_source(tmp_path / "x.npy")
    assert (source.count(), source.example, source.dtype) == (7, (3, 4), array.dtype.newbyteorder("="))
    found = source.array(tmp_path / "cache")
    assert found.dtype.isnative
    np.testing.assert_array_equal(found, array)
    direct = order == "C" and array.dtype.isnative
    assert is_mapped(found) == (direct or place == "in a file")
    assert (tmp_path / "cache").exists() == (not direct and place == "in a file")


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
@pytest.mark.parametrize("dtype", ["u1", ">u2", "f8"])
@pytest.mark.parametrize("order", ["C", "F"])
def test_npz_stored_or_compressed(save, dtype: str, order: str, place: str, tmp_path: Path) -> None:
    array = np.asarray(numbers(dtype), order=order)
    for pad in range(3):  # names of other lengths put the array at other addresses
        path = tmp_path / f"{pad}.npz"
        save(path, **{"y" * (pad + 1): np.arange(7), "x": array})
        found = open_source(path, "x").array(tmp_path / "cache")
        np.testing.assert_array_equal(found, array)
        assert found.flags.aligned
        if save is np.savez and dtype == "u1" and order == "C":
            assert is_mapped(found)
            assert not (tmp_path / "cache").exists(), "bytes lie at every address"


def test_a_decoded_file_is_kept_until_the_file_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(source_module, "SMALL", 0)
    np.savez_compressed(tmp_path / "x.npz", x=numbers("f4"))
    open_source(tmp_path / "x.npz").array(tmp_path / "cache")
    (kept,) = (tmp_path / "cache").glob("array-*.numbers")
    before = kept.stat().st_mtime_ns
    open_source(tmp_path / "x.npz").array(tmp_path / "cache")
    assert kept.stat().st_mtime_ns == before, "read again, not decoded again"
    np.savez_compressed(tmp_path / "x.npz", x=numbers("f4", (9, 2)))
    assert open_source(tmp_path / "x.npz").array(tmp_path / "cache").shape == (9, 2)
    (now,) = (tmp_path / "cache").glob("array-*.numbers")
    assert now != kept, "the old one makes room"


def test_a_folder_of_examples_is_in_natural_order(place: str, tmp_path: Path) -> None:
    arrays = {name: numbers("f4", (2, 5)) for name in ("2.npy", "10.npy", "b/1.npy", "a/3.npy")}
    for name, array in arrays.items():
        (tmp_path / "d" / name).parent.mkdir(parents=True, exist_ok=True)
        np.save(tmp_path / "d" / name, array)
    np.save(tmp_path / "d" / "labels.npy", np.arange(4))
    source = open_source(tmp_path / "d", without=[tmp_path / "d" / "labels.npy"])
    assert source.names == ["2.npy", "10.npy", "a/3.npy", "b/1.npy"]
    np.testing.assert_array_equal(source.array(tmp_path / "c"), np.stack([arrays[name] for name in source.names]))


def test_a_folder_of_pieces_is_one_array(place: str, tmp_path: Path) -> None:
    pieces = [numbers("u2", (n, 3)) for n in (4, 6, 1)]
    for index, piece in enumerate(pieces):
        np.save(tmp_path / f"{index}.npy", piece)
    source = open_source(tmp_path)
    assert source.count() == 11
    np.testing.assert_array_equal(source.array(tmp_path / "c"), np.concatenate(pieces))
    assert "3 files are pieces of one array" in source.notices[0]


def test_files_of_one_shape_may_be_pieces_too(tmp_path: Path) -> None:
    for name in "ab":
        np.save(tmp_path / f"{name}.npy", numbers("f4", (4, 3)))
    assert open_source(tmp_path).array(tmp_path / "c").shape == (2, 4, 3)
    assert open_source(tmp_path, files="pieces").array(tmp_path / "c").shape == (8, 3)


@pytest.mark.parametrize("other", [numbers("f4", (5, 2)), numbers("f8", (2, 5)), numbers("f4", (2, 5, 1))])
def test_files_that_do_not_fit_are_named(other: np.ndarray, tmp_path: Path) -> None:
    """Also those of the same length, whose headers are read with their numbers."""
    np.save(tmp_path / "1.npy", numbers("f4", (2, 5)))
    np.save(tmp_path / "2.npy", other)
    with pytest.raises(UserError, match=r"2.npy has .* and 1.npy \(2, 5\) of float32; allowed: one type, and one"):
        open_source(tmp_path).array(tmp_path / "c")


def test_numbers_in_names_count_as_numbers() -> None:
    assert sorted(["a10", "a9", "b1", "10", "9", "a09", "a"], key=natural) == ["9", "10", "a", "a09", "a9", "a10", "b1"]


@pytest.mark.parametrize("cut", [40, 130, 200])
@pytest.mark.parametrize("name", ["x.npy", "x.npz"])
def test_a_file_that_is_cut_short_is_one_line(name: str, cut: int, tmp_path: Path) -> None:
    path = tmp_path / name
    (np.save if name.endswith("y") else np.savez)(path, numbers("f4"))
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(UserError, match=r"x\.np[yz]"):
        open_source(path).array(tmp_path / "c")
    path.write_bytes(b"")
    with pytest.raises(UserError, match=r"x\.np[yz]"):
        open_source(path)


def test_a_member_whose_numbers_are_broken_is_one_line(tmp_path: Path) -> None:
    np.savez_compressed(tmp_path / "x.npz", x=RANDOM.random((50, 8)))
    data = bytearray((tmp_path / "x.npz").read_bytes())
    data[1500:1600] = bytes(100)
    (tmp_path / "x.npz").write_bytes(data)
    with pytest.raises(UserError, match=r"x.npz cannot be read"):
        open_source(tmp_path / "x.npz").array(tmp_path / "c")


def test_a_header_that_asks_for_more_than_there_is_is_refused(tmp_path: Path) -> None:
    """A member of some bytes that says it holds a terabyte: nothing is allocated."""
    import io
    import zipfile

    stream = io.BytesIO()
    np.lib.format.write_array_header_1_0(stream, {"shape": (10**12, 1), "fortran_order": False, "descr": "<f4"})
    with zipfile.ZipFile(tmp_path / "x.npz", "w") as file:
        file.writestr("x.npy", stream.getvalue())
    (tmp_path / "x.npy").write_bytes(stream.getvalue())
    with pytest.raises(UserError, match="its length is not that of its header"):
        open_source(tmp_path / "x.npz")
    with pytest.raises(UserError, match="is cut short"):
        open_source(tmp_path / "x.npy").array(tmp_path)

"""Every source whose examples are decoded once: what is broken, what is kept, and where it has no room."""

import io
import zipfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image
from support.hub_files import npy, picture, write_parquet, write_shard
from support.image_files import one_line

from dfm.basics.errors import UserError
from dfm.data import HuggingFace, ImageFolder, WebDataset
from dfm.data import memory_map as mapped
from dfm.data.dataset import SPLITS, Dataset
from dfm.data.hubs.arrays import Arrays
from dfm.data.pictures import stock
from dfm.data.pictures.decoder import Decoder
from dfm.data.rows import store

BROKEN = b"x"


def folder(root: Path, files: Sequence[bytes]) -> None:
    root.mkdir(exist_ok=True)
    for k, content in enumerate(files):
        (root / f"{k:02}.png").write_bytes(content)


def zipped(root: Path, files: Sequence[bytes]) -> None:
    with zipfile.ZipFile(root.with_suffix(".zip"), "w") as archive:
        for k, content in enumerate(files):
            archive.writestr(f"{k:02}.png", content)


def parquet(root: Path, files: Sequence[bytes]) -> None:
    datasets = pytest.importorskip("datasets")
    features = datasets.Features({"image": datasets.Image()})
    for old in root.rglob("*.parquet"):
        old.unlink()
    write_parquet(root, {"image": [{"bytes": content, "path": None} for content in files]}, features, "train")


def shard(ending: str) -> Callable[[Path, Sequence[bytes]], None]:
    return lambda root, files: (
        write_shard(root / "0.tar", [(f"{k:02}.{ending}", content) for k, content in enumerate(files)]) and None
    )


def numbers(k: int) -> np.ndarray:
    return np.random.default_rng(k).normal(size=(2, 5)).astype(np.float32)


def pixels(k: int) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(picture(k)))).transpose(2, 0, 1)


class Kind:
    """A kind of source: how it is written, what it is called, and example k as bytes and as numbers."""

    def __init__(self, make: type[Dataset], write: Callable, path: str, kind: str, name: str, **keys: object) -> None:
        self.make, self.write, self.path, self.kind, self.name, self.keys = make, write, path, kind, name, keys
        self.arrays = "shape" in keys
        self.content = (lambda k: npy(numbers(k))) if self.arrays else picture
        self.array = numbers if self.arrays else pixels


SIZE = {"size": [7, 9]}  # their own size: nothing is resized
KINDS = {
    "folder": Kind(ImageFolder, folder, "data", "pictures in", "{:02}.png", **SIZE),
    "zip": Kind(ImageFolder, zipped, "data.zip", "pictures in", "{:02}.png", **SIZE),
    "hf": Kind(HuggingFace, parquet, "data", "examples of", "row {} of train", **SIZE),
    "webdataset": Kind(WebDataset, shard("png"), "data/0.tar", "examples of", "0.tar: {:02}", **SIZE),
    "arrays": Kind(WebDataset, shard("npy"), "data/0.tar", "examples of", "0.tar: {:02}", shape=(2, 5)),
}


class Place:
    """Files of one kind, some of which are broken, and the cache beside them."""

    def __init__(self, kind: Kind, root: Path) -> None:
        self.kind, self.root, self.cache = kind, root, root / "cache"
        self.path = root / kind.path

    def write(self, n: int, broken: Sequence[int] = ()) -> None:
        files = [BROKEN if k in broken else self.kind.content(k) for k in range(n)]
        self.kind.write(self.root / "data", files)

    def data(self, **options: object) -> Dataset:
        options = {"validation": 0, "test": 0, "labels": False, "cache": str(self.cache), **self.kind.keys, **options}
        return self.kind.make(path=str(self.path), **options)

    def found(self, **options: object) -> list[int]:
        """Which examples there are."""
        known = {self.kind.array(k).tobytes(): k for k in range(20)}
        data = self.data(**options)
        return sorted(known[one.numpy().tobytes()] for name in SPLITS for one in data.split(name).all())

    def named(self, rows: Sequence[int]) -> set[str]:
        return {self.kind.name.format(k) for k in rows}

    def kept(self) -> list[str]:
        """The endings of the files of decoded examples, and of anything half-written."""
        known = (".lock", ".txt")
        return sorted(file.suffix for file in self.cache.glob("*") if file.is_file() and file.suffix not in known)


@pytest.fixture(params=KINDS)
def place(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    """No kind of source keeps examples in memory because they are few."""
    monkeypatch.setattr(stock, "MANY", 0)
    return Place(KINDS[request.param], tmp_path)


def names_in(lines: Sequence[str]) -> set[str]:
    return {line.partition(" (")[0] for line in lines}


def test_more_broken_examples_than_are_named_are_all_in_a_file(place: Place) -> None:
    broken = [0, 2, 3, 6, 8]
    place.write(9, broken)
    for _ in range(2):
        with pytest.raises(UserError) as error:
            place.data().split("train")
        (listed,) = place.cache.glob("*.broken.txt")
        assert names_in(listed.read_text("utf-8").splitlines()) == place.named(broken)
        assert len(listed.read_text("utf-8").splitlines()) == len(broken)
        text = one_line(error)
        start = f"dataset {place.kind.make.name}: 5 of 9 {place.kind.kind} {place.path} cannot be used: "
        end = f" and 2 more, all in {listed}; repair or remove them, or try dataset.broken=skip"
        assert text.startswith(start)
        assert text.endswith(end)
        assert sum(f"{name} (" in text for name in place.named(broken)) == 3
        assert place.kept() == [], "no half of a file is left"


def test_few_broken_examples_are_named_without_a_file(place: Place) -> None:
    place.write(5, [1, 4])
    with pytest.raises(UserError) as error:
        place.data().split("train")
    text = one_line(error)
    assert all(f"{name} (" in text for name in place.named([1, 4]))
    assert "more" not in text.partition(";")[0]
    assert not list(place.cache.glob("*.broken.txt"))


def test_broken_examples_are_left_out_and_counted(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = [1, 2, 4, 7]
    place.write(9, broken)
    for _ in range(2):
        assert place.found(broken="skip") == [0, 3, 5, 6, 8]
        (line,) = place.data(broken="skip").notices
        (listed,) = place.cache.glob("*.broken.txt")
        assert f": 4 of 9 {place.kind.kind} " in line
        assert line.endswith(f" and 1 more, all in {listed}; left out (dataset.broken=skip)")
        assert names_in(listed.read_text("utf-8").splitlines()) == place.named(broken)
        assert place.kept() == [".npz", ".values"]
        listed.unlink()
        for form in (Decoder, Arrays):  # the second time from the file
            monkeypatch.setattr(form, "array", None)
    with pytest.raises(UserError, match="4 of 9"):
        place.data(broken="stop").split("train")


def test_what_is_repaired_leaves_nothing_behind(place: Place) -> None:
    place.write(9, [0, 1, 2, 3])
    assert place.found(broken="skip") == [4, 5, 6, 7, 8]
    _ = place.data(broken="skip").notices
    assert len(list(place.cache.glob("*.broken.txt"))) == 1
    (first,) = place.cache.glob("*.values")
    first.with_name(f".{first.stem}.npz.1.tmp").touch()  # as a killed process leaves it
    place.write(10)
    assert place.found() == list(range(10))
    assert place.kept() == [".npz", ".values"]
    assert not first.exists()
    assert not list(place.cache.glob("*.broken.txt"))


@pytest.mark.parametrize("memory", [0, 2**40])
@pytest.mark.parametrize("disk", [0, 2**40, None])
def test_room(place: Place, memory: int, disk: int | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """On the disk (None: nobody may write to it) or, if not there, in half of the free memory."""

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    place.write(6)
    monkeypatch.setattr(store, "free_memory", lambda: memory)
    monkeypatch.setattr(mapped.shutil, "disk_usage", lambda path: SimpleNamespace(free=disk))
    if disk is None:
        monkeypatch.setattr(mapped, "lock", refuse)
    if memory or disk:
        assert place.found() == list(range(6))
        assert place.kept() == ([".npz", ".values"] if disk else [])
        return
    with pytest.raises(UserError) as error:
        place.data().split("train")
    text, reason = one_line(error), "Permission denied" if disk is None else "No space left on device"
    assert f"GiB of decoded examples fit neither half of the free memory nor {place.cache} ({reason}); try " in text
    assert text.endswith("dataset.cache=DIR on a larger disk")
    assert ("try a smaller dataset.size, or " in text) == (not place.kind.arrays)
    assert place.kept() == []


def test_files_that_are_not_whole_are_written_anew(place: Place) -> None:
    place.write(6)
    assert place.found() == list(range(6))
    (values,), (columns,) = place.cache.glob("*.values"), place.cache.glob("*.npz")
    whole = columns.read_bytes()
    for path, content in (
        (columns, None), (columns, b""), (columns, b"no columns"), (columns, whole[: len(whole) // 2]),
        (columns, whole[:-4]), (values, None), (values, b"x" * 7),
    ):  # fmt: skip
        path.unlink()
        if content is not None:
            path.write_bytes(content)
        assert place.found() == list(range(6))
        assert place.kept() == [".npz", ".values"]
        assert columns.read_bytes() == whole


def test_a_place_that_fails_while_it_is_read_is_one_line(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is no lack of room."""
    place.write(6)
    data = place.data()
    source = type(data._store.source)
    values = source.values

    def failing(self: object) -> Iterator[object]:
        yield next(iter(values(self)))
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(source, "values", failing)
    with pytest.raises(UserError, match=r"cannot be read to its end \(Input/output error\); run .* once more") as error:
        data.split("train")
    one_line(error)
    assert place.kept() == []

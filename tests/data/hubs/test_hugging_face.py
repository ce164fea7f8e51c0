"""Hugging Face's library: its pictures, arrays and classes, from local files, and no server that is not asked for."""

import io
import logging
import shutil
import socket
import sys
from collections.abc import Sequence
from itertools import chain
from pathlib import Path

import numpy as np
import pytest
from support.hub_files import picture, picture_parquet, write_parquet
from support.image_files import one_line

from dfm.basics.errors import UserError
from dfm.data import HuggingFace
from dfm.data.dataset import SPLITS
from dfm.data.pictures.decoder import Decoder

datasets = pytest.importorskip("datasets")

PICTURES = {"size": [7, 9]}
EXACT = Decoder(height_width=(7, 9), channels=3)
RANDOM = np.random.default_rng(0)


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("a server was asked")

    monkeypatch.setattr(socket.socket, "connect", refuse)


def local(tmp_path: Path, path: str = "data", **options: object) -> HuggingFace:
    return HuggingFace(path=str(tmp_path / path), cache=str(tmp_path / "cache"), **{**PICTURES, **options})


def numbers_of(dataset: HuggingFace, name: str) -> list[int]:
    """Which of ``picture(k)`` the examples of a split are, in their order."""
    known = {EXACT.decode(io.BytesIO(picture(k)), "").values.tobytes(): k for k in range(99)}
    return [known[image.numpy().tobytes()] for image in dataset.split(name).all()]


def test_pictures_of_parquet_with_splits_and_names_of_classes(tmp_path: Path) -> None:
    picture_parquet(tmp_path / "data", 24)
    picture_parquet(tmp_path / "data", 9, "test", start=30)
    data = local(tmp_path, validation=0.3)
    assert (data.spec.shape, data.spec.levels, data.class_names) == ((3, 7, 9), 256, ("cat", "dog", "emu"))
    found = {name: numbers_of(data, name) for name in SPLITS}
    assert sorted(found["test"]) == list(range(30, 39))
    assert sorted(found["train"] + found["validation"]) == list(range(24))
    assert len(found["validation"]) > 0
    for name in SPLITS:
        assert data.split(name).labels.tolist() == [k % 3 for k in found[name]]


def test_a_folder_of_pictures(tmp_path: Path) -> None:
    """The library's own layout: a split, a class, its pictures."""
    for split, numbers in (("train", range(12)), ("validation", range(12, 18))):
        for k in numbers:
            path = tmp_path / "data" / split / ("cat", "dog")[k % 2] / f"{k}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(picture(k))
    data = local(tmp_path, test=0)
    assert data.class_names == ("cat", "dog")
    assert sorted(numbers_of(data, "train")) == list(range(12))
    assert sorted(numbers_of(data, "validation")) == list(range(12, 18))
    assert data.split("train").labels.tolist() == [k % 2 for k in numbers_of(data, "train")]


@pytest.mark.parametrize("kind", ["uint8", "int8", "uint16", "int64", "float32", "float64", "bool"])
@pytest.mark.parametrize("form", ["array", "list"])
def test_columns_of_arrays_keep_their_type_and_numbers(tmp_path: Path, kind: str, form: str) -> None:
    """The library's own NumPy format makes int64 and float32 of them."""
    shape = (2, 3) if form == "array" else (4,)
    values = (RANDOM.normal(0, 30, (11, *shape)) + (1e-9 if kind == "float64" else 0)).astype(
        kind if kind[0] != "u" else "int16"
    )
    values = np.abs(values).astype(kind) if kind[0] == "u" else values
    feature = datasets.Array2D(shape, kind) if form == "array" else datasets.List(datasets.Value(kind), length=shape[0])
    write_parquet(tmp_path / "data", {"x": values.tolist()}, datasets.Features({"x": feature}), "train")
    data = local(tmp_path, shape=shape, validation=0, test=0)
    split = data.split("train")
    assert data.spec.dtype == ("uint8" if kind == "bool" else kind)
    found = split.values[split.rows].numpy()
    rows = [int(np.flatnonzero((values == row).reshape(11, -1).all(1))[0]) for row in found]
    assert sorted(set(rows)) == list(range(11)) or kind == "bool"
    assert found.dtype.name == data.spec.dtype
    if kind == "bool":
        assert data.spec.levels == 2


def test_several_columns_are_points_in_their_unit(tmp_path: Path) -> None:
    table = {"height": [1.5, 1.7, 1.9], "weight": [50, 70, 90], "name": ["a", "b", "a"]}
    value = datasets.Value
    features = datasets.Features({"height": value("float32"), "weight": value("int32"), "name": value("string")})
    write_parquet(tmp_path / "data", table, features, "train")
    options = {"column": ["weight", "height"], "labels": "name", "validation": 0, "test": 0}
    assert HuggingFace.shape_of(options) == (2,)
    data = local(tmp_path, **options)
    assert (data.spec.levels, data.spec.shape, data.class_names) == (None, (2,), ("a", "b"))
    assert data.spec.channel_names == ("weight", "height")
    np.testing.assert_allclose(data.spec.shift, [70, np.mean(np.float32(table["height"]))])
    rows = {float(row[0]): (float(row[1]), int(label)) for row, label in zip(*everything(data), strict=True)}
    heights = [float(np.float32(height)) for height in table["height"]]
    assert rows == {50.0: (heights[0], 0), 70.0: (heights[1], 1), 90.0: (heights[2], 0)}


def everything(data: HuggingFace) -> tuple[Sequence, Sequence]:
    return data.split("train").all(), data.split("train").labels


def test_what_save_to_disk_wrote_and_single_files(tmp_path: Path) -> None:
    path = picture_parquet(tmp_path / "data", 12)
    found = datasets.Dataset.from_parquet(str(path), cache_dir=str(tmp_path / "cache"))
    found.save_to_disk(str(tmp_path / "one"))
    datasets.DatasetDict({"train": found, "dev": found.select([3, 4])}).save_to_disk(str(tmp_path / "two"))
    for place in ("one", "two", str(path.relative_to(tmp_path))):
        assert sorted(numbers_of(local(tmp_path, place, validation=0, test=0), "train")) == list(range(12))
    assert sorted(numbers_of(local(tmp_path, "two", test=0), "validation")) == [3, 4]


def test_splits_of_other_names(tmp_path: Path) -> None:
    files = {n: picture_parquet(tmp_path / n, 9, n, start) for n, start in (("small", 0), ("large", 20))}
    found = {name: datasets.Dataset.from_parquet(str(file)) for name, file in files.items()}
    datasets.DatasetDict(found).save_to_disk(str(tmp_path / "disk"))
    data = local(tmp_path, "disk", splits={"train": "large", "test": "small"}, validation=0)
    assert sorted(numbers_of(data, "train")) == list(range(20, 29))
    assert sorted(numbers_of(data, "test")) == list(range(9))
    with pytest.raises(UserError, match=r"try dataset.splits.train=(small|large)"):
        local(tmp_path, "disk").split("train")
    with pytest.raises(UserError, match=r"splits.train=big; allowed .*: small, large"):
        local(tmp_path, "disk", splits={"train": "big"}).split("train")


def test_examples_are_decoded_once_and_again_when_they_change(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = picture_parquet(tmp_path / "data", 12)
    first = [numbers_of(local(tmp_path), name) for name in SPLITS]
    with monkeypatch.context() as patch:
        patch.setattr(Decoder, "array", None)
        assert [len(local(tmp_path).split(name)) for name in SPLITS] == [len(rows) for rows in first]
        assert [local(tmp_path).fingerprint(n) for n in SPLITS] == [local(tmp_path).fingerprint(n) for n in SPLITS]
    path.unlink()
    picture_parquet(tmp_path / "data", 12, start=50)
    assert sorted(chain.from_iterable(numbers_of(local(tmp_path), n) for n in SPLITS)) == list(range(50, 62))
    assert len(list((tmp_path / "cache").glob("*.values"))) == 1


def test_a_data_set_of_the_hub_in_the_cache_needs_no_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a checkpoint asks for it: ``download`` is off."""
    picture_parquet(tmp_path / "data", 12)
    hub = tmp_path / "hub"
    datasets.load_dataset(str(tmp_path / "data"), cache_dir=str(tmp_path / "prepared"))
    (made,) = (tmp_path / "prepared").glob("data/*/*/*/dataset_info.json")
    shutil.copytree(made.parent, hub / "someone___small_pictures" / "default" / "0.0.0" / ("a" * 40))
    for file in (hub / "someone___small_pictures").rglob("data-*.arrow"):
        file.rename(file.with_name(file.name.replace("data-", "small_pictures-", 1)))
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", hub)
    options = {"hub": "someone/small_pictures", "download": False, "validation": 0, "test": 0, **PICTURES}
    data = HuggingFace(cache=str(tmp_path / "cache"), **options)
    assert sorted(numbers_of(data, "train")) == list(range(12))
    assert data.notices == ()
    (told,) = HuggingFace(cache=str(tmp_path / "cache"), revision="v2", **options).notices
    assert told.endswith("someone/small_pictures is read from this machine's cache, whatever revision=v2 is now")


def test_without_a_network_there_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture
) -> None:
    def fail(*_: object, **__: object) -> None:
        logging.getLogger("huggingface_hub.utils._http").warning("Retrying in 1s")
        raise ConnectionError("Couldn't reach 'a/b' on the Hub\n(LocalEntryNotFoundError)")

    monkeypatch.setattr(datasets, "load_dataset", fail)
    with pytest.raises(UserError, match=r"a/b cannot be fetched \(Couldn't reach .*; try dataset.path=DIR") as error:
        HuggingFace(hub="a/b", cache=str(tmp_path)).split("train")
    one_line(error)
    with pytest.raises(UserError, match=r"a/b is not in this machine's cache .*; try dataset.download=true"):
        HuggingFace(hub="a/b", cache=str(tmp_path), download=False).split("train")
    assert capfd.readouterr() == ("", "")


def test_an_empty_cache_is_told_without_asking(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path)
    with pytest.raises(UserError, match=r"someone/nothing is not in this machine's cache"):
        HuggingFace(hub="someone/nothing", cache=str(tmp_path), download=False).split("train")
    assert datasets.config.HF_HUB_OFFLINE is False


def test_without_the_library_one_line_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "datasets", None)
        with pytest.raises(UserError, match=r"try pip install 'dfm\[hf\]'") as error:
            local(tmp_path, ".")
        one_line(error)
    monkeypatch.setattr(datasets, "__version__", "3.6.0")
    with pytest.raises(UserError, match=r"may run code of a data set; allowed: 4 or newer"):
        local(tmp_path, ".")


def test_no_code_beside_the_data_is_run(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "data.py").write_text(f"open({str(tmp_path / 'run')!r}, 'w')")
    with pytest.raises(UserError, match="cannot be read"):
        local(tmp_path).split("train")
    assert not (tmp_path / "run").exists()


def test_columns_of_classes_among_which_the_user_has_to_choose(tmp_path: Path) -> None:
    classes = datasets.ClassLabel(names=["a", "b"])
    features = datasets.Features({"x": datasets.Value("float32"), "fine": classes, "coarse": classes})
    write_parquet(tmp_path / "data", {"x": [0, 1, 2], "fine": [0, 1, 0], "coarse": [1, 1, 0]}, features, "train")
    data = local(tmp_path, column=["x"], validation=0, test=0)
    assert data.num_classes == 0
    (line,) = data.notices
    assert line == "dataset hf: the columns fine, coarse hold classes, and none is read (dataset.labels=NAME)"
    data = local(tmp_path, column=["x"], labels="coarse", validation=0, test=0)
    assert {float(x): int(y) for x, y in zip(*everything(data), strict=True)} == {0.0: 1, 1.0: 1, 2.0: 0}
    assert local(tmp_path, column=["x"], labels=False).notices == ()


def test_examples_without_a_class_are_refused(tmp_path: Path) -> None:
    classes = datasets.ClassLabel(names=["a", "b"])
    features = datasets.Features({"x": datasets.Value("float32"), "label": classes})
    write_parquet(tmp_path / "data", {"x": [0, 1], "label": [0, 1]}, features, "train")
    write_parquet(tmp_path / "data", {"x": [0, 1], "label": [0, None]}, features, "test")
    with pytest.raises(UserError, match=r"row 1 of test has no class in label; try dataset.labels=false"):
        local(tmp_path, column=["x"]).split("train")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"path": None}, "dataset.path=DIR"),
        ({"hub": "a/b"}, "path and hub"),
        ({"path": "ylecun/mnist"}, "is dataset.hub=ylecun/mnist"),
        ({"path": None, "hub": "a/b/c"}, "allowed: a name"),
        ({"revision": "main"}, "revision without hub"),
    ],
)
def test_wrong_arguments_are_refused_at_once(options: dict, words: str, tmp_path: Path) -> None:
    with pytest.raises(UserError) as error:
        HuggingFace(**{"path": str(tmp_path), "cache": str(tmp_path), **options})
    assert words in one_line(error)

"""Arrays of a hub follow the rules of ``dataset=array``: levels, classes, types, mirror images."""

from pathlib import Path

import numpy as np
import pytest
import torch
from support.hub_files import array_shard, npy, write_shard
from support.image_files import one_line

from dfm.basics.errors import UserError
from dfm.data import ArrayFile, WebDataset
from dfm.data.dataset import Dataset
from dfm.training.batches import Augmentation, Batch

RANDOM = np.random.default_rng(3)
WHOLE = {"validation": 0, "test": 0}


def both(folder: Path, values: np.ndarray, classes: list[str] | None = None, **keys: object) -> list[Dataset]:
    """The same examples as a file and as shards."""
    np.save(folder / "x.npy", values)
    array_shard(folder / "shards" / "0.tar", list(values), classes or ())
    keys = {**WHOLE, "cache": str(folder / "cache"), **keys}
    if classes:
        (folder / "kinds.txt").write_text("\n".join(classes))
    layout = {"layout": "channels_first"}
    labels = (str(folder / "kinds.txt"), "json.kind") if classes else (None, False)
    file = ArrayFile(path=str(folder / "x.npy"), labels=labels[0], **{**layout, **keys})
    shards = WebDataset(path=str(folder / "shards"), shape=values.shape[1:], labels=labels[1], **{**layout, **keys})
    return [file, shards]


@pytest.mark.parametrize(
    ("kind", "low", "high", "levels", "lowest"),
    [
        ("uint8", 3, 199, 256, 0), ("uint16", 0, 2999, 4096, 0), ("uint32", 7, 99, 128, 0), ("uint64", 0, 1, 2, 0),
        ("int8", -5, 94, 100, -5), ("int64", 40, 49, 10, 40), ("bool", 0, 1, 2, 0),
    ],
)  # fmt: skip
def test_levels(kind: str, low: int, high: int, levels: int, lowest: int, tmp_path: Path) -> None:
    values = RANDOM.integers(low, high, (20, 2, 5))
    values[0, 0, :2] = low, high
    for data in both(tmp_path, values.astype(kind)):
        assert (data.spec.levels, data.spec.lowest) == (levels, lowest)
        found = torch.sort(data.split("train").all().flatten() + lowest).values
        np.testing.assert_array_equal(found.numpy(), np.sort(values.flatten()))


@pytest.mark.parametrize(
    ("classes", "names"),
    [
        (["run 10", "run 2", "run 1"], ("run 1", "run 2", "run 10")),
        (["2", "0", "1"], ()),
        (["20", "3", "20"], ("3", "20")),
        (["b", "a", "3"], ("3", "a", "b")),
    ],
)
def test_classes(classes: list[str], names: tuple[str, ...], tmp_path: Path) -> None:
    values = np.arange(12.0).reshape(3, 1, 4)
    for data in both(tmp_path, values, classes):
        assert data.class_names == names
        train, spec = data.split("train"), data.spec
        rows = (train.all()[:, 0, 0] / 4).long().tolist()
        assert [names[k] if names else str(k) for k in train.labels.tolist()] == [classes[row] for row in rows]
        assert spec.num_classes == len(set(classes))


@pytest.mark.parametrize(("kind", "real"), [("uint8", "float32"), ("int16", "float32"), ("int32", "float64")])
def test_whole_numbers_as_real_ones(kind: str, real: str, tmp_path: Path) -> None:
    for data in both(tmp_path, RANDOM.integers(0, 99, (20, 2, 5)).astype(kind), integers="real"):
        assert (data.spec.levels, data.spec.dtype) == (None, real)
        assert data.split("train").all().dtype == getattr(torch, real)


def test_numbers_that_no_tensor_holds_are_refused(tmp_path: Path) -> None:
    for k, data in enumerate(both(tmp_path, np.full((4, 1, 2), 2**32 - 1, np.uint32), integers="real")):
        with pytest.raises(UserError, match=f"dataset {('array', 'webdataset')[k]}: the number 4294967295 of uint32"):
            _ = data.spec


def test_another_order_of_bytes(tmp_path: Path) -> None:
    values = RANDOM.normal(size=(9, 2, 3)).astype(">f4")
    for _ in range(2):  # the second time from the file
        for data in both(tmp_path, values):
            train = data.split("train")
            assert (data.spec.dtype, torch.sort(train.all().flatten()).values.tolist()) == (
                "float32",
                np.sort(values.flatten()).tolist(),
            )


def test_an_example_that_the_type_of_the_first_does_not_hold(tmp_path: Path) -> None:
    arrays = [np.array([1, 2], np.int16), np.array([3, 4], np.uint8), np.array([0.5, 7.0])]
    write_shard(tmp_path / "0.tar", [(f"{k}.npy", npy(array)) for k, array in enumerate(arrays)])
    keys = {"path": str(tmp_path / "0.tar"), "shape": (2,), "cache": str(tmp_path / "cache"), "labels": False, **WHOLE}
    with pytest.raises(UserError, match=r"2 \(numbers of float64, but the first example has int16\)") as error:
        WebDataset(**keys).split("train")
    one_line(error)
    left = WebDataset(**keys, broken="skip").split("train").values
    assert sorted(left[:2].flatten().tolist()) == [1, 2, 3, 4]


@pytest.mark.parametrize("shape", [(2, 5), (1, 3, 4), (2, 2, 2, 3)])
def test_the_last_axis_is_mirrored(shape: tuple[int, ...], tmp_path: Path) -> None:
    values = RANDOM.integers(0, 99, (64, *shape)).astype(np.uint8)
    for data in both(tmp_path, values, flip=True):
        train = data.split("train").all()
        change = Augmentation(flip=data.flip)
        seen = change(Batch(train, None, torch.arange(64)), 0, 0).values
        mirrored = torch.from_numpy(np.ascontiguousarray(train.numpy()[..., ::-1]))
        kinds = [(torch.equal(a, b), torch.equal(a, c)) for a, b, c in zip(seen, train, mirrored, strict=True)]
        assert {*kinds} == {(True, False), (False, True)}


def test_a_table_has_nothing_to_mirror(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", RANDOM.random((9, 3)))
    array_shard(tmp_path / "0.tar", [np.zeros(3)])
    makers = (
        lambda: ArrayFile(path=str(tmp_path / "x.npy"), flip=True),
        lambda: WebDataset(path=str(tmp_path / "0.tar"), shape=(3,), flip=True),
    )
    for make in makers:
        with pytest.raises(UserError, match=r"flip=true: an example has the shape \(3,\); allowed: signals") as error:
            make()
        one_line(error)

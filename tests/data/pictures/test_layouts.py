"""Layouts: folders that are splits, folders that are classes, and the files of EDM and StyleGAN."""

import json
from pathlib import Path

import pytest
from support.image_files import many, one_line, write_image

from dfm.basics.errors import UserError
from dfm.data.dataset import SPLITS
from dfm.data.pictures import ImageFolder


def data(path: Path, **options) -> ImageFolder:
    return ImageFolder(path=str(path), **{"size": 4, "channels": 1, **options})


def sets(found: ImageFolder) -> list[set[int]]:
    """The pictures of each split, by their grey."""
    return [set(found.split(name).all()[:, 0, 0, 0].tolist()) for name in SPLITS]


@pytest.mark.parametrize(
    ("train", "validation"),
    [("train", "val"), ("train", "valid"), ("train", "validation"), ("train", "Val"), ("Training", "dev")],
)
def test_folders_named_as_splits_are_splits(tmp_path, train, validation):
    for start, name in enumerate((train, validation, "test")):
        for index, kind in enumerate(("cat", "dog")):
            many(tmp_path / name / kind, 3, start=10 * start + 5 * index)
    found = data(tmp_path)
    assert found.class_names == ("cat", "dog")
    assert sets(found) == [{0, 1, 2, 5, 6, 7}, {10, 11, 12, 15, 16, 17}, {20, 21, 22, 25, 26, 27}]
    for name in SPLITS:
        split = found.split(name)
        assert [int(value) % 10 >= 5 for value in split.all()[:, 0, 0, 0]] == split.labels.bool().tolist()


def test_a_split_without_a_folder_is_drawn_from_train(tmp_path):
    many(tmp_path / "train" / "a", 100)
    many(tmp_path / "test" / "a", 5, start=200)
    train, validation, test = sets(data(tmp_path, validation=0.3, test=0.3))
    assert test == {200, 201, 202, 203, 204}
    assert train | validation == set(range(100))
    assert 12 <= len(validation) <= 48, "0.3 of 100, within 4 deviations"


def test_train_alone(tmp_path):
    many(tmp_path / "train", 100)
    found = data(tmp_path, validation=0.3, test=0.3)
    assert found.num_classes == 0
    train, validation, test = sets(found)
    assert train | validation | test == set(range(100))
    assert min(len(train), len(validation), len(test)) > 10


def test_pictures_without_classes_in_splits(tmp_path):
    for start, name in enumerate(("train", "test")):
        many(tmp_path / name, 2, start=10 * start)
    found = data(tmp_path, validation=0)
    assert found.num_classes == 0
    assert sets(found) == [{0, 1}, set(), {10, 11}]


def test_a_train_beside_other_classes_is_a_vehicle(tmp_path):
    for name in ("bus", "car", "train"):
        many(tmp_path / name, 1)
    assert data(tmp_path).class_names == ("bus", "car", "train")


def test_splits_beside_classes_are_refused(tmp_path):
    for name in ("cat", "train", "test"):
        many(tmp_path / name, 1)
    with pytest.raises(UserError) as error:
        data(tmp_path)
    assert "test, train, which are splits, and beside them cat" in one_line(error)
    assert data(tmp_path, splits=False).class_names == ("cat", "test", "train"), "what it suggests"


def test_classes_of_numbers_are_in_the_order_of_numbers(tmp_path):
    for name in ("0", "1", "2", "9", "10", "11"):
        write_image(tmp_path / name / "1.png", (int(name),) * 3)
    found = data(tmp_path, validation=0, test=0)
    assert found.class_names == ("0", "1", "2", "9", "10", "11")
    train = found.split("train")
    assert [found.class_names[label] for label in train.labels] == [str(int(v)) for v in train.all()[:, 0, 0, 0]]
    write_image(tmp_path / "x" / "1.png")
    assert data(tmp_path).class_names == ("0", "1", "10", "11", "2", "9", "x"), "names are sorted as names"


def edm(root: Path, labels: object) -> None:
    """The layout of EDM's and StyleGAN's data set tools: 1,000 files in each folder, and one file with the classes."""
    for index in range(6):
        write_image(root / f"{index // 3:05}" / f"img{index:08}.png", (index,) * 3, (4, 4))
    (root / "dataset.json").write_text(json.dumps({"labels": labels}))


NAMES = [f"{index // 3:05}/img{index:08}.png" for index in range(6)]


def test_the_layout_of_edm(tmp_path):
    edm(tmp_path, [[name, index % 4] for index, name in enumerate(NAMES)])
    found = data(tmp_path, validation=0, test=0)
    assert found.num_classes == 4
    train = found.split("train")
    assert (train.all()[:, 0, 0, 0] % 4 == train.labels).all()
    assert found.notices == ()
    assert data(tmp_path, labels=False).num_classes == 0


def test_the_layout_of_edm_without_classes(tmp_path):
    edm(tmp_path, None)
    found = data(tmp_path, validation=0, test=0)
    assert found.num_classes == 0
    assert found.split("train").labels is None


def test_another_file_of_that_name_is_no_layout(tmp_path):
    edm(tmp_path, None)
    (tmp_path / "dataset.json").write_text('{"author": "me"}')
    assert data(tmp_path).class_names == ("00000", "00001")


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        ([[name, 0] for name in NAMES[1:]], f"1 of 6 pictures are not in it, as {NAMES[0]}"),
        ([[name, [0.5, 1]] for name in NAMES], "has the class [0.5, 1]"),
        ([[name, -1] for name in NAMES], "has the class -1"),
        ([[name, True] for name in NAMES], "has the class True"),
        (["a", "b"], "no list of pairs"),
        ({"a": 1}, "no list of pairs"),
    ],
)
def test_a_file_of_classes_that_does_not_fit_is_refused(tmp_path, labels, words):
    edm(tmp_path, labels)
    with pytest.raises(UserError) as error:
        data(tmp_path)
    assert words in one_line(error)
    assert "try dataset.labels=false" in str(error.value)
    assert data(tmp_path, labels=False).num_classes == 0, "what it suggests"


def test_a_broken_file_of_classes_is_refused(tmp_path):
    edm(tmp_path, None)
    (tmp_path / "dataset.json").write_text("{")
    with pytest.raises(UserError, match=r"dataset\.json: cannot be read") as error:
        data(tmp_path)
    one_line(error)

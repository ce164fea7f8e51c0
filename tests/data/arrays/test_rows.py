"""Which rows belong to which split, and the classes of them."""

from pathlib import Path

import numpy as np
import pytest

from dfm.basics.errors import UserError
from dfm.data import ArrayFile
from dfm.data.dataset import SPLITS
from dfm.data.rows.partition import shares_of_rows

RANDOM = np.random.default_rng(7)
N = 4000


@pytest.fixture
def file(tmp_path: Path) -> str:
    """Row i holds (i, noise), so a split says which rows it has."""
    array = np.stack([np.arange(N, dtype=float), RANDOM.random(N)], 1)
    np.save(tmp_path / "x.npy", array)
    return str(tmp_path / "x.npy")


def rows(data: ArrayFile, name: str) -> list[int]:
    return data.split(name).all()[:, 0].long().tolist()


def test_splits_have_their_shares_and_no_row_twice(file: str) -> None:
    data = ArrayFile(path=file, validation=0.1, test=0.2)
    found = {name: rows(data, name) for name in SPLITS}
    assert sorted(row for part in found.values() for row in part) == list(range(N))
    for name, share in (("validation", 0.1), ("test", 0.2)):
        assert abs(len(found[name]) - share * N) < 4 * np.sqrt(share * (1 - share) * N)
    assert found["train"] == sorted(found["train"]), "one pass over the file"
    assert found["test"] != sorted(found["test"]), "the first ones come from anywhere"
    assert abs(np.mean(found["test"][:100]) - N / 2) < 4 * N / np.sqrt(12 * 100)
    other = ArrayFile(path=file, validation=0.1, test=0.2, seed=1)
    assert len({*found["test"]} & {*rows(other, "test")}) < 0.3 * len(found["test"]), "independent choices share 0.2"


def test_shares_are_uniform_and_independent_of_their_neighbours() -> None:
    shares = shares_of_rows(200_000, 3)
    counts = np.histogram(shares, 100, (0, 1))[0]
    assert abs(counts - 2000).max() < 5 * np.sqrt(2000)
    assert abs(np.corrcoef(shares[1:], shares[:-1])[0, 1]) < 5 / np.sqrt(200_000)
    assert len(np.unique(shares)) == 200_000


def test_rows_that_are_appended_move_no_other(file: str, tmp_path: Path) -> None:
    before = {name: rows(ArrayFile(path=file), name) for name in SPLITS}
    longer = np.concatenate([np.load(file), np.stack([np.arange(N, 2 * N, dtype=float), RANDOM.random(N)], 1)])
    np.save(tmp_path / "longer.npy", longer)
    after = {name: rows(ArrayFile(path=str(tmp_path / "longer.npy")), name) for name in SPLITS}
    for name in SPLITS:
        assert [row for row in after[name] if row < N] == before[name]


def test_without_held_out_rows_nothing_is_gathered(file: str) -> None:
    data = ArrayFile(path=file, validation=0, test=0)
    assert data.split("train").rows is None
    assert [len(data.split(name)) for name in SPLITS] == [N, 0, 0]


@pytest.mark.parametrize("kind", ["numbers", "text"])
def test_a_group_never_straddles_a_split(kind: str, file: str, tmp_path: Path) -> None:
    """Patients with 1 to 60 rows each, in any order; the fractions are of groups."""
    patients = RANDOM.choice(200, N, p=RANDOM.dirichlet(np.ones(200)))
    groups = patients if kind == "numbers" else np.array([f"patient {p}" for p in patients])
    np.save(tmp_path / "groups.npy", groups)
    data = ArrayFile(path=file, groups=str(tmp_path / "groups.npy"), validation=0.2, test=0.2)
    owners = [{*patients[rows(data, name)].tolist()} for name in SPLITS]
    assert min(map(len, owners)) > 10
    assert sum(map(len, owners)) == len({*patients.tolist()}), "no patient is in two"


def test_a_list_of_splits(file: str, tmp_path: Path) -> None:
    words = RANDOM.choice(["train", "val", "TEST "], N)
    (tmp_path / "s.txt").write_text("\n".join(words))
    data = ArrayFile(path=file, splits=str(tmp_path / "s.txt"))
    for name, word in zip(SPLITS, ("train", "val", "TEST "), strict=True):
        assert rows(data, name) == np.flatnonzero(words == word).tolist()
    np.save(tmp_path / "s.npy", np.where(words == "train", 0, np.where(words == "val", 1, 2)))
    assert rows(ArrayFile(path=file, splits=str(tmp_path / "s.npy")), "test") == rows(data, "test")
    (tmp_path / "s.txt").write_text("\n".join(["train"] * (N - 1) + ["later"]))
    data = ArrayFile(path=file, splits=str(tmp_path / "s.txt"))
    with pytest.raises(UserError, match=f"'later' in row {N - 1}; allowed: train, validation"):
        data.split("train")


def test_files_of_their_own(tmp_path: Path) -> None:
    """The keys of MNIST as Keras ships it; validation is still a share of the training rows."""
    x, y = RANDOM.integers(0, 256, (300, 6, 6), dtype=np.uint8), RANDOM.integers(0, 3, 300)
    np.savez(tmp_path / "m.npz", x_train=x[:200], y_train=y[:200], x_test=x[200:], y_test=y[200:])
    path = str(tmp_path / "m.npz")
    data = ArrayFile(
        path=path, key="x_train", labels="y_train", test_path=path, test_key="x_test", test_labels="y_test"
    )
    np.testing.assert_array_equal(data.split("test").all()[:, 0].numpy(), x[200:])
    assert data.split("test").labels.tolist() == y[200:].tolist()
    assert len(data.split("train")) + len(data.split("validation")) == 200
    assert data.spec.shape == (1, 6, 6)
    with pytest.raises(UserError, match=r"dataset.test_path=.*: examples \(\) of int64; allowed: \(6, 6\) of uint8"):
        ArrayFile(path=path, key="x_train", test_path=path, test_key="y_test")


@pytest.mark.parametrize(
    ("values", "labels", "names"),
    [
        ([0, 2, 1, 0], [0, 2, 1, 0], ()),
        ([1, 3, 10, 1], [0, 1, 2, 0], ("1", "3", "10")),
        (["cat", "Dog", "ant", "cat"], [2, 0, 1, 2], ("Dog", "ant", "cat")),
        (["9", "10", "9", "10"], [0, 1, 0, 1], ("9", "10")),
        (["c9", "c10", "c9", "c10"], [0, 1, 0, 1], ("c9", "c10")),
        ([0.0, 1.0, 1.0, 0.0], [0, 1, 1, 0], ()),
        ([True, False, True, True], [1, 0, 1, 1], ()),
        (np.array([b"a", b"b", b"a", b"a"]), [0, 1, 0, 0], ("a", "b")),
    ],
)
def test_classes(values: list, labels: list[int], names: tuple[str, ...], tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", RANDOM.random((4, 2)))
    np.save(tmp_path / "y.npy", np.asarray(values))
    data = ArrayFile(path=str(tmp_path / "x.npy"), labels=str(tmp_path / "y.npy"), validation=0, test=0)
    assert data.split("train").labels.tolist() == labels
    assert (data.class_names, data.num_classes) == (names, max(labels) + 1)
    assert data.spec.class_names == names


def test_classes_in_a_given_order_or_number(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", RANDOM.random((3, 2)))
    for name, values in (("text", ["cat", "dog", "cat"]), ("whole", [0, 1, 1])):
        np.save(tmp_path / f"{name}.npy", np.array(values))
    common = {"path": str(tmp_path / "x.npy"), "validation": 0, "test": 0}
    text, whole = str(tmp_path / "text.npy"), str(tmp_path / "whole.npy")
    data = ArrayFile(**common, labels=text, classes=["dog", "ant", "cat"])
    assert (data.split("train").labels.tolist(), data.num_classes) == ([2, 0, 2], 3)
    assert ArrayFile(**common, labels=whole, classes=10).num_classes == 10
    with pytest.raises(UserError, match="no class 'dog' among cat; allowed"):
        _ = ArrayFile(**common, labels=text, classes=["cat"]).num_classes
    with pytest.raises(UserError, match="a class of 1; allowed: 0 to 0"):
        _ = ArrayFile(**common, labels=whole, classes=1).num_classes


def test_folders_are_classes_or_groups(tmp_path: Path) -> None:
    for name in ("cat/1", "cat/2", "dog/1", "dog/10"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        np.save(tmp_path / f"{name}.npy", RANDOM.random((2, 5)))
    data = ArrayFile(path=str(tmp_path), labels="folder", validation=0, test=0)
    assert (data.split("train").labels.tolist(), data.class_names) == ([0, 0, 1, 1], ("cat", "dog"))
    assert data.spec.shape == (2, 5)

"""Bad input is one line, and what the line suggests works as written."""

import re
import shlex
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from dfm.basics.errors import UserError
from dfm.data import ArrayFile

RANDOM = np.random.default_rng(9)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with files of a newcomer, which is the working directory."""
    monkeypatch.chdir(tmp_path)
    np.save("text.npy", np.array(["a", "b"]))
    np.save("objects.npy", np.array([[1], [1, 2]], dtype=object), allow_pickle=True)
    np.save("records.npy", np.zeros(3, [("a", "f4"), ("b", "i4")]))
    np.save("complex.npy", np.zeros((3, 2), complex))
    np.save("long.npy", np.zeros((3, 2), np.longdouble))
    np.save("dates.npy", np.zeros(3, "datetime64[s]"))
    np.save("scalar.npy", np.float32(3))
    np.save("six.npy", np.zeros((2, 1, 2, 2, 2, 2), np.float32))
    np.save("empty.npy", np.zeros((0, 2), np.float32))
    np.save("nothing.npy", np.zeros((40, 0)))
    np.save("huge.npy", RANDOM.normal(size=(40, 2)) * 1e300)
    np.save("points.npy", RANDOM.random((40, 2)))
    np.save("whole.npy", RANDOM.integers(0, 10**6, (40, 2)))
    np.save("bytes.npy", RANDOM.integers(0, 200, (40, 2), dtype=np.uint8))
    np.save("labels39.npy", np.arange(39))
    np.save("fractions.npy", np.arange(40) / 2)
    np.savez("two.npz", x=RANDOM.random((40, 2)), y=np.arange(40) % 3)
    Path("t.csv").write_text("a b,c,kind\n" + "".join(f"{i},{i * i},{'xyz'[i % 3]}\n" for i in range(40)))
    Path("x.pt").write_bytes(b"")
    Path("noise.npy").write_bytes(b"not an array")
    Path("lines.txt").write_text("a\n" * 39 + "\n")
    (tmp_path / "none").mkdir()
    return tmp_path


def refused(**keys: Any) -> str:
    """The line that a training would end with."""
    with pytest.raises(UserError) as error:
        _ = ArrayFile(**keys).spec
    text = str(error.value)
    assert "\n" not in text
    return text


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({}, "no path; give dataset.path=FILE"),
        ({"path": "nowhere.npy"}, "nowhere.npy is not there; give dataset.path=FILE, a file .npy"),
        ({"path": "x.pt"}, """has the ending '.pt'; allowed: a file .npy, .npz, .csv, .tsv or .parquet, or a folder of
            .npy files; try np.save("x.npy", torch.load("x.pt").numpy())"""),
        ({"path": "none"}, "no .npy file in none"),
        ({"path": "noise.npy"}, "noise.npy is no array of NumPy"),
        ({"path": "text.npy"}, "text.npy holds text (<U1); allowed: whole numbers, float16"),
        ({"path": "objects.npy"}, "objects.npy holds Python objects (object); allowed: whole"),
        ({"path": "records.npy"}, "holds records"),
        ({"path": "complex.npy"}, "try np.save of np.stack([x.real, x.imag], 1)"),
        ({"path": "long.npy"}, "holds long floats (float128); allowed: whole numbers, float16, float32"),
        ({"path": "dates.npy"}, "holds dates"),
        ({"path": "scalar.npy"}, "holds a single number"),
        ({"path": "six.npy"}, "has the shape (N, 1, 2, 2, 2, 2); allowed: (N, d), (N, C, L)"),
        ({"path": "empty.npy"}, "empty.npy has no examples"),
        ({"path": "nothing.npy"}, "split train: examples of shape (0,); allowed: at least one number in each"),
        ({"path": "huge.npy"}, "std above 0 (are numbers too large for float64?)"),
        ({"path": "two.npz", "key": "z"}, "two.npz: no array 'z'; allowed: x, y"),
        ({"path": "points.npy", "key": "z"}, "dataset.key=z: points.npy has no keys"),
        ({"path": "points.npy", "columns": ["a"]}, "points.npy has no columns"),
        ({"path": "points.npy", "levels": 256}, "points.npy holds float64; allowed: levels of whole numbers"),
        ({"path": "points.npy", "flip": True}, "an example has the shape (2,); allowed: signals, pictures, maps and"),
        ({"path": "points.npy", "validation": 0.5, "test": 0.5}, "allowed: fractions of at least 0, together below 1"),
        ({"path": "points.npy", "layout": "NHWC"}, "unknown dataset.layout 'NHWC'; allowed: auto, channels_first"),
        ({"path": "points.npy", "normalize": "chanel"}, "did you mean 'channel'?"),
        ({"path": "points.npy", "integers": "reals"}, "did you mean 'real'?"),
        ({"path": "none", "files": "piece"}, "did you mean 'pieces'?"),
        ({"path": "points.npy", "seed": -1}, "seed=-1; allowed"),
        ({"path": "points.npy", "labels": "labels39.npy"}, """dataset.labels=labels39.npy: (39,); allowed: (40,), one
            value for each example of points.npy"""),
        ({"path": "points.npy", "labels": "nowhere.npy"}, "dataset.labels=nowhere.npy is not there"),
        ({"path": "points.npy", "labels": "kind"}, "points.npy has no columns or keys; give a file"),
        ({"path": "points.npy", "labels": "fractions.npy"}, "classes of train: 0.5 in row 1; allowed:"),
        ({"path": "points.npy", "labels": "lines.txt"}, "nothing in row 39; allowed: a class for each example"),
        ({"path": "points.npy", "labels": "objects.npy"}, "dataset.labels=objects.npy: "),
        ({"path": "points.npy", "labels": "t.csv"}, "t.csv is a table; allowed: .npy, or .txt with one value in each"),
        ({"path": "points.npy", "labels": "two.npz"}, "two.npz has the arrays x, y; allowed: a file with one"),
        ({"path": "points.npy", "labels": "dates.npy"}, "dataset.labels=dates.npy: (3,); allowed: (40,)"),
        ({"path": "two.npz", "key": "x", "labels": "z"}, "two.npz: no array 'z'; allowed: x, y"),
        ({"path": "t.csv", "columns": ["a b", "d"]}, "unknown column of t.csv 'd'; allowed: a b, c, kind"),
        ({"path": "t.csv", "labels": "kinds"}, "unknown column of t.csv 'kinds'; allowed: a b, c, kind; did you mean"),
        ({"path": "points.npy", "labels": "fractions.npy", "test_path": "points.npy"}, """dataset.test_labels is
            missing: dataset.labels=fractions.npy holds the classes of points.npy alone"""),
    ],
)  # fmt: skip
def test_bad_input_is_one_line(keys: dict[str, Any], words: str) -> None:
    assert " ".join(words.split()) in refused(**keys)


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize(
    "keys",
    [
        {"path": "two.npz"},
        {"path": "t.csv"},
        {"path": "t.csv", "columns": ["c", "kind"]},
        {"path": "whole.npy"},
        {"path": "whole.npy", "levels": 256},
        {"path": "whole.npy", "levels": 100_000},
        {"path": "bytes.npy", "levels": 20},
    ],
    ids=str,
)
def test_what_is_suggested_works(keys: dict[str, Any]) -> None:
    """Each suggestion, as a shell and a YAML reader take it."""
    suggested = re.search(r"; try (.*)$", refused(**keys))
    assert suggested
    for words in suggested[1].split(" or "):
        (word, *_) = shlex.split(words)
        key, _, value = word.partition("=")
        taken = {key.removeprefix("dataset."): yaml.safe_load(value)}
        instead = {"levels", "columns"} if taken.keys() & {"integers", "labels"} else set()
        assert ArrayFile(**{name: given for name, given in {**keys, **taken}.items() if name not in instead}).spec.shape


@pytest.mark.usefixtures("here")
def test_a_cache_that_cannot_be_written_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    from dfm.data.arrays.formats import source

    monkeypatch.setattr(source, "SMALL", 0)
    Path("cache").write_text("a file")
    assert "needs a file of 0.0 GiB in cache" in refused(path="t.csv", labels="kind", cache="cache")

"""The embedded digits: those of scikit-learn, split fairly, made by the script that says so."""

import importlib.util

import numpy as np
import pytest
import torch
from support import ROOT

from dfm.data.dataset import SPLITS, Split
from dfm.data.published.digits import Digits


def test_digits_are_scikit_learns_each_once():
    sklearn = pytest.importorskip("sklearn.datasets").load_digits()
    dataset = Digits()
    assert [len(dataset.split(name)) for name in SPLITS] == [1297, 200, 300]
    rows = [row for name in SPLITS for row in digit_rows(dataset.split(name))]
    expected = zip(sklearn.images.astype(np.uint8), sklearn.target, strict=True)
    assert sorted(rows) == sorted((image.tobytes(), int(label)) for image, label in expected)


def test_digits_are_stratified():
    """Each class has its share of each split, to within the rounding of three counts."""
    counts = torch.stack([Digits().split(name).labels.bincount() for name in SPLITS]).double()
    share = counts.sum(0) * counts.sum(1, keepdim=True) / counts.sum()
    assert ((counts - share).abs() < 2).all()


def test_digits_file_is_what_its_script_makes(tmp_path, monkeypatch):
    pytest.importorskip("sklearn")
    spec = importlib.util.spec_from_file_location("make_digits", ROOT / "scripts" / "make_digits.py")
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    monkeypatch.setattr("sys.argv", ["make_digits.py", str(tmp_path / "digits.npz")])
    script.main()
    made, shipped = np.load(tmp_path / "digits.npz"), np.load(ROOT / "dfm" / "data" / "published" / "digits.npz")
    assert set(made) == set(shipped)
    assert all(np.array_equal(made[name], shipped[name]) for name in made)


def digit_rows(split: Split) -> list[tuple[bytes, int]]:
    assert split.labels is not None
    return [(image.numpy().tobytes(), int(label)) for image, label in zip(split.values, split.labels, strict=True)]

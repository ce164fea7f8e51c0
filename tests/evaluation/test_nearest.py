"""The nearest training examples, against scipy's tree."""

import runpy
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.spatial import cKDTree
from support import ROOT
from support.cli import Command

from dfm.basics.errors import UserError
from dfm.data import split as splits
from dfm.data.dataset import DatasetSpec, Split
from dfm.evaluation.nearest import nearest

SPEC = DatasetSpec(name="own", shape=(3, 4), levels=256, num_classes=0, mean=0.0, std=1.0)


def test_they_are_those_of_a_tree(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also far from the origin, and over blocks of few examples."""
    monkeypatch.setattr(splits, "BLOCK", 100)
    rng = np.random.default_rng(0)
    values = torch.from_numpy(rng.integers(0, 256, (60, 3, 4), dtype=np.uint8))
    far = torch.from_numpy(1e6 + rng.normal(size=(60, 3, 4)))
    for all_of_them, spec in ((values, SPEC), (far, replace(SPEC, levels=None))):
        distances, numbers = nearest(all_of_them[:20], Split(values=all_of_them[20:], labels=None), spec, 3)
        flat = all_of_them.flatten(1).double().numpy()
        expected, places = cKDTree(flat[20:]).query(flat[:20], 3)
        np.testing.assert_allclose(distances, expected, rtol=1e-9)
        np.testing.assert_array_equal(numbers, places)


def test_a_copy_is_found_in_the_unit_of_the_model() -> None:
    """The second column is a thousand times wider: as it stands it would decide alone."""
    spec = replace(SPEC, shape=(2,), levels=None, shift=(0.0, 0.0), scale=(1.0, 1000.0))
    train = Split(values=torch.tensor([[0.0, 900.0], [3.0, 0.0], [5.0, 5.0]]), labels=None)
    distances, numbers = nearest(torch.tensor([[0.0, 0.0], [5.0, 5.0]]), train, spec)
    assert numbers[:, 0].tolist() == [0, 2]
    assert distances[:, 0].tolist() == pytest.approx([0.9, 0.0])
    with pytest.raises(UserError, match="4 nearest examples of 3; allowed: 1 to 3"):
        nearest(train.all(), train, spec, 4)


def test_the_script_draws_them_beside_the_samples(tiny_run: Path, command: Command, capsys) -> None:
    run = command("sample", f"ckpt={tiny_run}", "n=4", "sampler.steps=1").run
    main = runpy.run_path(str(ROOT / "scripts" / "nearest.py"))["main"]
    assert main([str(run), "--rows", "2", "--k", "3", "--out", "near.png"]) == 0
    assert "4 samples" in capsys.readouterr().out
    width, height = Image.open("near.png").size
    assert width > 1.5 * height, "two rows of four"
    assert main(["nowhere"]) == 1
    assert "no sample.json" in capsys.readouterr().err

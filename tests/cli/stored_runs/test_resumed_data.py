"""Data that changed under a run: a resumed run says in words what differs, and warns of classes with other names."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support.cli import TINY, Command

from dfm.data.spec import DatasetSpec

SMALL = ("model.width=8", "model.depth=1", "nll.n=0", "logger=none", "trainer.max_steps=2", "samples.n=4")
LONGER = "trainer.max_steps=3"


def write(values: np.ndarray) -> None:
    np.save("x.npy", values)
    Path("names.txt").write_text("\n".join(("cat", "dog") * (len(values) // 2)))


@pytest.fixture
def resumed(command: Command) -> Callable[..., str]:
    """A run of two steps on points with classes; returns what a resumed run says once ``change`` was called."""
    write(np.random.default_rng(0).normal(size=(60, 2)))
    data = ("dataset=array", "dataset.path=x.npy", "dataset.labels=names.txt", "conditional=true")
    command("train", "model=mlp", *data, *SMALL, "hydra.run.dir=run")

    def say(change: Callable[[], object], code: int = 0) -> str:
        change()
        return command("train", "resume=run", LONGER, code=code).err

    return say


def test_each_fact_that_differs_is_named(resumed: Callable[..., str]) -> None:
    draws = np.random.default_rng(0).normal(size=(60, 3))
    said = resumed(lambda: write(draws), 1)
    assert "resume: the data have shape (3,) instead of (2,); allowed:" in said
    said = resumed(lambda: write((9 * draws[:, :2]).astype(np.int8)), 1)
    assert f"have levels {np.ptp((9 * draws[:, :2]).astype(np.int8)) + 1} instead of none, type int8" in said
    said = resumed(lambda: Path("names.txt").write_text("cat\ndog\nfox\n" * 20), 1)
    assert "number of classes 3 instead of 2" in said
    assert "DatasetSpec" not in said


def test_renamed_classes_warn_and_the_run_goes_on(resumed: Callable[..., str]) -> None:
    said = resumed(lambda: Path("names.txt").write_text("cat\nhound\n" * 30))
    assert "warning: resume: the data: classes of the same number have other names: class 1 is 'hound' there" in said
    assert "resumed at step 2" in said


def test_a_renamed_folder_is_told(command: Command) -> None:
    """The names of a folder's pictures decide their order and their splits, so they are other data then."""
    for name in ("cat", "dog"):
        Path("pics", name).mkdir(parents=True)
        for k in range(20):
            Image.fromarray(np.full((8, 8), 10 * k, np.uint8)).save(f"pics/{name}/{k}.png")
    words = ("dataset=folder", "dataset.path=pics", "dataset.size=8", "conditional=true", "nll.n=0", "logger=none")
    command("train", *TINY, *words, "hydra.run.dir=run")
    Path("pics/dog").rename("pics/hound")
    said = command("train", "resume=run", LONGER, code=1).problem
    assert "instead of" in said or "has other examples" in said
    assert "and classes have other names: class 1 is 'hound' there, 'dog' here; allowed:" in said


def test_moments_count_where_the_scaling_is_the_same() -> None:
    """The figures stand in the line; rounding errors of another machine are no difference."""

    def spec(**other: object) -> DatasetSpec:
        facts = {"shape": (2,), "levels": None, "num_classes": 0, "mean": 0.5, "std": 1.0, **other}
        return DatasetSpec(name="x", **facts)  # type: ignore[arg-type]

    assert spec(mean=0.75).unlike(spec()) == ("mean 0.75 instead of 0.5",)
    assert spec(std=2.0).unlike(spec()) == ("deviation 2 instead of 1",)
    assert spec(mean=0.5 + 1e-10).unlike(spec()) == ()
    assert spec(mean=0.75, shift=(1.0, 1.0), scale=(1.0, 1.0)).unlike(spec()) == ()
    assert spec(levels=256).unlike(spec()) == ("levels 256 instead of none", "type pictures instead of points")
    assert spec(dtype="int16", lowest=-3).unlike(spec(dtype="int16")) == ("lowest number -3 instead of 0",)

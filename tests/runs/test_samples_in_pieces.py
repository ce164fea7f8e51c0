"""Samples go to disk as they are drawn: what is in memory does not grow with their number."""

import weakref
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from support.cli import Command
from torch import Tensor

from dfm.data.dataset import DatasetSpec
from dfm.runs.sample_files import npz_writer, store_samples
from dfm.sampling.draw import batch_of

SPEC = DatasetSpec(name="images", shape=(1, 4, 4), levels=256, num_classes=0, mean=0.0, std=0.5)


def test_no_more_than_a_few_batches_are_alive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dfm.runs.sample_files.GRID_LIMIT", 25)
    alive: list[weakref.ref[Tensor]] = []
    most = 0

    def pieces() -> Iterator[Tensor]:
        nonlocal most
        for k in range(50):
            piece = torch.full((10, 1, 4, 4), k, dtype=torch.uint8)
            alive.append(weakref.ref(piece))
            yield piece
            del piece
            most = max(most, sum(ref() is not None for ref in alive))

    store_samples(pieces(), torch.arange(500), range(500), SPEC, tmp_path, png=False)
    assert most <= 2
    with np.load(tmp_path / "samples.npz", allow_pickle=False) as content:
        assert content["samples"].shape == (500, 4, 4, 1)
        assert (content["samples"][:, 0, 0, 0] == np.arange(500) // 10).all()
        assert (content["labels"] == np.arange(500)).all()


def test_what_breaks_off_leaves_no_file(tmp_path: Path) -> None:
    def half(lost: bool) -> None:
        with npz_writer(tmp_path / "x.npz", "x", 4) as file:
            file.write(np.zeros((2, 3), dtype=np.float32))
            if lost:
                raise RuntimeError("lost")

    with pytest.raises(RuntimeError, match="lost"):
        half(lost=True)
    assert not list(tmp_path.iterdir())
    with pytest.raises(AssertionError, match="2 of 4"):
        half(lost=False)
    assert not list(tmp_path.iterdir())


def test_batches_are_the_same_samples_and_the_same_pictures(tiny_run: Path, command: Command) -> None:
    """In one batch and in eight; a class a row is drawn from the first ones."""
    words = ["sample", f"ckpt={tiny_run}", "n=8", "sampler=churn", "sampler.steps=3", "png=true"]
    whole, parts = command(*words).run, command(*words, "batch_size=1").run
    one, other = (np.load(run / "samples.npz")["samples"].astype(int) for run in (whole, parts))
    assert np.abs(one - other).max() <= 17, "a level of 16 at most, by the order of additions"
    assert len(list((parts / "png").iterdir())) == 8


@pytest.mark.parametrize(
    ("shape", "device", "size"),
    [((1, 28, 28), "cpu", 83), ((3, 64, 64), "cpu", 16), ((3, 32, 32), "cuda", 512), ((3, 1024, 1024), "cpu", 1)],
)
def test_a_batch_is_of_so_many_pixels(shape: tuple[int, ...], device: str, size: int) -> None:
    spec = DatasetSpec(name="images", shape=shape, levels=256, num_classes=0, mean=0.0, std=0.5)
    assert batch_of(None, spec, torch.device(device)) == size
    assert batch_of(7, spec, torch.device(device)) == 7


def test_points_come_in_thousands() -> None:
    spec = DatasetSpec(name="points", shape=(2,), levels=None, num_classes=0, mean=0.0, std=1.0)
    assert batch_of(None, spec, torch.device("cpu")) == 8192

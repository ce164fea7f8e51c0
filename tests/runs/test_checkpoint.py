"""Checkpoints are whole or not there; a full disk costs one checkpoint and never the run."""

import errno
import json
import os
from pathlib import Path

import pytest
import torch
from support.cli import TINY, Command
from support.runs import content

from dfm.runs import checkpoint, metrics
from dfm.runs import directory as run_dir
from dfm.runs.checkpoint import Checkpoint


def test_checkpoints_are_whole_and_the_newest_are_kept(tmp_path: Path) -> None:
    for step in (1, 2, 3):
        checkpoint.save(content(step), tmp_path / "checkpoints", keep=2)
    assert [p.name for p in run_dir.checkpoints(tmp_path)] == ["step_00000003.pt", "step_00000002.pt"]
    read = checkpoint.read(run_dir.checkpoints(tmp_path)[0])
    assert read.step == 3
    assert read.spec == content(3).spec
    assert torch.equal(read.state["ema"]["w"], torch.full((1000,), 3.0))


def test_a_full_disk_costs_the_checkpoint_not_the_one_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    directory = tmp_path / "checkpoints"
    checkpoint.save(content(1), directory, keep=1)

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        checkpoint.save(content(2), directory, keep=1)
    monkeypatch.undo()
    assert [p.name for p in directory.iterdir()] == ["step_00000001.pt"], "no half file, no temporary file"
    assert checkpoint.read(directory / "step_00000001.pt").step == 1


def test_a_run_goes_on_when_the_disk_is_full(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    real = checkpoint.save

    def full_at_two(item: Checkpoint, directory: Path, keep: int, best: int | None) -> Path:
        if item.step == 2:
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(item, directory, keep, best)

    monkeypatch.setattr(checkpoint, "save", full_at_two)
    outcome = command("train", *TINY, "trainer.max_steps=3", "trainer.checkpoint_every=1")
    assert "checkpoint of step 2 not written (No space left on device)" in outcome.err
    assert [p.name for p in run_dir.checkpoints(outcome.run)] == ["step_00000003.pt", "step_00000001.pt"]


@pytest.mark.parametrize(
    ("error", "says"),
    [(PermissionError(errno.EACCES, "Permission denied", "it"), "Permission denied"), (MemoryError(), "out of memory")],
)
def test_a_whole_checkpoint_that_cannot_be_read_now_is_not_damaged(
    error: Exception, says: str, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A resumed run must not go on from an older one, and set the newest aside."""
    run = command("train", *TINY, "trainer.checkpoint_every=1").run
    real, newest = torch.load, run_dir.checkpoints(run)[0]

    def load(path: Path, *given: object, **more: object) -> object:
        if path == newest:
            raise error
        return real(path, *given, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(torch, "load", load)
    assert says in command("train", f"resume={run}", "trainer.max_steps=3", code=1).problem
    assert len(run_dir.checkpoints(run)) == 2


def test_the_best_checkpoint_outlives_the_newest(tmp_path: Path) -> None:
    lines = [{"step": 1, "validation_loss": 0.5}, {"step": 2, "validation_loss": 0.1}, {"step": 3, "loss": 0.0}]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    for step in range(1, 6):
        best = metrics.best_step(tmp_path, [*map(run_dir.step_of, run_dir.checkpoints(tmp_path)), step])
        checkpoint.save(content(step), tmp_path / "checkpoints", keep=2, best=best)
    assert [run_dir.step_of(p) for p in run_dir.checkpoints(tmp_path)] == [5, 4, 2]

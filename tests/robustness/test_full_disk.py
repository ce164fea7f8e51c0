"""A full disk: no success without a checkpoint, one line from every command, no half-written file, no flood of lines.

The kernel itself refuses: a limit on the size of files stands for the disk.
"""

import contextlib
import errno
import io
import logging
import os
import resource
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.cli import FAST, POINTS, TINY, Command
from support.signals import signalled

from dfm.cli.console import RunLog
from dfm.evaluation.classifier_features import ClassifierFeatures
from dfm.runs import checkpoint
from dfm.runs import directory as run_dir
from dfm.runs.checkpoint import Checkpoint
from dfm.training.batches import Batch, Batches

SHORT = [*TINY, "nll.n=0", "trainer.log_every=1", "hydra.run.dir=run"]


@contextlib.contextmanager
def files_of_at_most(size: int) -> Iterator[None]:
    """No file grows beyond this size in bytes: writing more fails with EFBIG."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("logger", ["none", pytest.param("tensorboard", marks=pytest.mark.wide)])
def test_a_training_without_its_last_checkpoint_is_no_success(logger: str, command: Command) -> None:
    points = [*POINTS, *FAST, "nll.n=0", "trainer.log_every=1", "hydra.run.dir=run"]  # 60 steps that take no time
    words = [*points, "trainer.max_steps=60", "trainer.batch_size=8", f"logger={logger}"]
    with files_of_at_most(9000):
        outcome = command("train", *words, code=1)
    assert outcome.problem == (
        f"error: the checkpoint of the last step, 60, is not on disk; {Path('run').resolve()} has no checkpoint; "
        "free some space first"
    )
    lines = outcome.err.splitlines()
    for what in ("metrics of step", "checkpoint of step", "weights of step"):
        assert sum(what in line for line in lines) == 1, outcome.err
    assert len(lines) < 20
    assert not list(Path("run").rglob("*.tmp"))
    assert Path("run/metrics.jsonl").stat().st_size == 9000, "the limit was met"
    command("train", *words, "resume=auto")


def full_from(monkeypatch: pytest.MonkeyPatch, step: int) -> None:
    real = checkpoint.save

    def save(item: Checkpoint, *given: object) -> Path:
        if item.step >= step:
            raise OSError(errno.EDQUOT, os.strerror(errno.EDQUOT))
        return real(item, *given)  # type: ignore[arg-type]

    monkeypatch.setattr(checkpoint, "save", save)


def test_the_line_names_the_step_that_is_on_disk(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    words = [*SHORT, "trainer.max_steps=4", "trainer.checkpoint_every=1", "logger=none"]
    with monkeypatch.context() as patch:
        full_from(patch, 3)
        problem = command("train", *words, code=1).problem
    assert "the checkpoint of the last step, 4, is not on disk; the newest checkpoint is that of step 2" in problem
    assert "try dfm train resume=" in problem
    assert "resumed at step 2" in command("train", "resume=run").err


@pytest.mark.usefixtures("heeded")
def test_a_stopped_run_without_a_checkpoint_does_not_say_that_it_can_go_on(
    command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    full_from(monkeypatch, 0)
    signalled(monkeypatch, 2, signal.SIGTERM)
    outcome = command("train", *SHORT, "trainer.max_steps=4", "logger=none", code=1)
    assert "SIGTERM: stopped after step 2; " in outcome.err
    assert "has no checkpoint" in outcome.problem
    assert "resume=" not in outcome.err


def test_a_disk_that_fails_under_the_data_costs_no_step(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    """The data are read from a mount that is gone: the steps before it are saved."""
    real = Batches.batch

    def batch(self: Batches, step: int) -> Batch:
        if step == 3:
            raise OSError(errno.EIO, os.strerror(errno.EIO), "/mnt/data")
        return real(self, step)

    monkeypatch.setattr(Batches, "batch", batch)
    problem = command("train", *SHORT, "trainer.max_steps=6", "logger=none", code=1).problem
    assert problem == "error: /mnt/data: Input/output error; the disk has failed; try another"
    assert [run_dir.step_of(file) for file in run_dir.checkpoints(Path("run"))] == [3]


COMMANDS = {
    "sample": (["n=16", "sampler.steps=1"], "samples.npz"),
    "encode": (["n=32"], "latents.npz"),
    "nll": (["n=16", "likelihood.solver=euler", "likelihood.steps=1"], "nll.csv"),
    "eval": (["n=8", "sampler.steps=1"], "samples.npz"),
    "decode": (["latents=latents"], "samples.npz"),
    "compare": (["other=latest", "n=8"], "samples.npz"),
    "check": (["n=8", "steps=[1]", "samplers=[euler]"], "quality_against_nfe.png"),
}
QUICK = ("sample", "nll")


@pytest.mark.parametrize("name", [n if n in QUICK else pytest.param(n, marks=pytest.mark.wide) for n in COMMANDS])
def test_every_command_ends_in_one_line(
    name: str, tiny_run: Path, command: Command, kept_features: ClassifierFeatures
) -> None:
    words, file = COMMANDS[name]
    if name == "decode":
        command("encode", "ckpt=latest", "n=8", "hydra.run.dir=latents")
    with files_of_at_most(200):
        outcome = command(name, "ckpt=latest", *words, "hydra.run.dir=out", code=1)
    where = Path("out").resolve() / file
    assert outcome.problem == (f"error: {where}: File too large; try to free some space, or another hydra.run.dir=DIR")
    assert not Path("out").exists(), "nothing stays of a command without a result"
    if name in ("nll", "eval", "check"):
        assert "┏" in outcome.out, "what was computed is on the screen"


def test_a_directory_that_cannot_be_made_is_one_line(tiny_run: Path, command: Command) -> None:
    Path("file").write_text("")
    problem = command("sample", "ckpt=latest", "hydra.run.dir=file/out", code=1).problem
    assert problem == (
        f"error: {Path('file/out').resolve()}: no command can write there (Not a directory); allowed: a directory that "
        "can be made and written; try another hydra.run.dir=DIR"
    )


def test_a_log_file_on_a_full_disk_warns_once() -> None:
    err = io.StringIO()
    handler = RunLog("/dev/full")
    with contextlib.redirect_stderr(err):
        for number in range(3):
            handler.handle(logging.makeLogRecord({"msg": f"line {number}", "levelno": logging.INFO}))
        handler.close()
    assert err.getvalue() == "warning: /dev/full: lines are lost (No space left on device)\n"


def test_a_log_file_goes_on_when_the_disk_takes_lines_again(tmp_path: Path) -> None:
    path, handler = tmp_path / "train.log", RunLog(str(tmp_path / "train.log"))
    with contextlib.redirect_stderr(io.StringIO()):
        path.mkdir()  # it cannot be opened
        handler.handle(logging.makeLogRecord({"msg": "lost", "levelno": logging.INFO}))
        path.rmdir()
        handler.handle(logging.makeLogRecord({"msg": "図 \udcff", "levelno": logging.INFO}))
        handler.close()
    assert path.read_text("utf-8") == "図 \\udcff\n"


def test_the_classifier_of_the_features_is_used_although_it_cannot_be_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from dfm.data.published.digits import Digits
    from dfm.evaluation.classifier_features import Recipe

    features = ClassifierFeatures(data=Digits(), recipe=Recipe(steps=1, channels=8), cache=str(tmp_path))
    with files_of_at_most(1000):
        assert features.of(Digits().split("test").values[:2]).shape[0] == 2
    assert "the next time it is trained again" in caplog.text
    assert run_dir.checkpoints(tmp_path) == []

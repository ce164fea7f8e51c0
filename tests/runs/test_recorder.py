"""What a run writes beside its steps may fail in any way: a warning, once, and the run goes on."""

import errno
import logging
import os
import sys
import threading
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from support.cli import TINY, Command
from support.runs import content

from dfm.basics.errors import UserError
from dfm.runs import checkpoint
from dfm.runs import directory as run_dir
from dfm.runs import recorder as recorders
from dfm.runs.loggers import Logger, NoLogger
from dfm.runs.recorder import Recorder

SHORT = [*TINY, "nll.n=0", "trainer.log_every=1", "hydra.run.dir=run"]


class Broken(Logger):
    """A tracker that fails where it is told to."""

    def __init__(self, error: BaseException, where: str) -> None:
        self.error, self.where = error, where

    def _fail(self, where: str) -> None:
        if where == self.where:
            raise self.error

    def open(self, directory: Path, step: int) -> None:
        self._fail("open")

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        self._fail("scalars")

    def image(self, step: int, name: str, picture: np.ndarray) -> None:
        self._fail("image")

    def close(self) -> None:
        self._fail("close")


@pytest.mark.parametrize("error", [ImportError("no protobuf"), TypeError("descriptors"), OSError(28, "No space left")])
def test_a_tracker_that_cannot_start_is_one_line(error: Exception, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"logger: Broken cannot start \(.+\); try logger=none"):
        Recorder(tmp_path, Broken(error, "open"), 2).open(0)


@pytest.mark.parametrize("where", ["scalars", "image", "close"])
@pytest.mark.parametrize("error", [ConnectionError("down"), TypeError("x"), SystemExit(3), MemoryError()])
def test_a_tracker_that_fails_later_costs_one_warning(
    where: str, error: BaseException, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    recorder = Recorder(tmp_path, Broken(error, where), 2)
    recorder.open(0)
    for step in (1, 2, 3):
        recorder.numbers({"step": step, "loss": 1.0})
        recorder.picture(step, np.zeros((4, 4), np.uint8))
    recorder.close()
    assert [record.levelno for record in caplog.records] == [logging.WARNING], caplog.text
    assert "logger's entry of step" in caplog.text
    assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) == 3
    assert len(list((tmp_path / "samples").iterdir())) == 3


def test_a_thread_of_a_tracker_fails_without_a_traceback(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    recorder = Recorder(tmp_path, NoLogger(), 2)
    recorder.open(0)
    for _ in range(2):
        thread = threading.Thread(target=lambda: 1 / 0)
        thread.start()
        thread.join()
    recorder.close()
    assert [record.exc_info for record in caplog.records] == [None], caplog.text
    assert "ZeroDivisionError" in caplog.text
    assert threading.excepthook is threading.__excepthook__


@pytest.mark.parametrize("error", ["ImportError('no protobuf')", "TypeError('Descriptors cannot be created')"])
def test_tensorboard_that_cannot_be_imported_is_one_line_before_the_first_step(
    error: str, command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "path" / "tensorboard"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text(f"raise {error}\n")
    monkeypatch.syspath_prepend(str(package.parent))
    for name in [n for n in sys.modules if n.split(".")[0] == "tensorboard" or n.startswith("torch.utils.tensorboard")]:
        monkeypatch.delitem(sys.modules, name)
    outcome = command("train", *SHORT, code=1)
    assert "logger: TensorBoard cannot start (" in outcome.problem
    assert error.partition("'")[2].removesuffix("')") in outcome.problem
    assert outcome.problem.endswith("try logger=none")
    assert not (Path("run") / "checkpoints").exists()
    command("train", *SHORT, "logger=none", "resume=auto")


def full(*_: object, **__: object) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def recorder_with(tmp_path: Path, *steps: int) -> Recorder:
    recorder = Recorder(tmp_path, NoLogger(), keep=9)
    recorder.open(0)
    for step in steps:
        recorder.line({"step": step, "validation_loss": float(step)})  # the first is the best
        recorder.checkpoint(content(step))
    return recorder


def steps_in(run: Path) -> list[int]:
    return [run_dir.step_of(file) for file in run_dir.checkpoints(run)]


def disk_of(monkeypatch: pytest.MonkeyPatch, run: Path, files: int, code: int = errno.ENOSPC) -> None:
    """The disk has room for this many checkpoints."""
    real = checkpoint.save

    def save(*given: object, **more: object) -> Path:
        if len(steps_in(run)) >= files:
            raise OSError(code, os.strerror(code))
        return real(*given, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(checkpoint, "save", save)


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
def test_older_checkpoints_make_room(
    code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The newest whole one and the best stay."""
    recorder = recorder_with(tmp_path, 1, 2, 3, 4)
    disk_of(monkeypatch, tmp_path, 4, code)
    recorder.checkpoint(content(5))
    assert steps_in(tmp_path) == [5, 4, 1]
    assert recorder.saved == 5
    assert "2 older checkpoints were removed to make room" in caplog.text


def test_the_newest_whole_checkpoint_and_the_best_never_make_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorder = recorder_with(tmp_path, 1, 2, 3)
    disk_of(monkeypatch, tmp_path, 1)
    recorder.checkpoint(content(4))
    assert steps_in(tmp_path) == [3, 1]
    assert recorder.saved == 3
    monkeypatch.undo()
    recorder.checkpoint(content(5))
    assert recorder.saved == 5


def test_a_disk_that_fails_in_another_way_removes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recorder = recorder_with(tmp_path, 1, 2, 3)
    disk_of(monkeypatch, tmp_path, 0, errno.EIO)
    recorder.checkpoint(content(4))
    assert steps_in(tmp_path) == [3, 2, 1]


def test_a_full_disk_warns_once_of_the_lines_and_each_time_of_a_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    recorder = recorder_with(tmp_path)
    monkeypatch.setattr(recorders.MetricsFile, "write", full)
    for step in range(1, 50):
        recorder.line({"step": step, "loss": 0.0})
    monkeypatch.setattr(checkpoint, "save", full)
    recorder.checkpoint(content(50))
    recorder.checkpoint(content(51))
    told = [record.getMessage().partition(" not written")[0] for record in caplog.records]
    assert told == ["metrics of step 1", "checkpoint of step 50", "checkpoint of step 51"]
    assert all("try to free some space" in record.getMessage() for record in caplog.records)

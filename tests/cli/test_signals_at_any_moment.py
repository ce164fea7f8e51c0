"""A signal at any moment of a training: one line says where the weights are and how to go on, which then works."""

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest
from support.cli import TINY, Command

from dfm.runs import directory as run_dir

WORDS = (*TINY, "hydra.run.dir=run", "trainer.sample_every=1", "trainer.checkpoint_every=1")


def signal_before(monkeypatch: pytest.MonkeyPatch, what: str, call: int = 1) -> list[int]:
    """Send SIGTERM to this process when the function ``what`` is called for the ``call``-th time."""
    import pkgutil

    owner, _, name = what.rpartition(".")
    home = pkgutil.resolve_name(owner)
    real, calls = getattr(home, name), []

    def wrapped(*arguments: Any, **named: Any) -> Any:
        calls.append(1)
        if len(calls) == call:
            os.kill(os.getpid(), signal.SIGTERM)
        return real(*arguments, **named)

    monkeypatch.setattr(home, name, wrapped)
    return calls


LIKELIHOOD = "dfm.likelihood.scoring.Scoring.all"
PICTURE = "dfm.cli.commands.train.pictures.draw_samples"
VALIDATION = "dfm.training.trainer.Trainer.validation_loss"
DATA = "dfm.cli.commands.train.training_run.TrainingRun._make_trainer"


@pytest.mark.usefixtures("heeded")
@pytest.mark.parametrize(
    ("what", "call", "step", "says"),
    [
        (LIKELIHOOD, 1, 2, "stopped while measuring the likelihood of held-out data"),
        (PICTURE, 1, 1, "stopped after step 1"),
        (PICTURE, 3, 2, "stopped after step 2"),
        (VALIDATION, 1, 2, "stopped after step 2"),
    ],
)
def test_a_stopped_run_says_where_its_weights_are_and_goes_on(
    what: str, call: int, step: int, says: str, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        signal_before(patch, what, call)
        stopped = command("train", *WORDS, code=143)
    run = Path("run").resolve()
    line = f"SIGTERM: {says}; the newest checkpoint is that of step {step}; to go on, try dfm train resume={run}"
    assert line in stopped.err.splitlines()
    assert run_dir.step_of(run_dir.checkpoints(Path("run"))[0]) == step
    assert not Path("run/nll.json").exists()
    command("train", "resume=run")
    assert json.loads(Path("run/nll.json").read_text())["checkpoint_step"] == 2
    pictures = {path.name for path in Path("run/samples").iterdir()}
    assert {f"step_{k:08d}.png" for k in (1, 2)} <= pictures, "those that the signal ended are drawn after all"


@pytest.mark.usefixtures("heeded")
def test_a_signal_while_data_are_read(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    """A fresh run has nothing to go on from; a resumed one has its weights."""
    with monkeypatch.context() as patch:
        signal_before(patch, DATA)
        fresh = command("train", *WORDS, code=143)
    assert "stopped while reading the data and building the network; there is no checkpoint yet" in fresh.err
    command("train", *WORDS)
    with monkeypatch.context() as patch:
        signal_before(patch, DATA)
        resumed = command("train", "resume=run", "trainer.max_steps=3", code=143)
    line = f"the newest checkpoint is that of step 2; to go on, try dfm train resume={Path('run').resolve()}"
    assert line in resumed.err

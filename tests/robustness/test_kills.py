"""Killed at any moment and started again: the run is the one that was never killed, bit for bit.

A few chosen moments in the short set; ``make test-faults`` adds 50 random ones.
"""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from support.cli import TINY
from support.runs import assert_same, left

from dfm.runs import directory as run_dir

RUN = [
    *[text for text in TINY if not text.startswith(("trainer.", "nll."))], "trainer.max_steps=7", "trainer.log_every=1",
    "trainer.checkpoint_every=2", "trainer.sample_every=3", "trainer.validate_every=3", "nll.n=0",
    "trainer.batch_size=300", "trainer.num_workers=2",
]  # fmt: skip

# Sends itself SIGKILL at the n-th call of a function, before or after it, and runs dfm.
DRIVER = """
import importlib, os, signal, sys
place, when, count = sys.argv.pop(1), sys.argv.pop(1), int(sys.argv.pop(1))
module, _, name = place.rpartition(".")
try:
    home = importlib.import_module(module)
except ImportError:
    outer, _, kind = module.rpartition(".")
    home = getattr(importlib.import_module(outer), kind)
real, calls = getattr(home, name), []
def counted(*given, **more):
    calls.append(1)
    fatal = len(calls) == count
    if fatal and when == "before":
        os.kill(os.getpid(), signal.SIGKILL)
    found = real(*given, **more)
    if fatal:
        os.kill(os.getpid(), signal.SIGKILL)
    return found
setattr(home, name, counted)
from dfm.cli.main import main
main()
"""
MOMENTS = {
    "in a step": ("dfm.training.trainer.Trainer._move", "before", 4),
    "after a step, before its line": ("dfm.training.trainer.Trainer._move", "after", 5),
    "inside a checkpoint write": ("os.fsync", "before", 9),
    "before the rename": ("os.replace", "before", 6),
    "after the rename, before the old ones go": ("os.replace", "after", 7),
    "between a line and the checkpoint": ("dfm.cli.commands.train.training_run.TrainingRun.validate", "after", 2),
    "in a picture": ("dfm.runs.pictures.images.save_png", "before", 3),
    "before the first checkpoint": ("dfm.training.trainer.Trainer._move", "after", 1),
}


def dfm(directory: Path, *words: str, kill: tuple[str, str, int] | None = None) -> int:
    start = [sys.executable, "-c", DRIVER, kill[0], kill[1], str(kill[2])] if kill else [sys.executable, "-m", "dfm"]
    again = [*start, "train", *RUN, "resume=auto", f"hydra.run.dir={directory}", *words]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(again, capture_output=True, text=True, env=environment, timeout=300)
    assert done.returncode in (0, -signal.SIGKILL), done.stdout + done.stderr
    return done.returncode


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run that nothing happened to."""
    directory = tmp_path_factory.mktemp("whole") / "run"
    assert dfm(directory) == 0
    return directory


SHORT = ("inside a checkpoint write", "between a line and the checkpoint")


@pytest.mark.wide
@pytest.mark.parametrize("moment", [pytest.param(m, marks=[] if m in SHORT else pytest.mark.faults) for m in MOMENTS])
def test_killed_at_a_chosen_moment(moment: str, whole: Path, tmp_path: Path) -> None:
    directory = tmp_path / "run"
    assert dfm(directory, kill=MOMENTS[moment]) == -signal.SIGKILL, "it was killed"
    assert dfm(directory) == 0
    assert_same(whole, directory)
    assert no_line_twice(directory)
    assert not list(directory.rglob("*.tmp")), "no half file stays"
    weights = [load_file(run / "weights.safetensors") for run in (whole, directory)]
    assert all(torch.equal(value, weights[1][name]) for name, value in weights[0].items())


def no_line_twice(directory: Path) -> bool:
    lines = left(directory)[1]
    keys = [(line["step"], *sorted(line)) for line in lines]
    steps = [line["step"] for line in lines if "loss" in line]
    return len(set(keys)) == len(keys) and steps == list(range(1, 8))


@pytest.mark.faults
@pytest.mark.parametrize("seed", range(50))
def test_killed_at_a_random_time(seed: int, whole: Path, tmp_path: Path) -> None:
    """Killed again and again, each time a random part of the way further, until it is done."""
    directory, chance = tmp_path / "run", random.Random(seed)
    words = [sys.executable, "-m", "dfm", "train", *RUN, "resume=auto", f"hydra.run.dir={directory}"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    for _ in range(2):
        with subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment) as process:
            while process.poll() is None and not (directory / "metrics.jsonl").exists():
                time.sleep(0.01)
            time.sleep(chance.uniform(0, 2.5))
            process.kill()
    assert dfm(directory) == 0
    assert_same(whole, directory)
    assert no_line_twice(directory)
    assert run_dir.checkpoints(directory)

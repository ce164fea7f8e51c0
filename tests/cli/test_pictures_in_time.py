"""The time that pictures and validation take beside training."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from support.cli import TINY, Command

from dfm.basics.processes import World
from dfm.cli import console, progress
from dfm.cli.commands.train import pictures as module
from dfm.cli.commands.train.pictures import FREE, LAST, ROW, SHARE, Pictures
from dfm.cli.surroundings.signals import Interruption
from dfm.data.dataset import DatasetSpec
from dfm.runs import NoDecoder
from dfm.runs.metrics import read_metrics

MOVES = 4


class Simulation:
    """A run whose samples take a given time each, on a clock of its own."""

    def __init__(self, directory: Path, monkeypatch: pytest.MonkeyPatch, n: int, cost: float) -> None:
        self.now, self.cost, self.seconds, self.stored = 0.0, cost, 0.0, {}  # type: ignore[var-annotated]
        trainer = SimpleNamespace(
            step=0, seconds=0.0, config=SimpleNamespace(sample_every=10), averaged=lambda everywhere: None
        )
        spec = DatasetSpec(name="x", shape=(2,), levels=None, num_classes=0, mean=0.0, std=1.0)
        self.trainer = trainer
        run: Any = SimpleNamespace(
            trainer=trainer, job=SimpleNamespace(world=World()), directory=directory, spec=spec,
            parts=SimpleNamespace(objective=SimpleNamespace(trains="denoiser"), sampler=None),
            settings=SimpleNamespace(samples=SimpleNamespace(n=n, seed=0)), device=torch.device("cpu"),
            recorder=SimpleNamespace(picture=self.keep), decoder=NoDecoder(),
        )  # fmt: skip
        monkeypatch.setattr(module, "draw_samples", self.draw)
        monkeypatch.setattr(module, "picture", lambda samples, spec: np.zeros(len(samples)))
        with progress.work() as shown:
            self.pictures = Pictures(run, Interruption(), shown, clock=lambda: self.now)

    def keep(self, step: int, image: np.ndarray) -> None:
        self.stored[step] = len(image)

    def draw(self, *_: object, watch: Any, **__: object) -> Any:
        indices = _[2]
        for move in range(MOVES):
            self.now += self.cost * len(indices) / MOVES  # type: ignore[arg-type]
            self.seconds += self.cost * len(indices) / MOVES  # type: ignore[arg-type]
            state = SimpleNamespace(step=move + 1, final=move == MOVES - 1)
            watch(SimpleNamespace(indices=indices, state=state))
        return SimpleNamespace(samples=torch.zeros(len(indices), 2))  # type: ignore[arg-type]

    def train(self, steps: int, each: float) -> None:
        self.pictures.start()
        self.pictures.draw_if_possible()
        for _ in range(steps):
            self.trainer.step += 1
            self.trainer.seconds += each
            self.now += each
            if self.trainer.step % 10 == 0:
                self.pictures.due()
            if self.trainer.step < steps:
                self.pictures.draw_if_possible()
                move = self.cost * 64 / MOVES
                assert self.seconds <= FREE + SHARE * self.trainer.seconds + move, "a move that has begun is finished"


@pytest.mark.parametrize("cost", [1e-3, 0.05, 0.5, 2.0, 20.0])
def test_pictures_stay_within_their_share(cost: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[str] = []
    monkeypatch.setattr(console, "say", told.append)
    simulation = Simulation(tmp_path, monkeypatch, 64, cost)
    simulation.train(600, 1.0)
    assert len([text for text in told if "pictures take at most 5 s and 5%" in text]) == (cost >= 0.05)
    before = simulation.now
    simulation.pictures.draw_last()
    assert simulation.stored[600] == {1e-3: 64, 0.05: 64, 0.5: 64, 2.0: 24, 20.0: 8}[cost], "a row at least"
    assert simulation.now - before <= max(LAST, ROW * cost)
    if cost == 1e-3:
        assert simulation.stored == dict.fromkeys(range(0, 601, 10), 64), "quick ones are all there"
    if cost == 0.5:
        assert all(count % ROW == 0 for count in simulation.stored.values())
        assert 0 not in simulation.stored or simulation.stored[0] < 64


def test_a_slow_picture_never_delays_the_first_step_by_minutes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    simulation = Simulation(tmp_path, monkeypatch, 64, 10.0)
    simulation.pictures.start()
    simulation.pictures.draw_if_possible()
    assert simulation.now <= FREE + 10.0 * ROW / MOVES, "five seconds, and the move that has begun"
    assert not simulation.stored


def test_validation_counts_its_examples_by_the_steps_between(command: Command) -> None:
    """5 % of the work of 10 steps of 32 examples, three passes each, are 48 passes forward."""
    words = [*TINY, "trainer.validate_every=10", "nll.n=0"]
    done = command("train", *words)
    assert "validation: 48 of 200 examples each time" in done.err
    again = command("train", *words)
    losses = [
        [line["validation_loss"] for line in read_metrics(run / "metrics.jsonl") if "validation_loss" in line]
        for run in (done.run, again.run)
    ]
    assert losses[0] == losses[1]
    assert len(losses[0]) == 1
    enough = done.err.partition("try trainer.validate_every=")[2].split()[0]
    quiet = command("train", *TINY, f"trainer.validate_every={enough}", "nll.n=0").err
    assert "validation:" not in quiet

"""Likelihoods in bounded time: which examples are scored, and that their mean is a fair one."""

import json
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from support.cli import TINY, Command

from dfm.basics.processes import World
from dfm.cli.commands.nll import time_bound
from dfm.cli.commands.nll.time_bound import LEAST, Plan, in_time

N = 500


class Slow:
    """A scoring on a clock of its own: a batch costs ``start`` seconds and each example ``cost``."""

    def __init__(self, cost: float, start: float = 0.0) -> None:
        self.cost, self.start, self.now = cost, start, 0.0
        self.seed, self.batch_size, self.world, self.dequantizes = 3, 64, World(), True
        self.likelihood: Any = SimpleNamespace(
            ladder=dict, noisy=True, finer=lambda: SimpleNamespace(), estimate=lambda: None
        )

    def all(self, indices: Any) -> None:
        self.now += self.start * math.ceil(len(indices) / self.batch_size) + self.cost * len(indices)

    def plan(self, seconds: float, monkeypatch: pytest.MonkeyPatch) -> Plan:
        monkeypatch.setattr(time_bound, "choose_steps", lambda scoring, pilot: scoring)
        monkeypatch.setattr(time_bound, "time", SimpleNamespace(perf_counter=lambda: self.now))
        return in_time(self, range(N), list(range(0, N, 8)), seconds)  # type: ignore[arg-type]


@pytest.mark.parametrize("cost", [0.01, 0.2, 0.5, 2.0])
def test_the_plan_takes_about_its_time(cost: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """An audited example costs four more: another probe, other noise, and twice the steps."""
    slow = Slow(cost)
    plan = slow.plan(60.0, monkeypatch)
    slow.all(plan.indices)
    for _ in range(4):
        slow.all(plan.subset)
    whole = cost * (N + 4 * 63)
    assert slow.now <= 1.1 * max(60.0, 5 * LEAST * cost)
    assert plan.bounded == (whole > 60)
    if not plan.bounded:
        assert (plan.indices, plan.subset) == (range(N), list(range(0, N, 8)))
    else:
        assert set(plan.subset) <= set(plan.indices)
        assert slow.now >= 0.8 * 60.0


def test_a_few_examples_that_cost_more_each_than_a_batch_do_not_make_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    """A batch costs 0.5 s, whatever is in it: four examples alone would suggest 94 s for all, which take 8."""
    assert not Slow(0.001, start=0.5).plan(40.0, monkeypatch).bounded


def test_the_examples_are_the_first_of_an_order_that_no_speed_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    plans = [Slow(cost).plan(60.0, monkeypatch) for cost in (0.3, 0.6, 1.2)]
    sets = [set(plan.indices) for plan in plans]
    assert sets[2] < sets[1] < sets[0]
    assert sets[1] != set(range(len(sets[1]))), "the first of the split may all be of one kind"
    assert abs(np.mean(list(sets[0])) - N / 2) < 4.5 * N / math.sqrt(12 * len(sets[0]))


def test_a_bound_of_the_command_is_told_and_honest(tiny_run: Path, command: Command) -> None:
    """Each value is that of the whole scoring, and the error is that of the values that are there."""
    words = ("nll", f"ckpt={tiny_run}", "n=200", "likelihood.solver=euler", "likelihood.steps=1", "audit=8")
    whole, bounded = command(*words).run, command(*words, "max_minutes=1e-5")
    facts = json.loads((bounded.run / "nll.json").read_text())
    assert (facts["num_asked"], facts["num_examples"], facts["bounded_by_minutes"]) == (200, LEAST, 1e-5)
    assert f"{LEAST} of 200 examples, drawn at random" in bounded.err
    every, some = (np.genfromtxt(run / "nll.csv", delimiter=",", skip_header=1) for run in (whole, bounded.run))
    assert np.allclose(every[some[:, 0].astype(int), 1], some[:, 1], rtol=1e-5)
    assert facts["stderr"] == pytest.approx(some[:, 2].std(ddof=1) / math.sqrt(LEAST), rel=1e-6)
    unbounded = json.loads((whole / "nll.json").read_text())
    assert (unbounded["num_asked"], unbounded["bounded_by_minutes"]) == (200, None)


def test_the_likelihood_of_a_training_has_a_bound_and_is_done(command: Command) -> None:
    words = [*TINY, "nll.n=100", "nll.max_minutes=1e-5", "hydra.run.dir=run"]
    command("train", *words)
    facts = json.loads(Path("run/nll.json").read_text())
    assert (facts["num_asked"], facts["bounded_by_minutes"]) == (100, 1e-5)
    assert facts["num_examples"] < 100
    assert "done already" in command("train", "resume=run").err


def test_by_default_the_bound_is_a_fifth_of_the_training_and_a_minute_at_least() -> None:
    from dfm.cli.commands.train.final_report import time_bound as bound

    for minutes, given, expected in ((0.1, None, 1.0), (60.0, None, 12.0), (60.0, 3.0, 3.0)):
        run: Any = SimpleNamespace(
            settings=SimpleNamespace(nll=SimpleNamespace(max_minutes=given)),
            trainer=SimpleNamespace(seconds=60 * minutes),
        )
        assert bound(run) == pytest.approx(expected)


@pytest.mark.parametrize("words", [["train", "nll.max_minutes=0"], ["nll", "max_minutes=-1"]], ids=" ".join)
def test_a_bound_of_nothing_is_one_line(words: list[str], tiny_run: Path, command: Command) -> None:
    beside = TINY if words[0] == "train" else (f"ckpt={tiny_run}",)
    assert "above 0" in command(words[0], *beside, *words[1:], code=1).problem

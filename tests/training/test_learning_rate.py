"""The learning rate: closed forms, and what becomes of it when a run gets longer."""

import math

import pytest

from dfm.training.learning_rate import LearningRate
from dfm.training.trainer_config import TrainerConfig


def rate(**keys: object) -> LearningRate:
    return LearningRate(TrainerConfig(**{"max_steps": 100, "lr": 0.5, "warmup_steps": 10, **keys}))  # type: ignore[arg-type]


def test_warm_up_then_cosine_then_zero() -> None:
    found = rate()
    assert found.at(0, 0.0) == 0.05
    assert found.at(50, 0.5) == pytest.approx(0.25)
    assert found.at(75, 0.75) == pytest.approx(0.5 * math.cos(math.pi * 3 / 8) ** 2)
    assert found.at(100, 1.0) == pytest.approx(0, abs=1e-12)
    assert rate(lr_schedule="constant").at(99, 0.99) == 0.5


def test_kept_it_does_not_jump_and_ends_at_zero() -> None:
    """After 90 of 100 steps the run gets 200: from the rate of step 90 down to zero, half of it in the middle."""
    found = rate()
    last = found.at(89, 0.89)
    found.keep(90, 90 / 200, last)
    assert found.at(90, 90 / 200) == pytest.approx(last)
    rates = [found.at(step, step / 200) for step in range(90, 201)]
    assert rates == sorted(rates, reverse=True)
    assert found.at(145, 145 / 200) == pytest.approx(last / 2)
    assert rates[-1] == pytest.approx(0, abs=1e-12)
    again = rate()
    again.load_state(found.state())
    assert [again.at(step, step / 200) for step in range(90, 201)] == rates
    again.rewarm()
    assert again.at(90, 90 / 200) == rate().at(90, 90 / 200)


def test_kept_in_the_warm_up_it_still_rises() -> None:
    found = rate()
    found.keep(5, 5 / 200, found.at(4, 0.04))
    assert found.at(5, 5 / 200) == pytest.approx(found.at(4, 0.0) * 6 / 5 * math.cos(math.pi * 0.02) ** 2, rel=1e-2)


def test_a_run_that_was_done_stays_at_the_rate_of_its_last_step() -> None:
    found = rate()
    last = found.at(99, 0.99)
    found.keep(100, 100 / 300, last)
    assert found.at(100, 100 / 300) == pytest.approx(last) == pytest.approx(0.5 * math.sin(math.pi * 0.005) ** 2)
    found.keep(300, 1.0, 0.0)
    assert math.isfinite(found.at(300, 1.0))

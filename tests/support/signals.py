"""Signals at a chosen moment: the process sends itself one in the middle of its work."""

import importlib
import os
import signal
from typing import Any

import pytest

from dfm.cli.commands.train.training_run import TrainingRun


def signalled(monkeypatch: pytest.MonkeyPatch, step: int, number: signal.Signals) -> None:
    """The process sends itself a signal in the middle of the work of one step, once."""
    real, sent = TrainingRun.log_step, []

    def log_step(self: TrainingRun, report: object) -> dict[str, float]:
        if report.step == step and not sent:  # type: ignore[attr-defined]
            sent.append(step)
            os.kill(os.getpid(), number)
        return real(self, report)  # type: ignore[arg-type]

    monkeypatch.setattr(TrainingRun, "log_step", log_step)


def signalled_after(monkeypatch: pytest.MonkeyPatch, place: str, number: signal.Signals, call: int = 1) -> list[str]:
    """The process sends itself a signal after the n-th call of a function; the list returned then has an entry."""
    module, _, name = place.rpartition(".")
    try:
        home: Any = importlib.import_module(module)
    except ImportError:
        outer, _, kind = module.rpartition(".")
        home = getattr(importlib.import_module(outer), kind)
    real, calls, sent = getattr(home, name), [], []

    def counted(*given: object, **more: object) -> object:
        found = real(*given, **more)
        calls.append(name)
        if len(calls) == call:
            sent.append(name)
            os.kill(os.getpid(), number)
        return found

    monkeypatch.setattr(home, name, counted)
    return sent

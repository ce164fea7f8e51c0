"""Signals to stop: after the first one the step ends and is saved; a second one ends the process at once."""

import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from signal import Signals
from types import FrameType

SIGNALS = (signal.SIGTERM, signal.SIGINT)
# Seconds within which a second signal counts as the first one: a scheduler signals a process and also its parent, which
# passes the signal on.
SAME = 2.0


@dataclass
class Interruption:
    """The signal that asked to stop, or None, and when it came (monotonic seconds)."""

    signal: Signals | None = None
    since: float = 0.0


def exit_code(signal_number: Signals) -> int:
    """Return 128 + the number of the signal, as shells do: 143 after SIGTERM, 130 after SIGINT."""
    return 128 + signal_number


@contextmanager
def watch_signals() -> Iterator[Interruption]:
    """Record SIGTERM and SIGINT inside this block; a second signal ends the process. Ignored signals stay ignored.

    Only the main thread can watch signals. In another thread the block changes nothing.
    """
    interruption = Interruption()
    before: dict[Signals, object] = {}

    def record(number: int, frame: FrameType | None) -> None:
        if interruption.signal is None:
            interruption.signal, interruption.since = Signals(number), time.monotonic()
        elif time.monotonic() - interruption.since > SAME:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)

    try:
        for each in SIGNALS:
            if signal.getsignal(each) is not signal.SIG_IGN:
                before[each] = signal.signal(each, record)
    except ValueError:  # not the main thread
        before.clear()
    try:
        yield interruption
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)  # type: ignore[arg-type]

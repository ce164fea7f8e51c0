"""Asked to stop: the first signal lets the step end and be saved, a second one leaves at once."""

import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from signal import Signals
from types import FrameType

SIGNALS = (signal.SIGTERM, signal.SIGINT)
# Seconds within which a repeat is the same wish: schedulers signal a process and its parent, which passes it on.
SAME = 2.0


@dataclass
class Interruption:
    """The signal that asked to stop, or None, and when it came (monotonic seconds)."""

    signal: Signals | None = None
    since: float = 0.0


def exit_code(asked: Signals) -> int:
    """128 + the signal's number, as shells have it: 143 after SIGTERM, 130 after SIGINT."""
    return 128 + asked


@contextmanager
def watch_signals() -> Iterator[Interruption]:
    """Within, SIGTERM and SIGINT are noted, not obeyed, unless they are ignored anyway; a second one is obeyed.

    Only the main thread can watch; elsewhere nothing is noted and signals stay as they were.
    """
    asked = Interruption()
    before: dict[Signals, object] = {}

    def note(number: int, frame: FrameType | None) -> None:
        if asked.signal is None:
            asked.signal, asked.since = Signals(number), time.monotonic()
        elif time.monotonic() - asked.since > SAME:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)

    try:
        for each in SIGNALS:
            if signal.getsignal(each) is not signal.SIG_IGN:
                before[each] = signal.signal(each, note)
    except ValueError:  # not the main thread
        before.clear()
    try:
        yield asked
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)  # type: ignore[arg-type]

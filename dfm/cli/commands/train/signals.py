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


class StoppedError(BaseException):
    """The end of work that may stop at any place. Like KeyboardInterrupt it is no Exception, so that nothing hides it.

    Args:
        signal: the signal that asked to stop.
    """

    def __init__(self, signal: Signals) -> None:
        super().__init__(signal)
        self.signal = signal


@dataclass
class Interruption:
    """The signal that asked to stop, or None, and when it came (monotonic seconds)."""

    signal: Signals | None = None
    since: float = 0.0
    immediate: bool = False

    @contextmanager
    def at_once(self) -> Iterator[None]:
        """Let a signal end this block at once, also one that came before it.

        Raises:
            StoppedError: a signal has come.
        """
        self.immediate = True
        try:
            if self.signal is not None:
                raise StoppedError(self.signal)
            yield
        finally:
            self.immediate = False


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
            if interruption.immediate:
                raise StoppedError(interruption.signal)
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

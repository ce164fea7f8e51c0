"""Asked to stop: the first signal lets the step end and be saved, the second leaves at once."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from signal import Signals
from types import FrameType

SIGNALS = (signal.SIGTERM, signal.SIGINT)


@dataclass
class Interruption:
    """The signal that asked to stop, or None."""

    signal: Signals | None = None

    @property
    def exit_code(self) -> int:
        """128 + the signal's number, as shells have it: 143 after SIGTERM, 130 after SIGINT."""
        return 128 + (self.signal or 0)


@contextmanager
def watched() -> Iterator[Interruption]:
    """Within, SIGTERM and SIGINT are noted, not obeyed; from the second one on the system's own answer stands.

    Only the main thread can watch; elsewhere nothing is noted and signals stay as they were.
    """
    asked = Interruption()
    before: dict[Signals, object] = {}

    def note(number: int, frame: FrameType | None) -> None:
        asked.signal = Signals(number)
        for each in before:
            signal.signal(each, signal.SIG_DFL)

    try:
        for each in SIGNALS:
            before[each] = signal.signal(each, note)
    except ValueError:  # not the main thread
        before.clear()
    try:
        yield asked
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)  # type: ignore[arg-type]

"""Signals that ask a command to stop. A training ends its step and saves; every other piece of work ends at once.

SIGTERM, SIGINT, SIGHUP (the terminal was closed), SIGUSR1 and SIGUSR2 (a batch system warns of the end) mean the same.
A signal that is ignored, as nohup ignores SIGHUP, stays ignored.
"""

import contextlib
import logging
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from signal import Signals
from types import FrameType
from typing import Any

log = logging.getLogger("dfm")

NAMES = ("SIGTERM", "SIGINT", "SIGHUP", "SIGUSR1", "SIGUSR2")
SIGNALS = tuple(Signals[name] for name in NAMES if name in Signals.__members__)  # Windows lacks some
# Only these mean "at once" when they come again. The others warn, and a scheduler may warn more than once.
URGENT = (signal.SIGTERM, signal.SIGINT)
# Seconds within which a second signal counts as the first one: a scheduler signals a process and also its parent, which
# passes the signal on.
SAME = 2.0


class StoppedError(BaseException):
    """A signal ends the work that is being done. It is no ``Exception``, so that no handler of errors takes it."""

    def __init__(self, number: Signals) -> None:
        super().__init__(number.name)
        self.signal = number


@dataclass
class Interruption:
    """The signal that asked to stop, or None, and when it came (monotonic seconds).

    Args:
        advice: returns what a signal that ends the process at once should say: what is on disk, and how to go on.
    """

    signal: Signals | None = None
    since: float = 0.0
    advice: Callable[[], str] = lambda: ""
    _came: list[Signals] = field(default_factory=list)
    _before: dict[Signals, Any] = field(default_factory=dict)
    _process: int = field(default_factory=os.getpid)
    _breaks: bool = False
    _saves: bool = False

    @contextmanager
    def at_once(self) -> Iterator[None]:
        """Let a signal end this block at once, also one that came before it.

        Raises:
            StoppedError: a signal has come.
        """
        self._breaks = True
        try:
            if self.signal is not None:
                raise StoppedError(self.signal)
            yield
        finally:
            self._breaks = False

    @contextmanager
    def saving(self) -> Iterator[None]:
        """Do not let a second signal end the process inside this block: the file is finished first."""
        self._saves = True
        try:
            yield
        finally:
            self._saves = False

    def hand_on(self) -> None:
        """Give each signal that came to the handler that was there before, e.g. of a launcher that requeues the job."""
        for number in self._came:
            handler = self._before.get(number)
            if callable(handler) and handler is not signal.default_int_handler and not _is_ours(handler):
                handler(number, None)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if os.getpid() != self._process:  # a child process, which its parent ends with SIGTERM
            if number == signal.SIGTERM:
                _die(number)
            return
        came, now = Signals(number), time.monotonic()
        if came not in self._came:
            self._came.append(came)
        if self.signal is None:
            self.signal, self.since = came, now
            self._break_off(came)
            again = "; to stop at once, send it again" if came in URGENT else ""
            _tell(f"{came.name}: the step ends and is saved{again}")
        elif came in URGENT and self.signal not in URGENT:
            self.signal, self.since = came, now  # the end that was warned of has come
            self._break_off(came)
        elif came in URGENT and now - self.since > SAME:
            if self._saves:
                self._saves, self.since = False, now
                _tell(f"{came.name}: a checkpoint is being written; to stop before it is whole, send it again")
            else:
                _tell(f"{came.name}: stopped at once; {self.advice()}".removesuffix("; "))
                _die(came)

    def _break_off(self, came: Signals) -> None:
        if self._breaks:
            self._breaks = False  # what cleans up behind the block is not broken off
            raise StoppedError(came)

    @contextmanager
    def _installed(self, over_others: bool) -> Iterator[None]:
        """Let this object handle the signals inside the block.

        Args:
            over_others: whether it comes before handlers that others have installed, e.g. submitit.
        """
        try:
            for each in SIGNALS:
                handler = signal.getsignal(each)
                ours = handler in (signal.SIG_DFL, signal.default_int_handler) or _is_ours(handler)
                if ours or (over_others and callable(handler)):  # not: ignored, or a handler of a C library
                    self._before[each] = signal.signal(each, self._note)
        except ValueError:  # not the main thread, which alone can handle signals
            self._before.clear()
        try:
            yield
        finally:
            for each, handler in self._before.items():
                signal.signal(each, handler)


def _is_ours(handler: object) -> bool:
    return isinstance(getattr(handler, "__self__", None), Interruption)


def _die(number: int) -> None:
    """End this process as the signal does by itself."""
    signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)


def _tell(message: str) -> None:
    # A handler may run in the middle of a write to the same stream, which then refuses a second one.
    with contextlib.suppress(RuntimeError):
        log.warning(message)


def exit_code(number: Signals) -> int:
    """Return 128 + the number of the signal, as shells do: 143 after SIGTERM, 130 after SIGINT."""
    return 128 + number


@contextmanager
def watch_signals() -> Iterator[Interruption]:
    """Note the signals that come inside this block, and let the work go on; a second one ends the process.

    Only the main thread can watch signals. In another thread the block changes nothing.
    """
    interruption = Interruption()
    with interruption._installed(over_others=True):
        yield interruption


@contextmanager
def stop_at_signals() -> Iterator[None]:
    """End this block at a signal: what it was writing is removed, and ``StoppedError`` is raised.

    A handler that others have installed, e.g. of a launcher that requeues the job, keeps its signal.
    """
    interruption = Interruption(_breaks=True)
    with interruption._installed(over_others=False):
        yield

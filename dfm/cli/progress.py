"""Progress of long work: what is being done, how fast, and how long it still takes.

On a terminal it is a bar. In a pipe or a file it is a line after 5, 10, 20, 40, 80 seconds, then every minute, so that
work that is soon done says nothing.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from dfm.cli import console

FIRST, LONGEST = 5.0, 60.0  # seconds to the first line, and between lines at most
Clock = Callable[[], float]


class Task:
    """One kind of work with a number of parts.

    Args:
        name: what is being done.
        total: the number of parts.
        unit: what a part is, in the plural.
        lines: whether a line is printed now and then where there is no terminal.
        clock: returns the time in seconds.
    """

    def __init__(
        self, bars: console.Bars, name: str, total: int, unit: str, *, done: int = 0, lines: bool, clock: Clock
    ) -> None:
        self.name, self.total, self.unit, self.done, self._text = name, total, unit, done, ""
        self._bars, self._first, self._clock = bars, done, clock
        self._row = bars.add_task(name, total=total, completed=done, note="", unit=unit)
        self._since = clock()
        self._next = FIRST if lines else float("inf")

    def advance(self, count: int = 1) -> None:
        """Count parts that are done."""
        self.update(self.done + count)

    def note(self, text: str) -> None:
        """Say more beside the count."""
        self._text = text
        self.update(self.done)

    def update(self, done: int, total: int | None = None) -> None:
        """Set how many parts are done, and how many there are."""
        self.done, self.total = done, self.total if total is None else total
        self._bars.update(self._row, completed=done, total=self.total, note=self._text)
        seconds = self._clock() - self._since
        if seconds >= self._next:
            self._next = seconds + min(seconds, LONGEST)
            console.say(self._line(seconds))

    def _line(self, seconds: float) -> str:
        parts, new = [f"{self.name}: {self.done} of {self.total} {self.unit}"], self.done - self._first
        if self._text:
            parts.append(self._text)
        if new > 0:
            parts.append(f"{new / seconds:.3g} {self.unit}/s")
            parts.append(f"{duration((self.total - self.done) * seconds / new)} left")
        return ", ".join(parts)

    def close(self) -> None:
        """Remove the bar."""
        self._bars.remove_task(self._row)


class Work:
    """All that a command does, one task after the other or one inside another."""

    def __init__(self, bars: console.Bars, lines: bool, clock: Clock) -> None:
        self._bars, self._lines, self._clock = bars, lines, clock

    @contextmanager
    def task(self, name: str, total: int, unit: str, *, done: int = 0, brief: bool = False) -> Iterator[Task]:
        """Show a task while this block runs.

        Args:
            done: how many parts are done already.
            brief: whether the bar goes away at the end.
        """
        task = Task(self._bars, name, total, unit, done=done, lines=self._lines, clock=self._clock)
        try:
            yield task
        finally:
            if brief:
                task.close()


@contextmanager
def work(quiet: bool = False, clock: Clock = time.monotonic) -> Iterator[Work]:
    """Show the progress of tasks while this block runs.

    Args:
        quiet: show nothing.
    """
    with console.bars(quiet) as bars:
        yield Work(bars, lines=not quiet and not console.interactive(), clock=clock)


@contextmanager
def task(name: str, total: int, unit: str, quiet: bool = False) -> Iterator[Task]:
    """Show one task while this block runs."""
    with work(quiet) as shown, shown.task(name, total, unit) as one:
        yield one


def duration(seconds: float) -> str:
    """Return a time as text: 45 s, 3 min 20 s, 2 h 5 min."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    return f"{whole // 60} min {whole % 60} s" if whole < 3600 else f"{whole // 3600} h {whole % 3600 // 60} min"

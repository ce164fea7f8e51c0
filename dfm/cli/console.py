"""Output to the user: results on stdout; bars, log lines, warnings and errors on stderr. Only this module uses rich."""

import contextlib
import logging
import sys
from collections.abc import Iterable, Sequence

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table
from rich.text import Text

WIDTH = 120  # of a table in a file or a pipe; rich would take 80 columns
ON_STDOUT = {"on_stdout": True}  # marks a log record that is on stdout already

_out = Console(highlight=False, soft_wrap=True, width=None if sys.stdout.isatty() else WIDTH)
_err = Console(highlight=False, soft_wrap=True, stderr=True)


class _ToUser(logging.Handler):
    """The handler that shows the records of the logger ``dfm`` on stderr. Hydra adds another for the run's log file."""

    def emit(self, record: logging.LogRecord) -> None:
        if getattr(record, "on_stdout", False):
            return
        text = record.getMessage()
        if record.levelno >= logging.ERROR:
            print(f"error: {' '.join(text.split())}", file=sys.stderr)
        elif record.levelno == logging.WARNING:
            _err.print(f"warning: {text}", markup=False, style="yellow")
        else:
            _err.print(text, markup=False)


class RunLog(logging.FileHandler):
    """The log file of a run, in UTF-8. If the file cannot be written, one warning says so, and the run goes on.

    Lines that are lost stay lost; the file goes on when the disk takes lines again.
    """

    def __init__(self, filename: str) -> None:
        super().__init__(filename, encoding="utf-8", errors="backslashreplace", delay=True)
        self._warned = False

    def emit(self, record: logging.LogRecord) -> None:
        try:
            super().emit(record)
        except OSError:  # the file cannot be opened
            self.handleError(record)

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802, the name is logging's
        error = sys.exc_info()[1]
        stream, self.stream = self.stream, None
        if stream is not None:
            with contextlib.suppress(OSError):
                stream.close()  # drops what it holds; otherwise Python would try to write it to the very end
        if not self._warned and record.levelno < logging.ERROR:  # an error is the last line of its command
            self._warned = True
            reason = getattr(error, "strerror", None) or error
            print(f"warning: {self.baseFilename}: lines are lost ({reason})", file=sys.stderr)


log = logging.getLogger("dfm")
log.setLevel(logging.INFO)
log.addHandler(_ToUser())


def result(message: str) -> None:
    """Print one line of a result on stdout, and keep it in the run's log."""
    _out.print(message, markup=False)
    log.info(message, extra=ON_STDOUT)


def say(message: str) -> None:
    """Print a log line on stderr, and keep it in the run's log."""
    log.info(message)


def notices(lines: Iterable[str]) -> None:
    """Print what a user should know of the data that were just read."""
    for line in lines:
        say(line)


def warn(message: str) -> None:
    """Print a warning on stderr, and keep it in the run's log."""
    log.warning(message)


def error(message: str) -> None:
    """Print an error as one line on stderr, and keep it in the run's log."""
    log.error(message)


def mute() -> None:
    """Show only errors from now on. Only one of several processes prints."""
    _out.quiet = _err.quiet = True
    log.addFilter(lambda record: record.levelno >= logging.ERROR)


def interactive() -> bool:
    """Whether stderr is a terminal, where progress bars can move."""
    return _err.is_terminal


Bars = Progress


class _Rate(ProgressColumn):
    """The number of parts that are done in a second."""

    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        return Text("" if not speed else f"{speed:.3g} {task.fields['unit']}/s")


def bars(quiet: bool = False) -> Bars:
    """Return live bars with rate and time left, for ``dfm.cli.progress``.

    Each task has the fields ``note`` and ``unit``. If stderr is not a terminal, nothing is drawn.
    """
    columns = [
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[note]}"),
        _Rate(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    ]
    return Progress(*columns, console=_err, disable=quiet or not interactive(), transient=False)


def table(title: str, columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Print a table on stdout. If it is too wide, the cells of the last column are folded."""
    view = Table(title=Text(title), title_justify="left")  # a file in brackets is no markup
    for name in columns:
        view.add_column(name, overflow="fold", no_wrap=name != columns[-1])
    for row in rows:
        view.add_row(*map(Text, row))  # a name in brackets is no markup
    _out.print(view)

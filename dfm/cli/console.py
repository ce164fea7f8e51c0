"""What a person sees: results on stdout; bars, log lines, warnings and errors on stderr. The one module with rich."""

import logging
import sys
from collections.abc import Iterable, Sequence

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

WIDEST = 120  # of a table in a file or a pipe, which rich takes to be 80 columns wide
SHOWN = {"shown": True}  # of a record that the user has seen on stdout

_out = Console(highlight=False, soft_wrap=True, width=None if sys.stdout.isatty() else WIDEST)
_err = Console(highlight=False, soft_wrap=True, stderr=True)


class _ToUser(logging.Handler):
    """Shows the records of the logger ``dfm`` on stderr; Hydra adds the handler that writes the run's log file."""

    def emit(self, record: logging.LogRecord) -> None:
        if getattr(record, "shown", False):
            return
        text = record.getMessage()
        if record.levelno >= logging.ERROR:
            print(f"error: {' '.join(text.split())}", file=sys.stderr)
        elif record.levelno == logging.WARNING:
            _err.print(f"warning: {text}", markup=False, style="yellow")
        else:
            _err.print(text, markup=False)


log = logging.getLogger("dfm")
log.setLevel(logging.INFO)
log.addHandler(_ToUser())


def result(message: str) -> None:
    """Print one line of a result on stdout, and keep it in the run's log."""
    _out.print(message, markup=False)
    log.info(message, extra=SHOWN)


def say(message: str) -> None:
    """Print a log line on stderr, and keep it in the run's log."""
    log.info(message)


def warn(message: str) -> None:
    """Print a warning on stderr, and keep it in the run's log."""
    log.warning(message)


def error(message: str) -> None:
    """Print an error as one line on stderr, and keep it in the run's log."""
    log.error(message)


def mute() -> None:
    """Show nothing from now on but errors: one of several processes speaks."""
    _out.quiet = _err.quiet = True
    log.addFilter(lambda record: record.levelno >= logging.ERROR)


def interactive() -> bool:
    """Whether bars can move: stderr is a terminal."""
    return _err.is_terminal


def bar(fields: str = "", quiet: bool = False) -> Progress:
    """Return a live progress bar with the time left; ``fields`` formats its fields, e.g. ``{task.fields[loss]}``.

    Where stderr is not a terminal nothing is drawn; commands print lines instead.
    """
    columns = [
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        *([TextColumn(fields)] if fields else []),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    ]
    return Progress(*columns, console=_err, disable=quiet or not interactive(), transient=False)


def table(title: str, columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Print a table on stdout; where it is too wide, the cells of the last column fold."""
    view = Table(title=title, title_justify="left")
    for name in columns:
        view.add_column(name, overflow="fold", no_wrap=name != columns[-1])
    for row in rows:
        view.add_row(*row)
    _out.print(view)

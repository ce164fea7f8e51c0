"""What a person sees: rich progress bars, tables and one-line errors. The one module with rich."""

import logging
import sys
from collections.abc import Iterable, Sequence

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

log = logging.getLogger("dfm")
log.addHandler(logging.NullHandler())  # before Hydra sets logging up, nothing may be printed twice
WIDEST = 120  # of a table in a file or a pipe
# rich takes a pipe to be 80 columns wide, and no later width can exceed the console's own
_out = Console(highlight=False, soft_wrap=True, width=None if sys.stdout.isatty() else WIDEST)


def say(message: str) -> None:
    """One line for the user, also in the run's log."""
    _out.print(message, markup=False)
    log.info(message)


def show(message: str) -> None:
    """One line for the user, where there is no run whose log could take it."""
    _out.print(message, markup=False)


def warn(message: str) -> None:
    """One line of warning, also in the run's log."""
    _out.print(f"warning: {message}", markup=False, style="yellow")
    log.warning(message)


def error(message: str) -> None:
    """One line of error on stderr, also in the run's log."""
    log.error(message)
    print(f"error: {' '.join(message.split())}", file=sys.stderr)


def mute() -> None:
    """Say nothing from now on but errors: one of several processes speaks."""
    _out.quiet = True
    log.addFilter(lambda record: False)  # Hydra's own set-up of logging would undo ``log.disabled``


def interactive() -> bool:
    """Whether bars can move: the output is a terminal."""
    return _out.is_terminal


def bar(fields: str = "", quiet: bool = False) -> Progress:
    """A live progress bar with the time left; ``fields`` formats the task's fields, e.g. ``{task.fields[loss]}``.

    Where the output is not a terminal nothing is drawn; commands print lines instead.
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
    return Progress(*columns, console=_out, disable=quiet or not interactive(), transient=False)


def table(title: str, columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """A table; where it is too wide, the cells of the last column fold."""
    view = Table(title=title, title_justify="left")
    for name in columns:
        view.add_column(name, overflow="fold", no_wrap=name != columns[-1])
    for row in rows:
        view.add_row(*row)
    _out.print(view)

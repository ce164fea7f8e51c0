"""Early ends of a job that are nobody's mistake, each in one line: a signal, or a disk that refuses."""

import contextlib
from collections.abc import Iterator

from dfm.basics.errors import UserError
from dfm.basics.files import refusal
from dfm.basics.processes import world
from dfm.cli import console
from dfm.cli.surroundings.signals import StoppedError, exit_code, stop_at_signals


@contextlib.contextmanager
def one_line_ends() -> Iterator[None]:
    """Let a signal end the job inside this block with one line and exit code 128 + n.

    Raises:
        SystemExit: a signal came.
        UserError: the disk refuses to write or to read.
    """
    try:
        with stop_at_signals():
            yield
    except StoppedError as stopped:
        if world().first:  # torchrun ends the other processes so when one has failed
            console.error(f"interrupted by {stopped.signal.name}")
        raise SystemExit(exit_code(stopped.signal)) from None
    except OSError as error:
        reason = refusal(error)
        if reason is None:
            raise
        raise UserError(reason) from error

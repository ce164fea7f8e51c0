"""Early ends of a job that are nobody's mistake, each in one line: a signal, a disk that refuses, or full memory."""

import contextlib
from collections.abc import Iterator

from dfm.basics.errors import UserError, is_out_of_memory
from dfm.basics.files import refusal
from dfm.basics.processes import world
from dfm.cli import console
from dfm.cli.surroundings.signals import StoppedError, exit_code, stop_at_signals


@contextlib.contextmanager
def one_line_ends(smaller: str = "a smaller job") -> Iterator[None]:
    """Let a signal end the job inside this block with one line and exit code 128 + n.

    Args:
        smaller: what to try if the memory is not enough.

    Raises:
        SystemExit: a signal came.
        UserError: the disk refuses to write or to read, or the memory is not enough.
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
    except (RuntimeError, MemoryError) as error:  # torch's own error is a RuntimeError
        if not is_out_of_memory(error):
            raise
        text = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
        raise UserError(f"out of memory ({text}); try {smaller}") from error

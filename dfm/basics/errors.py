"""What a user can get wrong, in one line: what was given, what is allowed, what to try."""

import difflib
from collections.abc import Iterable


class UserError(ValueError):
    """A mistake of the user's. Commands print its message alone, as one line, and exit with code 1.

    What is given back in it may hold anything: characters that would break the line are told by their escapes.
    """

    def __init__(self, message: str) -> None:
        super().__init__("".join(c if c.isprintable() else ascii(c)[1:-1] for c in message))


class ProcessError(UserError):
    """A failure of one process among several: it is told by that process, whichever it is."""


def unknown(what: str, given: object, allowed: Iterable[str]) -> UserError:
    """The error for a name that does not exist: ``what`` (e.g. ``"split"``), the name given, the names allowed."""
    names = sorted(allowed)
    close = difflib.get_close_matches(str(given), names, n=1)
    hint = f"; did you mean '{close[0]}'?" if close else ""
    return UserError(f"unknown {what} '{given}'; allowed: {', '.join(names)}{hint}")

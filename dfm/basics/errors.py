"""Mistakes of the user, each in one line: what was given, what is allowed, what to try."""

import difflib
from collections.abc import Iterable


class UserError(ValueError):
    """A mistake of the user. Commands print only its message, in one line, and exit with code 1.

    A message may quote user input; unprintable characters are shown as escapes, so it stays one line.
    """

    def __init__(self, message: str) -> None:
        super().__init__("".join(c if c.isprintable() else ascii(c)[1:-1] for c in message))


class ProcessError(UserError):
    """A failure of one process among several. That process reports it, even if it is not the first one."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error means that the memory of a device, or of the machine, is used up."""
    kinds = isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"  # without importing torch
    # torch's words where the machine's own memory is used up: on Linux, and on other systems
    return kinds or any(words in str(error) for words in ("can't allocate memory", "not enough memory"))


def _closest(name: str, names: list[str]) -> str | None:
    """Return the most similar name. Of names with dots, only the words after the last dot are compared first.

    Among names with the same last word, one with the same words before it goes first.
    """
    above, _, last = name.lower().replace("/", ".").rpartition(".")
    whole = difflib.get_close_matches(name, [n for n in names if "." not in n or "." not in name], n=1)
    near_first = sorted(names, key=lambda n: n.rpartition(".")[0].lower() != above)
    ends = {n.rpartition(".")[2].lower(): n for n in reversed(near_first)}
    close = difflib.get_close_matches(last, ends, n=1)
    return whole[0] if whole and "." not in name else ends[close[0]] if close else None


def unknown(kind: str, name: object, allowed: Iterable[str]) -> UserError:
    """Return the error for a name that does not exist.

    Args:
        kind: the kind of thing that has a name, e.g. ``"split"``.
        name: the name that the user gave.
        allowed: the names that exist.
    """
    names = sorted(allowed)
    close = _closest(str(name), names)
    hint = f"; did you mean '{close}'?" if close else ""
    return UserError(f"unknown {kind} '{name}'; allowed: {', '.join(names)}{hint}")

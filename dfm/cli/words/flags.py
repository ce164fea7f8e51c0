"""The flags of a command line: ``--cfg job``, ``-m``, ``-cd DIR`` and Hydra's others, anywhere between overrides."""

import argparse
import os
from collections.abc import Sequence
from dataclasses import dataclass, field

from hydra._internal.utils import get_args_parser

from dfm.basics.errors import UserError
from dfm.basics.locations import with_home
from dfm.cli.composition.config_dirs import options
from dfm.cli.words.known_keys import KnownKeys

DIRECTORIES = ("--config-dir", "--config-path")
USUAL = "--help, -m, -cd DIR, --cfg job, --resolve, --package KEY, --info"
ONE_OF = ("--run", "--multirun", "--cfg", "--info")  # Hydra does one of these


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """The words after ``dfm COMMAND``, sorted.

    Args:
        flags: {long name of a flag: its value, or None if it takes none}.
        overrides: all other words, in their order.
    """

    flags: dict[str, str | None] = field(default_factory=dict)
    overrides: list[str] = field(default_factory=list)

    def words(self) -> list[str]:
        """Return the words in the order that Hydra's parser needs: flags first."""
        return [*(n if value is None else f"{n}={value}" for n, value in self.flags.items()), *self.overrides]


def sort_arguments(command: str, words: Sequence[str]) -> Arguments:
    """Return the words of a command line, sorted into flags and overrides.

    Raises:
        UserError: a flag is unknown, lacks its value, has an unknown value, or does not go with another.
    """
    known = _known_flags()
    found, rest = Arguments(), list(words)
    while rest:
        word = rest.pop(0)
        if word == "--":
            continue
        if not word.startswith("-"):
            found.overrides.append(word)
            continue
        given, equals, text = word.partition("=")
        flag = _flag(given, known)
        if flag is None:
            raise _unknown(command, word, rest)
        found.flags[flag.option_strings[0]] = _value(flag, given, text if equals else None, rest)
    _check_together(found.flags)
    return found


def _known_flags() -> dict[str, argparse.Action]:
    return {name: action for action in get_args_parser()._actions for name in action.option_strings}


def _flag(given: str, known: dict[str, argparse.Action]) -> argparse.Action | None:
    """Return the flag of this name, or the only one whose long name begins like this."""
    starts = {id(known[name]): known[name] for name in known if given.startswith("--") and name.startswith(given)}
    return known.get(given) or (next(iter(starts.values())) if len(starts) == 1 else None)


def _value(flag: argparse.Action, given: str, text: str | None, rest: list[str]) -> str | None:
    """Return the value of a flag. It is ``text``, or else the first of the words after it, which is then removed."""
    if flag.nargs == 0:
        if text is not None:
            raise UserError(f"{given}={text}: this flag takes no value; try {given}")
        return None
    choices = [str(choice) for choice in flag.choices or ()]
    optional = flag.nargs == "?"
    if text is None and rest and (rest[0] in choices if choices else not rest[0].startswith("-")):
        text = rest.pop(0)
    if text is None and optional:
        text = str(flag.const)
    if not text or (choices and text not in choices):
        allowed = ", ".join(choices) or f"a value after it, as in {given} {flag.dest.rpartition('_')[2].upper()}"
        hint = f"; try {given} {choices[0]}" if choices else ""
        raise UserError(f"{given}{f' {text}' if text else ': no value'}; allowed: {allowed}{hint}")
    return os.path.abspath(with_home(text)) if flag.option_strings[0] in DIRECTORIES else text


def _check_together(flags: dict[str, str | None]) -> None:
    """Refuse flags that do not go together.

    Raises:
        UserError: they do not.
    """
    if "--help" in flags:
        return
    for name in ("--resolve", "--package"):
        if name in flags and "--cfg" not in flags:
            text = name if flags[name] is None else f"{name} {flags[name]}"
            raise UserError(f"{text}: it changes what --cfg prints, which is not given; try --cfg job {text}")
    modes = [name for name in ONE_OF if name in flags]
    if len(modes) > 1:
        spare = " ".join(text for text in (modes[0], flags[modes[0]]) if text)
        raise UserError(f"{' and '.join(modes)} do not go together; allowed: one of them; try without {spare}")


def _unknown(command: str, word: str, rest: Sequence[str]) -> UserError:
    """Return the error for an unknown flag. It says how to set the key that the flag seems to mean."""
    given, equals, text = word.partition("=")
    value = text if equals else rest[0] if rest and "=" not in rest[0] and not rest[0].startswith("-") else None
    hint = _override(command, given.lstrip("-").replace("-", "_"), value) or f"dfm {command} --help"
    return UserError(
        f"unknown flag '{given}'; settings are KEY=VALUE or GROUP=OPTION, without dashes; allowed: {USUAL}; try {hint}"
    )


def _override(command: str, name: str, value: str | None) -> str | None:
    """Return ``KEY=VALUE`` for the key or group that has this name, or a similar one; None if there is none."""
    known = KnownKeys(command)
    if name in known.groups:
        return f"{name}={value if value in options(name) else options(name)[0]}"
    key = known.similar(name)
    if key is None:
        return None
    default = "true" if isinstance(known.leaves[key], bool) else "VALUE"
    return f"{key}={default if value is None else value}"

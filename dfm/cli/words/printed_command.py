"""Command lines that dfm prints, such as how to go on: they work in a shell as they are printed."""

import re
import shlex
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException

from dfm.cli.composition.config_dirs import SEARCH_PATH
from dfm.cli.words.own_code import TRUST, key_of

DIRECTORY = ("-cd", "--config-dir")
REFERENCE = re.compile(r"(\\*)\$\{")
QUOTE_OR_END = re.compile(r'(\\*)("|$)')


def printed(command: str, *words: str) -> str:
    """Return ``dfm COMMAND WORDS`` for a shell, with ``-cd`` and ``trust=`` of the running command line.

    Args:
        words: overrides as Hydra reads them, e.g. from ``setting``.
    """
    return shlex.join(["dfm", command, *own_words(sys.argv[1:]), *words])


def setting(key: str, value: object) -> str:
    """Return the override that sets a key to this text, with quotes where Hydra would read the bare text otherwise."""
    text = REFERENCE.sub(lambda match: 2 * match[1] + "\\${", str(value))  # OmegaConf halves backslashes before ${
    bare = f"{key}={text}"
    if reads_as(bare) == text:
        return bare
    quoted = QUOTE_OR_END.sub(lambda match: 2 * match[1] + ('\\"' if match[2] else ""), text)
    return f'{key}="{quoted}"'


def typed(key: str, value: object) -> str:
    """Return ``setting`` as one types it in a shell."""
    return shlex.quote(setting(key, value))


def resumed(run: Path) -> str:
    """Return the command that goes on with a training run."""
    return printed("train", setting("resume", run))


def reads_as(override: str) -> object:
    """Return the value that Hydra reads from an override; None if it cannot read it."""
    try:
        value: object = OverridesParser.create().parse_override(override).value()
    except HydraException:
        return None
    return value


def own_words(arguments: Sequence[str]) -> Iterator[str]:
    """Yield the words of a command line that name the user's own code and YAML files."""
    for word, before in zip(arguments, ["", *arguments], strict=False):
        names_trust = "=" in word and key_of(word) == TRUST
        if names_trust or {word, before} & {*DIRECTORY} or word.startswith(("--config-dir=", SEARCH_PATH)):
            yield word

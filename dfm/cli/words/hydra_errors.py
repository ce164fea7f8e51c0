"""Errors of Hydra and OmegaConf, each in one line: given, allowed, try."""

import re
import shlex
import sys
from pathlib import Path

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Quote, QuotedString
from hydra.errors import HydraException, MissingConfigException
from omegaconf.errors import InterpolationKeyError, MissingMandatoryValue, OmegaConfBaseException

from dfm.basics.errors import UserError, unknown
from dfm.cli.composition.config_dirs import named_config_dirs, options
from dfm.cli.composition.stored_run import default_groups
from dfm.cli.composition.yaml_files import misplaced
from dfm.cli.settings import COMMANDS
from dfm.cli.words.known_keys import KnownKeys

GROUP_OPTION = re.compile(r"Could not find '([^']+)/([^'/]*)'(?: Available options in '[^']+': (.+?) Config search)?")
OVERRIDE = re.compile(r"Could not override '([^']+)'")
INTERPOLATION = re.compile(r"Interpolation key '([^']+)' not found")
ENVIRONMENT = re.compile(r"Environment variable '([^']+)' not found")
SEVERAL = re.compile(r"Ambiguous value for argument '(.+?)' 1\.")
TWICE = re.compile(r"Multiple values for (\S+)\.|force-add of config groups is not supported: '\+\+([^=]+)=")
ENDS = ("]", "]]", "]]]", "}", "}]", "]}", '"', "'")  # of a value that does not close
ABSENT = re.compile(
    r"Could not delete(?: from config)?\. (?:'([^']+)' does not exist|No match for '([^']+)')"
    r"|Could not delete '([^']+)'\. No match"
)


def explain(error: Exception, command: str) -> str | None:
    """Return one line for a mistake in the command's overrides; None if the error is not the user's."""
    if isinstance(error, UserError):  # about a file that Hydra was reading
        return str(error)
    if not isinstance(error, (HydraException, OmegaConfBaseException)):
        return _no_option(error, command) or _unreadable(command)
    text = " ".join(str(error).split())
    missing, key = GROUP_OPTION.search(text), OVERRIDE.search(text)
    if isinstance(error, MissingConfigException) and missing:
        allowed = options(missing[1]) or str(missing[3] or "").split()
        hint = misplaced(missing[1], missing[2], [Path(name) for name in named_config_dirs(sys.argv[1:])])
        return "; ".join(filter(None, (str(unknown(missing[1], missing[2], allowed)), hint)))
    if key:
        return _no_such_key(command, key[1])
    cause = getattr(error, "__cause__", None) if text.startswith("Error merging override") else None
    reason = str(cause or error).partition(" See https://")[0]
    reason = " ".join(reason.partition("\n    full_key")[0].split())
    word = text.removeprefix("Error merging override ") if cause else None
    return (
        _several(text, command)
        or _twice(text)
        or _there_already(text)
        or _nothing_to_delete(text)
        or value_error(error)
        or (f"{word}: {reason}" if word else None)
        or _unreadable(command)
        or reason
    )


def _no_such_key(command: str, key: str) -> str:
    """Return one line about a key, or about a group at a place that is not there."""
    name, at, place = key.partition("@")
    word = next((a for a in sys.argv[1:] if a.startswith(f"{key}=")), f"{key}=VALUE")
    value = word.partition("=")[2]
    if at and options(name):
        places = [group for group in KnownKeys(command).placed if group.startswith(f"{name}@")]
        allowed = ", ".join([name, *places])
        return f"{word}: no option of {name} stands at {place}; allowed: {allowed}; try {name}={value}"
    if options(name):
        return of_other_commands(command, word)
    return KnownKeys(command).error(name, value)


def of_other_commands(command: str, word: str) -> str:
    """Return one line about GROUP=OPTION for a command that has no such group."""
    group, own = word.partition("=")[0], default_groups(command)
    having = [f"dfm {name}" for name in COMMANDS if group in default_groups(name)]
    others = f", which is a group of {', '.join(having)}" if having else ""
    return f"{word}: dfm {command} has no {group}{others}; allowed: {', '.join(sorted(own))}; try without it"


def _several(text: str, command: str) -> str | None:
    """Return one line about several values where one is needed; None for any other error."""
    match = SEVERAL.search(text)
    if not match:
        return None
    key, _, values = match[1].partition("=")
    given = next((a for a in sys.argv[1:] if " ".join(a.split()) == match[1]), match[1])
    if options(key) and key not in KnownKeys(command).groups:
        return of_other_commands(command, given)
    return (
        f"{given}: several values; allowed: one, a list in brackets ('{key}=[{values}]'), a text in quotes "
        f"('{key}=\"{values}\"'), or -m, which runs the command once for each; try {given} -m"
    )


def _twice(text: str) -> str | None:
    """Return one line about an option that is added to a group which has one already; None for any other error."""
    match = TWICE.search(text)
    if not match:
        return None
    name = match[1] or match[2]
    word = next((a for a in sys.argv[1:] if a.lstrip("+").startswith(f"{name}=")), f"{name}=OPTION")
    return f"{word}: the group {name} has an option already, which = replaces; try {word.lstrip('+')}"


def _there_already(text: str) -> str | None:
    """Return one line about ``+KEY=VALUE`` for a key that is there already; None for any other error."""
    match = re.search(r"An item is already at '([^']+)'", text)
    word = next((a for a in sys.argv[1:] if match and a.startswith(f"+{match[1]}=")), None)
    return f"{word}: the key is there already, without +; try {word.lstrip('+')}" if word else None


def _nothing_to_delete(text: str) -> str | None:
    match = ABSENT.search(text)
    return f"~{match[1] or match[2] or match[3]}: there is no such key or group; try without it" if match else None


def _no_option(error: Exception, command: str) -> str | None:
    """Return one line about a number, or a list with numbers, for a group; Hydra fails on them in its own code."""
    if not isinstance(error, (TypeError, ValueError)):
        return None
    for text in sys.argv[1:]:
        name, _, value = text.partition("=")
        if options(name) and _is_readable(text):
            given = OverridesParser.create().parse_override(text).value()
            if not all(isinstance(item, str) for item in (given if isinstance(given, list) else [given])):
                here = name in KnownKeys(command).groups
                return str(unknown(name, value, options(name))) if here else of_other_commands(command, text)
    return None


def _unreadable(command: str) -> str | None:
    """Return one line about the first word of the command line that Hydra's grammar cannot read; None if it can."""
    for text in sys.argv[1:]:
        if text.startswith("-") or _is_readable(text):
            continue
        key, equals, value = text.partition("=")
        if not equals:
            return _no_value(text, command)
        if not key.strip():
            return f"{text}: no key before the '='; allowed: KEY=VALUE or GROUP=OPTION; try dfm {command} --help"
        if not _is_readable(f"{key}=x"):
            hint = KnownKeys(command).similar(key.strip())
            hint = f"{hint}={value}" if hint else f"dfm {command} --help"
            return f"{text}: '{key}' cannot be a key; allowed: KEY=VALUE or GROUP=OPTION; try {hint}"
        closed = next((f"{text}{end}" for end in ENDS if _is_readable(f"{text}{end}")), None)
        hint = closed or f"{key}={QuotedString(value, Quote.double).with_quotes()}"
        return (
            f"{text}: brackets or quotes that do not close, or stand in the wrong place; allowed: [1,2], {{a: 1}}, "
            f'"text"; try {shlex.quote(hint)}'
        )
    return None


def _no_value(text: str, command: str) -> str:
    """Return one line about a word without ``=``, and how it is probably meant."""
    known = KnownKeys(command)
    name, _, value = text.partition(":")
    homes = [group for group in known.groups if text in options(group)]
    if text in known.groups:
        hint = f"{text}={options(text)[0]}"
    elif options(text):
        return of_other_commands(command, text)
    elif homes:
        hint = f"{homes[0]}={text}"
    elif (key := known.similar(name)) and key == name:
        hint = f"{name}={value or ('true' if isinstance(known.leaves[key], bool) else 'VALUE')}"
    else:
        hint = f"ckpt={text}" if "ckpt" in known.leaves else f"dfm {command} --help"
    return f"{text}: no '=' in it; allowed: KEY=VALUE or GROUP=OPTION, without spaces beside the '='; try {hint}"


def _is_readable(text: str) -> bool:
    try:
        return bool(OverridesParser.create().parse_override(text).key_or_group)
    except HydraException:
        return False


def value_error(error: Exception) -> str | None:
    """Return one line about a value that refers to something that is not there, or is missing; None for others."""
    text, key = str(error), getattr(error, "full_key", None)
    refers, variable = INTERPOLATION.search(text), ENVIRONMENT.search(text)
    if refers and isinstance(error, InterpolationKeyError):
        word = next((a for a in sys.argv[1:] if f"${{{refers[1]}" in a), None)
        if word:
            return (
                f"{word}: there is no key {refers[1]}; allowed: ${{KEY}} with a key that exists; try {_plainly(word)}"
            )
        groups = dict.fromkeys(str(name).partition(".")[0] for name in (key, refers[1]) if name)
        return (
            f"{key or 'a key'} refers to {refers[1]}, which this configuration lacks; try another option of "
            f"{' or of '.join(groups)}"
        )
    if variable:
        return f"{key}: the environment has no variable {variable[1]}; try {key}=VALUE, or set {variable[1]}"
    if isinstance(error, MissingMandatoryValue) and key:
        return f"{key} is not given; try {key}=VALUE"
    if "Unsupported interpolation type" in text:
        kind = text.split("\n")[0].rpartition(" ")[2]
        return f"{key}: unknown '{kind}' in ${{{kind}:...}}; allowed: ${{KEY}} or ${{oc.env:NAME}}; try {key}=VALUE"
    return None


def _plainly(word: str) -> str:
    return f"{word.partition('=')[0]}=VALUE"

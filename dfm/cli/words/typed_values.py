"""Values of the command line as they are typed, where Hydra's grammar would not read them so: paths and names.

In Hydra's grammar ``runs/lr=0.1``, ``a#b`` and every letter outside ASCII are mistakes, and ``5`` and ``[a]`` are no
text. Such a value is put in quotes before Hydra sees it: for every key if Hydra cannot read it at all, and for a key
that names a path also if Hydra would read something else. The names of classes (``label=``) are texts, alone and in a
list: ``007``, ``true`` and ``Food & Drink``. Quotes that are typed count as before.
"""

import re
from collections.abc import Iterator, Sequence
from typing import Any, get_type_hints

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import ChoiceSweep, Override, Quote, QuotedString
from hydra.errors import HydraException

from dfm.basics.locations import PATH, located, with_home
from dfm.cli.settings import CLASSES, COMMANDS

# The last words of the keys of parts that name paths. The types of the parts say the same (PathText); they are not read
# here, because the parts import torch.
OF_PARTS = ("path", "validation_path", "test_path", "root", "cache", "ckpt", "mask")
OF_HYDRA = ("hydra.run.dir", "hydra.sweep.dir", "hydra.sweep.subdir")
OF_COMMANDS = ("from",)  # no name of a field in Python
STRUCTURES = "[{'\""  # what begins with one of these is meant for Hydra


def names_path(command: str, key: str) -> bool:
    """Whether a key of the command names a file or a directory."""
    if "." in key:
        return key in OF_HYDRA or key.rpartition(".")[2] in OF_PARTS
    return key in OF_COMMANDS or PATH in _marks_of(command, key)


def names_classes(command: str, key: str) -> bool:
    """Whether a key of the command names classes of the data."""
    return CLASSES in _marks_of(command, key)


def _marks_of(command: str, key: str) -> list[Any]:
    return list(_marks(get_type_hints(COMMANDS[command].settings, include_extras=True).get(key)))


def _marks(hint: Any) -> Iterator[Any]:
    """Yield the marks (``Annotated``) in a type."""
    yield from getattr(hint, "__metadata__", ())
    for part in getattr(hint, "__args__", ()):
        yield from _marks(part)


def quoted(command: str, overrides: Sequence[str], sweep: bool) -> list[str]:
    """Return the overrides in a form that Hydra reads as their author means them.

    Args:
        sweep: whether a comma separates the values of a sweep (``-m``).
    """
    return [_quoted(command, word, sweep) for word in overrides]


def _quoted(command: str, word: str, sweep: bool) -> str:
    key, equals, value = word.partition("=")
    name = key.lstrip("+")
    if not equals or not value or _parse(f"{key}=x") is None or key.startswith("~"):
        return word
    if names_classes(command, name):
        return _classes(key, value)
    path = names_path(command, name)
    elements = _elements(value, "" if path else "[({") if sweep and not name.startswith("hydra.") else [value]
    found = _parse(word)
    if path:
        is_there = name in OF_HYDRA or located(value).exists()
        if found is not None and _means_no_path(found, sweep, own="." not in name, is_there=is_there):
            return word
        return f"{key}={','.join(_path(key, element) for element in elements)}"
    if found is not None or (len(elements) == 1 and value[0] in STRUCTURES):
        return word
    return f"{key}={','.join(e if _parse(f'{key}={e}') or e[:1] in STRUCTURES else _quote(e) for e in elements)}"


def _classes(key: str, value: str) -> str:
    """Return ``label=VALUE`` so that Hydra reads each name as text, each whole number as one, and a list as a list."""
    found = _parse(f"{key}={value}")
    if found is not None and found.is_sweep_override():
        of_hydra = not (isinstance(found._value, ChoiceSweep) and found._value.simple_form)  # range(0,10) with -m
    else:
        of_hydra = found is not None and found.value() is None
    return f"{key}={value if of_hydra else ','.join(_class_or_list(key, e.strip()) for e in _elements(value, '['))}"


def _class_or_list(key: str, text: str) -> str:
    if text.startswith("[") and text.endswith("]"):
        names = _elements(text[1:-1], "") if text[1:-1].strip() else []
        return f"[{','.join(_class(key, name.strip()) for name in names)}]"
    return text if text.startswith("[") else _class(key, text)  # Hydra says that a bracket does not close


def _class(key: str, text: str) -> str:
    """Return one name, or one number, in the form that Hydra reads as it was typed."""
    found = _parse(f"{key}={text}")
    value = None if found is None or found.is_sweep_override() else found._value
    is_number = type(value) is int and str(value) == text  # True is an int to Python
    return text if is_number or isinstance(value, (str, QuotedString)) else _quote(text)


def _means_no_path(found: Override, sweep: bool, *, own: bool, is_there: bool) -> bool:
    """Whether a value of a key for paths is null, or a sweep: glob(*) with ``-m``, or a,b where ``-m`` is forgotten.

    Args:
        own: whether the key is the command's own. A part from outside dfm may have a switch of such a name.
        is_there: whether there is a file or directory of this name, e.g. with a comma.
    """
    if not found.is_sweep_override():
        return found.value() is None or (isinstance(found.value(), bool) and not own)
    listed = isinstance(found._value, ChoiceSweep) and found._value.simple_form
    return not listed if sweep else listed and not is_there


def _path(key: str, text: str) -> str:
    """Return one path in the form that Hydra reads as this text, with the home directory in place of ``~``."""
    found = _parse(f"{key}={text}")
    value = None if found is None or found.is_sweep_override() else found._value
    plain = value.text if isinstance(value, QuotedString) else value if isinstance(value, str) else None
    if plain is None or with_home(plain) != plain:
        return _quote(with_home(text if plain is None else plain))
    return text


def _parse(word: str) -> Override | None:
    try:
        return OverridesParser.create().parse_override(word)
    except HydraException:
        return None


def _quote(text: str) -> str:
    return QuotedString(text, Quote.double).with_quotes()


def _elements(value: str, opening: str) -> list[str]:
    """Split a value at its commas, except inside quotes, and inside those brackets of ``opening``."""
    elements, depth = [""], 0
    for token in re.findall(r"\"(?:\\.|[^\"\\])*\"|'(?:\\.|[^'\\])*'|\\.|.", value, re.DOTALL):
        if token == "," and depth == 0:
            elements.append("")
            continue
        closing = {"[": "]", "(": ")", "{": "}"}
        depth += (token in opening and token in closing) - (depth > 0 and token in [closing[b] for b in opening])
        elements[-1] += token
    return elements

"""Refuse what no part reads in the YAML files of a user: sections, keys, and parts without a class."""

import inspect
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dfm.basics.errors import UserError, unknown
from dfm.runs.build import target_of

_REFERENCE = re.compile(r"\$\{\s*(\w+)")
Path = tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Written:
    """A file of the user's in a configuration.

    Args:
        name: of the file, for messages.
        place: the keys below which its content stands; none at the top.
        content: in plain containers.
        in_group: whether it is an option of a group of dfm.
    """

    name: str
    place: Path
    content: Mapping[str, Any]
    in_group: bool

    @property
    def tree(self) -> dict[str, Any]:
        """The content at its place."""
        tree = dict(self.content)
        for key in reversed(self.place):
            tree = {key: tree}
        return tree


def refuse_unread(written: Sequence[Written], own: Mapping[str, Any], composed: Mapping[str, Any]) -> None:
    """Refuse the first key that no part would read.

    Args:
        written: the files of the user's.
        own: the configuration composed without them.
        composed: the configuration composed with them. References (``${...}``) are not resolved.

    Raises:
        UserError: there is one.
    """
    known = dict(own)
    for file in written:
        if file.in_group and file.place:
            known = merged(known, file.tree)
    referred = set(_references(composed))
    for file in written:
        if file.in_group and file.place:
            _refuse_no_class(file, composed)
        for path, value in paths(file.tree):
            if path[0] not in referred and path[0] != "hydra":
                _refuse(file.name, path, value, known, own, composed)


def _refuse(
    name: str, path: Path, value: Any, known: Mapping[str, Any], own: Mapping[str, Any], composed: Mapping[str, Any]
) -> None:
    """Refuse one key of a file, or accept it."""
    node: Any = known
    for depth, key in enumerate(path):
        part = at(composed, path[:depth])
        if isinstance(part, Mapping) and "_target_" in part and key not in (at(own, path[:depth]) or ()):
            _refuse_no_parameter(name, path[: depth + 1], str(part["_target_"]))
            return
        if node == {} and depth:  # keys of the user's choice stand there
            return
        if not isinstance(node, Mapping) or key not in node:
            raise UserError(f"{name}: {_unknown(path[: depth + 1], node)}")
        node = node[key]
    if isinstance(node, Mapping) and node and not isinstance(value, (Mapping, str)):
        given = "null" if value is None else value
        example = next((key for key in node if key != "_target_"), "KEY")
        raise UserError(f"{name}: {'.'.join(path)}: {given}; allowed: keys below it, indented, such as {example}")


def _unknown(path: Path, node: Any) -> str:
    key, siblings = path[-1], node if isinstance(node, Mapping) else {}
    prefix = ".".join(path[:-1])
    names = [f"{prefix}.{name}".lstrip(".") for name in siblings if name not in ("_target_", "hydra")]
    problem = f"nothing reads it: {unknown('key', '.'.join(path), names)}"
    first, dot, rest = key.partition(".")
    return f"{problem}; try '{first}:' and '{rest}:' indented below it" if dot and first in siblings else problem


def _refuse_no_parameter(name: str, path: Path, target: str) -> None:
    """Refuse a key that is no parameter of a class of dfm. Other classes are not imported here."""
    key = path[-1]
    if key == "_target_" or not target.startswith("dfm."):
        return
    try:
        parameters = inspect.signature(target_of(target, "", ("dfm",))).parameters
    except UserError:
        return  # the class does not exist, which is told when it is built
    if key not in parameters:
        prefix, dotted = ".".join(path[:-1]), ".".join(path)
        if not parameters:
            raise UserError(f"{name}: unknown key '{dotted}'; allowed: no key, because {target} takes none")
        raise UserError(f"{name}: {unknown('key', dotted, [f'{prefix}.{name}' for name in parameters])}")


def _refuse_no_class(file: Written, composed: Mapping[str, Any]) -> None:
    part = at(composed, file.place)
    if isinstance(part, Mapping) and "_target_" not in part:
        raise UserError(
            f"{file.name}: no _target_, so it is no whole option; try 'defaults: [OPTION, _self_]' at its head, with "
            "OPTION an option of dfm to start from"
        )


def paths(node: Mapping[str, Any], above: Path = ()) -> Iterator[tuple[Path, Any]]:
    """Yield (keys, value) for every value that is not a mapping with keys."""
    for key, value in node.items():
        if isinstance(value, Mapping) and value:
            yield from paths(value, (*above, str(key)))
        else:
            yield (*above, str(key)), value


def at(node: Any, path: Sequence[str]) -> Any:
    """Return the value below these keys, or None."""
    for key in path:
        node = node.get(key) if isinstance(node, Mapping) else None
    return node


def merged(first: Mapping[str, Any], second: Mapping[str, Any]) -> dict[str, Any]:
    """Return the keys of both, deeply; where both have one, the value of the second."""
    both = dict(first)
    for key, value in second.items():
        before = both.get(key)
        both[key] = merged(before, value) if isinstance(before, Mapping) and isinstance(value, Mapping) else value
    return both


def _references(node: Any) -> Iterator[str]:
    """Yield the sections to which some value refers."""
    values: Collection[Any] = node.values() if isinstance(node, Mapping) else node if isinstance(node, list) else ()
    for value in values:
        yield from _REFERENCE.findall(value) if isinstance(value, str) else _references(value)

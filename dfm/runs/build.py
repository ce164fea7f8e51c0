"""From a node of a configuration to an object: its ``_target_`` built, every value checked against the parameter's type."""

import dataclasses
import importlib
import inspect
import types
from collections.abc import Mapping, Sequence
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from dfm.basics.errors import UserError, unknown
from dfm.runs.old_names import current_target

Node = Mapping[str, Any]


SettingsT = TypeVar("SettingsT")


def settings(node: Node, kind: type[SettingsT], where: str = "") -> SettingsT:
    """Return the keys of a node that a dataclass names, each checked against the type of its field.

    A field that is a dataclass takes a node of its own; a key that is missing takes the field's default.

    Raises:
        UserError: a value of another type, or a missing key without a default.
    """
    hints, prefix = get_type_hints(kind), f"{where}." if where else ""
    values: dict[str, Any] = {}
    for field in dataclasses.fields(kind):  # type: ignore[arg-type]
        name, hint = field.name, hints[field.name]
        if name in node:
            nested = dataclasses.is_dataclass(hint)
            check = settings if nested else conform
            values[name] = check(node[name], hint, f"{prefix}{name}")
        elif field.default is dataclasses.MISSING:
            raise UserError(f"{prefix}{name} is not given; allowed: a configuration that has it")
    return kind(**values)


def build(node: Node, where: str, trusted: Sequence[str] = ("dfm",), **offered: Any) -> Any:
    """The object that a node describes: its ``_target_`` called with the other keys, nested nodes built first.

    Args:
        node: plain containers.
        where: the node's place in the configuration, for messages.
        trusted: packages from which a target may come (a configuration out of a checkpoint names code).
        offered: values that only the program knows (the data's shape, say), given to targets that take them.

    Raises:
        UserError: an untrusted or missing target, an unknown key, or a value of another type than the parameter's.
    """
    if not isinstance(node, Mapping) or "_target_" not in node:
        raise UserError(f"{where}: no _target_ in {dict(node) if isinstance(node, Mapping) else node!r}")
    target = target_of(str(node["_target_"]), where, trusted)
    parameters = inspect.signature(target).parameters
    hints = get_type_hints(target.__init__)
    arguments = {name: value for name, value in offered.items() if name in parameters}
    for key, value in node.items():
        if key == "_target_":
            continue
        if key not in parameters:
            raise unknown("key", f"{where}.{key}", [f"{where}.{name}" for name in parameters if name not in offered])
        nested = isinstance(value, Mapping) and "_target_" in value
        built = build(value, f"{where}.{key}", trusted) if nested else value
        arguments[key] = conform(built, hints.get(key, Any), f"{where}.{key}")
    missing = [
        n for n, p in parameters.items() if p.default is p.empty and n not in arguments and p.kind != p.VAR_KEYWORD
    ]
    if missing:
        raise UserError(f"{where}: {', '.join(f'{where}.{n}' for n in missing)} not given")
    return target(**arguments)


def conform(value: Any, hint: Any, where: str) -> Any:
    """``value`` as a parameter of type ``hint`` takes it: lists become tuples, whole numbers floats, and no more.

    Raises:
        UserError: it is of another type.
    """
    origin, inner = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        return _first_that_fits(value, inner, hint, where)
    if origin is Literal:
        if value not in inner:
            raise unknown(where, value, [str(name) for name in inner])
        return value
    if origin is not None and isinstance(value, (list, tuple)):
        items = inner[:1] * len(value) if len(inner) < 2 or inner[1] is Ellipsis else inner
        if origin is tuple and len(items) != len(value):
            raise UserError(f"{where}={value}; allowed: {len(items)} values")
        return tuple(conform(v, h, f"{where}[{i}]") for i, (v, h) in enumerate(zip(value, items, strict=True)))
    if not _fits(value, hint, origin):
        name = "null" if hint in (None, types.NoneType) else getattr(hint, "__name__", str(hint))
        raise UserError(f"{where}={value!r}; allowed: a value of type {name}")
    return float(value) if hint is float else int(value) if hint is int else value


def _first_that_fits(value: Any, hints: Sequence[Any], union: Any, where: str) -> Any:
    # A whole number must stay one where int is allowed too, so exact types are tried before conversions.
    for hint in sorted(hints, key=lambda hint: type(value) is not hint):
        try:
            return conform(value, hint, where)
        except UserError:
            continue
    raise UserError(
        f"{where}={value!r}; allowed: {str(union).replace('types.NoneType', 'null').replace('None', 'null')}"
    )


def _fits(value: Any, hint: Any, origin: Any) -> bool:
    if hint is Any:
        return True
    if hint is None or hint is types.NoneType:
        return value is None
    if hint in (int, float):
        number = isinstance(value, (int, float)) and not isinstance(value, bool)
        return number and (hint is float or float(value).is_integer())
    return isinstance(value, origin or hint)


def target_of(path: str, where: str, trusted: Sequence[str]) -> type[Any]:
    """The class that a dotted path names, by today's path or that of dfm 0.1."""
    path = current_target(path)
    module, _, name = path.rpartition(".")
    if path.split(".")[0] not in trusted:
        raise UserError(
            f"{where}._target_={path}: refused, since it names code outside {', '.join(trusted)}; "
            "a package of your own must be named on the command line: trust=PACKAGE"
        )
    try:
        found = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise UserError(f"{where}._target_={path}: no such class ({error})") from None
    # what a module merely imports is not its own: dfm.anything.Popen names a class of another package
    if not inspect.isclass(found) or found.__module__.split(".")[0] not in trusted:
        raise UserError(f"{where}._target_={path}: not a class of {', '.join(trusted)}")
    return found

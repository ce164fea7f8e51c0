"""Build objects from nodes of a configuration. Every value is checked against the type of its parameter."""

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
    """Return a dataclass filled from the keys of a node. Each value is checked against the type of its field.

    A field whose type is a dataclass takes a nested node. A missing key takes the default of its field. Other keys at
    the top are those of the parts.

    Raises:
        UserError: a value has another type, a key without a default is missing, or a nested node has another key.
    """
    hints, prefix = get_type_hints(kind), f"{where}." if where else ""
    others = node.keys() - hints.keys() if where else ()
    if others:
        raise unknown("key", f"{prefix}{min(others)}", [f"{prefix}{name}" for name in hints])
    values: dict[str, Any] = {}
    for field in dataclasses.fields(kind):  # type: ignore[arg-type]
        name, hint = field.name, hints[field.name]
        if name in node:
            nested = dataclasses.is_dataclass(hint)
            check = settings if nested else conform
            values[name] = check(node[name], hint, f"{prefix}{name}")
        elif field.default is dataclasses.MISSING:
            raise UserError(f"{prefix}{name} is missing in this configuration; try {prefix}{name}=VALUE")
    return kind(**values)


def build(node: Node, where: str, trusted: Sequence[str] = ("dfm",), **offered: Any) -> Any:
    """Return the object that a node describes: call its ``_target_`` with the other keys. Nested nodes come first.

    Args:
        node: plain containers.
        where: the place of the node in the configuration, for messages.
        trusted: the packages that a target may come from. A checkpoint's configuration names code, and anyone may have
            written it.
        offered: values that only the program knows, such as the shape of the data. A target that has a parameter of
            this name receives the value.

    Raises:
        UserError: the target is missing or not trusted, a key is unknown, or a value has another type than its
            parameter.
    """
    if not isinstance(node, Mapping) or "_target_" not in node:
        content = dict(node) if isinstance(node, Mapping) else repr(node)
        raise UserError(f"{where}: no _target_ in {content}; allowed: a node with _target_: PACKAGE.CLASS")
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
        argument = build(value, f"{where}.{key}", trusted) if nested else value
        arguments[key] = conform(argument, hints.get(key, Any), f"{where}.{key}")
    _refuse_missing(parameters, arguments, where)
    return target(**arguments)


def with_defaults(node: Node, where: str, trusted: Sequence[str] = ("dfm",)) -> dict[str, Any]:
    """Return a node with the default of every parameter that it lacks, in the form of YAML: a tuple is a list.

    So nodes of two versions of dfm can be compared: what a parameter of today does by default, the older one did.

    Raises:
        UserError: the target is missing or not trusted.
    """
    parameters = inspect.signature(target_of(str(node["_target_"]), where, trusted)).parameters
    defaults = {name: p.default for name, p in parameters.items() if p.default is not p.empty}
    return {name: list(value) if isinstance(value, tuple) else value for name, value in {**defaults, **node}.items()}


def _refuse_missing(parameters: Mapping[str, inspect.Parameter], arguments: Mapping[str, Any], where: str) -> None:
    """Refuse arguments that lack a parameter without a default."""
    required = [n for n, p in parameters.items() if p.default is p.empty and p.kind != p.VAR_KEYWORD]
    missing = [f"{where}.{name}" for name in required if name not in arguments]
    if missing:
        raise UserError(f"{', '.join(missing)} not given; try {' '.join(f'+{name}=VALUE' for name in missing)}")


def conform(value: Any, hint: Any, where: str) -> Any:
    """Return ``value`` as the type ``hint`` needs it. Only lists become tuples, and whole numbers become floats.

    Raises:
        UserError: the value has another type.
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
    if origin is tuple:
        length = f"{len(inner)} values" if inner[1:] != (Ellipsis,) else "values"
        raise UserError(f"{where}={value!r}; allowed: a list of {length} in brackets, without quotes around it")
    if not _fits(value, hint, origin):
        name = "null" if hint in (None, types.NoneType) else getattr(hint, "__name__", str(hint))
        raise UserError(f"{where}={value!r}; allowed: a value of type {name}")
    return float(value) if hint is float else int(value) if hint is int else value


def _first_that_fits(value: Any, hints: Sequence[Any], union: Any, where: str) -> Any:
    # Exact types are tried before conversions, because a whole number must stay an int where int is allowed too.
    for hint in sorted(hints, key=lambda hint: type(value) is not hint):
        try:
            return conform(value, hint, where)
        except UserError:
            continue
    allowed = str(union).replace("types.NoneType", "null").replace("None", "null")
    raise UserError(f"{where}={value!r}; allowed: {allowed}")


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
    """Return the class that a dotted path names: a path of today, or a path of dfm 0.1.

    Raises:
        UserError: there is no such class, or it is not from a trusted package.
    """
    path = current_target(path)
    module, _, name = path.rpartition(".")
    if path.split(".")[0] not in trusted:
        raise UserError(
            f"{where}._target_={path}: refused, because it is code outside {', '.join(trusted)}; to allow your own "
            f"package, try trust={','.join([*trusted[1:], path.split('.')[0]])}"
        )
    try:
        target = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise UserError(f"{where}._target_={path}: no such class ({error})") from None
    except Exception as error:  # the code of a user's own package runs here
        raise UserError(
            f"{where}._target_={path}: the import of {module} fails ({type(error).__name__}: {error}); "
            "HYDRA_FULL_ERROR=1 shows where"
        ) from error
    # a class that a module only imports does not count as the module's: dfm.anything.Popen is another package's class
    if not inspect.isclass(target) or target.__module__.split(".")[0] not in trusted:
        raise UserError(f"{where}._target_={path}: not a class; allowed: a class of {', '.join(trusted)}")
    return target

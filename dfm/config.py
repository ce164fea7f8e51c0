"""From YAML to objects: composing a command's configuration with Hydra, building what its ``_target_`` nodes name."""

import atexit
import contextlib
import importlib
import inspect
import os
import shutil
import sys
import tempfile
import time
import types
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

import hydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from dfm import console
from dfm.config_errors import explain, interpolation
from dfm.distributed import team
from dfm.errors import ProcessError, UserError, unknown

Node = Mapping[str, Any]
SettingsT = TypeVar("SettingsT")
GRACE = 3.0  # seconds


def config_dir() -> Path:
    """The YAML groups: inside the package when installed from a wheel, else beside it in the checkout."""
    package = Path(__file__).resolve().parent
    inside = package / "configs"
    return inside if inside.is_dir() else package.parent / "configs"


def launch(name: str, job: Callable[[DictConfig], None], shared: bool = False) -> None:
    """Run a command: compose ``configs/<name>.yaml`` with the command line's overrides and call ``job`` (or each job).

    A user's mistake ends with one line on stderr and exit code 1; HYDRA_FULL_ERROR=1 shows the traceback.

    Args:
        shared: whether the command divides its work over the processes of torchrun.
    """
    _enter_team(name, shared)
    show_all = os.environ.get("HYDRA_FULL_ERROR") == "1"

    composed: list[bool] = []

    def guarded(cfg: DictConfig) -> None:
        composed.append(True)
        try:
            job(cfg)
        except UserError as error:
            if show_all:
                raise
            _stop(error)

    _register_resolvers()
    command = hydra.main(version_base="1.3", config_path=str(config_dir()), config_name=name)(guarded)
    try:
        with _raising():
            command()
    except KeyboardInterrupt:
        console.error("interrupted")
        raise SystemExit(130) from None
    except Exception as error:
        message = explain(error, name, config_dir())
        if message is None and not composed:  # what Hydra says of a line that it cannot make sense of
            message = f"{' '.join(sys.argv[1:])}: {' '.join(str(error).split())[:200]}; try dfm {name} --help"
        if show_all or message is None:
            raise
        _stop(UserError(message))


def _enter_team(name: str, shared: bool) -> None:
    """Of torchrun's processes the first makes the run directory; the others leave nothing behind."""
    members = team()
    if members.size > 1 and not shared:
        if members.first:
            _stop(UserError(f"dfm {name} does not share its work over processes; allowed: start it without torchrun"))
        raise SystemExit(1)
    if not members.first:
        console.mute()
        unseen = tempfile.mkdtemp()
        atexit.register(shutil.rmtree, unseen, ignore_errors=True)
        sys.argv += [
            "hydra.output_subdir=null", "hydra/job_logging=none", "hydra.run.dir=.", f"hydra.sweep.dir={unseen}",
        ]  # fmt: skip


@contextlib.contextmanager
def _raising() -> Iterator[None]:
    """Hydra prints several lines for an error and exits; with this variable it raises, and we say it in one line."""
    before = os.environ.get("HYDRA_FULL_ERROR")
    os.environ["HYDRA_FULL_ERROR"] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ["HYDRA_FULL_ERROR"]
        else:
            os.environ["HYDRA_FULL_ERROR"] = before


def _stop(error: Exception) -> None:
    members = team()
    if not members.first and not isinstance(error, ProcessError):
        # what all processes meet is told by the first, and torchrun then ends the others; this may be met here alone
        time.sleep(GRACE)
        error = ProcessError(f"process {members.rank}: {error}")
    console.error(str(error))
    raise SystemExit(1)


def _register_resolvers() -> None:
    # A resumed run goes on in its own directory; any other, and a resume= that names no run, gets a fresh one.
    OmegaConf.register_new_resolver(
        "dfm.run_dir",
        lambda resume, fresh: str(Path(resume)) if resume and is_run(Path(resume)) else fresh,
        replace=True,
    )


def is_run(directory: Path) -> bool:
    """Whether a directory is that of a training run."""
    return (directory / "config.yaml").is_file()


def run_directory() -> Path:
    """The directory of the running job."""
    return Path(HydraConfig.get().runtime.output_dir)


def overrides() -> list[str]:
    """What was given on the command line (in a multirun: for this job)."""
    return list(HydraConfig.get().overrides.task)


def choice(group: str) -> str:
    """The option of a group that the command line or the defaults chose."""
    return str(HydraConfig.get().runtime.choices[group])


def options(group: str) -> list[str]:
    """The options of a config group."""
    return sorted(path.stem for path in (config_dir() / group).glob("*.yaml"))


def variant(command: str, *changes: str) -> dict[str, Any]:
    """The running job's configuration with other choices on top, e.g. another sampler; in plain containers.

    Overrides of the choices that are replaced, and of their keys, are left out.
    """
    replaced = {change.partition("=")[0] for change in changes}
    kept = [text for text in overrides() if text.lstrip("+").partition("=")[0].split(".")[0] not in replaced]
    content = OmegaConf.to_container(hydra.compose(config_name=command, overrides=[*kept, *changes]), resolve=True)
    assert isinstance(content, dict)
    return {str(key): value for key, value in content.items()}


def composed(command: str, *changes: str) -> dict[str, Any]:
    """What ``dfm COMMAND CHANGES`` would compose, outside a job, in plain containers: for scripts."""
    with hydra.initialize_config_dir(str(config_dir()), version_base=None):
        content = OmegaConf.to_container(hydra.compose(command, list(changes)), resolve=True)
    assert isinstance(content, dict)
    return {str(key): value for key, value in content.items()}


def plain(cfg: DictConfig) -> dict[str, Any]:
    """The resolved configuration in plain containers.

    Raises:
        UserError: an interpolation leads nowhere or a value is missing.
    """
    try:
        content = OmegaConf.to_container(cfg, resolve=True, throw_on_missing=True)
    except OmegaConfBaseException as error:
        raise UserError(interpolation(error) or " ".join(str(error).split())) from None
    assert isinstance(content, dict)
    found = {str(key): value for key, value in content.items()}
    _refuse_additions(found)
    return found


def _refuse_additions(config: Node) -> None:
    """``+key=value`` adds what nobody reads, unless the key is that of a part, which ``build`` checks."""
    for text in overrides():
        key = text.lstrip("+").partition("=")[0]
        part = config.get(key.partition(".")[0])
        read = isinstance(part, Mapping) and ("_target_" in part or key.startswith("dataset."))
        if text.startswith("+") and not read:
            raise unknown("key", key, config)


def settings(node: Node, kind: type[SettingsT], where: str = "") -> SettingsT:
    """The keys of a node that a dataclass names, checked against the types of its fields.

    Raises:
        UserError: a value is of another type.
    """
    hints = get_type_hints(kind)
    prefix = f"{where}." if where else ""
    return kind(**{name: conform(node[name], hint, f"{prefix}{name}") for name, hint in hints.items()})


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
    """The class that a dotted path names."""
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

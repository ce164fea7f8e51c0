"""Where the data of a run lie: paths that may change while the run stays the same.

A data set itself says which of its parameters are places (``Dataset.sources`` and ``caches``), and which others change
no example (``handling``). Every data set of a configuration counts, that of ``prior=dataset`` too.
"""

import logging
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from dfm.basics.errors import UserError
from dfm.basics.locations import located, with_home
from dfm.data.dataset import Dataset, data_folder
from dfm.runs.build import build, target_of

log = logging.getLogger("dfm")
Config = dict[str, Any]
Change = Callable[[Config, type[Dataset]], Config]
RUNS = ("resume", "from", "init")  # keys of a training run that name other runs
DECODER = "decoder.path"  # makes pictures of latents, and changes no number
WRITTEN = ("checkpoints", "samples", "tensorboard", "pairs", "png")  # folders that a run itself writes


def dataset_class(node: Mapping[str, Any], trusted: Sequence[str]) -> type[Dataset] | None:
    """Return the class of a node that describes a data set; None for any other node, and for code not trusted."""
    try:
        kind = target_of(str(node["_target_"]), "dataset", trusted)
    except (KeyError, UserError):
        return None
    return kind if issubclass(kind, Dataset) else None


def each_dataset(node: Any, trusted: Sequence[str], path: str = "") -> Iterator[tuple[str, Config, type[Dataset]]]:
    """Yield (dotted key, node, class) for every data set in a configuration."""
    if isinstance(node, Mapping):
        kind = dataset_class(node, trusted)
        if kind is not None:
            yield path, dict(node), kind
        for key, value in node.items():
            yield from each_dataset(value, trusted, f"{path}.{key}" if path else str(key))


def change_datasets(node: Any, trusted: Sequence[str], change: Change) -> Any:
    """Return a configuration in which ``change`` has replaced every data set's node."""
    if not isinstance(node, Mapping):
        return node
    content = {key: change_datasets(value, trusted, change) for key, value in node.items()}
    kind = dataset_class(content, trusted)
    return content if kind is None else change(content, kind)


def movable_keys(config: Any, trusted: Sequence[str]) -> set[str]:
    """Return the dotted keys whose values change no example, e.g. ``dataset.path``."""
    return {
        f"{path}.{name}"
        for path, _, kind in each_dataset(config, trusted)
        for name in (*kind.sources, *kind.caches, *kind.handling)
    }


def with_absolute_places(config: Config, trusted: Sequence[str], directory: Path) -> Config:
    """Return a configuration whose relative places start at ``directory``. A place that begins with ``~`` stays."""

    def change(node: Config, kind: type[Dataset]) -> Config:
        places = places_of(node, kind)
        return {key: absolute(value, directory) if key in places else value for key, value in node.items()}

    result: Config = change_datasets(config, trusted, change)
    return result


def absolute(value: Any, directory: Path) -> Any:
    """Return a path as absolute text. Values that are no text, and text that begins with ``~``, stay as they are."""
    return value if not isinstance(value, str) or value.startswith("~") else str(directory.absolute() / value)


def places_of(node: Config, kind: type[Dataset]) -> tuple[str, ...]:
    """Return the parameters of a data set that are paths."""
    return (*kind.paths_in(node), *kind.caches)


def without_places(config: Any, trusted: Sequence[str], handling: bool = False) -> Any:
    """Return a configuration without the places of its data.

    Args:
        handling: leave out the other parameters that change no example as well.
    """

    def change(node: Config, kind: type[Dataset]) -> Config:
        out = (*places_of(node, kind), *(kind.handling if handling else ()))
        return {key: value for key, value in node.items() if key not in out}

    return change_datasets(config, trusted, change)


def private_keys(config: Config, trusted: Sequence[str]) -> set[str]:
    """Return the dotted keys that are paths of this machine: the places of data, other runs, and a decoder's."""
    return {
        f"{path}.{name}" for path, node, kind in each_dataset(config, trusted) for name in places_of(node, kind)
    } | {*RUNS, DECODER}


def without_keys(config: Config, keys: Collection[str]) -> Config:
    """Return a configuration without these dotted keys."""
    result = {}
    for key, value in config.items():
        inner = {name.partition(".")[2] for name in keys if name.startswith(f"{key}.")}
        if key not in keys:
            result[key] = without_keys(value, inner) if inner and isinstance(value, dict) else value
    return result


def without_downloads(config: Any) -> Any:
    """Return a configuration whose data sets download nothing, and keep their cache in the common data folder."""
    if isinstance(config, list):
        return [without_downloads(item) for item in config]
    if not isinstance(config, dict):
        return config
    return {**{key: without_downloads(value) for key, value in config.items()}, **safe_values(config)}


def safe_values(node: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values that keep a data set from writing, which its own defaults might let it. Other nodes have none.

    A class outside dfm may be a data set too. It is not imported here, because only ``trust=`` allows that.
    """
    kind = dataset_class(node, ("dfm",))
    if kind is not None:
        return {**dict.fromkeys({"download"} & {*kind.handling}, False), **dict.fromkeys(kind.caches, data_folder())}
    outside = str(node.get("_target_", "dfm")).partition(".")[0] != "dfm"
    return {key: value for key, value in (("download", False), ("cache", data_folder())) if outside and key in node}


def with_places_beside(config: Config, file: Path, trusted: Sequence[str]) -> Config:
    """Return the configuration of a file of weights, with the places that ``config.yaml`` beside the file gives.

    The file itself names no place, because it is made to be given away.
    """
    try:
        stored = yaml.safe_load((file.parent / "config.yaml").read_text("utf-8"))
    except (OSError, ValueError, yaml.YAMLError):
        return config
    theirs = {path: (node, kind) for path, node, kind in each_dataset(stored, trusted)}
    result = config
    for path, node, kind in each_dataset(config, trusted):
        other, its_kind = theirs.get(path, ({}, None))
        if kind is its_kind:
            missing = {name: other[name] for name in kind.sources if name in other and name not in node}
            result = with_values(result, {f"{path}.{name}": value for name, value in missing.items()})
    return result


def with_values(config: Config, values: Mapping[str, Any]) -> Config:
    """Return a configuration with other values at these dotted keys. Nodes on the way are made where they lack."""
    for path, value in values.items():
        name, _, rest = path.partition(".")
        node = config.get(name)
        inner = with_values(node if isinstance(node, dict) else {}, {rest: value}) if rest else value
        config = {**config, name: inner}
    return config


def find_sources(config: Config, trusted: Sequence[str], run: Path) -> Config:
    """Return a configuration whose data are found, also where a run's directory was copied to another machine.

    A source that does not exist is looked for beside the run: its path, or the last folders of it, below the run's
    directory and the directories above that. The first one with which the data set can be built counts.

    Args:
        run: the run's directory.
    """

    def change(node: Config, kind: type[Dataset]) -> Config:
        for name in kind.paths_in(node):
            text = node.get(name)
            if not isinstance(text, str) or located(text).exists() or builds(node, trusted):
                continue
            place = next((p for p in beside(run, text) if builds({**node, name: str(p)}, trusted)), None)
            if place is not None:
                log.warning(f"{name}={text} is not there: the data are read from {place}, beside the run")
                node = {**node, name: str(place)}
        return node

    result: Config = change_datasets(config, trusted, change)
    return result


def builds(node: Config, trusted: Sequence[str]) -> bool:
    """Whether a data set accepts its parameters."""
    try:
        build(node, "dataset", trusted)
    except UserError:
        return False
    return True


def beside(run: Path, text: str) -> Iterator[Path]:
    """Yield the existing paths beside a run that end as ``text`` does, those with the longest common end first."""
    names = [part for part in Path(with_home(text)).parts if part not in (Path(text).anchor, "..")]
    run = run.absolute()
    for k in range(len(names)):
        for folder in (run, *run.parents):
            place = folder.joinpath(*names[k:])
            if place.exists() and not (folder == run and names[k] in WRITTEN):
                yield place


def check_sources(config: Config, trusted: Sequence[str], run: Path) -> None:
    """Refuse a configuration whose data are not there.

    Raises:
        UserError: a source does not exist and its data set needs it. The message says where it was looked for.
    """
    for _, node, kind in each_dataset(config, trusted):
        texts = [node.get(name) for name in kind.paths_in(node)]
        missing = [text for text in texts if isinstance(text, str) and not located(text).exists()]
        if missing:
            try:
                build(node, "dataset", trusted)
            except UserError as error:
                looked = f"looked for {Path(missing[0]).name} in {run.absolute()} and the folders above it too"
                raise UserError(f"{error} ({looked})") from None

"""``from=RUN`` and ``resume=RUN``: the stored settings of a run, below the changes of the command line.

Hydra composes both from a primary configuration that is made here: ``train.yaml``, with the run's stored values on top
of it. A group that the command line chooses anew, and the groups that such an option chooses in its turn, come from
their YAML files. So ``from=RUN schedule=vp`` changes the schedule and nothing else, and a key of the run's own data set
can be named whatever the default data set is.
"""

import dataclasses
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from hydra.core.config_store import ConfigStore
from omegaconf import DictConfig, OmegaConf

from dfm.basics.errors import UserError
from dfm.basics.locations import located
from dfm.cli import console
from dfm.cli.composition.config_dirs import config_dirs
from dfm.cli.settings import TrainSettings
from dfm.cli.words.own_code import TRUST, key_of
from dfm.cli.words.printed_command import printed, reads_as, setting
from dfm.runs.directory import checkpoint_files, is_run, latest_run, outputs
from dfm.runs.old_names import current_config

NAME = "stored_run"  # of the primary configuration
FROM, RESUME = "from", "resume"
OF_THE_COMMAND_LINE = (FROM, RESUME, TRUST)  # keys that a stored configuration never sets
CHOOSERS = ("experiment", "recipe")  # groups whose options only choose those of other groups
OTHER_PRIMARY = ("--config-path", "-cp", "--config-name", "-cn")
LINK = re.compile(r"\$\{([a-z_]+(?:\.[a-z_]+)*)\}")
Config = dict[str, Any]


def primary_config(command: str, tell: bool = True) -> str:
    """Return the name of the configuration that Hydra shall compose for the running command line.

    ``from=RUN`` and ``resume=latest`` become absolute paths on it.

    Args:
        tell: warn of stored keys that this version does not know.

    Raises:
        UserError: there is no such run.
    """
    words = sys.argv[1:]
    refuse_other_primary(words)
    if command != "train":
        return command
    for number, word in enumerate(words, 1):
        key, text = key_of(word), word.partition("=")[2]
        if key == FROM and text not in ("", "null"):
            origin = find_origin(text_of(word))
            sys.argv[number] = setting(FROM, origin)
            refuse_experiment(words, word)
            store(read_settings(origin), origin, words, tell)
            return NAME
        if key == RESUME and text == "latest":
            sys.argv[number] = word = setting(RESUME, latest_run(outputs()).absolute())
        if key == RESUME and text != "auto" and is_run(directory := located(text_of(word))):
            store(read_config(directory), directory, words, tell)
            return NAME
    return command


def refuse_other_primary(words: Sequence[str]) -> None:
    """Refuse a whole configuration in the place of dfm's own (``--config-path``, ``--config-name``).

    Hydra would not read the command's own file then: without a log, a table and a place for outputs.
    """
    for word, after in zip(words, [*words[1:], ""], strict=False):
        option, _, value = word.partition("=")
        if option in OTHER_PRIMARY:
            value = value or after
            run = setting(FROM, value) if is_run(located(value)) else "from=RUN"
            raise UserError(
                f"{option} {value}: a configuration in place of dfm's own; allowed: -cd DIR for YAML files of your "
                f"own; to train with the settings of a run, try {printed('train', run)}"
            )


def text_of(word: str) -> str:
    """Return the text of an override's value, also where Hydra cannot read it without quotes."""
    value = reads_as(word)
    return value if isinstance(value, str) else word.partition("=")[2]


def find_origin(text: str) -> Path:
    """Return the absolute path of the run directory or the file that ``from=`` means.

    Raises:
        UserError: there is none.
    """
    path = latest_run(outputs()) if text == "latest" else located(text)
    if not is_run(path):
        next(checkpoint_files(str(path), FROM))
    return path.absolute()


def refuse_experiment(words: Sequence[str], word: str) -> None:
    """Refuse an experiment beside ``from=``: both would choose all settings."""
    for other in words:
        if key_of(other) in CHOOSERS and other.partition("=")[2] not in ("", "null", "none"):
            raise UserError(f"{other} beside {word}: each of them chooses all settings; allowed: one of them")


def read_settings(origin: Path) -> Config:
    """Return the configuration that ``from=`` means, in plain containers.

    Raises:
        UserError: there is no whole one.
    """
    if is_run(origin):
        return read_config(origin)
    from dfm.runs.checkpoint import find  # torch is not needed before

    return find(str(origin), FROM)[0].config


def read_config(directory: Path) -> Config:
    """Read ``config.yaml`` of a run, with today's class paths.

    Raises:
        UserError: it is not a configuration.
    """
    try:
        stored = OmegaConf.load(directory / "config.yaml")
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise UserError(f"{directory / 'config.yaml'}: {' '.join(str(error).split())[:120]}") from None
    if not isinstance(stored, DictConfig):
        raise UserError(f"{directory / 'config.yaml'}: not a configuration; allowed: a file that 'dfm train' wrote")
    config: Config = current_config(OmegaConf.to_container(stored))
    return config


def store(stored: Config, origin: Path, words: Sequence[str], tell: bool) -> None:
    """Give Hydra the primary configuration of a stored one, for these words of a command line."""
    groups = default_groups("train")
    anew = chosen_groups(words)
    own = [name for name in stored if name in groups or is_group(name)]
    keys = [field.name for field in dataclasses.fields(TrainSettings)]
    strange = [key for key in stored if key not in (*own, *keys, *OF_THE_COMMAND_LINE)]
    if strange and tell:
        console.warn(f"{origin}: {', '.join(strange)} in its configuration is not known to this version; left out")
    kept = [key for key in (*own, *keys) if key in stored and key not in (*anew, *OF_THE_COMMAND_LINE)]
    links = set(yaml_links())
    content = {key: with_links(stored, key, links) for key in kept}
    if "init" in content:
        content["init"] = found_init(stored, origin)
    # the trainer's numbers stay below the stored ones, which may lack a number that is new since then
    replaced = [name for name in groups if name not in anew and name in (*kept, *CHOOSERS) and name != "trainer"]
    defaults = ["train", *({f"override /{name}": None} for name in replaced), "_self_"]
    ConfigStore.instance().store(NAME, {"defaults": defaults, **content})


def found_init(stored: Config, origin: Path) -> Any:
    """Return the ``init`` of a stored run: the run that it names, or one of that name beside the stored run."""
    init = stored["init"]
    if not isinstance(init, str) or init == "latest" or located(init).exists():
        return init
    from dfm.runs.places import beside  # torch is not needed before

    return next(map(str, beside(origin, init)), init)


def default_groups(name: str) -> list[str]:
    """Return the groups in the defaults of one of dfm's own YAML files, and of the files that it is based on."""
    groups = []
    for entry in defaults_of(config_dirs()[0] / f"{name}.yaml"):
        if isinstance(entry, str) and entry != "_self_":
            groups += default_groups(entry)
        elif isinstance(entry, Mapping):
            groups += [key for key in map(str, entry) if not key.startswith("override") and "@" not in key]
    return groups


def defaults_of(file: Path) -> list[Any]:
    """Return the defaults list of a YAML file; it is empty if there is no such file."""
    content = yaml.safe_load(file.read_text("utf-8")) if file.is_file() else None
    return list(content.get("defaults") or []) if isinstance(content, Mapping) else []


def chosen_groups(words: Sequence[str]) -> set[str]:
    """Return the groups that a command line chooses, and those that the chosen options choose."""
    found: set[str] = set()
    for word in words:
        group, _, package = key_of(word).partition("@")
        if "=" in word and not package and is_group(group):
            found.add(group)
            for option in word.partition("=")[2].split(","):
                found.update(chosen_by(group, option.strip()))
    return found


def is_group(name: str) -> bool:
    """Whether a name is that of a config group, of dfm or of the user. Hydra's own settings are none."""
    return name.isidentifier() and name != "hydra" and any((folder / name).is_dir() for folder in config_dirs())


def chosen_by(group: str, option: str) -> Iterator[str]:
    """Yield the groups whose option an option overrides, directly or through the options that it overrides."""
    for folder in config_dirs():
        for entry in defaults_of(folder / group / f"{option}.yaml"):
            if isinstance(entry, str) and entry != "_self_":
                yield from chosen_by(group, entry)
            for key, value in entry.items() if isinstance(entry, Mapping) else ():
                if key.startswith("override /"):
                    name = key.removeprefix("override /").partition("@")[0]
                    yield name
                    yield from chosen_by(name, str(value))


def yaml_links() -> Iterator[tuple[str, str, str]]:
    """Yield (group, key, other key) for every ``key: ${other.key}`` at the top of a group's YAML file."""
    for folder in config_dirs():
        for file in folder.glob("*/*.yaml"):
            content = yaml.safe_load(file.read_text("utf-8"))
            for key, value in content.items() if isinstance(content, Mapping) else ():
                if isinstance(value, str) and (match := LINK.fullmatch(value)):
                    yield file.parent.name, str(key), match[1]


def with_links(stored: Config, key: str, links: set[tuple[str, str, str]]) -> Any:
    """Return a stored value. Where it repeats another one as in the YAML files, it refers to it as there.

    A stored configuration is resolved, so that ``objective.density`` would not follow ``density=`` otherwise.
    """
    value = escaped(stored[key])
    if isinstance(value, dict):
        for group, name, other in links:
            if group == key and name in value and stored[key][name] == look_up(stored, other):
                value[name] = f"${{{other}}}"
    return value


def look_up(config: Any, path: str) -> Any:
    """Return the value at a dotted path; the path itself, which equals no value, if there is none."""
    for name in path.split("."):
        if not isinstance(config, Mapping) or name not in config:
            return path
        config = config[name]
    return config


def escaped(value: Any) -> Any:
    """Return plain containers in which no text is an interpolation, because anyone may have written them."""
    if isinstance(value, dict):
        return {key: escaped(item) for key, item in value.items()}
    if isinstance(value, list):
        return [escaped(item) for item in value]
    return value.replace("${", "\\${") if isinstance(value, str) else value

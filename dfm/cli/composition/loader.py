"""How dfm composes a configuration: as Hydra does, but what the command line names wins over what a file names.

Hydra merges a file with the head ``# @package _global_``, such as an experiment, after the options of all groups, also
of those that the command line chooses. Here such a file loses what it says on a group that the command line chooses.
"""

import copy
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import hydra._internal.hydra
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.config_repository import CachingConfigRepository, IConfigRepository
from hydra._internal.defaults_list import create_defaults_list
from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.default_element import ConfigDefault, GroupDefault, InputDefault, ResultDefault
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from hydra.plugins.config_source import ConfigResult
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from dfm.basics.errors import UserError
from dfm.cli.composition.config_dirs import config_dir
from dfm.cli.composition.experiment_files import chosen_sections, names_section, typed_sections
from dfm.cli.composition.recipes import (
    EXPERIMENT,
    NONE,
    RECIPE,
    SUITED,
    Form,
    form_of,
    is_below,
    names_in,
    section,
)
from dfm.cli.composition.unread_keys import Written, refuse_unread
from dfm.cli.composition.yaml_files import FileRepository, file_name, is_users


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How files are changed before Hydra merges them.

    Args:
        choices: {group: option} in the place of the command's default.
        typed: those that the command line chooses (``typed_sections``). A ``_global_`` file of a group loses them.
        suited: the sections that a recipe sets and an experiment for other data loses.
        chosen: the sections that an experiment without a network, or for any data, chooses and a recipe loses.
    """

    choices: Mapping[str, str] = field(default_factory=dict)
    typed: Sequence[str] = ()
    suited: Sequence[str] = ()
    chosen: Sequence[str] = ()


class PlannedRepository(CachingConfigRepository):
    """The files that Hydra reads, changed by a plan."""

    def __init__(self, files: CachingConfigRepository, command: str, plan: Plan) -> None:
        super().__init__(files.delegate)
        self.cache, self.command, self.plan = files.cache, command, plan
        self.planned: dict[str, ConfigResult | None] = {}

    def load_config(self, config_path: str) -> ConfigResult | None:
        """Return a file's content without what the plan takes from it."""
        if config_path not in self.planned:
            self.planned[config_path] = self._changed(config_path, super().load_config(config_path))
        return self.planned[config_path]

    def _changed(self, config_path: str, found: ConfigResult | None) -> ConfigResult | None:
        if found is None:
            return None
        if config_path == self.command:
            return _with_choices(found, self.plan.choices)
        if found.header["package"] != "_global_" or "/" not in config_path:
            return found
        lost = {EXPERIMENT: self.plan.suited, RECIPE: self.plan.chosen}.get(config_path.partition("/")[0], ())
        return _without(found, [*self.plan.typed, *lost])


class Loader(ConfigLoaderImpl):
    """Hydra's loader of configurations, with dfm's order of what wins and files that are read whole."""

    def __init__(self, config_search_path: ConfigSearchPath) -> None:
        super().__init__(config_search_path)
        self.repository = FileRepository(config_search_path)

    def _parse_overrides_and_create_caching_repo(
        self, config_name: str | None, overrides: list[str]
    ) -> tuple[list[Override], CachingConfigRepository]:
        words, files = super()._parse_overrides_and_create_caching_repo(config_name, overrides)
        if config_name is None:
            return words, files
        words = _plain_words(words, _default_groups(files, config_name))
        return words, PlannedRepository(files, config_name, self._plan(words, files, config_name))

    def _compose_config_from_defaults_list(self, defaults: list[ResultDefault], repo: IConfigRepository) -> DictConfig:
        """Compose as Hydra does, and refuse what no part reads in the files of the user's."""
        config = super()._compose_config_from_defaults_list(defaults, repo)
        found = [(part, content) for part in defaults if (content := _of_user(part, repo))]
        if found:
            users = [id(part) for part, _ in found]
            rest = super()._compose_config_from_defaults_list([p for p in defaults if id(p) not in users], repo)
            refuse_unread([_written(part, content) for part, content in found], _tree(rest), _tree(config))
        return config

    def _load_single_config(self, default: ResultDefault, repo: IConfigRepository) -> ConfigResult:
        """Return a file's content, and a copy where it is whole: Hydra merges later files into it."""
        loaded, kept = super()._load_single_config(default, repo), repo.load_config(str(default.config_path))
        if kept is not None and loaded.config is kept.config:
            loaded = copy.copy(loaded)
            loaded.config = copy.deepcopy(kept.config)
        return loaded

    def _plan(self, words: Sequence[Override], files: CachingConfigRepository, command: str) -> Plan:
        """Decide which sections of files do not count, and which recipe suits the data."""
        groups = _default_groups(files, command)
        chosen = {word.key_or_group: word for word in words if word.package is None and not word.is_sweep_override()}
        named = chosen[EXPERIMENT].value() if EXPERIMENT in chosen else None
        experiment = str(named or groups.get(EXPERIMENT))
        typed = typed_sections(words, files, f"{EXPERIMENT}/{experiment}")
        plan = Plan(typed=[name for name in typed if name not in (EXPERIMENT, RECIPE)])
        if not {EXPERIMENT, RECIPE, "dataset"} <= groups.keys() or groups[EXPERIMENT] is None:  # None: from=, resume=
            return plan
        about_data = [word for word in words if is_below(section(word.key_or_group, word.package), ["dataset"])]
        if RECIPE in chosen:
            recipe = str(chosen[RECIPE].value())
            beneath = False
        else:
            beneath = experiment == NONE or not all(
                names_section(files, f"{EXPERIMENT}/{experiment}", part) for part in ("dataset", "model")
            )
            if not (beneath or about_data):
                return plan
            form = self._form(words, files, command, plan)
            others = [word for word in words if word not in about_data]
            made_for = Plan(typed=[name for name in plan.typed if name != "dataset"])
            if form is None or (not beneath and form == self._form(others, files, command, made_for)):
                return plan
            recipe = form.recipe
        content = files.load_config(f"{RECIPE}/{recipe}")
        if content is None or recipe == NONE:
            return plan
        fresh = {RECIPE: recipe} if named else {RECIPE: recipe, EXPERIMENT: NONE}
        if beneath:
            return Plan(
                choices=fresh, typed=plan.typed, chosen=list(chosen_sections(files, f"{EXPERIMENT}/{experiment}"))
            )
        return Plan(choices=fresh, typed=plan.typed, suited=[*SUITED, *names_in(content)])

    def _form(self, words: Sequence[Override], files: CachingConfigRepository, command: str, plan: Plan) -> Form | None:
        """Return the form of the data that these words choose; None if they have a mistake, which is told later."""
        planned = PlannedRepository(files, command, plan)
        try:
            found = create_defaults_list(planned, command, list(words), prepend_hydra=True, skip_missing=True)
            parts = [part for part in found.defaults if _may_name_data(part)]
            config = super()._compose_config_from_defaults_list(parts, planned)
            OmegaConf.set_struct(config, True)
            values = [word for word in found.config_overrides if is_below(word.key_or_group, ["dataset", "trust"])]
            self._apply_overrides_to_config(values, config)
            content: Any = OmegaConf.to_container(config)
        except (HydraException, OmegaConfBaseException, UserError, ValueError, KeyError):
            return None
        node, trust = content.get("dataset"), content.get("trust") or []
        if trust and os.getcwd() not in sys.path:
            sys.path.append(os.getcwd())  # the user's own package may be in the working directory
        return form_of(node, ("dfm", *([trust] if isinstance(trust, str) else trust))) if node else None


def use_loader() -> None:
    """Let Hydra compose by ``Loader``. Hydra has no public place for another loader, but one private name."""
    hydra._internal.hydra.ConfigLoaderImpl = Loader  # type: ignore[misc]


def _of_user(part: ResultDefault, repo: IConfigRepository) -> ConfigResult | None:
    """Return the content of a file of the user's; None for a file of dfm's or Hydra's."""
    found = repo.load_config(str(part.config_path))
    return found if found and is_users(found.provider, found.path) else None


def _written(part: ResultDefault, found: ConfigResult) -> Written:
    group = str(part.config_path).rpartition("/")[0]
    return Written(
        name=file_name(found.path, str(part.config_path)),
        place=tuple((part.package or "").split(".")) if part.package else (),
        content=_tree(found.config),
        in_group=bool(group) and (config_dir() / group).is_dir(),
    )


def _tree(config: Any) -> dict[str, Any]:
    content = OmegaConf.to_container(config)
    return {str(key): value for key, value in content.items()} if isinstance(content, dict) else {}


def _may_name_data(part: ResultDefault) -> bool:
    path, package = str(part.config_path), part.package or ""
    return part.primary or path == "command" or path.startswith(f"{EXPERIMENT}/") or is_below(package, ["dataset"])


def _default_groups(files: CachingConfigRepository, command: str) -> dict[str, Any]:
    """Return {group: option} of a command's own list of groups, and of the lists on which it builds."""
    found, groups = files.load_config(command), dict[str, Any]()
    for default in (found.defaults_list or ()) if found else ():
        if isinstance(default, ConfigDefault) and default.path and not default.is_self():
            groups |= _default_groups(files, default.path)
        elif isinstance(default, GroupDefault) and not default.package:
            group = str(default.group).lstrip("/")
            if not default.override or group in groups:
                groups[group] = default.value
    return groups


def _plain_words(words: Sequence[Override], groups: Mapping[str, Any]) -> list[Override]:
    """Return the words with GROUP=OPTION for +GROUP=OPTION where the command has the group, and none for no experiment.

    Without an option (experiment=null, experiment= or ~experiment) there is none.
    """
    plain = []
    for word in words:
        group, value = word.key_or_group, None if word.is_sweep_override() else word.value()
        text = word.input_line or ""
        if group in groups and not word.package and word.is_add() and not isinstance(value, dict):
            text = text.lstrip("+")
        if group == EXPERIMENT and group in groups and not word.is_sweep_override() and value in (None, "", "null"):
            text = f"{EXPERIMENT}={NONE}"
        plain.append(word if text == word.input_line else OverridesParser.create().parse_override(text))
    return plain


def _with_choices(found: ConfigResult, choices: Mapping[str, str]) -> ConfigResult:
    """Return a command's own file with other options; ``found`` is left as it is."""
    found = copy.copy(found)
    found.defaults_list = copy.deepcopy(found.defaults_list)
    for default in found.defaults_list or ():
        if isinstance(default, GroupDefault) and not default.package and default.group in choices:
            default.value = choices[str(default.group)]
    return found


def _without(found: ConfigResult, sections: Sequence[str]) -> ConfigResult:
    """Return a ``_global_`` file's content without these sections, neither options nor keys; ``found`` is left."""
    found = copy.copy(found)
    found.config = copy.deepcopy(found.config)
    found.defaults_list = [d for d in found.defaults_list or () if not _is_override_of(d, sections)]
    for name in sections:
        parent, _, last = name.rpartition(".")
        node = OmegaConf.select(found.config, parent) if parent else found.config
        if isinstance(node, DictConfig) and last in node:
            del node[last]
    return found


def _is_override_of(default: InputDefault, sections: Sequence[str]) -> bool:
    """Whether an entry of a file's defaults is ``override GROUP: OPTION`` for a group in one of the sections."""
    if not (isinstance(default, GroupDefault) and default.override):
        return False
    return is_below(section(str(default.group), default.package), sections)

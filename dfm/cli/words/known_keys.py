"""The keys and groups that a command has with the options that its command line chooses, for messages on mistakes."""

import difflib
import importlib
import inspect
import sys
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import ConfigCompositionException
from omegaconf import OmegaConf

from dfm.basics.errors import UserError, unknown
from dfm.cli.composition.config_dirs import config_dirs, options, search_path
from dfm.cli.composition.stored_run import default_groups, primary_config
from dfm.cli.settings import COMMANDS
from dfm.cli.words.suited_options import (
    form_of_words,
    keys_of_option,
    leaves,
    reads,
    refers_in_vain,
    takes,
    with_effect,
)


@dataclass(frozen=True)
class KnownKeys:
    """The configuration of a command with the options of the command line, but without its values."""

    command: str

    @cached_property
    def config(self) -> dict[str, Any]:
        """The configuration in plain containers; references are not resolved."""
        return self._composed()

    def _composed(self, without: str = "") -> dict[str, Any]:
        """Return the configuration with the options of the command line but that of the group ``without``."""
        own, *others = config_dirs()
        try:
            name = primary_config(self.command, tell=False)  # with from= and resume=, the settings of a run
        except UserError:
            name = self.command
        GlobalHydra.instance().clear()
        with initialize_config_dir(str(own), version_base="1.3"):
            pairs = [a.partition("=") for a in sys.argv[1:]]
            words = [f"{key}={option}" for key, _, option in pairs if option in options(key.partition("@")[0])]
            words = [word for word in words if not without or not word.startswith(f"{without}=")]
            try:
                config = compose(name, [*search_path(others), *words], return_hydra_config=True)
            except ConfigCompositionException:  # GROUP@PLACE=OPTION at a place that is not there
                words = [word for word in words if "@" not in word]
                config = compose(name, [*search_path(others), *words], return_hydra_config=True)
        content: Any = OmegaConf.to_container(config, resolve=False)
        return dict(content)

    @cached_property
    def leaves(self) -> dict[str, Any]:
        """{dotted key: its value}, without the keys of Hydra."""
        found = leaves({key: node for key, node in self.config.items() if key != "hydra"}, "")
        return {key: value for key, value in found if key.rpartition(".")[2] != "_target_"}

    @cached_property
    def groups(self) -> list[str]:
        """The groups of which the command has an option."""
        choices = self.config["hydra"]["runtime"]["choices"]
        return sorted(name for name in choices if "@" not in name and not name.startswith("hydra"))

    @cached_property
    def placed(self) -> list[str]:
        """The groups of which an option stands at a key of another name: ``GROUP@KEY``."""
        return sorted(name for name in self.config["hydra"]["runtime"]["choices"] if "@" in name)

    def error(self, name: str, value: str) -> str:
        """Return one line about a key that is not there."""
        line = self._addable(name) or self._of_another_option(name, value) or self._below_a_value(name, value)
        line = line or self._of_another_group(name, value) or self._without_effect_alone(name, value)
        return line or str(unknown("key", name, self._siblings(name)))

    def similar(self, name: str) -> str | None:
        """Return the key whose last word is ``name``, or is similar to it; None if there is none.

        The command's own keys go first, then those of the trainer.
        """
        if name not in self.leaves:
            lasts = {key.rpartition(".")[2] for key in self.leaves}
            last = name.lower().rpartition(".")[2]
            close = [last] if last in lasts else difflib.get_close_matches(last, lasts, n=1)
            name = close[0] if close else name
        keys = [key for key in self.leaves if key == name or key.endswith(f".{name}")]
        return min(keys, key=lambda k: (k != name, not k.startswith("trainer."), k.count(".")), default=None)

    def _addable(self, name: str) -> str | None:
        """Return how to set a parameter that the chosen part has and its YAML does not list; None for another key."""
        parent, _, last = name.rpartition(".")
        node = _at(self.config, parent)
        module, _, target = str(node.get("_target_", "") if isinstance(node, dict) else "").rpartition(".")
        if not module.startswith("dfm."):
            return None
        if last not in inspect.signature(getattr(importlib.import_module(module), target)).parameters:
            return None
        return f"key '{name}': {target} has it, but this option's YAML does not list it; try +{name}=VALUE"

    def _of_another_option(self, name: str, value: str) -> str | None:
        """Return which option of the key's group has the key and suits the data; None if no option has the key."""
        group, _, rest = name.partition(".")
        having = [option for option in options(group) if rest and rest in keys_of_option(group, option)]
        if not having or group not in self.groups:
            return None
        choice = self.config["hydra"]["runtime"]["choices"][group]
        here = f"the {group} of the run" if choice is None else f"{group}={choice}"
        form = form_of_words(self.config, [word for word in sys.argv[1:] if not word.startswith(f"{name}=")])
        fit = [o for o in having if takes(group, o, form) and not refers_in_vain(group, o, self.config)]
        if not fit:
            own = ", ".join(key for key in self.leaves if key.startswith(f"{group}."))
            others = ", ".join(f"{group}={option}" for option in having)
            return (
                f"key '{name}': {here} has none, and what has it ({others}) does not suit {form or 'the data'}; "
                f"allowed: {own or 'no key'}; try without {name}"
            )
        names = ", ".join(f"{group}={option}" for option in fit)
        best = self._best(fit, name, value)
        return f"key '{name}': {here} has none; allowed: {names}; try {group}={best} {name}={value}"

    def _best(self, fit: list[str], name: str, value: str) -> str:
        """Return the option that reads the path, or that suits the data unless the group is typed, or the first."""
        group, _, rest = name.partition(".")
        reading = next((option for option in fit if reads(group, option, rest, value)), None)
        if reading or len(fit) == 1:
            return reading or fit[0]
        suited = self._composed(without=group)["hydra"]["runtime"]["choices"][group]
        return suited if suited in fit else fit[0]

    def _below_a_value(self, name: str, value: str) -> str | None:
        """Return that a key above this one is a value and has no keys below it; None if none is."""
        above = name.rpartition(".")[0]
        while above:
            node = self.leaves.get(above)
            if isinstance(node, str) and node.startswith("${"):
                return self._elsewhere(name, above, node[2:-1], value)
            if node is not None and not isinstance(node, dict):
                return f"key '{name}': {above} is one value, without keys below it; try {above}={value}"
            above = above.rpartition(".")[0]
        return None

    def _of_another_group(self, name: str, value: str) -> str | None:
        """Return that the key's group is one of other commands, and which key is alike; None if it is no such group."""
        group = name.partition(".")[0]
        having = [f"dfm {other}" for other in COMMANDS if group in default_groups(other)]
        if group in self.config or not options(group) or not having:
            return None
        return (
            f"key '{name}': dfm {self.command} has no {group}, which is a group of {', '.join(having)}; "
            f"allowed: {', '.join(self.groups)}; try {self._alike(name, value) or f'without {name}'}"
        )

    def _without_effect_alone(self, name: str, value: str) -> str | None:
        """Return how to set the key of the same last word that has no effect alone; None if none is so."""
        way = self._alike(name, value)
        return (
            f"unknown key '{name}'; allowed: {', '.join(sorted(self._siblings(name)))}; try {way}"
            if " " in way
            else None
        )

    def _alike(self, name: str, value: str) -> str:
        """Return how to set the key that has the same last word; empty if there is none."""
        key = self.similar(name)
        return with_effect(self.config, key, value) if key and f".{key}".endswith(f".{name.rpartition('.')[2]}") else ""

    def _elsewhere(self, name: str, above: str, home: str, value: str) -> str:
        """Return how to set a key below ``above``, which only refers to the group or node ``home``."""
        key = f"{home}{name.removeprefix(above)}"
        if key not in self.leaves:
            return self.error(key, value)
        return f"key '{name}': {above} stands for {home}; try {key}={value}"

    def _siblings(self, name: str) -> list[str]:
        """Return the keys below the lowest part of ``name`` that exists, or all at the top with similar ones below."""
        above = name.replace("/", ".").rpartition(".")[0]
        while above and not isinstance(_at(self.config, above), dict):
            above = above.rpartition(".")[0]
        if above.startswith("hydra"):
            return [f"{above}.{key}" for key in _at(self.config, above)]
        if above:
            below = [key for key in self.leaves if key.startswith(f"{above}.")]
            return below or [key for key in self.leaves if key.startswith(f"{above.rpartition('.')[0]}.")]
        top = {*self.groups, *(key.partition(".")[0] for key in self.leaves)}
        last = name.lower().rpartition(".")[2]
        return [*top, *(key for key in self.leaves if key.endswith(f".{last}") and key not in top)]


def _at(node: Any, path: str) -> Any:
    """Return what stands at a dotted key: a node, a value, or None if there is nothing."""
    for key in path.split(".") if path else ():
        node = node.get(key) if isinstance(node, dict) else None
    return node

"""The options of a group as messages need them: their keys, and whether they suit the data and the rest of a run."""

import importlib
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from dfm.basics.errors import UserError
from dfm.basics.locations import located
from dfm.cli.composition.config_dirs import config_dirs
from dfm.cli.composition.recipes import Form, form_of
from dfm.runs.build import build

_REFERENCE = re.compile(r"\$\{([\w.]+)\}")
SIDES = {"points": 0, "signals": 1, "images": 2, "volumes": 3}


def form_of_words(config: Mapping[str, Any], words: list[str]) -> Form | None:
    """Return the form of the data that a configuration without typed values and the words name; None: not known."""
    node = config.get("dataset")
    if not isinstance(node, dict) or "_target_" not in node:
        return None
    typed = {}
    for word in words:
        key, _, text = word.partition("=")
        if key.startswith("dataset.") and key.count(".") == 1 and text:
            try:
                typed[key.partition(".")[2]] = OverridesParser.create().parse_override(word).value()
            except HydraException:
                typed[key.partition(".")[2]] = text
    return form_of({**node, **{key: value for key, value in typed.items() if key in node}}, ("dfm",))


def refers_in_vain(group: str, option: str, config: Mapping[str, Any]) -> bool:
    """Whether an option takes a value from a key that the configuration lacks."""
    file = file_of_option(group, option)
    text = file.read_text("utf-8") if file else ""
    return any(not _is_there(config, reference.split(".")) for reference in _REFERENCE.findall(text))


def _is_there(node: Any, keys: list[str]) -> bool:
    if not keys:
        return True
    return isinstance(node, dict) and keys[0] in node and _is_there(node[keys[0]], keys[1:])


def takes(group: str, option: str, form: Form | None) -> bool:
    """Whether an option takes data of this form, as far as its class says so."""
    test = getattr(_class_of_option(group, option), "takes", None)
    return form is None or test is None or bool(test(SIDES[form.kind]))


def with_effect(config: Mapping[str, Any], key: str, value: str) -> str:
    """Return ``KEY=VALUE``, with the setting before it beside which it has an effect if it would have none."""
    group, _, name = key.partition(".")
    try:
        node: Any = OmegaConf.to_container(OmegaConf.create(dict(config))[group], resolve=True) if name else {}
        part: Any = build(node, group) if "_target_" in node else None
    except (UserError, OmegaConfBaseException):
        part = None
    idle = hasattr(part, "unused_settings") and name in part.unused_settings()
    beside = part.instead(name) if idle else ""
    return " ".join(filter(None, (beside and f"{group}.{beside}", f"{key}={value}")))


def reads(group: str, option: str, key: str, value: str) -> bool:
    """Whether an option is a data set that may read the path at this key."""
    part = _class_of_option(group, option)
    return key in getattr(part, "sources", ()) and bool(part.reads(located(value)))


def keys_of_option(group: str, option: str) -> set[str]:
    """Return the dotted keys of an option's file, and of the files in the same folder on which it stands."""
    file = file_of_option(group, option)
    return set(_keys_of_file(file)) if file else set()


def file_of_option(group: str, option: str) -> Path | None:
    """Return the file of an option, dfm's own first."""
    return next((f for folder in config_dirs() if (f := folder / group / f"{option}.yaml").is_file()), None)


def leaves(node: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, Any]]:
    """Yield (dotted key, value) of all values below a node that are no nodes with keys."""
    for key, value in node.items():
        path = f"{prefix}{key}"
        yield from leaves(value, f"{path}.") if isinstance(value, dict) and value else [(path, value)]


def _class_of_option(group: str, option: str) -> Any:
    """Return the class of an option; None for one that is not dfm's, which is not imported for a message."""
    file = file_of_option(group, option)
    content = yaml.safe_load(file.read_text("utf-8")) if file else None
    module, _, target = str(content.get("_target_", "") if isinstance(content, dict) else "").rpartition(".")
    return getattr(importlib.import_module(module), target) if module.startswith("dfm.") else None


def _keys_of_file(file: Path) -> Iterator[str]:
    content = yaml.safe_load(file.read_text("utf-8"))
    if not isinstance(content, dict):
        return
    bases = [base for base in content.pop("defaults", []) if isinstance(base, str) and base != "_self_"]
    yield from (key for key, _ in leaves(content, "") if key != "_target_")
    for base in bases:
        below = file.parent / f"{base}.yaml"
        yield from _keys_of_file(below) if below.is_file() else ()

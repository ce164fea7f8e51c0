"""The text of ``dfm COMMAND --help``: groups and keys, explained by the comments of the YAML files. No torch."""

import re
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import yaml
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.types import RunMode
from omegaconf import OmegaConf

from dfm.cli.composition.config_dirs import check_config_dirs
from dfm.cli.composition.loader import use_loader

ROOMS = {
    "path": ("schedule", "prior", "latent"),
    "network": ("model", "prediction"),
    "training": (
        "objective",
        "density",
        "weight",
        "coupling",
        "uncertainty",
        "pacing",
        "trainer",
        "recipe",
        "experiment",
    ),
    "sampling": ("sampler", "grid", "guidance", "task", "flow"),
    "likelihood": ("likelihood", "dequantization"),
    "data": ("dataset", "augmentation"),
    "evaluation": ("features",),
    "run": ("logger", "decoder"),
}
WIDTH, KEY, VALUE = 120, 26, 15  # widths of a line and of its first two columns
FOOTER = """
GROUP=OPTION --help describes all options of GROUP and shows the keys of OPTION. YAML files of your own: -cd DIR.
-m sweeps over comma-separated values; --cfg job prints the configuration without running."""


@dataclass(frozen=True, kw_only=True)
class Composed:
    """A command's configuration, and the files that it comes from.

    Args:
        config: the composed configuration in plain containers; references (``${...}``) are not resolved.
        choices: {group: option}. The group has the name ``GROUP@KEY`` if its option is placed at another key.
        comments: {dotted key: its comment}.
        folders: the directories with YAML files, dfm's own first.
    """

    config: dict[Any, Any]
    choices: dict[str, str | None]
    comments: dict[str, str]
    folders: list[Path]

    def options(self, group: str) -> dict[str, Path]:
        """Return {option: its file}. A file whose name begins with an underscore is only a base of options."""
        files = {file.stem: file for folder in self.folders[::-1] for file in (folder / group).glob("*.yaml")}
        return {name: files[name] for name in sorted(files) if not name.startswith("_")}

    def has_part(self, group: str) -> bool:
        """Whether an option of a group is chosen, or a stored run has a part of the group."""
        return self.choices.get(group) is not None or bool(_class_of(self.config.get(group)))

    def rooms(self) -> dict[str, list[str]]:
        """Return {room: its groups that this command has}."""
        here = {group for group in self.choices if "@" not in group and not group.startswith("hydra")}
        own = {file.parent.name for folder in self.folders[1:] for file in folder.glob("*/*.yaml")} - {"hydra"}
        rooms = {room: [group for group in groups if group in here] for room, groups in ROOMS.items()}
        rooms["yours"] = sorted((here | own).difference(*ROOMS.values()))
        return {room: groups for room, groups in rooms.items() if groups}


def help_text(
    command: str,
    overrides: list[str],
    config_dirs: list[Path],
    *,
    summary: str,
    example: str,
    primary: str | None = None,
) -> str:
    """Return the help of a command: its summary, its groups by room, and its keys with values and comments.

    Args:
        command: the name of a YAML file in the first of ``config_dirs``.
        overrides: the overrides of the command line. The help shows the options and values that they choose.
        config_dirs: dfm's own directory, then the directories of ``-cd DIR``.
        summary: one line on the command.
        example: a whole command line.
        primary: the name of the configuration that Hydra composes, if it is another one: the settings of a run.

    Raises:
        UserError: a directory does not exist.
        HydraException, OmegaConfBaseException: the overrides contain a mistake.
    """
    composed = compose_with_comments(primary or command, overrides, config_dirs)
    groups_of_user = {re.split("[=@]", text.lstrip("+~"))[0] for text in overrides}
    lines = [f"dfm {command}: {summary}", f"  e.g. {example}", "", "Groups: GROUP=OPTION; the chosen one in [brackets]"]
    for room, groups in composed.rooms().items():
        lines += [f"  {room}", *(line for group in groups for line in _group(composed, group, group in groups_of_user))]
    groups = [group for groups in composed.rooms().values() for group in groups]
    parts = {group: composed.choices.get(group) for group in groups if composed.has_part(group)}
    own = {key: value for key, value in composed.config.items() if key not in parts}
    lines += ["", "Keys: KEY=VALUE", f"  dfm {command}", *_keys(composed, own, "")]
    for group, option in parts.items():
        lines += _part(composed, group, option, group in groups_of_user)
    return "\n".join([*lines, FOOTER])


def compose_with_comments(command: str, overrides: Sequence[str], config_dirs: Sequence[Path]) -> Composed:
    """Compose a configuration with Hydra and collect the comments of its files. It raises what ``help_text`` raises."""
    check_config_dirs(config_dirs)
    GlobalHydra.instance().clear()
    use_loader()
    with initialize_config_dir(str(config_dirs[0].resolve()), version_base="1.3"):
        texts = _with_search_path(overrides, config_dirs[1:])
        config = compose(command, texts, return_hydra_config=True)
        parts = GlobalHydra.instance().config_loader().compute_defaults_list(command, texts, RunMode.RUN).defaults
    sources = [(source.schema, source.path) for source in config.hydra.runtime.config_sources]
    folders = [Path(path) for schema, path in sources if schema == "file"]
    folders += [Path(str(files(path))) for schema, path in sources if schema == "pkg" and path != "hydra.conf"]
    notes: dict[str, str] = {}
    for part in parts:  # in the order of merging, so that the comment of the last file counts
        file = next((f for folder in folders if (f := folder / f"{part.config_path}.yaml").is_file()), None)
        prefix = f"{part.package}." if part.package not in (None, "", "_global_") else ""
        notes |= {f"{prefix}{key}": text for key, text in (comments(file) if file else {}).items()}
    content: Any = OmegaConf.to_container(config, resolve=False)
    choices = content.pop("hydra")["runtime"]["choices"]
    for group, option in choices.items():
        if option is None and isinstance(content.get(group), dict):  # a part of a stored run
            notes = _comments_of_class(group, content[group].get("_target_"), folders) | notes
    return Composed(config=content, choices=choices, comments=notes, folders=folders)


def _with_search_path(overrides: Sequence[str], folders: Sequence[Path]) -> list[str]:
    """Return the overrides with further directories where Hydra looks for YAML files."""
    places, others = [f"file://{folder.resolve()}" for folder in folders], []
    for text, override in zip(overrides, OverridesParser.create().parse_overrides(list(overrides)), strict=True):
        if folders and override.key_or_group == "hydra.searchpath":  # Hydra would use only the first of several
            places += OmegaConf.create({"": override.value()})[""]
        else:
            others.append(text)
    return [*others, f"hydra.searchpath={places!r}"] if folders else others


def header(file: Path | None) -> list[str]:
    """Return the comment lines at the top of a YAML file. They describe the option."""
    lines = file.read_text("utf-8").splitlines() if file else []
    end = next((k for k, line in enumerate(lines) if not line.startswith("#")), len(lines))
    return [text for line in lines[:end] if not (text := line.lstrip("# ").rstrip()).startswith("@package")] or [""]


def comments(file: Path) -> dict[str, str]:
    """Return {dotted key: the comment on its line} of a YAML file."""
    text = file.read_text("utf-8")
    return dict(_comments(yaml.compose(text), text.splitlines(), ""))


def _comments_of_class(group: str, target: object, folders: Sequence[Path]) -> dict[str, str]:
    """Return {dotted key: its comment} of the options of a group that have this class."""
    notes: dict[str, str] = {}
    for file in (file for folder in folders for file in sorted((folder / group).glob("*.yaml"))):
        content = yaml.safe_load(file.read_text("utf-8"))
        if isinstance(content, dict) and content.get("_target_") == target:
            notes |= {f"{group}.{key}": text for key, text in comments(file).items()}
    return notes


def _comments(node: yaml.Node | None, lines: list[str], prefix: str) -> Iterator[tuple[str, str]]:
    for key, value in node.value if isinstance(node, yaml.MappingNode) else ():
        block = isinstance(value, yaml.CollectionNode) and not value.flow_style
        mark = key.end_mark if block or value.end_mark.line != key.end_mark.line else value.end_mark
        after = re.match(r":?\s*#\s*(.+)", lines[mark.line][mark.column :].strip())
        if after:
            yield f"{prefix}{key.value}", after[1].strip()
        yield from _comments(value, lines, f"{prefix}{key.value}.")


def _group(composed: Composed, group: str, describe: bool) -> list[str]:
    """Return the line of a group with its options, and a line for each option of the user's own directory.

    Args:
        describe: give every option such a line.
    """
    options, choice = composed.options(group), composed.choices.get(group)
    lines = _columns(f"    {group:<15} ", ", ".join(f"[{name}]" if name == choice else name for name in options))
    for name, file in options.items():
        if describe or file.parents[1] != composed.folders[0]:
            lines += _columns(f"      {name:<19} ", header(file)[0])
    return lines


def _part(composed: Composed, group: str, option: str | None, describe: bool) -> Iterator[str]:
    """Yield lines on a chosen option, and its keys.

    Args:
        option: None for a part of a stored run.
        describe: give all comment lines at the top of its file, not only the first.
    """
    node = composed.config.get(group)
    first, *others = header(composed.options(group).get(option)) if option else ["as the run has it"]
    title = f"{group}={option}" if option else f"{group} {_class_of(node)}".rstrip()
    yield from textwrap.wrap(f"  {title}: {first}", WIDTH, subsequent_indent=" " * 6)
    for text in others if describe else ():
        yield from textwrap.wrap(text, WIDTH, initial_indent=" " * 6, subsequent_indent=" " * 6)
    yield from _keys(composed, node, f"{group}.") if isinstance(node, dict) else ()


def _keys(composed: Composed, node: Mapping[Any, Any], prefix: str) -> Iterator[str]:
    """Yield one or more lines for every key below a node: its name, its value and its comment."""
    for key, value in node.items():
        name, nested = f"{prefix}{key}", isinstance(value, dict) and bool(value)
        if key == "_target_":
            continue
        text = _class_of(value) if nested else _as_override(value)
        left, comment = f"{name:<{KEY}} {text}", composed.comments.get(name, "")
        for group, option in composed.choices.items():
            if option and group.endswith(f"@{name}"):  # an option of another group stands here
                left, comment = f"{group}={option}", header(composed.options(group.partition("@")[0]).get(option))[0]
        if comment and len(left) > KEY + VALUE:  # no space beside it
            yield f"    {left}"
            left = ""
        yield from _columns(f"    {left:<{KEY + VALUE}} ", comment)
        if nested:
            yield from _keys(composed, value, f"{name}.")


def _class_of(node: Any) -> str:
    return str(node.get("_target_", "")).rpartition(".")[2] if isinstance(node, Mapping) else ""


def _columns(left: str, text: str) -> list[str]:
    """Return the lines of a column of text, the first one beside ``left``."""
    lines = textwrap.wrap(text, WIDTH - len(left)) or [""]
    return [(left + lines[0]).rstrip(), *(" " * len(left) + line for line in lines[1:])]


def _as_override(value: Any) -> str:
    """Return a value as it is written on the command line."""
    if isinstance(value, list):
        return f"[{', '.join(map(_as_override, value))}]"
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)

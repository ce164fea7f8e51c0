"""The YAML files that a user wrote: read as they are meant, or refused in one line that names the file.

Hydra passes over some of what such a file says: a head below a byte order mark or a long comment, a key that no part
reads, a file whose name ends in ``.yml``.
"""

import difflib
import re
from collections.abc import Iterator, Mapping, Sequence
from importlib.resources import files
from pathlib import Path

import yaml
from hydra._internal.config_repository import ConfigRepository
from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.object_type import ObjectType
from hydra.plugins.config_source import ConfigResult, ConfigSource
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from dfm.basics.errors import UserError
from dfm.cli.composition.config_dirs import config_dir
from dfm.cli.composition.unread_keys import paths

HEAD = "# @package _global_"
_HEAD_LINE = re.compile(r"#\s*@package\s+(\S+)\s*$")
_KEPT: dict[tuple[str, str, int | None], ConfigResult | None] = {}  # {(place, path, time of change): content}


class FileRepository(ConfigRepository):
    """Hydra's files, where those of the user are read whole."""

    def initialize_sources(self, config_search_path: ConfigSearchPath) -> None:
        """Look for files in these places.

        Raises:
            UserError: the user's places have files that would be passed over.
        """
        super().initialize_sources(config_search_path)
        users = [s for s in self.sources if s.scheme() == "file" and is_users(s.provider, s.full_path())]
        refuse_passed_over([Path(source.path) for source in users])

    def load_config(self, config_path: str) -> ConfigResult | None:
        """Return a file's content, with the package that its head names.

        Raises:
            UserError: a file of the user's cannot be read, or its head is missing or cannot be understood.
        """
        source = self._find_object_source(config_path, ObjectType.CONFIG)
        if source is None or source.scheme() not in ("file", "pkg"):
            return super().load_config(config_path)
        if not is_users(source.provider, source.full_path()):
            return self._kept(source, config_path)
        name, data = _content(source, config_path)
        text = _decoded(name, data)
        try:
            found = super().load_config(config_path)
        except yaml.YAMLError as error:
            raise UserError(_yaml_problem(name, error)) from None
        except (ValueError, OSError, OmegaConfBaseException) as error:
            raise UserError(f"{name}: {' '.join(str(error).split())}") from None
        if found is None or not OmegaConf.is_dict(found.config):
            raise UserError(f"{name}: no keys; allowed: lines KEY: VALUE")
        found.header["package"] = package_of(name, text)
        if found.header["package"] != "_global_" and _is_global(config_path.rpartition("/")[0]):
            keys = ", ".join(map(str, found.config)) or "what it chooses"
            raise UserError(f"{name}: its head lacks '{HEAD}', so {keys} would be lost; try that as its first line")
        return found

    def _kept(self, source: ConfigSource, config_path: str) -> ConfigResult | None:
        """Return the content of a file of dfm's or Hydra's, which a process reads once unless it changes."""
        place = Path(file_name(source.full_path(), config_path))
        changed = place.stat().st_mtime_ns if source.scheme() == "file" else None
        key = source.full_path(), config_path, changed
        if key not in _KEPT:
            _KEPT[key] = super().load_config(config_path)
        return _KEPT[key]


def is_users(provider: str, path: str) -> bool:
    """Whether files from this place are the user's: neither Hydra's nor dfm's."""
    return provider not in ("hydra", "schema") and path != f"file://{config_dir()}"


def file_name(path: str, config_path: str) -> str:
    """Return the name of a file for messages, from the place of its directory, e.g. file://DIR."""
    return f"{path.removeprefix('file://').rstrip('/')}/{config_path.removesuffix('.yaml')}.yaml"


def package_of(name: str, text: str) -> str | None:
    """Return the package that the head of a file names, wherever among its first comments; None if it names none.

    Args:
        name: of the file.

    Raises:
        UserError: a line looks like such a head but is none, or stands below the first key.
    """
    package, above = None, True
    for number, line in enumerate(text.lstrip("\ufeff").splitlines(), 1):
        stripped = line.strip()
        if stripped and not stripped.startswith("#") and stripped != "---":
            above = False
        match = _HEAD_LINE.match(stripped)
        if match and above:
            package = match[1]
        elif match or _is_meant_as_head(stripped):
            where = "" if above else ", above the first key"
            raise UserError(f"{name}, line {number}: '{stripped}' is not heeded; allowed: '{HEAD}'{where}")
    return package


def _is_meant_as_head(line: str) -> bool:
    words = re.match(r"#\s*(@?)([\w-]+)\W*(.*)$", line)
    if not words:
        return False
    mark, word, rest = words.groups()
    close = bool(difflib.get_close_matches(word.lower(), ["package"], cutoff=0.75))
    return close and (bool(mark) or re.fullmatch(r"_*global_*", rest.strip()) is not None)


def refuse_passed_over(directories: Sequence[Path]) -> None:
    """Refuse files that Hydra passes over: those that end in .yml, and those with the name of a file of dfm.

    Raises:
        UserError: there is one.
    """
    own = config_dir()
    groups = sorted(path.name for path in own.iterdir() if path.is_dir())
    for directory in directories:
        if directory.resolve() == own.resolve():
            continue
        below = [path for group in groups for path in sorted((directory / group).glob("**/*.y*ml"))]
        for path in [*below, *sorted(directory.glob("*.yaml"))]:
            inside = path.relative_to(directory)
            if path.suffix == ".yml":
                raise UserError(f"{path}: only files that end in .yaml are read; try {path.stem}.yaml")
            if (own / inside).is_file():
                raise UserError(f"{path}: dfm has {inside} too and reads only its own; try another name")


def misplaced(group: str, option: str, directories: Sequence[Path]) -> str | None:
    """Return a hint about a file of this name in a directory of the user's that is no group; None if there is none."""
    for directory in directories:
        for path in sorted(directory.glob(f"*/{option}.yaml")):
            if path.parent.name != group:
                return f"{path} is in the group {path.parent.name}; try {path.parent.parent / group / path.name}"
    return None


def settings_of_files(choices: Mapping[str, str | None], directories: Sequence[Path]) -> Iterator[tuple[Path, str]]:
    """Yield (file, key) for every key and every group that the user's chosen ``_global_`` files set.

    Args:
        choices: {group: option}.
        directories: the user's.
    """
    for group, option in choices.items():
        path = next((p for d in directories if (p := d / group / f"{option}.yaml").is_file()), None)
        text = path.read_text("utf-8-sig") if path else ""
        if path and package_of(str(path), text) == "_global_":
            content = yaml.safe_load(text) or {}
            for default in content.pop("defaults", ()):
                for name in default if isinstance(default, dict) else ():
                    yield path, str(name).removeprefix("override ").strip().lstrip("/")
            yield from ((path, ".".join(key)) for key, _ in paths(content))


def _content(source: ConfigSource, config_path: str) -> tuple[str, bytes]:
    """Return a file's name and bytes."""
    name = file_name(source.full_path(), config_path)
    if source.scheme() == "pkg":
        return name, files(source.path).joinpath(f"{config_path.removesuffix('.yaml')}.yaml").read_bytes()
    try:
        return name, Path(name).read_bytes()
    except OSError as error:
        raise UserError(f"{name}: {error.strerror}") from None


def _decoded(name: str, data: bytes) -> str:
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise UserError(f"{name}, line {line}: not UTF-8; allowed: text in UTF-8") from None


def _yaml_problem(name: str, error: yaml.YAMLError) -> str:
    mark, problem = getattr(error, "problem_mark", None), getattr(error, "problem", None)
    problem = " ".join(str(problem or error).split())
    where = f"{name}, line {mark.line + 1}" if mark else name
    if "'\\t'" in problem:
        return f"{where}: a tab; allowed: spaces to indent"
    if "duplicate key" in problem:
        return f"{where}: key '{problem.rpartition(' ')[2]}' is given twice; allowed: once"
    return f"{where}: no YAML: {problem}"


def _is_global(group: str) -> bool:
    """Whether the files of this group need the head: those of dfm's own group have it."""
    return any(package_of(str(path), path.read_text("utf-8")) == "_global_" for path in _first(group))


def _first(group: str) -> Iterator[Path]:
    yield from sorted((config_dir() / group).glob("[!_]*.yaml"))[:1] if group else ()

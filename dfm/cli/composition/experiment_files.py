"""What the files of experiments, and the options of the command line, choose: sections of the configuration."""

from collections.abc import Iterator, Sequence
from typing import Any

from hydra._internal.config_repository import CachingConfigRepository
from hydra.core.default_element import ConfigDefault, GroupDefault
from hydra.core.override_parser.types import Override
from hydra.plugins.config_source import ConfigResult

from dfm.cli.composition.recipes import EXPERIMENT, RECIPE, chosen_in, names_in, section


def typed_sections(words: Sequence[Override], files: CachingConfigRepository, experiment: str) -> list[str]:
    """Return the sections that GROUP=OPTION chooses: its own, and those whose options the file of OPTION chooses.

    So objective=consistency brings its density and sampler to an experiment with others. An option that the experiment
    has itself changes nothing in it.

    Args:
        experiment: the path of the experiment's file.
    """
    typed = []
    for word in words:
        group = word.key_or_group
        if not files.group_exists(group):
            continue
        name = section(group, word.package)
        typed.append(name)
        plain = not (word.package or word.is_sweep_override() or group in (EXPERIMENT, RECIPE))
        option = word.value() if plain else None
        if isinstance(option, str) and option != _option(files, experiment, name):
            found = files.load_config(f"{group}/{option}")
            typed += chosen_in(found) if found else ()
    return typed


def _option(files: CachingConfigRepository, path: str, name: str) -> Any:
    """Return the option that an experiment chooses for a section, itself or by another on which it builds, or None."""
    found = files.load_config(path)
    if found is None:
        return None
    option = None
    for base in _bases(found):
        option = _option(files, base, name) or option
    for default in found.defaults_list or ():
        if not (isinstance(default, GroupDefault) and default.override):
            continue
        if section(str(default.group), default.package) == name:
            option = default.value
    return option


def names_section(files: CachingConfigRepository, path: str, part: str) -> bool:
    """Whether an experiment names a section, itself or by another experiment on which it builds."""
    found = files.load_config(path)
    if found is None or part in names_in(found):
        return True
    return any(names_section(files, base, part) for base in _bases(found))


def chosen_sections(files: CachingConfigRepository, path: str) -> Iterator[str]:
    """Yield the sections whose options an experiment chooses, itself or by another on which it builds."""
    found = files.load_config(path)
    if found is not None:
        yield from chosen_in(found)
        for base in _bases(found):
            yield from chosen_sections(files, base)


def _bases(found: ConfigResult) -> Iterator[str]:
    """Yield the paths of the experiments on which one builds."""
    for default in found.defaults_list or ():
        if isinstance(default, ConfigDefault) and default.path and not default.is_self():
            yield default.path[1:] if default.path[0] == "/" else f"{EXPERIMENT}/{default.path}"

"""Recipes: the network and the numbers of training that suit the data, where no experiment made for them is chosen.

An experiment that names a data set is made for data of its kind and size. Where the command line gives other data, the
option of the group ``recipe`` that suits those takes the place of the experiment's network and numbers. What the
command line names always wins over both.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from dfm.basics.errors import UserError
from dfm.runs.build import target_of

EXPERIMENT, RECIPE, NONE = "experiment", "recipe", "none"
SUITED = ("model", "trainer", "samples", "nll")  # sections that depend on the kind and the size of the data
# {kind: (longest side, recipe), from small to large}
SIZES: Mapping[str, Sequence[tuple[float, str]]] = {
    "signals": ((512, "signals"), (float("inf"), "signals_long")),
    "images": ((16, "images_8"), (40, "images_32"), (96, "images_64"), (float("inf"), "images_128")),
    "volumes": ((32, "volumes"), (float("inf"), "volumes_large")),
}
KINDS = {2: "signals", 3: "images", 4: "volumes"}  # of shapes (C, L), (C, H, W) and (C, D, H, W)


@dataclass(frozen=True, kw_only=True)
class Form:
    """What a recipe must know of the data.

    Args:
        name: the name of the data set.
        kind: points, signals, images or volumes.
        size: the sides; empty for points, and for images whose size is not known before they are read.
    """

    name: str = field(compare=False)
    kind: str
    size: tuple[int, ...] = ()

    @property
    def recipe(self) -> str:
        """The option of the group ``recipe`` that suits the data."""
        if self.kind == "points":
            return "points"
        if not self.size:
            return "images_32"
        return next(name for most, name in SIZES[self.kind] if max(self.size) <= most)

    def __str__(self) -> str:
        size = "x".join(map(str, self.size)) or ("" if self.kind == "points" else "of unknown size")
        return " ".join(filter(None, (self.name, self.kind, size)))


def form_of(node: Mapping[str, Any], trusted: Sequence[str]) -> Form | None:
    """Return the form of the data that a configuration names, without making the data set; None: no such class."""
    try:
        kind = target_of(str(node.get("_target_")), "dataset", trusted)
    except UserError:
        return None  # it is refused when the data set is made
    shape = kind.shape_of(node) if hasattr(kind, "shape_of") else None
    name = str(getattr(kind, "name", kind.__name__))
    if shape:
        return form_of_shape(name, shape)
    return Form(name=name, kind="points" if getattr(kind, "levels", None) is None else "images")


def form_of_shape(name: str, shape: Sequence[int]) -> Form:
    """Return the form of data whose examples have this shape."""
    known = KINDS.get(len(shape), "points")
    return Form(name=name, kind=known, size=() if known == "points" else tuple(shape)[1:])


def told(
    config: Mapping[str, Any], choices: Mapping[str, Any], words: Sequence[str], trusted: Sequence[str]
) -> str | None:
    """Return the line that says which recipe was chosen and why; None if none was.

    Args:
        choices: {group: option}.
        words: the command line.
    """
    recipe, experiment = choices.get(RECIPE), choices.get(EXPERIMENT)
    if recipe in (None, NONE):
        return None
    numbers = config["trainer"]
    minutes = f" or {numbers['max_minutes']:g} minutes" if numbers["max_minutes"] else ""
    chosen = (
        f"{form_of(config['dataset'], trusted) or 'these data'}: recipe={recipe}, model={choices.get('model')}, "
        f"batch {numbers['batch_size']}, rate {numbers['lr']:g}, {numbers['max_steps']} steps{minutes}"
    )
    if experiment in (None, NONE):
        named = any(word.partition("=")[0] == EXPERIMENT for word in words)
        return f"{chosen}; {'no experiment' if named else 'the default experiment is made for other data'}"
    return f"{chosen}; the rest is from experiment={experiment}"


def names_in(found: Any) -> Iterator[str]:
    """Yield the sections that a file with the head ``# @package _global_`` sets: of its options and of its keys."""
    yield from chosen_in(found)
    yield from map(str, found.config)


def chosen_in(found: Any) -> Iterator[str]:
    """Yield the sections whose options such a file chooses by ``override /GROUP: OPTION``."""
    for default in found.defaults_list or ():
        if default.is_override():
            yield section(default.group, default.package)


def section(group: str, package: str | None) -> str:
    """Return the dotted key at which an option of a group is placed."""
    return (package or group.lstrip("/").replace("/", ".")).removeprefix("_global_.")


def is_below(key: str, sections: Sequence[str]) -> bool:
    """Whether a dotted key is one of the sections, or stands below one."""
    return any(f"{key}.".startswith(f"{name}.") for name in sections)

"""The classes that ``label=`` asks for: one or several, by name or by number, all of them in turn, or none.

``all`` and ``none`` are words. Any other value is the name of a class, or else its number. Where the name of a class is
itself a whole number, only names count: with folders called 1, 2 and 10, ``label=10`` is the last one, and ``label=0``
is a mistake. In a list every value is a class, so ``label=[none]`` is the class that is called none.
"""

import difflib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from dfm.basics.errors import UserError
from dfm.data.spec import DatasetSpec

Label = int | str | Sequence[int | str] | None
LISTED = 20  # names in a message; it counts the rest
NEAR = 3  # of them come first, if they are like the name that was given


@dataclass(frozen=True, kw_only=True)
class AskedClasses:
    """The classes of samples 0, 1, 2, ...: sample k has class ``numbers[k % len(numbers)]``.

    Args:
        numbers: the classes; empty: the samples have none.
        names: their names; empty if they have none.
        kind: how they were asked for: ``null`` (all in turn), ``all``, ``none``, ``one`` class or a ``list``.
    """

    numbers: tuple[int, ...] = ()
    names: tuple[str, ...] = ()
    kind: Literal["null", "all", "none", "one", "list"]

    def of(self, indices: Sequence[int]) -> Tensor | None:
        """Return the classes of the samples numbered ``indices``, int64 (n,), or None."""
        return torch.tensor([self.numbers[k % len(self.numbers)] for k in indices]) if self.numbers else None

    @property
    def rows(self) -> tuple[int, ...]:
        """The classes that have a row each in a grid: with ``all`` and with a list."""
        return self.numbers if self.kind in ("all", "list") else ()

    @property
    def chosen(self) -> tuple[int, ...]:
        """The classes that were asked for one by one; empty with null, ``all`` and ``none``."""
        return self.numbers if self.kind in ("one", "list") else ()

    def whole_rows(self, n: int) -> int:
        """Return the smallest number from n on that fills each row of the grid."""
        return n + -n % max(1, len(self.rows))

    @property
    def text(self) -> str:
        """The chosen classes as one writes them, by name if they have names."""
        chosen = self.names or self.numbers
        return str(chosen[0]) if self.kind == "one" else _text(chosen)

    @property
    def facts(self) -> dict[str, Any]:
        """``label`` and ``label_name`` for JSON: the number and the name of a class, or lists of them, or the word."""
        if not self.chosen:
            return {"label": None if self.kind == "null" else self.kind, "label_name": None}
        numbers, names = list(self.numbers), list(self.names) or None
        if self.kind == "list":
            return {"label": numbers, "label_name": names}
        return {"label": numbers[0], "label_name": names[0] if names else None}


def asked_classes(
    spec: DatasetSpec, label: Label, *, can_omit: bool = True, what: str = "this model was trained"
) -> AskedClasses:
    """Return the classes that ``label`` asks for; the first lines of this module say how it is read.

    Args:
        label: None asks for all classes in turn, or for none where there are none. "all" is the same, with a row of the
            grid for each. "none" asks for samples without a class.
        can_omit: whether the model works without classes (``Denoiser.can_omit_label``).
        what: the thing without classes, for messages.

    Raises:
        UserError: there is no such class, a list is empty or has a class twice, there are no classes at all, or the
            model needs one.
    """
    if label == "none" and (can_omit or not spec.num_classes):
        return AskedClasses(kind="none")
    if spec.num_classes == 0:
        if label is not None:
            raise UserError(f"label={_text(label)}: {what} without classes; try without label=")
        return AskedClasses(kind="null")
    if label == "none":
        raise UserError(
            "label=none: no label was hidden in the training of this model (label_dropout=0), so it needs a class; "
            f"allowed: {_allowed(spec, can_omit)}{_of_this_name(spec, 'none')}; try label=all"
        )
    if label is None or label == "all":
        return _asked(spec, range(spec.num_classes), "all" if label else "null")
    if isinstance(label, str) or not isinstance(label, Sequence):
        return _asked(spec, [_number(spec, label, can_omit)], "one")
    numbers = [_number(spec, each, can_omit) for each in label]
    if len(set(numbers)) < len(numbers) or not numbers:
        raise UserError(f"label={_text(label)}; allowed: a list with at least one class, and each class once")
    return _asked(spec, numbers, "list")


def in_turn(spec: DatasetSpec, indices: Sequence[int]) -> Tensor | None:
    """Return the classes of samples ``indices`` where nobody asks for one: k modulo the number of classes, or None."""
    return asked_classes(spec, None).of(indices)


def other_meaning(spec: DatasetSpec, label: Label) -> str:
    """Return a line for ``label=all`` and ``label=none`` if a class has this name, else an empty text."""
    word = str(label) if label in ("all", "none") else ""
    return f"label={word} is a word of dfm{_of_this_name(spec, word)}" if word in spec.class_names else ""


def renumbered(labels: Tensor, names: Sequence[str], spec: DatasetSpec) -> Tensor:
    """Return stored classes, int64 (n,), as numbers of ``spec``: a class is the one with the same name there.

    Args:
        names: the names that were stored with the classes. Without them, or without names in ``spec``, nothing changes.

    Returns:
        -1 for a class that ``spec`` lacks.
    """
    if not names or not spec.class_names or tuple(names) == spec.class_names:
        return labels
    number = {name: k for k, name in enumerate(spec.class_names)}
    table = torch.tensor([number.get(name, -1) for name in names])
    known = (labels >= 0) & (labels < len(names))
    return torch.where(known, table[labels.clamp(0, len(names) - 1)], -1)


def _asked(spec: DatasetSpec, numbers: Sequence[int], kind: Literal["null", "all", "one", "list"]) -> AskedClasses:
    names = tuple(spec.class_names[k] for k in numbers) if spec.class_names else ()
    return AskedClasses(numbers=tuple(numbers), names=names, kind=kind)


def _number(spec: DatasetSpec, label: int | str, can_omit: bool) -> int:
    """Return the number of the class with this name or number."""
    if str(label) in spec.class_names:
        return spec.class_names.index(str(label))
    number = int(label) if _is_number(str(label)) else -1
    if not _numbers_are_names(spec) and 0 <= number < spec.num_classes:
        return number
    near = _near(str(label), spec.class_names)
    hint = f"; did you mean '{near[0]}'?" if near else ""
    unknown = f": unknown class '{label}'" if spec.class_names else ""
    raise UserError(f"label={label}{unknown}; allowed: {_allowed(spec, can_omit, near)}{hint}")


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit()


def _numbers_are_names(spec: DatasetSpec) -> bool:
    return any(map(_is_number, spec.class_names))


def _near(name: str, names: Sequence[str]) -> list[str]:
    """Return the names that are like ``name``, the most similar first, whatever their capitals."""
    by_lower = {other.lower(): other for other in reversed(names)}
    close = [by_lower[other] for other in difflib.get_close_matches(name.lower(), by_lower, n=NEAR)]
    parts = [other for other in names if len(name) > 1 and name.lower() in other.lower()]
    return list(dict.fromkeys([*close, *parts]))[:NEAR]


def _allowed(spec: DatasetSpec, can_omit: bool, near: Sequence[str] = ()) -> str:
    """Return what ``label`` may be, as text: the names, those that are near first, the numbers and the words."""
    names = [*near, *(name for name in spec.class_names if name not in near)]
    listed = names[:LISTED] + ([f"{len(names) - LISTED} more names"] if len(names) > LISTED else [])
    numbers = [] if _numbers_are_names(spec) else [f"0 to {spec.num_classes - 1}"]
    return ", ".join([*listed, *numbers, *(("all", "or none") if can_omit else ("or all",))])


def _of_this_name(spec: DatasetSpec, word: str) -> str:
    return f"; the class of this name is label=[{word}]" if word in spec.class_names else ""


def _text(label: Label) -> str:
    if isinstance(label, str) or not isinstance(label, Sequence):
        return str(label)
    return f"[{','.join(map(str, label))}]"

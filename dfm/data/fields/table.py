"""A table whose columns have very different units, correlate, and have one with heavy tails; its law is known."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dfm.basics.errors import UserError
from dfm.data.toys import Mixture


@dataclass(frozen=True, kw_only=True, eq=False)
class Table(Mixture):
    """A Gaussian mixture with names: rows of d named columns, and K named kinds of rows, which are the classes.

    Args:
        columns: d names.
        kinds: K names, or none.

    Raises:
        UserError: a number of names differs from the number of columns or of kinds.
    """

    columns: Sequence[str]
    kinds: Sequence[str] = ()

    name = "table"

    def __post_init__(self) -> None:
        super().__post_init__()
        width, count = len(self.means[0]), len(self.means)
        for what, names, number in (("columns", self.columns, width), ("kinds", self.kinds or None, count)):
            if names is not None and (len(names) != number or len(set(names)) != number):
                raise UserError(
                    f"dataset {self.name}: {what}={list(names)}; allowed: {number} different names, as the means have"
                )

    @classmethod
    def shape_of(cls, arguments: Mapping[str, Any]) -> tuple[int, ...] | None:
        columns = arguments.get("columns")
        return (len(columns),) if columns else None

    @property
    def channel_names(self) -> tuple[str, ...]:  # type: ignore[override]
        """The names of the columns."""
        return tuple(self.columns)

    @property
    def class_names(self) -> tuple[str, ...]:  # type: ignore[override]
        """The names of the kinds of rows, if there are several."""
        return tuple(self.kinds) if self.num_classes else ()

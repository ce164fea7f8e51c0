"""A source of examples with splits and classes: what it lists, and what it gives in the same order."""

from abc import abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from dfm.basics.errors import UserError
from dfm.data.rows.classes import number_classes
from dfm.data.rows.examples import Examples


@dataclass(frozen=True, kw_only=True)
class Listing:
    """All examples of a source, in the order in which it gives them.

    Args:
        splits: the number of the split in ``SPLITS`` that the source itself names, int8 (N,).
        shares: a number in [0, 1) of each example, which decides the splits that are drawn; float64 (N,).
        labels: int64 (N,), or None.
        class_names: the names of the classes, in the order of the labels; empty: they have none.
    """

    splits: np.ndarray
    shares: np.ndarray
    labels: np.ndarray | None
    class_names: tuple[str, ...]

    @classmethod
    def of(cls, columns: Mapping[str, np.ndarray]) -> "Listing":
        """Return the listing that ``columns`` gave."""
        return cls(
            splits=columns["splits"],
            shares=columns["shares"],
            labels=columns.get("labels"),
            class_names=tuple(columns["class_names"].tolist()),
        )

    def columns(self) -> dict[str, np.ndarray]:
        """Return all that is known as arrays."""
        labels = {} if self.labels is None else {"labels": self.labels}
        return {"splits": self.splits, "shares": self.shares, "class_names": np.array(self.class_names, str), **labels}


class Source(Examples):
    """A place of examples that says their splits and classes.

    Attributes:
        identity: a text that tells it from another source, for the family of its cache file.
    """

    identity: str

    @abstractmethod
    def listing(self) -> Listing:
        """Return all examples without their numbers.

        Raises:
            UserError: the source cannot be read, or has no such labels.
        """

    def count(self) -> int:
        return len(self._listing.splits)

    def columns(self) -> Mapping[str, np.ndarray]:
        return self._listing.columns()

    @cached_property
    def _listing(self) -> Listing:
        return self.listing()


def numbered(values: Iterable[object], what: str) -> tuple[np.ndarray, tuple[str, ...]]:
    """Return labels int64 (N,) and class names of values: whole numbers or texts, as ``number_classes`` does.

    Args:
        what: what messages call them.

    Raises:
        UserError: a value is neither.
    """
    found: list[Any] = [value.item() if isinstance(value, np.generic) else value for value in values]
    wrong = [one for one in found if not isinstance(one, str) and not (isinstance(one, int) and abs(one) < 2**63)]
    if wrong or len({isinstance(value, str) for value in found}) > 1:
        problem = f"the label {wrong[0]!r}" if wrong else "labels that are partly numbers and partly texts"
        raise UserError(f"{what}: {problem}; allowed: whole numbers, or texts; try dataset.labels=false")
    labels, _, names = number_classes({what: np.array(found)}, None)
    return labels[what], names

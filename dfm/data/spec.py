"""The facts that a model must know about its data."""

import math
from collections import Counter
from dataclasses import dataclass

from dfm.basics.errors import UserError

# A mean of more than this many deviations is taken out of the data that a network sees (``DatasetSpec.centre``). With a
# smaller one the mean square of its inputs and targets is at most 5 in place of 1, so it stays.
FAR = 2.0
MOST_TOLD = 3  # classes that a warning names; it counts the rest


@dataclass(frozen=True, kw_only=True)
class DatasetSpec:
    """The facts that a model must know about its data: plain numbers, strings and tuples only.

    Args:
        name: name of the data set.
        shape: shape of one example: (d,) for points, (C, L) for signals, (C, H, W) for images, (C, D, H, W) for
            volumes. The first axis is the channel.
        levels: K, the number of integer levels 0..K-1; None for real numbers.
        num_classes: labels are 0..num_classes-1; 0 if there are no labels.
        mean: mean of all numbers of the data, as the model sees them.
        std: root of their variance, in the same units; for points of the average variance of a coordinate.
        centre: what is taken from the data before a network sees them: their mean if it is more than ``FAR`` deviations
            from 0, else 0. Inputs and targets of a network are scaled by ``std`` alone, so with a mean of 100
            deviations both would have size 100. It is 0 in every file of dfm 0.1.
        shift, scale: the model sees (value - shift)/scale of real numbers, one of each for each channel
            (``dfm.data.numbers.units``); empty: the values themselves.
        dtype: NumPy's name of the type of the user's array, in which samples are stored in its unit. Empty for
            pictures, which are stored as uint8 over 0 .. 255, and for points, which are stored as float32.
        lowest: the integer of the user's array that is level 0.
        channels_last: whether the user's array has its channels as the last axis, as samples then have.
        channel_axis: whether the user's array has an axis of channels; without one, shape has a first axis of length 1.
        class_names: the names of the classes, in the order of the labels; empty: they have none.
        channel_names: the names of the channels, such as the columns of a table; empty: they have none.
        low, high: the smallest and the largest number of the training data as they are stored, of each channel or of
            all together; empty: not known. They matter to pictures only (``dfm.runs.pictures.windows``).
    """

    name: str
    shape: tuple[int, ...]
    levels: int | None
    num_classes: int
    mean: float
    std: float
    centre: float = 0.0
    shift: tuple[float, ...] = ()
    scale: tuple[float, ...] = ()
    dtype: str = ""
    lowest: int = 0
    channels_last: bool = False
    channel_axis: bool = True
    class_names: tuple[str, ...] = ()
    channel_names: tuple[str, ...] = ()
    low: tuple[float, ...] = ()
    high: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        if not self.shape or min(self.shape) < 1:
            raise UserError(
                f"dataset {self.name}: shape {self.shape}; allowed: (d,), (C, L), (C, H, W) or (C, D, H, W), all at "
                "least 1"
            )
        if not (math.isfinite(self.mean) and math.isfinite(self.std) and self.std > 0):
            why = "are all training examples the same?" if self.std == 0 else "are numbers too large for float64?"
            raise UserError(
                f"dataset {self.name}: mean {self.mean:g}, std {self.std:g}; allowed: finite numbers, std above 0 "
                f"({why})"
            )
        constants = (*self.shift, *self.scale)
        fits = len(constants) in (0, 2 * self.shape[0]) and len(self.shift) == len(self.scale)
        if not fits or not all(map(math.isfinite, constants)) or min(self.scale, default=1.0) <= 0:
            raise UserError(
                f"dataset {self.name}: shift {self.shift}, scale {self.scale}; allowed: one finite number of each for "
                f"each of {self.shape[0]} channels, scale above 0"
            )
        found = (*self.low, *self.high)
        if (
            len(self.low) != len(self.high)
            or len(self.low) not in (0, 1, self.shape[0])
            or not all(map(math.isfinite, found))
        ):
            raise UserError(f"dataset {self.name}: low {self.low}, high {self.high}; allowed: finite numbers")
        if self.class_names:
            self._check_names()
        names = self.channel_names
        if names and (len(names) != self.shape[0] or not all(isinstance(name, str) for name in names)):
            raise UserError(f"dataset {self.name}: names of channels {names}; allowed: {self.shape[0]} texts, or none")

    def _check_names(self) -> None:
        """Refuse names that do not tell the classes apart."""
        names = self.class_names
        if len(names) != self.num_classes:
            raise UserError(
                f"dataset {self.name}: {len(names)} names of classes; allowed: {self.num_classes}, one each"
            )
        if not all(isinstance(name, str) for name in names):
            raise UserError(f"dataset {self.name}: names of classes {names}; allowed: texts")
        if twice := [name for name, count in Counter(names).items() if count > 1]:
            raise UserError(f"dataset {self.name}: two classes are called '{twice[0]}'; allowed: each name once")

    @property
    def is_picture(self) -> bool:
        """Whether samples are stored as pictures: 8 bits a channel, whatever the number of levels."""
        return self.levels is not None and not self.dtype

    def unlike(self, other: "DatasetSpec") -> tuple[str, ...]:
        """Return the facts that differ, as ``shape (1, 8, 8) instead of (1, 28, 28)``: here, and there, in ``other``.

        It is empty if both can be facts of the same data, though another version of dfm may have scaled them otherwise:
        the mean and deviation that a model sees count only where both are scaled alike.
        """
        pairs = [(what, mine, theirs) for what, mine, theirs in self._words(other) if mine != theirs]
        if not pairs and (self.shift, self.scale) == (other.shift, other.scale):
            moments = (("mean", self.mean, other.mean), ("deviation", self.std, other.std))
            pairs = [
                (what, f"{a:.9g}", f"{b:.9g}")
                for what, a, b in moments
                if not math.isclose(a, b, rel_tol=1e-9, abs_tol=1e-9 * self.std)
            ]
        return tuple(f"{what} {mine} instead of {theirs}" for what, mine, theirs in pairs)

    def unlike_examples(self, shape: tuple[int, ...], levels: int | None, num_classes: int | None = None) -> str:
        """Return why a model of these data cannot see such examples, in the words of ``unlike``; empty: it can.

        Args:
            num_classes: of the examples; None: it does not count.
        """
        pairs = _form_words(shape, levels, num_classes, self)
        if num_classes is None:
            pairs = pairs[:2]
        return ", ".join(f"{what} {theirs} instead of {mine}" for what, theirs, mine in pairs if theirs != mine)

    def _words(self, other: "DatasetSpec") -> list[tuple[str, object, object]]:
        """Return the facts that are counted or named: what it is, here and there."""

        def kind(spec: "DatasetSpec") -> str:
            return spec.dtype or ("points" if spec.levels is None else "pictures")

        return [
            *_form_words(self.shape, self.levels, self.num_classes, other),
            ("type", kind(self), kind(other)),
            ("lowest number", self.lowest, other.lowest),
        ]

    def names_changed(self, other: "DatasetSpec") -> str:
        """Return which classes have another name ``there``, in ``other``, than here, as text of a warning.

        It is empty if no name differs, or if one of the two has no names or another number of classes.
        """
        if len(self.class_names) != len(other.class_names):
            return ""
        pairs = enumerate(zip(self.class_names, other.class_names, strict=True))
        changed = [f"class {k} is '{there}' there, '{here}' here" for k, (here, there) in pairs if here != there]
        more = f", and {len(changed) - MOST_TOLD} more" if len(changed) > MOST_TOLD else ""
        return ", ".join(changed[:MOST_TOLD]) + more

    @property
    def form(self) -> tuple[object, ...]:
        """What two data sets must share for a model of one to see the other: shape, levels and classes."""
        return self.shape, self.levels, self.num_classes


def _form_words(
    shape: tuple[int, ...], levels: int | None, num_classes: int | None, there: DatasetSpec
) -> list[tuple[str, object, object]]:
    """Return the facts that data must share for a model of the one to see the other: what it is, here and there."""
    return [
        ("shape", shape, there.shape),
        ("levels", "none" if levels is None else levels, "none" if there.levels is None else there.levels),
        ("number of classes", num_classes, there.num_classes),
    ]

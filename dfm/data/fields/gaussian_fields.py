"""Signals, maps and volumes that are stationary Gaussian fields, with their density in closed form."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import torch
from torch import Tensor

from dfm.basics.errors import UserError
from dfm.data.fields.field_mixture import FieldMixture
from dfm.data.fields.spectra import ridge
from dfm.data.toys import Points


@dataclass(frozen=True, kw_only=True, eq=False)
class GaussianFields(Points):
    """Draws of a stationary Gaussian field on a periodic grid, or of one of several kinds, which are the classes.

        x_c = mean_c + deviation_c u_c,    Cov[u_c(r), u_c'(s)] = rho_cc' R(r - s)

    The spectrum of each kind, the Fourier transform of R, is ``dfm.data.fields.spectra.ridge``. Any two channels have
    the same correlation rho at a place.

    Args:
        sides: places along each side: [L] of signals (C, L), [H, W] of maps (C, H, W), [D, H, W] of volumes.
        means, deviations: of each channel, in the unit of the data; their number is the number of channels C.
        correlation: of each two channels.
        lengths, exponents, frequencies: of the spectrum of each kind; their number is the number of kinds K.
        noise: share of the variance that is white.
        weights: K positive numbers, divided by their sum; None for equal ones.
        kinds: K names of the kinds, or none.

    Raises:
        UserError: the lists do not fit together, or a number is outside its range.
    """

    sides: Sequence[int]
    means: Sequence[float] = (0.0,)
    deviations: Sequence[float] = (1.0,)
    correlation: float = 0.0
    lengths: Sequence[float] = (4.0,)
    exponents: Sequence[float] = (4.0,)
    frequencies: Sequence[float] = (0.0,)
    noise: float = 0.01
    weights: Sequence[float] | None = None
    kinds: Sequence[str] = ()

    name = "fields"
    dimensions: ClassVar[tuple[int, ...]] = (1, 2, 3)  # numbers of sides that are allowed

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(self.sides) not in self.dimensions or min(self.sides) < 2:
            counts = " or ".join(map(str, self.dimensions))
            raise UserError(f"dataset {self.name}: sides={list(self.sides)}; allowed: {counts} of at least 2 places")
        self._check_counts()
        _ = self.law  # the law checks its own numbers

    def _check_counts(self) -> None:
        channels, kinds = len(self.means), len(self.lengths)
        counts = {
            "deviations": (self.deviations, channels, "means"),
            "exponents": (self.exponents, kinds, "lengths"),
            "frequencies": (self.frequencies, kinds, "lengths"),
            "weights": (self.weights, kinds, "lengths"),
            "kinds": (self.kinds or None, kinds, "lengths"),
        }
        for name, (given, count, like) in counts.items():
            if count == 0 or (given is not None and len(given) != count):
                shown = None if given is None else list(given)
                raise UserError(
                    f"dataset {self.name}: {name}={shown} beside {count} {like}; allowed: as many of both, at least 1"
                )
        numbers = [*self.means, *self.deviations, *(self.weights or ())]
        if not all(map(math.isfinite, numbers)) or min(*self.deviations, *(self.weights or (1.0,)), 1.0) <= 0:
            raise UserError(
                f"dataset {self.name}: means={list(self.means)}, deviations={list(self.deviations)}, "
                f"weights={self.weights}; allowed: finite numbers, deviations and weights above 0"
            )
        if not -1 / max(1, channels - 1) < self.correlation < 1:
            raise UserError(
                f"dataset {self.name}: correlation={self.correlation:g}; allowed: a number between "
                f"{-1 / max(1, channels - 1):g} and 1, for {channels} channels"
            )

    @classmethod
    def shape_of(cls, arguments: Mapping[str, Any]) -> tuple[int, ...] | None:
        sides, means = arguments.get("sides"), arguments.get("means", (0.0,))
        return (len(means), *sides) if sides else None

    @property
    def num_classes(self) -> int:  # type: ignore[override]
        """K, or 0 for one kind, for which a label has no meaning."""
        return len(self.lengths) if len(self.lengths) > 1 else 0

    @property
    def class_names(self) -> tuple[str, ...]:  # type: ignore[override]
        """The names of the kinds, if there are several."""
        return tuple(self.kinds) if self.num_classes else ()

    @cached_property
    def law(self) -> FieldMixture:
        """The exact law, in the unit of the data."""
        kinds = zip(self.lengths, self.exponents, self.frequencies, strict=True)
        spectra = torch.stack([ridge(self.sides, *numbers, self.noise) for numbers in kinds])
        deviations = torch.tensor(list(self.deviations), dtype=torch.float64)
        alike = torch.full((len(deviations),) * 2, self.correlation, dtype=torch.float64).fill_diagonal_(1.0)
        shares = torch.tensor(list(self.weights or [1.0] * len(spectra)), dtype=torch.float64)
        return FieldMixture(
            weights=shares / shares.sum(),
            centres=torch.tensor([list(self.means)] * len(spectra), dtype=torch.float64),
            spectra=spectra[..., None, None] * alike * torch.outer(deviations, deviations),
        )

    def draw(self, n: int, generator: torch.Generator) -> tuple[Tensor, Tensor | None]:
        fields, labels = self.law.sample(n, generator)
        return fields, labels if self.num_classes else None


@dataclass(frozen=True, kw_only=True, eq=False)
class Signals(GaussianFields):
    """Fields on a line, (C, L)."""

    name = "signals"
    dimensions = (1,)


@dataclass(frozen=True, kw_only=True, eq=False)
class Volumes(GaussianFields):
    """Fields in space, (C, D, H, W)."""

    name = "volumes"
    dimensions = (3,)

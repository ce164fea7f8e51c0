"""Points from a Gaussian mixture of one's own: the data set whose density, score and denoiser are exact."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from dfm.datasets.toys import Points
from dfm.mixtures import Covariance, GaussianMixture, mixture_of


@dataclass(frozen=True, kw_only=True, eq=False)
class Mixture(Points):
    """Draws of ``sum_k w_k N(m_k, C_k)`` in d dimensions; the label is the component, if there are several.

    Args:
        means: K lists of d numbers.
        covariances: one number c for all components (C = c I), or K entries, each of which is a number c (c I), a list
            of d numbers (the diagonal) or d lists of d numbers (the matrix).
        weights: K positive numbers, divided by their sum; None for equal ones.

    Raises:
        UserError: they do not fit together, or a covariance is not positive definite.
    """

    means: Sequence[Sequence[float]]
    covariances: float | Sequence[Covariance] = 1.0
    weights: Sequence[float] | None = None

    name = "mixture"

    def __post_init__(self) -> None:
        super().__post_init__()
        _ = self.mixture  # it checks itself

    @property
    def num_classes(self) -> int:  # type: ignore[override]
        """K, or 0 for a single Gaussian, whose label would say nothing."""
        count = len(self.means)
        return count if count > 1 else 0

    @cached_property
    def mixture(self) -> GaussianMixture:
        """The exact law."""
        return mixture_of(self.means, self.covariances, self.weights)

    def draw(self, n: int, generator: torch.Generator) -> tuple[Tensor, Tensor | None]:
        points, labels = self.mixture.sample(n, generator)
        return points, labels if self.num_classes else None

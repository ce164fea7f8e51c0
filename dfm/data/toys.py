"""Points drawn from known laws, most of them in the plane, where one can look at them.

The scales are the published ones (torchcfm's for moons and eight_gaussians, FFJORD's for checkerboard and swiss_roll),
so that distances and likelihoods can be compared with published results.
"""

import math
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from dfm.basics.errors import UserError
from dfm.basics.seeding import Purpose, wide_generator
from dfm.data.dataset import SPLITS, Dataset, Split
from dfm.data.gaussian_mixture import Covariance, GaussianMixture, mixture_of


@dataclass(frozen=True, kw_only=True, eq=False)
class Points(Dataset):
    """Independent draws from a known law. A new toy is a subclass with ``draw`` and ``num_classes``.

    Args:
        n_train, n_validation, n_test: number of points of each split.
        seed: not negative; each split gets its own random stream from it.
        normalize: how the model's data are scaled, see ``dfm.data.numbers.units.constants``.
    """

    n_train: int = 50_000
    n_validation: int = 2_000
    n_test: int = 10_000
    seed: int = 0
    normalize: str = "auto"

    levels = None
    num_classes = 0

    def __post_init__(self) -> None:
        sizes = (self.n_train, self.n_validation, self.n_test)
        if min(sizes) < 0 or self.n_train == 0 or self.seed < 0:
            raise UserError(
                f"dataset {self.name}: n_train={self.n_train}, n_validation={self.n_validation}, n_test={self.n_test}, "
                f"seed={self.seed}; allowed: n_train at least 1, the others at least 0"
            )

    @abstractmethod
    def draw(self, n: int, generator: torch.Generator) -> tuple[Tensor, Tensor | None]:
        """Draw n points, float64 (n, d), and their labels, int64 (n,) or None."""

    def _load(self) -> Mapping[str, Split]:
        sizes = (self.n_train, self.n_validation, self.n_test)
        return {name: self._split(n, index) for index, (name, n) in enumerate(zip(SPLITS, sizes, strict=True))}

    def _split(self, n: int, index: int) -> Split:
        # seed * 3 + index: every (seed, split) has a stream of its own, so no seed's test is another seed's train
        generator = wide_generator(self.seed * len(SPLITS) + index, Purpose.POINTS)
        points, labels = self.draw(n, generator)
        return Split(values=points.float(), labels=labels)


def uniform(n: int, low: float, high: float, generator: torch.Generator) -> Tensor:
    """Draw n numbers from U[low, high), float64 (n,)."""
    return low + (high - low) * torch.rand(n, generator=generator, dtype=torch.float64)


@dataclass(frozen=True, kw_only=True, eq=False)
class Moons(Points):
    """Two interleaved half circles, the upper with label 0 and the lower with 1, as in torchcfm's ``sample_moons``.

        x = 3 (m + noise * u * (1, 1)) - 1,    u ~ U[0, 1),
        m = (cos a, sin a) or (1 - cos a, 1/2 - sin a),    a ~ U[0, pi]

    torchcfm's noise (torchdyn's ``generate_moons``) is one uniform number per point, the same in both coordinates: it
    smears each moon along the diagonal and does not blur it. The mean is (0.8, 0.05) + 3 (noise - 0.2) / 2 (1, 1).

    Args:
        noise: length of the smear before scaling, 0.2 in torchcfm.
    """

    noise: float = 0.2

    name = "moons"
    num_classes = 2

    def draw(self, n: int, generator: torch.Generator) -> tuple[Tensor, Tensor | None]:
        labels = torch.randint(2, (n,), generator=generator)
        angle = uniform(n, 0, math.pi, generator)
        upper = torch.stack([angle.cos(), angle.sin()], 1)
        lower = torch.stack([1 - angle.cos(), 0.5 - angle.sin()], 1)
        smear = self.noise * uniform(n, 0, 1, generator)
        return 3 * (torch.where(labels[:, None] == 0, upper, lower) + smear[:, None]) - 1, labels


@dataclass(frozen=True, kw_only=True, eq=False)
class Checkerboard(Points):
    """The uniform law on the dark fields of a 4x4 board over [-4, 4]^2, as in FFJORD's ``toy_data.py``.

    A field is 2 wide, and it is dark if floor(x/2) + floor(y/2) is even. The density is 1/32 on dark fields, so the
    entropy is exactly log 32 = 3.4657 nats: no model's mean negative log-likelihood can be lower.
    """

    name = "checkerboard"

    def draw(self, n: int, generator: torch.Generator) -> tuple[Tensor, Tensor | None]:
        x = uniform(n, -2, 2, generator)
        row = 2 * torch.randint(2, (n,), generator=generator) - 2 + x.floor() % 2
        return 2 * torch.stack([x, row + uniform(n, 0, 1, generator)], 1), None


@dataclass(frozen=True, kw_only=True, eq=False)
class EightGaussians(Points):
    """Eight equal Gaussians on a circle, as torchcfm's ``sample_8gaussians``; label k is the one at angle k pi / 4.

    Args:
        radius: radius of the circle, 5 in torchcfm.
        variance: variance of each coordinate about its centre. torchcfm writes ``var=0.1`` but gives sqrt(0.1) I to
            PyTorch as the *covariance*. The variance there, and here, is sqrt(0.1) = 0.3162, a deviation of 0.5623.
    """

    radius: float = 5.0
    variance: float = math.sqrt(0.1)

    name = "eight_gaussians"
    num_classes = 8

    def __post_init__(self) -> None:
        super().__post_init__()
        _ = self.mixture  # the mixture checks its own numbers

    @cached_property
    def mixture(self) -> GaussianMixture:
        """The exact law."""
        angle = torch.arange(8, dtype=torch.float64) * math.pi / 4
        return GaussianMixture(
            weights=torch.full((8,), 1 / 8, dtype=torch.float64),
            means=self.radius * torch.stack([angle.cos(), angle.sin()], 1),
            covariances=self.variance * torch.eye(2, dtype=torch.float64).expand(8, 2, 2),
        )

    def draw(self, n: int, generator: torch.Generator) -> tuple[Tensor, Tensor | None]:
        return self.mixture.sample(n, generator)


@dataclass(frozen=True, kw_only=True, eq=False)
class SwissRoll(Points):
    """A spiral with Gaussian blur, as in FFJORD's ``toy_data.py`` (scikit-learn's roll seen along its axis).

        x = (a (cos a, sin a) + noise * z) / 5,    a ~ U[3 pi / 2, 9 pi / 2],    z ~ N(0, I)

    Args:
        noise: standard deviation of the blur before scaling, 1 in FFJORD.
    """

    noise: float = 1.0

    name = "swiss_roll"

    def draw(self, n: int, generator: torch.Generator) -> tuple[Tensor, Tensor | None]:
        angle = uniform(n, 1.5 * math.pi, 4.5 * math.pi, generator)
        spiral = angle[:, None] * torch.stack([angle.cos(), angle.sin()], 1)
        return (spiral + self.noise * torch.randn(n, 2, generator=generator, dtype=torch.float64)) / 5, None


@dataclass(frozen=True, kw_only=True, eq=False)
class Mixture(Points):
    """Draws from ``sum_k w_k N(m_k, C_k)`` in d dimensions; the label is the component, if there are several.

    Args:
        means: K lists of d numbers.
        covariances: one number c for all components (C = c I), or K entries. An entry is a number c (c I), a list of d
            numbers (the diagonal) or d lists of d numbers (the matrix).
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
        _ = self.mixture  # the mixture checks its own numbers

    @property
    def num_classes(self) -> int:  # type: ignore[override]
        """K, or 0 for a single Gaussian, for which a label has no meaning."""
        count = len(self.means)
        return count if count > 1 else 0

    @cached_property
    def mixture(self) -> GaussianMixture:
        """The exact law."""
        return mixture_of(self.means, self.covariances, self.weights)

    def draw(self, n: int, generator: torch.Generator) -> tuple[Tensor, Tensor | None]:
        points, labels = self.mixture.sample(n, generator)
        return points, labels if self.num_classes else None

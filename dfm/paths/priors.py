"""Priors: the laws of ``noise`` in x_t = a(t) data + b(t) noise.

For the standard normal, E[noise | x_t] gives the score, and every sampler and every bound can be used. Any other prior
works with flow matching: the velocity a' E[data|x_t] + b' E[noise|x_t] still carries the prior to the law of the data.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

import torch
from torch import Tensor

from dfm.basics.errors import UserError
from dfm.basics.seeding import Draws
from dfm.data.dataset import Dataset, Split
from dfm.data.gaussian_mixture import Covariance, GaussianMixture, mixture_of
from dfm.data.numbers.pixel_levels import dequantize
from dfm.data.numbers.units import to_model


class Prior(ABC):
    """A law of noise, with the shape of the data.

    Attributes:
        gaussian: whether the law is N(0, I).
        is_potential: whether the law is exp(-f)/Z, to which a Langevin process leads.
    """

    gaussian: ClassVar[bool] = False
    is_potential: ClassVar[bool] = False

    @property
    @abstractmethod
    def mean(self) -> float:
        """The mean of all coordinates."""

    @property
    @abstractmethod
    def std(self) -> float:
        """The root of the average variance of a coordinate."""

    @abstractmethod
    def draw(self, draws: Draws, shape: tuple[int, ...]) -> Tensor:
        """Draw independent samples (B, *shape).

        Raises:
            UserError: the prior has another shape.
        """

    def log_prob(self, x: Tensor) -> Tensor:
        """Return the log density in nats, float64 (B,), of x (B, *D).

        Raises:
            UserError: the density is unknown.
        """
        raise UserError(
            f"prior '{type(self).__name__}' has no density in closed form, so there is no likelihood; "
            "allowed: prior=gaussian, mixture, uniform or laplace"
        )


@dataclass(frozen=True, kw_only=True)
class GaussianPrior(Prior):
    """The standard normal N(0, I): the noise of diffusion."""

    gaussian: ClassVar[bool] = True
    mean: ClassVar[float] = 0.0
    std: ClassVar[float] = 1.0

    def draw(self, draws: Draws, shape: tuple[int, ...]) -> Tensor:
        return draws.normal(shape)

    def log_prob(self, x: Tensor) -> Tensor:
        flat = x.double().flatten(1)
        return -flat.square().sum(1) / 2 - flat.shape[1] * math.log(2 * math.pi) / 2


@dataclass(frozen=True, kw_only=True)
class UniformPrior(Prior):
    """Independent coordinates, uniform on [low, high]; the defaults have mean 0 and variance 1.

    Raises:
        UserError: low is not below high.
    """

    low: float = -math.sqrt(3)
    high: float = math.sqrt(3)

    def __post_init__(self) -> None:
        if not self.low < self.high:
            raise UserError(f"prior uniform: low={self.low}, high={self.high}; allowed: low < high")

    @property
    def mean(self) -> float:
        return (self.low + self.high) / 2

    @property
    def std(self) -> float:
        return (self.high - self.low) / math.sqrt(12)

    def draw(self, draws: Draws, shape: tuple[int, ...]) -> Tensor:
        return self.low + (self.high - self.low) * draws.uniform(shape)

    def log_prob(self, x: Tensor) -> Tensor:
        flat = x.double().flatten(1)
        inside = ((flat >= self.low) & (flat <= self.high)).all(1)
        value = torch.full((len(x),), -flat.shape[1] * math.log(self.high - self.low), dtype=flat.dtype)
        return torch.where(inside, value.to(x.device), -torch.inf)


@dataclass(frozen=True, kw_only=True)
class LaplacePrior(Prior):
    """Independent coordinates with density exp(-|x|/s)/(2 s); the default s = 1/sqrt2 has variance 1.

    Raises:
        UserError: the scale is not positive.
    """

    scale: float = 1 / math.sqrt(2)
    mean: ClassVar[float] = 0.0

    def __post_init__(self) -> None:
        if not self.scale > 0:
            raise UserError(f"prior laplace: scale={self.scale}; allowed: a number above 0")

    @property
    def std(self) -> float:
        return self.scale * math.sqrt(2)

    def draw(self, draws: Draws, shape: tuple[int, ...]) -> Tensor:
        u = draws.uniform(shape) - 0.5  # the inverse CDF; u in [-1/2, 1/2)
        return -self.scale * u.sign() * torch.log1p((-2 * u.abs()).clamp_min(-1 + torch.finfo(u.dtype).eps))

    def log_prob(self, x: Tensor) -> Tensor:
        flat = x.double().flatten(1)
        return -(flat.abs() / self.scale).sum(1) - flat.shape[1] * math.log(2 * self.scale)


@dataclass(frozen=True, kw_only=True)
class MixturePrior(Prior):
    """A Gaussian mixture, for points.

    Args:
        means, covariances, weights: as in ``dataset=mixture``.
    """

    means: Sequence[Sequence[float]]
    covariances: float | Sequence[Covariance] = 1.0
    weights: Sequence[float] | None = None

    def __post_init__(self) -> None:
        _ = self.mixture  # the mixture checks its own numbers

    @cached_property
    def mixture(self) -> GaussianMixture:
        """The exact law."""
        return mixture_of(self.means, self.covariances, self.weights)

    @property
    def mean(self) -> float:
        return float(self.mixture.mean.mean())

    @property
    def std(self) -> float:
        return math.sqrt(self.mixture.variance)

    def draw(self, draws: Draws, shape: tuple[int, ...]) -> Tensor:
        d = self.mixture.means.shape[1]
        if shape != (d,):
            raise UserError(f"prior mixture has {d} dimensions and the data have shape {shape}; try prior=gaussian")
        z, u = draws.normal(shape), draws.uniform(())
        weights, means, factors = (v.to(z) for v in (self.mixture.weights, self.mixture.means, self._factors))
        k = torch.searchsorted(weights.cumsum(0)[:-1].contiguous(), u.contiguous(), right=True)
        return means[k] + torch.einsum("bij,bj->bi", factors[k], z)

    @cached_property
    def _factors(self) -> Tensor:
        return torch.linalg.cholesky(self.mixture.covariances)

    def log_prob(self, x: Tensor) -> Tensor:
        return self.mixture.log_prob(x.double())


@dataclass(frozen=True, kw_only=True)
class DatasetPrior(Prior):
    """Another data set, whose examples the flow carries to the data (data-to-data translation).

    Training draws from its train split, and sampling from its test split (from train if test is empty).

    Args:
        dataset: the data set; its examples have the shape of the data.
    """

    dataset: Dataset

    @cached_property
    def _moments(self) -> tuple[float, float]:
        return self.dataset.spec.mean, self.dataset.spec.std

    @property
    def mean(self) -> float:
        return self._moments[0]

    @property
    def std(self) -> float:
        return self._moments[1]

    def draw(self, draws: Draws, shape: tuple[int, ...]) -> Tensor:
        split = self._split(draws.held_out)
        if split.shape != shape:
            raise UserError(
                f"prior=dataset: {self.dataset.name} has examples of shape {split.shape} and the "
                f"data have shape {shape}; try prior=gaussian without dataset@prior.dataset"
            )
        u = draws.uniform(())
        values = split.take((u.cpu() * len(split)).long().clamp_max(len(split) - 1)).to(u.device)
        if self.dataset.levels is None:
            return to_model(values, self.dataset.spec).to(u)
        return dequantize(values, self.dataset.levels, draws.uniform(shape)).to(u)

    def _split(self, held_out: bool) -> Split:
        test = self.dataset.split("test")
        return test if held_out and len(test) else self.dataset.split("train")

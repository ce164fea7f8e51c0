"""Noise inside a pixel level, and its cost: log P(v) of integer levels v from a density p of real data.

Each of the K levels v has a cell of width 2/K in [-1, 1] (``dfm.data.numbers.pixel_levels``). For any q(data | v)
on it, by Jensen's inequality (Theis et al. 2016, section 3.1; Burda et al. 2016, eq. 8, for k samples),

    log P(v) = log int_cell p(data) d data >= E[ log p(data) - log q(data | v) ]
                                           >= E[ log mean_k p(data_k)/q(data_k | v) ]     grows with k to log P(v)

and bits/dim = -log P(v)/(d log 2). Each class below is one q. If q is uniform, -log q = d log(2/K).
"""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from dfm.basics.errors import UserError
from dfm.data.numbers.pixel_levels import centres, dequantize
from dfm.data.numbers.units import to_model
from dfm.data.spec import DatasetSpec

DataAndLogQ = tuple[Tensor, Tensor]


class Dequantization(ABC):
    """A law q(data | v) of real data for given integer levels v.

    Attributes:
        samples: k, the number of draws for each example.
        centred: whether training uses the centres of the cells, without noise inside them.
    """

    samples: int = 1
    centred: ClassVar[bool] = False

    @abstractmethod
    def training(self, values: Tensor, levels: int, generator: torch.Generator) -> Tensor:
        """Return the data that a model is trained on, before the path adds its noise: float32, shape of ``values``."""

    def model_input(self, values: Tensor, spec: DatasetSpec, generator: torch.Generator) -> Tensor:
        """Return a training batch as the model sees it, float32: ``training`` of levels, or real numbers scaled.

        Args:
            values: as ``Split.take`` gives them.
        """
        if spec.levels is None:
            return to_model(values, spec).float()
        return self.training(values, spec.levels, generator)

    @abstractmethod
    def draw(self, values: Tensor, levels: int, u: Tensor, log_nsr: float) -> DataAndLogQ:
        """Draw data from q: (data float64 (B, *D), log q(data | values) float64 (B,)).

        Args:
            values: integer levels (B, *D).
            levels: K.
            u: uniforms in [0, 1), float64 (B, *D).
            log_nsr: noise level at which the model knows the density of data.
        """

    @property
    def name(self) -> str:
        """The name in results."""
        return type(self).__name__.removesuffix("Dequantization").lower()

    @property
    def inner(self) -> "Dequantization":
        """The law of a single sample."""
        return self

    def start(self, levels: int, log_nsr: float) -> float:
        """Return the log nsr at which to take the density of a model that knows it from ``log_nsr`` on."""
        return log_nsr

    def of_run(self, own: "Dequantization") -> "Dequantization":
        """Return this dequantisation for a model that was trained with ``own``."""
        return self


@dataclass(frozen=True, kw_only=True)
class UniformDequantization(Dequantization):
    """Uniform noise on the cell: data = 2 (v + u)/K - 1."""

    def training(self, values: Tensor, levels: int, generator: torch.Generator) -> Tensor:
        return dequantize(values, levels, torch.rand(values.shape, generator=generator, device=values.device))

    def draw(self, values: Tensor, levels: int, u: Tensor, log_nsr: float) -> DataAndLogQ:
        log_q = torch.full((len(values),), values[0].numel() * math.log(levels / 2), dtype=torch.float64)
        return dequantize(values, levels, u), log_q.to(u.device)


@dataclass(frozen=True, kw_only=True)
class TruncatedNormalDequantization(Dequantization):
    """The path's own noise, cut to the cell: q = N(centre, nsr^2) (Zheng et al. 2023, section 3.2, eq. 15).

    Training adds no noise inside the cells: the model sees their centres through the path, as in scoring. We take the
    density where half a cell is ``cut`` deviations of the noise, nsr = 1/(cut K), or at the model's smallest noise
    level if that is larger. With cut=3 the tails outside the cell hold 0.3 % of the noise and cost 0.004 bits/dim.

    Args:
        cut: half a cell in deviations of the noise.

    Raises:
        UserError: cut is not positive.
    """

    cut: float = 3.0
    name: ClassVar[str] = "truncated"
    centred: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if not self.cut > 0:
            raise UserError(f"dequantization truncated_normal: cut={self.cut}; allowed: a number above 0")

    def training(self, values: Tensor, levels: int, generator: torch.Generator) -> Tensor:
        return centres(values, levels).float()

    def draw(self, values: Tensor, levels: int, u: Tensor, log_nsr: float) -> DataAndLogQ:
        nsr = math.exp(log_nsr)
        edge = 1 / (levels * nsr)
        low = torch.special.ndtr(torch.tensor(-edge, dtype=torch.float64))
        inside = 1 - 2 * low
        # u is a multiple of 2^-53, so it can be 0. If low is 0 in float64 as well, the noise would be -infinity.
        noise = torch.special.ndtri((low + inside * u).clamp(2**-54, 1 - 2**-53)).clamp(-edge, edge)
        d = values[0].numel()
        log_q = -noise.square().flatten(1).sum(1) / 2 - d * (math.log(2 * math.pi) / 2 + log_nsr + float(inside.log()))
        return centres(values, levels) + nsr * noise, log_q

    def start(self, levels: int, log_nsr: float) -> float:
        return max(log_nsr, sharp(levels, self.cut))


@dataclass(frozen=True, kw_only=True)
class ImportanceDequantization(Dequantization):
    """Another q with k samples, weighted by p/q: a tighter bound, at k times the cost.

    The bound takes the exponential of log p. The noise of Hutchinson's probes in log p therefore biases the result to
    fewer bits. All samples of an example share their probes, which removes a part of the bias;
    ``likelihood.divergence=exact`` removes the rest.

    Args:
        samples: k.
        noise: q; None for the q of the model's training.

    Raises:
        UserError: k is below 1, or this is used for training.
    """

    samples: int = 16
    noise: Dequantization | None = None

    def __post_init__(self) -> None:
        if self.samples < 1:
            raise UserError(f"dequantization.samples={self.samples}; allowed: a whole number of at least 1")

    @property
    def name(self) -> str:
        return f"{self.inner.name} x {self.samples}"

    @property
    def inner(self) -> Dequantization:
        return self.noise or UniformDequantization()

    def training(self, values: Tensor, levels: int, generator: torch.Generator) -> Tensor:
        raise UserError("dequantization=importance is for dfm nll only; allowed in training: uniform, truncated_normal")

    def draw(self, values: Tensor, levels: int, u: Tensor, log_nsr: float) -> DataAndLogQ:
        return self.inner.draw(values, levels, u, log_nsr)

    def start(self, levels: int, log_nsr: float) -> float:
        return self.inner.start(levels, log_nsr)

    def of_run(self, own: Dequantization) -> "ImportanceDequantization":
        return ImportanceDequantization(samples=self.samples, noise=self.noise or own)


def sharp(levels: int, cut: float) -> float:
    """Return the log nsr at which half a cell, 1/K, is ``cut`` deviations of the noise of x/a: log(1/(cut K))."""
    return -math.log(cut * levels)

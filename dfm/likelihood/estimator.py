"""What every estimator of a likelihood is, and what it says."""

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from dfm.data.dataset import DatasetSpec
from dfm.data.dequantization import Dequantization
from dfm.denoising.denoiser import Denoiser


@dataclass(frozen=True, kw_only=True)
class Budget:
    """Where the nats of an evidence bound are paid: their sum is the bound.

    Args:
        edges: log nsr, float64 (L + 1,), increasing.
        levels: nats between two edges, float64 (B, L).
        prior: KL at t_max, (B,).
        decoder: the last step from the least noise to the data, (B,).
    """

    edges: Tensor
    levels: Tensor
    prior: Tensor
    decoder: Tensor


@dataclass(frozen=True, kw_only=True)
class LogDensity:
    """Log-densities or bounds from below, nats, float64 (B,); the mean NFE; and where a bound was paid."""

    value: Tensor
    nfe: float
    budget: Budget | None = None


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One line of a result: an estimator, and the law of the data inside the cells that it scores.

    Args:
        name: of the estimator.
        audited_only: too dear for all examples; the audit's subset is scored.
    """

    name: str
    likelihood: "Likelihood"
    dequantization: Dequantization
    audited_only: bool = False


class Estimators(ABC):
    """One estimator of likelihoods, or several side by side (config group ``likelihood``)."""

    @abstractmethod
    def entries(self, spec: DatasetSpec, own: Dequantization, chosen: Dequantization | None) -> list[Entry]:
        """The lines of the result; the first is the figure.

        Args:
            own: the dequantisation of the model's training.
            chosen: another one that the user asks for, or None.

        Raises:
            UserError: this choice does not go with them.
        """

    def unused_settings(self) -> dict[str, str]:
        """{setting: why it has no effect}, of the settings that others leave without effect."""
        return {}


class Likelihood(Estimators):
    """An estimator of log p of examples under a denoiser's model.

    Attributes:
        exact: whether the value is a log-density up to the solver's error, so that it may be exponentiated.
        tolerance: of the choice of steps from ``ladder``.
        noisy: whether the estimate has noise of its own (probes, levels), drawn anew by another ``repeat``.
    """

    exact: bool
    noisy: bool
    tolerance: float = 0.0

    @property
    def name(self) -> str:
        """Its name in results."""
        return type(self).__name__.lower()

    def entries(self, spec: DatasetSpec, own: Dequantization, chosen: Dequantization | None) -> list[Entry]:
        noise = own if chosen is None else chosen.of_run(own)
        return [Entry(name=self.name, likelihood=self, dequantization=noise)]

    @abstractmethod
    def log_density(
        self,
        denoiser: Denoiser,
        data: Tensor,
        seed: int = 0,
        indices: Sequence[int] | None = None,
        repeat: int = 0,
        start: float | None = None,
    ) -> LogDensity:
        """Of a batch (B, *D): log p(data) in the unit in which the model was trained, or log P(values) if ``discrete``.

        Args:
            seed, indices: what the estimate's noise depends on; indices[i] numbers example i (default 0, 1, ...).
            repeat: another number, other noise.
            start: log nsr at which the density is taken; None: the least at which the denoiser may be asked.
        """

    def discrete(self, spec: DatasetSpec) -> bool:
        """Whether integer levels are scored as they are, without dequantisation."""
        return False

    def begins(self, spec: DatasetSpec) -> float | None:
        """The log nsr at which a decoder of integers begins; None: nothing but the model sets it."""
        return None

    def suited(self, spec: DatasetSpec, dequantization: Dequantization) -> Self:
        """This estimator for the data and the dequantisation at hand, what was left open decided.

        Raises:
            UserError: they do not go together.
        """
        return self

    def ladder(self) -> Mapping[int, "Likelihood"]:
        """Where the steps are left open: cheap likelihoods by their steps, among which to look for enough of them."""
        return {}

    def with_steps(self, steps: int) -> Self:
        """The same with so many steps."""
        return self

    def estimate(self) -> "Likelihood | None":
        """The random estimate of which this is the exact value, to compare with; None where there is none."""
        return None

    def finer(self) -> Self | None:
        """The same at twice the effort, to measure the solver's error; None where there is no such error."""
        return None


def ends(denoiser: Denoiser, start: float | None) -> tuple[float, float]:
    """The range of log nsr of a likelihood: from ``start``, or the denoiser's least if that is more, to its most."""
    t = torch.tensor([denoiser.t_min, denoiser.t_max], dtype=torch.float64)
    low, high = denoiser.schedule.log_nsr(t).tolist()
    return (low if start is None else max(low, start)), high


def prior_gap(denoiser: Denoiser, data: Tensor) -> Tensor:
    """KL(N(a data, b^2) || N(m, s^2)) at t_max with the moments (m, s) of ``moments_at_t_max``, nats, float64 (B,).

    Its mean is a term of every evidence bound, and bounds KL(law of x_{t_max} || prior), what a likelihood along the
    ODE owes to the end of the path, from above: the noise must be Gaussian.
    """
    a, b = (float(c) for c in denoiser.schedule.ab(torch.tensor(denoiser.t_max, dtype=torch.float64)))
    mean, std = denoiser.moments_at_t_max()
    square = (a * data.double() - mean).square().flatten(1)
    return ((square + b * b) / std**2 - 1 - 2 * math.log(b / std)).sum(1).cpu() / 2

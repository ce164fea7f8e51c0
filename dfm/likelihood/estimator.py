"""The base classes of all likelihood estimators, and their results."""

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from dfm.basics.errors import UserError
from dfm.data.dataset import DatasetSpec
from dfm.data.numbers.dequantization import Dequantization
from dfm.denoising.denoiser import Denoiser


@dataclass(frozen=True, kw_only=True)
class Budget:
    """The parts of an evidence bound, in nats. Their sum is the bound.

    Args:
        edges: log nsr at the edges of the bins, float64 (L + 1,), increasing.
        bins: the nats of each bin, float64 (B, L).
        prior: the KL divergence at t_max, (B,).
        decoder: the last step from the smallest noise to the data, (B,).
    """

    edges: Tensor
    bins: Tensor
    prior: Tensor
    decoder: Tensor


@dataclass(frozen=True, kw_only=True)
class LogDensity:
    """The result of an estimator for a batch.

    Args:
        value: log-densities, or lower bounds of them, in nats, float64 (B,).
        nfe: the mean number of evaluations per example.
        budget: the parts of a bound; None for the ODE.
    """

    value: Tensor
    nfe: float
    budget: Budget | None = None


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One line of a result: an estimator together with a dequantisation.

    Args:
        name: the name of the estimator.
        dequantization: the law of the data inside the cells of the pixel levels.
        audit_only: whether only the audit's subset is scored, because all examples would cost too much.
    """

    name: str
    likelihood: "Likelihood"
    dequantization: Dequantization
    audit_only: bool = False


class Estimators(ABC):
    """One estimator of likelihoods, or several side by side (config group ``likelihood``)."""

    @abstractmethod
    def entries(self, spec: DatasetSpec, own: Dequantization, choice: Dequantization | None) -> list[Entry]:
        """Return the lines of the result. The first is the main result.

        Args:
            own: the dequantisation of the model's training.
            choice: the dequantisation that the user asks for, or None.

        Raises:
            UserError: ``choice`` does not fit the estimators.
        """

    def single(self) -> "Likelihood":
        """Return the one estimator.

        Raises:
            UserError: there are several.
        """
        raise UserError(
            "likelihood=all: several estimators, and one is needed; try likelihood=ode, ode_exact or bound_sde"
        )

    def unused_settings(self) -> dict[str, str]:
        """Return {setting: why it has no effect} for the settings that have no effect beside the others."""
        return {}

    def instead(self, setting: str) -> str:
        """Return the setting beside which this one, without effect here, has one; empty: it is none of one setting."""
        return ""


class Likelihood(Estimators):
    """An estimator of log p of examples under a denoiser's model.

    Attributes:
        exact: whether the value is a log-density up to the solver's error. Only then exp(value) is a density.
        tolerance: the largest error for the choice of steps from ``ladder``.
        noisy: whether the estimate has noise of its own (probes, noise levels). Another ``repeat`` gives other noise.
    """

    exact: bool
    noisy: bool
    tolerance: float = 0.0

    def single(self) -> "Likelihood":
        return self

    @property
    def name(self) -> str:
        """The estimator's name in results."""
        return type(self).__name__.lower()

    def entries(self, spec: DatasetSpec, own: Dequantization, choice: Dequantization | None) -> list[Entry]:
        noise = own if choice is None else choice.of_run(own)
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
        """Return log p(data) of a batch (B, *D), or log P(levels) if ``discrete``, in nats.

        Args:
            data: in the unit in which the model was trained; integer levels if ``discrete``.
            seed, indices: the noise of the estimate is a function of these; indices[i] is the number of example i
                (default 0, 1, ...).
            repeat: another number gives other noise.
            start: log nsr of the density; None: the smallest log nsr of the denoiser.
        """

    def discrete(self, spec: DatasetSpec) -> bool:
        """Whether integer levels are scored directly, without dequantisation."""
        return False

    def decoder_start(self, spec: DatasetSpec) -> float | None:
        """Return the log nsr at which a decoder of integer levels starts; None: the model alone decides."""
        return None

    def adapt(self, spec: DatasetSpec, dequantization: Dequantization) -> Self:
        """Return this estimator for these data and this dequantisation, with its ``auto`` settings decided.

        Raises:
            UserError: they do not fit together.
        """
        return self

    def ladder(self) -> Mapping[int, "Likelihood"]:
        """Return {steps: a cheap likelihood} to choose the number of steps from; {} if it is fixed."""
        return {}

    def with_steps(self, steps: int) -> Self:
        """Return the same estimator with another number of steps."""
        return self

    def estimate(self) -> "Likelihood | None":
        """Return the random estimator of the value that this one computes exactly; None if there is none."""
        return None

    def finer(self) -> Self | None:
        """Return the same estimator with a smaller solver error, to measure this error; None if it has none."""
        return None

    @property
    def change_to_error(self) -> float:
        """The error of this estimate, divided by its difference from ``finer``: 1/(1 - error of finer/own error)."""
        return 1.0


def ends(denoiser: Denoiser, start: float | None) -> tuple[float, float]:
    """Return (lowest, highest) log nsr of a likelihood.

    The lowest is the larger of ``start`` and the denoiser's lowest log nsr; the highest is the denoiser's highest.
    """
    t = torch.tensor([denoiser.t_min, denoiser.t_max], dtype=torch.float64)
    low, high = denoiser.schedule.log_nsr(t).tolist()
    return (low if start is None else max(low, start)), high


def prior_gap(denoiser: Denoiser, data: Tensor) -> Tensor:
    """Return KL(N(a data, b^2) || N(m, s^2)) at t_max, in nats, float64 (B,); (m, s) are ``noise_end``.

    Its mean is a term of every evidence bound. It is also an upper bound of KL(law of x_{t_max} || prior), the error
    that the end of the path adds to a likelihood along the ODE. The noise must be Gaussian.
    """
    a, b = (float(c) for c in denoiser.schedule.ab(torch.tensor(denoiser.t_max, dtype=torch.float64)))
    mean, std = denoiser.noise_end.moments
    square = (a * data.double() - mean).square().flatten(1)
    return ((square + b * b) / std**2 - 1 - 2 * math.log(b / std)).sum(1).cpu() / 2

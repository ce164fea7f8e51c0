"""A Denoiser: what is known of data and noise at (x_t, t), in whichever form it is asked for.

Everything that samples or scores takes a Denoiser and nothing else, so an oracle, a network, a guided network or a
user's own class are alike. Its one duty is ``expectations``; with (a', b') of the schedule the rest follows:

    velocity u = a' E[data|x_t] + b' E[noise|x_t]        score s = -E[noise|x_t] / b

The score's line needs noise that is standard normal and independent of the data; the velocity's needs neither.
"""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass, field, replace
from typing import Self

import torch
from torch import Tensor, nn

from dfm.basics.errors import UserError
from dfm.basics.per_sample import per_sample
from dfm.data.dataset import DatasetSpec
from dfm.denoising.noise_end import NoiseEnd
from dfm.paths.priors import GaussianPrior, Prior
from dfm.paths.schedule import Schedule


@dataclass
class EvaluationCount:
    """How many samples a network was evaluated on; divided by the batch size it is the NFE."""

    samples: int = 0


@dataclass(frozen=True, kw_only=True)
class Denoiser(ABC):
    """E[data | x_t] and E[noise | x_t] along a schedule.

    Args:
        spec: shape, levels, mean and standard deviation of the data.
        schedule: the path on which x_t lies.
        label: int64 (B,) class of each sample of the batch, or None.
        prior: the law of the noise.
        independent: whether noise and data are independent (not so under optimal transport couplings).
        has_ode: whether it is E[. | x_t], whose velocity's ODE leads to the data; not so for a student of jumps.
    """

    spec: DatasetSpec
    schedule: Schedule
    label: Tensor | None = None
    prior: Prior = field(default_factory=GaussianPrior)
    independent: bool = True
    has_ode: bool = True

    @abstractmethod
    def expectations(self, x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """(E[data | x_t = x], E[noise | x_t = x]), each (B, *D), with x = a data + b noise.

        Args:
            x: (B, *D).
            t: float64 () or (B,), in [t_min, t_max].
        """

    @property
    def t_min(self) -> float:
        """The data end of the times at which this denoiser may be asked."""
        return self.schedule.t_min

    @property
    def t_max(self) -> float:
        """The noise end of the times at which this denoiser may be asked."""
        return self.schedule.t_max

    @property
    def can_change_schedule(self) -> bool:
        """Whether ``on`` another path is possible; ``expectations`` must then heed ``schedule``."""
        return False

    @property
    def is_linear_path(self) -> bool:
        """Whether x_t = a data + b noise, and nothing else."""
        return True

    def on_schedule(self, schedule: Schedule) -> Self:
        """The same knowledge on another path: x/a is the same variable at equal nsr.

        Raises:
            UserError: it is not ``can_change_schedule``.
        """
        if schedule != self.schedule and not self.can_change_schedule:
            raise UserError(
                f"{type(self).__name__} knows its own path only; allowed: the schedule that it has, or a class whose "
                "expectations heed self.schedule and whose can_change_schedule is true"
            )
        return replace(self, schedule=schedule)

    def with_labels(self, label: Tensor | None) -> Self:
        """The same denoiser for a batch of these classes, int64 (B,)."""
        return replace(self, label=label)

    def select(self, index: Tensor) -> Self:
        """The denoiser for the samples ``index`` (int64) of its batch."""
        return self if self.label is None else self.with_labels(self.label[index.to(self.label.device)])

    def data(self, x: Tensor, t: Tensor) -> Tensor:
        """E[data | x_t = x]."""
        return self.expectations(x, t)[0]

    def noise(self, x: Tensor, t: Tensor) -> Tensor:
        """E[noise | x_t = x]."""
        return self.expectations(x, t)[1]

    def velocity(self, x: Tensor, t: Tensor) -> Tensor:
        """u = a' E[data | x_t = x] + b' E[noise | x_t = x], the right-hand side of the probability-flow ODE."""
        return self.schedule.velocity(*self.expectations(x, t), t)

    def jump(self, x: Tensor, t: Tensor, s: Tensor | None = None) -> Tensor:
        """From x at t to time s in one call; to the data where s is None.

        Here x_s = a_s E[data|x_t] + b_s E[noise|x_t], a step of DDIM (Song et al. 2021, eq. 12 with eta = 0): a step of
        Euler's method in the variables x/a and nsr. A few-step model may know better.
        """
        if s is None:
            return self.data(x, t)
        return self.schedule.mix(*self.expectations(x, t), s)

    def score(self, x: Tensor, t: Tensor) -> Tensor:
        """grad log p_t(x) = -E[noise | x_t = x]/b.

        Raises:
            UserError: the noise is not standard normal or depends on the data, so that the score is not known.
        """
        return self.velocity_and_score(x, t)[1]

    def velocity_and_score(self, x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """Both from one call of the network.

        Raises:
            UserError: as ``score``.
        """
        self.check_score()
        data, noise = self.expectations(x, t)
        return self.schedule.velocity(data, noise, t), per_sample(-1 / self.schedule.ab(t)[1], x) * noise

    def check_score(self) -> None:
        """Refuse where -E[noise | x_t]/b is not the score.

        Raises:
            UserError: the noise is not standard normal or depends on the data.
        """
        if why := self._odd_noise():
            raise UserError(
                f"the score is not known: this model has {why}, so there is no SDE to sample from; "
                "allowed: sampler=euler, midpoint, heun, rk4 or dopri5, or objective=interpolant in training"
            )

    def require_linear_path(self, who: str, normal: bool = True) -> None:
        """Refuse where x_t is no mixture of data and noise alone, or its noise is not as it must be.

        Args:
            who: what asks.
            normal: whether the noise must be standard normal and independent of the data: noise can be added to such
                an x_t, and what moves the score moves E[noise].

        Raises:
            UserError: as it says.
        """
        if not self.is_linear_path:
            raise UserError(f"{who}: this model's path is no mixture of data and noise alone; allowed: one that is")
        if normal and (why := self._odd_noise()):
            raise UserError(
                f"{who} needs standard normal noise that is independent of the data, and this model has {why}; "
                "allowed: a model trained with prior=gaussian coupling=independent"
            )

    def _odd_noise(self) -> str:
        """What keeps the noise from being standard normal and independent of the data; empty if nothing does."""
        if not self.prior.gaussian:
            return "a prior other than gaussian"
        return "" if self.independent else "a coupling other than independent"

    def check_ode(self) -> None:
        """Refuse a model that leads to the data in a few jumps and is no E[data | x_t].

        Raises:
            UserError: it is one.
        """
        if not self.has_ode:
            raise UserError(
                "a few-step model has no ODE, and so no density and no latents; allowed: its teacher, or a run of "
                "another objective"
            )

    def counted(self, calls: EvaluationCount) -> "Denoiser":
        """This denoiser, adding every evaluation of it to ``calls``."""
        return CountedDenoiser(
            spec=self.spec, schedule=self.schedule, label=self.label, prior=self.prior,
            independent=self.independent, has_ode=self.has_ode, inner=self, calls=calls,
        )  # fmt: skip

    @property
    def noise_end(self) -> NoiseEnd:
        """The law of x at t_max, with mean a m + b m_p and standard deviation sqrt(a^2 V + b^2 V_p).

        m and V are mean and variance of the data, m_p and V_p of the prior: t_max need not be so far that the prior
        alone is left.
        """
        a, b = (float(c) for c in self.schedule.ab(torch.tensor(self.t_max, dtype=torch.float64)))
        mean = a * self.spec.mean + b * self.prior.mean
        return NoiseEnd(prior=self.prior, mean=mean, std=math.hypot(a * self.spec.std, b * self.prior.std))


@dataclass(frozen=True, kw_only=True, eq=False)
class WrappedDenoiser(Denoiser):
    """A denoiser that changes what another one says, and is asked where, and for the classes and rows, that one is."""

    inner: Denoiser

    @property
    def noise_end(self) -> NoiseEnd:
        return self.inner.noise_end

    @property
    def can_change_schedule(self) -> bool:
        return self.inner.can_change_schedule

    @property
    def is_linear_path(self) -> bool:
        return self.inner.is_linear_path

    def on_schedule(self, schedule: Schedule) -> Self:
        return replace(self, schedule=schedule, inner=self.inner.on_schedule(schedule))

    def with_labels(self, label: Tensor | None) -> Self:
        return replace(self, label=label, inner=self.inner.with_labels(label))

    def select(self, index: Tensor) -> Self:
        inner = self.inner.select(index)
        return replace(self, label=inner.label, inner=inner)

    @property
    def t_min(self) -> float:
        return self.inner.t_min

    @property
    def t_max(self) -> float:
        return self.inner.t_max


@dataclass(frozen=True, kw_only=True, eq=False)
class CountedDenoiser(WrappedDenoiser):
    """A denoiser whose evaluations are counted."""

    calls: EvaluationCount

    def _asked(self, x: Tensor) -> Denoiser:
        self.calls.samples += len(x)
        return self.inner

    def expectations(self, x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        return self._asked(x).expectations(x, t)

    def data(self, x: Tensor, t: Tensor) -> Tensor:
        return self._asked(x).data(x, t)

    def velocity(self, x: Tensor, t: Tensor) -> Tensor:
        return self._asked(x).velocity(x, t)

    def velocity_and_score(self, x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        return self._asked(x).velocity_and_score(x, t)

    def jump(self, x: Tensor, t: Tensor, s: Tensor | None = None) -> Tensor:
        return self._asked(x).jump(x, t, s)


def device_of(denoiser: Denoiser) -> torch.device:
    """Where a denoiser's network is; the CPU for one without parameters."""
    network = getattr(denoiser, "network", None)
    parameter = next(network.parameters(), None) if isinstance(network, nn.Module) else None
    return parameter.device if parameter is not None else torch.device("cpu")

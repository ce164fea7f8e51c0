"""A Denoiser: the expected data and noise at (x_t, t), and all that follows from them.

Samplers and likelihood estimators take a Denoiser and nothing else: an oracle, a network, a guided network, or your own
class. A denoiser must define ``expectations``. The rest follows with (a', b') of the schedule:

    velocity u = a' E[data|x_t] + b' E[noise|x_t]        score s = -E[noise|x_t] / b

The formula of the score needs standard normal noise that is independent of the data. The velocity needs neither.
"""

import copy
import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field, fields, replace
from typing import Any, Self

import torch
from torch import Tensor

from dfm.basics.errors import UserError
from dfm.basics.per_sample import per_sample
from dfm.data.dataset import DatasetSpec
from dfm.denoising.evaluation_count import EvaluationCount
from dfm.denoising.noise_end import NoiseEnd
from dfm.denoising.times import as_time, inside
from dfm.paths.priors import GaussianPrior, Prior
from dfm.paths.schedule import Schedule


@dataclass(frozen=True, kw_only=True)
class Denoiser(ABC):
    """The expectations E[data | x_t] and E[noise | x_t] along a schedule.

    Args:
        spec: shape, pixel levels, mean and standard deviation of the data.
        schedule: the path on which x_t lies.
        label: the class of each sample of the batch, int64 (B,), or None.
        prior: the law of the noise.
        independent: whether noise and data are independent; optimal transport couplings make them dependent.
        has_ode: whether the denoiser gives E[. | x_t], so that the ODE of its velocity leads to the data. A few-step
            student that learned jumps has no ODE.
        checks_times: whether times outside [t_min, t_max] are refused. Samplers and likelihoods work without the check.
    """

    spec: DatasetSpec
    schedule: Schedule
    label: Tensor | None = None
    prior: Prior = field(default_factory=GaussianPrior)
    independent: bool = True
    has_ode: bool = True
    checks_times: bool = True

    @abstractmethod
    def expectations(self, x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """Return (E[data | x_t = x], E[noise | x_t = x]), each (B, *D), with x = a data + b noise.

        Args:
            x: (B, *D).
            t: float64 () or (B,), in [t_min, t_max].
        """

    @property
    def t_min(self) -> float:
        """The smallest time at which this denoiser can be evaluated: the data end."""
        return self.schedule.t_min

    @property
    def t_max(self) -> float:
        """The largest time at which this denoiser can be evaluated: the noise end."""
        return self.schedule.t_max

    @property
    def can_change_schedule(self) -> bool:
        """Whether ``on_schedule`` accepts another path; ``expectations`` must then use ``self.schedule``."""
        return False

    @property
    def can_omit_label(self) -> bool:
        """Whether the denoiser works without classes, with all denoisers inside; a network may not have learned to."""
        return all(part.can_omit_label for part in vars(self).values() if isinstance(part, Denoiser))

    @property
    def is_linear_path(self) -> bool:
        """Whether x_t is a data + b noise and has no other term."""
        return True

    def on_schedule(self, schedule: Schedule) -> Self:
        """Return the same denoiser on another path: at equal nsr, x/a is the same variable on both.

        Raises:
            UserError: ``can_change_schedule`` is false.
        """
        if schedule != self.schedule and not self.can_change_schedule:
            raise UserError(
                f"{type(self).__name__} knows its own path only; allowed: its own schedule, or a class whose "
                "expectations use self.schedule and whose can_change_schedule is true"
            )
        return replace(self, schedule=schedule)

    def with_labels(self, label: Tensor | None) -> Self:
        """Return the same denoiser for a batch of these classes, int64 (B,)."""
        return replace(self, label=label)

    def select(self, index: Tensor) -> Self:
        """Return the denoiser for the samples ``index`` (int64) of its batch."""
        return self if self.label is None else self.with_labels(self.label[index.to(self.label.device)])

    def double(self) -> Self:
        """Return the same denoiser with a network of float64. One without a network computes in the type of x."""
        return self._copy(lambda part: part.double())

    def unchecked(self) -> Self:
        """Return the same denoiser without the check of times, which waits for the device of t."""
        twin = self._copy(lambda part: part.unchecked())
        object.__setattr__(twin, "checks_times", False)
        return twin

    def _copy(self, change: Callable[["Denoiser"], "Denoiser"]) -> Self:
        """Return a copy with ``change`` applied to the denoisers inside this one."""
        twin = copy.copy(self)
        for name, part in vars(self).items():
            if isinstance(part, Denoiser):
                object.__setattr__(twin, name, change(part))
        return twin

    def time(self, t: Tensor | float, x: Tensor) -> Tensor:
        """Return t as float64; raise UserError if it is no number per sample, or is outside (``checks_times``)."""
        return inside(t, as_time(t, x), self.t_min, self.t_max) if self.checks_times else as_time(t, x)

    def data(self, x: Tensor, t: Tensor | float) -> Tensor:
        """Return E[data | x_t = x] at t: a number, or a tensor () or (B,), in [t_min, t_max]."""
        return self.expectations(x, self.time(t, x))[0]

    def noise(self, x: Tensor, t: Tensor | float) -> Tensor:
        """Return E[noise | x_t = x]."""
        return self.expectations(x, self.time(t, x))[1]

    def velocity(self, x: Tensor, t: Tensor | float) -> Tensor:
        """Return u = a' E[data | x_t = x] + b' E[noise | x_t = x], the right-hand side of the probability-flow ODE."""
        t = self.time(t, x)
        return self.schedule.velocity(*self.expectations(x, t), t)

    def jump(self, x: Tensor, t: Tensor | float, s: Tensor | float | None = None) -> Tensor:
        """Return x at time s from x at time t, with one call of the network; the data if s is None.

        Here x_s = a_s E[data|x_t] + b_s E[noise|x_t], a step of DDIM (Song et al. 2021, eq. 12 with eta = 0). It is a
        step of Euler's method in the variables x/a and nsr. A few-step model may give a better jump.
        """
        if s is None:
            return self.data(x, t)
        return self.schedule.mix(*self.expectations(x, self.time(t, x)), self.time(s, x))

    def score(self, x: Tensor, t: Tensor | float) -> Tensor:
        """Return grad log p_t(x) = -E[noise | x_t = x]/b; errors as for ``check_score``."""
        return self.velocity_and_score(x, t)[1]

    def velocity_and_score(self, x: Tensor, t: Tensor | float) -> tuple[Tensor, Tensor]:
        """Return both, from one call of the network; errors as for ``score``."""
        self.check_score()
        t = self.time(t, x)
        data, noise = self.expectations(x, t)
        return self.schedule.velocity(data, noise, t), per_sample(-1 / self.schedule.ab(t)[1], x) * noise

    def check_score(self) -> None:
        """Refuse a model for which -E[noise | x_t]/b is not the score.

        Raises:
            UserError: the noise is not standard normal or depends on the data.
        """
        if why := self._odd_noise():
            raise UserError(
                f"the score is not known: this model has {why}, so it has no SDE; "
                "allowed: sampler=euler, midpoint, heun, rk4 or dopri5, or objective=interpolant in training"
            )

    def require_linear_path(self, caller: str, normal: bool = True) -> None:
        """Refuse a model whose x_t is not a data + b noise, or whose noise does not suit the caller.

        Args:
            caller: the part that needs such a path, as the message shall name it.
            normal: whether the noise must be standard normal and independent of the data. Then more noise can be added
                to x_t, and a change of the score is a change of E[noise].

        Raises:
            UserError: the path has another term, or the noise is not as ``normal`` requires.
        """
        if not self.is_linear_path:
            raise UserError(
                f"{caller}: this model's path is no mixture of data and noise alone; "
                "allowed: a model trained with latent=none and a prior that is no potential"
            )
        if normal and (why := self._odd_noise()):
            raise UserError(
                f"{caller} needs standard normal noise that is independent of the data, and this model has {why}; "
                "allowed: a model trained with prior=gaussian coupling=independent"
            )

    def _odd_noise(self) -> str:
        """Return why the noise is not standard normal and independent of the data; empty if it is."""
        if not self.prior.gaussian:
            return "a prior other than gaussian"
        return "" if self.independent else "a coupling other than independent"

    def check_ode(self) -> None:
        """Refuse a few-step model, which jumps to the data and does not give E[data | x_t].

        Raises:
            UserError: ``has_ode`` is false.
        """
        if not self.has_ode:
            raise UserError(
                "a few-step model has no ODE, and so no density and no latents; allowed: its teacher, or a run of "
                "another objective"
            )

    def counted(self, calls: EvaluationCount) -> "Denoiser":
        """Return this denoiser without the check of times, with every evaluation added to ``calls``."""
        inner = self.unchecked()
        return CountedDenoiser(**inner.common_fields(), inner=inner, calls=calls)

    def common_fields(self) -> dict[str, Any]:
        """Return the fields that every denoiser has, by name, for another one that wraps this one."""
        return {each.name: getattr(self, each.name) for each in fields(Denoiser)}

    @property
    def noise_end(self) -> NoiseEnd:
        """The law of x at t_max, with mean a m + b m_p and standard deviation sqrt(a^2 V + b^2 V_p).

        m and V are the moments of the data, m_p and V_p of the prior. So x_t may still contain data at t_max.
        """
        a, b = (float(c) for c in self.schedule.ab(torch.tensor(self.t_max, dtype=torch.float64)))
        mean, std = a * self.spec.mean + b * self.prior.mean, math.hypot(a * self.spec.std, b * self.prior.std)
        return NoiseEnd(prior=self.prior, mean=mean, std=std)


@dataclass(frozen=True, kw_only=True, eq=False)
class WrappedDenoiser(Denoiser):
    """A denoiser that changes the results of another one and takes its path, times, classes and rows from it."""

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

    def _count(self, x: Tensor) -> Denoiser:
        """Count the rows of x and return the denoiser that evaluates them."""
        self.calls.samples += len(x)
        return self.inner

    def expectations(self, x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        return self._count(x).expectations(x, t)

    def data(self, x: Tensor, t: Tensor | float) -> Tensor:
        return self._count(x).data(x, t)

    def velocity(self, x: Tensor, t: Tensor | float) -> Tensor:
        return self._count(x).velocity(x, t)

    def velocity_and_score(self, x: Tensor, t: Tensor | float) -> tuple[Tensor, Tensor]:
        return self._count(x).velocity_and_score(x, t)

    def jump(self, x: Tensor, t: Tensor | float, s: Tensor | float | None = None) -> Tensor:
        return self._count(x).jump(x, t, s)

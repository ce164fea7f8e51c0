"""A Denoiser: what is known of data and noise at (x_t, t), in whichever form it is asked for.

Everything that samples or scores takes a Denoiser and nothing else, so an oracle, a network, a guided network or a
user's own class are alike. Its one duty is ``expectations``; with (a', b') of the schedule the rest follows:

    velocity u = a' E[data|x_t] + b' E[noise|x_t]        score s = -E[noise|x_t] / b
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Self

import torch
from torch import Tensor, nn

from dfm.broadcast import per_sample
from dfm.datasets.base import DatasetSpec
from dfm.errors import UserError
from dfm.predictions import Prediction, data_and_noise
from dfm.schedules import Schedule

Network = Callable[[Tensor, Tensor, Tensor | None], Tensor]


@dataclass
class Calls:
    """How many samples a network was evaluated on; divided by the batch size it is the NFE."""

    samples: int = 0


@dataclass(frozen=True, kw_only=True)
class Denoiser(ABC):
    """E[data | x_t] and E[noise | x_t] along a schedule.

    Args:
        spec: shape, levels, mean and standard deviation of the data.
        schedule: the path on which x_t lies.
        label: int64 (B,) class of each sample of the batch, or None.
    """

    spec: DatasetSpec
    schedule: Schedule
    label: Tensor | None = None

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

    def on(self, schedule: Schedule) -> Self:
        """The same knowledge on another path: x/a is the same variable at equal nsr."""
        return replace(self, schedule=schedule)

    def given(self, label: Tensor | None) -> Self:
        """The same denoiser for a batch of these classes, int64 (B,)."""
        return replace(self, label=label)

    def rows(self, index: Tensor) -> Self:
        """The denoiser for the samples ``index`` (int64) of its batch."""
        return self if self.label is None else self.given(self.label[index.to(self.label.device)])

    def data(self, x: Tensor, t: Tensor) -> Tensor:
        """E[data | x_t = x]."""
        return self.expectations(x, t)[0]

    def noise(self, x: Tensor, t: Tensor) -> Tensor:
        """E[noise | x_t = x]."""
        return self.expectations(x, t)[1]

    def score(self, x: Tensor, t: Tensor) -> Tensor:
        """grad log p_t(x) = -E[noise | x_t = x]/b."""
        return per_sample(-1 / self.schedule.ab(t)[1], x) * self.noise(x, t)

    def velocity(self, x: Tensor, t: Tensor) -> Tensor:
        """u = a' E[data | x_t = x] + b' E[noise | x_t = x], the right-hand side of the probability-flow ODE."""
        return self.velocity_and_score(x, t)[0]

    def velocity_and_score(self, x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """Both from one call of the network."""
        data, noise = self.expectations(x, t)
        da, db = self.schedule.derivatives(t)
        velocity = per_sample(da, x) * data + per_sample(db, x) * noise
        return velocity, per_sample(-1 / self.schedule.ab(t)[1], x) * noise

    def counted(self, calls: Calls) -> "Denoiser":
        """This denoiser, adding every evaluation of it to ``calls``."""
        return Counted(spec=self.spec, schedule=self.schedule, label=self.label, inner=self, calls=calls)

    def prior(self) -> tuple[float, float]:
        """(mean, standard deviation) of x at t_max taken as Gaussian: a m and sqrt(a^2 V + b^2).

        Data of mean m and variance V are met where they are: nothing assumes that t_max is far enough for N(0, 1).
        """
        a, b = (float(c) for c in self.schedule.ab(torch.tensor(self.t_max, dtype=torch.float64)))
        return a * self.spec.mean, (a * a * self.spec.std**2 + b * b) ** 0.5


@dataclass(frozen=True, kw_only=True)
class Counted(Denoiser):
    """A denoiser whose evaluations are counted."""

    inner: Denoiser
    calls: Calls

    def expectations(self, x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        self.calls.samples += len(x)
        return self.inner.expectations(x, t)

    def on(self, schedule: Schedule) -> Self:
        return replace(self, schedule=schedule, inner=self.inner.on(schedule))

    def given(self, label: Tensor | None) -> Self:
        return replace(self, label=label, inner=self.inner.given(label))

    @property
    def t_min(self) -> float:
        return self.inner.t_min

    @property
    def t_max(self) -> float:
        return self.inner.t_max


@dataclass(frozen=True, kw_only=True)
class NetworkDenoiser(Denoiser):
    """A network trained to predict ``prediction`` on the schedule ``trained``, used on any schedule.

    The network sees c_in x and log nsr, never t; c_in = 1/sqrt(a^2 S^2 + b^2) gives its input variance one, and its
    output is in units of the target's (``Prediction.scale``).
    """

    network: Network
    prediction: Prediction
    trained: Schedule

    def expectations(self, x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        tau = t
        if self.schedule != self.trained:
            log_nsr = self.schedule.log_nsr(t)
            tau = self.trained.time_of_log_nsr(log_nsr).clamp(self.trained.t_min, self.trained.t_max)
            x = x * per_sample(self.trained.ab(tau)[0] / self.schedule.ab(t)[0], x)
        row = self.prediction.row(self.trained, tau, self.spec.std)
        scale = self.prediction.scale(self.trained, tau, self.spec.std)
        out = self.output(x, tau) * per_sample(scale, x)
        return data_and_noise(row, self.trained.ab(tau), x, out)

    def output(self, x: Tensor, t: Tensor) -> Tensor:
        """The bare network on its own path: prediction/scale, (B, *D)."""
        if x.shape[1:] != self.spec.shape:
            raise UserError(f"samples have shape {tuple(x.shape[1:])}; this model takes {self.spec.shape}")
        a, b = self.trained.ab(t)
        c_in = 1 / (a * a * self.spec.std**2 + b * b).sqrt()
        c_time = self.trained.log_nsr(t).to(x).expand(len(x))
        return self.network(x * per_sample(c_in, x), c_time, self.label).to(x.dtype)

    @property
    def t_min(self) -> float:
        return max(self.schedule.t_min, self._trained_end(self.trained.t_min))

    @property
    def t_max(self) -> float:
        return min(self.schedule.t_max, self._trained_end(self.trained.t_max))

    def _trained_end(self, t: float) -> float:
        """The end t of the training schedule as a time of the schedule in use."""
        if self.schedule == self.trained:
            return t
        log_nsr = self.trained.log_nsr(torch.tensor(t, dtype=torch.float64))
        return float(self.schedule.time_of_log_nsr(log_nsr))

    def module(self) -> nn.Module:
        """The network as a torch module.

        Raises:
            TypeError: it is a plain function.
        """
        if not isinstance(self.network, nn.Module):
            raise TypeError(f"the network is a {type(self.network).__name__}, not a torch module")
        return self.network

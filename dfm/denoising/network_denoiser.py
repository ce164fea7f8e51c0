"""A network in its role as a denoiser, on the path it was trained on and on any other."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from dfm.basics.errors import UserError
from dfm.basics.per_sample import per_sample
from dfm.denoising.denoiser import Denoiser
from dfm.denoising.predictions import Prediction, data_and_noise
from dfm.paths.schedule import Schedule

Network = Callable[[Tensor, Tensor, Tensor | None], Tensor]


def same_point(x: Tensor, t: Tensor, schedule: Schedule, other: Schedule) -> tuple[Tensor, Tensor]:
    """(x, time) on another path of the point with the same x/a and the same nsr, within that path's times."""
    if schedule == other:
        return x, t
    tau = other.time_of_log_nsr(schedule.log_nsr(t)).clamp(other.t_min, other.t_max)
    return x * per_sample(other.ab(tau)[0] / schedule.ab(t)[0], x), tau


@dataclass(frozen=True, kw_only=True)
class NetworkDenoiser(Denoiser):
    """A network trained to predict ``prediction`` on the schedule ``trained_schedule``, used on any schedule.

    The network sees c_in x and log nsr, never t; c_in = 1/sqrt(a^2 S^2 + b^2 N^2), N the deviation of the noise, gives
    its input variance one, and its output is in units of the target's (``Prediction.scale``).

    Args:
        can_omit_label: whether it may be asked without classes: a network with classes knows what that means only if some
            were hidden in its training (``label_dropout``).
        own_sampler: of a few-step student: the ``Sampler`` that it was made for (a class above this one).

    Attributes:
        outputs: how many tensors of the shape of x the network gives.
        times: how many times the network takes.
        own_jump: whether ``jump`` comes from the network itself and is no step of DDIM; then guidance cannot steer it.
    """

    outputs: ClassVar[int] = 1
    times: ClassVar[int] = 1
    own_jump: ClassVar[bool] = False

    network: Network
    prediction: Prediction
    trained_schedule: Schedule
    can_omit_label: bool = True
    own_sampler: object | None = None

    def expectations(self, x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        x, tau = self.on_trained_path(x, t)
        out = self.output(x, tau) * per_sample(self.scale(tau), x)
        row = self.prediction.row(self.trained_schedule, tau, self.spec.std)
        return data_and_noise(row, self.trained_schedule.ab(tau), x, out)

    def on_trained_path(self, x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """The point of the trained path with the same x/a and the same nsr: (x, time)."""
        return same_point(x, t, self.schedule, self.trained_schedule)

    def scale(self, t: Tensor) -> Tensor:
        """The unit of the network's output on its own path."""
        return self.prediction.scale(self.trained_schedule, t, self.spec.std, self.prior.std)

    def input_variance(self, t: Tensor) -> Tensor:
        """Variance of x on the trained path, the data's mean apart."""
        a, b = self.trained_schedule.ab(t)
        return (a * self.spec.std) ** 2 + (b * self.prior.std) ** 2

    @property
    def can_change_schedule(self) -> bool:
        return True

    def output(self, x: Tensor, t: Tensor) -> Tensor:
        """The bare network on its own path: prediction/scale, (B, *D).

        Raises:
            UserError: as ``check_asked``.
        """
        self.check_asked(x)
        c_in = 1 / self.input_variance(t).sqrt()
        c_time = self.trained_schedule.log_nsr(t).to(x).expand(len(x))
        return self.network(x * per_sample(c_in, x), c_time, self.label).to(x.dtype)

    def check_asked(self, x: Tensor) -> None:
        """Refuse what the network was not made for.

        Raises:
            UserError: samples of another shape; or no classes for a network that never saw a hidden one.
        """
        if x.shape[1:] != self.spec.shape:
            raise UserError(f"samples have shape {tuple(x.shape[1:])}; this model takes {self.spec.shape}")
        if self.label is None and not self.can_omit_label:
            raise UserError(
                f"this model has {self.spec.num_classes} classes and never saw a hidden one (label_dropout=0), so it "
                "cannot be asked without; allowed: data with labels, or from Python denoiser.with_labels(labels)"
            )

    @property
    def t_min(self) -> float:
        return max(self.schedule.t_min, self._trained_end(self.trained_schedule.t_min))

    @property
    def t_max(self) -> float:
        return min(self.schedule.t_max, self._trained_end(self.trained_schedule.t_max))

    def _trained_end(self, t: float) -> float:
        """The end t of the training schedule as a time of the schedule in use."""
        if self.schedule == self.trained_schedule:
            return t
        log_nsr = self.trained_schedule.log_nsr(torch.tensor(t, dtype=torch.float64))
        return float(self.schedule.time_of_log_nsr(log_nsr))

    def module(self) -> nn.Module:
        """The network as a torch module.

        Raises:
            TypeError: it is a plain function.
        """
        if not isinstance(self.network, nn.Module):
            raise TypeError(f"the network is a {type(self.network).__name__}, not a torch module")
        return self.network

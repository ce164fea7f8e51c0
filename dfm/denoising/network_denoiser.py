"""A network as a denoiser, on the path that it was trained on and on any other."""

import copy
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn

from dfm.basics.errors import UserError
from dfm.basics.per_sample import per_sample
from dfm.denoising.denoiser import Denoiser
from dfm.denoising.predictions import Prediction, data_and_noise
from dfm.models.condition import Condition
from dfm.paths.schedule import Schedule

Network = Callable[..., Tensor]  # network(x, c_time, label), and condition=... where there is one


def same_point(x: Tensor, t: Tensor, schedule: Schedule, other: Schedule) -> tuple[Tensor, Tensor]:
    """Return (x, time) of the point on the path ``other`` that has the same x/a and nsr; its time stays in range."""
    if schedule == other:
        return x, t
    tau = other.time_of_log_nsr(schedule.log_nsr(t)).clamp(other.t_min, other.t_max)
    return x * per_sample(other.ab(tau)[0] / schedule.ab(t)[0], x), tau


@dataclass(frozen=True, kw_only=True)
class NetworkDenoiser(Denoiser):
    """A network that was trained to predict ``prediction`` on ``trained_schedule``; it works on any schedule.

    The network sees c_in (x - a m) and log nsr, never t. Here c_in = 1/sqrt(a^2 S^2 + b^2 N^2), with N the standard
    deviation of the noise, so its input has variance one, and m is ``spec.centre``. Its output is the prediction's row
    of data - m and noise, in units of the target (``Prediction.scale``).

    Args:
        can_omit_label: whether the network works without classes. A network with classes does so only if some of them
            were hidden in training (``label_dropout``).
        condition: what training tells the network of each example beside its class; sampling and scoring tell nothing.
        own_sampler: the ``Sampler`` of a few-step student, for which it was trained (its class is in a room above).

    Attributes:
        outputs: number of tensors of the shape of x in the network's output.
        times: number of times that the network takes.
        own_jump: whether ``jump`` comes from the network itself and is no step of DDIM; guidance cannot steer it then.
    """

    outputs: ClassVar[int] = 1
    times: ClassVar[int] = 1
    own_jump: ClassVar[bool] = False

    network: Network
    prediction: Prediction
    trained_schedule: Schedule
    can_omit_label: bool = True
    condition: Condition | None = None
    own_sampler: object | None = None

    def expectations(self, x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        x, tau = self.on_trained_path(x, t)
        out = self.output(x, tau) * per_sample(self.scale(tau), x)
        return self.data_and_noise(x, tau, out)

    def data_and_noise(self, x: Tensor, t: Tensor, out: Tensor) -> tuple[Tensor, Tensor]:
        """Return expected data and noise at x_t = x on the trained path, from an output of the prediction's row."""
        row = self.prediction.row(self.trained_schedule, t, self.spec.std)
        data, noise = data_and_noise(row, self.trained_schedule.ab(t), self.centred(x, t), out)
        return (data + self.spec.centre if self.spec.centre else data), noise

    def centred(self, x: Tensor, t: Tensor) -> Tensor:
        """Return x - a m on the trained path, with m the centre of the data."""
        if not self.spec.centre:
            return x
        return x - per_sample(self.trained_schedule.ab(t)[0] * self.spec.centre, x)

    def on_trained_path(self, x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """Return (x, time) of the point on the trained path that has the same x/a and nsr."""
        return same_point(x, t, self.schedule, self.trained_schedule)

    def scale(self, t: Tensor) -> Tensor:
        """Return the unit of the network's output on its own path."""
        return self.prediction.scale(self.trained_schedule, t, self.spec.std, self.prior.std)

    def input_variance(self, t: Tensor) -> Tensor:
        """Return the variance of x on the trained path."""
        a, b = self.trained_schedule.ab(t)
        return (a * self.spec.std) ** 2 + (b * self.prior.std) ** 2

    @property
    def can_change_schedule(self) -> bool:
        return True

    def output(self, x: Tensor, t: Tensor) -> Tensor:
        """Return the output of the network on its own path, prediction/scale, (B, *D).

        Raises:
            UserError: as ``check_input``.
        """
        self.check_input(x)
        c_time = self.trained_schedule.log_nsr(t).to(x).expand(len(x))
        return self.call(x, self.unit_variance(x, t), c_time, self.label)

    def call(self, x: Tensor, inputs: Tensor, c_time: Tensor, *more: Tensor | None) -> Tensor:
        """Return the network's output in the type of x; its inputs get the type of its weights (``double``).

        Every denoiser calls its network here, because the network is told the condition here.
        """
        told = {} if self.condition is None else {"condition": self.condition}
        return self.network(*like_weights(self.network, inputs, c_time, *more), **told).to(x.dtype)

    def double(self) -> Self:
        network = copy.deepcopy(self.network).double() if isinstance(self.network, nn.Module) else self.network
        return replace(self, network=network)

    def with_labels(self, label: Tensor | None) -> Self:
        """Return the same denoiser for a batch of these classes, int64 (B,).

        Raises:
            UserError: the model has no classes, or the labels are none of its classes.
        """
        count = self.spec.num_classes
        if label is not None and count == 0:
            raise UserError("labels for a model that was trained without classes; allowed: None; try without labels")
        if label is not None and (label.dtype != torch.int64 or label.ndim != 1):
            raise UserError(f"labels are {label.dtype} of shape {tuple(label.shape)}; allowed: int64 of shape (n,)")
        # Labels on a card come from dfm itself; to look at them would wait for the card. The last label is "no class".
        last = count if self.can_omit_label else count - 1
        if label is not None and not label.is_cuda and len(label) and not 0 <= label.min() <= label.max() <= last:
            raise UserError(f"labels from {int(label.min())} to {int(label.max())}; allowed: 0 to {count - 1}")
        return replace(self, label=label)

    def with_condition(self, condition: Condition | None) -> Self:
        """Return the same denoiser for a batch of which its network is told this, in training."""
        return replace(self, condition=condition)

    def select(self, index: Tensor) -> Self:
        if self.label is None and self.condition is None:
            return self
        label = None if self.label is None else self.label[index.to(self.label.device)]
        condition = None if self.condition is None else self.condition.select(index)
        return replace(self, label=label, condition=condition)

    def unit_variance(self, x: Tensor, t: Tensor) -> Tensor:
        """Return c_in (x - a m), the input of the network, (B, *D)."""
        return self.centred(x, t) * per_sample(1 / self.input_variance(t).sqrt(), x)

    def check_input(self, x: Tensor) -> None:
        """Refuse samples and labels that the network does not take.

        Raises:
            UserError: the samples have another shape, are integers, or are not as many as the labels; or there are no
                labels and ``can_omit_label`` is false.
        """
        if x.shape[1:] != self.spec.shape:
            raise UserError(
                f"samples have shape {tuple(x.shape[1:])}; allowed: {self.spec.shape}, the shape of the data"
            )
        if not x.is_floating_point():
            raise UserError(f"samples are {x.dtype}; allowed: real numbers; try x.float()")
        if self.label is not None and len(self.label) != len(x):
            raise UserError(f"{len(x)} samples and {len(self.label)} labels; allowed: a label for each sample")
        if self.condition is not None and len(self.condition) != len(x):
            raise UserError(f"{len(x)} samples and {len(self.condition)} conditions; allowed: one for each sample")
        if self.label is None and not self.can_omit_label:
            raise UserError(
                f"this model has {self.spec.num_classes} classes and no label was hidden in its training "
                "(label_dropout=0), so it needs labels; allowed: data with labels, or from Python "
                "denoiser.with_labels(labels)"
            )

    @property
    def t_min(self) -> float:
        return max(self.schedule.t_min, self._trained_end(self.trained_schedule.t_min))

    @property
    def t_max(self) -> float:
        return min(self.schedule.t_max, self._trained_end(self.trained_schedule.t_max))

    def _trained_end(self, t: float) -> float:
        """Return the end t of the trained schedule as a time of the schedule in use."""
        if self.schedule == self.trained_schedule:
            return t
        log_nsr = self.trained_schedule.log_nsr(torch.tensor(t, dtype=torch.float64))
        return float(self.schedule.time_of_log_nsr(log_nsr))

    def module(self) -> nn.Module:
        """Return the network as a torch module.

        Raises:
            TypeError: the network is a plain function.
        """
        return as_module(self.network)


def like_weights(network: Network, x: Tensor, *more: Tensor | None) -> tuple[Any, ...]:
    """Return the network's arguments; real ones get the type of its weights, if either is float64.

    Raises:
        UserError: x is on another device than the weights.
    """
    weights = next(network.parameters(), x) if isinstance(network, nn.Module) else x
    if weights.device != x.device:
        raise UserError(f"samples are on {x.device}, the network on {weights.device}; try x.to('{weights.device}')")
    if weights.dtype == x.dtype or torch.float64 not in (weights.dtype, x.dtype):
        return x, *more
    return tuple(v.to(weights.dtype) if v is not None and v.is_floating_point() else v for v in (x, *more))


def as_module(network: Network) -> nn.Module:
    """Return a network as a torch module.

    Raises:
        TypeError: the network is a plain function.
    """
    if not isinstance(network, nn.Module):
        raise TypeError(f"the network is a {type(network).__name__}, not a torch module")
    return network

"""The noisy classifier p(c | x_t): a network that names the class of data of which only a noisy version is seen.

By Bayes' rule, grad log p_t(x | c) = grad log p_t(x) + grad log p(c | x_t = x), so it steers a model that was never
told a class (Dhariwal and Nichol 2021, section 4).
"""

import math
from dataclasses import dataclass, replace
from typing import Protocol, Self

import torch
from torch import Tensor, nn

from dfm.broadcast import per_sample
from dfm.datasets.base import DatasetSpec
from dfm.denoiser import Calls, Denoiser, Wrapped
from dfm.errors import UserError
from dfm.networks import Network, same_point
from dfm.schedules import Schedule


class Classifier(Protocol):
    """What classifier guidance asks of a classifier, an exact one or one of your own included."""

    spec: DatasetSpec

    def on(self, schedule: Schedule) -> "Classifier":
        """The same classifier for x_t on another path."""

    def log_probabilities(self, x: Tensor, t: Tensor) -> Tensor:
        """log p(c | x_t = x), (B, num_classes), of x (B, *D) and t () or (B,)."""


@dataclass(frozen=True, kw_only=True, eq=False)
class NoisyClassifier:
    """A network as a classifier on the schedule ``trained``, used on any schedule.

    Like a denoiser's, it sees x_t with variance one and log nsr, never t.

    Args:
        spec: of the data, with at least two classes.
        label: int64 (B,), the classes of a training batch.
    """

    spec: DatasetSpec
    schedule: Schedule
    trained: Schedule
    network: Network
    label: Tensor | None = None

    def on(self, schedule: Schedule) -> Self:
        """The same knowledge on another path."""
        return replace(self, schedule=schedule)

    def given(self, label: Tensor | None) -> Self:
        """The same classifier, told the classes of the batch that its loss is about."""
        return replace(self, label=label)

    def log_probabilities(self, x: Tensor, t: Tensor) -> Tensor:
        """log p(c | x_t = x), float32 or wider, (B, num_classes)."""
        return self.network(*self.inputs(x, t), None).to(x.dtype).log_softmax(1)

    def inputs(self, x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """What the network sees of x_t = x: x scaled to variance one, (B, *D), and c_time = log nsr, (B,)."""
        x, tau = same_point(x, t, self.schedule, self.trained)
        a, b = self.trained.ab(tau)
        c_in = 1 / ((a * self.spec.std) ** 2 + b**2).sqrt()
        return x * per_sample(c_in, x), self.trained.log_nsr(tau).to(x).expand(len(x))

    def module(self) -> nn.Module:
        """The network as a torch module."""
        assert isinstance(self.network, nn.Module)
        return self.network


@dataclass(frozen=True, kw_only=True, eq=False)
class Classified(Wrapped):
    """score + w grad log p(label | x_t): E[noise] moves by -b w g and E[data] by (b^2/a) w g, g that gradient.

    Args:
        inner: on the same schedule; told the labels if it knows classes.
        classifier: of x_t on that schedule.
        scale, low, high: as in ``dfm.guidance.Guided``; outside the interval the classifier is not called.
        calls: where its calls are counted.
    """

    classifier: Classifier
    scale: float
    low: float = 0.0
    high: float = math.inf
    calls: Calls | None = None

    def expectations(self, x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        data, noise = self.inner.expectations(x, t)
        nsr = self.schedule.log_nsr(t).exp().expand(len(x))
        rows = ((nsr >= self.low) & (nsr <= self.high)).nonzero().flatten()
        if self.scale == 0 or len(rows) == 0:
            return data, noise
        if self.label is None:
            raise UserError("guidance=classifier: towards which class? try label=3")
        a, b = (c.expand(len(x))[rows] for c in self.schedule.ab(t))
        inside = rows.to(x.device)
        shift = self.scale * self._gradient(x[inside], t.expand(len(x))[rows], self.label.to(x.device)[inside])
        data = data.index_add(0, inside, (per_sample(b**2 / a, shift) * shift).to(data.dtype))
        return data, noise.index_add(0, inside, (per_sample(-b, shift) * shift).to(noise.dtype))

    def _gradient(self, x: Tensor, t: Tensor, label: Tensor) -> Tensor:
        """grad_x log p(label | x_t = x), itself differentiable where the caller differentiates."""
        if self.calls is not None:
            self.calls.samples += len(x)
        wanted = torch.is_grad_enabled()
        with torch.enable_grad():
            x = x if x.requires_grad else x.detach().requires_grad_()
            chosen = self.classifier.log_probabilities(x, t).gather(1, label[:, None]).sum()
            (gradient,) = torch.autograd.grad(chosen, x, create_graph=wanted)
        return gradient

    def on(self, schedule: Schedule) -> Self:
        return replace(super().on(schedule), classifier=self.classifier.on(schedule))

    def given(self, label: Tensor | None) -> Self:
        inner = self.inner.given(label) if self.inner.spec.num_classes else self.inner
        return replace(self, label=label, inner=inner)

    def rows(self, index: Tensor) -> Self:
        label = None if self.label is None else self.label[index.to(self.label.device)]
        return replace(self, label=label, inner=self.inner.rows(index))

    def counted(self, calls: Calls) -> Denoiser:
        return replace(self, inner=self.inner.counted(calls), calls=calls)


def accuracy_and_calibration(log_probabilities: Tensor, labels: Tensor, bins: int = 15) -> tuple[float, float, float]:
    """(accuracy, cross-entropy in nats, expected calibration error) of predictions (n, C) for labels (n,).

    The calibration error is sum_b n_b/n |accuracy_b - confidence_b| over equal bins of confidence, the largest
    probability (Guo et al. 2017, eq. 3). With few examples a calibrated classifier is above zero too.
    """
    confidence, named = log_probabilities.exp().max(1)
    right = (named == labels).to(confidence)
    cross_entropy = -log_probabilities.gather(1, labels[:, None]).mean()
    place = (confidence * bins).long().clamp_max(bins - 1)
    gap = torch.zeros(bins, dtype=confidence.dtype, device=place.device).index_add(0, place, right - confidence)
    return float(right.mean()), float(cross_entropy), float(gap.abs().sum()) / len(labels)

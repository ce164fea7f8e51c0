"""The noisy classifier p(c | x_t): a network that names the class of data of which only a noisy version is seen.

By Bayes' rule, grad log p_t(x | c) = grad log p_t(x) + grad log p(c | x_t = x), so it steers a model that was never
told a class (Dhariwal and Nichol 2021, section 4).
"""

from dataclasses import dataclass, replace
from typing import Protocol, Self

from torch import Tensor, nn

from dfm.basics.per_sample import per_sample
from dfm.data.dataset import DatasetSpec
from dfm.denoising.network_denoiser import Network, same_point
from dfm.paths.schedule import Schedule


class Classifier(Protocol):
    """What classifier guidance asks of a classifier, an exact one or one of your own included."""

    spec: DatasetSpec

    def on_schedule(self, schedule: Schedule) -> "Classifier":
        """The same classifier for x_t on another path."""

    def log_probabilities(self, x: Tensor, t: Tensor) -> Tensor:
        """log p(c | x_t = x), (B, num_classes), of x (B, *D) and t () or (B,)."""


@dataclass(frozen=True, kw_only=True, eq=False)
class NoisyClassifier:
    """A network as a classifier on the schedule ``trained_schedule``, used on any schedule.

    Like a denoiser's, it sees x_t with variance one and log nsr, never t.

    Args:
        spec: of the data, with at least two classes.
        label: int64 (B,), the classes of a training batch.
    """

    spec: DatasetSpec
    schedule: Schedule
    trained_schedule: Schedule
    network: Network
    label: Tensor | None = None

    def on_schedule(self, schedule: Schedule) -> Self:
        """The same knowledge on another path."""
        return replace(self, schedule=schedule)

    def with_labels(self, label: Tensor | None) -> Self:
        """The same classifier, told the classes of the batch that its loss is about."""
        return replace(self, label=label)

    def log_probabilities(self, x: Tensor, t: Tensor) -> Tensor:
        """log p(c | x_t = x), float32 or wider, (B, num_classes)."""
        return self.network(*self.inputs(x, t), None).to(x.dtype).log_softmax(1)

    def inputs(self, x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """What the network sees of x_t = x: x scaled to variance one, (B, *D), and c_time = log nsr, (B,)."""
        x, tau = same_point(x, t, self.schedule, self.trained_schedule)
        a, b = self.trained_schedule.ab(tau)
        c_in = 1 / ((a * self.spec.std) ** 2 + b**2).sqrt()
        return x * per_sample(c_in, x), self.trained_schedule.log_nsr(tau).to(x).expand(len(x))

    def module(self) -> nn.Module:
        """The network as a torch module."""
        assert isinstance(self.network, nn.Module)
        return self.network

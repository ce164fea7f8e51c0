"""The noisy classifier p(c | x_t): a network that sees a noisy version of the data and gives their class.

By Bayes' rule, grad log p_t(x | c) = grad log p_t(x) + grad log p(c | x_t = x). So it can guide a model that
was trained without classes (Dhariwal and Nichol 2021, section 4).
"""

from dataclasses import dataclass, replace
from typing import Protocol, Self

from torch import Tensor, nn

from dfm.basics.per_sample import per_sample
from dfm.data.dataset import DatasetSpec
from dfm.denoising.network_denoiser import Network, as_module, like_weights, same_point
from dfm.paths.schedule import Schedule


class Classifier(Protocol):
    """The methods that classifier guidance needs: a network, an exact classifier or your own class may have them."""

    spec: DatasetSpec

    def on_schedule(self, schedule: Schedule) -> "Classifier":
        """Return the same classifier for x_t on another path."""

    def log_probabilities(self, x: Tensor, t: Tensor) -> Tensor:
        """Return log p(c | x_t = x), (B, num_classes), of x (B, *D) and t () or (B,)."""


@dataclass(frozen=True, kw_only=True, eq=False)
class NoisyClassifier:
    """A network that was trained as a classifier on ``trained_schedule``; it works on any schedule.

    Like the network of a denoiser it sees x_t with variance one and log nsr, never t.

    Args:
        spec: the description of the data, with at least two classes.
        label: the classes of a training batch, int64 (B,).
    """

    spec: DatasetSpec
    schedule: Schedule
    trained_schedule: Schedule
    network: Network
    label: Tensor | None = None

    def on_schedule(self, schedule: Schedule) -> Self:
        """Return the same classifier on another path."""
        return replace(self, schedule=schedule)

    def with_labels(self, label: Tensor | None) -> Self:
        """Return the same classifier with the classes of a training batch, for its loss."""
        return replace(self, label=label)

    def log_probabilities(self, x: Tensor, t: Tensor) -> Tensor:
        """Return log p(c | x_t = x), float32 or wider, (B, num_classes)."""
        return self.network(*like_weights(self.network, *self.inputs(x, t), None)).to(x.dtype).log_softmax(1)

    def inputs(self, x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """Return the network's inputs at x_t = x: x - a m scaled to variance one, (B, *D), and log nsr, (B,)."""
        x, tau = same_point(x, t, self.schedule, self.trained_schedule)
        a, b = self.trained_schedule.ab(tau)
        c_in = 1 / ((a * self.spec.std) ** 2 + b**2).sqrt()
        if self.spec.centre:
            x = x - per_sample(a * self.spec.centre, x)
        return x * per_sample(c_in, x), self.trained_schedule.log_nsr(tau).to(x).expand(len(x))

    def module(self) -> nn.Module:
        """Return the network as a torch module.

        Raises:
            TypeError: the network is a plain function.
        """
        return as_module(self.network)

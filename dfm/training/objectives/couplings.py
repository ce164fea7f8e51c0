"""Couplings: which noise goes with which example inside a batch.

Flow matching allows any joint law of (data, noise) with the right marginals. Diffusion takes independent pairs. Pairs
with a small total distance |data - noise|^2 give straighter paths (Pooladian et al. 2023; Tong et al. 2024). Every
batch is paired by itself; nothing is kept from batch to batch.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor

from dfm.basics.errors import UserError


class Coupling(ABC):
    """A pairing of a batch of data with a batch of noise.

    Attributes:
        independent: whether the noise stays independent of the data, so that E[noise | x_t] still gives the score.
    """

    independent: ClassVar[bool] = False

    @abstractmethod
    def partners(self, data: Tensor, noise: Tensor, label: Tensor | None, generator: torch.Generator) -> Tensor:
        """Return the row of the noise for each example, int64 (B,).

        Args:
            data, noise: (B, *D), each with independent rows.
            label: the classes of the data, int64 (B,), or None.
            generator: on the device of the data.
        """

    def pair(
        self, data: Tensor, noise: Tensor, label: Tensor | None, generator: torch.Generator
    ) -> tuple[Tensor, Tensor]:
        """Return data and noise, row by row: here the data in their order, each with its partner."""
        return data, noise[self.partners(data, noise, label, generator)]


@dataclass(frozen=True, kw_only=True)
class IndependentCoupling(Coupling):
    """The pairs as they were drawn."""

    independent: ClassVar[bool] = True

    def partners(self, data: Tensor, noise: Tensor, label: Tensor | None, generator: torch.Generator) -> Tensor:
        return torch.arange(len(data), device=data.device)


@dataclass(frozen=True, kw_only=True)
class OptimalTransport(Coupling):
    """The permutation pi with the smallest sum_i |data_i - noise_pi(i)|^2, exactly (scipy's linear_sum_assignment)."""

    def partners(self, data: Tensor, noise: Tensor, label: Tensor | None, generator: torch.Generator) -> Tensor:
        from scipy.optimize import linear_sum_assignment

        rows, columns = linear_sum_assignment(squared_distances(data, noise).cpu().numpy())
        return torch.from_numpy(columns[rows.argsort()]).to(data.device)


@dataclass(frozen=True, kw_only=True)
class EntropicTransport(Coupling):
    """Partners from the plan that minimises <P, C> - reg H(P), with C_ij = |data_i - noise_j|^2 (Cuturi 2013).

    ``reg`` is in units of the batch's mean cost. As it goes to 0 the plan becomes optimal transport; as it goes to
    infinity the pairs become independent. Each example draws its partner from its row of the plan, so two examples may
    have the same noise.

    Args:
        reg: relative regularisation.
        iterations: number of iterations of Sinkhorn's algorithm, in logarithms.

    Raises:
        UserError: a number that is not positive.
    """

    reg: float = 0.05
    iterations: int = 100

    def __post_init__(self) -> None:
        if not (self.reg > 0 and self.iterations > 0):
            raise UserError(
                f"coupling entropic: reg={self.reg}, iterations={self.iterations}; allowed: numbers above 0"
            )

    def partners(self, data: Tensor, noise: Tensor, label: Tensor | None, generator: torch.Generator) -> Tensor:
        plan = self.plan(squared_distances(data, noise))
        return torch.multinomial(plan, 1, generator=generator)[:, 0]

    def plan(self, cost: Tensor) -> Tensor:
        """Return P_ij = exp((f_i + g_j - C_ij)/eps), (B, B), eps = reg mean(C); rows and columns have the sum 1/B."""
        kernel = -cost / (self.reg * cost.mean())
        log_share = -torch.tensor(float(len(cost)), dtype=cost.dtype, device=cost.device).log()
        g = torch.zeros_like(cost[0])
        for _ in range(self.iterations):
            f = log_share - (kernel + g).logsumexp(1)
            g = log_share - (kernel + f[:, None]).logsumexp(0)
        return (kernel + f[:, None] + g).exp()


@dataclass(frozen=True, kw_only=True)
class LabelAwareCoupling(Coupling):
    """Another coupling, used inside each class separately.

    It is for models with classes. Transport over the whole batch would give each class its own part of the noise, but
    sampling starts from all of the noise.

    Args:
        inner: the coupling inside a class.

    Raises:
        UserError: (on use) the data have no classes.
    """

    inner: Coupling = field(default_factory=OptimalTransport)

    def partners(self, data: Tensor, noise: Tensor, label: Tensor | None, generator: torch.Generator) -> Tensor:
        if label is None:
            raise UserError("coupling label_aware needs classes; try conditional=true, or coupling=ot")
        partners = torch.arange(len(data), device=data.device)
        for value in label.unique():
            (rows,) = (label == value).nonzero(as_tuple=True)
            partners[rows] = rows[self.inner.partners(data[rows], noise[rows], None, generator)]
        return partners


def squared_distances(data: Tensor, noise: Tensor) -> Tensor:
    """Return C_ij = |data_i - noise_j|^2, float64 (B, B)."""
    x, y = data.flatten(1).double(), noise.flatten(1).double()
    return (x.square().sum(1)[:, None] + y.square().sum(1) - 2 * x @ y.T).clamp_min(0)

"""Which noise goes with which datum inside a batch.

Flow matching leaves the joint law of (data, noise) free as long as both marginals stay. Independent pairs are
diffusion's; pairs of small total distance |data - noise|^2 make straighter paths (Pooladian et al. 2023; Tong et al.
2024). Pairings are made anew for every batch and nothing is kept between batches.
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
        independent: whether noise stays independent of data, so that E[noise | x_t] still gives the score.
    """

    independent: ClassVar[bool] = False

    @abstractmethod
    def partners(self, data: Tensor, noise: Tensor, label: Tensor | None, generator: torch.Generator) -> Tensor:
        """For each datum the row of its noise, int64 (B,).

        Args:
            data, noise: (B, *D), each with independent rows.
            label: int64 (B,) classes of the data, or None.
        """

    def pair(
        self, data: Tensor, noise: Tensor, label: Tensor | None, generator: torch.Generator
    ) -> tuple[Tensor, Tensor]:
        """Data and noise, row by row: here the data as they are, and for each its partner."""
        return data, noise[self.partners(data, noise, label, generator)]


@dataclass(frozen=True, kw_only=True)
class IndependentCoupling(Coupling):
    """As drawn."""

    independent: ClassVar[bool] = True

    def partners(self, data: Tensor, noise: Tensor, label: Tensor | None, generator: torch.Generator) -> Tensor:
        return torch.arange(len(data), device=data.device)


@dataclass(frozen=True, kw_only=True)
class OptimalTransport(Coupling):
    """The permutation pi that minimises sum_i |data_i - noise_pi(i)|^2, exactly (scipy's linear_sum_assignment)."""

    def partners(self, data: Tensor, noise: Tensor, label: Tensor | None, generator: torch.Generator) -> Tensor:
        from scipy.optimize import linear_sum_assignment

        rows, columns = linear_sum_assignment(squared_distances(data, noise).cpu().numpy())
        return torch.from_numpy(columns[rows.argsort()]).to(data.device)


@dataclass(frozen=True, kw_only=True)
class EntropicTransport(Coupling):
    """Partners drawn from the plan that minimises <P, C> - reg H(P), C_ij = |data_i - noise_j|^2 (Cuturi 2013).

    ``reg`` is in units of the batch's mean cost: towards 0 the plan is the exact one, towards infinity independent
    pairs. Each datum draws its partner from its row of the plan, so a noise may be taken twice.

    Args:
        reg: relative regularisation.
        iterations: of Sinkhorn's algorithm, in logarithms.

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
        """P (B, B) with rows and columns of sum 1/B: P_ij = exp((f_i + g_j - C_ij)/eps), eps = reg mean(C)."""
        kernel = -cost / (self.reg * cost.mean())
        log_share = -torch.tensor(float(len(cost)), dtype=cost.dtype, device=cost.device).log()
        g = torch.zeros_like(cost[0])
        for _ in range(self.iterations):
            f = log_share - (kernel + g).logsumexp(1)
            g = log_share - (kernel + f[:, None]).logsumexp(0)
        return (kernel + f[:, None] + g).exp()


@dataclass(frozen=True, kw_only=True)
class LabelAwareCoupling(Coupling):
    """Another coupling inside each class apart.

    For models that are conditional on the class: over the whole batch, transport would give each class a part of the
    noise of its own, and sampling a class from all of the noise would miss it.

    Args:
        inner: the coupling used inside a class.
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
    """C_ij = |data_i - noise_j|^2, float64 (B, B)."""
    x, y = data.flatten(1).double(), noise.flatten(1).double()
    return (x.square().sum(1)[:, None] + y.square().sum(1) - 2 * x @ y.T).clamp_min(0)

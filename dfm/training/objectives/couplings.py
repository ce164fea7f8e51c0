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

        # a shift of all data or of all noise changes every permutation's sum by the same number, and costs digits
        near, far = (x.double() - x.double().mean(0) for x in (data, noise))
        rows, columns = linear_sum_assignment(squared_distances(near, far).cpu().numpy())
        return torch.from_numpy(columns[rows.argsort()]).to(data.device)


@dataclass(frozen=True, kw_only=True)
class EntropicTransport(Coupling):
    """Partners from the plan that minimises <P, C> - reg H(P), with C_ij = |data_i - noise_j|^2 (Cuturi 2013).

    ``reg`` is in units of the batch's mean cost. As it goes to 0 the plan becomes optimal transport; as it goes to
    infinity the pairs become independent. Each example draws its partner from its row of the plan, so two examples may
    have the same noise.

    Sinkhorn's algorithm runs in logarithms until the sums of the plan's columns are right to ``tolerance``. It passes
    from a large eps to reg mean(C) in factors of 4, each from the potentials of the one before, and over-relaxes near
    the end (Schmitzer 2019; Thibault et al. 2021): below reg = 0.01 this needs a tenth of the iterations or less.

    Args:
        reg: relative regularisation.
        iterations: the largest number of iterations.
        tolerance: the mean relative error of the sums of the columns at which the iterations stop.

    Raises:
        UserError: a number that is not positive; or (on use) the iterations are not enough.
    """

    reg: float = 0.05
    iterations: int = 10000
    tolerance: float = 1e-3

    def __post_init__(self) -> None:
        if not (self.reg > 0 and self.iterations > 0 and self.tolerance > 0):
            raise UserError(
                f"coupling entropic: reg={self.reg}, iterations={self.iterations}, tolerance={self.tolerance}; "
                "allowed: numbers above 0"
            )

    def partners(self, data: Tensor, noise: Tensor, label: Tensor | None, generator: torch.Generator) -> Tensor:
        plan = self.plan(squared_distances(data, noise))
        return torch.multinomial(plan, 1, generator=generator)[:, 0]

    def plan(self, cost: Tensor) -> Tensor:
        """Return P_ij = exp((f_i + g_j - C_ij)/eps), (B, B), eps = reg mean(C).

        The sum of each row is 1/B; that of each column is 1/B within the tolerance.

        Raises:
            UserError: the iterations are not enough.
        """
        cost = cost / cost.mean().clamp_min(torch.finfo(cost.dtype).tiny)  # a cost of zero stays zero
        found = self._potentials(cost, self.reg)
        if found is None:
            larger = (reg for k in range(1, 12) if self._potentials(cost, reg := self.reg * 4**k) is not None)
            smallest = next(larger, None)
            fix = "" if smallest is None else f"coupling.reg={smallest:g}, or "
            raise UserError(
                f"coupling entropic: reg={self.reg:g} needs more than iterations={self.iterations} on this batch; try "
                f"{fix}coupling=ot, which is the limit of a small reg, or more coupling.iterations"
            )
        return (found[0][:, None] + found[1] - cost / self.reg).exp()

    def _potentials(self, cost: Tensor, reg: float) -> tuple[Tensor, Tensor] | None:
        """Return (f, g) in units of eps = reg for a cost with mean 1; None if the iterations are not enough."""
        stages = [reg]
        while stages[-1] < 1 / 4:
            stages.append(4 * stages[-1])
        f = g = torch.zeros_like(cost[0])  # in units of the mean cost
        left = self.iterations
        for eps in reversed(stages):
            tolerance = self.tolerance if eps == reg else max(self.tolerance, ROUGH)
            f, g, used = _sinkhorn(-cost / eps, f / eps, g / eps, tolerance, left, OMEGA[eps < 2e-3])
            f, g, left = f * eps, g * eps, left - used
            if left == 0:
                return None
        return f / reg, g / reg


ROUGH, NEAR = 0.05, 0.2  # errors of the columns: at the end of a passing stage, and where over-relaxation starts
OMEGA = (1.8, 1.9)  # over-relaxation for larger and for smaller eps: the least iterations of 1.0, 1.5, 1.8, 1.9


def _sinkhorn(
    kernel: Tensor, f: Tensor, g: Tensor, tolerance: float, most: int, omega: float
) -> tuple[Tensor, Tensor, int]:
    """Return (f, g, iterations used) with exp(kernel + f + g) of rows of sum 1/B and columns of sum 1/B roughly.

    Args:
        kernel: -C/eps, (B, B).
        f, g: where to start, in units of eps, (B,).
        tolerance: the mean relative error of the columns at which the iterations stop.
        most: the largest number of iterations.
    """
    log_share = -torch.tensor(float(len(kernel)), dtype=kernel.dtype, device=kernel.device).log()

    def columns(f: Tensor, g: Tensor) -> tuple[Tensor, float]:
        """Return the g with exact columns, and the error of the columns with the present one."""
        exact = log_share - (kernel + f[:, None]).logsumexp(0)
        return exact, float(((g - exact).exp() - 1).abs().mean())

    f = log_share - (kernel + g).logsumexp(1)
    for used in range(most):
        exact, error = columns(f, g)
        if error <= tolerance:
            rows = log_share - (kernel + g).logsumexp(1)
            if columns(rows, g)[1] <= tolerance:
                return rows, g, used
        step = omega if error < NEAR else 1.0  # far from the end, longer steps may diverge
        g = g + step * (exact - g)
        f = f + step * (log_share - (kernel + g).logsumexp(1) - f)
    return f, g, most


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
    x, y = x - x.mean(0), y - x.mean(0)  # far from the origin the products would cancel
    return (x.square().sum(1)[:, None] + y.square().sum(1) - 2 * x @ y.T).clamp_min(0)

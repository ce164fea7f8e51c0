"""A path from two formulas: the noising equation dX = -k(t) X dt + sqrt(2 c(t)^2) dB, the lecture's general form."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from dfm.basics.errors import UserError
from dfm.paths.formulas import Formula
from dfm.paths.schedule import Coefficients, Schedule

INTERVALS = 256
# Gauss-Legendre nodes and weights on [0, 1]; they are exact for polynomials of degree 15 on each interval.
_NODES, _WEIGHTS = (torch.from_numpy(v) / 2 for v in np.polynomial.legendre.leggauss(8))
_NODES = _NODES + 0.5
BISECTIONS = 60


@dataclass(frozen=True, kw_only=True)
class Custom(Schedule):
    """The path a = exp(-int_0^t k), b^2 = a^2 int_0^t 2 c^2/a^2, by Gauss-Legendre quadrature on 256 intervals.

    The derivatives need no quadrature: a' = -k a, and d(b^2)/dt = -2 k b^2 + 2 c^2, so b' = -k b + c^2/b.

    Args:
        drift: k(t) as text, e.g. ``1+t``.
        diffusion: c(t) as text, e.g. ``1``.

    Raises:
        UserError: a text is no formula of t, or in [0, t_max] c is zero or a value is not finite.
    """

    drift: str | float = "1"
    diffusion: str | float = "1"
    t_min: float = 5e-7
    t_max: float = 5.0

    def __post_init__(self) -> None:
        if not 0 < self.t_min < self.t_max:
            raise UserError(f"schedule custom: t_min={self.t_min}, t_max={self.t_max}; allowed: 0 < t_min < t_max")
        t = self._edges + (self._edges[1] - self._edges[0]) * _NODES[:, None]
        for name, function in (("drift", self._k), ("diffusion", self._c)):
            values = function(t)
            bad = (~values.isfinite() | ((values == 0) if name == "diffusion" else False)).flatten().nonzero()
            if len(bad):
                where = int(bad[0])
                raise UserError(
                    f"schedule custom: {name}='{getattr(self, name)}' is {float(values.flatten()[where]):g} at "
                    f"t={float(t.flatten()[where]):.3g}; allowed: finite{', not zero' if name == 'diffusion' else ''}"
                )
        super().__post_init__()

    @cached_property
    def _formulas(self) -> tuple[Formula, Formula]:
        return (
            Formula(str(self.drift), where="schedule.drift"),
            Formula(str(self.diffusion), where="schedule.diffusion"),
        )

    def _k(self, t: Tensor) -> Tensor:
        return self._formulas[0](t=t)

    def _c(self, t: Tensor) -> Tensor:
        return self._formulas[1](t=t)

    @cached_property
    def _edges(self) -> Tensor:
        """The edges of the intervals, denser near 0, where b grows as a square root."""
        return self.t_max * torch.linspace(0, 1, INTERVALS + 1, dtype=torch.float64) ** 3

    @cached_property
    def _tables(self) -> tuple[Tensor, Tensor]:
        """int_0^t k and int_0^t 2 c^2/a^2 at the edges."""
        low, width = self._edges[:-1], self._edges.diff()
        zero = torch.zeros(1, dtype=torch.float64)
        k = torch.cat([zero, self._drift_over(low, width).cumsum(0)])
        return k, torch.cat([zero, self._spread_over(low, width, k[:-1]).cumsum(0)])

    def _drift_over(self, low: Tensor, width: Tensor) -> Tensor:
        """Return int k over [low, low + width], any shape."""
        nodes, weights = _NODES.to(low.device), _WEIGHTS.to(low.device)
        return width * (self._k(low[..., None] + width[..., None] * nodes) @ weights)

    def _spread_over(self, low: Tensor, width: Tensor, before: Tensor) -> Tensor:
        """Return int 2 c^2/a^2 over [low, low + width], with before = int_0^low k."""
        nodes, weights = _NODES.to(low.device), _WEIGHTS.to(low.device)
        t = low[..., None] + width[..., None] * nodes
        log_a = -(before[..., None] + self._drift_over(low[..., None].expand_as(t), t - low[..., None]))
        return width * ((2 * self._c(t) ** 2 * (-2 * log_a).exp()) @ weights)

    def _integrals(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """Return int_0^t k and int_0^t 2 c^2/a^2."""
        edges, tables = self._edges.to(t.device), [table.to(t.device) for table in self._tables]
        i = (torch.searchsorted(edges, t.contiguous(), right=True) - 1).clamp(0, INTERVALS - 1)
        low, before, spread = edges[i], tables[0][i], tables[1][i]
        return before + self._drift_over(low, t - low), spread + self._spread_over(low, t - low, before)

    def ab(self, t: Tensor) -> Coefficients:
        k, spread = self._integrals(t)
        a = (-k).exp()
        return a, a * spread.sqrt()

    def log_nsr(self, t: Tensor) -> Tensor:
        return self._integrals(t)[1].log() / 2  # a itself can underflow where b/a does not

    def derivatives(self, t: Tensor) -> Coefficients:
        a, b = self.ab(t)
        k = self._k(t)
        return -k * a, -k * b + self._c(t) ** 2 / b

    def time_of_log_nsr(self, log_nsr: Tensor) -> Tensor:
        """Return the t of this log nsr by bisection, or the nearest end of [0, t_max] if it has none in it."""
        low, high = torch.zeros_like(log_nsr), torch.full_like(log_nsr, self.t_max)
        for _ in range(BISECTIONS):
            middle = (low + high) / 2
            above = self.log_nsr(middle) > log_nsr
            low, high = torch.where(above, low, middle), torch.where(above, middle, high)
        return (low + high) / 2

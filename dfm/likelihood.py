"""Log-densities by the probability-flow ODE (Chen et al. 2018, eq. 8; Song et al. 2021, appendix D.2).

    log p(data) = log prior(x_{t_max}) + int_{t_min}^{t_max} div u(x_t, t) dt + d log a(t_min)

along dx/dt = u from x_{t_min} = a(t_min) data; the last term is the change of variables of that rescaling. The state
of the integration is x with the running integral appended, so any ODE stepper and any grid serve.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from dfm.denoiser import Calls, Denoiser
from dfm.errors import UserError, unknown
from dfm.flows import OdeFlow
from dfm.grids import Grid, LogNsr
from dfm.seeding import Purpose, normal, rademacher
from dfm.steppers import ODE_STEPPERS, Field

PROBES = {"rademacher": rademacher, "gaussian": normal}


class Divergence(ABC):
    """A field of values and their divergence, for a batch whose random probes are fixed."""

    @abstractmethod
    def __call__(self, velocity: Field, x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """(u (B, *D), div u (B,)), neither with a graph."""

    @abstractmethod
    def rows(self, index: Tensor) -> "Divergence":
        """The same for the samples ``index`` of the batch."""


@dataclass(frozen=True)
class Exact(Divergence):
    """div u = sum_i du_i/dx_i by d backward passes: for points, small images and audits."""

    def __call__(self, velocity: Field, x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        with torch.enable_grad():
            x = x.detach().requires_grad_()
            u = velocity(x, t)
            flat, total = u.flatten(1), torch.zeros(len(x), dtype=x.dtype, device=x.device)
            for i in range(flat.shape[1]):
                (row,) = torch.autograd.grad(flat[:, i].sum(), x, retain_graph=i + 1 < flat.shape[1])
                total += row.flatten(1)[:, i]
        return u.detach(), total

    def rows(self, index: Tensor) -> "Exact":
        return self


@dataclass(frozen=True)
class Hutchinson(Divergence):
    """div u ~ mean_k e_k . (J e_k), unbiased for E[e e^T] = I (Hutchinson 1989; Grathwohl et al. 2019).

    The probes are drawn once and kept for the whole trajectory: the integrand stays a smooth function of time.

    Args:
        probes: (k, B, *D).
    """

    probes: Tensor

    def __call__(self, velocity: Field, x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        last = len(self.probes) - 1
        with torch.enable_grad():
            x = x.detach().requires_grad_()
            u = velocity(x, t)
            total = torch.zeros(len(x), dtype=x.dtype, device=x.device)
            for k, probe in enumerate(self.probes):
                (product,) = torch.autograd.grad(u, x, probe, retain_graph=k < last)
                total += (product * probe).flatten(1).sum(1)
        return u.detach(), total / len(self.probes)

    def rows(self, index: Tensor) -> "Hutchinson":
        return Hutchinson(self.probes[:, index])


@dataclass(frozen=True, kw_only=True)
class LogDensity:
    """Log-densities of a batch in the unit of the data (nats, float64 (B,)) and the mean number of evaluations."""

    value: Tensor
    nfe: float


@dataclass(frozen=True, kw_only=True)
class OdeLikelihood:
    """How to integrate the likelihood ODE.

    Args:
        solver: ``euler``, ``midpoint``, ``heun``, ``rk4`` along the grid, or ``dopri5`` with per-sample error control.
        steps: moves of a grid solver (no effect on ``dopri5``).
        grid: where the moves end.
        divergence: ``hutchinson`` or ``exact``.
        probes: probes a sample for Hutchinson's estimate.
        probe: ``rademacher`` or ``gaussian``.
        rtol, atol: tolerances of ``dopri5``.

    Raises:
        UserError: a name or number outside these.
    """

    solver: str = "rk4"
    steps: int = 32
    grid: Grid = field(default_factory=LogNsr)
    divergence: str = "hutchinson"
    probes: int = 1
    probe: str = "rademacher"
    rtol: float = 1e-5
    atol: float = 1e-5

    def __post_init__(self) -> None:
        for name, given, allowed in (
            ("likelihood.solver", self.solver, (*ODE_STEPPERS, "dopri5")),
            ("likelihood.divergence", self.divergence, ("hutchinson", "exact")),
            ("likelihood.probe", self.probe, PROBES),
        ):
            if given not in allowed:
                raise unknown(name, given, allowed)
        if self.steps < 1 or self.probes < 1:
            raise UserError(f"likelihood.steps={self.steps}, likelihood.probes={self.probes}; allowed: at least 1")

    @property
    def adaptive(self) -> bool:
        """Whether the solver chooses its own steps."""
        return self.solver == "dopri5"

    def log_density(
        self, denoiser: Denoiser, data: Tensor, seed: int = 0, indices: Sequence[int] | None = None, repeat: int = 0
    ) -> LogDensity:
        """log p(data) of a batch (B, *D), real-valued and in the unit in which the model was trained.

        Args:
            seed, indices: what the probes depend on; indices[i] numbers example i (default 0, 1, ...).
            repeat: another number, other probes.
        """
        indices = range(len(data)) if indices is None else indices
        calls = Calls()
        counted = denoiser.counted(calls)
        divergence = self._divergence(data, seed, indices, repeat)
        a, _ = denoiser.schedule.ab(torch.tensor(denoiser.t_min, dtype=torch.float64))
        x = torch.cat([(data * float(a)).flatten(1), torch.zeros_like(data.flatten(1)[:, :1])], 1)
        end = self._integrate(counted, divergence, x, tuple(data.shape[1:]))
        latent, integral = end[:, :-1].double().reshape(data.shape), end[:, -1].double()
        value = denoiser.start_log_density(latent) + integral + data[0].numel() * float(a.log())
        return LogDensity(value=value, nfe=calls.samples / len(data))

    def _divergence(self, data: Tensor, seed: int, indices: Sequence[int], repeat: int) -> Divergence:
        if self.divergence == "exact":
            return Exact()
        shape, first = tuple(data.shape[1:]), repeat * self.probes
        draws = [PROBES[self.probe](seed, indices, shape, Purpose.PROBE, first + k) for k in range(self.probes)]
        return Hutchinson(torch.stack(draws).to(data))

    def _integrate(self, denoiser: Denoiser, divergence: Divergence, x: Tensor, shape: tuple[int, ...]) -> Tensor:
        def field_of(rows: Tensor) -> Field:
            return _augmented(denoiser.rows(rows), divergence.rows(rows), shape)

        flow = OdeFlow(solver=self.solver, steps=self.steps, grid=self.grid, rtol=self.rtol, atol=self.atol)
        return flow.carry(field_of, x, denoiser.schedule, denoiser.t_min, denoiser.t_max)


def _augmented(denoiser: Denoiser, divergence: Divergence, shape: tuple[int, ...]) -> Field:
    """The field of (x, integral of div u), flattened to (B, d + 1)."""

    def derivative(state: Tensor, t: Tensor) -> Tensor:
        u, div = divergence(denoiser.velocity, state[:, :-1].reshape(-1, *shape), t)
        return torch.cat([u.flatten(1), div[:, None]], 1)

    return derivative

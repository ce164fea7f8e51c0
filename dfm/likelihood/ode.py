"""Log-densities by the probability-flow ODE (Chen et al. 2018, eq. 8; Song et al. 2021, appendix D.2).

    log p(data) = log prior(x_{t_max}) + int_{t_min}^{t_max} div u(x_t, t) dt + d log a(t_min)

along dx/dt = u from x_{t_min} = a(t_min) data. The last term is the change of variables from data to x_{t_min}. The
state of the integration is x together with the integral so far, so every ODE stepper and every grid can be used.

The value does not depend on the path, because x/a is the same variable at equal nsr; the cost depends on it. On
``UnitVariance``, x hardly moves if the data are nearly Gaussian, so few steps are enough.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import torch
from torch import Tensor

from dfm.basics.devices import Precision, check_precision, products
from dfm.basics.errors import UserError, unknown
from dfm.basics.seeding import Purpose, normal, rademacher
from dfm.denoising.denoiser import Denoiser, EvaluationCount
from dfm.likelihood.divergence import Divergence, Exact, Hutchinson
from dfm.likelihood.estimator import Likelihood, LogDensity, ends
from dfm.paths.interpolating import UnitVariance
from dfm.sampling.grids import Grid, UniformGrid
from dfm.sampling.ode_flow import OdeMap
from dfm.sampling.steppers.base import Field
from dfm.sampling.steppers.ode import ODE_STEPPERS

# Numbers of steps. The double of each is in the list, except where it exceeds the last.
LADDER = (6, 8, 12, 16, 24, 32, 48, 64, 96)
PROBES = {"rademacher": rademacher, "gaussian": normal}


@dataclass(frozen=True, kw_only=True)
class OdeLikelihood(Likelihood):
    """The estimator of log p(data) along the probability-flow ODE.

    Args:
        solver: ``euler``, ``midpoint``, ``heun``, ``rk4`` or ``rk5`` along the grid, or ``dopri5``, which controls the
            error of each example.
        steps: number of moves of a grid solver (no effect on ``dopri5``). None: ``dfm nll`` takes the smallest number
            of ``LADDER`` whose error, estimated from twice the steps, is at most ``tolerance``; otherwise the first.
        tolerance: in bits/dim (nats for points), root mean square over examples.
        path: ``unit_variance``, or ``own``: the denoiser's schedule. A model of a general prior has only its own.
        grid: places the times between the moves.
        divergence: ``hutchinson`` or ``exact``.
        chunk: how many backward passes ``exact`` makes at once.
        probes: number of probes per example for Hutchinson's estimate.
        probe: their law, ``rademacher`` or ``gaussian``.
        rtol, atol: tolerances of ``dopri5``.
        precision: the precision of the network's matrix products. The audit repeats them in fp32, so the error of bf16
            is part of the solver's error.

    Raises:
        UserError: an unknown name, a count below 1, or a tolerance that is not above 0.
    """

    solver: str = "rk5"
    steps: int | None = None
    tolerance: float = 0.005
    path: Literal["unit_variance", "own"] = "unit_variance"
    grid: Grid = field(default_factory=UniformGrid)
    divergence: str = "hutchinson"
    chunk: int = 16
    probes: int = 1
    probe: str = "rademacher"
    rtol: float = 1e-5
    atol: float = 1e-5
    precision: Precision = "fp32"

    exact = True

    def __post_init__(self) -> None:
        for name, value, allowed in (
            ("likelihood.solver", self.solver, (*ODE_STEPPERS, "dopri5")),
            ("likelihood.path", self.path, ("unit_variance", "own")),
            ("likelihood.divergence", self.divergence, ("hutchinson", "exact")),
            ("likelihood.probe", self.probe, PROBES),
            ("likelihood.precision", self.precision, ("fp32", "tf32", "bf16")),
        ):
            if value not in allowed:
                raise unknown(name, value, allowed)
        if min(self.moves, self.probes, self.chunk) < 1 or not self.tolerance > 0:
            raise UserError(
                f"likelihood.steps={self.steps}, likelihood.probes={self.probes}, likelihood.chunk={self.chunk}, "
                f"likelihood.tolerance={self.tolerance}; allowed: counts of at least 1, and a tolerance above 0"
            )

    @property
    def adaptive(self) -> bool:
        """Whether the solver chooses its own steps."""
        return self.solver == "dopri5"

    @property
    def name(self) -> str:
        return "ode" if self.divergence == "hutchinson" else "ode_exact"

    def unused_settings(self) -> dict[str, str]:
        reason = "on likelihood.solver=dopri5, which chooses its steps by likelihood.rtol and likelihood.atol"
        unused = dict.fromkeys(("steps", "tolerance", "grid"), reason) if self.adaptive else {}
        if not self.adaptive:
            unused |= dict.fromkeys(("rtol", "atol"), f"on likelihood.solver={self.solver}")
        if self.steps is not None:
            unused.setdefault("tolerance", "beside likelihood.steps, because it only chooses the steps")
        if self.divergence == "hutchinson":
            return unused | {"chunk": "on likelihood.divergence=hutchinson"}
        return unused | dict.fromkeys(("probes", "probe"), "on likelihood.divergence=exact, which needs no probe")

    def instead(self, setting: str) -> str:
        other_solver = {"steps": "solver=heun", "grid": "solver=heun", "rtol": "solver=dopri5", "atol": "solver=dopri5"}
        probes = {"chunk": "divergence=exact", "probes": "divergence=hutchinson", "probe": "divergence=hutchinson"}
        return (other_solver | probes).get(setting, "")

    def estimate(self) -> "OdeLikelihood | None":
        return replace(self, divergence="hutchinson") if self.divergence == "exact" else None

    @property
    def noisy(self) -> bool:  # type: ignore[override]
        """Whether the divergence is estimated with random probes."""
        return self.divergence == "hutchinson"

    @property
    def moves(self) -> int:
        """The number of moves of a grid solver."""
        return LADDER[0] if self.steps is None else self.steps

    def ladder(self) -> Mapping[int, Likelihood]:
        if self.adaptive or self.steps is not None:
            return {}
        return {steps: replace(self, steps=steps, divergence="hutchinson") for steps in LADDER}

    def with_steps(self, steps: int) -> "OdeLikelihood":
        return replace(self, steps=steps)

    def finer(self) -> "OdeLikelihood":
        """Return the estimator with twice the steps, or a tenth of the tolerances, in fp32."""
        if self.adaptive:
            return replace(self, rtol=self.rtol / 10, atol=self.atol / 10, precision="fp32")
        return replace(self, steps=2 * self.moves, precision="fp32")

    @property
    def change_to_error(self) -> float:
        """The factor 2^p/(2^p - 1) of a grid solver of order p, 10/9 of ``dopri5``.

        The part of a difference that comes from bf16 does not fall with the steps; the factor makes it too large.
        """
        finer_share = 1 / 10 if self.adaptive else 2.0 ** -ODE_STEPPERS[self.solver].order
        return 1 / (1 - finer_share)

    def log_density(
        self,
        denoiser: Denoiser,
        data: Tensor,
        seed: int = 0,
        indices: Sequence[int] | None = None,
        repeat: int = 0,
        start: float | None = None,
    ) -> LogDensity:
        indices = range(len(data)) if indices is None else indices
        calls = EvaluationCount()
        denoiser, t_min = self._on_path(denoiser, start)
        divergence = self._divergence(data, seed, indices, repeat)
        a, _ = denoiser.schedule.ab(torch.tensor(t_min, dtype=torch.float64))
        x = torch.cat([(data * float(a)).flatten(1), torch.zeros_like(data.flatten(1)[:, :1])], 1)
        with products(check_precision(self.precision, data.device), data.device):
            end = self._integrate(denoiser.counted(calls), divergence, x, tuple(data.shape[1:]), t_min)
        latent, integral = end[:, :-1].double().reshape(data.shape), end[:, -1].double()
        value = denoiser.noise_end.log_density(latent) + integral + data[0].numel() * float(a.log())
        return LogDensity(value=value, nfe=calls.samples / len(data))

    def _on_path(self, denoiser: Denoiser, start: float | None) -> tuple[Denoiser, float]:
        """Return the denoiser on the path of integration, and the time where the integration starts."""
        low, high = ends(denoiser, start)
        if self.path == "unit_variance" and denoiser.can_change_schedule:
            path = UnitVariance.between(low, high, denoiser.spec.std, denoiser.prior.std)
            denoiser = denoiser.on_schedule(path)
            return denoiser, denoiser.t_min
        t_min = denoiser.schedule.time_of_log_nsr(torch.tensor(low, dtype=torch.float64))
        return denoiser, max(float(t_min), denoiser.t_min)

    def _divergence(self, data: Tensor, seed: int, indices: Sequence[int], repeat: int) -> Divergence:
        """Return the divergence, with the probes of this batch for Hutchinson's estimate."""
        if self.divergence == "exact":
            return Exact(chunk=self.chunk)
        shape, first = tuple(data.shape[1:]), repeat * self.probes
        draws = [PROBES[self.probe](seed, indices, shape, Purpose.PROBE, first + k) for k in range(self.probes)]
        return Hutchinson(torch.stack(draws).to(data))

    def _integrate(
        self, denoiser: Denoiser, divergence: Divergence, x: Tensor, shape: tuple[int, ...], t_min: float
    ) -> Tensor:
        """Return the state (x, integral of div u), (B, d + 1), at t_max from its value ``x`` at t_min."""

        def field_of(rows: Tensor) -> Field:
            return _augmented(denoiser.select(rows), divergence.select(rows), shape)

        flow = OdeMap(solver=self.solver, steps=self.moves, grid=self.grid, rtol=self.rtol, atol=self.atol)
        return flow.carry(field_of, x, denoiser.schedule, t_min, denoiser.t_max)


def _augmented(denoiser: Denoiser, divergence: Divergence, shape: tuple[int, ...]) -> Field:
    """Return the field of the state (x, integral of div u), flattened to (B, d + 1)."""

    def derivative(state: Tensor, t: Tensor) -> Tensor:
        u, div = divergence(denoiser.velocity, state[:, :-1].reshape(-1, *shape), t)
        return torch.cat([u.flatten(1), div[:, None]], 1)

    return derivative

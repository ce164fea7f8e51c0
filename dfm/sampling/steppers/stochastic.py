"""Steppers with fresh noise: the reverse SDE, churn, and Langevin corrections."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor

from dfm.basics.errors import UserError
from dfm.basics.per_sample import per_sample
from dfm.denoising.denoiser import Denoiser
from dfm.paths.formulas import Formula
from dfm.paths.schedule import Schedule
from dfm.sampling.steppers.base import OdeStepper, Stepper, Trajectory
from dfm.sampling.steppers.ode import Heun

EDGE = 1e-12
Strength = float | str | Callable[[Tensor], Tensor]


def check_strength(strength: Strength, where: str) -> None:
    """Refuse a value that is not a strength of noise.

    Args:
        where: the name of the setting's owner in messages.

    Raises:
        UserError: a negative number, or a text that is not a formula of t, nsr and g.
    """
    if isinstance(strength, str):
        Formula(strength, ("t", "nsr", "g"), f"{where}.strength")
    elif not callable(strength) and not strength >= 0:
        raise UserError(f"{where}: strength={strength}; allowed: a number of at least 0, or a formula of t, nsr and g")


def strength_at(strength: Strength, schedule: Schedule, t: Tensor) -> Tensor:
    """Return the strength w(t)/g(t) at time t, float64 ().

    Args:
        strength: a number, a formula of t, nsr and g, or a function of t.

    Raises:
        UserError: the strength is negative at t.
    """
    if isinstance(strength, str):
        nsr, g = schedule.log_nsr(t).exp(), schedule.diffusion_squared(t).sqrt()
        value = Formula(strength, ("t", "nsr", "g"))(t=t, nsr=nsr, g=g)
    else:
        value = strength(t) if callable(strength) else torch.tensor(float(strength), dtype=torch.float64)
    if not bool(value >= 0):
        raise UserError(f"strength={strength} is {float(value):g} at t={float(t):g}; allowed: at least 0")
    return value


@dataclass(frozen=True, kw_only=True)
class EulerMaruyama(Stepper):
    """The reverse SDE dx = (u - w^2/2 score) dt + w dB_reverse with w = strength * g; one evaluation.

    The marginals are the same for every w(t) >= 0. Strength 1 is the time reversal (Anderson 1982; the lecture's eq.
    4), strength 0 the ODE.

    Args:
        strength: a number, a formula of t, nsr and g (``1/g`` gives w = 1), or, from Python, a function of t.
    """

    order: ClassVar[int] = 1
    strength: Strength = 1.0

    def __post_init__(self) -> None:
        check_strength(self.strength, "euler_maruyama")

    @property
    def stochastic(self) -> bool:
        return self.strength != 0

    def move(self, denoiser: Denoiser, x: Tensor, t: Tensor, s: Tensor, trajectory: Trajectory) -> Tensor:
        velocity, score = denoiser.velocity_and_score(x, t)
        w_squared = strength_at(self.strength, denoiser.schedule, t) ** 2 * denoiser.schedule.diffusion_squared(t)
        drift = velocity - per_sample(w_squared / 2, x) * score
        return x + float(s - t) * drift + per_sample((w_squared * (t - s)).sqrt(), x) * trajectory.noise()


@dataclass(frozen=True, kw_only=True)
class Churn(Stepper):
    """Churn: add noise before each move, then make a move of the ODE (Karras et al. 2022, algorithm 2).

    The noise multiplies nsr by 1 + gamma, with gamma = min(churn/N, sqrt2 - 1) where nsr is inside the window, else 0.
    With gamma = 0 the move equals the ODE's bit for bit. In nsr the rule is the same on every schedule: x/a gets noise
    of variance (nsr_new^2 - nsr^2) s_noise^2.

    As in the paper, N is the number of noise levels: the moves and the last denoising, which is the paper's move to
    nsr = 0. Noise is added at each of the N levels inside the window, the first and the last included. At the first
    one, nsr goes above that of t_max. A schedule that is known up to t_max only (``ddpm``, ``custom``) stays there.

    Args:
        churn: S_churn in the paper.
        nsr_min, nsr_max: the window, S_tmin and S_tmax in the paper.
        s_noise: a factor of the added noise.
        ode: the stepper that makes the move of the ODE.

    Raises:
        UserError: a number is negative.
    """

    order: ClassVar[int] = 2
    churn: float = 40.0
    nsr_min: float = 0.05
    nsr_max: float = 50.0
    s_noise: float = 1.003
    ode: OdeStepper = field(default_factory=Heun)

    def __post_init__(self) -> None:
        if not min(self.churn, self.nsr_min, self.nsr_max, self.s_noise) >= 0:
            raise UserError(
                f"churn={self.churn}, nsr_min={self.nsr_min}, nsr_max={self.nsr_max}, s_noise={self.s_noise}; "
                "allowed: numbers of at least 0"
            )

    @property
    def stochastic(self) -> bool:
        return self.churn > 0

    def move(self, denoiser: Denoiser, x: Tensor, t: Tensor, s: Tensor, trajectory: Trajectory) -> Tensor:
        x, t = self._add_noise(denoiser, x, t, trajectory)
        return self.ode.step(denoiser.velocity, x, t, s)

    def end(self, denoiser: Denoiser, x: Tensor, t: Tensor, trajectory: Trajectory) -> Tensor:
        return denoiser.data(*self._add_noise(denoiser, x, t, trajectory))

    def _add_noise(self, denoiser: Denoiser, x: Tensor, t: Tensor, trajectory: Trajectory) -> tuple[Tensor, Tensor]:
        """Return x with more noise, and the time at which it has that much; both unchanged outside the window."""
        schedule, log_nsr = denoiser.schedule, denoiser.schedule.log_nsr(t)
        gamma = min(self.churn / (trajectory.steps + 1), math.sqrt(2) - 1)
        if gamma > 0:
            denoiser.require_linear_path("sampler=churn")
        nsr = float(log_nsr.exp())  # an edge of the window may be a level of the grid, known to rounding only
        if gamma == 0 or not self.nsr_min * (1 - EDGE) <= nsr <= self.nsr_max * (1 + EDGE):
            return x, t
        t_up = schedule.time_of_log_nsr(log_nsr + math.log1p(gamma))
        (a, b), (a_up, b_up) = schedule.ab(t), schedule.ab(t_up)
        std = a_up * ((b_up / a_up) ** 2 - (b / a) ** 2).clamp_min(0).sqrt() * self.s_noise
        return x * float(a_up / a) + float(std) * trajectory.noise(), t_up


@dataclass(frozen=True, kw_only=True)
class KeepRatio(Stepper):
    """A move that keeps x/a while the noise level falls: the predictor of annealed Langevin dynamics."""

    order: ClassVar[int] = 0

    def move(self, denoiser: Denoiser, x: Tensor, t: Tensor, s: Tensor, trajectory: Trajectory) -> Tensor:
        return x * float(denoiser.schedule.ab(s)[0] / denoiser.schedule.ab(t)[0])


@dataclass(frozen=True, kw_only=True)
class PredictorCorrector(Stepper):
    """A predictor's move to s, then Langevin steps x + e score + sqrt(2 e) z at s (Song et al. 2021, algorithm 1).

    The size e of a correction is ``step`` b^2, or 2 snr^2 b^2. Song et al. use e = 2 (snr |z|/|score|)^2 with norms
    averaged over the batch; for pure noise |z|/|score| = b, which gives 2 snr^2 b^2. With a norm over the batch, a
    sample would depend on the others; with a norm of each sample, e becomes very large where the score is small.

    Args:
        predictor: any stepper. With ``KeepRatio`` only the corrections remain: annealed Langevin dynamics (Song and
            Ermon 2019).
        corrections: the number of Langevin steps per move.
        snr, step: the size of a correction; exactly one of the two is set.

    Raises:
        UserError: snr or step is not above 0, both or neither are set, or corrections is negative.
    """

    order: ClassVar[int] = 1
    predictor: Stepper = field(default_factory=EulerMaruyama)
    corrections: int = 1
    snr: float | None = 0.16
    step: float | None = None

    def __post_init__(self) -> None:
        size = self.snr if self.step is None else self.step
        if (self.snr is None) == (self.step is None) or size is None or not (size > 0 and self.corrections >= 0):
            raise UserError(
                f"predictor_corrector: corrections={self.corrections}, snr={self.snr}, step={self.step}; allowed: "
                "corrections at least 0, and one of snr and step above 0, the other null"
            )

    @property
    def stochastic(self) -> bool:
        return self.corrections > 0 or self.predictor.stochastic

    def move(self, denoiser: Denoiser, x: Tensor, t: Tensor, s: Tensor, trajectory: Trajectory) -> Tensor:
        x = self.predictor.move(denoiser, x, t, s, trajectory)
        size = (2 * self.snr**2 if self.snr is not None else self.step or 0.0) * float(denoiser.schedule.ab(s)[1]) ** 2
        for _ in range(self.corrections):
            x = x + size * denoiser.score(x, s) + math.sqrt(2 * size) * trajectory.noise()
        return x

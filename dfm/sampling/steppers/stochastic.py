"""Steps with fresh noise: the reverse SDE, churn, and Langevin corrections."""

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

Strength = float | str | Callable[[Tensor], Tensor]


def checked_strength(strength: Strength, where: str) -> None:
    """Refuse what is no strength of noise.

    Raises:
        UserError: a negative number, or a text that is no formula of t, nsr and g.
    """
    if isinstance(strength, str):
        Formula(strength, ("t", "nsr", "g"), f"{where}.strength")
    elif not callable(strength) and not strength >= 0:
        raise UserError(f"{where}: strength={strength}; allowed: a number of at least 0, or a formula of t, nsr and g")


def strength_at(strength: Strength, schedule: Schedule, t: Tensor) -> Tensor:
    """w(t)/g(t), float64 (): a number, a formula of t, nsr and g, or a function of t.

    Raises:
        UserError: it is negative there.
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
    """dx = (u - w^2/2 score) dt + w dB_reverse with w = strength * g: one evaluation.

    Any w(t) >= 0 keeps the marginals: strength 1 is the time reversal (Anderson 1982; the lecture's eq. 4), 0 the ODE.

    Args:
        strength: a number, a formula of t, nsr and g (``1/g`` makes w = 1), or from Python a function of t.
    """

    order: ClassVar[int] = 1
    strength: Strength = 1.0

    def __post_init__(self) -> None:
        checked_strength(self.strength, "euler_maruyama")

    @property
    def stochastic(self) -> bool:
        return self.strength != 0

    def move(self, denoiser: Denoiser, x: Tensor, t: Tensor, s: Tensor, trip: Trajectory) -> Tensor:
        velocity, score = denoiser.velocity_and_score(x, t)
        w_squared = strength_at(self.strength, denoiser.schedule, t) ** 2 * denoiser.schedule.diffusion_squared(t)
        drift = velocity - per_sample(w_squared / 2, x) * score
        return x + float(s - t) * drift + per_sample((w_squared * (t - s)).sqrt(), x) * trip.noise()


@dataclass(frozen=True, kw_only=True)
class Churn(Stepper):
    """Noise is raised before each step, by a factor 1 + gamma of nsr, then the ODE is followed (Karras et al., alg. 2).

    gamma = min(churn/N, sqrt2 - 1) while nsr is inside the window, else 0: then the step is the ODE's bit for bit. In
    nsr the rule is the same on every schedule: x/a gains noise of variance (nsr_new^2 - nsr^2) s_noise^2.

    Args:
        churn: S_churn.
        nsr_min, nsr_max: the window, S_tmin and S_tmax.
        s_noise: inflation of the added noise.
        ode: the step that follows.

    Raises:
        UserError: a negative number.
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

    def move(self, denoiser: Denoiser, x: Tensor, t: Tensor, s: Tensor, trip: Trajectory) -> Tensor:
        schedule, level = denoiser.schedule, denoiser.schedule.log_nsr(t)
        gamma = min(self.churn / trip.steps, math.sqrt(2) - 1)
        if gamma > 0:
            denoiser.require_linear_path("sampler=churn")
        if gamma > 0 and self.nsr_min <= float(level.exp()) <= self.nsr_max and float(t) < denoiser.t_max:
            raised = schedule.time_of_log_nsr(level + math.log1p(gamma)).clamp_max(denoiser.t_max)
            (a, b), (a_up, b_up) = schedule.ab(t), schedule.ab(raised)
            added = a_up * ((b_up / a_up) ** 2 - (b / a) ** 2).sqrt() * self.s_noise
            x, t = x * float(a_up / a) + float(added) * trip.noise(), raised
        return self.ode.step(denoiser.velocity, x, t, s)


@dataclass(frozen=True, kw_only=True)
class KeepRatio(Stepper):
    """x/a stays as it is while the level of noise falls: the move of annealed Langevin dynamics."""

    order: ClassVar[int] = 0

    def move(self, denoiser: Denoiser, x: Tensor, t: Tensor, s: Tensor, trip: Trajectory) -> Tensor:
        return x * float(denoiser.schedule.ab(s)[0] / denoiser.schedule.ab(t)[0])


@dataclass(frozen=True, kw_only=True)
class PredictorCorrector(Stepper):
    """A predictor's move to s, then Langevin steps x + e score + sqrt(2 e) z there (Song et al. 2021, algorithm 1).

    The size e of a correction is ``step`` b^2, or 2 snr^2 b^2: Song et al. take e = 2 (snr |z|/|score|)^2 with norms
    averaged over the batch, and this is its value for the norms of pure noise, |z|/|score| = b. A norm of the batch
    would make samples depend on their neighbours; one of each sample explodes where its score is small.

    Args:
        predictor: any stepper; ``KeepRatio`` leaves the corrections alone: annealed Langevin (Song and Ermon 2019).
        corrections: Langevin steps a move.
        snr, step: exactly one of the two.

    Raises:
        UserError: a number that is not positive, or both or neither of snr and step.
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

    def move(self, denoiser: Denoiser, x: Tensor, t: Tensor, s: Tensor, trip: Trajectory) -> Tensor:
        x = self.predictor.move(denoiser, x, t, s, trip)
        size = (2 * self.snr**2 if self.snr is not None else self.step or 0.0) * float(denoiser.schedule.ab(s)[1]) ** 2
        for _ in range(self.corrections):
            x = x + size * denoiser.score(x, s) + math.sqrt(2 * size) * trip.noise()
        return x

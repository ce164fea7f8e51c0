"""Progressive distillation: each round halves the number of steps (Salimans and Ho 2022)."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from dfm.basics.errors import UserError
from dfm.basics.per_sample import per_sample
from dfm.denoising.network_denoiser import NetworkDenoiser
from dfm.denoising.predictions import noise_at
from dfm.paths.schedule import weighted_sum
from dfm.sampling.grids import Grid, NoiseShareGrid
from dfm.training.few_steps.rounds import TaughtInRounds, TeacherRounds, round_of
from dfm.training.objectives.base import Loss, Outcome, draw_noise
from dfm.training.objectives.regression import refuse_latent


@dataclass(frozen=True, kw_only=True)
class Progressive(TaughtInRounds):
    """A student whose N steps do what 2N steps of its teacher do, N = start/2, start/4, ..., steps.

    From x_t at the i-th of the N times the teacher takes two steps of DDIM, to x_s. The student's target (x~, e~) is
    the data and noise whose single step leads to the same point:

        a_t x~ + b_t e~ = x_t,   a_s x~ + b_s e~ = x_s,   so   x~ = (x_s - (b_s/b_t) x_t)/(a_s - (b_s/b_t) a_t)

    The last of the N steps leads to the data (a_s = 1, b_s = 0). The loss is the regression's with (x~, e~) in the
    place of data and noise. For the velocity on the linear schedule the weight of |D - x~|^2 is then 1/b^2, near the
    paper's 1 + a^2/b^2. (Salimans and Ho 2022, algorithm 2 and appendix G.)

    Args:
        density: only its ``stratified`` counts: the N steps are drawn with equal chances.
        coupling: the coupling with which the teacher was trained.
        start: number of steps of the first teacher, which must give good samples with so many.
        steps: number of steps of the last student; start/steps is a power of two, at least 2.
        grid: gives the times of the teacher; every second one is a time of the student.

    Raises:
        UserError: start/steps is no such power, or the density adapts to the loss.
    """

    start: int = 32
    steps: int = 1
    grid: Grid = field(default_factory=NoiseShareGrid)

    def __post_init__(self) -> None:
        if self.density.memory() is not None:
            raise UserError("objective progressive: its times are fixed; allowed: density=uniform")
        ratio = self.start / self.steps if self.steps > 0 else 0
        if ratio < 2 or not math.log2(ratio).is_integer():
            raise UserError(
                f"objective progressive: start={self.start}, steps={self.steps}; allowed: start/steps 2, 4, 8, ...; "
                "try objective.start=32 objective.steps=1"
            )
        super().__post_init__()

    def make_rounds(self) -> TeacherRounds:
        return TeacherRounds(round(math.log2(self.start / self.steps)))

    def outcome(self, state: Mapping[str, Tensor]) -> Outcome:
        number = round_of(state)
        steps = self.steps if number is None else self.start >> (number + 1)
        return Outcome(has_ode=False, few_steps=True, steps=steps)

    def levels_of_jumps(self, u: Tensor, denoiser: NetworkDenoiser) -> Tensor:
        return self.teacher_times(denoiser)[2 * self._step(u)]

    def count(self) -> int:
        """Return N, the number of the student's steps in this round."""
        return self.start >> (self.rounds.number + 1)

    def loss(self, denoiser: NetworkDenoiser, data: Tensor, generator: torch.Generator, progress: float = 1.0) -> Loss:
        refuse_latent(denoiser)
        u = self.density.uniforms(len(data), generator)
        noise = draw_noise(denoiser, data, generator)
        data, noise = self.coupling.pair(data, noise, denoiser.label, generator)
        step = self._step(u)
        t, x = self.noisy(denoiser, data, noise, step)
        out = denoiser.output(x, t)
        with torch.no_grad():
            data, noise = self.target(self.teacher.as_denoiser(denoiser), x, step)
        error = self.row_error(denoiser, out, data, noise, t)
        return Loss(value=self.uncertainty(error, denoiser.trained_schedule.log_nsr(t)), error=error, u=u)

    def _step(self, u: Tensor) -> Tensor:
        return (u * self.count()).long().clamp_max(self.count() - 1)

    def teacher_times(self, denoiser: NetworkDenoiser) -> Tensor:
        """Return the 2N times at which the teacher is called, float64, decreasing."""
        path = denoiser.trained_schedule
        return self.grid.times(2 * self.count(), path, path.t_min, path.t_max)[:-1]

    def noisy(self, denoiser: NetworkDenoiser, data: Tensor, noise: Tensor, step: Tensor) -> tuple[Tensor, Tensor]:
        """Return (t, x_t) at the starts of the student's steps ``step``, int64 (B,)."""
        t = self.teacher_times(denoiser).to(step.device)[2 * step]
        return t, denoiser.trained_schedule.mix(data, noise, t)

    def target(self, teacher: NetworkDenoiser, x: Tensor, step: Tensor) -> tuple[Tensor, Tensor]:
        """Return (x~, e~) for x_t at the starts of the student's steps ``step``, int64 (B,)."""
        path, times = teacher.trained_schedule, self.teacher_times(teacher).to(step.device)
        t, middle = times[2 * step], times[2 * step + 1]
        half = teacher.jump(x, t, middle)
        data, noise = teacher.expectations(half, middle)
        last = step == self.count() - 1
        a_s, b_s = path.ab(times[(2 * step + 2).clamp_max(len(times) - 1)])
        a_s, b_s = torch.where(last, 1.0, a_s), torch.where(last, 0.0, b_s)
        a_t, b_t = path.ab(t)
        x_s = weighted_sum((a_s, b_s), data, noise)
        data = (x_s - per_sample(b_s / b_t, x) * x) / per_sample(a_s - b_s / b_t * a_t, x)
        return data, noise_at(x, data, (a_t, b_t))

"""Reflow: flow matching on pairs that a teacher's own ODE makes (Liu et al. 2023, rectified flow).

No two paths of one ODE cross, so the flow learned from its pairs is straighter than the teacher's, and its cost in
transport is no higher; the straighter it is, the fewer steps it needs. Once it is straight enough, a last round learns
the jump from noise to data alone.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from typing import ClassVar

import torch
from torch import Tensor

from dfm.basics.errors import UserError
from dfm.denoising.network_denoiser import NetworkDenoiser
from dfm.paths.interpolating import Linear
from dfm.sampling.draw import check_labels
from dfm.sampling.grids import UniformGrid
from dfm.sampling.samplers import GridSampler, start
from dfm.sampling.steppers.ode import Euler
from dfm.training.few_steps.reflow_pairs import Pairs, fingerprint, make_pairs, read_pairs, write_pairs
from dfm.training.few_steps.rounds import TaughtInRounds, TeacherRounds, round_of
from dfm.training.objectives.base import Loss, Outcome


@torch.no_grad()
def straightness(denoiser: NetworkDenoiser, n: int, steps: int, seed: int, device: torch.device) -> float:
    """S = E int_0^1 |(x_1 - x_0) - u(x_t, t)|^2 dt / d along the denoiser's own ODE (Liu et al. 2023).

    Zero means that one jump is exact. x_t is followed on the linear path, where the flow of pairs is straight, whatever
    path the model was trained on; its time is scaled to [0, 1]. ``steps`` steps of Euler's method from n latents, the
    mean over the places they visit.
    """
    denoiser = denoiser.on_schedule(Linear())
    labels = check_labels(denoiser.spec, None, range(n))
    given = denoiser.with_labels(None if labels is None else labels.to(device))
    sampler = GridSampler(stepper=Euler(), steps=steps, grid=UniformGrid())
    states = [start(denoiser, seed, range(n), device)]
    states += [x for x, _ in sampler.path(given, states[0], seed, range(n))]
    speed = (states[-1] - states[0]).double()
    legs = [steps * (after - before).double() for before, after in pairwise(states)]
    return float(torch.stack([(speed - leg).square().mean() for leg in legs]).mean())


@dataclass(frozen=True, kw_only=True)
class Reflow(TaughtInRounds):
    """k rounds of flow matching on the pairs of the student of the round before, then one of distillation.

    In round r the loss is the regression's at x_t = a data + b noise with (noise, data) a pair of the round's teacher;
    in the last round, if ``one_step``, t is t_max: the network learns the jump from noise to data alone and has no ODE
    any more. The batches of the data set give no more than their classes.

    Args:
        k: rounds of reflow; 0: only the last.
        n, solver_steps, seed: pairs a round, steps of Heun's method that make them, and the seed of their noise.

    Raises:
        UserError: no round, or n or solver_steps below 1.
    """

    k: int = 1
    one_step: bool = True
    n: int = 4096
    solver_steps: int = 18
    seed: int = 0
    held: dict[int, Pairs] = field(init=False, repr=False, compare=False, default_factory=dict)

    own_pairs: ClassVar[bool] = True
    validates: ClassVar[bool] = False  # held-out data have no part in its loss

    def __post_init__(self) -> None:
        if not self.coupling.independent:
            raise UserError("objective reflow: its pairs are the teacher's; allowed: coupling=independent")
        if self.k < 0 or self.k + self.one_step < 1 or min(self.n, self.solver_steps) < 1:
            raise UserError(
                f"objective reflow: k={self.k}, one_step={self.one_step}, n={self.n}, "
                f"solver_steps={self.solver_steps}; allowed: at least one round, and n and solver_steps from 1"
            )
        super().__post_init__()

    def make_rounds(self) -> TeacherRounds:
        return TeacherRounds(self.k + self.one_step, self._start_round, self._measure_at_end)

    def outcome(self, state: Mapping[str, Tensor]) -> Outcome:
        last = round_of(state) in (None, self.rounds.count - 1)
        steps = 1 if self.one_step and last else None
        return Outcome(has_ode=not self.one_step, independent=False, few_steps=True, steps=steps)

    def _start_round(self, teacher: NetworkDenoiser, number: int) -> dict[str, float]:
        self.held.clear()
        straightness = self.measure(teacher)
        self.pairs(teacher)
        return {"round": number, "straightness": straightness}

    def measure(self, denoiser: NetworkDenoiser) -> float:
        """Return the straightness of a denoiser, by 100 steps from 256 latents."""
        device = next(denoiser.module().parameters()).device
        return straightness(denoiser, min(self.n, 256), 100, self.seed, device)

    def _measure_at_end(self, denoiser: NetworkDenoiser) -> dict[str, float]:
        return {} if self.one_step else {"round": self.rounds.count, "straightness": self.measure(denoiser)}

    def pairs(self, teacher: NetworkDenoiser) -> Pairs:
        """The pairs of the round: from memory, from the run directory, or made."""
        number = int(self.teacher.round)
        if number not in self.held:
            device = next(teacher.module().parameters()).device
            self.held[number] = self._kept(teacher, number, device).to(device)
        return self.held[number]

    def _kept(self, teacher: NetworkDenoiser, number: int, device: torch.device) -> Pairs:
        if self.rounds.directory is None:
            return make_pairs(teacher, self.n, self.solver_steps, self.seed, device)
        path = self.rounds.directory / "pairs" / f"round_{number}.safetensors"
        origin = {"teacher": fingerprint(teacher), "n": str(self.n), "steps": str(self.solver_steps)}
        origin.update(seed=str(self.seed), classes=str(teacher.spec.num_classes))
        found = read_pairs(path, origin)
        if found is None:
            found = make_pairs(teacher, self.n, self.solver_steps, self.seed, device)
            path.parent.mkdir(parents=True, exist_ok=True)
            write_pairs(path, found, origin)
        return found

    def loss(self, denoiser: NetworkDenoiser, data: Tensor, generator: torch.Generator, progress: float = 1.0) -> Loss:
        pairs = self.pairs(self.teacher.as_denoiser(denoiser))
        picked = pairs.draw(denoiser.label, len(data), generator).to(data.device)
        u = self.density.uniforms(len(data), generator)
        last = self.one_step and int(self.teacher.round) == self.rounds.count - 1
        t = (
            torch.full_like(u, denoiser.trained_schedule.t_max)
            if last
            else self.density.time(u, denoiser.trained_schedule)
        )
        error = self.at(denoiser, pairs.data.to(data)[picked], pairs.noise.to(data)[picked], t)
        factor = 1.0 if last else self.density.importance(u).to(error)
        return Loss(value=self.uncertainty(error, denoiser.trained_schedule.log_nsr(t)) * factor, error=error, u=u)

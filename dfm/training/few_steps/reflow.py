"""Reflow: flow matching on pairs that a teacher's ODE makes (Liu et al. 2023, rectified flow).

Two solutions of one ODE never cross. So the flow that is learned from the ODE's pairs is straighter than the teacher's,
and its transport cost is no higher. The straighter it is, the fewer steps it needs. When it is straight enough, a last
round learns only the jump from noise to data.
"""

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from typing import ClassVar

import torch
from torch import Tensor

from dfm.basics.errors import UserError
from dfm.denoising.arguments import device_of
from dfm.denoising.network_denoiser import NetworkDenoiser
from dfm.paths.interpolating import Linear
from dfm.sampling.grids import UniformGrid
from dfm.sampling.labels import in_turn
from dfm.sampling.samplers import GridSampler, start
from dfm.sampling.steppers.ode import Euler
from dfm.training.few_steps.reflow_pairs import Pairs, fingerprint, make_pairs, read_pairs, write_pairs
from dfm.training.few_steps.rounds import TaughtInRounds, TeacherRounds, round_of
from dfm.training.objectives.base import Loss, Outcome

log = logging.getLogger("dfm")


@torch.no_grad()
def straightness(denoiser: NetworkDenoiser, n: int, steps: int, seed: int, device: torch.device) -> float:
    """Return S = E int_0^1 |(x_1 - x_0) - u(x_t, t)|^2 dt / d along the denoiser's ODE (Liu et al. 2023).

    S = 0 means that one jump is exact. We solve the ODE on the linear path, on which the flow of the pairs is straight,
    for a model trained on any path; the time is scaled to [0, 1].

    Args:
        n: number of latents, numbered 0 .. n-1.
        steps: number of steps of Euler's method; S is the mean over all of them.
        seed: of the latents.
        device: on which the ODE is solved.
    """
    labels = in_turn(denoiser.spec, range(n))
    denoiser = denoiser.on_schedule(Linear()).with_labels(None if labels is None else labels.to(device))
    sampler = GridSampler(stepper=Euler(), steps=steps, grid=UniformGrid())
    states = [start(denoiser, seed, range(n), device)]
    states += [x for x, _ in sampler.path(denoiser, states[0], seed, range(n))]
    whole = (states[-1] - states[0]).double()
    velocities = [steps * (after - before).double() for before, after in pairwise(states)]
    return float(torch.stack([(whole - velocity).square().mean() for velocity in velocities]).mean())


@dataclass(frozen=True, kw_only=True)
class Reflow(TaughtInRounds):
    """Flow matching on the teacher's pairs in k rounds, and one round of distillation if ``one_step``.

    The loss is the regression's at x_t = a data + b noise, where (noise, data) is a pair of the round's teacher. In the
    round of distillation t is t_max: the network learns only the jump from noise to data and has no ODE afterwards. The
    batches of the data set give the classes and nothing else.

    Args:
        k: number of rounds of reflow; 0: the distillation alone.
        one_step: whether a round of distillation follows.
        n: number of pairs in a round.
        solver_steps: number of steps of Heun's method that make a pair.
        seed: of the noise of the pairs.

    Raises:
        UserError: there is no round, n or solver_steps is below 1, or the coupling is not independent.
    """

    k: int = 1
    one_step: bool = True
    n: int = 4096
    solver_steps: int = 18
    seed: int = 0
    pairs_of_round: dict[int, Pairs] = field(init=False, repr=False, compare=False, default_factory=dict)

    own_pairs: ClassVar[bool] = True
    validates: ClassVar[bool] = False  # its loss does not use held-out data

    def __post_init__(self) -> None:
        if not self.coupling.independent:
            raise UserError("objective reflow: the teacher makes the pairs; allowed: coupling=independent")
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

    def levels_of_jumps(self, u: Tensor, denoiser: NetworkDenoiser) -> Tensor:
        path = denoiser.trained_schedule
        return torch.full_like(u, path.t_max) if self.one_step else self.density.time(u, path)

    def _start_round(self, teacher: NetworkDenoiser, number: int) -> dict[str, float]:
        self.pairs_of_round.clear()
        straightness = self.measure(teacher)
        self.pairs(teacher)
        return {"round": number, "straightness": straightness}

    def measure(self, denoiser: NetworkDenoiser) -> float:
        """Return the straightness of a denoiser, with 100 steps from at most 256 latents."""
        return straightness(denoiser, min(self.n, 256), 100, self.seed, device_of(denoiser))

    def _measure_at_end(self, denoiser: NetworkDenoiser) -> dict[str, float]:
        return {} if self.one_step else {"round": self.rounds.count, "straightness": self.measure(denoiser)}

    def pairs(self, teacher: NetworkDenoiser) -> Pairs:
        """Return the pairs of the round: from memory, from the run directory, or new ones."""
        number = int(self.teacher.round)
        if number not in self.pairs_of_round:
            self.pairs_of_round[number] = self._read_or_make(teacher, number).to(device_of(teacher))
        return self.pairs_of_round[number]

    def _read_or_make(self, teacher: NetworkDenoiser, number: int) -> Pairs:
        """Return the pairs of a round from the run directory; make and store them if it has none."""
        if self.rounds.directory is None:
            return make_pairs(teacher, self.n, self.solver_steps, self.seed, device_of(teacher))
        file = self.rounds.directory / "pairs" / f"round_{number}.safetensors"
        origin = {"teacher": fingerprint(teacher), "n": str(self.n), "steps": str(self.solver_steps)}
        origin.update(seed=str(self.seed), classes=str(teacher.spec.num_classes))
        pairs = read_pairs(file, origin)
        if pairs is None:
            pairs = make_pairs(teacher, self.n, self.solver_steps, self.seed, device_of(teacher))
            try:
                file.parent.mkdir(parents=True, exist_ok=True)
                write_pairs(file, pairs, origin)
            except OSError as error:  # a resumed run makes the same pairs again
                log.warning(f"{file} not written ({error.strerror or error}); the run goes on with its pairs in memory")
        return pairs

    def loss(self, denoiser: NetworkDenoiser, data: Tensor, generator: torch.Generator, progress: float = 1.0) -> Loss:
        path, pairs = denoiser.trained_schedule, self.pairs(self.teacher.as_denoiser(denoiser))
        numbers = pairs.draw(denoiser.label, len(data), generator).to(data.device)
        u = self.density.uniforms(len(data), generator)
        jump = self.one_step and int(self.teacher.round) == self.rounds.count - 1
        t = torch.full_like(u, path.t_max) if jump else self.density.time(u, path)
        error = self.errors_at(denoiser, pairs.data.to(data)[numbers], pairs.noise.to(data)[numbers], t)
        factor = 1.0 if jump else self.density.importance(u).to(error)
        return Loss(value=self.uncertainty(error, path.log_nsr(t)) * factor, error=error, u=u)

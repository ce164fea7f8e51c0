"""Reflow: flow matching on pairs that a teacher's own ODE makes (Liu et al. 2023, rectified flow).

No two paths of one ODE cross, so the flow learned from its pairs is straighter than the teacher's, and its cost in
transport is no higher; the straighter it is, the fewer steps it needs. Once it is straight enough, a last round learns
the jump from noise to data alone.
"""

import hashlib
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from dfm.distillation import Taught
from dfm.errors import UserError
from dfm.grids import Rho, Uniform
from dfm.networks import NetworkDenoiser
from dfm.objectives import Loss
from dfm.run_dir import write_atomically
from dfm.samplers import GridSampler, start
from dfm.sampling import checked_labels
from dfm.steppers import Euler, Heun

BATCH = 256


@dataclass(frozen=True, kw_only=True)
class Pairs:
    """Data (n, *D), the noise (n, *D), in the prior's unit, that they were made of, and classes (n,) or None."""

    data: Tensor
    noise: Tensor
    labels: Tensor | None

    def to(self, device: torch.device) -> "Pairs":
        """The same on a device."""
        labels = None if self.labels is None else self.labels.to(device)
        return replace(self, data=self.data.to(device), noise=self.noise.to(device), labels=labels)

    def draw(self, label: Tensor | None, count: int, generator: torch.Generator) -> Tensor:
        """Numbers of ``count`` pairs, of the classes ``label`` (int64) if these have any."""
        u = torch.rand(count, generator=generator, device=generator.device)
        if label is None or self.labels is None:
            return (u * len(self.data)).long().clamp_max(len(self.data) - 1)
        counts = torch.bincount(self.labels, minlength=int(label.max()) + 1)
        if int(counts[label].min()) == 0:
            raise UserError(f"objective reflow: n={len(self.data)} pairs are not one a class; try a larger objective.n")
        first = counts.cumsum(0) - counts
        return self.labels.argsort(stable=True)[first[label] + (u * counts[label]).long().clamp_max(counts[label] - 1)]


@torch.no_grad()
def made(teacher: NetworkDenoiser, n: int, steps: int, seed: int, device: torch.device) -> Pairs:
    """n pairs by Heun's method on the rho grid; pair k is a function of (teacher, seed, k)."""
    sampler = GridSampler(stepper=Heun(), steps=steps, grid=Rho())
    labels = checked_labels(teacher.spec, None, range(n))
    data, noise = [], []
    for first in range(0, n, BATCH):
        part = range(first, min(first + BATCH, n))
        x = start(teacher, seed, part, device)
        given = teacher.given(None if labels is None else labels[list(part)].to(device))
        data.append(sampler.run(given, x, seed, part).x.cpu())
        noise.append(teacher.to_latent(x).cpu())
    return Pairs(data=torch.cat(data), noise=torch.cat(noise), labels=labels)


@torch.no_grad()
def straightness(denoiser: NetworkDenoiser, n: int, steps: int, seed: int, device: torch.device) -> float:
    """S = E int_0^1 |(x_1 - x_0) - u(x_t, t)|^2 dt / d along the denoiser's own ODE (Liu et al. 2023, eq. 8).

    Zero means that one step of Euler's method is exact. Time is scaled to [0, 1]; the ODE is followed by ``steps``
    steps of Euler's method in the schedule's own time from n latents, and the mean is over the places it visits.
    """
    labels = checked_labels(denoiser.spec, None, range(n))
    given = denoiser.given(None if labels is None else labels.to(device))
    sampler = GridSampler(stepper=Euler(), steps=steps, grid=Uniform())
    states = [start(denoiser, seed, range(n), device)]
    states += [x for x, _ in sampler.path(given, states[0], seed, range(n))]
    speed = (states[-1] - states[0]).double()
    legs = [steps * (after - before).double() for before, after in pairwise(states)]
    return float(torch.stack([(speed - leg).square().mean() for leg in legs]).mean())


@dataclass(frozen=True, kw_only=True)
class Reflow(Taught):
    """k rounds of flow matching on the pairs of the student of the round before, then one of distillation.

    In round r the loss is the regression's at x_t = a data + b noise with (noise, data) a pair of the round's teacher;
    in the last round, if ``one_step``, t is t_max: the network learns the jump from noise to data alone and has no ODE
    any more. The batches of the data set give no more than their classes.

    Args:
        k: rounds of reflow; 0: only the last.
        n, solver_steps, seed: pairs a round, steps of Heun's method that make them, and the seed of their noise.
        directory: where they are kept, ``round_0.safetensors`` ...; None: in memory only.

    Raises:
        UserError: no round, or n or solver_steps below 1.
    """

    k: int = 1
    one_step: bool = True
    n: int = 4096
    solver_steps: int = 18
    seed: int = 0
    directory: Path | None = None
    held: dict[int, Pairs] = field(init=False, repr=False, compare=False, default_factory=dict)
    told: dict[str, float] = field(init=False, repr=False, compare=False, default_factory=dict)

    def __post_init__(self) -> None:
        if self.k < 0 or self.rounds < 1 or min(self.n, self.solver_steps) < 1:
            raise UserError(
                f"objective reflow: k={self.k}, one_step={self.one_step}, n={self.n}, "
                f"solver_steps={self.solver_steps}; allowed: at least one round, and n and solver_steps from 1"
            )

    @property
    def rounds(self) -> int:
        return self.k + self.one_step

    @property
    def has_ode(self) -> bool:
        return not self.one_step

    @property
    def independent(self) -> bool:
        return False

    def placed(self, directory: Path) -> "Reflow":
        return replace(self, directory=directory / "pairs")

    def began(self, teacher: NetworkDenoiser, number: int) -> None:
        self.held.clear()
        self.told.update(round=number, straightness=self.measure(teacher))
        self.pairs(teacher)

    def measure(self, denoiser: NetworkDenoiser) -> float:
        """Its straightness, with 100 steps from 256 latents."""
        device = next(denoiser.module().parameters()).device
        return straightness(denoiser, min(self.n, 256), 100, self.seed, device)

    def news(self) -> dict[str, float]:
        found = dict(self.told)
        self.told.clear()
        return found

    def closing(self, denoiser: NetworkDenoiser) -> dict[str, float]:
        return {} if self.one_step else {"round": self.rounds, "straightness": self.measure(denoiser)}

    def pairs(self, teacher: NetworkDenoiser) -> Pairs:
        """The pairs of the round: from memory, from the run directory, or made."""
        number = int(self.teacher.round)
        if number not in self.held:
            device = next(teacher.module().parameters()).device
            self.held[number] = self._kept(teacher, number, device).to(device)
        return self.held[number]

    def _kept(self, teacher: NetworkDenoiser, number: int, device: torch.device) -> Pairs:
        if self.directory is None:
            return made(teacher, self.n, self.solver_steps, self.seed, device)
        path = self.directory / f"round_{number}.safetensors"
        origin = {"teacher": fingerprint(teacher), "n": str(self.n), "steps": str(self.solver_steps)}
        origin["seed"] = str(self.seed)
        found = read_pairs(path, origin)
        if found is None:
            found = made(teacher, self.n, self.solver_steps, self.seed, device)
            path.parent.mkdir(parents=True, exist_ok=True)
            write_pairs(path, found, origin)
        return found

    def loss(self, denoiser: NetworkDenoiser, data: Tensor, generator: torch.Generator, progress: float = 1.0) -> Loss:
        pairs = self.pairs(self.teaching(denoiser))
        picked = pairs.draw(denoiser.label, len(data), generator).to(data.device)
        u = self.density.uniforms(len(data), generator)
        last = self.one_step and int(self.teacher.round) == self.rounds - 1
        t = torch.full_like(u, denoiser.trained.t_max) if last else self.density.time(u, denoiser.trained)
        error = self.at(denoiser, pairs.data.to(data)[picked], pairs.noise.to(data)[picked], t)
        factor = 1.0 if last else self.density.importance(u).to(error)
        return Loss(value=self.uncertainty(error, denoiser.trained.log_nsr(t)) * factor, error=error, u=u)


def fingerprint(denoiser: NetworkDenoiser) -> str:
    """SHA-256 of a network's weights."""
    digest = hashlib.sha256()
    for name, value in sorted(denoiser.module().state_dict().items()):
        digest.update(name.encode() + value.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def write_pairs(path: Path, pairs: Pairs, origin: dict[str, str]) -> None:
    """One safetensors file, atomically, that says what the pairs were made from."""
    tensors = {"data": pairs.data.contiguous(), "noise": pairs.noise.contiguous()}
    if pairs.labels is not None:
        tensors["labels"] = pairs.labels
    write_atomically(path, save(tensors, metadata=origin))


def read_pairs(path: Path, origin: dict[str, str]) -> Pairs | None:
    """The pairs in a file, or None if there is no whole one that was made from this."""
    try:
        with safe_open(path, framework="pt") as file:
            if file.metadata() != origin:
                return None
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError):
        return None
    return Pairs(data=tensors["data"], noise=tensors["noise"], labels=tensors.get("labels"))

"""Pairs from a teacher: noise, and the data that the teacher's ODE makes of it (Liu et al. 2023, rectified flow).

Trained on such pairs, flow matching gives straighter paths, since no two pairs of one ODE cross.
"""

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from dfm.api import load
from dfm.couplings import Coupling
from dfm.errors import UserError
from dfm.grids import Rho
from dfm.samplers import GridSampler, start
from dfm.sampling import checked_labels
from dfm.steppers import Heun


@dataclass(frozen=True, kw_only=True)
class TeacherPairs(Coupling):
    """(noise, teacher's data) in the place of the batch's own; classes stay those of the batch.

    The pairs are made once, at the first batch, and are a function of the arguments: a resumed run has the same ones.

    Args:
        ckpt: the teacher, as ``ckpt=`` everywhere.
        n: pairs.
        steps: of Heun's method on the rho grid, with which the teacher draws.
        seed: of the noise.

    Raises:
        UserError: n or steps below one; on use: no such checkpoint, or a teacher of other data.
    """

    ckpt: str | None
    n: int = 4096
    steps: int = 18
    seed: int = 0
    batch_size: int = 512

    def __post_init__(self) -> None:
        if min(self.n, self.steps, self.batch_size) < 1:
            raise UserError(
                f"coupling teacher: n={self.n}, steps={self.steps}, batch_size={self.batch_size}; allowed: at least 1"
            )

    @cached_property
    def pairs(self) -> tuple[Tensor, Tensor, Tensor | None]:
        """Data (n, *D), noise (n, *D) in the prior's unit, and classes (n,) or None."""
        if self.ckpt is None:
            raise UserError("coupling teacher: no checkpoint; try coupling.ckpt=RUN_DIR or coupling.ckpt=latest")
        teacher = load(self.ckpt)
        sampler = GridSampler(stepper=Heun(), steps=self.steps, grid=Rho())
        device = next(teacher.module().parameters()).device
        labels = checked_labels(teacher.spec, None, range(self.n))
        found = []
        with torch.no_grad():
            for first in range(0, self.n, self.batch_size):
                part = range(first, min(first + self.batch_size, self.n))
                x = start(teacher, self.seed, part, device)
                given = teacher.given(None if labels is None else labels[list(part)].to(device))
                found.append((sampler.run(given, x, self.seed, part).x, teacher.to_latent(x)))
        data, noise = (torch.cat(values) for values in zip(*found, strict=True))
        return data, noise, labels

    def partners(self, data: Tensor, noise: Tensor, label: Tensor | None, generator: torch.Generator) -> Tensor:
        """For each datum the number of a pair, of its class if it has one."""
        u = torch.rand(len(data), generator=generator, device=generator.device)
        known = self.pairs[2]
        if label is None or known is None:
            return (u * self.n).long().clamp_max(self.n - 1).to(data.device)
        order = known.argsort(stable=True).to(data.device)
        counts = torch.bincount(known).to(data.device)
        begin = counts.cumsum(0) - counts
        return order[begin[label] + (u * counts[label]).long().clamp_max(counts[label] - 1)]

    def pair(
        self, data: Tensor, noise: Tensor, label: Tensor | None, generator: torch.Generator
    ) -> tuple[Tensor, Tensor]:
        made, source, _ = self.pairs
        if made.shape[1:] != data.shape[1:]:
            raise UserError(
                f"coupling teacher: {self.ckpt} makes data of shape {tuple(made.shape[1:])}, here they are "
                f"{tuple(data.shape[1:])}"
            )
        picked = self.partners(data, noise, label, generator)
        return made.to(data)[picked], source.to(data)[picked]

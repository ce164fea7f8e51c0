"""Pairs of data and noise that a teacher's ODE makes, and the files that keep them."""

import hashlib
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from dfm.basics.errors import UserError
from dfm.basics.files import write_atomically
from dfm.basics.seeding import NumberedDraws, Purpose
from dfm.denoising.network_denoiser import NetworkDenoiser
from dfm.sampling.draw import check_labels
from dfm.sampling.grids import RhoGrid
from dfm.sampling.samplers import GridSampler
from dfm.sampling.steppers.ode import Heun

BATCH = 256


@dataclass(frozen=True, kw_only=True)
class Pairs:
    """Data (n, *D), the noise (n, *D), in the prior's unit, that they were made of, and classes (n,) or None."""

    data: Tensor
    noise: Tensor
    labels: Tensor | None
    num_classes: int = 0

    def to(self, device: torch.device) -> "Pairs":
        """The same on a device."""
        labels = None if self.labels is None else self.labels.to(device)
        return replace(self, data=self.data.to(device), noise=self.noise.to(device), labels=labels)

    def draw(self, label: Tensor | None, count: int, generator: torch.Generator) -> Tensor:
        """Numbers of ``count`` pairs, of the classes ``label`` (int64) if these have any; num_classes hides a class."""
        u = torch.rand(count, generator=generator, device=generator.device)
        any_of_all = (u * len(self.data)).long().clamp_max(len(self.data) - 1)
        if label is None or self.labels is None:
            return any_of_all
        counts = torch.bincount(self.labels, minlength=self.num_classes)
        if int(counts.min()) == 0:
            raise UserError(f"objective reflow: n={len(self.data)} pairs are not one a class; try a larger objective.n")
        hidden, c = label >= self.num_classes, label.clamp_max(self.num_classes - 1)
        first = counts.cumsum(0) - counts
        own = self.labels.argsort(stable=True)[first[c] + (u * counts[c]).long().clamp_max(counts[c] - 1)]
        return torch.where(hidden, any_of_all, own)


@torch.no_grad()
def make_pairs(teacher: NetworkDenoiser, n: int, steps: int, seed: int, device: torch.device) -> Pairs:
    """n pairs by Heun's method on the rho grid; pair k is a function of (teacher, seed, k).

    Their noise is none that any sample of a user's starts from, so a student is not judged on what it was trained on.
    """
    sampler = GridSampler(stepper=Heun(), steps=steps, grid=RhoGrid())
    labels = check_labels(teacher.spec, None, range(n))
    data, noise = [], []
    for first in range(0, n, BATCH):
        part = range(first, min(first + BATCH, n))
        draws = NumberedDraws(seed, part, Purpose.PAIRS)
        x = teacher.noise_end.from_latent(teacher.prior.draw(draws, teacher.spec.shape)).to(device, torch.float32)
        given = teacher.with_labels(None if labels is None else labels[list(part)].to(device))
        data.append(sampler.run(given, x, seed, part).x.cpu())
        noise.append(teacher.noise_end.to_latent(x).cpu())
    return Pairs(
        data=torch.cat(data), noise=torch.cat(noise), labels=labels, num_classes=teacher.spec.num_classes
    )  # fmt: skip


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
    return Pairs(
        data=tensors["data"], noise=tensors["noise"], labels=tensors.get("labels"), num_classes=int(origin["classes"])
    )  # fmt: skip

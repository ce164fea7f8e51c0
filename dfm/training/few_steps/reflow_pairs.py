"""Pairs of data and noise that a teacher's ODE makes, and the files that store them."""

import hashlib
import logging
import time
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
from dfm.sampling.grids import RhoGrid
from dfm.sampling.labels import in_turn
from dfm.sampling.samplers import GridSampler
from dfm.sampling.steppers.ode import Heun

BATCH = 256
QUIET = 30.0  # seconds between two lines on how far the pairs are
log = logging.getLogger("dfm")


@dataclass(frozen=True, kw_only=True)
class Pairs:
    """n pairs of noise and of the data to which the ODE leads from it.

    Args:
        data: (n, *D).
        noise: latents, in the unit of the prior, (n, *D).
        labels: the classes of the data, int64 (n,), or None.
        num_classes: number of classes of the model.
    """

    data: Tensor
    noise: Tensor
    labels: Tensor | None
    num_classes: int = 0

    def to(self, device: torch.device) -> "Pairs":
        """Return the same pairs on a device."""
        labels = None if self.labels is None else self.labels.to(device)
        return replace(self, data=self.data.to(device), noise=self.noise.to(device), labels=labels)

    def draw(self, label: Tensor | None, count: int, generator: torch.Generator) -> Tensor:
        """Draw the numbers of ``count`` pairs, int64 (count,).

        Args:
            label: the classes of the pairs, int64 (count,), if they have any; num_classes stands for any class.

        Raises:
            UserError: there are classes without a pair.
        """
        u = torch.rand(count, generator=generator, device=generator.device)
        any_of_all = (u * len(self.data)).long().clamp_max(len(self.data) - 1)
        if label is None or self.labels is None:
            return any_of_all
        counts = torch.bincount(self.labels, minlength=self.num_classes)
        if int(counts.min()) == 0:
            enough = max(2 * len(self.data), 20 * self.num_classes)  # a class is left out once in 10^7 runs
            raise UserError(
                f"objective reflow: n={len(self.data)} pairs, and a class has none; "
                f"allowed: at least one a class, of {self.num_classes} classes; try objective.n={enough}"
            )
        hidden, c = label >= self.num_classes, label.clamp_max(self.num_classes - 1)
        first = counts.cumsum(0) - counts
        any_of_class = self.labels.argsort(stable=True)[first[c] + (u * counts[c]).long().clamp_max(counts[c] - 1)]
        return torch.where(hidden, any_of_all, any_of_class)


@torch.no_grad()
def make_pairs(teacher: NetworkDenoiser, n: int, steps: int, seed: int, device: torch.device) -> Pairs:
    """Return n pairs by Heun's method on the rho grid; pair k is a function of (teacher, seed, k).

    The noise has a random stream of its own, which no sample of a user starts from. So a student is never tested on the
    noise of its training.
    """
    sampler = GridSampler(stepper=Heun(), steps=steps, grid=RhoGrid())
    labels = in_turn(teacher.spec, range(n))
    data, noise = [], []
    log.info(f"making {n} pairs of noise and data with the teacher")
    said = time.monotonic()
    for first in range(0, n, BATCH):
        if time.monotonic() - said > QUIET:
            said = time.monotonic()
            log.info(f"{first} of {n} pairs")
        part = range(first, min(first + BATCH, n))
        draws = NumberedDraws(seed, part, Purpose.PAIRS)
        x = teacher.noise_end.from_latent(teacher.prior.draw(draws, teacher.spec.shape)).to(device, torch.float32)
        model = teacher.with_labels(None if labels is None else labels[list(part)].to(device))
        data.append(sampler.run(model, x, seed, part).x.cpu())
        noise.append(teacher.noise_end.to_latent(x).cpu())
    return Pairs(data=torch.cat(data), noise=torch.cat(noise), labels=labels, num_classes=teacher.spec.num_classes)


def fingerprint(denoiser: NetworkDenoiser) -> str:
    """Return the SHA-256 of a network's weights."""
    digest = hashlib.sha256()
    for name, value in sorted(denoiser.module().state_dict().items()):
        digest.update(name.encode() + value.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def write_pairs(file: Path, pairs: Pairs, origin: dict[str, str]) -> None:
    """Write the pairs and their origin to a safetensors file, atomically.

    Args:
        origin: the settings that the pairs depend on, and the fingerprint of the teacher.
    """
    tensors = {"data": pairs.data.contiguous(), "noise": pairs.noise.contiguous()}
    if pairs.labels is not None:
        tensors["labels"] = pairs.labels
    write_atomically(file, save(tensors, metadata=origin))


def read_pairs(file: Path, origin: dict[str, str]) -> Pairs | None:
    """Return the pairs of a file; None if there is no whole file with this origin."""
    try:
        with safe_open(file, framework="pt") as stored:
            if stored.metadata() != origin:
                return None
            tensors = {name: stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118
    except (OSError, SafetensorError):
        return None
    return Pairs(
        data=tensors["data"],
        noise=tensors["noise"],
        labels=tensors.get("labels"),
        num_classes=int(origin["classes"]),
    )

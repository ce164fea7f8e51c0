"""``dfm decode``: from latents to data, and what lies between two of them."""

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from omegaconf import DictConfig

from dfm import console
from dfm.config import launch, overrides, plain, run_directory, settings
from dfm.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor

    from dfm.datasets.base import DatasetSpec


@dataclass(frozen=True)
class DecodeSettings:
    """The command's own keys; ``configs/decode.yaml`` says what each is."""

    ckpt: str | None
    latents: str | None
    interpolate: int
    label: int | None
    batch_size: int
    device: str


def main() -> None:
    """The command."""
    launch("decode", job)


def job(cfg: DictConfig) -> None:
    """Decode stored latents."""
    config, directory = plain(cfg), run_directory()
    wanted = settings(config, DecodeSettings)
    from dfm import assemble
    from dfm.commands.arrays import in_batches, prior_of, read_latents
    from dfm.commands.idle import check_flow
    from dfm.commands.loaded import loaded
    from dfm.commands.sample import store
    from dfm.devices import resolve_device
    from dfm.flows import decode
    from dfm.run_dir import write_overrides
    from dfm.sampling import check_count, checked_labels, stored

    trust = assemble.trusted(config)
    flow = assemble.flow(config, trust)
    check_flow(flow)
    check_count(1, wanted.batch_size)
    latents, labels, prior = read_latents(wanted.latents)
    device = resolve_device(wanted.device)
    found, denoiser = loaded(config, wanted.ckpt, device, trust)
    if tuple(latents.shape[1:]) != found.spec.shape:
        raise UserError(
            f"latents={wanted.latents}: of shape {tuple(latents.shape[1:])}; this model takes {found.spec.shape}"
        )
    if prior not in (None, prior_of(found.config)):
        raise UserError(
            f"latents={wanted.latents}: of a model with the prior {prior}, this one has {prior_of(found.config)}; "
            "allowed: two models with one prior, since a latent of the one means nothing to the other"
        )
    if not bool(latents.isfinite().all()):
        raise UserError(f"latents={wanted.latents}: numbers that are not finite; allowed: finite latents")
    if labels is None or wanted.label is not None or not found.spec.num_classes:
        labels = checked_labels(found.spec, wanted.label, range(len(latents)))
    else:
        check_stored(labels, len(latents), found.spec)
    if wanted.interpolate:
        latents, labels = between(latents, labels, wanted.interpolate)
    write_overrides(directory, overrides())
    began = time.perf_counter()
    data, nfe = in_batches(lambda d, x: decode(d, x, flow), denoiser, latents.to(device), labels, wanted.batch_size)
    facts = {
        "n": len(data), "nfe": nfe, "seconds": time.perf_counter() - began, "latents": wanted.latents,
        "interpolate": wanted.interpolate, "checkpoint": str(found.path), "checkpoint_step": found.step,
        "flow": config["flow"],
    }  # fmt: skip
    store(
        stored(data, found.spec), labels, range(len(data)), found.spec, directory, False, facts,
        columns=wanted.interpolate or None, name="decode.json",
    )  # fmt: skip
    console.say(f"{len(data)} decoded, {nfe:.0f} NFE: {directory / 'grid.png'}")
    console.say(f"run directory: {directory}")


def check_stored(labels: "Tensor", n: int, spec: "DatasetSpec") -> None:
    """Refuse classes stored with the latents that are not one a latent, or that the model does not know.

    Raises:
        UserError: they are not.
    """
    if tuple(labels.shape) != (n,) or int(labels.min()) < 0 or int(labels.max()) >= spec.num_classes:
        raise UserError(
            f"the {tuple(labels.shape)} classes stored with {n} latents, up to {int(labels.max())}; allowed: one a "
            f"latent, 0 to {spec.num_classes - 1}; try label= to replace them"
        )


def between(latents: "Tensor", labels: "Tensor | None", columns: int) -> "tuple[Tensor, Tensor | None]":
    """``columns`` latents from each even one to the odd one after it, ends included; the class is that of the first.

    Raises:
        UserError: fewer than two columns or latents.
    """
    import torch

    from dfm.flows import slerp

    pairs = len(latents) // 2
    if columns < 2 or pairs < 1:
        raise UserError(
            f"interpolate={columns} between {len(latents)} latents; allowed: at least 2 columns and 2 latents"
        )
    if len(latents) % 2:
        console.warn(f"{len(latents)} latents make {pairs} pairs: the last one has no partner and is left out")
    shares = torch.linspace(0, 1, columns, dtype=torch.float64).tolist()
    first, second = latents[0 : 2 * pairs : 2], latents[1 : 2 * pairs : 2]
    made = torch.stack([slerp(first, second, share) for share in shares], 1).flatten(0, 1)
    return made, None if labels is None else labels[0 : 2 * pairs : 2].repeat_interleave(columns)

"""``dfm decode``: from latents to data, and what lies between two of them."""

import time
from typing import TYPE_CHECKING

from omegaconf import DictConfig

from dfm.basics.errors import UserError
from dfm.cli import console
from dfm.cli.command_line import overrides, plain, run_directory
from dfm.cli.launch import launch
from dfm.cli.settings import DecodeSettings
from dfm.runs.build import settings

if TYPE_CHECKING:
    from torch import Tensor

    from dfm.data.dataset import DatasetSpec


def main() -> None:
    """The command."""
    launch("decode", job)


def job(cfg: DictConfig) -> None:
    """Decode stored latents."""
    config, directory = plain(cfg), run_directory()
    wanted = settings(config, DecodeSettings)
    from dfm.basics.devices import resolve_device
    from dfm.cli.from_checkpoint import load_denoiser
    from dfm.cli.unused_settings import check_settings
    from dfm.runs import parts as assemble
    from dfm.runs.directory import write_overrides
    from dfm.runs.sample_files import prior_of, read_latents, store
    from dfm.sampling.draw import check_count, check_labels, stored
    from dfm.sampling.ode_flow import decode_batch, in_batches

    trust = assemble.trusted(config)
    flow = assemble.flow(config, trust)
    check_settings(flow, "flow")
    check_count(1, wanted.batch_size)
    latents, labels, prior = read_latents(wanted.latents)
    device = resolve_device(wanted.device)
    found, denoiser = load_denoiser(config, wanted.ckpt, device, trust)
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
        labels = check_labels(found.spec, wanted.label, range(len(latents)))
    else:
        check_stored(labels, len(latents), found.spec)
    if wanted.interpolate:
        latents, labels = between(latents, labels, wanted.interpolate)
    write_overrides(directory, overrides())
    began = time.perf_counter()
    end = in_batches(decode_batch, denoiser.with_labels(labels), latents, flow, wanted.batch_size)
    data, nfe = end.x, end.nfe
    facts = {
        "n": len(data), "nfe": nfe, "seconds": time.perf_counter() - began, "latents": wanted.latents,
        "interpolate": wanted.interpolate, "checkpoint": str(found.path), "checkpoint_step": found.step,
        "flow": config["flow"],
    }  # fmt: skip
    store(
        stored(data, found.spec), labels, range(len(data)), found.spec, directory, False, facts,
        columns=wanted.interpolate or None, name="decode.json",
    )  # fmt: skip
    console.result(f"{len(data)} decoded, {nfe:.0f} NFE: {directory / 'grid.png'}")
    console.result(f"run directory: {directory}")


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

    from dfm.sampling.ode_flow import slerp

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

"""``dfm encode``: from data to latents, and how exactly they lead back."""

import time
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig

from dfm.cli import console
from dfm.cli.command_line import overrides, plain, run_directory
from dfm.cli.launch import launch
from dfm.cli.settings import EncodeSettings
from dfm.runs.build import settings

if TYPE_CHECKING:
    from torch import Tensor

    from dfm.data.dataset import DatasetSpec


def main() -> None:
    """The command."""
    launch("encode", job)


def job(cfg: DictConfig) -> None:
    """Encode the first examples of a split."""
    config, directory = plain(cfg), run_directory()
    wanted = settings(config, EncodeSettings)
    import numpy as np
    import torch

    from dfm.basics.devices import resolve_device
    from dfm.basics.files import write_json
    from dfm.cli.from_checkpoint import examples_of, load_denoiser
    from dfm.cli.unused_settings import check_settings
    from dfm.likelihood.estimator import ends
    from dfm.likelihood.scoring import examples
    from dfm.runs import images as images_io
    from dfm.runs import parts as assemble
    from dfm.runs.directory import write_overrides
    from dfm.runs.images import side_by_side
    from dfm.runs.sample_files import prior_of, save_npz
    from dfm.sampling.draw import check_count, stored
    from dfm.sampling.ode_flow import decode_batch, encode_batch, in_batches

    trust = assemble.trusted(config)
    flow = assemble.flow(config, trust)
    check_settings(flow, "flow")
    check_count(wanted.n, wanted.batch_size)
    device = resolve_device(wanted.device)
    found, denoiser = load_denoiser(config, wanted.ckpt, device, trust)
    split = examples_of(found, config, wanted.split, trust)
    write_overrides(directory, overrides())
    indices = range(min(wanted.n, len(split)))
    labels = split.labels[list(indices)] if split.labels is not None and found.spec.num_classes else None
    noise = assemble.dequantization(found.config, trust)
    given = examples(split, found.spec, indices, wanted.seed, noise, ends(denoiser, None)[0])
    began = time.perf_counter()
    labelled = denoiser.with_labels(labels)
    there = in_batches(encode_batch, labelled, given, flow, wanted.batch_size)
    back = in_batches(decode_batch, labelled, there.x, flow, wanted.batch_size).x
    latents, nfe = there.x, there.nfe
    facts = {
        "n": len(indices), "nfe": nfe, "seconds": time.perf_counter() - began, "split": wanted.split,
        "seed": wanted.seed, "checkpoint": str(found.path), "checkpoint_step": found.step, "flow": config["flow"],
        **round_trip(given, back, found.spec),
        "latent_mean": float(latents.mean()), "latent_std": float(latents.std(correction=0)),
        "prior_mean": denoiser.prior.mean, "prior_std": denoiser.prior.std,
    }  # fmt: skip
    arrays = {
        "latents": latents.cpu().float().numpy(), "indices": torch.tensor(list(indices)).numpy(),
        "prior": np.array(prior_of(found.config)),
    }  # fmt: skip
    save_npz(directory / "latents.npz", {**arrays, **({} if labels is None else {"labels": labels.numpy()})})
    both = [stored(part, found.spec) for part in (given, back)]
    images_io.save_png(side_by_side(both, found.spec), directory / "grid.png")
    write_json(directory / "encode.json", facts)
    console.result(
        f"{len(indices)} latents, {nfe:.0f} NFE; mean {facts['latent_mean']:.3f}, deviation {facts['latent_std']:.3f}; "
        f"round trip: root mean square error {facts['round_trip_rms']:.2e}"
    )
    console.result(f"run directory: {directory}")


def round_trip(data: "Tensor", back: "Tensor", spec: "DatasetSpec") -> dict[str, Any]:
    """How far decode(encode(x)) is from x, in the unit of the data, and the share of pixels that keep their level."""
    from dfm.data.pixel_levels import quantize

    error = (back - data).double()
    levels = spec.levels
    same = None if levels is None else float((quantize(back, levels) == quantize(data, levels)).double().mean())
    return {
        "round_trip_rms": float(error.square().mean().sqrt()),
        "round_trip_max": float(error.abs().max()),
        "same_levels": same,
    }

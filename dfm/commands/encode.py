"""``dfm encode``: from data to latents, and how exactly they lead back."""

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig

from dfm import console
from dfm.config import launch, overrides, plain, run_directory, settings

if TYPE_CHECKING:
    from torch import Tensor

    from dfm.datasets.base import DatasetSpec


@dataclass(frozen=True)
class EncodeSettings:
    """The command's own keys; ``configs/encode.yaml`` says what each is."""

    ckpt: str | None
    split: str
    n: int
    seed: int
    batch_size: int
    device: str


def main() -> None:
    """The command."""
    launch("encode", job)


def job(cfg: DictConfig) -> None:
    """Encode the first examples of a split."""
    config, directory = plain(cfg), run_directory()
    wanted = settings(config, EncodeSettings)
    import numpy as np
    import torch

    from dfm import assemble, images_io
    from dfm.commands.arrays import in_batches, prior_of, save_npz
    from dfm.commands.compare import side_by_side
    from dfm.commands.idle import check_flow
    from dfm.commands.loaded import examples_of, loaded
    from dfm.devices import resolve_device
    from dfm.flows import decode, encode
    from dfm.likelihood.base import ends
    from dfm.run_dir import write_json, write_overrides
    from dfm.sampling import check_count, stored
    from dfm.scoring import examples

    trust = assemble.trusted(config)
    flow = assemble.flow(config, trust)
    check_flow(flow)
    check_count(wanted.n, wanted.batch_size)
    device = resolve_device(wanted.device)
    found, denoiser = loaded(config, wanted.ckpt, device, trust)
    split = examples_of(found, config, wanted.split, trust)
    write_overrides(directory, overrides())
    indices = range(min(wanted.n, len(split)))
    labels = split.labels[list(indices)] if split.labels is not None and found.spec.num_classes else None
    noise = assemble.dequantization(found.config, trust)
    given = examples(split, found.spec, indices, wanted.seed, noise, ends(denoiser, None)[0]).to(device)
    began = time.perf_counter()
    latents, nfe = in_batches(lambda d, x: encode(d, x, flow), denoiser, given, labels, wanted.batch_size)
    back, _ = in_batches(lambda d, x: decode(d, x, flow), denoiser, latents, labels, wanted.batch_size)
    facts = {
        "n": len(indices), "nfe": nfe, "seconds": time.perf_counter() - began, "split": wanted.split,
        "seed": wanted.seed, "checkpoint": str(found.path), "checkpoint_step": found.step, "flow": config["flow"],
        **round_trip(given, back, found.spec),
        "latent_mean": float(latents.mean()), "latent_std": float(latents.std(correction=0)),
        "prior_mean": denoiser.source.mean, "prior_std": denoiser.source.std,
    }  # fmt: skip
    arrays = {
        "latents": latents.cpu().float().numpy(), "indices": torch.tensor(list(indices)).numpy(),
        "prior": np.array(prior_of(found.config)),
    }  # fmt: skip
    save_npz(directory / "latents.npz", {**arrays, **({} if labels is None else {"labels": labels.numpy()})})
    both = [stored(part, found.spec) for part in (given, back)]
    images_io.save_png(side_by_side(both, found.spec), directory / "grid.png")
    write_json(directory / "encode.json", facts)
    console.say(
        f"{len(indices)} latents, {nfe:.0f} NFE; mean {facts['latent_mean']:.3f}, deviation {facts['latent_std']:.3f}; "
        f"round trip: root mean square error {facts['round_trip_rms']:.2e}"
    )
    console.say(f"run directory: {directory}")


def round_trip(data: "Tensor", back: "Tensor", spec: "DatasetSpec") -> dict[str, Any]:
    """How far decode(encode(x)) is from x, in the unit of the data, and the share of pixels that keep their level."""
    from dfm.quantization import quantize

    error = (back - data).double()
    levels = spec.levels
    same = None if levels is None else float((quantize(back, levels) == quantize(data, levels)).double().mean())
    return {
        "round_trip_rms": float(error.square().mean().sqrt()),
        "round_trip_max": float(error.abs().max()),
        "same_levels": same,
    }

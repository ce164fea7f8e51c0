"""``dfm encode``: from data to latents, and the error of the way back."""

import time
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dfm.basics.files import write_json
from dfm.cli import console, progress
from dfm.cli.composition.unused_settings import check_settings
from dfm.cli.from_checkpoint import examples_of, how_many, load_denoiser
from dfm.cli.job import Job
from dfm.cli.settings import EncodeSettings
from dfm.data.dataset import DatasetSpec
from dfm.data.numbers.pixel_levels import quantize
from dfm.data.numbers.stored_form import stored
from dfm.likelihood.estimator import ends
from dfm.likelihood.examples import examples
from dfm.paths.priors import Prior
from dfm.runs.parts import Parts
from dfm.runs.pictures.drawing import side_by_side
from dfm.runs.pictures.images import save_png
from dfm.runs.sample_files import prior_of, save_npz
from dfm.sampling.draw import check_count
from dfm.sampling.ode_flow import decode_batch, encode_batch, in_batches


def run(job: Job) -> None:
    """Encode the first examples of a split."""
    wanted: EncodeSettings = job.settings
    flow = job.parts.flow
    check_settings(flow, "flow")
    check_count(wanted.n, wanted.batch_size)
    checkpoint, denoiser = load_denoiser(job, wanted.ckpt)
    split, spec = examples_of(checkpoint, job, wanted.split), checkpoint.spec
    indices = range(how_many(wanted.n, split, wanted.split))
    labels = split.labels[list(indices)] if split.labels is not None and spec.num_classes else None
    noise = Parts(checkpoint.config, job.trusted).dequantization
    data = examples(split, spec, indices, wanted.seed, noise, ends(denoiser, None)[0])
    start, conditional = time.perf_counter(), denoiser.with_labels(labels)
    with progress.task("encode and back", 2 * len(data), "examples") as task:
        end = in_batches(encode_batch, conditional, data, flow, wanted.batch_size, task.advance)
        latents, nfe = end.x, end.nfe
        back = in_batches(decode_batch, conditional, latents, flow, wanted.batch_size, task.advance).x
    facts = {
        "n": len(indices),
        "nfe": nfe,
        "seconds": time.perf_counter() - start,
        "split": wanted.split,
        "seed": wanted.seed,
        "checkpoint": str(checkpoint.path),
        "checkpoint_step": checkpoint.step,
        "flow": job.config["flow"],
        **round_trip(data, back, spec),
        **moments(latents, denoiser.prior),
    }
    arrays = {
        "latents": latents.float().numpy(),
        "indices": torch.tensor(list(indices)).numpy(),
        "prior": np.array(prior_of(checkpoint.config)),
    }
    if labels is not None:
        arrays["labels"] = labels.numpy()
        if spec.class_names:
            arrays["class_names"] = np.array(spec.class_names)
    save_npz(job.directory / "latents.npz", arrays)
    save_png(side_by_side([stored(part, spec) for part in (data, back)], spec), job.directory / "grid.png")
    write_json(job.directory / "encode.json", facts)
    console.result(
        f"{len(indices)} latents, {nfe:.0f} NFE; mean {facts['latent_mean']:.3f}, deviation {facts['latent_std']:.3f} "
        f"(the prior's: {facts['prior_mean']:.3f}, {facts['prior_std']:.3f}); "
        f"round trip: root mean square error {facts['round_trip_rms']:.2e}"
    )


def moments(latents: Tensor, prior: Prior) -> dict[str, Any]:
    """Return mean and standard deviation of the latents, and those of the prior for comparison."""
    return {
        "latent_mean": float(latents.mean()),
        "latent_std": float(latents.std(correction=0)),
        "prior_mean": prior.mean,
        "prior_std": prior.std,
    }


def round_trip(data: Tensor, back: Tensor, spec: DatasetSpec) -> dict[str, Any]:
    """Return the error of decode(encode(x)) in the unit of the data, and the share of pixels with the same level."""
    error = (back - data).double()
    levels = spec.levels
    same = None if levels is None else float((quantize(back, levels) == quantize(data, levels)).double().mean())
    return {
        "round_trip_rms": float(error.square().mean().sqrt()),
        "round_trip_max": float(error.abs().max()),
        "same_levels": same,
    }

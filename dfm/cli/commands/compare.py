"""``dfm compare``: the same latents through two models."""

import time
from collections.abc import Callable
from typing import Any

import numpy as np
from torch import Tensor
from torch.nn.functional import cosine_similarity

from dfm.basics.errors import UserError
from dfm.basics.files import write_json
from dfm.basics.seeding import NumberedDraws
from dfm.cli import console, progress
from dfm.cli.composition.unused_settings import check_settings
from dfm.cli.from_checkpoint import load_denoiser, refuse_unread, warn_other_names
from dfm.cli.job import Job
from dfm.cli.settings import CompareSettings
from dfm.data.numbers.stored_form import stored, to_array
from dfm.denoising.network_denoiser import NetworkDenoiser
from dfm.runs.checkpoint import Checkpoint
from dfm.runs.pictures.drawing import SHOWN, side_by_side
from dfm.runs.pictures.images import save_png
from dfm.runs.sample_files import prior_of, save_npz
from dfm.sampling.draw import check_count
from dfm.sampling.labels import in_turn
from dfm.sampling.ode_flow import OdeEnd, decode_batch, in_batches


def run(job: Job) -> None:
    """Decode the same latents with two models, and report the distance between their samples."""
    wanted: CompareSettings = job.settings
    if wanted.other is None:
        raise UserError("other= is not given; allowed: a second checkpoint or run directory; try other=RUN")
    check_settings(job.parts.flow, "flow")
    check_count(wanted.n, wanted.batch_size)
    pair = [load_denoiser(job, ckpt, key=key) for key, ckpt in (("ckpt", wanted.ckpt), ("other", wanted.other))]
    refuse_unread(job, pair[0][0], "on dfm compare, which reads no data")
    check_pair(*(checkpoint for checkpoint, _ in pair))
    spec, decoder = pair[0][0].spec, job.parts.decoder
    for checkpoint, _ in pair:
        decoder.check(checkpoint.spec)
    latents = pair[0][1].prior.draw(NumberedDraws(wanted.seed, range(wanted.n)), spec.shape).float()
    start = time.perf_counter()
    with progress.task("decode with both", 2 * wanted.n, "latents") as task:
        ends = [follow(job, checkpoint, denoiser, latents, task.advance) for checkpoint, denoiser in pair]
    seconds = time.perf_counter() - start
    samples = [stored(end.x, spec) for end in ends]
    arrays = [to_array(values, spec) for values in samples]
    names = {"columns": np.array(spec.channel_names)} if spec.channel_names else {}
    save_npz(job.directory / "samples.npz", {"samples": arrays[0], "other": arrays[1], **names})
    first, other = (decoder.drawn(values[:SHOWN], spec, job.device) for values in samples)
    save_png(side_by_side([first[0], other[0]], first[1]), job.directory / "grid.png")
    facts = {
        "n": wanted.n,
        "seed": wanted.seed,
        "nfe": [end.nfe for end in ends],
        "seconds": seconds,
        "flow": job.config["flow"],
        "decoder": job.config["decoder"],
        "checkpoints": [str(checkpoint.path) for checkpoint, _ in pair],
        **distances(ends[0].x, ends[1].x),
    }
    write_json(job.directory / "compare.json", facts)
    cosine = "" if facts["cosine_mean"] is None else f", cosine similarity {facts['cosine_mean']:.4f}"
    console.result(
        f"{wanted.n} latents through two models: root mean square distance {facts['rms_mean']:.4f} (largest "
        f"{facts['rms_max']:.4f}){cosine}: {job.directory / 'grid.png'}"
    )


def check_pair(first: Checkpoint, second: Checkpoint) -> None:
    """Refuse two models that cannot share latents.

    Raises:
        UserError: their data have different shapes or levels, or their priors differ.
    """
    a, b = first.spec, second.spec
    warn_other_names("other=", a, b)
    if a.shape != b.shape or a.levels != b.levels:
        raise UserError(
            f"ckpt= makes {a.name} {a.shape} (pixel levels: {a.levels}); other= makes {b.name} {b.shape} (pixel "
            f"levels: {b.levels}); "
            "allowed: two models for data of the same shape and levels"
        )
    priors = [prior_of(checkpoint.config) for checkpoint in (first, second)]
    if priors[0] != priors[1]:
        raise UserError(
            f"ckpt= has the prior {priors[0]}, other= has {priors[1]}; allowed: two models with the same prior"
        )


def follow(
    job: Job, checkpoint: Checkpoint, denoiser: NetworkDenoiser, latents: Tensor, advance: Callable[[int], None]
) -> OdeEnd:
    """Decode the latents. For a conditional model, latent k has class k modulo the number of classes."""
    labels = in_turn(checkpoint.spec, range(len(latents)))
    conditional, batch_size = denoiser.with_labels(labels), job.settings.batch_size
    return in_batches(decode_batch, conditional, latents, job.parts.flow, batch_size, advance)


def distances(first: Tensor, second: Tensor) -> dict[str, Any]:
    """Return distances between paired samples, each (n, *D).

    ``rms_mean`` and ``rms_max`` are the mean and the maximum over pairs of the root mean square difference of a
    coordinate. ``cosine_mean`` is the mean cosine of the angle between the two samples of a pair, seen from the mean of
    all samples. It is None for one pair, where this mean lies between the two samples.
    """
    x, y = first.double().flatten(1), second.double().flatten(1)
    distance, middle = (x - y).square().mean(1).sqrt(), (x.mean(0) + y.mean(0)) / 2
    cosine = float(cosine_similarity(x - middle, y - middle).mean()) if len(x) > 1 else None
    return {"rms_mean": float(distance.mean()), "rms_max": float(distance.max()), "cosine_mean": cosine}

"""``dfm decode``: from latents to data, and interpolation between pairs of latents."""

import time
from collections.abc import Sequence

import torch
from torch import Tensor

from dfm.basics.errors import UserError
from dfm.basics.files import write_json
from dfm.cli import console, progress
from dfm.cli.composition.unused_settings import check_settings
from dfm.cli.from_checkpoint import classes_for, load_denoiser, refuse_unread
from dfm.cli.job import Job
from dfm.cli.settings import DecodeSettings
from dfm.cli.words.printed_command import typed
from dfm.data.dataset import DatasetSpec
from dfm.data.numbers.stored_form import stored
from dfm.runs.checkpoint import Checkpoint
from dfm.runs.sample_files import prior_of, read_latents, store_samples
from dfm.sampling.draw import check_count
from dfm.sampling.labels import renumbered
from dfm.sampling.ode_flow import decode_batch, in_batches, slerp


def run(job: Job) -> None:
    """Decode stored latents."""
    wanted: DecodeSettings = job.settings
    flow = job.parts.flow
    check_settings(flow, "flow")
    check_count(1, wanted.batch_size)
    latents, labels, names, prior = read_latents(wanted.latents)
    checkpoint, denoiser = load_denoiser(job, wanted.ckpt)
    refuse_unread(job, checkpoint, "on dfm decode, which reads no data")
    spec, decoder = checkpoint.spec, job.parts.decoder
    decoder.check(spec)
    check_latents(latents, prior, checkpoint, wanted.latents)
    asked = classes_for(job, denoiser)
    if labels is None or asked.kind != "null" or not spec.num_classes:
        labels = asked.of(range(len(latents)))
    else:
        labels = check_stored(labels, names, len(latents), spec)
    if wanted.interpolate:
        latents, labels = interpolate(latents, labels, wanted.interpolate)
    start = time.perf_counter()
    with progress.task("decode", len(latents), "latents") as task:
        end = in_batches(decode_batch, denoiser.with_labels(labels), latents, flow, wanted.batch_size, task.advance)
    facts = {
        "n": len(end.x),
        "nfe": end.nfe,
        "seconds": time.perf_counter() - start,
        "latents": wanted.latents,
        "interpolate": wanted.interpolate,
        "checkpoint": str(checkpoint.path),
        "checkpoint_step": checkpoint.step,
        "flow": job.config["flow"],
        "decoder": job.config["decoder"],
        **asked.facts,
    }
    pieces, numbers = [stored(end.x, spec)], range(len(end.x))
    columns, decode = wanted.interpolate or None, decoder.on(job.device)
    store_samples(pieces, labels, numbers, spec, job.directory, columns=columns, decode=decode)
    write_json(job.directory / "decode.json", facts)
    console.result(f"{len(end.x)} decoded, {end.nfe:.0f} NFE: {job.directory / 'grid.png'}")


def check_latents(latents: Tensor, prior: str | None, checkpoint: Checkpoint, name: str | None) -> None:
    """Refuse latents that do not suit a model.

    Args:
        prior: the prior of the latents, or None if it is not known.
        name: the name of their file, for messages.

    Raises:
        UserError: their shape or prior is not the model's, or a number is not finite.
    """
    if tuple(latents.shape[1:]) != checkpoint.spec.shape:
        raise UserError(
            f"latents={name}: each of shape {tuple(latents.shape[1:])}; allowed for this model: {checkpoint.spec.shape}"
        )
    if prior not in (None, prior_of(checkpoint.config)):
        raise UserError(
            f"latents={name}: from a model with the prior {prior}; allowed: latents from a model with this model's "
            f"prior, {prior_of(checkpoint.config)}"
        )
    if not bool(latents.isfinite().all()):
        raise UserError(f"latents={name}: numbers that are not finite; allowed: finite latents")


def check_stored(labels: Tensor, names: Sequence[str], n: int, spec: DatasetSpec) -> Tensor:
    """Return stored classes as numbers of the model: a class with a name is the model's class of this name.

    Args:
        names: the names that were stored with the classes, if any.

    Raises:
        UserError: there is not one class per latent, or the model does not know a class.
    """
    own = renumbered(labels, names, spec) if tuple(labels.shape) == (n,) else labels
    strange = [names[k] for k in labels[own < 0].tolist() if 0 <= k < len(names)] if own is not labels else []
    if strange:
        raise UserError(
            f"latents are stored with the class '{strange[0]}', which this model lacks; allowed: its own, "
            f"{', '.join(spec.class_names)}; try {typed('label', spec.class_names[0])} to replace them"
        )
    if own is not labels:
        console.say("the stored classes have other numbers in this model; they are taken by name")
    labels = own
    if tuple(labels.shape) != (n,) or int(labels.min()) < 0 or int(labels.max()) >= spec.num_classes:
        raise UserError(
            f"{n} latents are stored with classes of shape {tuple(labels.shape)}, up to {int(labels.max())}; allowed: "
            f"one class per latent, 0 to {spec.num_classes - 1}; try label=all to replace them"
        )
    return labels


def interpolate(latents: Tensor, labels: Tensor | None, columns: int) -> tuple[Tensor, Tensor | None]:
    """Return ``columns`` latents from each latent 2k to latent 2k + 1, both included, with the class of latent 2k.

    Raises:
        UserError: there are fewer than two columns or two latents.
    """
    pairs = len(latents) // 2
    if columns < 2 or pairs < 1:
        raise UserError(
            f"interpolate={columns} between {len(latents)} latents; allowed: at least 2 columns and 2 latents"
        )
    if len(latents) % 2:
        console.warn(f"{len(latents)} latents make {pairs} pairs: the last one has no partner and is left out")
    fractions = torch.linspace(0, 1, columns, dtype=torch.float64).tolist()
    first, second = latents[0 : 2 * pairs : 2], latents[1 : 2 * pairs : 2]
    line = torch.stack([slerp(first, second, fraction) for fraction in fractions], 1).flatten(0, 1)
    return line, None if labels is None else labels[0 : 2 * pairs : 2].repeat_interleave(columns)

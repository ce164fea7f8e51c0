"""What ``dfm eval`` compares: samples drawn or stored, held-out examples, and features of both."""

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dfm.basics.devices import check_precision, products
from dfm.basics.errors import UserError
from dfm.basics.files import write_json
from dfm.basics.seeding import Purpose, stream
from dfm.cli import console
from dfm.cli.from_checkpoint import Drawing, dataset_of, load_drawing
from dfm.cli.job import Job
from dfm.cli.unused_settings import refuse_unused
from dfm.data.dataset import Dataset, DatasetSpec
from dfm.evaluation.features import Features, kind_for
from dfm.runs.checkpoint import Checkpoint
from dfm.runs.loading import find_checkpoint
from dfm.runs.sample_files import read_labels, read_samples, store_samples
from dfm.sampling.draw import as_data, batch_of, check_labels, draw_samples, spread

DEFAULT_N = 1000
OF_DRAWING = ("sampler", "grid", "guidance", "schedule", "batch_size", "precision")


@dataclass(frozen=True, kw_only=True)
class Samples:
    """Samples as ``Split`` has examples, their classes if they have any, and how they came about."""

    values: Tensor
    labels: Tensor | None
    facts: dict[str, Any]


def find_source(job: Job) -> tuple[Checkpoint | None, Drawing | None]:
    """Return the checkpoint, if one is named, and what to draw from it with, unless the samples are stored ones.

    Raises:
        UserError: neither is named, or a setting of drawing is given with stored samples.
    """
    if job.settings.samples is None:
        if job.settings.ckpt is None:
            raise UserError("neither ckpt= nor samples= is given; allowed: one of them; try ckpt=latest")
        drawing = load_drawing(job)
        return drawing.checkpoint, drawing
    refuse_unused(OF_DRAWING, "on samples that are drawn")
    return find_checkpoint(job.settings.ckpt) if job.settings.ckpt is not None else None, None


def find_references(job: Job, checkpoint: Checkpoint | None) -> Dataset:
    """Return the data set that the samples are compared with: the job's, or the checkpoint's with the keys it replaces.

    Raises:
        UserError: there is none, or its examples have another form than the checkpoint's.
    """
    if "_target_" in job.config["dataset"]:
        data = job.parts.dataset
    elif checkpoint is not None:
        data = dataset_of(checkpoint, job.config, job.trusted)
    else:
        raise UserError("samples= of which data? allowed: ckpt= or dataset= beside it; try dataset=digits")
    spec = data.spec
    if checkpoint is not None and (spec.shape, spec.levels) != (checkpoint.spec.shape, checkpoint.spec.levels):
        raise UserError(
            f"dataset={spec.name}: examples of shape {spec.shape} and {spec.levels} levels; allowed: those of the "
            f"checkpoint, shape {checkpoint.spec.shape} and {checkpoint.spec.levels} levels; try without dataset="
        )
    return data


def examples(data: Dataset, name: str, label: int | str | None) -> Tensor:
    """Return the examples of a split, all or of one class.

    Raises:
        UserError: there are none, or the data have no such class.
    """
    split = data.split(name)
    if len(split) == 0:
        raise UserError(f"split={name}: {data.spec.name} has no examples in it; try split=train")
    labels = check_labels(data.spec, label, range(1)) if isinstance(label, int) else None
    if labels is None or split.labels is None:
        return split.values
    return split.values[split.labels == labels[0]]


def choose(values: Tensor, n: int, seed: int) -> Tensor:
    """Return n of the examples at random, or all that there are."""
    order = stream(seed, 0, Purpose.RESAMPLE, step=1).permutation(len(values))
    return values[torch.from_numpy(order[:n])]


def find_features(job: Job, data: Dataset) -> Features:
    """Return the features that the job names, or those that go with the data."""
    named = job.config.get("features") is not None
    parts = job.parts if named else job.variant(f"features={kind_for(data.spec)}")
    return parts.features(data, job.device)


def prepare(features: Features) -> None:
    """Train the classifier of the features if there is none yet, behind a bar."""
    start, steps = time.perf_counter(), 0
    with console.bar() as bar:
        task = bar.add_task("classifier", total=features.steps, visible=False)
        for report in features.prepare():
            steps = report.step
            bar.update(task, completed=steps, visible=True)
    if steps:
        console.say(f"classifier trained in {time.perf_counter() - start:.0f} s, and kept for the next time")


def draw(job: Job, drawing: Drawing) -> Samples:
    """Draw samples 0 .. n-1, the same as ``dfm sample`` draws."""
    wanted, spec = job.settings, drawing.denoiser.spec
    n = DEFAULT_N if wanted.n is None else wanted.n
    labels = check_labels(spec, wanted.label, range(n))
    start = time.perf_counter()
    with console.bar() as bar, products(check_precision(wanted.precision, job.device), job.device):
        task = bar.add_task("sample", total=n)
        result = draw_samples(
            drawing.denoiser,
            drawing.sampler,
            range(n),
            seed=wanted.seed,
            batch_size=batch_of(wanted.batch_size, spec, job.device),
            labels=labels,
            device=job.device,
            convert=lambda x: as_data(x, spec),
            watch=lambda moment: bar.advance(task, len(moment.indices) if moment.state.final else 0),
        )
    facts = {
        **drawing.facts,
        "nfe": result.nfe,
        "seconds": time.perf_counter() - start,
        "computed_in": wanted.precision,
        "samples": None,
    }
    return Samples(values=result.samples, labels=labels, facts=facts)


def read(job: Job, spec: DatasetSpec) -> Samples:
    """Read stored samples, all or the first n; with ``label``, those of one class by the classes stored beside them.

    Raises:
        UserError: there are none such, or fewer than n.
    """
    source, label, n = job.settings.samples, job.settings.label, job.settings.n
    values = read_samples(source, spec)
    if isinstance(label, int):
        labels = read_labels(source, len(values))
        if labels is None:
            console.warn(f"label={label}: no classes stand beside these samples; all are taken to be of this one")
        elif not len(values := values[labels == label]):
            raise UserError(f"label={label}: none of {source} is of this class; try without label=")
    if n is not None and n > len(values):
        raise UserError(f"n={n}: there are {len(values)} samples in {source}; allowed: at most as many")
    unknown = dict.fromkeys(("sampler", "settings", "guidance", "schedule", "nfe", "seconds", "computed_in"))
    return Samples(values=values[:n], labels=None, facts={**unknown, "samples": source})


def store(samples: Samples, spec: DatasetSpec, directory: Path, facts: dict[str, Any], pictures: bool) -> None:
    """Write ``eval.json``, and of samples that were drawn ``samples.npz`` and ``grid.png``."""
    if pictures:
        store_samples([spread(samples.values, spec)], samples.labels, range(len(samples.values)), spec, directory)
    write_json(directory / "eval.json", facts)

"""The inputs of ``dfm eval``: samples that are drawn or stored, held-out examples, and the features of both."""

import itertools
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
from dfm.cli import console, progress
from dfm.cli.composition.unused_settings import refuse_unused
from dfm.cli.from_checkpoint import (
    Drawing,
    dataset_of,
    load_drawing,
    read_checkpoint,
    refuse_other_form,
    warn_other_data,
    warn_other_names,
)
from dfm.cli.job import Job
from dfm.data.dataset import Dataset, DatasetSpec, Split
from dfm.data.numbers.stored_form import as_data, to_stored
from dfm.evaluation.features import Features, kind_for
from dfm.runs.checkpoint import Checkpoint
from dfm.runs.sample_files import read_labels, read_samples, store_samples
from dfm.sampling.draw import Moment, batch_of, draw_samples
from dfm.sampling.labels import AskedClasses, renumbered

DEFAULT_N = 1000
DRAWING_KEYS = ("sampler", "grid", "guidance", "schedule", "batch_size", "precision")


@dataclass(frozen=True, kw_only=True)
class Samples:
    """Samples in the form of the examples of a ``Split``, their classes or None, and facts on their origin."""

    values: Tensor
    labels: Tensor | None
    facts: dict[str, Any]


def find_source(job: Job) -> tuple[Checkpoint | None, Drawing | None]:
    """Return the checkpoint, if there is one, and its sampler and guidance, unless the samples are stored already.

    Raises:
        UserError: there is no ``ckpt`` and no ``samples``, or stored samples come with a setting for drawing.
    """
    if job.settings.samples is None:
        if job.settings.ckpt is None:
            raise UserError("neither ckpt= nor samples= is given; allowed: one of them; try ckpt=latest")
        drawing = load_drawing(job)
        return drawing.checkpoint, drawing
    refuse_unused(DRAWING_KEYS, "on stored samples (samples=)")
    return read_checkpoint(job, job.settings.ckpt) if job.settings.ckpt is not None else None, None


def find_references(job: Job, checkpoint: Checkpoint | None) -> Dataset:
    """Return the data set that the samples are compared with: the job's, or else the checkpoint's.

    Raises:
        UserError: there is none, or its examples have another form than the checkpoint's.
    """
    if "_target_" in job.config["dataset"]:
        data = job.parts.dataset
        if checkpoint is not None:
            warn_other_names(f"dataset={data.name}", checkpoint.spec, data.spec)
    elif checkpoint is not None:
        data = dataset_of(checkpoint, job.trusted)
        warn_other_data(checkpoint, data, job.settings.split)
    else:
        raise UserError("samples= without its data; allowed: ckpt= or dataset= beside it; try dataset=digits")
    split = data.split("train")
    console.notices(data.all_notices)
    if checkpoint is not None:
        refuse_other_form(job, checkpoint.spec, data, split)
    return data


def examples(data: Dataset, name: str, asked: AskedClasses) -> Split:
    """Return a split, with the examples of all classes or of the chosen ones.

    Raises:
        UserError: the split is empty.
    """
    split = data.split(name)
    if len(split) == 0:
        raise UserError(f"split={name}: {data.spec.name} has no examples in it; try split=train")
    if not asked.chosen or split.labels is None:
        return split
    return split.part(_of_classes(split.labels, asked).nonzero().flatten())


def _of_classes(labels: Tensor, asked: AskedClasses) -> Tensor:
    """Return which labels are those of the chosen classes, bool (n,)."""
    return torch.isin(labels, torch.tensor(asked.chosen))


def choose(split: Split, n: int, seed: int) -> Tensor:
    """Return n of the examples at random, or all of them if there are fewer. The others are not read."""
    order = stream(seed, 0, Purpose.RESAMPLE, step=1).permutation(len(split))
    return split.take(order[:n])


def find_features(job: Job, data: Dataset) -> Features:
    """Return the features that the job names, or the usual ones for the data."""
    by_user = job.config.get("features") is not None
    parts = job.parts if by_user else job.variant(f"features={kind_for(data.spec)}")
    return parts.features(data, job.device)


def prepare(features: Features) -> None:
    """Train the classifier of the features with a progress bar, unless there is one already."""
    start, steps = time.perf_counter(), 0
    with progress.work() as work:
        reports = features.prepare()
        if (first := next(reports, None)) is not None:  # else the classifier is there already
            with work.task("classifier for the features", features.steps, "steps") as task:
                for report in itertools.chain([first], reports):
                    steps = report.step
                    task.update(steps)
    if steps:
        console.say(f"classifier trained in {time.perf_counter() - start:.0f} s and stored for the next time")


def draw(job: Job, drawing: Drawing, asked: AskedClasses) -> Samples:
    """Draw samples 0 .. n-1, the same ones as ``dfm sample``."""
    wanted, spec = job.settings, drawing.denoiser.spec
    n = DEFAULT_N if wanted.n is None else wanted.n
    labels = asked.of(range(n))
    start = time.perf_counter()
    with (
        progress.task("sample", n, "samples") as task,
        products(check_precision(wanted.precision, job.device), job.device),
    ):

        def watch(moment: Moment) -> None:
            task.note(f"step {moment.state.step}")
            task.advance(len(moment.indices) if moment.state.final else 0)

        result = draw_samples(
            drawing.denoiser,
            drawing.sampler,
            range(n),
            seed=wanted.seed,
            batch_size=batch_of(wanted.batch_size, spec, job.device),
            labels=labels,
            device=job.device,
            convert=lambda x: as_data(x, spec),
            watch=watch,
        )
    facts = {
        **drawing.facts,
        "nfe": result.nfe,
        "seconds": time.perf_counter() - start,
        "computed_in": wanted.precision,
        "samples": None,
    }
    return Samples(values=result.samples, labels=labels, facts=facts)


def read(job: Job, spec: DatasetSpec, asked: AskedClasses) -> Samples:
    """Read stored samples, all or the first n. With ``label``, read only those with this class in their file.

    Args:
        asked: classes of ``spec``. A class of the file with another number there is found by its name.

    Raises:
        UserError: there are no such samples, or fewer than n.
    """
    source, n = job.settings.samples, job.settings.n
    values = read_samples(source, spec)
    if asked.chosen:
        stored, label = read_labels(source, len(values)), asked.text
        if stored is None:
            console.warn(f"label={label}: {source} has no classes; all its samples are taken as class {label}")
        elif not len(values := values[_of_classes(renumbered(*stored, spec), asked)]):
            raise UserError(f"label={label}: no sample in {source} has this class; try without label=")
    if n is not None and n > len(values):
        raise UserError(f"n={n}: {source} has {len(values)} such samples; allowed: at most n={len(values)}")
    unknown = dict.fromkeys(("sampler", "settings", "guidance", "schedule", "nfe", "seconds", "computed_in"))
    return Samples(values=values[:n], labels=None, facts={**unknown, "samples": source})


def store(samples: Samples, spec: DatasetSpec, directory: Path, facts: dict[str, Any], pictures: bool) -> None:
    """Write ``eval.json``; with ``pictures``, write ``samples.npz`` and ``grid.png`` too."""
    if pictures:
        store_samples([to_stored(samples.values, spec)], samples.labels, range(len(samples.values)), spec, directory)
    write_json(directory / "eval.json", facts)

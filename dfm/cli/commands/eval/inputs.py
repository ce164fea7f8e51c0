"""What ``dfm eval`` judges, and beside what: samples drawn or stored, held-out examples, and features of both."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from dfm.basics.devices import check_precision, products
from dfm.basics.errors import UserError
from dfm.basics.files import write_json
from dfm.basics.seeding import Purpose, stream
from dfm.cli import console
from dfm.cli.command_line import variant
from dfm.cli.from_checkpoint import check_jumps, dataset_of, guide, load_denoiser, own_sampler
from dfm.cli.unused_settings import refuse_unused
from dfm.data.dataset import Dataset, DatasetSpec
from dfm.denoising.denoiser import Denoiser
from dfm.evaluation.features import Features, kind_for
from dfm.runs import parts as assemble
from dfm.runs.checkpoint import Checkpoint, find
from dfm.runs.sample_files import read_labels, read_samples, store
from dfm.sampling.draw import as_data, batch_of, check_labels, draw_samples, spread
from dfm.sampling.samplers import Sampler

if TYPE_CHECKING:
    from dfm.cli.settings import EvalSettings

DRAWN = 1000
OF_DRAWING = ("sampler", "grid", "guidance", "schedule", "batch_size", "precision")


@dataclass(frozen=True, kw_only=True)
class Samples:
    """Samples as ``Split`` has examples, their classes if they have any, and how they came about."""

    values: Tensor
    labels: Tensor | None
    facts: dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Source:
    """What samples are drawn from and how; ``facts`` say it in plain containers."""

    denoiser: Denoiser
    sampler: Sampler
    facts: dict[str, Any]


def origin(
    config: dict[str, Any], wanted: "EvalSettings", device: torch.device, trust: Sequence[str]
) -> tuple[Checkpoint | None, Source | None]:
    """The checkpoint, if one is named, and what to draw from, unless the samples are stored ones.

    Raises:
        UserError: neither is named, or what only drawing heeds is given with stored samples.
    """
    if wanted.samples is None:
        if wanted.ckpt is None:
            raise UserError("neither ckpt= nor samples= is given; allowed: one of them; try ckpt=latest")
        return source_of(config, wanted.ckpt, device, trust)
    refuse_unused(OF_DRAWING, "on samples that are drawn")
    return find(wanted.ckpt)[0] if wanted.ckpt is not None else None, None


def source_of(
    config: dict[str, Any], ckpt: str, device: torch.device, trust: Sequence[str]
) -> tuple[Checkpoint, Source]:
    """A checkpoint and what ``dfm sample`` would draw from it with.

    Raises:
        UserError: there is none, or the sampler or the guidance is not for it.
    """
    assemble.sampler(config, trust)  # a mistake in it is told before a checkpoint is read
    guidance = assemble.guidance(config, trust)
    found, denoiser = load_denoiser(config, ckpt, device, trust, ode=False)
    sampler, how, name = own_sampler(config, found, trust)
    drawn = guide(guidance, found, denoiser, device, trust)
    check_jumps(sampler, denoiser, drawn)
    facts = {
        "sampler": name, "settings": how, "guidance": config["guidance"],
        "schedule": config.get("schedule") or found.config["schedule"],
    }  # fmt: skip
    return found, Source(denoiser=drawn, sampler=sampler, facts=facts)


def references_of(config: dict[str, Any], found: Checkpoint | None, trust: Sequence[str]) -> Dataset:
    """The data set that the samples are to be like: the command's, or the checkpoint's with the keys it replaces.

    Raises:
        UserError: there is none, or its examples are of another form than the checkpoint's.
    """
    if "_target_" in config["dataset"]:
        data = assemble.dataset(config, trust)
    elif found is not None:
        data = dataset_of(found, config, trust)
    else:
        raise UserError("samples= of which data? allowed: ckpt= or dataset= beside it; try dataset=digits")
    if found is not None and (data.spec.shape, data.spec.levels) != (found.spec.shape, found.spec.levels):
        raise UserError(
            f"dataset={data.spec.name}: examples of shape {data.spec.shape} and {data.spec.levels} levels; allowed: "
            f"those of the checkpoint, shape {found.spec.shape} and {found.spec.levels} levels; try without dataset="
        )
    return data


def examples(data: Dataset, name: str, label: int | str | None) -> Tensor:
    """The examples of a split, all or of one class.

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


def some(values: Tensor, n: int, seed: int) -> Tensor:
    """n of the examples at random, or all that there are."""
    order = stream(seed, 0, Purpose.RESAMPLE, step=1).permutation(len(values))
    return values[torch.from_numpy(order[:n])]


def features_of(config: dict[str, Any], data: Dataset, device: torch.device, trust: Sequence[str]) -> Features:
    """The features that the command names, or those that go with the data."""
    if config.get("features") is None:
        config = variant("eval", f"features={kind_for(data.spec)}")
    return assemble.features(config, data, device, trust)


def prepare(features: Features) -> None:
    """Train the classifier if there is none yet, behind a bar."""
    began, steps = time.perf_counter(), 0
    with console.bar() as bar:
        progress = bar.add_task("classifier", total=features.steps, visible=False)
        for report in features.prepare():
            steps = report.step
            bar.update(progress, completed=steps, visible=True)
    if steps:
        console.say(f"classifier trained in {time.perf_counter() - began:.0f} s, and kept for the next time")


def draw(wanted: "EvalSettings", source: Source, device: torch.device) -> Samples:
    """Samples 0 .. n-1, as ``dfm sample`` draws them."""
    n, spec = DRAWN if wanted.n is None else wanted.n, source.denoiser.spec
    labels = check_labels(spec, wanted.label, range(n))
    began = time.perf_counter()
    with console.bar() as bar, products(check_precision(wanted.precision, device), device):
        progress = bar.add_task("sample", total=n)
        result = draw_samples(
            source.denoiser,
            source.sampler,
            range(n),
            seed=wanted.seed,
            batch_size=batch_of(wanted.batch_size, spec, device),
            labels=labels,
            device=device,
            convert=lambda x: as_data(x, spec),
            watch=lambda moment: bar.advance(progress, len(moment.indices) if moment.state.final else 0),
        )
    seconds = time.perf_counter() - began
    facts = {
        **source.facts,
        "nfe": result.nfe,
        "seconds": seconds,
        "computed_in": wanted.precision,
        "samples": None,
    }
    return Samples(values=result.samples, labels=labels, facts=facts)


def read(wanted: "EvalSettings", spec: DatasetSpec) -> Samples:
    """Stored samples, all or the first n; of one class if there is ``label``: by the classes stored beside them.

    Raises:
        UserError: there are none such, or fewer than n.
    """
    assert wanted.samples is not None
    values = read_samples(wanted.samples, spec)
    if isinstance(wanted.label, int):
        labels = read_labels(wanted.samples, len(values))
        if labels is None:
            console.warn(
                f"label={wanted.label}: no classes stand beside these samples; all are taken to be of this one"
            )
        elif not len(values := values[labels == wanted.label]):
            raise UserError(f"label={wanted.label}: none of {wanted.samples} is of this class; try without label=")
    if wanted.n is not None and wanted.n > len(values):
        raise UserError(f"n={wanted.n}: there are {len(values)} samples in {wanted.samples}; allowed: at most as many")
    unknown = dict.fromkeys(("sampler", "settings", "guidance", "schedule", "nfe", "seconds", "computed_in"))
    return Samples(values=values[: wanted.n], labels=None, facts={**unknown, "samples": wanted.samples})


def keep(samples: Samples, spec: DatasetSpec, directory: Path, facts: dict[str, Any], pictures: bool) -> None:
    """``eval.json``, and of samples that were drawn ``samples.npz`` and ``grid.png``."""
    if not pictures:
        write_json(directory / "eval.json", facts)
        return
    values = spread(samples.values, spec)
    store(values, samples.labels, range(len(values)), spec, directory, False, facts, name="eval.json")

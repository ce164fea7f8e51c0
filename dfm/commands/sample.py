"""``dfm sample``: draw from a checkpoint."""

import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig

from dfm import console
from dfm.config import launch, overrides, plain, run_directory, settings
from dfm.distributed import Team, team

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from dfm.datasets.base import DatasetSpec
    from dfm.denoiser import Denoiser
    from dfm.samplers import Sampler


@dataclass(frozen=True)
class SampleSettings:
    """The command's own keys; ``configs/sample.yaml`` says what each is."""

    ckpt: str | None
    n: int
    seed: int
    batch_size: int | None
    label: int | str | None
    index: int | None
    split: str
    mask: str | None
    png: bool
    device: str
    precision: str


def main() -> None:
    """The command."""
    launch("sample", job, shared=True)


def job(cfg: DictConfig) -> None:
    """Draw samples from one checkpoint and store them."""
    config, directory = plain(cfg), run_directory()
    wanted = settings(config, SampleSettings)
    import torch

    from dfm import assemble
    from dfm.commands.loaded import check_jumps, guided, loaded, own_sampler
    from dfm.commands.observed import observed, report
    from dfm.devices import checked_precision, resolve_device
    from dfm.inverse import Observed
    from dfm.run_dir import write_json, write_overrides
    from dfm.sampling import check_count, checked_labels

    trust = assemble.trusted(config)
    assemble.sampler(config, trust)  # a mistake in it is told before a checkpoint is read
    guidance, task = assemble.guidance(config, trust), assemble.task(config, trust)
    check_count(wanted.n, wanted.batch_size)
    members = team()
    device = resolve_device(wanted.device, members.local)
    checked_precision(wanted.precision, device)
    found, denoiser = loaded(config, wanted.ckpt, device, trust, ode=False)
    sampler, how, name = own_sampler(config, found, trust)
    drawn = guided(guidance, found, denoiser, device, trust)
    by_class = wanted.label == "all"
    indices = chosen(wanted.index, whole_rows(wanted.n, drawn.spec) if by_class else wanted.n)
    labels = checked_labels(drawn.spec, wanted.label, indices)
    drawn, truth = observed(task, drawn, found, config, indices, trust)
    check_jumps(sampler, denoiser, drawn)
    if truth is not None and labels is not None and wanted.label is None:
        labels = truth.labels

    tally = Tally()
    pieces: Iterable[Tensor] = pieces_of(members, drawn, sampler, indices, labels, wanted, device, tally)
    if truth is not None:
        pieces = list(pieces)
    if members.first:
        keep(pieces, labels, indices, drawn.spec, directory, wanted.png, by_class=by_class)
    else:
        for _ in pieces:
            pass  # its share is drawn; the first process stores it
        return
    facts = {
        "sampler": name,
        "settings": how,
        "guidance": config["guidance"],
        "task": config["task"],
        "schedule": config.get("schedule") or found.config["schedule"],
        "nfe": tally.evaluations / len(indices),
        "seconds": tally.seconds,
        "computed_in": wanted.precision,
        "n": len(indices),
        "seed": wanted.seed,
        "label": wanted.label,
        "checkpoint": str(found.path),
        "checkpoint_step": found.step,
    }
    write_overrides(directory, overrides())
    if truth is not None:
        assert isinstance(drawn, Observed)
        facts.update(report(drawn, truth, torch.cat(list(pieces)), found.spec, directory))
    write_json(directory / "sample.json", facts)
    console.say(f"{len(indices)} samples in {tally.seconds:.1f} s, {facts['nfe']:.0f} NFE: {directory / 'grid.png'}")
    console.say(f"run directory: {directory}")


@dataclass
class Tally:
    """What drawing took so far: evaluations of the network, times samples; seconds."""

    evaluations: float = 0.0
    seconds: float = 0.0


def pieces_of(
    members: Team, denoiser: "Denoiser", sampler: "Sampler", indices: range, labels: "Tensor | None",
    wanted: SampleSettings, device: "torch.device", tally: Tally,
) -> Iterator["Tensor"]:  # fmt: skip
    """The samples as they are stored, in order, a batch of each process at a time: no more than that is in memory."""
    import torch

    from dfm.commands.observed import restored
    from dfm.devices import checked_precision, products
    from dfm.sampling import batch_of, sample_batches, stored

    def batch(places: range) -> tuple[torch.Tensor, float]:
        rows = torch.arange(places.start, places.stop)
        mine = denoiser.rows(rows)
        moments = sample_batches(
            mine, sampler, [indices[k] for k in places], seed=wanted.seed, batch_size=len(places),
            labels=None if labels is None else labels[rows], device=device,
        )  # fmt: skip
        with products(checked_precision(wanted.precision, device), device):
            for moment in moments:
                bar.update(progress, description=f"sample, step {moment.state.step}")
        last = moment.state  # the final one
        found = stored(restored(mine, last.x, torch.arange(len(places))), denoiser.spec)
        return found, last.nfe * len(places)

    # no process without a share
    size = min(batch_of(wanted.batch_size, denoiser.spec, device), -(-len(indices) // members.size))
    batches = [range(k, min(k + size, len(indices))) for k in range(0, len(indices), size)]
    with console.bar(quiet=not members.first) as bar:
        progress = bar.add_task("sample", total=len(indices))
        for first in range(0, len(batches), members.size):
            began = time.perf_counter()
            own = batches[first : first + members.size][members.rank : members.rank + 1]
            parts = [part for each in members.gathered([batch(places) for places in own]) for part in each]
            tally.evaluations += sum(spent for _, spent in parts)
            tally.seconds += time.perf_counter() - began
            values = torch.cat([values for values, _ in parts])
            bar.advance(progress, len(values))
            yield values


def whole_rows(n: int, spec: "DatasetSpec") -> int:
    """n, and as many more as give every class the same number."""
    return n + -n % max(1, spec.num_classes)


def chosen(index: int | None, n: int) -> range:
    """The numbers of the samples to draw: 0 .. n-1, or one alone.

    Raises:
        UserError: a negative number.
    """
    from dfm.errors import UserError

    if index is None:
        return range(n)
    if index < 0:
        raise UserError(f"index={index}; allowed: a whole number of at least 0")
    return range(index, index + 1)


def store(
    samples: "Tensor",
    labels: "Tensor | None",
    indices: range,
    spec: "DatasetSpec",
    directory: Path,
    png: bool,
    facts: dict[str, Any],
    columns: int | None = None,
    name: str = "sample.json",
) -> None:
    """What ``keep`` leaves of samples that are all there, and the facts."""
    from dfm.run_dir import write_json

    keep([samples], labels, indices, spec, directory, png, columns)
    write_json(directory / name, facts)


def keep(
    pieces: Iterable["Tensor"],
    labels: "Tensor | None",
    indices: range,
    spec: "DatasetSpec",
    directory: Path,
    png: bool,
    columns: int | None = None,
    by_class: bool = False,
) -> None:
    """``samples.npz`` and ``grid.png``, and ``png/000000.png`` ... where asked for, written as the samples come.

    Args:
        by_class: a row of the grid is a class; ``samples.npz`` stays in the order of the samples' numbers.
    """
    import torch

    from dfm import images_io
    from dfm.commands.arrays import npz_writer
    from dfm.commands.pictures import picture

    limit = GRID_LIMIT if spec.levels is not None else len(indices)
    shown: list[torch.Tensor] = []
    if png and spec.levels is not None:
        (directory / "png").mkdir(exist_ok=True)
    with npz_writer(directory / "samples.npz", "samples", len(indices)) as file:
        done = 0
        for piece in pieces:
            values = images_io.nhwc(piece) if spec.levels is not None else piece.numpy()
            file.write(values)
            if png and spec.levels is not None:
                for number, image in zip(indices[done : done + len(piece)], values, strict=True):
                    images_io.save_png(image, directory / "png" / f"{number:06d}.png")
            shown.append(piece[: max(0, limit - done)].clone())  # not a view: the rest of the piece is let go
            done += len(piece)
        if labels is not None:
            file.add("labels", labels.numpy())
    first = torch.cat(shown)
    if by_class and labels is not None:  # classes come in turn, so each has its samples among the first
        columns = max(1, len(first) // spec.num_classes)
        own = labels[: len(first)]
        first = torch.cat([first[own == c][:columns] for c in range(spec.num_classes)])
    images_io.save_png(picture(first, spec, columns), directory / "grid.png")


GRID_LIMIT = 400

"""``dfm sample``: draw from a checkpoint."""

import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from omegaconf import DictConfig

from dfm.basics.processes import World, world
from dfm.cli import console
from dfm.cli.command_line import overrides, plain, run_directory
from dfm.cli.launch import launch
from dfm.cli.settings import SampleSettings
from dfm.runs.build import settings
from dfm.runs.sample_files import keep

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from dfm.data.dataset import DatasetSpec
    from dfm.denoising.denoiser import Denoiser
    from dfm.sampling.samplers import Sampler


def main() -> None:
    """The command."""
    launch("sample", job, shared=True)


def job(cfg: DictConfig) -> None:
    """Draw samples from one checkpoint and store them."""
    config, directory = plain(cfg), run_directory()
    wanted = settings(config, SampleSettings)
    import torch

    from dfm.basics.devices import check_precision, resolve_device
    from dfm.basics.files import write_json
    from dfm.cli.commands.sample.inverse_task import conditioned, report
    from dfm.cli.from_checkpoint import check_jumps, guide, load_denoiser, own_sampler
    from dfm.runs import parts as assemble
    from dfm.runs.directory import write_overrides
    from dfm.sampling.draw import check_count, check_labels
    from dfm.sampling.inverse_problems import Conditioned

    trust = assemble.trusted(config)
    assemble.sampler(config, trust)  # a mistake in it is told before a checkpoint is read
    guidance, task = assemble.guidance(config, trust), assemble.task(config, trust)
    check_count(wanted.n, wanted.batch_size)
    members = world()
    device = resolve_device(wanted.device, members.local)
    check_precision(wanted.precision, device)
    found, denoiser = load_denoiser(config, wanted.ckpt, device, trust, ode=False)
    sampler, how, name = own_sampler(config, found, trust)
    drawn = guide(guidance, found, denoiser, device, trust)
    by_class = wanted.label == "all"
    indices = chosen(wanted.index, whole_rows(wanted.n, drawn.spec) if by_class else wanted.n)
    labels = check_labels(drawn.spec, wanted.label, indices)
    drawn, truth = conditioned(task, drawn, found, config, indices, trust)
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
        assert isinstance(drawn, Conditioned)
        facts.update(report(drawn, truth, torch.cat(list(pieces)), found.spec, directory))
    write_json(directory / "sample.json", facts)
    console.result(f"{len(indices)} samples in {tally.seconds:.1f} s, {facts['nfe']:.0f} NFE: {directory / 'grid.png'}")
    console.result(f"run directory: {directory}")


@dataclass
class Tally:
    """What drawing took so far: evaluations of the network, times samples; seconds."""

    evaluations: float = 0.0
    seconds: float = 0.0


def pieces_of(
    members: World, denoiser: "Denoiser", sampler: "Sampler", indices: range, labels: "Tensor | None",
    wanted: SampleSettings, device: "torch.device", tally: Tally,
) -> Iterator["Tensor"]:  # fmt: skip
    """The samples as they are stored, in order, a batch of each process at a time: no more than that is in memory."""
    import torch

    from dfm.basics.devices import check_precision, products
    from dfm.cli.commands.sample.inverse_task import restore_known
    from dfm.sampling.draw import batch_of, draw_samples, stored

    def batch(places: range) -> tuple[torch.Tensor, float]:
        rows = torch.arange(places.start, places.stop)
        mine = denoiser.select(rows)
        with products(check_precision(wanted.precision, device), device):
            result = draw_samples(
                mine,
                sampler,
                [indices[k] for k in places],
                seed=wanted.seed,
                batch_size=len(places),
                labels=None if labels is None else labels[rows],
                device=device,
                convert=lambda x: x,
                watch=lambda moment: bar.update(progress, description=f"sample, step {moment.state.step}"),
            )
        samples = stored(restore_known(mine, result.samples, torch.arange(len(places))), denoiser.spec)
        return samples, result.nfe * len(places)

    # no process without a share
    size = min(batch_of(wanted.batch_size, denoiser.spec, device), -(-len(indices) // members.size))
    batches = [range(k, min(k + size, len(indices))) for k in range(0, len(indices), size)]
    with console.bar(quiet=not members.first) as bar:
        progress = bar.add_task("sample", total=len(indices))
        for first in range(0, len(batches), members.size):
            began = time.perf_counter()
            own = batches[first : first + members.size][members.rank : members.rank + 1]
            parts = [part for each in members.all_gather([batch(places) for places in own]) for part in each]
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
    from dfm.basics.errors import UserError

    if index is None:
        return range(n)
    if index < 0:
        raise UserError(f"index={index}; allowed: a whole number of at least 0")
    return range(index, index + 1)

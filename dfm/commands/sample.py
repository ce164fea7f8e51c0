"""``dfm sample``: draw from a checkpoint."""

import time
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
    batch_size: int
    label: int | str | None
    index: int | None
    split: str
    mask: str | None
    png: bool
    device: str


def main() -> None:
    """The command."""
    launch("sample", job, shared=True)


def job(cfg: DictConfig) -> None:
    """Draw samples from one checkpoint and store them."""
    config, directory = plain(cfg), run_directory()
    wanted = settings(config, SampleSettings)
    from dfm import assemble
    from dfm.commands.loaded import check_jumps, guided, loaded, own_sampler
    from dfm.commands.observed import observed, report
    from dfm.devices import resolve_device
    from dfm.inverse import Observed
    from dfm.run_dir import write_overrides
    from dfm.sampling import check_count, checked_labels

    trust = assemble.trusted(config)
    assemble.sampler(config, trust)  # a mistake in it is told before a checkpoint is read
    guidance, task = assemble.guidance(config, trust), assemble.task(config, trust)
    check_count(wanted.n, wanted.batch_size)
    members = team()
    device = resolve_device(wanted.device, members.local)
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

    began = time.perf_counter()
    samples, evaluations = shared(members, drawn, sampler, indices, labels, wanted, device)
    if not members.first:
        return
    seconds = time.perf_counter() - began
    facts = {
        "sampler": name,
        "settings": how,
        "guidance": config["guidance"],
        "task": config["task"],
        "schedule": config.get("schedule") or found.config["schedule"],
        "nfe": evaluations / len(indices),
        "seconds": seconds,
        "n": len(indices),
        "seed": wanted.seed,
        "label": wanted.label,
        "checkpoint": str(found.path),
        "checkpoint_step": found.step,
    }
    write_overrides(directory, overrides())
    if truth is not None:
        assert isinstance(drawn, Observed)
        facts.update(report(drawn, truth, samples, found.spec, directory))
    store(samples, labels, indices, drawn.spec, directory, wanted.png, facts, by_class=by_class)
    console.say(f"{len(indices)} samples in {seconds:.1f} s, {facts['nfe']:.0f} NFE: {directory / 'grid.png'}")
    console.say(f"run directory: {directory}")


def shared(
    members: Team, denoiser: "Denoiser", sampler: "Sampler", indices: range, labels: "Tensor | None",
    wanted: SampleSettings, device: "torch.device",
) -> tuple["Tensor", float]:  # fmt: skip
    """(all samples as they are stored, in order; evaluations): every process draws some of the batches."""
    import torch

    from dfm.commands.observed import restored
    from dfm.sampling import sample_batches, stored

    batches = [range(k, min(k + wanted.batch_size, len(indices))) for k in range(0, len(indices), wanted.batch_size)]
    places = torch.tensor([place for batch in members.share(batches) for place in batch], dtype=torch.int64)
    mine = denoiser.rows(places) if members.size > 1 else denoiser
    own = None if labels is None else labels[places]
    parts: list[torch.Tensor] = []
    done, evaluations = 0, 0.0
    with console.bar(quiet=not members.first) as bar:
        progress = bar.add_task("sample", total=len(places))
        for moment in sample_batches(
            mine, sampler, [indices[int(k)] for k in places], seed=wanted.seed, batch_size=wanted.batch_size,
            labels=own, device=device,
        ):  # fmt: skip
            if moment.state.final:
                count = len(moment.indices)
                parts.append(stored(restored(mine, moment.state.x, torch.arange(done, done + count)), denoiser.spec))
                done += count
                evaluations += moment.state.nfe * count
                bar.advance(progress, count)
    drawn = torch.cat(parts) if parts else None
    found = members.gathered((places, drawn, evaluations))
    order = torch.cat([where for where, _, _ in found]).argsort()
    samples = torch.cat([values for _, values, _ in found if values is not None])
    return samples[order], sum(spent for _, _, spent in found)


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
    by_class: bool = False,
) -> None:
    """``grid.png``, ``samples.npz`` and the facts, and ``png/000000.png`` ... where asked for.

    Args:
        by_class: a row of the grid is a class; ``samples.npz`` stays in the order of the samples' numbers.
    """
    import torch

    from dfm import images_io
    from dfm.commands.arrays import save_npz
    from dfm.commands.pictures import picture
    from dfm.run_dir import write_json

    arrays = {"samples": images_io.nhwc(samples) if spec.levels is not None else samples.numpy()}
    if labels is not None:
        arrays["labels"] = labels.numpy()
    save_npz(directory / "samples.npz", arrays)
    shown = samples
    if by_class and labels is not None:
        columns = max(1, min(len(samples), GRID_LIMIT) // spec.num_classes)
        shown = torch.cat([samples[labels == c][:columns] for c in range(spec.num_classes)])
    elif spec.levels is not None:
        shown = samples[:GRID_LIMIT]
    images_io.save_png(picture(shown, spec, columns), directory / "grid.png")
    write_json(directory / name, facts)
    if png and spec.levels is not None:
        (directory / "png").mkdir(exist_ok=True)
        for number, image in zip(indices, arrays["samples"], strict=True):
            images_io.save_png(image, directory / "png" / f"{number:06d}.png")


GRID_LIMIT = 400

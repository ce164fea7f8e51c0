"""``dfm sample``: draw from a checkpoint."""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from dfm.basics.devices import check_precision, products
from dfm.basics.errors import UserError
from dfm.basics.files import write_json
from dfm.cli import console, progress
from dfm.cli.commands.sample.inverse_task import KnownImages, known_images
from dfm.cli.from_checkpoint import classes_for, load_drawing
from dfm.cli.job import Job
from dfm.cli.settings import SampleSettings
from dfm.data.numbers.stored_form import stored
from dfm.denoising.denoiser import Denoiser
from dfm.runs.sample_files import store_samples
from dfm.sampling.draw import batch_of, check_count, draw_samples
from dfm.sampling.samplers import Sampler


def run(job: Job) -> None:
    """Draw samples from one checkpoint and store them; the processes of torchrun share the batches."""
    wanted: SampleSettings = job.settings
    check_count(wanted.n, wanted.batch_size)
    check_precision(wanted.precision, job.device)
    drawing = load_drawing(job)
    asked, spec = classes_for(job, drawing.denoiser), drawing.denoiser.spec
    indices = sample_numbers(wanted.index, asked.whole_rows(wanted.n))
    if wanted.png and len(spec.shape) < 3:
        console.warn(f"png=true: {spec.name} has no pictures; all samples are in grid.png and samples.npz")
    labels = asked.of(indices)
    decoder = job.parts.decoder
    decoder.check(spec)
    known = known_images(job, drawing, indices, asked)
    if known is not None and labels is not None and asked.kind == "null":
        labels = known.labels

    denoiser = drawing.denoiser if known is None else known.denoiser
    draw = Draw(job=job, denoiser=denoiser, sampler=drawing.sampler, indices=indices, labels=labels, known=known)
    pieces = draw.pieces() if known is None else list(draw.pieces())
    if not job.world.first:
        for _ in pieces:
            pass  # this process draws its share, and the first process stores it
        return
    shown: dict[str, Any] = {"png": wanted.png, "rows": asked.rows, "decode": decoder.on(job.device)}
    store_samples(pieces, labels, indices, spec, job.directory, **shown)
    facts = {
        **drawing.facts,
        "task": job.config["task"],
        "decoder": job.config["decoder"],
        "nfe": draw.evaluations / len(indices),
        "seconds": draw.seconds,
        "computed_in": wanted.precision,
        "n": len(indices),
        "seed": wanted.seed,
        **asked.facts,
        "checkpoint": str(drawing.checkpoint.path),
        "checkpoint_step": drawing.checkpoint.step,
    }
    if known is not None:
        facts.update(known.write_comparison(torch.cat(list(pieces)), job.directory))
    write_json(job.directory / "sample.json", facts)
    grid = job.directory / "grid.png"
    console.result(f"{len(indices)} samples in {draw.seconds:.1f} s, {facts['nfe']:.0f} NFE: {grid}")


@dataclass(kw_only=True)
class Draw:
    """The draw of samples ``indices``, and its cost so far.

    Args:
        labels: the classes int64 (len(indices),), or None.
        known: the images of which a part is known, if there is a task.
        evaluations: the sum over samples of the evaluations of the network.
        seconds: the time for drawing.
    """

    job: Job
    denoiser: Denoiser
    sampler: Sampler
    indices: range
    labels: Tensor | None
    known: KnownImages | None
    evaluations: float = 0.0
    seconds: float = 0.0

    def pieces(self) -> Iterator[Tensor]:
        """Yield the samples in order, as they are stored. Only one batch of each process is in memory at a time."""
        world, n, spec = self.job.world, len(self.indices), self.denoiser.spec
        # at most n / size samples per batch, so that every process gets some
        size = min(batch_of(self.job.settings.batch_size, spec, self.job.device), -(-n // world.size))
        batches = [range(k, min(k + size, n)) for k in range(0, n, size)]
        with progress.task("sample", n, "samples", quiet=not world.first) as task:

            def show(step: int) -> None:
                task.note(f"step {step}")

            for first in range(0, len(batches), world.size):
                start = time.perf_counter()
                own = batches[first : first + world.size][world.rank : world.rank + 1]
                parts = [p for each in world.all_gather([self._batch(places, show) for places in own]) for p in each]
                self.evaluations += sum(evaluations for _, evaluations in parts)
                self.seconds += time.perf_counter() - start
                values = torch.cat([values for values, _ in parts])
                task.advance(len(values))
                yield values

    def _batch(self, places: range, show: Callable[[int], None]) -> tuple[Tensor, float]:
        """Return the samples at these places of ``indices`` as they are stored, and the sum of their evaluations."""
        rows = torch.arange(places.start, places.stop)
        spec, device = self.denoiser.spec, self.job.device
        with products(check_precision(self.job.settings.precision, device), device):
            result = draw_samples(
                self.denoiser.select(rows),
                self.sampler,
                [self.indices[k] for k in places],
                seed=self.job.settings.seed,
                batch_size=len(places),
                labels=None if self.labels is None else self.labels[rows],
                device=device,
                convert=lambda x: x,
                watch=lambda moment: show(moment.state.step),
            )
        samples = result.samples if self.known is None else self.known.restore(result.samples, rows)
        return stored(samples, spec), result.nfe * len(places)


def sample_numbers(index: int | None, n: int) -> range:
    """Return the numbers of the samples to draw: 0 .. n-1, or only ``index``.

    Raises:
        UserError: ``index`` is negative.
    """
    if index is None:
        return range(n)
    if index < 0:
        raise UserError(f"index={index}; allowed: a whole number of at least 0")
    return range(index, index + 1)

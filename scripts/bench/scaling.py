"""Measure how the time and memory of training grow: with image size, channels, batch, examples, and processes.

Usage: python scripts/bench/scaling.py --out DIR [--axes size channels batch examples processes] [--seconds 5]
           [--examples 1000 20000 200000] [--processes 1 2] [--threads N]

Each line is measured in a separate process: the whole step of ``dfm train`` (``Trainer``) on a U-Net of two
resolutions, two blocks each, attention at the lower one, with --size 32, --channels 32 and --batch 64, one of them
changed. ``growth`` is the exponent k of the time per image since the line before, time ~ value^k. Memory is the peak of
the process's own pages (``RssAnon``; pages of mapped files are not counted, because the system can take them back).

``examples``: folders of this number of generated PNGs of 32x32. ``start`` is the time from nothing to the first step:
of a first run, which decodes the images, and of a second run. ``processes``: torchrun on this machine with gloo, one
thread each, the same batch shared by all. The table is printed, and DIR/scaling.png is drawn. The folders are made in
DIR and kept for the next time.
"""

import argparse
import json
import math
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

AXES = {"size": (16, 32, 64), "channels": (16, 32, 64, 128), "batch": (8, 32, 128, 512)}
BASE = {"size": 32, "channels": 32, "batch": 64}


@dataclass(frozen=True)
class Line:
    """The result of one process: seconds per image, GiB, seconds to the first step (of a first and of a second run)."""

    axis: str
    value: int
    image: float
    memory: float
    starts: list[float] = field(default_factory=list)


def own_memory() -> float:
    """Return the GiB of this process's own pages."""
    status = Path("/proc/self/status").read_text("utf-8")
    return int(status.partition("RssAnon:")[2].split()[0]) / 2**20


@contextmanager
def peak() -> Iterator[list[float]]:
    """Measure the largest ``own_memory`` inside the block, a hundred times per second."""
    largest, end = [own_memory()], threading.Event()

    def look() -> None:
        while not end.wait(0.01):
            largest[0] = max(largest[0], own_memory())

    thread = threading.Thread(target=look, daemon=True)
    thread.start()
    try:
        yield largest
    finally:
        end.set()
        thread.join()


def measure(options: argparse.Namespace) -> None:
    """Train in this process, and print {image, memory, start} as JSON."""
    launch = time.time() if options.launch is None else options.launch
    with peak() as memory:
        trainer = make_trainer(options)
        steps = trainer.steps()
        times: list[float] = []
        next(steps)
        start = time.time() - launch
        end = time.perf_counter() + options.seconds
        # All processes continue until the last one has finished, because every step needs all of them.
        while trainer.world.all_max(float(len(times) < 3 or time.perf_counter() < end)):
            before = time.perf_counter()
            next(steps)
            times.append(time.perf_counter() - before)
    if trainer.world.first:
        print(
            json.dumps({"image": sorted(times)[len(times) // 2] / options.batch, "memory": memory[0], "start": start})
        )


def make_trainer(options: argparse.Namespace):  # type: ignore[no-untyped-def]  # torch is imported where it is used
    """Return the trainer, on random images or on the images of a folder."""
    import torch

    from dfm.basics.devices import resolve_device
    from dfm.basics.processes import world
    from dfm.data.dataset import Dataset, DatasetSpec, Split
    from dfm.data.pictures import ImageFolder
    from dfm.denoising.network_denoiser import NetworkDenoiser
    from dfm.denoising.predictions import Velocity
    from dfm.models.unet import UNet
    from dfm.paths.interpolating import Linear
    from dfm.training.objectives.densities import UniformDensity
    from dfm.training.objectives.loss_weights import UniformWeight
    from dfm.training.objectives.regression import Regression
    from dfm.training.trainer import Trainer
    from dfm.training.trainer_config import TrainerConfig

    if options.folder:
        data: Dataset = ImageFolder(
            path=options.folder, size=options.size, cache=f"{options.folder}.cache", labels=False
        )
        spec, split = data.spec, data.split("train")
    else:
        shape = (3, options.size, options.size)
        spec = DatasetSpec(name="noise", shape=shape, levels=256, num_classes=0, mean=0.0, std=0.5)
        split = Split(values=torch.randint(0, 256, (4096, *shape), dtype=torch.uint8), labels=None)
    torch.manual_seed(0)
    network = UNet(
        shape=spec.shape,
        channels=options.channels,
        channel_multipliers=(1, 2),
        blocks_per_level=2,
        attention_levels=(1,),
        groups=8,
    )
    path, members = Linear(), world()
    denoiser = NetworkDenoiser(spec=spec, schedule=path, trained_schedule=path, prediction=Velocity(), network=network)
    config = TrainerConfig(max_steps=1 << 30, batch_size=options.batch, accumulate=members.size)
    objective = Regression(density=UniformDensity(), weight=UniformWeight())
    device = resolve_device("auto", members.local)
    return Trainer(config, denoiser, objective, split, device=device, world=members)


def measure_apart(axis: str, value: int, options: argparse.Namespace, folder: str = "") -> dict[str, float]:
    """Return the results of a separate process with ``axis`` at ``value``."""
    numbers = {**{name: getattr(options, name) for name in BASE}, **({axis: value} if axis in BASE else {})}
    launch = [sys.executable]
    if axis == "processes" and value > 1:
        launch += ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={value}"]
    line = [*launch, __file__, "--measure", "--seconds", str(options.seconds), "--folder", folder]
    line += [text for name, number in numbers.items() for text in (f"--{name}", str(number))]
    threads = 1 if axis == "processes" else options.threads
    environment = {**os.environ, **({"OMP_NUM_THREADS": str(threads)} if threads else {})}
    line += ["--launch", str(time.time())]
    process = subprocess.run(line, capture_output=True, encoding="utf-8", env=environment)
    if process.returncode:
        raise SystemExit(f"{axis}={value} failed:\n{process.stderr[-2000:]}")
    result: dict[str, float] = json.loads(process.stdout.strip().splitlines()[-1])
    return result


def folder_of(count: int, out: Path) -> Path:
    """Return a folder of ``count`` PNGs of 32x32 in a hundred sub-folders; make it if there is none."""
    folder = out / f"images_{count}"
    if not (folder / "done").exists():
        with ProcessPoolExecutor() as pool:
            list(pool.map(write_images, [(folder / f"{k:02d}", k, len(range(k, count, 100))) for k in range(100)]))
        (folder / "done").touch()
    return folder


def write_images(task: tuple[Path, int, int]) -> None:
    """Write images of random squares into a folder; the task is (folder, seed, number of images)."""
    import numpy as np
    from PIL import Image

    folder, seed, count = task
    folder.mkdir(parents=True, exist_ok=True)
    draws = np.random.default_rng(seed)
    for k in range(count):
        small = draws.integers(0, 256, (4, 4, 3), dtype=np.uint8)
        Image.fromarray(small.repeat(8, 0).repeat(8, 1)).save(folder / f"{k:05d}.png")


def lines(options: argparse.Namespace) -> Iterator[Line]:
    """Measure the lines of the table, and yield each."""
    for axis in options.axes:
        for value in {"examples": options.examples, "processes": options.processes}.get(axis) or AXES[axis]:
            if axis != "examples":
                result = measure_apart(axis, value, options)
                yield Line(axis, value, result["image"], result["memory"])
                continue
            folder = folder_of(value, options.out)
            for old in options.out.glob(f"{folder.name}.cache/*"):
                old.unlink()
            runs = [measure_apart(axis, value, options, str(folder)) for _ in range(2)]
            yield Line(axis, value, runs[1]["image"], runs[1]["memory"], [run["start"] for run in runs])


def growth(line: Line, before: Line | None) -> str:
    """Return the exponent since the line before, if it has the same axis."""
    if before is None or before.axis != line.axis:
        return ""
    return f"{math.log(line.image / before.image) / math.log(line.value / before.value):+.2f}"


def draw(results: list[Line], file: Path) -> None:
    """Draw a panel for each axis: milliseconds per image, and GiB."""
    import matplotlib.pyplot as plt

    axes = list(dict.fromkeys(line.axis for line in results))
    figure, panels = plt.subplots(1, len(axes), figsize=(3.4 * len(axes), 3.2), squeeze=False, layout="constrained")
    for panel, axis in zip(panels[0], axes, strict=True):
        own = [line for line in results if line.axis == axis]
        values = [line.value for line in own]
        panel.loglog(values, [1000 * line.image for line in own], "o-", label="ms per image")
        panel.loglog(values, [line.memory for line in own], "s--", label="GiB")
        panel.set_xticks(values, [f"{value:,}" for value in values])
        panel.minorticks_off()
        panel.set_xlabel(axis)
        panel.grid(alpha=0.3)
    panels[0][0].legend()
    figure.savefig(file, dpi=120)


def main() -> None:
    """Measure, print the table, draw the plot."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--axes", nargs="*", default=["size", "channels", "batch", "examples", "processes"])
    parser.add_argument("--examples", type=int, nargs="*", default=[1000, 20_000, 200_000])
    parser.add_argument("--processes", type=int, nargs="*", default=[1, 2], help="on GPUs, at most the number of GPUs")
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--threads", type=int, help="of each process, but not of torchrun's; default: torch's")
    for name, number in BASE.items():
        parser.add_argument(f"--{name}", type=int, default=number, help=argparse.SUPPRESS)
    for hidden, kind in (("folder", str), ("launch", float)):
        parser.add_argument(f"--{hidden}", type=kind, help=argparse.SUPPRESS)
    parser.add_argument("--measure", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        measure(options)
        return
    if options.out is None:
        parser.error("--out DIR is needed")
    options.out.mkdir(parents=True, exist_ok=True)
    from dfm.cli.console import table

    results: list[Line] = []
    rows = []
    for line in lines(options):
        starts = ", ".join(f"{start:.1f}" for start in line.starts)
        exponent = growth(line, results[-1] if results else None)
        speed = [f"{1 / line.image:.1f}", f"{1000 * line.image:.2f}"]
        rows.append([line.axis, f"{line.value:,}", *speed, exponent, f"{line.memory:.2f}", starts])
        results.append(line)
        print(" ".join(rows[-1]), flush=True)
    table("growth of a training step", ["axis", "", "images/s", "ms per image", "growth", "GiB", "start, s"], rows)
    draw(results, options.out / "scaling.png")


if __name__ == "__main__":
    main()

"""How time and memory of training grow: with image size, channels, batch, examples of a folder, and processes.

Usage: python scripts/bench_scaling.py --out DIR [--axes size channels batch examples processes] [--seconds 5]
            [--examples 1000 20000 200000] [--processes 1 2] [--threads N]

Each line is a process of its own: ``dfm train``'s whole step (``Trainer``) on a U-Net of two levels, two blocks each,
attention at half resolution, from --size 32, --channels 32 and --batch 64 with one of them changed. ``growth`` is the
exponent k with which the time for an image grew since the line before, time ~ value^k. Memory is the peak of what the
process has for itself (``RssAnon``: pages of mapped files, which the system takes back at will, are apart).

``examples``: folders of that many generated PNGs of 32x32; start is the time from nothing to the first step, of a first
run, which decodes, and of a second. ``processes``: torchrun on this machine by gloo, one thread each, the same batch
shared by all. The table is printed, and DIR/scaling.png drawn. Folders are made below DIR and kept for the next time.
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
    """What one process found: seconds an image, GiB, seconds to the first step (of a first and of a second run)."""

    axis: str
    value: int
    image: float
    memory: float
    starts: list[float] = field(default_factory=list)


def own_memory() -> float:
    """GiB of this process's own pages."""
    status = Path("/proc/self/status").read_text()
    return int(status.partition("RssAnon:")[2].split()[0]) / 2**20


@contextmanager
def peak() -> Iterator[list[float]]:
    """The greatest ``own_memory`` while within, looked at a hundred times a second."""
    found, ended = [own_memory()], threading.Event()

    def look() -> None:
        while not ended.wait(0.01):
            found[0] = max(found[0], own_memory())

    thread = threading.Thread(target=look, daemon=True)
    thread.start()
    try:
        yield found
    finally:
        ended.set()
        thread.join()


def measure(given: argparse.Namespace) -> None:
    """In a process of its own: train, and print {image, memory, start} as JSON."""
    began = time.time() if given.began is None else given.began
    with peak() as memory:
        trainer = made(given)
        steps = trainer.steps()
        times: list[float] = []
        next(steps)
        start = time.time() - began
        end = time.perf_counter() + given.seconds
        # all processes go on until the last of them is done: a step is for all
        while trainer.world.all_max(float(len(times) < 3 or time.perf_counter() < end)):
            before = time.perf_counter()
            next(steps)
            times.append(time.perf_counter() - before)
    if trainer.world.first:
        print(json.dumps({"image": sorted(times)[len(times) // 2] / given.batch, "memory": memory[0], "start": start}))


def made(given: argparse.Namespace):  # type: ignore[no-untyped-def]  # torch is imported where it is used
    """The trainer, on random images or on a folder's."""
    import torch

    from dfm.basics.devices import resolve_device
    from dfm.basics.processes import world
    from dfm.data.dataset import Dataset, DatasetSpec, Split
    from dfm.data.image_folder import ImageFolder
    from dfm.denoising.network_denoiser import NetworkDenoiser
    from dfm.denoising.predictions import Velocity
    from dfm.models.unet import UNet
    from dfm.paths.interpolating import Linear
    from dfm.training.objectives.densities import UniformDensity
    from dfm.training.objectives.loss_weights import UniformWeight
    from dfm.training.objectives.regression import Regression
    from dfm.training.trainer import Trainer
    from dfm.training.trainer_config import TrainerConfig

    if given.folder:
        data: Dataset = ImageFolder(path=given.folder, size=given.size, cache=f"{given.folder}.cache", labels=False)
        spec, split = data.spec, data.split("train")
    else:
        shape = (3, given.size, given.size)
        spec = DatasetSpec(name="noise", shape=shape, levels=256, num_classes=0, mean=0.0, std=0.5)
        split = Split(values=torch.randint(0, 256, (4096, *shape), dtype=torch.uint8), labels=None)
    torch.manual_seed(0)
    network = UNet(
        shape=spec.shape, channels=given.channels, channel_multipliers=(1, 2), blocks_per_level=2,
        attention_levels=(1,), groups=8,
    )  # fmt: skip
    path, members = Linear(), world()
    denoiser = NetworkDenoiser(spec=spec, schedule=path, trained_schedule=path, prediction=Velocity(), network=network)
    config = TrainerConfig(max_steps=1 << 30, batch_size=given.batch, accumulate=members.size)
    objective = Regression(density=UniformDensity(), weight=UniformWeight())
    device = resolve_device("auto", members.local)
    return Trainer(config, denoiser, objective, split, device=device, world=members)


def ask(axis: str, value: int, given: argparse.Namespace, folder: str = "") -> dict[str, float]:
    """What a process of its own finds with ``axis`` at ``value``."""
    numbers = {**{name: getattr(given, name) for name in BASE}, **({axis: value} if axis in BASE else {})}
    launch = [sys.executable]
    if axis == "processes" and value > 1:
        launch += ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={value}"]
    line = [*launch, __file__, "--measure", "--seconds", str(given.seconds), "--folder", folder]
    line += [text for name, number in numbers.items() for text in (f"--{name}", str(number))]
    threads = 1 if axis == "processes" else given.threads
    environment = {**os.environ, **({"OMP_NUM_THREADS": str(threads)} if threads else {})}
    line += ["--began", str(time.time())]
    done = subprocess.run(line, capture_output=True, text=True, env=environment)
    if done.returncode:
        raise SystemExit(f"{axis}={value} failed:\n{done.stderr[-2000:]}")
    found: dict[str, float] = json.loads(done.stdout.strip().splitlines()[-1])
    return found


def folder_of(count: int, out: Path) -> Path:
    """A folder of ``count`` PNGs of 32x32, in a hundred sub-folders, made where there is none."""
    folder = out / f"images_{count}"
    if not (folder / "made").exists():
        with ProcessPoolExecutor() as pool:
            list(pool.map(write_images, [(folder / f"{k:02d}", k, len(range(k, count, 100))) for k in range(100)]))
        (folder / "made").touch()
    return folder


def write_images(task: tuple[Path, int, int]) -> None:
    """So many images of random squares into a folder."""
    import numpy as np
    from PIL import Image

    folder, seed, count = task
    folder.mkdir(parents=True, exist_ok=True)
    draws = np.random.default_rng(seed)
    for k in range(count):
        small = draws.integers(0, 256, (4, 4, 3), dtype=np.uint8)
        Image.fromarray(small.repeat(8, 0).repeat(8, 1)).save(folder / f"{k:05d}.png")


def lines(given: argparse.Namespace) -> Iterator[Line]:
    """Every line of the table, as it is measured."""
    for axis in given.axes:
        for value in {"examples": given.examples, "processes": given.processes}.get(axis) or AXES[axis]:
            if axis != "examples":
                found = ask(axis, value, given)
                yield Line(axis, value, found["image"], found["memory"])
                continue
            folder = folder_of(value, given.out)
            for old in given.out.glob(f"{folder.name}.cache/*"):
                old.unlink()
            runs = [ask(axis, value, given, str(folder)) for _ in range(2)]
            yield Line(axis, value, runs[1]["image"], runs[1]["memory"], [run["start"] for run in runs])


def growth(line: Line, before: Line | None) -> str:
    """The exponent since the line before of the same axis."""
    if before is None or before.axis != line.axis:
        return ""
    return f"{math.log(line.image / before.image) / math.log(line.value / before.value):+.2f}"


def draw(found: list[Line], path: Path) -> None:
    """A panel an axis: milliseconds an image, and GiB."""
    import matplotlib.pyplot as plt

    axes = list(dict.fromkeys(line.axis for line in found))
    figure, panels = plt.subplots(1, len(axes), figsize=(3.4 * len(axes), 3.2), squeeze=False, layout="constrained")
    for panel, axis in zip(panels[0], axes, strict=True):
        own = [line for line in found if line.axis == axis]
        values = [line.value for line in own]
        panel.loglog(values, [1000 * line.image for line in own], "o-", label="ms an image")
        panel.loglog(values, [line.memory for line in own], "s--", label="GiB")
        panel.set_xticks(values, [f"{value:,}" for value in values])
        panel.minorticks_off()
        panel.set_xlabel(axis)
        panel.grid(alpha=0.3)
    panels[0][0].legend()
    figure.savefig(path, dpi=120)


def main() -> None:
    """Measure, print the table, draw the plot."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--axes", nargs="*", default=["size", "channels", "batch", "examples", "processes"])
    parser.add_argument("--examples", type=int, nargs="*", default=[1000, 20_000, 200_000])
    parser.add_argument(
        "--processes", type=int, nargs="*", default=[1, 2], help="on cards at most as many as there are"
    )
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--threads", type=int, help="of each process but of those of torchrun; default: as torch does")
    for name, number in BASE.items():
        parser.add_argument(f"--{name}", type=int, default=number, help=argparse.SUPPRESS)
    for hidden, kind in (("folder", str), ("began", float)):
        parser.add_argument(f"--{hidden}", type=kind, help=argparse.SUPPRESS)
    parser.add_argument("--measure", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.measure:
        measure(given)
        return
    if given.out is None:
        parser.error("--out DIR is needed")
    given.out.mkdir(parents=True, exist_ok=True)
    from dfm.cli.console import table

    found: list[Line] = []
    rows = []
    for line in lines(given):
        starts = ", ".join(f"{start:.1f}" for start in line.starts)
        rows.append([
            line.axis, f"{line.value:,}", f"{1 / line.image:.1f}", f"{1000 * line.image:.2f}",
            growth(line, found[-1] if found else None), f"{line.memory:.2f}", starts,
        ])  # fmt: skip
        found.append(line)
        print(" ".join(rows[-1]), flush=True)
    table("growth of a training step", ["axis", "", "images/s", "ms an image", "growth", "GiB", "start, s"], rows)
    draw(found, given.out / "scaling.png")


if __name__ == "__main__":
    main()

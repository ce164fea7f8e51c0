"""Examples a second of dfm's batches, from memory and from files, beside torch's DataLoader on the same data.

Usage: python scripts/bench/loader.py [--n 50000] [--batch 128] [--rounds 5] [--seconds 1] [--dir DIR]

The data are uint8 (N, 3, 32, 32), random and all different. In each round every loader gives batches for some seconds,
one loader after the other; the table has medians, and the ratio to ``DataLoader`` of the same round.

    memory           dfm: a split in memory
    mapped           dfm: dataset=array on an .npy file, mapped
    channels last    dfm: the same file as (N, 32, 32, 3)
    cache            dfm: dataset=array on an .npz file that was compressed, through its cache file
    pictures         dfm: dataset=folder on PNG files, through its cache (with --pictures N; N files are written)
    webdataset       dfm: dataset=webdataset on a tar file of the same PNG files, through its cache
    threads          dfm: ``mapped`` as training takes it, with one thread ahead
    DataLoader       torch: TensorDataset of the tensor in memory, shuffled, in this process
    DataLoader, one worker        the same with one worker process
    DataLoader, whole batches     the same with a BatchSampler, so that a batch is one index operation

A batch of dfm is drawn without replacement in an order that is a function of (seed, step), as that of DataLoader is a
permutation of each epoch. The last column is the share of a core that a training of 5,000 images/s would need for its
batches.
"""

import argparse
import statistics
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch.utils.data import BatchSampler, DataLoader, RandomSampler, TensorDataset

from dfm.cli.console import table
from dfm.data import ArrayFile, ImageFolder, WebDataset
from dfm.data.split import Split
from dfm.training.batches import Batches

SHAPE = (3, 32, 32)
TRAINING = 5_000  # images a second of the fastest training that these batches must not slow down
REFERENCE = "DataLoader"
Take = Callable[[], object]


def taker(stream: Iterator[object]) -> Take:
    """Return a function that takes the next batch of a stream."""
    return lambda: next(stream)


def ours(split: Split, batch: int, workers: int = 0) -> Take:
    """Return a function that takes the next batch of dfm."""
    return taker(Batches(split, batch, 0).stream(0, workers))


def theirs(values: torch.Tensor, batch: int, workers: int = 0, whole: bool = False) -> Take:
    """Return a function that takes the next batch of a DataLoader, epoch after epoch."""
    data = TensorDataset(values)
    if whole:
        sampler = BatchSampler(RandomSampler(data), batch, drop_last=True)
        loader = DataLoader(data, sampler=sampler, batch_size=None)
    else:
        loader = DataLoader(
            data, batch, shuffle=True, drop_last=True, num_workers=workers, persistent_workers=workers > 0
        )
    return taker(each for _ in count() for each in loader)


def examples_per_second(take: Take, batch: int, seconds: float) -> float:
    """Return how many examples a second come, after one batch to warm up."""
    take()
    start, batches = time.perf_counter(), 0
    while time.perf_counter() - start < seconds:
        take()
        batches += 1
    return batches * batch / (time.perf_counter() - start)


def write_pictures(folder: Path, values: np.ndarray) -> None:
    """Write one PNG for each example."""
    folder.mkdir()
    for index, pixels in enumerate(values.transpose(0, 2, 3, 1)):
        Image.fromarray(pixels).save(folder / f"{index}.png")


def loaders(folder: Path, n: int, batch: int, pictures: int) -> dict[str, Take]:
    """Write the files and return the loaders by name."""
    values = np.random.default_rng(0).integers(0, 256, (n, *SHAPE), dtype=np.uint8)
    np.save(folder / "x.npy", values)
    np.save(folder / "last.npy", values.transpose(0, 2, 3, 1))
    np.savez_compressed(folder / "x.npz", values)
    keys = {"validation": 0, "test": 0, "cache": str(folder / "cache")}

    def file(name: str) -> Split:
        return ArrayFile(path=str(folder / name), **keys).split("train")  # type: ignore[arg-type]

    tensor = torch.from_numpy(values)
    found = {
        "memory": ours(Split(values=tensor, labels=None), batch),
        "mapped": ours(file("x.npy"), batch),
        "channels last": ours(file("last.npy"), batch),
        "cache": ours(file("x.npz"), batch),
        "threads": ours(file("x.npy"), batch, workers=1),
    }
    if pictures:
        write_pictures(folder / "pictures", values[:pictures])
        data = ImageFolder(path=str(folder / "pictures"), size=SHAPE[1], **keys)  # type: ignore[arg-type]
        found["pictures"] = ours(data.split("train"), batch)
        with tarfile.open(folder / "shard.tar", "w") as shard:
            shard.add(folder / "pictures", arcname=".")
        packed = WebDataset(path=str(folder / "shard.tar"), size=SHAPE[1], **keys)  # type: ignore[arg-type]
        found["webdataset"] = ours(packed.split("train"), batch)
    return found | {
        REFERENCE: theirs(tensor, batch),
        "DataLoader, one worker": theirs(tensor, batch, workers=1),
        "DataLoader, whole batches": theirs(tensor, batch, whole=True),
    }


def main() -> None:
    """Measure, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--n", type=int, default=50_000, help="examples")
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=1.0, help="of each loader in each round")
    parser.add_argument("--pictures", type=int, default=0, help="PNG files to write for dataset=folder; 0: none")
    parser.add_argument("--dir", type=Path, default=None, help="folder for the files")
    wanted = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=wanted.dir) as name:
        takes = loaders(Path(name), wanted.n, wanted.batch, wanted.pictures)
        rounds = [
            {label: examples_per_second(take, wanted.batch, wanted.seconds) for label, take in takes.items()}
            for _ in range(wanted.rounds)
        ]
    rows = []
    for label in takes:
        rate = statistics.median(found[label] for found in rounds)
        ratio = statistics.median(found[label] / found[REFERENCE] for found in rounds)
        rows.append([label, f"{rate:,.0f}", f"{ratio:.1f}", f"{TRAINING / rate:.1%}"])
    title = f"batches of {wanted.batch} of {wanted.n} examples {SHAPE}"
    table(title, ["loader", "examples/s", f"of {REFERENCE}", f"core at {TRAINING:,}/s"], rows)


if __name__ == "__main__":
    main()

"""Training on an array that is many times larger than the memory: what a run really needs, under a limit.

Usage: python scripts/bench/memory.py [--gib 20] [--limit 2] [--steps 20] [--dir DIR]

The array is a file with holes, uint8 (N, 3, 64, 64), whose first and last rows are written, so it takes no disk. ``dfm
train`` runs on it in a process whose private memory may not exceed the limit (RLIMIT_DATA: what is mapped from a file
does not count, what is allocated does, torch's own share included). The table has

    data/limit   the ratio of the file to the limit
    data/private the ratio of the file to the private memory (RssAnon) at its highest
    seconds      to the end of the training; the passes over the file before its first step are a part of it

Pages of the file may lie in memory as long as nobody needs the room. To limit those too, put the command into a control
group: ``systemd-run --scope -p MemoryMax=2G python scripts/bench/memory.py``. The group's peak is then printed as well.
Cost: about a minute on two cores for 20 GiB.
"""

import argparse
import os
import resource
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np

GIBIBYTE = 2**30
SHAPE = (3, 64, 64)
SETTINGS = (
    "dataset=array", "model=mlp", "model.width=32", "trainer.batch_size=64", "samples.n=4", "sampler.steps=2",
    "nll.n=0", "trainer.num_workers=1", "logger=none", "trainer.sample_every=0", "trainer.validate_every=0",
)  # fmt: skip


def write(path: Path, gib: float) -> int:
    """Write an array of this size with holes; return its bytes."""
    n = int(gib * GIBIBYTE) // int(np.prod(SHAPE))
    array = np.lib.format.open_memmap(path, "w+", np.uint8, (n, *SHAPE))
    some = np.random.default_rng(0).integers(0, 256, (500, *SHAPE), dtype=np.uint8)
    array[:500], array[-500:] = some, some
    array.flush()
    return array.nbytes


def private(pid: int) -> int:
    """Return the private memory of a process in bytes; 0 if it has ended."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text("utf-8").splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon:")), 0)


def peak_of_group() -> int | None:
    """Return the highest memory of this process's control group, pages of files included; None outside of one."""
    for line in Path("/proc/self/cgroup").read_text("utf-8").splitlines():
        _, controllers, place = line.split(":", 2)
        root, name = ("", "memory.peak") if not controllers else ("memory", "memory.max_usage_in_bytes")
        file = Path("/sys/fs/cgroup") / root / place.lstrip("/") / name
        if (not controllers or controllers == "memory") and place != "/" and file.exists():
            return int(file.read_text("utf-8"))
    return None


def main() -> None:
    """Train under the limit and print the ratios."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--gib", type=float, default=20.0, help="size of the array")
    parser.add_argument("--limit", type=float, default=2.0, help="private memory that the run may have, in GiB")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--dir", type=Path, default=None, help="folder for the file and the run")
    wanted = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=wanted.dir) as name:
        file, limit, highest = Path(name) / "x.npy", int(wanted.limit * GIBIBYTE), 0
        size = write(file, wanted.gib)
        words = [*SETTINGS, f"dataset.path={file}", f"trainer.max_steps={wanted.steps}", f"hydra.run.dir={name}/run"]
        start = time.perf_counter()
        process = subprocess.Popen(
            [sys.executable, "-m", "dfm", "train", *words],
            preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_DATA, (limit, limit)),
            env={**os.environ, "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "2")},
        )
        done = threading.Event()
        while process.poll() is None:
            highest = max(highest, private(process.pid))
            done.wait(0.02)
        seconds = time.perf_counter() - start
    if process.returncode:
        sys.exit(f"dfm train: exit {process.returncode}")
    print(f"data {size / GIBIBYTE:.1f} GiB, limit {wanted.limit:g} GiB, needed {highest / GIBIBYTE:.2f} GiB at most")
    print(f"data/limit {size / limit:.1f}, data/private {size / highest:.1f}, {seconds:.0f} seconds")
    peak = peak_of_group()
    if peak is not None:
        print(f"peak of the control group, pages of files included: {peak / GIBIBYTE:.2f} GiB")


if __name__ == "__main__":
    main()

"""Measure how fast a U-Net trains, beside U-Nets of diffusers and torchcfm with the same layout.

Usage: python scripts/bench/train.py [--rounds 5] [--seconds 6] [--batch 64] [--size 28] [--channels 64] [--compile]
       python scripts/bench/train.py --profile        # the time of dfm's step, by operator
       python scripts/bench/train.py --only "model unet_small" "model unet_patch"      # networks of configs/model
       python scripts/bench/train.py --only "dfm trainer" "dfm trainer nonleaky"       # with changed pictures

A step is: forward, mean squared error, backward, AdamW (fused). For ``dfm trainer`` it is the whole step of ``dfm
train`` (also batches, noise and times, the objective, clipping, the moving average). In each round, every network makes
steps for some seconds, one network after the other. Before them, the machine's rate of float32 matrix products is
measured again. The table shows medians over the rounds. Torch counts the FLOPs of one step; a multiplication and an
addition are two. Memory is the peak of a separate process that makes three steps.

The other packages are measured as they are, and again in the memory layout that suits convolutions (channels_last).
"""

import argparse
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from _networks import Layout, prepare, void
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from dfm.basics.devices import resolve_device
from dfm.cli.console import table

NAMES = ("dfm", "dfm trainer", "diffusers", "diffusers channels_last", "torchcfm", "torchcfm channels_last")


def matrix_rate(device: torch.device, seconds: float = 1.0) -> float:
    """Return the FLOP/s of float32 products of 2048 x 2048 matrices, by the faster of torch's two libraries on a CPU.

    A 1x1 convolution is such a product by the library for convolutions. On AMD processors it is twice as fast.
    """
    a, b = torch.randn(2, 2048, 2048, device=device)
    image = a.reshape(1, 32, 64, 2048).permute(0, 3, 1, 2)  # channels_last
    kernel = b[:, :, None, None]
    with torch.no_grad():
        ways = (lambda: void(a @ b), lambda: void(functional.conv2d(image, kernel)))
        return 2 * 2048**3 * max(per_second(way, device, seconds / 2) for way in ways)


def per_second(action: Callable[[], None], device: torch.device, seconds: float) -> float:
    """Return how often an action is done per second, after one call to warm up."""
    action()
    synchronise(device)
    start, count = time.perf_counter(), 0
    while time.perf_counter() - start < seconds or count < 3:
        action()
        count += 1
        if device.type != "cpu":
            synchronise(device)
    return count / (time.perf_counter() - start)


def synchronise(device: torch.device) -> None:
    """Wait until the device has finished its work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def flops(name: str, layout: Layout) -> float:
    """Return the FLOPs of one training step for one image."""
    small = Layout(layout.size, layout.channels, 2, torch.device("cpu"), False, False)
    plain = name if name.startswith("model ") else name.split()[0]  # memory layout and trainer add no products
    _, step = prepare(plain, small)
    # Attention as plain matrix products: on a CPU, torch does not count fused attention.
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        step()
    return counter.get_total_flops() / small.batch


def peak_memory(name: str, arguments: list[str]) -> float:
    """Return the peak memory in GiB of a separate process that makes three steps."""
    line = [sys.executable, __file__, *arguments, "--memory-of", name]
    return float(subprocess.run(line, capture_output=True, encoding="utf-8", check=True).stdout.split()[-1])


def own_peak(name: str, layout: Layout) -> float:
    """Make three steps, and return the peak memory of this process in GiB; for ``peak_memory``."""
    _, step = prepare(name, layout)
    if layout.device.type == "cuda":
        for _ in range(3):
            step()
        return torch.cuda.max_memory_allocated(layout.device) / 2**30
    for _ in range(3):
        step()
    # getrusage's peak would include the peak of the process that started this one.
    status = Path("/proc/self/status").read_text("utf-8")
    return int(status.partition("VmHWM:")[2].split()[0]) / 2**20


def rounds(names: list[str], layout: Layout, count: int, seconds: float) -> Iterator[dict[str, float]]:
    """Yield the steps per second of each network, and ``matrix``, the FLOP/s of the machine, for each round."""
    steps = {name: prepare(name, layout)[1] for name in names}
    for _ in range(count):
        yield {
            "matrix": matrix_rate(layout.device),
            **{name: per_second(step, layout.device, seconds) for name, step in steps.items()},
        }


def profile(layout: Layout) -> None:
    """Print the time of dfm's step by operator."""
    from torch.profiler import ProfilerActivity
    from torch.profiler import profile as record

    _, step = prepare("dfm trainer", layout)
    step()
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if layout.device.type == "cuda" else [])]
    with record(activities=activities) as result:
        for _ in range(5):
            step()
    key = "self_cuda_time_total" if layout.device.type == "cuda" else "self_cpu_time_total"
    print(result.key_averages().table(sort_by=key, row_limit=25, max_name_column_width=50))


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=6.0)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--size", type=int, default=28)
    parser.add_argument("--channels", type=int, default=64)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--bf16", action="store_true")
    parser.add_argument(
        "--only", nargs="*", default=list(NAMES), help=f"{', '.join(NAMES)}, dfm trainer nonleaky, model NAME"
    )
    parser.add_argument("--profile", action="store_true")
    parser.add_argument("--memory-of", help=argparse.SUPPRESS)
    options = parser.parse_args()
    device = resolve_device(options.device)
    layout = Layout(options.size, options.channels, options.batch, device, options.compile, options.bf16)
    if options.memory_of:
        print(own_peak(options.memory_of, layout))
        return
    if options.profile:
        profile(layout)
        return
    results = list(rounds(options.only, layout, options.rounds, options.seconds))
    rate = statistics.median(r["matrix"] for r in results)
    sizes = [text for key in ("batch", "size", "channels", "device") for text in (f"--{key}", str(vars(options)[key]))]
    arguments, rows = [*sizes, *(f"--{key}" for key in ("compile", "bf16") if vars(options)[key])], []
    for name in options.only:
        images = [r[name] * layout.batch for r in results]
        cost = flops(name, layout)
        share = statistics.median(r[name] * layout.batch * cost / r["matrix"] for r in results)
        middle, spread = f"{statistics.median(images):.1f}", f"{min(images):.1f} to {max(images):.1f}"
        memory = f"{peak_memory(name, arguments):.2f}"
        rows.append([name, middle, spread, f"{cost / 1e9:.2f}", f"{share:.0%}", memory])
    title = f"training, {layout.shape}, batch {layout.batch}; matrix products at {rate / 1e9:.0f} GFLOP/s"
    columns = ["network", "images/s", "over rounds", "GFLOP an image", "share of matrix rate", "GiB"]
    table(f"{title}, torch {torch.__version__}, {device}, {torch.get_num_threads()} threads", columns, rows)


if __name__ == "__main__":
    main()

"""Measure one GPU: training with each option of ``trainer``, sampling and likelihoods of the CIFAR-10 presets.

Usage: python scripts/bench/gpu.py [--seconds 2.5] [--batch 128] [--only TEXT] [--profile]
scripts/bench/gpu.sh also runs the tests that need a GPU.

The images are random with the shape of CIFAR-10. Nothing is downloaded, and only speed and memory are measured. The
training step is the whole step of ``dfm train`` (batches, noise and times, loss, clipping, AdamW, moving average).
``share`` is the FLOPs of the network's matrix products, counted by torch, divided by the rate of this card's products
of 8192x8192 matrices in bf16.
"""

import argparse
import contextlib
import time
from collections.abc import Callable, Generator
from typing import cast

import torch
from torch import nn
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

from dfm.basics.devices import check_precision, products, resolve_device
from dfm.cli.composition.command_line import compose
from dfm.cli.console import table
from dfm.data.dataset import DatasetSpec, Split
from dfm.denoising.network_denoiser import NetworkDenoiser
from dfm.likelihood.ode import OdeLikelihood
from dfm.runs.parts import Parts
from dfm.sampling.draw import sample_batches
from dfm.sampling.samplers import GridSampler
from dfm.sampling.steppers.ode import Heun
from dfm.training.step_report import StepReport
from dfm.training.trainer import Trainer
from dfm.training.trainer_config import TrainerConfig

SPEC = DatasetSpec(name="noise", shape=(3, 32, 32), levels=256, num_classes=0, mean=0.0, std=0.5)
TRAINING: dict[str, dict[str, object]] = {
    "fp32": {},
    "tf32": {"precision": "tf32"},
    "bf16": {"precision": "bf16"},
    "bf16, not channels_last": {"precision": "bf16", "channels_last": False},
    "bf16, compiled": {"precision": "bf16", "compile": True},
    "bf16, compiled, num_workers=0": {"precision": "bf16", "compile": True, "num_workers": 0},
    "bf16, activation checkpointing": {"precision": "bf16", "activation_checkpointing": True},
    "bf16, compiled, activation checkpointing": {
        "precision": "bf16",
        "compile": True,
        "activation_checkpointing": True,
    },
}


def trainer(preset: str, batch: int, device: torch.device, options: dict[str, object]) -> Trainer:
    """Return the trainer of ``experiment=preset`` on random images."""
    parts = Parts(compose("train", f"experiment={preset}"))
    images = torch.randint(0, 256, (8192, *SPEC.shape), dtype=torch.uint8)
    settings: dict[str, object] = {"max_steps": 1 << 30, "batch_size": batch, "num_workers": 2, **options}
    return Trainer(
        TrainerConfig(**settings),  # type: ignore[arg-type]
        parts.model(SPEC),
        parts.objective,
        Split(values=images, labels=None),
        device=device,
        flip=True,
    )


def per_second(action: Callable[[], object], seconds: float, warm: int) -> float:
    """Return how often an action is done per second, after ``warm`` calls to warm up."""
    for _ in range(warm):
        action()
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    start, count = time.perf_counter(), 0
    while time.perf_counter() - start < seconds or count < 2:
        action()
        torch.cuda.synchronize()
        count += 1
    return count / (time.perf_counter() - start)


def flops(network: nn.Module, device: torch.device) -> float:
    """Return the FLOPs of the matrix products of one forward pass for one image."""
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        network(torch.zeros(2, *SPEC.shape, device=device), torch.zeros(2, device=device))
    return counter.get_total_flops() / 2


def matrix_rate(device: torch.device) -> float:
    """Return the FLOP/s of products of 8192 x 8192 matrices in bf16."""
    a, b = torch.randn(2, 8192, 8192, device=device, dtype=torch.bfloat16)
    return 2 * 8192**3 * per_second(lambda: a @ b, 1.0, 5)


def row(name: str, images: float, work: float, rate: float, batch: int) -> list[str]:
    """Print a line of the table and return it.

    Args:
        work: FLOPs per image.
        rate: FLOP/s of the card's matrix products.
    """
    memory = torch.cuda.max_memory_allocated() / 2**30
    milliseconds, share = 1000 * batch / images, images * work / rate
    cells = [name, str(batch), f"{images:,.0f}", f"{milliseconds:.1f}", f"{memory:.1f}", f"{share:.0%}"]
    print(" | ".join(cells), flush=True)
    return cells


def measure_training(
    preset: str, name: str, arguments: argparse.Namespace, device: torch.device, rate: float
) -> list[str]:
    """Measure training; return its line."""
    torch.compiler.reset()
    run = trainer(preset, arguments.batch, device, TRAINING[name])
    work = 3 * flops(run.ema.network, device)
    with contextlib.closing(cast("Generator[StepReport]", run.steps())) as steps:
        images = arguments.batch * per_second(lambda: next(steps), arguments.seconds, 5)
        if arguments.profile:
            print_profile(lambda: next(steps))
    return row(f"train {preset}, {name}", images, work, rate, arguments.batch)


def print_profile(action: Callable[[], object], times: int = 3) -> None:
    """Print the time that the card needs for an action, and the kernels that take longest."""
    with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as record:
        for _ in range(times):
            action()
        torch.cuda.synchronize()
    kernels = [e for e in record.key_averages() if e.device_type == DeviceType.CUDA and e.self_device_time_total > 0]
    total, count = sum(e.self_device_time_total for e in kernels) / 1000, sum(e.count for e in kernels)
    print(f"  the card computes {total / times:.1f} ms of it, in {count / times:.0f} kernels", flush=True)
    for each in sorted(kernels, key=lambda e: -e.self_device_time_total)[:15]:
        print(f"  {each.self_device_time_total / 1000 / times:7.2f} ms {each.count / times:6.1f}x {each.key[:100]}")


def measure_sampling(
    precision: str, batch: int, arguments: argparse.Namespace, device: torch.device, rate: float
) -> list[str]:
    """Measure sampling; return its line."""
    denoiser = averaged(device)
    sampler = GridSampler(stepper=Heun(), steps=18)

    def draw() -> None:
        with products(check_precision(precision, device), device):
            for _ in sample_batches(denoiser, sampler, range(batch), seed=0, batch_size=batch, device=device):
                pass

    work = 37 * flops(denoiser.module(), device)  # two calls per step, and one to denoise
    images = batch * per_second(draw, arguments.seconds, 1)
    return row(f"sample cifar_flow, heun, 37 NFE, {precision}", images, work, rate, batch)


def measure_likelihood(batch: int, arguments: argparse.Namespace, device: torch.device, rate: float) -> list[str]:
    """Measure likelihoods; return their line."""
    denoiser, estimator = averaged(device), OdeLikelihood(steps=16)
    data = torch.rand(batch, *SPEC.shape, device=device) * 2 - 1
    calls = estimator.log_density(denoiser, data[:2], 0).nfe
    images = batch * per_second(lambda: estimator.log_density(denoiser, data, 0), arguments.seconds, 1)
    work = 2 * calls * flops(denoiser.module(), device)  # forward, and backward with respect to x only
    return row(f"nll cifar_flow, ode, {calls:.0f} NFE, fp32", images, work, rate, batch)


def averaged(device: torch.device) -> NetworkDenoiser:
    """Return the untrained denoiser of cifar_flow, with averaged weights."""
    denoiser = trainer("cifar_flow", 1, device, {}).averaged()
    assert isinstance(denoiser, NetworkDenoiser)
    return denoiser


def main() -> None:
    """Measure, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=2.5)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--only", default="", help="only the lines whose name contains this text")
    parser.add_argument("--profile", action="store_true", help="print how long the kernels of training take")
    arguments = parser.parse_args()
    device = resolve_device("cuda")
    rate, rows = matrix_rate(device), []
    lines: dict[str, Callable[[], list[str]]] = {
        f"train cifar_flow {name}": lambda n=name: measure_training("cifar_flow", n, arguments, device, rate)  # type: ignore[misc]
        for name in TRAINING
    }
    for precision in ("fp32", "tf32", "bf16"):
        lines[f"sample {precision}"] = lambda p=precision: measure_sampling(p, 256, arguments, device, rate)  # type: ignore[misc]
    lines["nll"] = lambda: measure_likelihood(32, arguments, device, rate)
    lines["train cifar_edm, compiled"] = lambda: measure_training(
        "cifar_edm", "bf16, compiled", arguments, device, rate
    )
    for name, line in sorted(
        lines.items(), key=lambda item: "compiled" in item[0]
    ):  # the lines that compile for minutes come last
        if arguments.only in name:
            torch.cuda.empty_cache()
            rows.append(line())
    columns = ["what", "batch", "images/s", "ms a batch", "GiB", "share of bf16 matrix rate"]
    card = f"{torch.cuda.get_device_name(device)}, torch {torch.__version__}"
    table(f"{card}; bf16 products at {rate / 1e12:.0f} TFLOP/s", columns, rows)


if __name__ == "__main__":
    main()

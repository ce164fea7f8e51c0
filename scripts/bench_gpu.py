"""What one GPU does: training with each option of ``trainer``, sampling and likelihoods of the CIFAR-10 presets.

Usage: python scripts/bench_gpu.py [--seconds 2.5] [--batch 128] [--only TEXT] [--profile]
scripts/bench_gpu.sh runs the tests too.

Images are random, of CIFAR-10's form: nothing is downloaded, and nothing but speed and memory is measured. Training is
all of ``dfm train``'s step (batches, noise and times, loss, clipping, AdamW, moving average). ``share`` is the FLOPs of
the network's products, counted by torch, over the rate of this card's own products of 8192x8192 matrices in bf16.
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
from dfm.cli.command_line import composed
from dfm.cli.console import table
from dfm.data.dataset import DatasetSpec, Split
from dfm.denoising.network_denoiser import NetworkDenoiser
from dfm.likelihood.ode import OdeLikelihood
from dfm.runs.parts import Parts
from dfm.sampling.draw import sample_batches
from dfm.sampling.samplers import GridSampler
from dfm.sampling.steppers.ode import Heun
from dfm.training.trainer import StepReport, Trainer
from dfm.training.trainer_config import TrainerConfig

SPEC = DatasetSpec(name="noise", shape=(3, 32, 32), levels=256, num_classes=0, mean=0.0, std=0.5)
TRUST = ("dfm",)
TRAINING: dict[str, dict[str, object]] = {
    "fp32": {},
    "tf32": {"precision": "tf32"},
    "bf16": {"precision": "bf16"},
    "bf16, not channels_last": {"precision": "bf16", "channels_last": False},
    "bf16, compiled": {"precision": "bf16", "compile": True},
    "bf16, compiled, num_workers=0": {"precision": "bf16", "compile": True, "num_workers": 0},
    "bf16, activation checkpointing": {"precision": "bf16", "activation_checkpointing": True},
    "bf16, compiled, activation checkpointing": {
        "precision": "bf16", "compile": True, "activation_checkpointing": True,
    },
}  # fmt: skip


def trainer(preset: str, batch: int, device: torch.device, options: dict[str, object]) -> Trainer:
    """The trainer of ``experiment=preset`` on random images."""
    parts = Parts(composed("train", f"experiment={preset}"))
    images = torch.randint(0, 256, (8192, *SPEC.shape), dtype=torch.uint8)
    settings: dict[str, object] = {"max_steps": 1 << 30, "batch_size": batch, "num_workers": 2, **options}
    return Trainer(
        TrainerConfig(**settings), parts.model(SPEC), parts.objective,  # type: ignore[arg-type]
        Split(values=images, labels=None), device=device, flip=True,
    )  # fmt: skip


def per_second(action: Callable[[], object], seconds: float, warm: int) -> float:
    """How often an action is done in a second, once it was done ``warm`` times."""
    for _ in range(warm):
        action()
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    began, count = time.perf_counter(), 0
    while time.perf_counter() - began < seconds or count < 2:
        action()
        torch.cuda.synchronize()
        count += 1
    return count / (time.perf_counter() - began)


def flops(network: nn.Module, device: torch.device) -> float:
    """FLOPs of the products of one pass forth for one image."""
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        network(torch.zeros(2, *SPEC.shape, device=device), torch.zeros(2, device=device))
    return counter.get_total_flops() / 2


def matrix_rate(device: torch.device) -> float:
    """FLOP/s of products of 8192 x 8192 matrices in bf16."""
    a, b = torch.randn(2, 8192, 8192, device=device, dtype=torch.bfloat16)
    return 2 * 8192**3 * per_second(lambda: a @ b, 1.0, 5)


def row(name: str, images: float, work: float, rate: float, batch: int) -> list[str]:
    """A line of the table, printed as soon as it is known."""
    memory = torch.cuda.max_memory_allocated() / 2**30
    cells = [name, str(batch), f"{images:,.0f}", f"{1000 * batch / images:.1f}", f"{memory:.1f}",
             f"{images * work / rate:.0%}"]  # fmt: skip
    print(" | ".join(cells), flush=True)
    return cells


def trained(preset: str, name: str, given: argparse.Namespace, device: torch.device, rate: float) -> list[str]:
    """A line about training."""
    torch.compiler.reset()
    made = trainer(preset, given.batch, device, TRAINING[name])
    work = 3 * flops(made.ema.network, device)
    with contextlib.closing(cast("Generator[StepReport]", made.steps())) as steps:
        images = given.batch * per_second(lambda: next(steps), given.seconds, 5)
        if given.profile:
            profiled(lambda: next(steps))
    return row(f"train {preset}, {name}", images, work, rate, given.batch)


def profiled(action: Callable[[], object], times: int = 3) -> None:
    """Print what the card computes in an action, and the kernels that take longest."""
    with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as found:
        for _ in range(times):
            action()
        torch.cuda.synchronize()
    kernels = [e for e in found.key_averages() if e.device_type == DeviceType.CUDA and e.self_device_time_total > 0]
    total, count = sum(e.self_device_time_total for e in kernels) / 1000, sum(e.count for e in kernels)
    print(f"  the card computes {total / times:.1f} ms of it, in {count / times:.0f} kernels", flush=True)
    for each in sorted(kernels, key=lambda e: -e.self_device_time_total)[:15]:
        print(f"  {each.self_device_time_total / 1000 / times:7.2f} ms {each.count / times:6.1f}x {each.key[:100]}")


def drawn(precision: str, batch: int, given: argparse.Namespace, device: torch.device, rate: float) -> list[str]:
    """A line about sampling."""
    denoiser = averaged(device)
    sampler = GridSampler(stepper=Heun(), steps=18)

    def draw() -> None:
        with products(check_precision(precision, device), device):
            for _ in sample_batches(denoiser, sampler, range(batch), seed=0, batch_size=batch, device=device):
                pass

    work = 37 * flops(denoiser.module(), device)  # two calls a step, and one to denoise
    images = batch * per_second(draw, given.seconds, 1)
    return row(f"sample cifar_flow, heun, 37 NFE, {precision}", images, work, rate, batch)


def scored(batch: int, given: argparse.Namespace, device: torch.device, rate: float) -> list[str]:
    """A line about likelihoods."""
    denoiser, how = averaged(device), OdeLikelihood(steps=16)
    data = torch.rand(batch, *SPEC.shape, device=device) * 2 - 1
    calls = how.log_density(denoiser, data[:2], 0).nfe
    images = batch * per_second(lambda: how.log_density(denoiser, data, 0), given.seconds, 1)
    work = 2 * calls * flops(denoiser.module(), device)  # forth, and back to x alone
    return row(f"nll cifar_flow, ode, {calls:.0f} NFE, fp32", images, work, rate, batch)


def averaged(device: torch.device) -> NetworkDenoiser:
    """The denoiser of cifar_flow, untrained, for use."""
    made = trainer("cifar_flow", 1, device, {}).averaged()
    assert isinstance(made, NetworkDenoiser)
    return made


def main() -> None:
    """Measure, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=2.5)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--only", default="", help="lines with this in them")
    parser.add_argument("--profile", action="store_true", help="of training: which kernels take how long")
    given = parser.parse_args()
    device = resolve_device("cuda")
    rate, rows = matrix_rate(device), []
    lines: dict[str, Callable[[], list[str]]] = {
        f"train cifar_flow {name}": lambda n=name: trained("cifar_flow", n, given, device, rate)  # type: ignore[misc]
        for name in TRAINING
    }
    for precision in ("fp32", "tf32", "bf16"):
        lines[f"sample {precision}"] = lambda p=precision: drawn(p, 256, given, device, rate)  # type: ignore[misc]
    lines["nll"] = lambda: scored(32, given, device, rate)
    lines["train cifar_edm, compiled"] = lambda: trained("cifar_edm", "bf16, compiled", given, device, rate)
    for name, line in sorted(lines.items(), key=lambda item: "compiled" in item[0]):  # what compiles for minutes last
        if given.only in name:
            torch.cuda.empty_cache()
            rows.append(line())
    columns = ["what", "batch", "images/s", "ms a batch", "GiB", "share of bf16 matrix rate"]
    card = f"{torch.cuda.get_device_name(device)}, torch {torch.__version__}"
    table(f"{card}; bf16 products at {rate / 1e12:.0f} TFLOP/s", columns, rows)


if __name__ == "__main__":
    main()

"""How fast a U-Net trains here, beside those of diffusers and torchcfm of the same layout, and against the machine.

Usage: python scripts/bench_train.py [--rounds 5] [--seconds 6] [--batch 64] [--size 28] [--channels 64] [--compile]
       python scripts/bench_train.py --profile        # where the time of dfm's step goes, by operator
       python scripts/bench_train.py --only "model unet_small" "model unet_patch"      # networks of configs/model

A step is: forward, mean squared error, backward, AdamW (fused); for ``dfm trainer`` all that ``dfm train`` does beside
(batches, noise and times, the objective, clipping, the moving average). In each round every network takes steps for
some seconds, one network after the other, and before them the machine's own rate of float32 matrix products is
measured anew; the table has medians over the rounds. FLOPs are counted by torch on one step, a multiplication with an
addition as two. Memory is the peak of a whole process of its own that takes three steps.

The others are measured as they are shipped, and again in the memory layout that suits convolutions (channels_last).
"""

import argparse
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from dfm.basics.devices import resolve_device
from dfm.cli.command_line import composed
from dfm.cli.console import table
from dfm.data.dataset import DatasetSpec, Split
from dfm.denoising.network_denoiser import NetworkDenoiser
from dfm.denoising.predictions import Velocity
from dfm.models.unet import UNet
from dfm.paths.interpolating import Linear
from dfm.runs.parts import Parts
from dfm.training.objectives.densities import UniformDensity
from dfm.training.objectives.loss_weights import UniformWeight
from dfm.training.objectives.regression import Regression
from dfm.training.trainer import Trainer
from dfm.training.trainer_config import TrainerConfig

NAMES = ("dfm", "dfm trainer", "diffusers", "diffusers channels_last", "torchcfm", "torchcfm channels_last")


@dataclass(frozen=True)
class Layout:
    """The one layout that all have: two levels, two blocks, self-attention of one head at half resolution."""

    size: int
    channels: int
    batch: int
    device: torch.device
    compile: bool
    bf16: bool

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W) of an image."""
        return 1, self.size, self.size


def ours(layout: Layout) -> nn.Module:
    """dfm's network."""
    return UNet(
        shape=layout.shape, channels=layout.channels, channel_multipliers=(1, 2), blocks_per_level=2,
        attention_levels=(1,), groups=32,
    )  # fmt: skip


def diffusers(layout: Layout) -> nn.Module:
    """diffusers' UNet2DModel."""
    from diffusers import UNet2DModel

    return cast(nn.Module, UNet2DModel(
        sample_size=layout.size, in_channels=1, out_channels=1, layers_per_block=2, norm_num_groups=32,
        block_out_channels=(layout.channels, 2 * layout.channels), down_block_types=("DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D"), attention_head_dim=None,
    ))  # fmt: skip


def torchcfm(layout: Layout) -> nn.Module:
    """torchcfm's UNetModel, the ADM U-Net."""
    from torchcfm.models.unet.unet import UNetModel

    return UNetModel(
        image_size=layout.size, in_channels=1, model_channels=layout.channels, out_channels=1, num_res_blocks=2,
        attention_resolutions=(2,), channel_mult=(1, 2), num_heads=1,
    )  # fmt: skip


def prepared(name: str, layout: Layout) -> tuple[nn.Module, Callable[[], None]]:
    """(the network of a row, what takes one training step of it)."""
    torch.manual_seed(0)
    if name == "dfm trainer":
        return trained(ours(layout), layout)
    if name.startswith("model "):
        return trained(configured(name.removeprefix("model "), layout), layout)
    network = {"dfm": ours, "diffusers": diffusers, "torchcfm": torchcfm}[name.split()[0]](layout).to(layout.device)
    if name == "dfm" or "channels_last" in name:
        network = network.to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-4, fused=True)
    data = torch.randn(layout.batch, *layout.shape, device=layout.device)
    target = torch.randn_like(data)
    times = torch.rand(layout.batch, device=layout.device)
    called = torch.compile(network) if layout.compile else network

    def output() -> Tensor:
        if name.startswith("diffusers"):
            return called(data, times).sample
        return called(times, data) if name.startswith("torchcfm") else called(data, times)

    def step() -> None:
        with torch.autocast(layout.device.type, torch.bfloat16, enabled=layout.bf16):
            functional.mse_loss(output(), target).backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return network, step


def spec_of(layout: Layout) -> DatasetSpec:
    """Of random images of 256 levels."""
    return DatasetSpec(name="noise", shape=layout.shape, levels=256, num_classes=0, mean=0.0, std=0.5)


def configured(option: str, layout: Layout) -> nn.Module:
    """The network of ``model=option``."""
    return Parts(composed("train", f"model={option}")).model(spec_of(layout)).module()


def trained(network: nn.Module, layout: Layout) -> tuple[nn.Module, Callable[[], None]]:
    """All of ``dfm train``'s own step."""
    spec = spec_of(layout)
    images = torch.randint(0, 256, (4096, *layout.shape), dtype=torch.uint8)
    config = TrainerConfig(
        max_steps=1 << 30, batch_size=layout.batch, compile=layout.compile,
        precision="bf16" if layout.bf16 else "fp32",
    )  # fmt: skip
    path = Linear()
    denoiser = NetworkDenoiser(spec=spec, schedule=path, trained_schedule=path, prediction=Velocity(), network=network)
    objective = Regression(density=UniformDensity(), weight=UniformWeight())
    trainer = Trainer(config, denoiser, objective, Split(values=images, labels=None), device=layout.device)
    steps = trainer.steps()
    return trainer.network, lambda: void(next(steps))


def void(_: object) -> None:
    """Drop it."""


def matrix_rate(device: torch.device, seconds: float = 1.0) -> float:
    """FLOP/s of float32 products of 2048 x 2048 matrices: the better of torch's two libraries for them on a CPU.

    A 1x1 convolution is such a product by the library of the convolutions; on AMD's processors it is twice as fast.
    """
    a, b = torch.randn(2, 2048, 2048, device=device)
    image = a.reshape(1, 32, 64, 2048).permute(0, 3, 1, 2)  # channels_last
    kernel = b[:, :, None, None]
    with torch.no_grad():
        ways = (lambda: void(a @ b), lambda: void(functional.conv2d(image, kernel)))
        return 2 * 2048**3 * max(per_second(way, device, seconds / 2) for way in ways)


def per_second(action: Callable[[], None], device: torch.device, seconds: float) -> float:
    """How often an action is done in a second, once warm."""
    action()
    synchronise(device)
    began, count = time.perf_counter(), 0
    while time.perf_counter() - began < seconds or count < 3:
        action()
        count += 1
        if device.type != "cpu":
            synchronise(device)
    return count / (time.perf_counter() - began)


def synchronise(device: torch.device) -> None:
    """Wait until the device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def flops(name: str, layout: Layout) -> float:
    """FLOPs of one training step for one image."""
    small = Layout(layout.size, layout.channels, 2, torch.device("cpu"), False, False)
    plain = name if name.startswith("model ") else name.split()[0]  # layout and trainer add none
    _, step = prepared(plain, small)
    # attention as plain products: torch counts no others on a CPU
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        step()
    return counter.get_total_flops() / small.batch


def peak_memory(name: str, arguments: list[str]) -> float:
    """GiB at most of a process of its own that takes three steps."""
    line = [sys.executable, __file__, *arguments, "--memory-of", name]
    return float(subprocess.run(line, capture_output=True, text=True, check=True).stdout.split()[-1])


def own_peak(name: str, layout: Layout) -> float:
    """What ``peak_memory`` asks for."""
    _, step = prepared(name, layout)
    if layout.device.type == "cuda":
        for _ in range(3):
            step()
        return torch.cuda.max_memory_allocated(layout.device) / 2**30
    for _ in range(3):
        step()
    # not getrusage's peak, which begins with that of the process that started this one
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) / 2**20


def rounds(names: list[str], layout: Layout, count: int, seconds: float) -> Iterator[dict[str, float]]:
    """Steps a second of each network, and ``matrix``: FLOP/s of the machine; one round after the other."""
    steps = {name: prepared(name, layout)[1] for name in names}
    for _ in range(count):
        yield {
            "matrix": matrix_rate(layout.device),
            **{name: per_second(step, layout.device, seconds) for name, step in steps.items()},
        }


def profile(layout: Layout) -> None:
    """Print where the time of dfm's step goes."""
    from torch.profiler import ProfilerActivity
    from torch.profiler import profile as profiled

    _, step = prepared("dfm trainer", layout)
    step()
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if layout.device.type == "cuda" else [])]
    with profiled(activities=activities) as found:
        for _ in range(5):
            step()
    key = "self_cuda_time_total" if layout.device.type == "cuda" else "self_cpu_time_total"
    print(found.key_averages().table(sort_by=key, row_limit=25, max_name_column_width=50))


def main() -> None:
    """Measure, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=6.0)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--size", type=int, default=28)
    parser.add_argument("--channels", type=int, default=64)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--bf16", action="store_true")
    parser.add_argument("--only", nargs="*", default=list(NAMES), help=f"{', '.join(NAMES)}, model NAME")
    parser.add_argument("--profile", action="store_true")
    parser.add_argument("--memory-of", help=argparse.SUPPRESS)
    given = parser.parse_args()
    device = resolve_device(given.device)
    layout = Layout(given.size, given.channels, given.batch, device, given.compile, given.bf16)
    if given.memory_of:
        print(own_peak(given.memory_of, layout))
        return
    if given.profile:
        profile(layout)
        return
    measured = list(rounds(given.only, layout, given.rounds, given.seconds))
    rate = statistics.median(r["matrix"] for r in measured)
    sizes = [text for key in ("batch", "size", "channels", "device") for text in (f"--{key}", str(vars(given)[key]))]
    arguments, rows = [*sizes, *(f"--{key}" for key in ("compile", "bf16") if vars(given)[key])], []
    for name in given.only:
        images = [r[name] * layout.batch for r in measured]
        cost = flops(name, layout)
        share = statistics.median(r[name] * layout.batch * cost / r["matrix"] for r in measured)
        rows.append([
            name, f"{statistics.median(images):.1f}", f"{min(images):.1f} to {max(images):.1f}", f"{cost / 1e9:.2f}",
            f"{share:.0%}", f"{peak_memory(name, arguments):.2f}",
        ])  # fmt: skip
    title = f"training, {layout.shape}, batch {layout.batch}; matrix products at {rate / 1e9:.0f} GFLOP/s"
    columns = ["network", "images/s", "over rounds", "GFLOP an image", "share of matrix rate", "GiB"]
    table(f"{title}, torch {torch.__version__}, {device}, {torch.get_num_threads()} threads", columns, rows)


if __name__ == "__main__":
    main()

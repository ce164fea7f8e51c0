"""The networks of ``train.py`` in one layout, and one training step of each."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from dfm.cli.composition.command_line import compose
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
from dfm.training.warps import GeometricWarp, Warp


@dataclass(frozen=True)
class Layout:
    """The layout of all networks: two resolutions, two blocks, self-attention with one head at the lower resolution."""

    size: int
    channels: int
    batch: int
    device: torch.device
    compile: bool
    bf16: bool

    @property
    def shape(self) -> tuple[int, int, int]:
        """The shape (C, H, W) of an image."""
        return 1, self.size, self.size


def ours(layout: Layout, changes: int = 0) -> nn.Module:
    """Return dfm's UNet; it is told of a picture's change by so many numbers."""
    return UNet(
        shape=layout.shape,
        channels=layout.channels,
        channel_multipliers=(1, 2),
        blocks_per_level=2,
        attention_levels=(1,),
        groups=32,
        changes=changes,
    )


def diffusers(layout: Layout) -> nn.Module:
    """Return diffusers' UNet2DModel."""
    from diffusers import UNet2DModel

    network = UNet2DModel(
        sample_size=layout.size,
        in_channels=1,
        out_channels=1,
        layers_per_block=2,
        norm_num_groups=32,
        block_out_channels=(layout.channels, 2 * layout.channels),
        down_block_types=("DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D"),
        attention_head_dim=None,
    )
    return cast(nn.Module, network)


def torchcfm(layout: Layout) -> nn.Module:
    """Return torchcfm's UNetModel, the U-Net of ADM."""
    from torchcfm.models.unet.unet import UNetModel

    return UNetModel(
        image_size=layout.size,
        in_channels=1,
        model_channels=layout.channels,
        out_channels=1,
        num_res_blocks=2,
        attention_resolutions=(2,),
        channel_mult=(1, 2),
        num_heads=1,
    )


def prepare(name: str, layout: Layout) -> tuple[nn.Module, Callable[[], None]]:
    """Return (the network of a row, a function that makes one training step of it)."""
    torch.manual_seed(0)
    if name == "dfm trainer":
        return with_trainer(ours(layout), layout)
    if name == "dfm trainer nonleaky":
        return with_trainer(ours(layout, GeometricWarp().numbers), layout, GeometricWarp())
    if name.startswith("model "):
        return with_trainer(from_config(name.removeprefix("model "), layout), layout)
    network = {"dfm": ours, "diffusers": diffusers, "torchcfm": torchcfm}[name.split()[0]](layout).to(layout.device)
    if name == "dfm" or "channels_last" in name:
        network = network.to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-4, fused=True)
    data = torch.randn(layout.batch, *layout.shape, device=layout.device)
    target = torch.randn_like(data)
    times = torch.rand(layout.batch, device=layout.device)
    call = torch.compile(network) if layout.compile else network

    def output() -> Tensor:
        if name.startswith("diffusers"):
            return call(data, times).sample
        return call(times, data) if name.startswith("torchcfm") else call(data, times)

    def step() -> None:
        with torch.autocast(layout.device.type, torch.bfloat16, enabled=layout.bf16):
            functional.mse_loss(output(), target).backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return network, step


def spec_of(layout: Layout) -> DatasetSpec:
    """Return the spec of random images with 256 pixel levels."""
    return DatasetSpec(name="noise", shape=layout.shape, levels=256, num_classes=0, mean=0.0, std=0.5)


def from_config(option: str, layout: Layout) -> nn.Module:
    """Return the network of ``model=option``."""
    return Parts(compose("train", f"model={option}")).model(spec_of(layout)).module()


def with_trainer(network: nn.Module, layout: Layout, warp: Warp | None = None) -> tuple[nn.Module, Callable[[], None]]:
    """Return (a network, a function that makes one whole step of ``dfm train``)."""
    spec = spec_of(layout)
    images = torch.randint(0, 256, (4096, *layout.shape), dtype=torch.uint8)
    config = TrainerConfig(
        max_steps=1 << 30,
        batch_size=layout.batch,
        compile=layout.compile,
        precision="bf16" if layout.bf16 else "fp32",
    )
    path = Linear()
    denoiser = NetworkDenoiser(spec=spec, schedule=path, trained_schedule=path, prediction=Velocity(), network=network)
    objective = Regression(density=UniformDensity(), weight=UniformWeight())
    split = Split(values=images, labels=None)
    trainer = Trainer(config, denoiser, objective, split, device=layout.device, warp=warp)
    steps = trainer.steps()
    return trainer.network, lambda: void(next(steps))


def void(_: object) -> None:
    """Ignore a result."""

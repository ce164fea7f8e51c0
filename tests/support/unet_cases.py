"""Small U-Nets with every kind of part, random weights of a fair size, and how far two outputs are apart."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from dfm.models.unet import UNet

Options = dict[str, Any]

SMALL: Options = {
    "channels": 8, "channel_multipliers": (1, 2), "blocks_per_level": 1, "attention_levels": (1,), "groups": 4,
}  # fmt: skip
# Every kind of part: three levels, both conditionings of time, heads, all ways to change resolution.
VARIANTS: dict[str, Options] = {
    "plain": {},
    "scale_shift": {"scale_shift": True, "num_heads": 2},
    "resblock": {"downsample": "resblock", "upsample": "resblock", "head_channels": 4},
    "unlearned": {"downsample": "pool", "upsample": "nearest", "mid_attention": False},
    "asymmetric": {"downsample_padding": 0, "mid_attention_groups": 0, "mid_scale_factor": 1.5},
    "three_levels": {
        "channel_multipliers": (1, 1.5, 2),
        "attention_levels": (0, 2),
        "downsample": ("conv", "resblock"),
    },
    "no_mid": {"mid_block": False, "up_attention_levels": (0,), "time_channels": 20, "flip_sin_to_cos": True},
}


def unet(shape: tuple[int, ...] = (2, 8, 12), num_classes: int = 0, **options: Any) -> UNet:
    return UNet(shape=shape, num_classes=num_classes, **{**SMALL, "zero_init": False, **options}).eval()


def inputs(shape: tuple[int, ...] = (2, 8, 12), batch: int = 3) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(batch, *shape, generator=generator), 14 * torch.rand(batch, generator=generator) - 7


def randomise(model: nn.Module) -> None:
    """Weights of size 1/sqrt(inputs), biases and the norms' scales well away from 0 and 1: nothing hides."""
    generator = torch.Generator().manual_seed(2)
    for name, parameter in model.named_parameters():
        spread = 0.3 if parameter.ndim == 1 else parameter[0].numel() ** -0.5
        values = spread * torch.randn(parameter.shape, generator=generator)
        is_scale = parameter.ndim == 1 and name.endswith("weight")
        parameter.data.copy_(values + 1 if is_scale else values)


def error(ours: Tensor, theirs: Tensor) -> float:
    """Greatest difference, in standard deviations of what it should be."""
    assert ours.shape == theirs.shape
    assert 0.1 < theirs.std() < 10
    return float((ours - theirs).abs().max() / theirs.std())


def preset(name: str, shape: tuple[int, ...]) -> int:
    """How many parameters the preset has, found without allocating them."""
    from omegaconf import OmegaConf

    from dfm.cli.composition.config_dirs import config_dir
    from dfm.runs.build import build

    node = OmegaConf.to_container(OmegaConf.load(Path(config_dir()) / "model" / f"{name}.yaml"))
    with torch.device("meta"):
        return sum(p.numel() for p in build(node, "model", shape=shape, num_classes=0).parameters())

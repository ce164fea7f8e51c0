"""The U-Net of diffusion models, with the options that its two common forms need.

Ronneberger et al. 2015 gave the shape; Ho et al. 2020 (appendix B) the residual blocks with time and attention;
Dhariwal and Nichol 2021 (section 3) heads, scale-shift and resampling blocks. The options span the topologies of
diffusers' ``UNet2DModel`` and of the ADM U-Net of guided-diffusion and torchcfm: weights of either can be copied over.

    here                     diffusers                                        ADM
    channels                 block_out_channels[0]                            model_channels
    channel_multipliers      block_out_channels / block_out_channels[0]       channel_mult
    blocks_per_level         layers_per_block                                 num_res_blocks
    attention_levels         where down_block_types is AttnDownBlock2D        log2 of attention_resolutions (factors)
    up_attention_levels      where up_block_types, reversed, is AttnUpBlock2D -
    num_heads, head_channels -, attention_head_dim                            num_heads, num_head_channels
    scale_shift              resnet_time_scale_shift="scale_shift"            use_scale_shift_norm
    downsample, upsample     downsample_type, ResnetDownsampleBlock2D, ...    resblock_updown, conv_resample
    mid_attention_groups     attn_norm_num_groups                             -
"""

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Literal, get_args

from torch import Tensor, nn
from torch.nn import functional

from dfm.basics.errors import UserError, unknown
from dfm.models.blocks import (
    BlockOptions,
    DownLevel,
    Downsample,
    ResidualBlock,
    Resized,
    UpLevel,
    Upsample,
    counted,
    zeroed,
)
from dfm.models.embeddings import Embedding, PixelFourier
from dfm.models.fused_norm import norm_silu

Down = Literal["conv", "resblock", "pool"]
Up = Literal["conv", "resblock", "nearest"]


class UNet(nn.Module):
    """model(x (B, C, H, W), c_time (B,), label (B,) or None) -> (B, C, H, W).

    Level i works at 1/2^i of the height and width, with channels * channel_multipliers[i] channels. Time enters every
    residual block. Skips join each block of the way up to one output of the way down.

    Args:
        shape: (C, H, W) of one image; H and W divisible by patch 2^(levels - 1).
        patch: squares of so many by so many pixels become the channels of one place first, and pixels again last (Shi
            et al. 2016, pixel shuffle): all work is then done at a lower resolution, where it is cheaper. 1: no such.
        outputs: how many outputs of that shape, side by side along the channels.
        num_classes: labels are 0..num_classes-1, and num_classes for 'no label' (as is None); 0: no labels.
        channels: base width, also the number of sines and cosines of time.
        channel_multipliers: one a level, from full resolution down.
        blocks_per_level: residual blocks of a level on the way down; the way up has one more.
        attention_levels: levels whose blocks are followed by self-attention, 0 being full resolution.
        up_attention_levels: the same for the way up where it differs; None: the same levels.
        mid_block: two residual blocks at the lowest resolution, between the ways down and up.
        mid_attention: self-attention between those two.
        mid_attention_groups: groups of that attention's norm; None: as ``groups``, 0: no norm.
        mid_scale_factor: the sums of the mid block's residual branches are divided by it.
        num_heads: attention heads, or
        head_channels: channels of each head, whatever their number. Neither: one head.
        groups: of each group norm; they divide the channels of every level. Without ``scale_shift`` there should be
            fewer than channels, since a norm of each channel alone takes out what time has added to it.
        norm_eps: of each group norm.
        dropout: probability, before the last convolution of each residual block.
        scale_shift: time scales and shifts the second norm's output; otherwise it is added before that norm.
        downsample: a strided convolution, a residual block with pooling, or pooling alone; a list has one of these for
            each step from level i to i + 1.
        upsample: nearest neighbour with a convolution, inside a residual block, or alone; a list has one of these for
            each step from level i + 1 to i, in the order of ``downsample``.
        downsample_padding: of the strided convolution: 1 on all sides, or 0 for right and bottom only.
        time_scale, max_period, frequency_shift, flip_sin_to_cos: of the sinusoids of time, see ``dfm.models.embeddings``.
        time_channels: of the embedding of time and label; None: 4 * channels.
        zero_init: residual branches start at zero, and so does the output; otherwise as torch initialises them.
        fourier: octaves of sinusoids of each pixel beside it (``PixelFourier``), 0 for none.
        two_times: whether it is told a second time, for flow maps (``dfm.denoising.flow_map``).
        grey_levels, std: of the data, for these sinusoids.

    Raises:
        UserError: the shape does not fit the levels, or an option is outside what is said here.
    """

    def __init__(
        self,
        *,
        shape: tuple[int, ...],
        outputs: int = 1,
        patch: int = 1,
        num_classes: int = 0,
        channels: int = 128,
        channel_multipliers: tuple[float, ...] = (1, 2, 2, 2),
        blocks_per_level: int = 2,
        attention_levels: tuple[int, ...] = (1,),
        up_attention_levels: tuple[int, ...] | None = None,
        mid_block: bool = True,
        mid_attention: bool = True,
        mid_attention_groups: int | None = None,
        mid_scale_factor: float = 1.0,
        num_heads: int | None = None,
        head_channels: int | None = None,
        groups: int = 32,
        norm_eps: float = 1e-5,
        dropout: float = 0.0,
        scale_shift: bool = False,
        downsample: Down | tuple[Down, ...] = "conv",
        upsample: Up | tuple[Up, ...] = "conv",
        downsample_padding: Literal[0, 1] = 1,
        time_scale: float = 10.0,
        max_period: float = 100.0,
        frequency_shift: float = 1.0,
        flip_sin_to_cos: bool = False,
        time_channels: int | None = None,
        zero_init: bool = True,
        fourier: int = 0,
        two_times: bool = False,
        grey_levels: int | None = None,
        std: float = 1.0,
    ) -> None:
        super().__init__()
        levels = len(channel_multipliers)
        counted("patch", patch, 2, 64)
        _check_shape(shape, levels, patch)
        widths = _widths(channels, channel_multipliers, groups)
        counted("blocks_per_level", blocks_per_level, 2, 1000 // max(1, levels))
        time_channels = 4 * channels if time_channels is None else time_channels
        counted("time_channels", time_channels, 4 * channels)
        down_attention = _levels("attention_levels", attention_levels, levels)
        up_attention = _levels(
            "up_attention_levels", attention_levels if up_attention_levels is None else up_attention_levels, levels
        )
        down_steps = _steps("downsample", downsample, levels - 1, get_args(Down))
        up_steps = _steps("upsample", upsample, levels - 1, get_args(Up))
        options = BlockOptions(
            time_channels=time_channels,
            groups=groups,
            attention_groups=groups,
            norm_eps=norm_eps,
            dropout=dropout,
            scale_shift=scale_shift,
            num_heads=num_heads,
            head_channels=head_channels,
            zero_init=zero_init,
        )
        mid_groups = _mid_groups(mid_attention_groups, groups, widths[-1])
        mid_options = replace(options, attention_groups=mid_groups, divisor=mid_scale_factor)

        self.embedding = Embedding(
            features=channels,
            channels=time_channels,
            num_classes=num_classes,
            time_scale=time_scale,
            max_period=max_period,
            frequency_shift=frequency_shift,
            flip_sin_to_cos=flip_sin_to_cos,
            two_times=two_times,
        )
        self.kept_per_level = blocks_per_level + 1
        self.features = PixelFourier(fourier, grey_levels, std)
        self.patch = patch
        self.conv_in = nn.Conv2d(patch**2 * shape[0] * (1 + 2 * fourier), widths[0], 3, padding=1)
        self.down = _way_down(widths, blocks_per_level, down_attention, down_steps, downsample_padding, options)
        self.mid = _mid(widths[-1], mid_attention, mid_options) if mid_block else nn.ModuleList()
        self.up = _way_up(widths, blocks_per_level, up_attention, up_steps, options)
        self.norm_out = nn.GroupNorm(groups, widths[0], eps=norm_eps)
        self.conv_out = zeroed(nn.Conv2d(widths[0], patch**2 * outputs * shape[0], 3, padding=1), zero_init)

    def forward(self, x: Tensor, c_time: Tensor, label: Tensor | None = None, c_end: Tensor | None = None) -> Tensor:
        """x (B, C, H, W), c_time = log nsr (B,), label int64 (B,) or None -> (B, C, H, W).

        ``c_end`` (B,) is the second time of a flow map, whose times are told as ``dfm.denoising.flow_map`` says.

        Raises:
            UserError: a label for a network without classes.
        """
        e = functional.silu(self.embedding(c_time, label, c_end))  # what every block does first, done once
        kept = [self.conv_in(functional.pixel_unshuffle(self.features(x), self.patch))]
        for level in self.down:
            kept += level(kept[-1], e)
        h = kept[-1]
        for block in self.mid:
            h = block(h, e)
        for level in self.up:
            h = level(h, kept[-self.kept_per_level :], e)
            del kept[-self.kept_per_level :]
        return functional.pixel_shuffle(self.conv_out(norm_silu(h, self.norm_out)), self.patch)


def _way_down(
    widths: Sequence[int],
    blocks: int,
    attention: Sequence[int],
    steps: Sequence[str],
    padding: int,
    options: BlockOptions,
) -> nn.ModuleList:
    """Levels 0, 1, ...: each ``blocks`` residual blocks and, but for the last, a step down."""
    way, current = nn.ModuleList(), widths[0]
    for level, width in enumerate(widths):
        row = []
        for _ in range(blocks):
            row.append(ResidualBlock(current, width, options, attention=level in attention))
            current = width
        step = _step_down(steps[level], width, padding, options) if level < len(steps) else None
        way.append(DownLevel(row, step))
    return way


def _way_up(
    widths: Sequence[int], blocks: int, attention: Sequence[int], steps: Sequence[str], options: BlockOptions
) -> nn.ModuleList:
    """Levels ..., 1, 0: each ``blocks`` + 1 residual blocks on joined skips and, but for level 0, a step up."""
    way, current = nn.ModuleList(), widths[-1]
    for level in reversed(range(len(widths))):
        width = widths[level]
        # The way down kept, last first, this level's blocks, then what came into the level (first of all: conv_in).
        skips = [width] * blocks + [widths[max(level - 1, 0)]]
        row = []
        for skip in skips:
            row.append(ResidualBlock(current + skip, width, options, attention=level in attention))
            current = width
        way.append(UpLevel(row, _step_up(steps[level - 1], width, options) if level else None))
    return way


def _mid(width: int, attention: bool, options: BlockOptions) -> nn.ModuleList:
    return nn.ModuleList([ResidualBlock(width, width, options, attention=a) for a in (attention, False)])


def _step_down(kind: str, width: int, padding: int, options: BlockOptions) -> nn.Module:
    if kind == "conv":
        return Downsample(width, padding)
    return ResidualBlock(width, width, options, resize="down") if kind == "resblock" else Resized("down")


def _step_up(kind: str, width: int, options: BlockOptions) -> nn.Module:
    if kind == "conv":
        return Upsample(width)
    return ResidualBlock(width, width, options, resize="up") if kind == "resblock" else Resized("up")


def _check_shape(shape: tuple[int, ...], levels: int, patch: int) -> None:
    if len(shape) != 3:
        raise UserError(f"the U-Net was given data of shape {tuple(shape)}; allowed: images (C, H, W); try model=mlp")
    if levels < 1:
        raise UserError("channel_multipliers=(); allowed: one a level; try [1, 2]")
    factor = patch * 2 ** (levels - 1)
    if shape[1] % factor or shape[2] % factor:
        common = math.gcd(shape[1], shape[2])
        if common % patch:
            raise UserError(
                f"images of {shape[1]}x{shape[2]} and patch={patch}; allowed: a divisor of both; "
                f"try {math.gcd(common, patch)}"
            )
        common //= patch
        most = (common & -common).bit_length()
        raise UserError(
            f"images of {shape[1]}x{shape[2]} and {levels} levels; allowed: height and width divisible by {factor}; "
            f"try {most} of channel_multipliers{' or fewer' if most > 1 else ''}, or another size"
        )


def _widths(channels: int, multipliers: Sequence[float], groups: int) -> list[int]:
    """The channels of each level."""
    widths = [round(channels * multiplier) for multiplier in multipliers]
    if channels < 1 or groups < 1 or min(widths) < 1 or any(width % groups for width in widths):
        hint = math.gcd(*widths) if min(widths) > 0 and groups > 0 else 8
        raise UserError(
            f"groups={groups} where levels have {', '.join(map(str, widths))} channels; "
            f"allowed: a divisor of each; try groups={math.gcd(hint, max(groups, 1))}"
        )
    return widths


def _mid_groups(given: int | None, groups: int, width: int) -> int:
    if given is None:
        return groups
    if given < 0 or (given and width % given):
        raise UserError(
            f"mid_attention_groups={given} where there are {width} channels; allowed: a divisor, 0 for no norm, "
            "or null for as many as groups; try null"
        )
    return given


def _levels(name: str, given: Sequence[int], levels: int) -> Sequence[int]:
    for level in given:
        if not 0 <= level < levels:
            raise UserError(
                f"{name}={list(given)}; allowed: levels 0 (full resolution) to {levels - 1}; try {[levels - 1]}"
            )
    return given


def _steps(name: str, given: str | Sequence[str], count: int, allowed: Sequence[str]) -> Sequence[str]:
    """One kind of resampling for each of ``count`` steps between levels."""
    kinds = (given,) * count if isinstance(given, str) else tuple(given)
    if len(kinds) != count:
        raise UserError(f"{name}={list(kinds)}; allowed: {count} kinds, one a step between levels; try {name}=conv")
    for kind in (given,) if isinstance(given, str) else kinds:
        if kind not in allowed:
            raise unknown(name, kind, allowed)
    return kinds

"""The U-Net of diffusion models, with the options of its two common forms.

The shape is from Ronneberger et al. 2015, the residual blocks with time and attention are from Ho et al. 2020 (appendix
B), and heads, scale-shift and resampling blocks are from Dhariwal and Nichol 2021 (section 3). In two dimensions the
options cover diffusers' ``UNet2DModel`` and the ADM U-Net of guided-diffusion and torchcfm, so weights of both can be
copied.

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
from dfm.models.blocks import BlockOptions, ResidualBlock, check_count, zero_out
from dfm.models.condition import Condition
from dfm.models.dimensions import KINDS, channels_to_patches, dimensions_of, patches_to_channels
from dfm.models.embeddings import Embedding, PixelFourier
from dfm.models.fused_norm import norm_silu
from dfm.models.padding import Padding, check_sides, crop, pad
from dfm.models.resolutions import way_down, way_up

Down = Literal["conv", "resblock", "pool"]
Up = Literal["conv", "resblock", "nearest"]


class UNet(nn.Module):
    """The network model(x (B, C, *S), c_time (B,), label (B,) or None) -> (B, outputs * C, *S).

    The sides S are one of a signal, two of an image or three of a volume. Resolution i has 1/2^i of each side, and
    channels * channel_multipliers[i] channels. Time enters every residual block. Each block of the way up also gets one
    output of the way down, its skip.

    Sides may have any length. Inside, each is made longer to a multiple of patch 2^(resolutions - 1) (``padding``), and
    the output is cut to the sides of x. So the network is a function of x alone, and a likelihood is that of the data
    as they are. Norms and attention see the added places as they see all others. Sides that are multiples stay.

    Args:
        shape: (C, *S) of one example.
        patch: side of the patches that become channels before the first layer, and places again after the last one
            (Shi et al. 2016, pixel shuffle). All work is then done at a lower resolution, where it is cheaper. 1: none.
        padding: ``reflect`` mirrors x at its ends. What is added has the mean, the deviation and the noise level of x,
            so norms and attention see what they see of larger data, and an image of height 1 becomes one that is
            constant along its height, on which the network can do what one for signals does. ``zeros`` adds zeros,
            which lower the deviation that norms see. ``refuse`` takes only sides that are multiples.
        outputs: number of outputs of that shape, side by side along the channels.
        num_classes: labels are 0..num_classes-1; num_classes means 'no label', as None does. 0: no labels at all.
        channels: base width, also the number of sines and cosines of time.
        channel_multipliers: one for each resolution, from the full one down.
        blocks_per_level: residual blocks of each resolution on the way down; the way up has one more.
        attention_levels: the resolutions whose blocks have self-attention; 0 is the full resolution.
        up_attention_levels: the same for the way up, if it differs; None: the same resolutions.
        mid_block: whether two residual blocks at the lowest resolution stand between the ways down and up.
        mid_attention: whether self-attention stands between these two.
        mid_attention_groups: groups of the norm of that attention; None: as ``groups``, 0: no norm.
        mid_scale_factor: number by which the sums of the mid block's residual branches are divided.
        num_heads: number of attention heads, or
        head_channels: channels of each head, for any number of heads. If both are None: one head.
        groups: number of groups of each group norm; it divides the channels of every resolution. Without
            ``scale_shift`` it should be smaller than the channels, because a norm of each single channel removes the
            time that was added to it.
        norm_eps: epsilon of each group norm.
        dropout: probability of dropout, before the last convolution of each residual block.
        scale_shift: whether time scales and shifts the output of the second norm; otherwise it is added before it.
        downsample: a strided convolution, a residual block with pooling, or pooling only. A list has one of these for
            each step from resolution i to i + 1.
        upsample: nearest neighbour with a convolution, inside a residual block, or alone. A list has one of these for
            each step from resolution i + 1 to i, in the order of ``downsample``.
        downsample_padding: padding of the strided convolution: 1 on all sides, or 0 for right and bottom only.
        time_scale, max_period, frequency_shift, flip_sin_to_cos: options of the sinusoids of time, see
            ``dfm.models.embeddings``.
        time_channels: channels of the embedding of time and label; None: 4 * channels.
        zero_init: whether residual branches and the output start at zero; otherwise as torch initialises them.
        fourier: octaves of sinusoids of each pixel, beside the pixel (``PixelFourier``); 0: none.
        two_times: whether the network takes a second time, for flow maps (``dfm.denoising.flow_map``).
        changes: how many numbers tell the network how a picture was changed (``Condition``); 0: it is not told.
        grey_levels, std: number of pixel levels and deviation of the data, for the sinusoids of pixels.

    Raises:
        UserError: the shape does not fit the resolutions, or an option differs from this description.
    """

    @staticmethod
    def takes(sides: int) -> bool:
        """Whether it takes data of so many sides beside the channels; points have none."""
        return sides in KINDS

    def __init__(
        self,
        *,
        shape: tuple[int, ...],
        outputs: int = 1,
        patch: int = 1,
        padding: Padding = "reflect",
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
        changes: int = 0,
        grey_levels: int | None = None,
        std: float = 1.0,
    ) -> None:
        super().__init__()
        resolutions = len(channel_multipliers)
        up_attention_levels = attention_levels if up_attention_levels is None else up_attention_levels
        dimensions = dimensions_of(shape, "U-Net")
        check_count("patch", patch, 2, KINDS[dimensions].largest_patch)
        if resolutions < 1:
            raise UserError(
                "channel_multipliers=(); allowed: one for each resolution; try model.channel_multipliers=[1,2]"
            )
        check_sides(shape, resolutions, patch, padding)
        widths = _widths(channels, channel_multipliers, groups)
        check_count("blocks_per_level", blocks_per_level, 2, 1000 // max(1, resolutions))
        time_channels = 4 * channels if time_channels is None else time_channels
        check_count("time_channels", time_channels, 4 * channels)
        _check_resolutions("attention_levels", attention_levels, resolutions)
        _check_resolutions("up_attention_levels", up_attention_levels, resolutions)
        down_steps = _steps("downsample", downsample, resolutions - 1, get_args(Down))
        up_steps = _steps("upsample", upsample, resolutions - 1, get_args(Up))
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
            dimensions=dimensions,
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
            changes=changes,
        )
        self.skips_per_resolution = blocks_per_level + 1
        self.features = PixelFourier(fourier, grey_levels, std)
        self.patch, self.factor, self.padding = patch, patch * 2 ** (resolutions - 1), padding
        size = patch**dimensions
        self.conv_in = options.convolution(size * shape[0] * (1 + 2 * fourier), widths[0])
        self.down = way_down(widths, blocks_per_level, attention_levels, down_steps, downsample_padding, options)
        self.mid = _mid(widths[-1], mid_attention, mid_options) if mid_block else nn.ModuleList()
        self.up = way_up(widths, blocks_per_level, up_attention_levels, up_steps, options)
        self.norm_out = nn.GroupNorm(groups, widths[0], eps=norm_eps)
        self.conv_out = zero_out(options.convolution(widths[0], size * outputs * shape[0]), zero_init)

    def forward(
        self,
        x: Tensor,
        c_time: Tensor,
        label: Tensor | None = None,
        c_end: Tensor | None = None,
        condition: Condition | None = None,
    ) -> Tensor:
        """Map x (B, C, *S), c_time = log nsr (B,) and label int64 (B,) or None to (B, outputs * C, *S).

        ``c_end`` (B,) is the second time of a flow map; ``dfm.denoising.flow_map`` says how it gives both times.
        ``condition`` tells how each x was changed; None: not at all.

        Raises:
            UserError: a label for a network without classes, or a change for one that is not told of changes.
        """
        # every block needs the silu, so we compute it once
        e = functional.silu(self.embedding(c_time, label, c_end, condition))
        inputs = x if self.padding == "refuse" else pad(x, self.factor, self.padding)
        skips = [self.conv_in(patches_to_channels(self.features(inputs), self.patch))]
        for resolution in self.down:
            skips += resolution(skips[-1], e)
        h = skips[-1]
        for block in self.mid:
            h = block(h, e)
        for resolution in self.up:
            h = resolution(h, skips[-self.skips_per_resolution :], e)
            del skips[-self.skips_per_resolution :]
        return crop(channels_to_patches(self.conv_out(norm_silu(h, self.norm_out)), self.patch), x.shape[2:])


def _mid(width: int, attention: bool, options: BlockOptions) -> nn.ModuleList:
    return nn.ModuleList([ResidualBlock(width, width, options, attention=a) for a in (attention, False)])


def _widths(channels: int, multipliers: Sequence[float], groups: int) -> list[int]:
    """Return the channels of each resolution.

    Raises:
        UserError: ``groups`` does not divide them.
    """
    widths = [round(channels * multiplier) for multiplier in multipliers]
    if channels < 1 or groups < 1 or min(widths) < 1 or any(width % groups for width in widths):
        hint = math.gcd(*widths) if min(widths) > 0 and groups > 0 else 8
        raise UserError(
            f"groups={groups} where the resolutions have {', '.join(map(str, widths))} channels; "
            f"allowed: a divisor of each; try model.groups={math.gcd(hint, max(groups, 1))}"
        )
    return widths


def _mid_groups(count: int | None, groups: int, width: int) -> int:
    if count is None:
        return groups
    if count < 0 or (count and width % count):
        raise UserError(
            f"mid_attention_groups={count} where there are {width} channels; allowed: a divisor, 0 for no norm, "
            "or null for the number in groups; try model.mid_attention_groups=null"
        )
    return count


def _check_resolutions(name: str, choice: Sequence[int], count: int) -> None:
    if not all(0 <= i < count for i in choice):
        raise UserError(
            f"{name}={list(choice)}; allowed: 0 (full resolution) to {count - 1}; try model.{name}=[{count - 1}]"
        )


def _steps(name: str, choice: str | Sequence[str], count: int, allowed: Sequence[str]) -> Sequence[str]:
    """Return one kind of resampling for each of ``count`` steps between resolutions."""
    kinds = (choice,) * count if isinstance(choice, str) else tuple(choice)
    if len(kinds) != count:
        raise UserError(
            f"{name}={list(kinds)}; allowed: {count} kinds, one for each step between resolutions; try "
            f"model.{name}=conv"
        )
    for kind in (choice,) if isinstance(choice, str) else kinds:
        if kind not in allowed:
            raise unknown(name, kind, allowed)
    return kinds

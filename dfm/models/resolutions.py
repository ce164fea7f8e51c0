"""The resolutions of a U-Net: the way down through them, and the way up."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from dfm.models.blocks import BlockOptions, Downsample, PlainResample, ResidualBlock, Upsample


class DownResolution(nn.Module):
    """The blocks of one resolution on the way down, then the step to the next resolution (None at the lowest)."""

    def __init__(self, blocks: list[ResidualBlock], resample: nn.Module | None) -> None:
        super().__init__()
        self.blocks, self.resample = nn.ModuleList(blocks), resample

    def forward(self, x: Tensor, e: Tensor) -> list[Tensor]:
        """Return the outputs of all modules, in order: the way up needs them as skips."""
        outputs = []
        for block in self.blocks:
            x = block(x, e)
            outputs.append(x)
        return outputs if self.resample is None else [*outputs, self.resample(x, e)]


class UpResolution(nn.Module):
    """The blocks of one resolution on the way up, each with a skip, then the step to the next (None at the highest)."""

    def __init__(self, blocks: list[ResidualBlock], resample: nn.Module | None) -> None:
        super().__init__()
        self.blocks, self.resample = nn.ModuleList(blocks), resample

    def forward(self, x: Tensor, skips: list[Tensor], e: Tensor) -> Tensor:
        """Compute the blocks on x joined with one skip for each block, the last skip first."""
        for block, skip in zip(self.blocks, reversed(skips), strict=True):
            x = block(torch.cat([x, skip], dim=1), e)
        return x if self.resample is None else self.resample(x, e)


def way_down(
    widths: Sequence[int],
    blocks: int,
    attention: Sequence[int],
    steps: Sequence[str],
    padding: int,
    options: BlockOptions,
) -> nn.ModuleList:
    """Make the resolutions 0 (full), 1, ... of the way down.

    Args:
        widths: channels of each resolution.
        blocks: residual blocks of each resolution.
        attention: the resolutions whose blocks have self-attention.
        steps: conv, resblock or pool, for the step from each resolution to the next.
        padding: of strided convolutions, as in ``Downsample``.
        options: of all blocks.
    """
    way, current = nn.ModuleList(), widths[0]
    for i, width in enumerate(widths):
        row = []
        for _ in range(blocks):
            row.append(ResidualBlock(current, width, options, attention=i in attention))
            current = width
        way.append(DownResolution(row, _step_down(steps[i], width, padding, options) if i < len(steps) else None))
    return way


def way_up(
    widths: Sequence[int], blocks: int, attention: Sequence[int], steps: Sequence[str], options: BlockOptions
) -> nn.ModuleList:
    """Make the resolutions ..., 1, 0 (full) of the way up, with ``blocks`` + 1 residual blocks on skips in each.

    Args:
        widths, blocks, attention, options: as in ``way_down``.
        steps: conv, resblock or nearest, for the step from resolution i + 1 to i.
    """
    way, current = nn.ModuleList(), widths[-1]
    for i in reversed(range(len(widths))):
        width = widths[i]
        # The skips, last first: the blocks of this resolution, then the step into it (conv_in for resolution 0).
        skip_widths = [width] * blocks + [widths[max(i - 1, 0)]]
        row = []
        for skip_width in skip_widths:
            row.append(ResidualBlock(current + skip_width, width, options, attention=i in attention))
            current = width
        way.append(UpResolution(row, _step_up(steps[i - 1], width, options) if i else None))
    return way


def _step_down(kind: str, width: int, padding: int, options: BlockOptions) -> nn.Module:
    if kind == "conv":
        return Downsample(width, padding, options)
    return ResidualBlock(width, width, options, resize="down") if kind == "resblock" else PlainResample("down")


def _step_up(kind: str, width: int, options: BlockOptions) -> nn.Module:
    if kind == "conv":
        return Upsample(width, options)
    return ResidualBlock(width, width, options, resize="up") if kind == "resblock" else PlainResample("up")

"""Classifiers of noisy data: networks that turn x and c_time = log nsr into a logit for each class."""

from torch import Tensor, nn
from torch.nn import functional

from dfm.basics.errors import UserError
from dfm.models.blocks import BlockOptions, DownLevel, Downsample, ResidualBlock, counted
from dfm.models.embeddings import Embedding
from dfm.models.fused_norm import norm_silu
from dfm.models.mlp import MLP
from dfm.models.unet import UNet


class ImageClassifier(nn.Module):
    """model(x (B, C, H, W), c_time (B,)) -> logits (B, num_classes): the way down of a U-Net, averaged over the image.

    (Dhariwal and Nichol 2021, section 4.1, with an average in the place of attention pooling.)

    Args:
        shape: (C, H, W) of one image.
        num_classes: at least 2.
        channels, channel_multipliers, blocks_per_level, attention_levels, num_heads, head_channels, groups, dropout: as
            in ``UNet``.

    Raises:
        UserError: fewer than two classes, or data that are not images.
    """

    def __init__(
        self,
        *,
        shape: tuple[int, ...],
        num_classes: int,
        channels: int = 32,
        channel_multipliers: tuple[float, ...] = (1, 2),
        blocks_per_level: int = 2,
        attention_levels: tuple[int, ...] = (1,),
        num_heads: int | None = None,
        head_channels: int | None = None,
        groups: int = 8,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        _check_classes(num_classes)
        if len(shape) != 3:
            raise UserError(f"a classifier of images was given data of shape {tuple(shape)}; try model=mlp")
        counted("blocks_per_level", blocks_per_level, 2, 1000)
        options = BlockOptions(
            time_channels=4 * channels, groups=groups, attention_groups=groups, norm_eps=1e-5, dropout=dropout,
            scale_shift=False, num_heads=num_heads, head_channels=head_channels, zero_init=True,
        )  # fmt: skip
        self.embedding = Embedding(features=channels, channels=4 * channels)
        widths = [round(channels * multiplier) for multiplier in channel_multipliers]
        self.conv_in = nn.Conv2d(shape[0], widths[0], 3, padding=1)
        self.down, current = nn.ModuleList(), widths[0]
        for level, width in enumerate(widths):
            row = []
            for _ in range(blocks_per_level):
                row.append(ResidualBlock(current, width, options, attention=level in attention_levels))
                current = width
            last = level == len(widths) - 1
            self.down.append(DownLevel(row, None if last else Downsample(current, 1)))
        self.norm_out = nn.GroupNorm(groups, current)
        self.linear_out = nn.Linear(current, num_classes)

    def features(self, x: Tensor, c_time: Tensor) -> Tensor:
        """What the last layer sees: (B, channels of the last level)."""
        e = functional.silu(self.embedding(c_time))
        h = self.conv_in(x)
        for level in self.down:
            h = level(h, e)[-1]
        return norm_silu(h, self.norm_out).mean((2, 3))

    def forward(self, x: Tensor, c_time: Tensor, label: Tensor | None = None) -> Tensor:
        """x (B, C, H, W), c_time = log nsr (B,) -> (B, num_classes); ``label`` is not looked at."""
        return self.linear_out(self.features(x, c_time))


class PointClassifier(MLP):
    """model(x (B, d), c_time (B,)) -> logits (B, num_classes): the residual perceptron with another last layer.

    Args:
        shape: of one example; num_classes: at least 2; width, depth: as in ``MLP``.

    Raises:
        UserError: fewer than two classes.
    """

    def __init__(self, *, shape: tuple[int, ...], num_classes: int, width: int = 128, depth: int = 3) -> None:
        _check_classes(num_classes)
        super().__init__(shape=shape, width=width, depth=depth)
        self.linear_out = nn.Linear(width, num_classes)
        self.out_shape = (num_classes,)

    def forward(self, x: Tensor, c_time: Tensor, label: Tensor | None = None, c_end: Tensor | None = None) -> Tensor:
        """x (B, *shape), c_time = log nsr (B,) -> (B, num_classes); ``label`` and ``c_end`` are not looked at."""
        return super().forward(x, c_time, None)


def _check_classes(count: int) -> None:
    if count < 2:
        raise UserError(f"a classifier for {count} classes; allowed: a data set with at least 2, with conditional=true")


# The classifier in the form of each network: it takes those of the network's options that it knows.
CLASSIFIERS: dict[type, type[nn.Module]] = {UNet: ImageClassifier, MLP: PointClassifier}

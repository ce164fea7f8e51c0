"""Classifiers of noisy data: networks that map x and c_time = log nsr to a logit for each class."""

from torch import Tensor, nn
from torch.nn import functional

from dfm.basics.errors import UserError
from dfm.models.blocks import BlockOptions, check_count
from dfm.models.condition import Condition
from dfm.models.dimensions import dimensions_of
from dfm.models.embeddings import Embedding
from dfm.models.fused_norm import norm_silu
from dfm.models.mlp import MLP
from dfm.models.resolutions import way_down
from dfm.models.unet import UNet


class ImageClassifier(nn.Module):
    """The network model(x (B, C, *S), c_time (B,)) -> logits (B, num_classes), for signals, images and volumes.

    It is the way down of a U-Net, averaged over all places (Dhariwal and Nichol 2021, section 4.1, with an average in
    place of attention pooling). Sides may have any length: a step down takes n places to n/2, rounded up.

    Args:
        shape: (C, *S) of one example.
        num_classes: at least 2.
        channels, channel_multipliers, blocks_per_level, attention_levels: as in ``UNet``.
        num_heads, head_channels, groups, dropout: as in ``UNet``.

    Raises:
        UserError: fewer than two classes, or points.
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
        dimensions = dimensions_of(shape, "classifier")
        check_count("blocks_per_level", blocks_per_level, 2, 1000)
        options = BlockOptions(
            time_channels=4 * channels,
            groups=groups,
            attention_groups=groups,
            norm_eps=1e-5,
            dropout=dropout,
            scale_shift=False,
            num_heads=num_heads,
            head_channels=head_channels,
            zero_init=True,
            dimensions=dimensions,
        )
        self.embedding = Embedding(features=channels, channels=4 * channels)
        widths = [round(channels * multiplier) for multiplier in channel_multipliers]
        self.conv_in = options.convolution(shape[0], widths[0])
        self.down = way_down(widths, blocks_per_level, attention_levels, ("conv",) * (len(widths) - 1), 1, options)
        self.norm_out = nn.GroupNorm(groups, widths[-1])
        self.linear_out = nn.Linear(widths[-1], num_classes)

    def features(self, x: Tensor, c_time: Tensor) -> Tensor:
        """Return the input of the last layer: (B, channels of the lowest resolution)."""
        e = functional.silu(self.embedding(c_time))
        h = self.conv_in(x)
        for resolution in self.down:
            h = resolution(h, e)[-1]
        return norm_silu(h, self.norm_out).mean(tuple(range(2, h.ndim)))

    def forward(self, x: Tensor, c_time: Tensor, label: Tensor | None = None) -> Tensor:
        """Map x (B, C, *S) and c_time = log nsr (B,) to logits (B, num_classes); ``label`` has no effect."""
        return self.linear_out(self.features(x, c_time))


class PointClassifier(MLP):
    """The network model(x (B, d), c_time (B,)) -> logits (B, num_classes): an ``MLP`` with another last layer.

    Args:
        shape: shape of one example.
        num_classes: at least 2.
        width, depth: as in ``MLP``.

    Raises:
        UserError: fewer than two classes.
    """

    def __init__(self, *, shape: tuple[int, ...], num_classes: int, width: int = 128, depth: int = 3) -> None:
        _check_classes(num_classes)
        super().__init__(shape=shape, width=width, depth=depth)
        self.linear_out = nn.Linear(width, num_classes)
        self.out_shape = (num_classes,)

    def forward(
        self,
        x: Tensor,
        c_time: Tensor,
        label: Tensor | None = None,
        c_end: Tensor | None = None,
        condition: Condition | None = None,
    ) -> Tensor:
        """Map x (B, *shape) and c_time = log nsr (B,) to (B, num_classes); the other inputs have no effect."""
        return super().forward(x, c_time, None)


def _check_classes(count: int) -> None:
    if count < 2:
        raise UserError(f"a classifier for {count} classes; allowed: a data set with 2 or more, and conditional=true")


# The classifier in the form of each network. It takes the options of the network that it has too.
CLASSIFIERS: dict[type, type[nn.Module]] = {UNet: ImageClassifier, MLP: PointClassifier}

"""A residual multilayer perceptron for points."""

import math

from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from dfm.models.blocks import zeroed
from dfm.models.embed import Conditioning, Sinusoid


class MLP(nn.Module):
    """x (B, *D), c_time (B,), label (B,) or None -> (B, *D), the sample taken flat.

    h = linear(x); then ``depth`` times h = h + linear(silu(linear(silu(norm(h))) + linear(e))); out = linear(silu(norm h)).

    Args:
        shape: of one sample; any.
        num_classes: 0 for an unconditional model.
        width: of the hidden layers. depth: of residual blocks.
        time_scale, max_period: of ``Sinusoid``.
    """

    def __init__(
        self,
        *,
        shape: tuple[int, ...],
        num_classes: int = 0,
        width: int = 128,
        depth: int = 3,
        time_scale: float = 10.0,
        max_period: float = 100.0,
    ) -> None:
        super().__init__()
        size = math.prod(shape)
        waves = Sinusoid(width, time_scale=time_scale, max_period=max_period, cos_first=True, frequency_shift=0)
        self.conditioning = Conditioning(waves, width, width, num_classes)
        self.linear_in = nn.Linear(size, width)
        self.blocks = nn.ModuleList(ResidualLayer(width) for _ in range(depth))
        self.norm = nn.LayerNorm(width)
        self.linear_out = zeroed(nn.Linear(width, size))

    def forward(self, x: Tensor, c_time: Tensor, label: Tensor | None = None) -> Tensor:
        """See the class."""
        e = self.conditioning(c_time, label)
        h = self.linear_in(x.flatten(1))
        for block in self.blocks:
            h = block(h, e)
        return self.linear_out(F.silu(self.norm(h))).reshape(x.shape)


class ResidualLayer(nn.Module):
    """h + linear2(silu(linear1(silu(norm(h))) + embedding(e))): (B, W), (B, W) -> (B, W)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.linear1, self.linear2 = nn.Linear(width, width), nn.Linear(width, width)
        self.embedding = nn.Linear(width, width)

    def forward(self, h: Tensor, e: Tensor) -> Tensor:
        """One block."""
        inner = self.linear1(F.silu(self.norm(h))) + self.embedding(e)
        return h + self.linear2(F.silu(inner))

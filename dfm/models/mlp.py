"""A residual multilayer perceptron for points, or for images as points of many dimensions."""

import math

from torch import Tensor, nn
from torch.nn import functional

from dfm.models.blocks import check_count, zero_out
from dfm.models.condition import Condition
from dfm.models.embeddings import Embedding


class MLP(nn.Module):
    """The network model(x (B, *shape), c_time (B,), label (B,) or None) -> (B, outputs * shape[0], *shape[1:]).

        h_0 = V x,   h_{i+1} = h_i + B_i silu(A_i silu(h_i) + T_i silu(e)),   output = U silu(h_depth)

    with e the embedding of time and label (``dfm.models.embeddings``); every matrix has a bias. (He et al. 2016, with
    time added inside each block as in Ho et al. 2020, appendix B.)

    Args:
        shape: shape of one example, (d,) for points.
        num_classes: labels are 0..num_classes-1; num_classes means 'no label', as None does. 0: no labels at all.
        width: dimension of h and e.
        depth: number of residual blocks.
        time_features: number of sines and cosines of time.
        time_scale, max_period, frequency_shift, flip_sin_to_cos: their options, see ``dfm.models.embeddings``.
        outputs: number of outputs of the shape of x, side by side along the first dimension.
        zero_init: whether blocks start as the identity and the output at zero; otherwise as torch initialises them.
        two_times: whether the network takes a second time, for flow maps (``dfm.denoising.flow_map``).
        changes: how many numbers tell the network how a picture was changed (``Condition``); 0: it is not told.

    Raises:
        UserError: a width or depth below 1, or an odd number of time features.
    """

    def __init__(
        self,
        *,
        shape: tuple[int, ...],
        num_classes: int = 0,
        outputs: int = 1,
        width: int = 128,
        depth: int = 3,
        time_features: int = 64,
        time_scale: float = 10.0,
        max_period: float = 100.0,
        frequency_shift: float = 1.0,
        flip_sin_to_cos: bool = False,
        zero_init: bool = True,
        two_times: bool = False,
        changes: int = 0,
    ) -> None:
        super().__init__()
        check_count("width", width, 128)
        check_count("depth", depth, 3, 1000)
        self.embedding = Embedding(
            features=time_features,
            channels=width,
            num_classes=num_classes,
            time_scale=time_scale,
            max_period=max_period,
            frequency_shift=frequency_shift,
            flip_sin_to_cos=flip_sin_to_cos,
            two_times=two_times,
            changes=changes,
        )
        self.linear_in = nn.Linear(math.prod(shape), width)
        self.blocks = nn.ModuleList([MLPBlock(width, zero_init) for _ in range(depth)])
        self.linear_out = zero_out(nn.Linear(width, outputs * math.prod(shape)), zero_init)
        self.out_shape = (outputs * shape[0], *shape[1:])

    def forward(
        self,
        x: Tensor,
        c_time: Tensor,
        label: Tensor | None = None,
        c_end: Tensor | None = None,
        condition: Condition | None = None,
    ) -> Tensor:
        """Map x (B, *shape), c_time = log nsr (B,) and label int64 (B,) or None to (B, *out_shape).

        ``c_end`` (B,) is the second time of a flow map; ``dfm.denoising.flow_map`` says how it gives both times.
        ``condition`` tells how each x was changed; None: not at all.

        Raises:
            UserError: a label for a network without classes, or a change for one that is not told of changes.
        """
        e = functional.silu(self.embedding(c_time, label, c_end, condition))
        h = self.linear_in(x.flatten(1))
        for block in self.blocks:
            h = block(h, e)
        return self.linear_out(functional.silu(h)).reshape(-1, *self.out_shape)


class MLPBlock(nn.Module):
    """The residual block h + B silu(A silu(h) + T e), with e (B, width) the silu of the embedding."""

    def __init__(self, width: int, zero_init: bool) -> None:
        super().__init__()
        self.linear_1 = nn.Linear(width, width)
        self.time = nn.Linear(width, width)
        self.linear_2 = zero_out(nn.Linear(width, width), zero_init)

    def forward(self, h: Tensor, e: Tensor) -> Tensor:
        """Map h (B, width) and e (B, width) to (B, width)."""
        return h + self.linear_2(functional.silu(self.linear_1(functional.silu(h)) + self.time(e)))

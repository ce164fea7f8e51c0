"""The exponential moving average of a network's weights, with which we sample and score."""

import torch
from torch import Tensor, nn

from dfm.basics.errors import UserError


class Ema:
    """The moving average of the weights: average <- d average + (1 - d) weights after each step.

    d = min(decay, (1 + step)/(10 + step)). The warm-up of d lets a short run forget its random initial weights (as in
    TensorFlow's moving average). Buffers are copied.

    Args:
        network: the network in training.
        average: a copy of it, in which the average is stored.
        decay: the largest d.

    Raises:
        UserError: decay is not in [0, 1).
    """

    def __init__(self, network: nn.Module, average: nn.Module, decay: float) -> None:
        if not 0 <= decay < 1:
            raise UserError(f"trainer.ema_decay={decay}; allowed: from 0 (no averaging) to below 1")
        self.decay = decay
        self.network = average.eval().requires_grad_(False)
        self._average, self._weights = _parameters(self.network), _parameters(network)
        self._buffers = list(zip(self.network.buffers(), network.buffers(), strict=True))

    def restart(self, network: nn.Module) -> None:
        """Start the average again from the weights of the network."""
        self.network.load_state_dict(network.state_dict())

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Add the weights after optimiser step ``step``, counted from 1 since the start or the last restart."""
        decay = min(self.decay, (1 + step) / (10 + step))
        if self._average:
            torch._foreach_lerp_(self._average, self._weights, 1 - decay)
        for average, current in self._buffers:
            average.copy_(current)


def _parameters(network: nn.Module) -> list[Tensor]:
    return [p.detach() for p in network.parameters()]

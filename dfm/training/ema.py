"""Exponential moving average of a network's weights: what is sampled from and scored."""

import torch
from torch import Tensor, nn

from dfm.basics.errors import UserError


class Ema:
    """shadow <- d shadow + (1 - d) weights after each step, with d = min(decay, (1 + step)/(10 + step)).

    The warm-up of d lets a short run forget its random initial weights (as in TensorFlow's moving average).
    Buffers are copied.

    Args:
        network: whose weights are averaged.
        average: a copy of it, which comes to hold the average.

    Raises:
        UserError: decay is not in [0, 1).
    """

    def __init__(self, network: nn.Module, average: nn.Module, decay: float) -> None:
        if not 0 <= decay < 1:
            raise UserError(f"trainer.ema_decay={decay}; allowed: from 0 (no averaging) to below 1")
        self.decay = decay
        self.network = average.eval().requires_grad_(False)
        self._shadow, self._weights = _floats(self.network), _floats(network)
        self._buffers = list(zip(self.network.buffers(), network.buffers(), strict=True))

    def restart(self, network: nn.Module) -> None:
        """Forget what was averaged: begin with the weights of the network."""
        self.network.load_state_dict(network.state_dict())

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Take in the weights after optimiser step ``step`` (counted from 1, at the start or the last restart)."""
        decay = min(self.decay, (1 + step) / (10 + step))
        if self._shadow:
            torch._foreach_lerp_(self._shadow, self._weights, 1 - decay)
        for mine, theirs in self._buffers:
            mine.copy_(theirs)


def _floats(network: nn.Module) -> list[Tensor]:
    return [p.detach() for p in network.parameters()]

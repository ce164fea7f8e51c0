"""Where a network is computed, and how: device, precision of its products, layout, what is kept for the way back."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

import torch
from torch import nn

from dfm.basics.errors import UserError

Precision = Literal["fp32", "tf32", "bf16"]


def resolve_device(name: str, local: int = 0) -> torch.device:
    """``auto`` is cuda where there is one, else the CPU.

    Where it is a card, float32 is float32 from then on, for the whole process: torch alone lets convolutions round to
    TF32 (10 bits of mantissa).

    Args:
        local: number of this process on its machine: it has the card of this number to itself.

    Raises:
        UserError: no such device here.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda":
        cards = torch.cuda.device_count()
        if 0 < cards <= local:
            raise UserError(f"process {local} of this machine, which has {cards} cards; allowed: a process a card")
        name = f"cuda:{local}"
    try:
        device = torch.device(name)
        torch.zeros(1, device=device)
        if device.type == "cuda":
            torch.cuda.set_device(device)  # what makes process groups and shards of weights asks for this one
            _allow_tf32(False)
    except (RuntimeError, AssertionError, NotImplementedError):
        raise UserError(f"device '{name}' is not to be had on this machine; allowed: auto, cpu, cuda, cuda:N") from None
    return device


def check_precision(given: str, device: torch.device) -> Precision:
    """The precision of this name.

    Raises:
        UserError: there is none, or the device does not have it.
    """
    if given not in ("fp32", "tf32", "bf16"):
        raise UserError(f"precision={given}; allowed: fp32, tf32, bf16")
    if given == "tf32" and device.type != "cuda":
        raise UserError(f"precision=tf32 on {device}, which does not have it; allowed: fp32, bf16; or a GPU")
    return given  # type: ignore[return-value]


@contextmanager
def products(precision: Precision, device: torch.device) -> Iterator[None]:
    """Within, convolutions and matrix products are computed in ``precision``.

    ``fp32`` is exact; ``tf32`` rounds factors to 10 bits of mantissa; ``bf16`` is autocast: factors and results have 7
    bits, norms are computed in float32, and what the network says is made float32 again.
    """
    with tf32(precision == "tf32"), torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"):
        yield


@contextmanager
def tf32(allowed: bool) -> Iterator[None]:
    """Within, float32 products on a card may round to TF32: what a backward pass needs beside its forward pass.

    The switch is the process's: not for several threads at once.
    """
    if not allowed:
        yield
        return
    _allow_tf32(True)
    try:
        yield
    finally:
        _allow_tf32(False)


def _allow_tf32(allowed: bool) -> None:
    # set and never read: torch refuses to read them where a program has used its newer names for the same switches
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = allowed


def laid_out(network: nn.Module, channels_last: bool) -> nn.Module:
    """The network with its convolutions' weights in the memory layout that suits the device."""
    return network.to(memory_format=torch.channels_last) if channels_last else network


def recompute(network: nn.Module) -> None:
    """Keep only the inputs of residual blocks for the way back, which computes what is within anew (Chen et al. 2016).

    Activation checkpointing: less memory for a third more products, and the same numbers.

    Raises:
        UserError: the network has no such blocks.
    """
    blocks = [module for module in network.modules() if hasattr(module, "recomputed")]
    for block in blocks:
        block.recomputed = True  # type: ignore[assignment]
    if not blocks:
        raise UserError(
            f"trainer.activation_checkpointing=true has no effect on {type(network).__name__}; allowed: with a U-Net"
        )

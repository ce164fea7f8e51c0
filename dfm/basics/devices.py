"""How a network is computed: device, precision of products, memory layout, activation checkpointing."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

import torch
from torch import nn

from dfm.basics.errors import UserError

Precision = Literal["fp32", "tf32", "bf16"]


def resolve_device(name: str, local: int = 0) -> torch.device:
    """Return the device of this name; ``auto`` is cuda if the machine has a card, else the CPU.

    If the device is a card, this also switches TF32 off for the whole process: by default torch lets convolutions
    round float32 to TF32 (10 bits of mantissa).

    Args:
        name: auto, cpu, cuda or cuda:N.
        local: number of this process on its machine. No other process uses the card of this number.

    Raises:
        UserError: this machine has no such device.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda":
        cards = torch.cuda.device_count()
        if 0 < cards <= local:
            raise UserError(f"process {local} has no card: this machine has {cards}; allowed: one process per card")
        name = f"cuda:{local}"
    try:
        device = torch.device(name)
        torch.zeros(1, device=device)
        if device.type == "cuda":
            torch.cuda.set_device(device)  # process groups and sharded weights use the current device
            _allow_tf32(False)
    except (RuntimeError, AssertionError, NotImplementedError):
        raise UserError(f"no device '{name}' on this machine; allowed: auto, cpu, cuda, cuda:N; try auto") from None
    return device


def check_precision(name: str, device: torch.device) -> Precision:
    """Return the precision of this name.

    Raises:
        UserError: no precision has this name, or the device does not support it.
    """
    if name not in ("fp32", "tf32", "bf16"):
        raise UserError(f"precision={name}; allowed: fp32, tf32, bf16")
    if name == "tf32" and device.type != "cuda":
        raise UserError(f"precision=tf32 on device {device}; allowed: fp32, bf16; tf32 needs a GPU")
    return name  # type: ignore[return-value]


@contextmanager
def products(precision: Precision, device: torch.device) -> Iterator[None]:
    """Compute convolutions and matrix products in ``precision`` inside this block.

    ``fp32`` keeps float32 everywhere. ``tf32`` rounds the factors to 10 bits of mantissa. ``bf16`` is autocast: factors
    and results have 7 bits, norms are computed in float32, and callers turn the output into float32 again.
    """
    with tf32(precision == "tf32"), torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"):
        yield


@contextmanager
def tf32(allowed: bool) -> Iterator[None]:
    """Allow float32 products on a card to round to TF32 inside this block.

    A backward pass needs this as well as its forward pass. The switch belongs to the whole process, so several threads
    must not use it at once.
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
    # We set these switches and never read them: torch refuses the reading once a program has used their newer names.
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = allowed


def laid_out(network: nn.Module, channels_last: bool) -> nn.Module:
    """Return the network; with ``channels_last``, the weights of 2-D and 3-D convolutions have that memory layout.

    In one dimension torch has no such layout.
    """
    layouts = {4: torch.channels_last, 5: torch.channels_last_3d} if channels_last else {}
    for part in (*network.parameters(), *network.buffers()):
        if part.ndim in layouts:
            part.data = part.data.to(memory_format=layouts[part.ndim])
    return network


def recompute(network: nn.Module) -> None:
    """Keep only the inputs of residual blocks; the backward pass computes the inside again (Chen et al. 2016).

    This is activation checkpointing: it needs less memory and a third more products, and gives the same numbers.

    Raises:
        UserError: the network has no residual blocks that can do this.
    """
    blocks = [module for module in network.modules() if hasattr(module, "recompute")]
    for block in blocks:
        block.recompute = True  # type: ignore[assignment]
    if not blocks:
        raise UserError(
            f"trainer.activation_checkpointing=true has no effect on {type(network).__name__}; allowed: with a U-Net"
        )

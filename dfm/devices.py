"""Where tensors are computed."""

import torch

from dfm.errors import UserError


def resolve_device(name: str, local: int = 0) -> torch.device:
    """``auto`` is cuda where there is one, else the CPU.

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
    except (RuntimeError, AssertionError, NotImplementedError):
        raise UserError(f"device '{name}' is not to be had on this machine; allowed: auto, cpu, cuda, cuda:N") from None
    return device

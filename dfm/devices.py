"""Where tensors are computed."""

import torch

from dfm.errors import UserError


def resolve_device(name: str, local: int = 0) -> torch.device:
    """``auto`` is cuda where there is one, else the CPU.

    Args:
        local: number of this process on its machine: its share of the cards.

    Raises:
        UserError: no such device here.
    """
    if name == "auto":
        cards = torch.cuda.device_count() if torch.cuda.is_available() else 0
        return torch.device("cuda", local % cards) if cards else torch.device("cpu")
    try:
        device = torch.device(name)
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError):
        raise UserError(f"device '{name}' is not to be had on this machine; allowed: auto, cpu, cuda, cuda:N") from None
    return device

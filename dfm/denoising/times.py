"""Times as users give them: a number or a tensor of any type becomes float64, inside the range of the model."""

from numbers import Real

import torch
from torch import Tensor

from dfm.basics.errors import UserError

ROUNDING = {torch.float64: 1e-9, torch.float32: 1e-6}  # of the range; numbers of fewer digits get 1e-2


def as_time(t: Tensor | float, x: Tensor) -> Tensor:
    """Return t as float64 of shape () or (B,).

    Args:
        t: a number, or a tensor () or (B,) of any real type, on the CPU or on the device of x.
        x: (B, *D).

    Raises:
        UserError: t is nothing of the kind.
    """
    if isinstance(t, Tensor):
        if t.dtype.is_complex or t.dtype == torch.bool or t.shape not in ((), x.shape[:1]):
            raise UserError(
                f"t is {t.dtype} of shape {tuple(t.shape)}; allowed: a number, or numbers of shape ({len(x)},)"
            )
        if t.device not in (x.device, torch.device("cpu")):
            raise UserError(
                f"t is on {t.device}, x on {x.device}; allowed: the same device, or the CPU; try t.to(x.device)"
            )
        return t.double()
    if isinstance(t, bool) or not isinstance(t, Real):
        raise UserError(f"t={t!r}; allowed: a number, or a tensor of shape () or ({len(x)},)")
    return torch.tensor(float(t), dtype=torch.float64)


def inside(t: Tensor | float, time: Tensor, low: float, high: float) -> Tensor:
    """Return ``time``, moved into [low, high] if only the rounding of t put it outside.

    Args:
        t: the time as the user gave it.
        time: ``as_time`` of it.

    Raises:
        UserError: it is outside, or not a number.
    """
    rounding = (
        ROUNDING.get(t.dtype, 1e-2) if isinstance(t, Tensor) and t.is_floating_point() else ROUNDING[torch.float64]
    )
    slack = rounding * (high - low)
    good = (time >= low - slack) & (time <= high + slack)
    if not bool(good.all()):
        wrong = float(time[~good].flatten()[0])
        raise UserError(
            f"t={wrong:g}; allowed: {low:g} to {high:g}, denoiser.t_min to denoiser.t_max of this model's path"
        )
    return time if rounding == ROUNDING[torch.float64] else time.clamp(low, high)

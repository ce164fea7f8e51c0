"""The arguments of the public functions, checked before any work: the model, the data, and their classes."""

import torch
from torch import Tensor, nn

from dfm.basics.errors import UserError
from dfm.denoising.denoiser import Denoiser


def check_denoiser(denoiser: object) -> None:
    """Refuse what is no model.

    Raises:
        UserError: it is not a ``Denoiser``.
    """
    if not isinstance(denoiser, Denoiser):
        raise UserError(
            f"denoiser is {type(denoiser).__name__}; allowed: a Denoiser; try dfm.load(CHECKPOINT), or MixtureDenoiser "
            "of dfm.denoising"
        )


def check_tensor(denoiser: Denoiser, what: str, x: object) -> None:
    """Refuse x that is not n examples of the model's shape, or not as many as the model has labels.

    Args:
        what: the name of x in messages.

    Raises:
        UserError: x is no tensor, has another shape than the model, or another length than the labels.
    """
    if not isinstance(x, Tensor):
        raise UserError(f"{what} are {type(x).__name__}; allowed: a tensor; try torch.as_tensor({what})")
    if x.ndim == 0 or x.shape[1:] != denoiser.spec.shape:
        allowed = ", ".join(map(str, ("n", *denoiser.spec.shape)))
        raise UserError(f"{what} have shape {tuple(x.shape)}; allowed: ({allowed})")
    if denoiser.label is not None and len(denoiser.label) != len(x):
        raise UserError(
            f"{len(x)} {what} and {len(denoiser.label)} labels; allowed: a label for each; try "
            f"denoiser.with_labels(labels) with {len(x)} labels"
        )


def check_real(denoiser: Denoiser, what: str, x: Tensor) -> None:
    """Refuse an x from which the model's ODE cannot start.

    Args:
        what: the name of x in messages.

    Raises:
        UserError: a few-step model without an ODE; x is not as ``check_tensor`` wants it; x holds integers.
    """
    denoiser.check_ode()
    check_tensor(denoiser, what, x)
    if not x.is_floating_point():
        raise UserError(
            f"{what} are {x.dtype}; allowed: real numbers; try dfm.data.numbers.pixel_levels.dequantize for levels"
        )


def check_finite(what: str, x: Tensor) -> None:
    """Refuse x (n, *D) with a value that is not finite.

    Raises:
        UserError: there is one.
    """
    good = x.isfinite().flatten(1).all(1)
    if not bool(good.all()):
        first, count = int((~good).nonzero()[0]), int((~good).sum())
        raise UserError(
            f"{what}: example {first} is not finite" + (f", and {count - 1} more" if count > 1 else "") + "; allowed: "
            f"finite numbers; try {what}[{what}.isfinite().flatten(1).all(1)]"
        )


def computable(x: Tensor) -> Tensor:
    """Return real numbers in float32 at least: a solver would lose its way in fewer digits."""
    return x if x.dtype in (torch.float32, torch.float64) else x.float()


def device_of(denoiser: Denoiser) -> torch.device:
    """Return the device of a denoiser's network; the CPU for a denoiser without parameters."""
    for name in ("inner", "strong"):  # of a guided one
        if isinstance(model := getattr(denoiser, name, None), Denoiser):
            return device_of(model)
    network = getattr(denoiser, "network", None)
    parameter = next(network.parameters(), None) if isinstance(network, nn.Module) else None
    return parameter.device if parameter is not None else torch.device("cpu")

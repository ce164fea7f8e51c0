"""The divergence of a field, by Hutchinson's estimate or exactly, together with the field's value."""

from abc import ABC, abstractmethod
from contextlib import nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from dfm.sampling.steppers.base import Field


class Divergence(ABC):
    """A way to compute the value and the divergence of a field, for a batch with fixed random probes."""

    @abstractmethod
    def __call__(self, velocity: Field, x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """Return (u (B, *D), div u (B,)); both can be differentiated if x requires a gradient, else have no graph."""

    @abstractmethod
    def select(self, index: Tensor) -> "Divergence":
        """Return the same for the samples ``index`` (int64) of the batch."""


@dataclass(frozen=True, kw_only=True)
class Exact(Divergence):
    """The exact divergence sum_i du_i/dx_i, by d products e_i . J: for points, small images and audits.

    Args:
        chunk: how many products are computed at once. Memory grows with it.

    Time grows with d: an image of 3x32x32 costs 3,072 backward passes per call.
    """

    chunk: int = 16

    def __call__(self, velocity: Field, x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        graph = _is_wanted(x)
        # Fused attention cannot compute many gradients at once; it would compute them one by one. And its gradient
        # has no gradient.
        attention = sdpa_kernel(SDPBackend.MATH) if x.is_cuda or graph else nullcontext()
        with torch.enable_grad(), attention:
            x = x if graph else x.detach().requires_grad_()
            u = velocity(x, t)
            flat, total = u.flatten(1), torch.zeros(len(x), dtype=x.dtype, device=x.device)
            d = flat.shape[1]
            for first in range(0, d, self.chunk):
                count = min(self.chunk, d - first)
                units = torch.eye(d, dtype=x.dtype, device=x.device)[first : first + count]
                (rows,) = torch.autograd.grad(
                    flat,
                    x,
                    units[:, None].expand(-1, len(x), -1),
                    retain_graph=graph or first + count < d,
                    create_graph=graph,
                    is_grads_batched=True,
                )
                total = total + torch.einsum("kbd,kd->b", rows.flatten(2), units)
        return (u, total) if graph else (u.detach(), total)

    def select(self, index: Tensor) -> "Exact":
        return self


@dataclass(frozen=True)
class Hutchinson(Divergence):
    """Hutchinson's estimate mean_k e_k . (J e_k) of div u, unbiased if E[e e^T] = I.

    (Hutchinson 1989; Grathwohl et al. 2019.) The probes e_k stay the same along the whole trajectory, so the integrand
    is a smooth function of time.

    Args:
        probes: e_k, (k, B, *D).
    """

    probes: Tensor

    def __call__(self, velocity: Field, x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        last, graph = len(self.probes) - 1, _is_wanted(x)
        with torch.enable_grad(), sdpa_kernel(SDPBackend.MATH) if graph else nullcontext():
            x = x if graph else x.detach().requires_grad_()
            u = velocity(x, t)
            total = torch.zeros(len(x), dtype=x.dtype, device=x.device)
            for k, probe in enumerate(self.probes):
                (product,) = torch.autograd.grad(u, x, probe, retain_graph=graph or k < last, create_graph=graph)
                total = total + (product * probe).flatten(1).sum(1)
        return (u if graph else u.detach()), total / len(self.probes)

    def select(self, index: Tensor) -> "Hutchinson":
        return Hutchinson(self.probes[:, index])


def _is_wanted(x: Tensor) -> bool:
    """Whether the caller wants a gradient with respect to x."""
    return x.requires_grad and torch.is_grad_enabled()

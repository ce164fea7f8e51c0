"""The optimisers of training: AdamW, and Muon for the matrices with AdamW for the rest."""

from collections.abc import Iterable, Sequence
from itertools import groupby
from typing import Any

import torch
from torch import Tensor, nn

from dfm.trainer_config import TrainerConfig

# An odd quintic that, iterated, takes singular values of (0, 1] to about 1: those at 1e-3 grow fastest (Jordan 2024).
QUINTIC = (3.4445, -4.7750, 2.0315)


class Muon(torch.optim.AdamW):
    """Momentum, orthogonalised, for every weight of two axes or more; AdamW for the others.

    A weight is a matrix W (m, n): one row for each output, as a linear layer has it, or a convolution's filters laid
    flat. With gradient G

        M <- mu M + (1 - mu) G,    N = mu M + (1 - mu) G    (Nesterov)
        W <- (1 - eta lambda) W - eta 0.2 sqrt(max(m, n)) U V^T,    N = U S V^T

    U V^T is the step of steepest descent where the length of a step is its greatest singular value (Jordan et al. 2024,
    "Muon"); 0.2 sqrt(max(m, n)) gives its elements the root mean square that AdamW's steps usually have, so that both
    share one rate eta (Liu et al. 2025, arXiv:2502.16982, eq. 4). U V^T is found by five iterations of a polynomial,
    to about a fifth in each singular value, in float32.

    Args:
        groups: parameter groups; each is parted into its matrices and the rest.
        momentum: mu.
        kwargs: of AdamW; ``lr`` (eta) and ``weight_decay`` (lambda) are of the matrices too.
    """

    def __init__(self, groups: Sequence[dict[str, Any]], *, momentum: float = 0.95, **kwargs: Any) -> None:
        parted = []
        for group in groups:
            for matrices in (True, False):
                parameters = [p for p in group["params"] if (p.ndim >= 2) is matrices]
                if parameters:
                    parted.append({**group, "params": parameters, "matrices": matrices, "momentum": momentum})
        super().__init__(parted, **kwargs)

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        """One step of all parameters; the gradients of the matrices are used up.

        Args:
            closure: forms the gradients; its value is returned.
        """
        loss = None if closure is None else torch.enable_grad()(closure)()
        for group in self.param_groups:
            if group["matrices"]:
                self._orthogonal(group)
        super().step()  # passes over what has no gradient
        return loss

    def _orthogonal(self, group: dict[str, Any]) -> None:
        moving = [p for p in group["params"] if p.grad is not None]
        for shape, alike in groupby(sorted(moving, key=_flat), key=_flat):
            parameters = list(alike)
            steps = orthogonalised(torch.stack([self._momentum(p, group["momentum"]) for p in parameters]))
            size = 0.2 * max(shape) ** 0.5
            for parameter, step in zip(parameters, steps, strict=True):
                parameter.mul_(1 - group["lr"] * group["weight_decay"])
                parameter.add_(step.view(parameter.shape), alpha=-group["lr"] * size)
                parameter.grad = None

    def _momentum(self, parameter: Tensor, mu: float) -> Tensor:
        """N of one parameter, (m, n), after its M took the gradient in."""
        gradient, state = parameter.grad, self.state[parameter]
        assert gradient is not None
        if not state:
            state.update(step=torch.zeros(()), momentum=torch.zeros_like(parameter))  # AdamW's loading wants "step"
        state["step"] += 1
        state["momentum"].lerp_(gradient, 1 - mu)
        return gradient.lerp(state["momentum"], mu).reshape(_flat(parameter))


def orthogonalised(matrices: Tensor, iterations: int = 5) -> Tensor:
    """U V^T of each U S V^T in (..., m, n), singular values within about (0.7, 1.2), but those below 1e-3 of the norm.

    X <- a X + (b A + c A^2) X with A = X X^T, from X = matrices/|matrices|_F.
    """
    a, b, c = QUINTIC
    wide = matrices.shape[-2] <= matrices.shape[-1]
    x = matrices if wide else matrices.mT
    x = x / (torch.linalg.matrix_norm(x, keepdim=True) + 1e-7)
    for _ in range(iterations):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x if wide else x.mT


def optimizer(config: TrainerConfig, groups: Iterable[Sequence[nn.Parameter]]) -> torch.optim.Optimizer | None:
    """That of ``config``, over groups of parameters that cannot be moved by one call; None where there are none."""
    parted = [{"params": list(group)} for group in groups if group]
    if not parted:
        return None
    kind = {"adamw": torch.optim.AdamW, "muon": Muon}[config.optimizer]
    return kind(parted, lr=config.lr, betas=config.betas, weight_decay=config.weight_decay, fused=True)


def _flat(parameter: Tensor) -> tuple[int, int]:
    return parameter.shape[0], parameter[0].numel()

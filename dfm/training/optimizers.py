"""The optimisers of training: AdamW, and Muon for the matrices with AdamW for the rest."""

from collections.abc import Sequence
from itertools import groupby
from typing import Any

import torch
from torch import Tensor, nn

from dfm.training.trainer_config import TrainerConfig

# p(s) = 3.4445 s - 4.7750 s^3 + 2.0315 s^5 (Jordan et al. 2024): a small singular value grows by 3.44 an iteration, and
# those near 1 stay between 0.68 and 1.2, which is as good as 1 for a step and takes fewer iterations.
QUINTIC = (3.4445, -4.7750, 2.0315)


class Muon(torch.optim.AdamW):
    """Momentum, orthogonalised, for the weights that are matrices; AdamW for the others.

    A weight is a matrix W (m, n): one row for each output, as a linear layer has it, or a convolution's filters laid
    flat. With gradient G

        M <- mu M + (1 - mu) G,    N = mu M + (1 - mu) G    (Nesterov)
        W <- (1 - eta lambda) W - eta 0.2 sqrt(max(m, n)) U V^T,    N = U S V^T

    U V^T is the step of steepest descent where the length of a step is its greatest singular value (Jordan et al. 2024,
    "Muon"); 0.2 sqrt(max(m, n)) gives its elements the root mean square that AdamW's steps usually have, so that both
    share one rate eta (Liu et al. 2025, arXiv:2502.16982, eq. 4). It is found by ``orthogonalised``, in float32.

    Args:
        matrices: parameters of two axes or more that are moved so.
        others: groups of parameters that AdamW moves.
        momentum: mu.
        kwargs: of AdamW; ``lr`` (eta) and ``weight_decay`` (lambda) are of the matrices too.
    """

    def __init__(
        self,
        matrices: Sequence[nn.Parameter],
        others: Sequence[Sequence[nn.Parameter]] = (),
        *,
        momentum: float = 0.95,
        **kwargs: Any,
    ) -> None:
        groups = [(matrices, momentum), *((group, None) for group in others)]
        super().__init__([{"params": list(group), "momentum": mu} for group, mu in groups if group], **kwargs)

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        """One step of all parameters; the gradients of the matrices are used up.

        Args:
            closure: forms the gradients; its value is returned.
        """
        loss = None if closure is None else torch.enable_grad()(closure)()
        for group in self.param_groups:
            if group["momentum"] is not None:
                self._orthogonal(group)
        super().step()  # passes over what has no gradient
        return loss

    def _orthogonal(self, group: dict[str, Any]) -> None:
        moving = [p for p in group["params"] if p.grad is not None]
        for shape, alike in groupby(sorted(moving, key=_flat), key=_flat):
            parameters = list(alike)
            steps = orthogonalize(torch.stack([self._momentum(p, group["momentum"]) for p in parameters]))
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


def orthogonalize(matrices: Tensor, iterations: int = 5) -> Tensor:
    """About U V^T of each U S V^T in (..., m, n): the same vectors, with singular values between 0.68 and 1.2.

    X <- a X + (b A + c A^2) X with A = X X^T, from X = matrices/|matrices|_F. After five iterations singular values
    that were below 0.0015 of that norm are still smaller than 0.68.
    """
    a, b, c = QUINTIC
    wide = matrices.shape[-2] <= matrices.shape[-1]
    x = matrices if wide else matrices.mT
    x = x / (torch.linalg.matrix_norm(x, keepdim=True) + 1e-7)
    for _ in range(iterations):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x if wide else x.mT


def matrices_of(network: nn.Module) -> list[nn.Parameter]:
    """The weights of a network that Muon is for.

    Not those of one row or column, which have one singular value, nor tables of classes: of the rows of a table a batch
    sees a few, and a class that it does not see would be moved as far as the others.
    """
    tables = {id(m.weight) for m in network.modules() if isinstance(m, nn.Embedding)}
    return [p for p in network.parameters() if p.ndim >= 2 and min(_flat(p)) > 1 and id(p) not in tables]


def optimizer(config: TrainerConfig, network: nn.Module, objective: nn.Module) -> torch.optim.Optimizer | None:
    """That of ``config`` for a network and what an objective learns; None where there is nothing to train."""
    learned = [p for p in objective.parameters() if p.requires_grad]
    options: dict[str, Any] = {"lr": config.lr, "betas": config.betas, "weight_decay": config.weight_decay}
    # apart, since what the processes of a run hold parted and what they hold whole cannot be moved by one call
    if not (groups := [group for group in (list(network.parameters()), learned) if group]):
        return None
    if config.optimizer == "adamw":
        return torch.optim.AdamW([{"params": group} for group in groups], fused=True, **options)
    matrices = matrices_of(network)
    orthogonal = {id(p) for p in matrices}
    others = [[p for p in group if id(p) not in orthogonal] for group in groups]
    return Muon(matrices, others, fused=True, **options)


def _flat(parameter: Tensor) -> tuple[int, int]:
    return parameter.shape[0], parameter.shape[1:].numel()

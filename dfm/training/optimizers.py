"""The optimisers: AdamW; and Muon for matrices, with AdamW for the rest."""

from collections.abc import Sequence
from itertools import groupby
from typing import Any

import torch
from torch import Tensor, nn

from dfm.training.trainer_config import TrainerConfig

# p(s) = 3.4445 s - 4.7750 s^3 + 2.0315 s^5 (Jordan et al. 2024): an iteration multiplies small singular values by 3.44,
# and values near 1 stay between 0.68 and 1.2. For a step this is as good as 1, and it needs fewer iterations.
QUINTIC = (3.4445, -4.7750, 2.0315)


class Muon(torch.optim.AdamW):
    """Orthogonalised momentum for the weights that are matrices; AdamW for the others.

    A weight is a matrix W (m, n) with one row for each output: the weight of a linear layer, or the filters of a
    convolution, each laid flat. With gradient G

        M <- mu M + (1 - mu) G,    N = mu M + (1 - mu) G    (Nesterov)
        W <- (1 - eta lambda) W - eta 0.2 sqrt(max(m, n)) U V^T,    N = U S V^T

    U V^T is the step of steepest descent if the length of a step is its largest singular value (Jordan et al. 2024,
    "Muon"). The factor 0.2 sqrt(max(m, n)) gives its elements the usual root mean square of AdamW's steps, so that both
    use the same rate eta (Liu et al. 2025, arXiv:2502.16982, eq. 4). ``orthogonalize`` computes U V^T, in float32.

    Args:
        matrices: parameters with two axes or more, for orthogonalised steps.
        others: groups of parameters for AdamW.
        momentum: mu.
        kwargs: arguments of AdamW; ``lr`` (eta) and ``weight_decay`` (lambda) hold for the matrices too.
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
        """Take one step with all parameters; the gradients of the matrices are None afterwards.

        Args:
            closure: computes the gradients; its value is returned.
        """
        loss = None if closure is None else torch.enable_grad()(closure)()
        for group in self.param_groups:
            if group["momentum"] is not None:
                self._step_matrices(group)
        super().step()  # skips parameters without a gradient
        return loss

    def _step_matrices(self, group: dict[str, Any]) -> None:
        """Take one orthogonalised step with a group's matrices, all matrices of one shape together."""
        matrices = [p for p in group["params"] if p.grad is not None]
        for shape, same_shape in groupby(sorted(matrices, key=_flat_shape), key=_flat_shape):
            parameters = list(same_shape)
            steps = orthogonalize(torch.stack([self._momentum(p, group["momentum"]) for p in parameters]))
            size = 0.2 * max(shape) ** 0.5
            for parameter, step in zip(parameters, steps, strict=True):
                parameter.mul_(1 - group["lr"] * group["weight_decay"])
                parameter.add_(step.view(parameter.shape), alpha=-group["lr"] * size)
                parameter.grad = None

    def _momentum(self, parameter: Tensor, mu: float) -> Tensor:
        """Return N of one parameter, (m, n), after its gradient was added to M."""
        gradient, state = parameter.grad, self.state[parameter]
        assert gradient is not None
        if not state:
            state.update(
                step=torch.zeros(()), momentum=torch.zeros_like(parameter)
            )  # AdamW needs "step" when it loads a state
        state["step"] += 1
        state["momentum"].lerp_(gradient, 1 - mu)
        return gradient.lerp(state["momentum"], mu).reshape(_flat_shape(parameter))


def orthogonalize(matrices: Tensor, iterations: int = 5) -> Tensor:
    """Return about U V^T for each U S V^T in (..., m, n): the same vectors, singular values between 0.68 and 1.2.

    X <- a X + (b A + c A^2) X with A = X X^T, from X = matrices/|matrices|_F. Singular values below 0.0015 of that norm
    are still smaller than 0.68 after five iterations.
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
    """Return the weights of a network for Muon.

    Weights of one row or column are left out, since they have one singular value. Tables of classes are left out too: a
    batch contains a few classes, and the rows of all other classes would move as far as theirs.
    """
    tables = {id(m.weight) for m in network.modules() if isinstance(m, nn.Embedding)}
    return [p for p in network.parameters() if p.ndim >= 2 and min(_flat_shape(p)) > 1 and id(p) not in tables]


def optimizer(config: TrainerConfig, network: nn.Module, objective: nn.Module) -> torch.optim.Optimizer | None:
    """Return the optimiser of a network and of an objective's own parameters; None if there are no parameters."""
    own = [p for p in objective.parameters() if p.requires_grad]
    options: dict[str, Any] = {"lr": config.lr, "betas": config.betas, "weight_decay": config.weight_decay}
    # These are two groups, since one call cannot update sharded and whole parameters together.
    if not (groups := [group for group in (list(network.parameters()), own) if group]):
        return None
    if config.optimizer == "adamw":
        return torch.optim.AdamW([{"params": group} for group in groups], fused=True, **options)
    matrices = matrices_of(network)
    orthogonal = {id(p) for p in matrices}
    others = [[p for p in group if id(p) not in orthogonal] for group in groups]
    return Muon(matrices, others, fused=True, **options)


def _flat_shape(parameter: Tensor) -> tuple[int, int]:
    """Return (m, n) of a parameter as a matrix."""
    return parameter.shape[0], parameter.shape[1:].numel()

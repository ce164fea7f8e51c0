"""How the processes of a run hold its network: each all of it (DDP, here), or each a share of every weight (FSDP2).

In both a process takes its own parts of a batch, and the mean of the gradients over the processes is formed while the
backward pass of the last part still runs.
"""

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from torch import Tensor, nn

from dfm.distributed import Team
from dfm.errors import UserError


class Replicated:
    """Every process has all weights: DistributedDataParallel (Li et al. 2020, arXiv:2006.15704), or one process alone.

    Args:
        network: on its device; trained in place.
        average: of the same form, for the moving average of the weights.

    Attributes:
        forward: what the losses call in the place of ``network``.
    """

    def __init__(self, network: nn.Module, average: nn.Module, team: Team) -> None:
        self.network, self.team = network, team
        self.forward: nn.Module = network
        self._ddp: nn.parallel.DistributedDataParallel | None = None
        if team.size > 1 and any(p.requires_grad for p in network.parameters()):
            with team.together():
                self.forward = self._ddp = nn.parallel.DistributedDataParallel(network, forward_sync_buffers=False)

    def accumulating(self) -> AbstractContextManager[Any]:
        """Within, backward passes leave the gradients where they are: the last part's pass is to form the mean."""
        return self._ddp.no_sync() if self._ddp is not None else nullcontext()

    def norm(self, gradients: Sequence[Tensor]) -> Tensor:
        """Euclidean norm of all gradients together, float32 ()."""
        return nn.utils.get_total_norm(gradients)

    def clip(self, parameters: Sequence[Tensor], bound: float, norm: Tensor) -> None:
        """Scale the gradients by min(1, bound/norm)."""
        nn.utils.clip_grads_with_norm_(parameters, bound, norm)

    def whole(self, value: Any) -> Any:
        """Containers and their tensors as a checkpoint has them; all processes ask, the first one's answer counts."""
        return value

    def share(self, value: Any, like: Any) -> Any:
        """The opposite of ``whole``: this process's part of a tensor, as ``like`` is parted."""
        return value

    def usable(self, network: nn.Module) -> nn.Module:
        """A network with the weights of ``network`` that one process can use alone; all processes ask together."""
        return network


def held(kind: str, network: nn.Module, average: nn.Module, team: Team) -> Replicated:
    """The network and the average of its weights as the processes of ``team`` are to hold them: ``ddp`` or ``fsdp``."""
    if kind == "ddp" or team.size == 1:
        return Replicated(network, average, team)
    from dfm.sharding import Sharded  # not above: what it needs takes a third of a second to load

    return Sharded(network, average, team)


def check(kind: str, parts: int, shardable: bool, team: Team) -> None:
    """Refuse what the processes of ``team`` cannot share.

    Args:
        parts: of a batch.
        shardable: whether the objective allows ``fsdp``.

    Raises:
        UserError: as it says.
    """
    if parts % team.size:
        raise UserError(
            f"trainer.accumulate={parts} on {team.size} processes, which share the parts of a batch; allowed: "
            f"multiples of {team.size}"
        )
    if kind == "fsdp" and not shardable:
        raise UserError("trainer.parallel=fsdp: this objective needs the whole network in every process; allowed: ddp")

"""How the processes of a run hold its network: each all of it (DDP, here), or each a share of every weight (FSDP2).

In both a process takes its own parts of a batch, and the mean of the gradients over the processes is formed while the
backward pass of the last part still runs.
"""

import inspect
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, ClassVar

from torch import Tensor, nn

from dfm.distributed import Team
from dfm.errors import UserError
from dfm.trainer_config import TrainerConfig


class Replicated:
    """Every process has all weights: DistributedDataParallel (Li et al. 2020, arXiv:2006.15704), or one process alone.

    Args:
        network: on its device; trained in place.
        average: of the same form, for the moving average of the weights.

    Attributes:
        forward: what the losses call in the place of ``network``.
        parted: whether no process has all weights.
    """

    parted: ClassVar[bool] = False

    def __init__(self, network: nn.Module, average: nn.Module, team: Team) -> None:
        self.network, self.team = network, team
        self.forward: nn.Module = network
        self._ddp: nn.parallel.DistributedDataParallel | None = None
        if team.size > 1 and any(p.requires_grad for p in network.parameters()):
            # no messages about buffers, which are the same: some processes may call the network more often than others
            ddp: Any = nn.parallel.DistributedDataParallel
            known = inspect.signature(ddp.__init__).parameters
            quiet = "forward_sync_buffers" if "forward_sync_buffers" in known else "broadcast_buffers"
            with team.together():
                self.forward = self._ddp = ddp(network, **{quiet: False})

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

    def usable(self, network: nn.Module, everywhere: bool) -> nn.Module:
        """A network with the weights of ``network`` that one process can use alone; all processes ask together.

        Args:
            everywhere: else only the first process needs it, and the others may get one without numbers.
        """
        return network


def held(kind: str, network: nn.Module, average: nn.Module, team: Team) -> Replicated:
    """The network and the average of its weights as the processes of ``team`` are to hold them: ``ddp`` or ``fsdp``."""
    if kind == "ddp" or team.size == 1:
        return Replicated(network, average, team)
    from dfm.sharding import Sharded  # not above: what it needs takes a third of a second to load

    return Sharded(network, average, team)


def unused() -> UserError:
    """What is said where DDP waits for the gradient of a parameter that has none."""
    return UserError(
        "a parameter of the network takes no part in a loss, which trainer.parallel=ddp does not allow; "
        "try trainer.parallel=fsdp, or a network without it"
    )


def check(config: TrainerConfig, shardable: bool, team: Team) -> None:
    """Refuse what the processes of ``team`` cannot share.

    Args:
        shardable: whether the objective allows ``fsdp``.

    Raises:
        UserError: as it says.
    """
    if config.accumulate % team.size:
        raise UserError(
            f"trainer.accumulate={config.accumulate} on {team.size} processes, which share the parts of a batch; "
            f"allowed: multiples of {team.size}"
        )
    if config.parallel != "fsdp":
        return
    if config.compile:
        raise UserError(
            "trainer.parallel=fsdp with trainer.compile=true: they do not go together; allowed: one of them; try "
            "trainer.compile=false"
        )
    if config.optimizer == "muon":
        raise UserError(
            "trainer.parallel=fsdp with trainer.optimizer=muon, which needs whole matrices; allowed: one of them; try "
            "trainer.parallel=ddp"
        )
    if not shardable:
        raise UserError("trainer.parallel=fsdp: this objective needs the whole network in every process; allowed: ddp")

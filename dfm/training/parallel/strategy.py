"""How the processes of a run hold its network: each all of it (DDP, here), or each a share of every weight (FSDP2).

In both a process takes its own parts of a batch, and the mean of the gradients over the processes is formed while the
backward pass of the last part still runs.
"""

from torch import nn

from dfm.basics.errors import UserError
from dfm.basics.processes import World
from dfm.training.parallel.replicated import Replicated
from dfm.training.trainer_config import TrainerConfig


def hold_network(kind: str, network: nn.Module, average: nn.Module, world: World) -> Replicated:
    """The network and the average of its weights as the processes of ``world`` are to hold them: ``ddp`` or ``fsdp``."""
    if kind == "ddp" or world.size == 1:
        return Replicated(network, average, world)
    from dfm.training.parallel.sharded import Sharded

    return Sharded(network, average, world)


def check_parallel(config: TrainerConfig, shardable: bool, world: World) -> None:
    """Refuse what the processes of ``world`` cannot share.

    Args:
        shardable: whether the objective allows ``fsdp``.

    Raises:
        UserError: as it says.
    """
    if config.accumulate % world.size:
        raise UserError(
            f"trainer.accumulate={config.accumulate} on {world.size} processes, which share the parts of a batch; "
            f"allowed: multiples of {world.size}"
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

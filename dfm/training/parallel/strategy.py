"""The choice of how processes hold a network: each has all of it (DDP), or each has a share of every weight (FSDP2).

In both cases a process takes its own parts of a batch. The gradients are averaged over the processes during the
backward pass of the last part.
"""

from torch import nn

from dfm.basics.errors import UserError
from dfm.basics.processes import World
from dfm.training.parallel.replicated import Replicated
from dfm.training.trainer_config import TrainerConfig


def hold_network(kind: str, network: nn.Module, average: nn.Module, world: World) -> Replicated:
    """Return a network and the average of its weights, as the processes hold them: by ``ddp`` or by ``fsdp``."""
    if kind == "ddp" or world.size == 1:
        return Replicated(network, average, world)
    from dfm.training.parallel.sharded import Sharded

    return Sharded(network, average, world)


def check_parallel(config: TrainerConfig, shardable: bool, world: World) -> None:
    """Refuse a run that the processes of ``world`` cannot share.

    Args:
        shardable: whether the objective allows ``fsdp``.

    Raises:
        UserError: the parts of a batch are no multiple of the processes; or ``fsdp`` does not go with ``compile``,
            ``muon`` or the objective.
    """
    if config.accumulate % world.size:
        size, batch = world.size, config.batch_size
        fitting = next((parts for parts in range(size, batch + 1, size) if batch % parts == 0), None)
        fewer = next(k for k in range(size, 0, -1) if config.accumulate % k == 0)
        fix = f"trainer.accumulate={fitting}" if fitting else f"torchrun with {fewer} in place of {size} processes"
        raise UserError(
            f"the {config.accumulate} parts of a batch (trainer.accumulate, or the number of processes with which this "
            f"run began) for {size} processes, which share them; allowed: multiples of {size} that divide "
            f"trainer.batch_size={batch}; try {fix}"
        )
    if config.parallel != "fsdp":
        return
    if config.compile:
        raise UserError(
            "trainer.parallel=fsdp and trainer.compile=true do not go together; allowed: one of them; try "
            "trainer.compile=false"
        )
    if config.optimizer == "muon":
        raise UserError(
            "trainer.parallel=fsdp and trainer.optimizer=muon, which needs whole matrices, do not go together; "
            "allowed: one of them; try trainer.parallel=ddp"
        )
    if not shardable:
        raise UserError("trainer.parallel=fsdp: this objective needs the whole network in every process; allowed: ddp")

"""Every process holds the whole network: DDP, or one process alone."""

import inspect
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, ClassVar

from torch import Tensor, nn

from dfm.basics.processes import World


class Replicated:
    """Every process has all weights: DistributedDataParallel (Li et al. 2020, arXiv:2006.15704), or one process alone.

    Args:
        network: on its device; trained in place.
        average: of the same form, for the moving average of the weights.

    Attributes:
        forward: what the losses call in the place of ``network``.
        is_sharded: whether no process has all weights.
    """

    is_sharded: ClassVar[bool] = False

    def __init__(self, network: nn.Module, average: nn.Module, world: World) -> None:
        self.network, self.world = network, world
        self.forward: nn.Module = network
        self._ddp: nn.parallel.DistributedDataParallel | None = None
        if world.size > 1 and any(p.requires_grad for p in network.parameters()):
            # no messages about buffers, which are the same: some processes may call the network more often than others
            ddp: Any = nn.parallel.DistributedDataParallel
            known = inspect.signature(ddp.__init__).parameters
            quiet = "forward_sync_buffers" if "forward_sync_buffers" in known else "broadcast_buffers"
            with world.together():
                self.forward = self._ddp = ddp(network, **{quiet: False})

    def no_sync(self) -> AbstractContextManager[Any]:
        """Within, backward passes leave the gradients where they are: the last part's pass is to form the mean."""
        return self._ddp.no_sync() if self._ddp is not None else nullcontext()

    def norm(self, gradients: Sequence[Tensor]) -> Tensor:
        """Euclidean norm of all gradients together, float32 ()."""
        return nn.utils.get_total_norm(gradients)

    def clip(self, parameters: Sequence[Tensor], bound: float, norm: Tensor) -> None:
        """Scale the gradients by min(1, bound/norm)."""
        nn.utils.clip_grads_with_norm_(parameters, bound, norm)

    def gather(self, value: Any) -> Any:
        """Containers and their tensors as a checkpoint has them; all processes ask, the first one's answer counts."""
        return value

    def shard(self, value: Any, like: Any) -> Any:
        """The opposite of ``gather``: this process's part of a tensor, as ``like`` is parted."""
        return value

    def gathered_copy(self, network: nn.Module, everywhere: bool) -> nn.Module:
        """A network with the weights of ``network`` that one process can use alone; all processes ask together.

        Args:
            everywhere: else only the first process needs it, and the others may get one without numbers.
        """
        return network

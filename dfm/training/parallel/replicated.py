"""A network that every process holds whole: DDP, or one process alone."""

import inspect
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, ClassVar

from torch import Tensor, nn

from dfm.basics.processes import World


class Replicated:
    """A network of which every process has all weights, by DistributedDataParallel; or of one process alone.

    (Li et al. 2020, arXiv:2006.15704.)

    Args:
        network: on its device; it is trained in place.
        average: a network of the same form, for the moving average of the weights.
        world: the processes.

    Attributes:
        forward: the module that the losses call in the place of ``network``.
        is_sharded: whether each process has only a share of the weights.
    """

    is_sharded: ClassVar[bool] = False

    def __init__(self, network: nn.Module, average: nn.Module, world: World) -> None:
        self.network, self.world = network, world
        self.forward: nn.Module = network
        self._ddp: nn.parallel.DistributedDataParallel | None = None
        if world.size > 1 and any(p.requires_grad for p in network.parameters()):
            # Buffers are the same on all processes and are not sent: some processes may call the network more often.
            ddp: Any = nn.parallel.DistributedDataParallel
            parameters = inspect.signature(ddp.__init__).parameters
            sync_buffers = "forward_sync_buffers" if "forward_sync_buffers" in parameters else "broadcast_buffers"
            with world.together():
                self.forward = self._ddp = ddp(network, **{sync_buffers: False})

    def no_sync(self) -> AbstractContextManager[Any]:
        """Return a context in which backward passes do not average gradients over the processes.

        Only the backward pass of the last part takes the mean.
        """
        return self._ddp.no_sync() if self._ddp is not None else nullcontext()

    def norm(self, gradients: Sequence[Tensor]) -> Tensor:
        """Return the Euclidean norm of all gradients together, float32 ()."""
        return nn.utils.get_total_norm(gradients)

    def clip(self, parameters: Sequence[Tensor], bound: float, norm: Tensor) -> None:
        """Scale the gradients by min(1, bound/norm)."""
        nn.utils.clip_grads_with_norm_(parameters, bound, norm)

    def gather(self, value: Any) -> Any:
        """Return containers with whole tensors for a checkpoint; call it on every process, only the first gets them."""
        return value

    def shard(self, value: Any, like: Any) -> Any:
        """Return this process's share of a tensor, cut as ``like`` is: the opposite of ``gather``."""
        return value

    def gathered_copy(self, network: nn.Module, everywhere: bool) -> nn.Module:
        """Return a network with the weights of ``network`` that one process can use alone; call it on every process.

        Args:
            everywhere: whether every process needs it; if not, all but the first may get a network without numbers.
        """
        return network

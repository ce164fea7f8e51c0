"""Several processes on one piece of work, as torchrun starts them: who this one is, and how results come together."""

import atexit
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from dfm.basics.errors import ProcessError

if TYPE_CHECKING:
    from torch import Tensor

PartT = TypeVar("PartT")
ENVIRONMENT = (("RANK", "0"), ("WORLD_SIZE", "1"), ("LOCAL_RANK", "0"))


@dataclass(frozen=True)
class World:
    """Process ``rank`` of ``size``; it is number ``local`` on its machine."""

    rank: int = 0
    size: int = 1
    local: int = 0

    @property
    def first(self) -> bool:
        """Whether this process is the one that writes and speaks."""
        return self.rank == 0

    def own_parts(self, parts: Sequence[PartT]) -> Sequence[PartT]:
        """This process's part of the work: every ``size``-th piece."""
        return parts[self.rank :: self.size]

    def all_gather(self, mine: Any) -> list[Any]:
        """What each process gives, in the order of their ranks; the same list in all.

        Raises:
            ProcessError: another process has ended.
        """
        if self.size == 1:
            return [mine]
        found: list[Any] = [None] * self.size
        with self.together() as dist:
            dist.all_gather_object(found, mine)
        return found

    def all_mean(self, tensors: Sequence["Tensor"]) -> None:
        """Put in the place of each tensor its mean over the processes; of one type and device, one message for all.

        Raises:
            ProcessError: another process has ended.
        """
        if self.size == 1 or not tensors:
            return
        import torch

        flat = torch.cat([tensor.flatten() for tensor in tensors])
        with self.together() as dist:
            dist.all_reduce(flat)
        parts = flat.div_(self.size).split([tensor.numel() for tensor in tensors])
        for tensor, mean in zip(tensors, parts, strict=True):
            tensor.copy_(mean.view_as(tensor))

    def all_max(self, mine: float) -> float:
        """The greatest of the numbers that the processes give; a small message, fit for every step.

        Raises:
            ProcessError: another process has ended.
        """
        if self.size == 1:
            return mine
        import torch

        number = torch.tensor(mine, dtype=torch.float64)
        with self.together() as dist:
            dist.all_reduce(number, dist.ReduceOp.MAX)
        return float(number)

    @contextmanager
    def together(self) -> Iterator[Any]:
        """Within, ``torch.distributed`` is ready to use, and its failures are those of another process.

        Raises:
            ProcessError: another process has ended.
        """
        import torch
        import torch.distributed as dist

        try:
            if not dist.is_initialized():
                # gloo carries plain Python objects on any machine, nccl what lies on cards
                dist.init_process_group("cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo")
                # a group that outlives the interpreter's end can abort a process whose work is done
                atexit.register(dist.destroy_process_group)
            yield dist
        except RuntimeError as error:
            raise self.lost(error) or error from None

    def lost(self, error: RuntimeError) -> ProcessError | None:
        """What to say of an error where another process has ended; None where it is another one."""
        import torch.distributed as dist

        if self.size == 1 or not (isinstance(error, dist.DistError) or re.search("gloo|NCCL|Connection", str(error))):
            return None
        text = str(error).splitlines()[0][:100]
        return ProcessError(
            f"process {self.rank}: another process of the run does not answer ({text}); its last checkpoint stands; "
            "try again with resume=auto"
        )


def world() -> World:
    """By torchrun's environment: RANK, WORLD_SIZE and LOCAL_RANK; alone without them."""
    rank, size, local = (int(os.environ.get(name, alone)) for name, alone in ENVIRONMENT)
    return World(rank, size, local) if size > 1 else World()

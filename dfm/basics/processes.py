"""Several processes that torchrun starts for one job: which one this is, and how they exchange results."""

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
    """Place of this process among all: number ``rank`` of ``size``, and number ``local`` on its machine."""

    rank: int = 0
    size: int = 1
    local: int = 0

    @property
    def first(self) -> bool:
        """Whether this process is the one that writes files and messages."""
        return self.rank == 0

    def own_parts(self, parts: Sequence[PartT]) -> Sequence[PartT]:
        """Return the parts of this process: every ``size``-th one, starting with part ``rank``."""
        return parts[self.rank :: self.size]

    def all_gather(self, mine: Any) -> list[Any]:
        """Return the values of all processes, in the order of their ranks; every process gets the same list.

        Raises:
            ProcessError: another process has ended.
        """
        if self.size == 1:
            return [mine]
        values: list[Any] = [None] * self.size
        with self.together() as dist:
            dist.all_gather_object(values, mine)
        return values

    def all_mean(self, tensors: Sequence["Tensor"]) -> None:
        """Replace each tensor by its mean over the processes.

        The tensors have one type and one device, and one message carries them all.

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
        """Return the largest number among the processes. The message is small enough for every step.

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
        """Give ``torch.distributed``, ready to use, and report inside this block if another process has ended.

        Raises:
            ProcessError: another process has ended.
        """
        import torch
        import torch.distributed as dist

        try:
            if not dist.is_initialized():
                # gloo carries plain Python objects on any machine, nccl carries tensors on cards
                dist.init_process_group("cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo")
                # a process can abort at its end, with its work done, if its group still exists then
                atexit.register(dist.destroy_process_group)
            yield dist
        except RuntimeError as error:
            raise self.lost(error) or error from None

    def lost(self, error: RuntimeError) -> ProcessError | None:
        """Return the error to report if ``error`` means that another process has ended, else None."""
        import torch.distributed as dist

        if self.size == 1 or not (isinstance(error, dist.DistError) or re.search("gloo|NCCL|Connection", str(error))):
            return None
        text = str(error).splitlines()[0][:100]
        return ProcessError(
            f"process {self.rank}: another process of the run does not answer ({text}); its last checkpoint is whole; "
            "try again with resume=auto"
        )


def world() -> World:
    """Return the place of this process, from torchrun's RANK, WORLD_SIZE and LOCAL_RANK; without them it is alone."""
    rank, size, local = (int(os.environ.get(name, alone)) for name, alone in ENVIRONMENT)
    return World(rank, size, local) if size > 1 else World()

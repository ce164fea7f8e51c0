"""Several processes on one piece of work, as torchrun starts them: who this one is, and how results come together."""

import atexit
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

PartT = TypeVar("PartT")
ENVIRONMENT = (("RANK", "0"), ("WORLD_SIZE", "1"), ("LOCAL_RANK", "0"))


@dataclass(frozen=True)
class Team:
    """Process ``rank`` of ``size``; it is number ``local`` on its machine."""

    rank: int = 0
    size: int = 1
    local: int = 0

    @property
    def first(self) -> bool:
        """Whether this process is the one that writes and speaks."""
        return self.rank == 0

    def share(self, parts: Sequence[PartT]) -> Sequence[PartT]:
        """This process's part of the work: every ``size``-th piece."""
        return parts[self.rank :: self.size]

    def gathered(self, mine: Any) -> list[Any]:
        """What each process gives, in the order of their ranks; the same list in all."""
        if self.size == 1:
            return [mine]
        import torch.distributed as dist

        if not dist.is_initialized():
            # plain Python objects are exchanged, which gloo carries on any machine
            dist.init_process_group("gloo")
            # a group that outlives the interpreter's end can abort a process whose work is done
            atexit.register(dist.destroy_process_group)
        found: list[Any] = [None] * self.size
        dist.all_gather_object(found, mine)
        return found


def team() -> Team:
    """By torchrun's environment: RANK, WORLD_SIZE and LOCAL_RANK; alone without them."""
    return Team(*(int(os.environ.get(name, alone)) for name, alone in ENVIRONMENT))

"""A network of which every process holds a share of each weight."""

import copy
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from dfm.basics.processes import World
from dfm.training.parallel.replicated import Replicated


class Sharded(Replicated):
    """A network of which every process has a share of each weight, gradient, average and optimiser state: FSDP2.

    The weights of a block are gathered just before its forward or backward pass and dropped after it
    (``torch.distributed.fsdp.fully_shard``; Zhao et al. 2023, arXiv:2304.11277). A checkpoint has whole weights, so a
    run can go on with ddp or fsdp and with any number of processes.

    Shares are cut from contiguous weights, so convolutions have no channels_last layout.
    """

    is_sharded = True

    def __init__(self, network: nn.Module, average: nn.Module, world: World) -> None:
        self.network, self.world, self._ddp = network, world, None
        # a copy of the network whose weights have shapes and no numbers
        empty = {id(p): nn.Parameter(torch.empty_like(p, device="meta")) for p in network.parameters()}
        self._skeleton = copy.deepcopy(network, empty).eval().requires_grad_(False)
        for parameter in [*network.parameters(), *average.parameters()]:
            parameter.data = parameter.data.contiguous()
        device = next(network.parameters()).device
        with world.together():
            mesh = init_device_mesh(device.type, (world.size,))
            for whole in (network, average):
                for block in blocks(whole):
                    fully_shard(block, mesh=mesh)
                fully_shard(whole, mesh=mesh)
        self.forward = network

    def no_sync(self) -> AbstractContextManager[Any]:
        return _NoSync(self.network)

    def norm(self, gradients: Sequence[Tensor]) -> Tensor:
        groups = [[g for g in gradients if isinstance(g, DTensor) is sharded] for sharded in (True, False)]
        with self.world.together():
            norms = [_full(nn.utils.get_total_norm(group)) for group in groups if group]
        return nn.utils.get_total_norm(norms)

    def clip(self, parameters: Sequence[Tensor], bound: float, norm: Tensor) -> None:
        gradients = [p.grad for p in parameters if p.grad is not None]
        local = [g.to_local() if isinstance(g, DTensor) else g for g in gradients]
        torch._foreach_mul_(local, (bound / (norm + 1e-6)).clamp(max=1.0))

    def gather(self, value: Any) -> Any:
        if isinstance(value, DTensor):
            with self.world.together():
                full = value.full_tensor()
            return full.cpu() if self.world.first else None  # one weight at a time; only the first process keeps it
        if isinstance(value, Mapping):
            return {key: self.gather(item) for key, item in value.items()}
        return [self.gather(item) for item in value] if isinstance(value, list) else value

    def shard(self, value: Any, like: Any) -> Any:
        if not isinstance(value, Tensor) or not isinstance(like, DTensor) or value.shape != like.shape:
            return value
        full = value.to(device=like.device, dtype=like.dtype)
        return distribute_tensor(full, like.device_mesh, like.placements, src_data_rank=None)

    def gathered_copy(self, network: nn.Module, everywhere: bool) -> nn.Module:
        whole, weights = copy.deepcopy(self._skeleton), {}
        for name, value in network.state_dict().items():
            with self.world.together():
                full = _full(value)
            if everywhere or self.world.first:
                weights[name] = full
        whole.load_state_dict(weights, assign=True, strict=bool(weights))
        return whole.requires_grad_(False)


def _full(value: Tensor) -> Tensor:
    return value.full_tensor() if isinstance(value, DTensor) else value


class _NoSync(AbstractContextManager[None]):
    """A context in which backward passes of a sharded network do not average the gradients of its blocks."""

    def __init__(self, network: nn.Module) -> None:
        self.network: Any = network

    def __enter__(self) -> None:
        self.network.set_requires_gradient_sync(False)

    def __exit__(self, *_: object) -> None:
        self.network.set_requires_gradient_sync(True)


def blocks(network: nn.Module) -> list[nn.Module]:
    """Return the parts of a network that are gathered one at a time: the modules in its innermost lists."""
    lists = [part for part in network.modules() if isinstance(part, nn.ModuleList)]
    items = [block for part in lists for block in part if any(True for _ in block.parameters())]
    return [b for b in items if not any(isinstance(part, nn.ModuleList) for part in b.modules())]

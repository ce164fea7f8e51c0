"""A network that is told of changes: zeros are nothing, its other weights are those of one that is not; it compiles."""

from typing import Any

import pytest
import torch
from torch import nn

from dfm.basics.errors import UserError
from dfm.models.condition import Condition
from dfm.models.mlp import MLP
from dfm.models.unet import UNet

SHAPE = (1, 4, 4)
OPTIONS: dict[type, dict[str, Any]] = {
    UNet: {"channels": 8, "channel_multipliers": (1, 2), "groups": 4, "blocks_per_level": 1, "zero_init": False},
    MLP: {"width": 16, "depth": 1, "zero_init": False},
}


def made(kind: type, changes: int) -> nn.Module:
    torch.manual_seed(3)
    network: nn.Module = kind(shape=SHAPE, num_classes=2, changes=changes, **OPTIONS[kind])
    return network


def inputs() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    return torch.randn(3, *SHAPE), torch.tensor([-1.0, 0.0, 2.0]), torch.tensor([0, 1, 2])


@pytest.mark.parametrize("kind", OPTIONS)
def test_zeros_tell_nothing(kind: type) -> None:
    plain, told = made(kind, 0), made(kind, 9)
    for name, value in plain.state_dict().items():
        assert torch.equal(told.state_dict()[name], value), name
    layer = told.embedding.change  # type: ignore[union-attr]
    assert not layer.weight.any()
    nn.init.normal_(layer.weight)
    given = inputs()
    nothing = told(*given)
    assert torch.equal(nothing, plain(*given))
    assert torch.equal(told(*given, condition=Condition(change=torch.zeros(3, 9))), nothing)
    change = torch.zeros(3, 9)
    change[1, 4] = 1
    moved = (told(*given, condition=Condition(change=change)) - nothing).abs().flatten(1).amax(1)
    assert moved[1] > 1e-3
    assert moved[0] == moved[2] == 0


def test_what_is_told_is_added_to_the_embedding() -> None:
    network = made(MLP, 9)
    embedding: Any = network.embedding
    nn.init.normal_(embedding.change.weight)
    change, (_, c_time, label) = torch.randn(3, 9), inputs()
    added = embedding(c_time, label, None, Condition(change=change)) - embedding(c_time, label)
    torch.testing.assert_close(added, change @ embedding.change.weight.T, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("kind", [MLP, pytest.param(UNet, marks=pytest.mark.wide)])
def test_a_compiled_network_is_told_too(kind: type) -> None:
    """It is traced as one graph, and its layer gets the same gradient."""
    network = made(kind, 9)
    compiled = torch.compile(network, backend="aot_eager", fullgraph=True)
    given, layer = inputs(), network.embedding.change  # type: ignore[union-attr]
    nn.init.normal_(layer.weight)
    found = []
    for each in (network, compiled):
        for _ in range(2):
            layer.zero_grad()
            out = each(*given, condition=Condition(change=torch.full((3, 9), 0.5)))
            out.square().mean().backward()
        found.append((out.detach(), layer.weight.grad.clone()))
    assert found[0][1].any()
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)


def test_a_network_that_is_not_told_refuses_to_be() -> None:
    with pytest.raises(UserError, match="a network that takes none; allowed: a network with changes > 0"):
        made(MLP, 0)(*inputs(), condition=Condition(change=torch.zeros(3, 9)))

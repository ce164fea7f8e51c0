"""The multilayer perceptron: its formula by hand, and what must hold of every network."""

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import silu

from dfm.basics.errors import UserError
from dfm.models.mlp import MLP

SHAPES = [(2,), (5,), (2, 7), (1, 4, 6), (1, 2, 3, 4)]


def mlp(shape: tuple[int, ...] = (2,), num_classes: int = 0, **options: Any) -> MLP:
    small = {"width": 16, "depth": 2, "time_features": 8, "zero_init": False}
    return MLP(shape=shape, num_classes=num_classes, **{**small, **options})


def inputs(shape: tuple[int, ...] = (2,), batch: int = 4) -> tuple[Tensor, Tensor]:
    return torch.randn(batch, *shape), 14 * torch.rand(batch) - 7


@pytest.mark.parametrize("shape", SHAPES)
def test_no_parameter_is_dead(shape: tuple[int, ...]) -> None:
    model = mlp(shape, num_classes=3)
    x, c_time = inputs(shape)
    out = model(x, c_time, torch.tensor([0, 1, 2, 3]))
    assert out.shape == x.shape
    out.square().mean().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.abs().max() > 1e-12, name


def test_it_is_its_formula() -> None:
    model = mlp(depth=1, time_features=4, time_scale=2.0, max_period=9.0, frequency_shift=0.0).double()
    state, (x, c_time) = model.state_dict(), (t.double() for t in inputs())

    def affine(name: str, v: Tensor) -> Tensor:
        return v @ state[f"{name}.weight"].T + state[f"{name}.bias"]

    angle = c_time[:, None] * torch.tensor([2.0, 2.0 / 3.0])
    waves = torch.cat([angle.sin(), angle.cos()], 1)
    e = silu(affine("embedding.linear_2", silu(affine("embedding.linear_1", waves))))
    h = affine("linear_in", x)
    inner = affine("blocks.0.linear_1", silu(h)) + affine("blocks.0.time", e)
    h = h + affine("blocks.0.linear_2", silu(inner))
    # The frequencies are float32 numbers in every precision.
    torch.testing.assert_close(model(x, c_time), affine("linear_out", silu(h)), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("shape", SHAPES)
def test_it_starts_at_zero(shape: tuple[int, ...]) -> None:
    x, c_time = inputs(shape)
    assert torch.equal(mlp(shape, zero_init=True)(x, c_time), torch.zeros_like(x))


def test_a_sample_does_not_depend_on_its_batch() -> None:
    model, (x, c_time) = mlp().double(), (t.double() for t in inputs(batch=5))
    alone = torch.cat([model(x[i : i + 1], c_time[i : i + 1]) for i in range(5)])
    torch.testing.assert_close(model(x, c_time), alone)


def test_time_enters_every_block() -> None:
    model, (x, c_time) = mlp(depth=3), inputs()
    for kept in range(3):
        weights = [block.time.weight.clone() for block in model.blocks]
        with torch.no_grad():
            for i, block in enumerate(model.blocks):
                block.time.weight.mul_(i == kept)
            assert (model(x, c_time) - model(x, c_time + 1)).abs().max() > 1e-4
            for block, weight in zip(model.blocks, weights, strict=True):
                block.time.weight.copy_(weight)


def test_no_label_is_the_last_row() -> None:
    model, (x, c_time) = mlp(num_classes=3), inputs()
    mixed = model(x, c_time, torch.tensor([0, 3, 2, 3]))
    torch.testing.assert_close(mixed[[1, 3]], model(x, c_time)[[1, 3]])
    assert (mixed[0] - model(x, c_time)[0]).abs().max() > 1e-3


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"width": 0}, "width=0; allowed: from 1 to"),
        ({"depth": 0}, "depth=0; allowed: from 1 to"),
        ({"time_features": 7}, "7 sines and cosines of time"),
    ],
)
def test_a_mistake_is_one_line(options: dict[str, int], words: str) -> None:
    with pytest.raises(UserError, match=words) as caught:
        mlp(**options)
    assert "\n" not in str(caught.value)


def test_a_label_without_classes_is_refused() -> None:
    with pytest.raises(UserError, match="without classes"):
        mlp()(*inputs(), torch.zeros(4, dtype=torch.int64))

"""Data of any size: what is added inside, what is cut off, and that a likelihood is that of the data alone."""

import math

import numpy as np
import pytest
import torch
from support.unet_cases import inputs, randomise, unet
from torch import Tensor

from dfm.basics.errors import UserError
from dfm.data.dataset import DatasetSpec
from dfm.denoising.network_denoiser import NetworkDenoiser
from dfm.denoising.predictions import Velocity
from dfm.likelihood.ode import OdeLikelihood
from dfm.models.padding import crop, pad
from dfm.models.unet import UNet
from dfm.paths.interpolating import Linear

SIDES = [(33, 47), (1, 64), (5,), (1,), (3, 2), (1, 1, 1), (30, 17, 9), (2, 8, 5)]


@pytest.mark.parametrize("factor", [1, 4, 16])
@pytest.mark.parametrize("sides", SIDES)
def test_sides_become_multiples_and_come_back(sides: tuple[int, ...], factor: int) -> None:
    """Against NumPy, which mirrors as often as needed too, and repeats a single place."""
    x = torch.randn(2, 3, *sides)
    missing = [-side % factor for side in sides]
    width = [(0, 0), (0, 0), *((m // 2, m - m // 2) for m in missing)]
    mirrored, zeros = pad(x, factor, "reflect"), pad(x, factor, "zeros")
    assert all(side % factor == 0 for side in mirrored.shape[2:])
    np.testing.assert_array_equal(mirrored.numpy(), np.pad(x.numpy(), width, mode="reflect"))
    np.testing.assert_array_equal(zeros.numpy(), np.pad(x.numpy(), width))
    for longer in (mirrored, zeros):
        assert torch.equal(crop(longer, x.shape[2:]), x)


@pytest.mark.parametrize("sides", SIDES)
def test_any_size_can_be_learnt(sides: tuple[int, ...]) -> None:
    """The negative of the input, in twelve steps: a place that the loss or the gradient misses would stay as it was."""
    model = unet((2, *sides), patch=2, channel_multipliers=(1, 1, 1), attention_levels=(2,)).train()
    x, c_time = inputs((2, *sides), batch=4)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    losses = []
    for _ in range(12):
        loss = (model(x, c_time) + x).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.9 * losses[0]


@pytest.mark.parametrize("padding", ["reflect", "zeros"])
def test_the_output_is_the_middle_of_that_on_longer_data(padding: str) -> None:
    """The network of the longer size gets the padded data from outside."""
    small, large = unet((2, 7, 10), padding=padding, patch=2), unet((2, 8, 12), padding="refuse", patch=2)
    randomise(small)
    large.load_state_dict(small.state_dict())
    x, c_time = inputs((2, 7, 10))
    mode = {"reflect": "reflect", "zeros": "constant"}[padding]
    longer = torch.from_numpy(np.pad(x.numpy(), [(0, 0), (0, 0), (0, 1), (1, 1)], mode=mode))  # type: ignore[call-overload]
    with torch.no_grad():
        assert torch.equal(small(x, c_time), large(longer, c_time)[:, :, :7, 1:11])


def test_sides_that_are_multiples_are_left_alone() -> None:
    x, c_time = inputs((2, 8, 12))
    ways = []
    for padding in ("reflect", "zeros", "refuse"):
        model = unet((2, 8, 12), padding=padding, patch=2)
        randomise(model)
        ways.append(model(x, c_time))
    assert torch.equal(ways[0], ways[1])
    assert torch.equal(ways[0], ways[2])
    assert pad(x, 4, "reflect") is x


# ---- likelihood ------------------------------------------------------------------------------------------------------


def brute_force(denoiser: NetworkDenoiser, data: Tensor, steps: int) -> float:
    """log p(data) of one example, by Runge and Kutta's method and the trace of torch's whole Jacobian.

    All is of the data's own numbers: what the network adds inside has no place in the state, the trace or the prior.
    """
    shape, d, path = (1, *data.shape), data.numel(), denoiser.schedule

    def velocity(x: Tensor, t: float) -> Tensor:
        return denoiser.velocity(x.reshape(shape), torch.tensor(t, dtype=torch.float64)).flatten()

    def slope(state: Tensor, t: float) -> Tensor:
        jacobian = torch.autograd.functional.jacobian(lambda x: velocity(x, t), state[:d])
        return torch.cat([velocity(state[:d], t), jacobian.trace()[None]]).detach()

    def scales(t: float) -> tuple[float, float]:
        return 1 - t, t

    state = torch.cat([scales(path.t_min)[0] * data.flatten(), torch.zeros(1)])
    h = (path.t_max - path.t_min) / steps
    for i in range(steps):
        t = path.t_min + i * h
        one = slope(state, t)
        two = slope(state + h / 2 * one, t + h / 2)
        three = slope(state + h / 2 * two, t + h / 2)
        four = slope(state + h * three, t + h)
        state = state + h / 6 * (one + 2 * two + 2 * three + four)
    a, b = scales(path.t_max)
    variance = a**2 + b**2  # of x at the end, for data of variance 1
    prior = -state[:d].square().sum().item() / (2 * variance) - d / 2 * math.log(2 * math.pi * variance)
    return prior + state[d].item() + d * math.log(scales(path.t_min)[0])


@pytest.mark.parametrize(
    ("shape", "padding"),
    [((1, 3, 5), "reflect"), ((1, 5), "zeros"), pytest.param((1, 2, 3, 1), "reflect", marks=pytest.mark.wide)],
)
def test_a_likelihood_is_that_of_the_data_without_padding(shape: tuple[int, ...], padding: str) -> None:
    network = unet(shape, padding=padding, channel_multipliers=(1, 1), patch=2).double()
    assert isinstance(network, UNet)
    assert any(side % network.factor for side in shape[1:])
    spec = DatasetSpec(name="x", shape=shape, levels=None, num_classes=0, mean=0.0, std=1.0)
    path = Linear()
    denoiser = NetworkDenoiser(spec=spec, schedule=path, trained_schedule=path, prediction=Velocity(), network=network)
    data = inputs(shape, batch=2)[0].double()
    likelihood = OdeLikelihood(solver="rk4", steps=3, divergence="exact", path="own")
    found = likelihood.log_density(denoiser, data).value
    expected = [brute_force(denoiser, row, 3) for row in data]
    assert abs(expected[0] - expected[1]) > 0.1
    assert found.tolist() == pytest.approx(expected, rel=1e-9)


# ---- what is refused -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("shape", "options", "words"),
    [
        ((1, 9), {"padding": "refuse"}, "signals of 9 and 2 resolutions; allowed: length divisible by 2; try "),
        ((1, 9), {"padding": "refuse", "patch": 2}, "signals of 9 and patch=2; allowed: a divisor; try model.patch=1"),
        (
            (1, 6, 4, 9),
            {"padding": "refuse"},
            "volumes of 6x4x9 and 2 resolutions; allowed: depth, height and width divisible by 2; try ",
        ),
        ((1, 8), {"padding": "wrap"}, "unknown model.padding 'wrap'; allowed: reflect, refuse, zeros"),
        ((1, 8, 8, 8), {"patch": 17}, "patch=17; allowed: from 1 to 16"),
        ((1, 3, 3), {"channel_multipliers": (1,) * 12}, "need padding to 2048x2048; allowed: to 4096 times the size"),
        ((1, 2, 2, 2, 2), {}, "allowed: signals (C, L), images (C, H, W), volumes (C, D, H, W); try model=mlp"),
    ],
)
def test_what_is_refused_is_one_line(shape: tuple[int, ...], options: dict[str, object], words: str) -> None:
    with pytest.raises(UserError) as caught:
        unet(shape, **options)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)

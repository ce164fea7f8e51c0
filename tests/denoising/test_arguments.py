"""The public functions of Python: each wrong argument is one line, and types are cast."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from support.oracles import SCHEDULES, oracle
from torch import Tensor

import dfm
from dfm.basics.errors import UserError
from dfm.data.dataset import DatasetSpec
from dfm.data.gaussian_mixture import GaussianMixture
from dfm.denoising.arguments import device_of
from dfm.denoising.network_denoiser import NetworkDenoiser
from dfm.denoising.predictions import Velocity
from dfm.likelihood.ode import OdeLikelihood
from dfm.models.mlp import MLP
from dfm.sampling.guidance import guided
from dfm.sampling.ode_flow import OdeMap
from dfm.sampling.samplers import JumpSampler

FLOW, LIKELIHOOD = OdeMap(solver="rk4", steps=3), OdeLikelihood(solver="rk4", steps=3)
USES: dict[str, Callable[..., Tensor]] = {
    "log_likelihood": lambda d, x, **more: dfm.log_likelihood(d, x, LIKELIHOOD, **more),
    "encode": lambda d, x, **more: dfm.encode(d, x, FLOW, **more),
    "decode": lambda d, x, **more: dfm.decode(d, x, FLOW, **more),
}
of_each_use = pytest.mark.parametrize("use", USES.values(), ids=USES)
DATA = torch.tensor([[0.3, -0.2], [1.0, 0.5], [0.0, 0.7]])


def network(num_classes: int = 0) -> NetworkDenoiser:
    """An MLP with random weights, float32."""
    torch.manual_seed(0)
    spec = DatasetSpec(name="p", shape=(2,), levels=None, num_classes=num_classes, mean=0.0, std=1.0)
    net = MLP(shape=(2,), width=16, depth=2, num_classes=num_classes, zero_init=False).eval()
    path = SCHEDULES["linear"]
    return NetworkDenoiser(spec=spec, schedule=path, trained_schedule=path, prediction=Velocity(), network=net)


def refused(match: str, act: Callable[[], object]) -> None:
    with pytest.raises(UserError, match=match) as error:
        act()
    assert "\n" not in str(error.value)


@of_each_use
@pytest.mark.parametrize(
    ("data", "says"),
    [
        (torch.zeros(3, 4), r"shape \(3, 4\); allowed: \(n, 2\)"),
        (torch.zeros(2), r"shape \(2,\); allowed: \(n, 2\)"),
        (torch.tensor(1.0), r"shape \(\); allowed"),
        (torch.zeros(3, 2, dtype=torch.int64), "int64; allowed: real numbers"),
        (torch.zeros(3, 2, dtype=torch.complex64), "complex64; allowed: real numbers"),
        ([[0.0, 0.0]], "list; allowed: a tensor"),
        (np.zeros((3, 2)), "ndarray; allowed: a tensor"),
        (torch.tensor([[0.0, 1.0], [0.0, float("nan")], [1.0, 1.0]]), "example 1 is not finite; allowed"),
        (torch.tensor([[0.0, 1.0], [1.0, 1.0], [-float("inf"), 0.0]]), "example 2 is not finite; allowed"),
        (torch.full((3, 2), float("nan")), "example 0 is not finite, and 2 more"),
    ],
    ids=str,
)
def test_data_that_cannot_be_used_are_one_line(use: Callable[..., Tensor], data: Any, says: str) -> None:
    refused(says, lambda: use(network(), data, batch_size=1))


@of_each_use
def test_other_wrong_arguments_are_one_line(use: Callable[..., Tensor]) -> None:
    for size in (0, -1, 2.5, "4"):
        refused(r"batch_size=.*; allowed: a whole number", lambda size=size: use(network(), DATA, batch_size=size))
    refused("denoiser is str; allowed: a Denoiser", lambda: use("latest", DATA))
    with_two = network(5).with_labels(torch.tensor([0, 1]))
    refused("2 labels; allowed: a label for each", lambda: use(with_two, DATA))
    assert use(network(), DATA[:0]).shape[0] == 0


def test_labels_that_are_none_are_one_line() -> None:
    refused("without classes", lambda: network().with_labels(torch.tensor([0, 1, 2])))
    model = network(5)
    refused("labels from 0 to 9; allowed: 0 to 4", lambda: model.with_labels(torch.tensor([0, 9])))
    refused("labels from -1", lambda: model.with_labels(torch.tensor([0, -1])))
    refused("float32 of shape", lambda: model.with_labels(torch.tensor([0.0, 1.0])))
    refused("int64 of shape", lambda: model.with_labels(torch.tensor(3)))
    refused("3 samples and 2 labels", lambda: model.with_labels(torch.tensor([0, 1])).data(DATA, 0.5))


def test_a_denoisers_x_is_checked() -> None:
    refused("samples have shape", lambda: network().data(torch.zeros(3, 5), 0.5))
    refused("samples are torch.int64", lambda: network().data(torch.zeros(3, 2, dtype=torch.int64), 0.5))
    elsewhere = replace(network(), network=network().module().to("meta"))
    refused("samples are on cpu, the network on meta", lambda: elsewhere.data(torch.zeros(3, 2), 0.5))


def test_wrong_arguments_of_sample_are_one_line(mixture: GaussianMixture) -> None:
    quick = JumpSampler(steps=1)
    for n in (0, 2.5, "3"):
        refused("n=.*; allowed: a whole number", lambda n=n: dfm.sample(network(), n, quick))
    refused("without classes", lambda: dfm.sample(network(), 2, quick, label=1))
    refused("label=9; allowed", lambda: dfm.sample(network(5), 2, quick, label=9))
    refused("denoiser is NoneType", lambda: dfm.sample(None, 2, quick))  # type: ignore[arg-type]
    refused("no device 'nonsense'", lambda: dfm.sample(network(), 2, quick, device="nonsense"))
    assert dfm.sample(oracle(mixture, SCHEDULES["linear"]), 2, quick, device="cpu").shape == (2, 2)


@of_each_use
def test_float64_is_float64_all_the_way(use: Callable[..., Tensor]) -> None:
    """Data of either type with a network of either type; both in float64 are the reference of the others."""
    model, exact = network(), use(network().double(), DATA.double())
    assert exact.dtype == torch.float64
    for denoiser in (model, model.double()):
        for data in (DATA, DATA.double(), DATA.half()):
            found = use(denoiser, data)
            assert found.dtype == (data.dtype if use is not USES["log_likelihood"] else torch.float64)
            digits = 2e-3 if data.dtype == torch.half else 1e-4
            assert torch.allclose(found.double(), exact, rtol=digits, atol=digits)
    # the solver and the network keep what float32 would round away
    shift = 1e-12 * torch.ones(3, 2, dtype=torch.float64)
    moved = use(model.double(), DATA.double() + shift)
    assert not torch.equal(moved, exact)
    assert float((moved - exact).abs().max()) < 1e-10
    assert next(model.module().parameters()).dtype == torch.float32, "the model itself stays as it is"


def test_a_guided_model_is_doubled_and_found(mixture: GaussianMixture) -> None:
    model = guided(network(), network(), 1.5)
    x = DATA.double()
    assert torch.allclose(model.double().data(x, 0.5), model.data(x, 0.5), rtol=1e-4, atol=1e-5)
    assert not torch.equal(model.double().data(x, 0.5), model.data(x, 0.5))
    meta = replace(network(), network=network().module().to("meta"))
    assert device_of(guided(meta, meta, 1.5)).type == "meta"

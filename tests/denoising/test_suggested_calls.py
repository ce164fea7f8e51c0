"""What an error of a call in Python suggests works as written: the call is refused, and the one suggested is not."""

from collections.abc import Callable

import pytest
import torch
from support.oracles import SCHEDULES, oracle

import dfm
from dfm.basics.errors import UserError
from dfm.data.dataset import DatasetSpec
from dfm.data.gaussian_mixture import mixture_of
from dfm.data.numbers.pixel_levels import dequantize
from dfm.denoising.network_denoiser import NetworkDenoiser
from dfm.denoising.predictions import Velocity
from dfm.evaluation.lecture_figures import noising
from dfm.evaluation.sample_quality import quality
from dfm.likelihood.ode import OdeLikelihood
from dfm.likelihood.path_divergence import path_divergence
from dfm.models.embeddings import Embedding, frequencies
from dfm.models.mlp import MLP
from dfm.paths.formulas import Formula
from dfm.sampling.adaptive_solver import DormandPrince
from dfm.sampling.ode_flow import OdeMap
from dfm.sampling.samplers import AdaptiveSampler, JumpSampler

LINEAR = SCHEDULES["linear"]
FLOW, QUICK = OdeMap(solver="euler", steps=1), JumpSampler(steps=1)
LIKELIHOOD = OdeLikelihood(solver="euler", steps=1)
X = torch.tensor([[0.3, -0.2], [1.0, 0.5], [0.0, float("nan")]])
GOOD = X[:2]
MOONS = dfm.data.Moons(n_train=8, n_validation=0, n_test=0)
PLANE = mixture_of([[0.0, 0.0]], 1.0)


def network(num_classes: int = 0) -> NetworkDenoiser:
    """An MLP with random weights, float32."""
    torch.manual_seed(0)
    spec = DatasetSpec(name="p", shape=(2,), levels=None, num_classes=num_classes, mean=0.0, std=1.0)
    net = MLP(shape=(2,), width=16, depth=1, num_classes=num_classes, zero_init=False).eval()
    return NetworkDenoiser(spec=spec, schedule=LINEAR, trained_schedule=LINEAR, prediction=Velocity(), network=net)


def embedding(features: int) -> Embedding:
    return Embedding(features=features, channels=8)


def adaptive(max_steps: int) -> torch.Tensor:
    solver = DormandPrince(rtol=1e-3, atol=1e-3, max_steps=max_steps)
    return AdaptiveSampler(solver=solver).run(oracle(PLANE, LINEAR), torch.zeros(1, 2), 0, range(1)).x


Call = Callable[[], object]
ROWS: dict[str, tuple[Call, str, Call]] = {
    "labels": (
        lambda: dfm.encode(network(5).with_labels(torch.zeros(3, dtype=torch.int64)), GOOD, FLOW),
        r"try denoiser.with_labels\(labels\) with 2 labels",
        lambda: dfm.encode(network(5).with_labels(torch.zeros(2, dtype=torch.int64)), GOOD, FLOW),
    ),
    "no classes": (
        lambda: network().with_labels(torch.zeros(2, dtype=torch.int64)), "try without labels",
        lambda: network().with_labels(None),
    ),
    "a list": (
        lambda: dfm.encode(network(), GOOD.tolist(), FLOW), r"try torch.as_tensor\(data\)",
        lambda: dfm.encode(network(), torch.as_tensor(GOOD.tolist()), FLOW),
    ),
    "not finite": (
        lambda: dfm.encode(network(), X, FLOW), r"try data\[data.isfinite\(\).flatten\(1\).all\(1\)\]",
        lambda: dfm.encode(network(), X[X.isfinite().flatten(1).all(1)], FLOW),
    ),
    "levels": (
        lambda: dfm.encode(network(), torch.zeros(2, 2, dtype=torch.uint8), FLOW),
        "try dfm.data.numbers.pixel_levels.dequantize for levels",
        lambda: dfm.encode(network(), dequantize(torch.zeros(2, 2, dtype=torch.uint8), 256, torch.rand(2, 2)), FLOW),
    ),
    "whole numbers": (
        lambda: network().velocity(GOOD.long(), 0.5), r"try x.float\(\)",
        lambda: network().velocity(GOOD.long().float(), 0.5),
    ),
    "no model": (
        lambda: dfm.sample(MLP(shape=(2,)), 2, QUICK), "or MixtureDenoiser of dfm.denoising",  # type: ignore[arg-type]
        lambda: dfm.sample(oracle(PLANE, LINEAR), 2, QUICK),
    ),
    "device": (
        lambda: dfm.sample(network(), 2, QUICK, device="abacus"), "try auto",
        lambda: dfm.sample(network(), 2, QUICK, device="auto"),
    ),
    "two schedules": (
        lambda: path_divergence(oracle(PLANE, LINEAR), oracle(PLANE, SCHEDULES["vp"]), GOOD),
        r"try model.on_schedule\(true.schedule\)",
        lambda: path_divergence(oracle(PLANE, LINEAR), oracle(PLANE, SCHEDULES["vp"]).on_schedule(LINEAR), GOOD),
    ),
    "period": (
        lambda: frequencies(4, time_scale=1, max_period=1, frequency_shift=1), "try 100$",
        lambda: frequencies(4, time_scale=1, max_period=100, frequency_shift=1),
    ),
    "shift": (
        lambda: frequencies(4, time_scale=1, max_period=100, frequency_shift=4), "try 0$",
        lambda: frequencies(4, time_scale=1, max_period=100, frequency_shift=0),
    ),
    "odd": (lambda: embedding(7), "try 8$", lambda: embedding(8)),
    "formula": (lambda: Formula("1 +"), r"try '1 \+ t\^2'", lambda: Formula("1 + t^2")),
    "points": (
        lambda: noising(oracle(PLANE, LINEAR), torch.zeros(5, 3)), "try dataset=moons",
        lambda: noising(oracle(PLANE, LINEAR), MOONS.split("train").values),
    ),
    "few": (
        lambda: quality(torch.zeros(2, 3), torch.randn(1000, 3)), "try n=1000",
        lambda: quality(torch.randn(1000, 3), torch.randn(1000, 3)),
    ),
    "few references": (  # drawing more samples would not help
        lambda: quality(torch.randn(1000, 3), torch.zeros(2, 3)), "try split=train, or more references$",
        lambda: quality(torch.randn(1000, 3), torch.randn(1000, 3)),
    ),
    "steps": (lambda: adaptive(1), "try max_steps=100,", lambda: adaptive(100)),
}  # fmt: skip


@pytest.mark.parametrize(("call", "says", "better"), ROWS.values(), ids=ROWS)
def test_a_suggested_call_works(call: Call, says: str, better: Call) -> None:
    with pytest.raises(UserError, match=says) as error:
        call()
    assert "\n" not in str(error.value)
    better()

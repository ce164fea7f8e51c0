"""Couplings against brute force and against POT; nothing that grows with steps."""

import itertools
import math
import re
import tracemalloc

import numpy as np
import pytest
import torch
from torch import Tensor

from dfm.basics.errors import UserError
from dfm.training.objectives.couplings import (
    Coupling,
    EntropicTransport,
    IndependentCoupling,
    LabelAwareCoupling,
    OptimalTransport,
    squared_distances,
)

COUPLINGS = [IndependentCoupling(), OptimalTransport(), EntropicTransport(), EntropicTransport(reg=0.5)]


def batch(n: int, seed: int, d: int = 2) -> tuple[Tensor, Tensor, torch.Generator]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, d, generator=generator), 1 + torch.randn(n, d, generator=generator), generator


@pytest.mark.parametrize("seed", range(5))
def test_transport_is_the_best_of_all_permutations(seed: int) -> None:
    data, noise, generator = batch(6, seed)
    cost = squared_distances(data, noise)
    best = min(sum(cost[i, p[i]] for i in range(6)) for p in itertools.permutations(range(6)))
    partners = OptimalTransport().partners(data, noise, None, generator)
    assert sorted(partners.tolist()) == list(range(6))
    assert float(cost[range(6), partners].sum()) == pytest.approx(float(best), rel=1e-9)


def test_costs_are_squared_distances_of_any_shape() -> None:
    x, y = torch.randn(3, 1, 4, 4), torch.randn(5, 1, 4, 4)
    brute = [[float((a - b).square().sum()) for b in y] for a in x]
    assert np.allclose(squared_distances(x, y).numpy(), brute, rtol=1e-5)


def test_places_far_from_the_origin_change_no_pairs() -> None:
    data, noise, generator = batch(32, 3)
    data, noise = data.double(), noise.double()
    here = OptimalTransport().partners(data, noise, None, generator)
    shift = 2.0**27  # a power of two, so that little of the points is lost
    assert torch.equal(OptimalTransport().partners(data + shift, noise, None, generator), here)
    assert torch.equal(OptimalTransport().partners(data + shift, noise + shift, None, generator), here)
    assert np.allclose(squared_distances(data + shift, noise + shift), squared_distances(data, noise), atol=1e-5)


@pytest.mark.parametrize("reg", [5e-3, 0.01, 0.05, 1.0])
def test_the_entropic_plan_is_pots(reg: float) -> None:
    """POT's Sinkhorn in logarithms at the same regularisation; the distance is that of two laws of pairs."""
    ot = pytest.importorskip("ot")
    data, noise, _ = batch(64, 1)
    cost = squared_distances(data, noise)
    weights, eps = np.full(64, 1 / 64), reg * float(cost.mean())
    theirs = ot.sinkhorn(weights, weights, cost.numpy(), eps, "sinkhorn_log", numItermax=2000, stopThr=1e-6, warn=False)
    assert np.abs(EntropicTransport(reg=reg).plan(cost).numpy() - theirs).sum() / 2 < 5e-3
    if reg >= 0.05:  # where POT converges
        exact = EntropicTransport(reg=reg, tolerance=1e-7).plan(cost)
        assert np.abs(exact.numpy() - theirs).sum() / 2 < 1e-5


@pytest.mark.parametrize("reg", [1e-5, 1e-4, 1e-3, 0.05])
def test_the_marginals_are_right_at_every_regularisation(reg: float) -> None:
    data, noise, _ = batch(128, 0)
    plan = EntropicTransport(reg=reg).plan(squared_distances(data, noise))
    assert torch.allclose(plan.sum(1) * 128, torch.ones(128, dtype=torch.float64), atol=1e-9), "rows, exactly"
    assert float((plan.sum(0) * 128 - 1).abs().mean()) < 1e-3


def test_a_tiny_regularisation_is_optimal_transport() -> None:
    data, noise, generator = batch(64, 2)
    best = OptimalTransport().partners(data, noise, None, generator)
    plan = EntropicTransport(reg=1e-6).plan(squared_distances(data, noise))
    assert float(plan[range(64), best].sum()) > 0.99
    assert torch.equal(EntropicTransport(reg=1e-6).partners(data, noise, None, generator), best)


def test_the_plan_does_not_depend_on_the_order_of_the_batch() -> None:
    data, noise, generator = batch(64, 3)
    rows, columns = (torch.randperm(64, generator=generator) for _ in range(2))
    coupling = EntropicTransport(reg=0.01)
    plan = coupling.plan(squared_distances(data, noise))
    assert torch.allclose(coupling.plan(squared_distances(data[rows], noise[columns])), plan[rows][:, columns])


def test_too_few_iterations_are_told_with_the_regularisation_that_works() -> None:
    data, noise, _ = batch(64, 0)
    cost = squared_distances(data, noise)
    with pytest.raises(UserError, match=r"reg=0\.001 needs more than iterations=30") as caught:
        EntropicTransport(reg=1e-3, iterations=30).plan(cost)
    works = float(re.findall(r"coupling\.reg=([\d.e-]+),", str(caught.value))[0])
    EntropicTransport(reg=works, iterations=30).plan(cost)


def test_equal_points_are_paired_at_random() -> None:
    plan = EntropicTransport().plan(squared_distances(torch.ones(4, 2), torch.ones(4, 2)))
    assert torch.allclose(plan, torch.full((4, 4), 1 / 16, dtype=torch.float64))


def test_entropic_transport_lies_between_exact_and_independent() -> None:
    """Costs of the plans; the draws of partners have the plan's cost within 4.5 standard errors."""
    data, noise, generator = batch(128, 1)
    cost = squared_distances(data, noise)
    exact = float(cost[range(128), OptimalTransport().partners(data, noise, None, generator)].mean())
    plans = [EntropicTransport(reg=reg).plan(cost) for reg in (0.02, 0.2, 2.0)]
    totals = [exact, *(float((plan * cost).sum()) for plan in plans), float(cost.mean())]
    assert totals == sorted(totals)
    drawn = torch.stack(
        [cost[range(128), EntropicTransport(reg=0.2).partners(data, noise, None, generator)] for _ in range(40)]
    ).mean(1)
    assert float(drawn.mean()) == pytest.approx(totals[2], abs=4.5 * float(drawn.std()) / math.sqrt(40))


def test_label_aware_transport_is_the_best_inside_each_class() -> None:
    data, noise, generator = batch(9, 3)
    label = torch.tensor([0, 1, 2, 0, 1, 2, 0, 1, 2])
    partners = LabelAwareCoupling().partners(data, noise, label, generator)
    assert torch.equal(label[partners], label), "a class keeps the noise that was drawn for it"
    cost = squared_distances(data, noise)
    for value in range(3):
        rows = [i for i in range(9) if int(label[i]) == value]
        best = min(sum(float(cost[i, j]) for i, j in zip(rows, p, strict=True)) for p in itertools.permutations(rows))
        assert sum(float(cost[i, partners[i]]) for i in rows) == pytest.approx(best, rel=1e-9)
    with pytest.raises(UserError, match="conditional=true"):
        LabelAwareCoupling().partners(data, noise, None, generator)


def test_transport_over_the_batch_would_bias_a_class() -> None:
    """Why label_aware is there: with plain transport the noise of the class on the left lies on the left."""
    n, generator = 400, torch.Generator().manual_seed(0)
    label = torch.arange(n) % 2
    data = 0.1 * torch.randn(n, 1, generator=generator) + (4.0 * label - 2)[:, None]
    noise = torch.randn(n, 1, generator=generator)
    means = []
    for coupling in (OptimalTransport(), LabelAwareCoupling()):
        _, paired = coupling.pair(data, noise, label, generator)
        means.append(float(paired[label == 0].mean()))
    assert means[0] < -0.6
    assert abs(means[1]) < 4.5 / math.sqrt(n / 2)


@pytest.mark.parametrize("coupling", COUPLINGS, ids=repr)
def test_both_marginals_stay(coupling: Coupling) -> None:
    """Each noise is taken once on average, so the paired noise still has the prior's mean and variance."""
    means = []
    for seed in range(40):
        data, noise, generator = batch(64, seed)
        _, paired = coupling.pair(data, noise, None, generator)
        means.append(float((paired - 1).mean()))
    assert abs(np.mean(means)) < 4.5 / math.sqrt(40 * 64 * 2)


def test_memory_does_not_grow_with_steps() -> None:
    data, noise, generator = batch(64, 0)

    def bytes_after(steps: int) -> int:
        tracemalloc.start()
        for _ in range(steps):
            for coupling in (OptimalTransport(), EntropicTransport(reg=0.5)):
                coupling.pair(data, noise, None, generator)
        used = tracemalloc.get_traced_memory()[0]
        tracemalloc.stop()
        return used

    bytes_after(5)
    assert bytes_after(60) < bytes_after(10) + 20_000


@pytest.mark.parametrize("bad", [{"reg": 0.0}, {"iterations": 0}])
def test_bad_regularisation_is_refused(bad: dict[str, float]) -> None:
    with pytest.raises(UserError, match="entropic"):
        EntropicTransport(**bad)  # type: ignore[arg-type]

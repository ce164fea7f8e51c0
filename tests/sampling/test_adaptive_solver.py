"""The adaptive pair against scipy, and each sample's independence of its neighbours."""

import re

import numpy as np
import pytest
import torch
from scipy.integrate import solve_ivp
from support.oracles import SCHEDULES, on_every_schedule, oracle
from torch import Tensor

from dfm.basics.errors import UserError
from dfm.data.gaussian_mixture import GaussianMixture
from dfm.sampling.adaptive_solver import BogackiShampine, DormandPrince, EmbeddedPair, HeunEuler, Progress
from dfm.sampling.samplers import start


def last(progress: object) -> Progress:
    """The final state of a solve."""
    *_, end = progress  # type: ignore[misc]
    return end


def spiral(rates: Tensor):
    """dx/dt = rate * (rotation x) + cos t, a rate for each sample: easy samples and hard ones."""
    turn = torch.tensor([[0.0, -1.0], [1.0, 0.0]], dtype=torch.float64)

    def field_of(rows: Tensor):
        return lambda x, t: rates[rows, None] * (x @ turn) + torch.cos(t)[:, None]

    return field_of


PAIRS = [DormandPrince, BogackiShampine, HeunEuler]


@pytest.mark.parametrize("pair", PAIRS)
def test_the_table_satisfies_the_order_conditions(pair: type[EmbeddedPair]) -> None:
    """Sums over stages (Hairer, Norsett, Wanner 1993, II.1): nodes, and quadrature conditions up to the order."""
    table = pair.tableau
    rows = table.stages if table.last_is_first else table.stages[:-1]
    for node, weights in zip(table.nodes, rows, strict=True):
        assert sum(weights) == pytest.approx(node, abs=1e-15)
    new = np.array([*table.stages[-1], *([0.0] if table.last_is_first else [])])
    companion = new - np.array(table.error)
    nodes = np.array(table.nodes)
    for power in range(table.order):
        assert new @ nodes**power == pytest.approx(1 / (power + 1), abs=1e-14)
    for power in range(table.order - 1):
        assert companion @ nodes**power == pytest.approx(1 / (power + 1), abs=1e-14)
    left = companion @ nodes ** (table.order - 1)
    assert left != pytest.approx(1 / table.order, abs=1e-6), "the companion is of one order less, no more"


@pytest.mark.parametrize("pair", PAIRS)
def test_the_measured_order_is_the_stated_order(pair: type[EmbeddedPair]) -> None:
    """The work for an error goes as error^(-1/order): attempts against the error over a thousandfold tolerance."""
    rates, x = torch.tensor([5.0], dtype=torch.float64), torch.ones(1, 2, dtype=torch.float64)
    exact = last(DormandPrince(rtol=1e-12, atol=1e-12).solve(spiral(rates), x, 0.0, 2.0)).x
    errors, attempts = [], []
    for tolerance in np.array([1e-3, 1e-4, 1e-5, 1e-6]) / {2: 1, 3: 10, 5: 1000}[pair.tableau.order]:
        states = list(pair(rtol=tolerance, atol=tolerance).solve(spiral(rates), x, 0.0, 2.0))
        errors.append(float((states[-1].x - exact).abs().max()))
        attempts.append(len(states))
    slope = -np.polyfit(np.log(attempts), np.log(errors), 1)[0]
    assert slope == pytest.approx(pair.tableau.order, abs=0.5)


@pytest.mark.parametrize("pair", [BogackiShampine, HeunEuler])
def test_cheap_pairs_go_where_dormand_prince_goes(pair: type[EmbeddedPair], mixture: GaussianMixture) -> None:
    denoiser = oracle(mixture, SCHEDULES["vp"])
    x = start(denoiser, 4, range(5), double=True)
    ends = [
        last(
            p(rtol=tol, atol=tol).solve(lambda rows: denoiser.select(rows).velocity, x, denoiser.t_max, denoiser.t_min)
        ).x
        for p, tol in ((DormandPrince, 1e-9), (pair, 1e-5))
    ]
    assert (ends[0] - ends[1]).abs().max() < 2e-3


@pytest.mark.parametrize("tolerance", [1e-4, 1e-6, 1e-9])
def test_against_scipy(tolerance: float) -> None:
    rates = torch.tensor([0.5, 3.0, 40.0], dtype=torch.float64)
    x = torch.tensor([[1.0, 0.0], [0.3, -1.0], [1.0, 1.0]], dtype=torch.float64)
    end = last(DormandPrince(rtol=tolerance, atol=tolerance).solve(spiral(rates), x, 0.0, 2.0)).x
    for i in range(3):
        one = torch.tensor([i])
        exact = solve_ivp(
            lambda t, y, one=one: spiral(rates)(one)(torch.from_numpy(y)[None], torch.tensor([t]))[0].numpy(),
            (0.0, 2.0), x[i].numpy(), method="DOP853", rtol=1e-12, atol=1e-13,
        ).y[:, -1]  # fmt: skip
        # A local error below the tolerance adds up over the steps; 300 of them are not passed here.
        assert np.abs(end[i].numpy() - exact).max() < 300 * tolerance


def test_the_error_follows_the_tolerance() -> None:
    """A thousand times less tolerance, at least a hundred times less error."""
    rates, x = torch.tensor([5.0], dtype=torch.float64), torch.ones(1, 2, dtype=torch.float64)
    ends = [last(DormandPrince(rtol=tol, atol=tol).solve(spiral(rates), x, 0.0, 2.0)).x for tol in (1e-4, 1e-7, 1e-12)]
    assert (ends[1] - ends[2]).abs().max() * 100 < (ends[0] - ends[2]).abs().max()


@on_every_schedule
def test_backwards_in_time_returns(schedule: object) -> None:
    rates, x = torch.tensor([2.0, 9.0], dtype=torch.float64), torch.randn(2, 2, dtype=torch.float64)
    solver = DormandPrince(rtol=1e-10, atol=1e-10)
    there = last(solver.solve(spiral(rates), x, 0.0, 1.5)).x
    assert torch.allclose(last(solver.solve(spiral(rates), there, 1.5, 0.0)).x, x, atol=1e-8)


def test_a_sample_does_not_depend_on_its_neighbours() -> None:
    """Bit for bit: alone, among easy ones, among hard ones. The input is left as it was."""
    rates = torch.tensor([0.1, 1.0, 60.0, 5.0], dtype=torch.float64)
    x = torch.arange(8, dtype=torch.float64).reshape(4, 2)
    kept, solver = x.clone(), DormandPrince(rtol=1e-6, atol=1e-6)
    together = last(solver.solve(spiral(rates), x, 0.0, 2.0)).x
    for i in range(4):
        alone = last(solver.solve(spiral(rates[i : i + 1]), x[i : i + 1], 0.0, 2.0)).x
        assert torch.allclose(alone[0], together[i], rtol=0, atol=1e-13)
    assert torch.equal(x, kept)


def test_arrived_samples_cost_nothing_more() -> None:
    """The easy samples leave: the evaluations are the sum of each one's own, not the batch size times the hardest's."""
    rates = torch.tensor([0.1, 0.1, 0.1, 80.0], dtype=torch.float64)
    seen: list[Tensor] = []

    def field_of(rows: Tensor):
        def field(x: Tensor, t: Tensor) -> Tensor:
            seen.append(rows)
            return spiral(rates)(rows)(x, t)

        return field

    last(DormandPrince(rtol=1e-6, atol=1e-6).solve(field_of, torch.ones(4, 2, dtype=torch.float64), 0.0, 2.0))
    counts = torch.bincount(torch.cat(seen), minlength=4)
    assert counts[3] > 5 * counts[0]


def test_the_oracle_against_scipy(mixture: GaussianMixture) -> None:
    """The probability-flow ODE itself, from end to end of the linear path."""
    denoiser = oracle(mixture, SCHEDULES["linear"])
    x = start(denoiser, 4, range(5), double=True)
    solver = DormandPrince(rtol=1e-9, atol=1e-9)
    end = last(solver.solve(lambda rows: denoiser.select(rows).velocity, x, denoiser.t_max, denoiser.t_min)).x
    for i in range(5):
        exact = solve_ivp(
            lambda t, y: denoiser.velocity(torch.from_numpy(y)[None], torch.tensor(t, dtype=torch.float64))[0].numpy(),
            (denoiser.t_max, denoiser.t_min), x[i].numpy(), method="DOP853", rtol=1e-12, atol=1e-13,
        ).y[:, -1]  # fmt: skip
        assert np.abs(end[i].numpy() - exact).max() < 1e-6


def test_giving_up_is_said_in_one_line() -> None:
    rates, x = torch.tensor([50.0], dtype=torch.float64), torch.ones(1, 2, dtype=torch.float64)
    with pytest.raises(UserError, match="max_steps=3") as caught:
        last(DormandPrince(max_steps=3).solve(spiral(rates), x, 0.0, 2.0))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("pair", PAIRS)
def test_the_tolerance_that_is_suggested_works(pair: type[EmbeddedPair]) -> None:
    """Rounding of a float32 field: with the tolerances of the message the end is that of scipy to float32's digits."""

    def field_of(rows: Tensor):
        return lambda x, t: (torch.cos(7 * t)[:, None] * x.double()).float().sin()

    x = torch.tensor([[1.0, -0.4]])
    with pytest.raises(UserError, match="below the rounding errors") as caught:
        last(pair(rtol=1e-30, atol=1e-28).solve(field_of, x, 0.0, 1.0))
    found = re.search(r"try rtol=(\S+) and atol=(\S+), or", str(caught.value))
    assert found
    rtol, atol = map(float, found.groups())
    assert 1e-30 < rtol <= atol < 1e-2
    end = last(pair(rtol=rtol, atol=atol).solve(field_of, x, 0.0, 1.0)).x
    exact = solve_ivp(lambda t, y: np.sin(np.cos(7 * t) * y), (0, 1), x[0].numpy(), rtol=1e-10, atol=1e-10).y[:, -1]
    assert np.abs(end[0].numpy() - exact).max() < 1e-3


def test_a_field_that_is_not_finite_ends_with_a_message() -> None:
    with pytest.raises(UserError, match="dopri5: the field is not finite near t=0"):
        last(DormandPrince().solve(lambda rows: lambda x, t: x / 0 * 0, torch.ones(1, 2), 0.0, 1.0))


@pytest.mark.parametrize("bad", [{"rtol": 0.0}, {"atol": -1.0}])
def test_tolerances_must_be_positive(bad: dict[str, float]) -> None:
    with pytest.raises(UserError, match="above 0"):
        DormandPrince(**bad)

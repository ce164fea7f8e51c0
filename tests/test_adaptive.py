"""The adaptive pair against scipy, and each sample's independence of its neighbours."""

import numpy as np
import pytest
import torch
from conftest import SCHEDULES, oracle
from scipy.integrate import solve_ivp
from torch import Tensor

from dfm.adaptive import ERROR, NODES, STAGES, DormandPrince, Progress
from dfm.errors import UserError
from dfm.mixtures import GaussianMixture
from dfm.samplers import start


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


def test_the_table_satisfies_the_order_conditions() -> None:
    """Sums over stages (Hairer, Norsett, Wanner 1993, II.1): nodes, and quadrature conditions up to order five."""
    for node, weights in zip(NODES, STAGES, strict=True):
        assert sum(weights) == pytest.approx(node, abs=1e-15)
    fifth = np.array([*STAGES[-1], 0.0])
    fourth = fifth - np.array(ERROR)
    nodes = np.array(NODES)
    for power in range(5):
        assert fifth @ nodes**power == pytest.approx(1 / (power + 1), abs=1e-14)
    for power in range(4):
        assert fourth @ nodes**power == pytest.approx(1 / (power + 1), abs=1e-14)
    assert fourth @ nodes**4 != pytest.approx(1 / 5, abs=1e-6), "the embedded weights are of order four, no more"


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
    end = last(solver.solve(lambda rows: denoiser.rows(rows).velocity, x, denoiser.t_max, denoiser.t_min)).x
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


def test_a_field_that_is_not_finite_ends_with_a_message() -> None:
    with pytest.raises(UserError, match="dopri5"):
        last(DormandPrince().solve(lambda rows: lambda x, t: x / 0 * 0, torch.ones(1, 2), 0.0, 1.0))


@pytest.mark.parametrize("bad", [{"rtol": 0.0}, {"atol": -1.0}])
def test_tolerances_must_be_positive(bad: dict[str, float]) -> None:
    with pytest.raises(UserError, match="above 0"):
        DormandPrince(**bad)

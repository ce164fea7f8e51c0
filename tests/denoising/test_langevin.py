"""The general prior exp(-f)/Z in one dimension, where quadrature and the Fokker-Planck equation say everything."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import integrate, linalg, stats
from support.oracles import SCHEDULES, oracle
from torch import Tensor

from dfm.basics.errors import UserError
from dfm.basics.seeding import NumberedDraws
from dfm.data.dataset import DatasetSpec
from dfm.data.gaussian_mixture import mixture_of
from dfm.denoising.langevin import LangevinDenoiser
from dfm.denoising.predictions import Noise
from dfm.models.condition import Condition
from dfm.paths.interpolating import Linear
from dfm.paths.potentials import DoubleWell, Potential
from dfm.paths.variance_preserving import OrnsteinUhlenbeck
from dfm.sampling.grids import QuadraticGrid
from dfm.sampling.samplers import GridSampler, start
from dfm.sampling.steppers.exponential import Ddim
from dfm.sampling.steppers.ode import Heun
from dfm.sampling.steppers.stochastic import EulerMaruyama
from dfm.training.objectives.langevin import LangevinMatching, chain

WELL = DoubleWell(dimension=1, height=1.0, width=1.0)
CLOCK = OrnsteinUhlenbeck(t_min=1e-2, t_max=3.0)
SPEC = DatasetSpec(name="line", shape=(1,), levels=None, num_classes=0, mean=0.2, std=0.7)
DATA = mixture_of([[-0.6], [0.9]], [0.09, 0.16], [0.4, 0.6])


def f(x: float) -> float:
    return (x * x - 1) ** 2


def density(x: float) -> float:
    return math.exp(-f(x)) / integrate.quad(lambda y: math.exp(-f(y)), -6, 6)[0]


def test_energy_gradient_normalisation_and_moments() -> None:
    x = torch.linspace(-2, 2, 9, dtype=torch.float64)[:, None]
    assert WELL.energy(x).tolist() == pytest.approx([f(float(v)) for v in x])
    assert WELL.gradient(x)[:, 0].tolist() == pytest.approx([4 * float(v) * (float(v) ** 2 - 1) for v in x])
    assert WELL.log_prob(x).exp().tolist() == pytest.approx([density(float(v)) for v in x], rel=1e-9)
    spread = integrate.quad(lambda y: y * y * density(y), -6, 6)[0]
    assert (WELL.mean, WELL.std) == pytest.approx((0.0, math.sqrt(spread)), abs=1e-9)


def test_the_gradient_can_be_differentiated_again() -> None:
    x = torch.tensor([[0.3], [1.2]], dtype=torch.float64, requires_grad=True)
    (second,) = torch.autograd.grad(WELL.gradient(x).sum(), x)
    assert second[:, 0].tolist() == pytest.approx([12 * v * v - 4 for v in (0.3, 1.2)])


def test_the_langevin_chain_has_the_law_of_the_well() -> None:
    """Kolmogorov-Smirnov against quadrature: the Metropolis correction leaves no step-size error."""
    x = WELL.draw(NumberedDraws(0, range(2000)), (1,))[:, 0].numpy()
    axis = np.linspace(-4, 4, 4001)
    cdf = integrate.cumulative_simpson([density(v) for v in axis], x=axis, initial=0)
    assert stats.kstest(x, lambda v: np.interp(v, axis, cdf)).pvalue > 1e-3


def test_no_chain_is_stuck_where_the_potential_is_steep() -> None:
    """At |x| = 6 the gradient is 840: an untamed step of 0.05 would overshoot and be refused for ever."""
    far = DoubleWell(dimension=1, height=1.0, width=1.0, chain_steps=300)
    assert float(far.draw(NumberedDraws(0, range(3000)), (1,)).abs().max()) < 2.6  # exp(-33) lies beyond


def test_in_two_dimensions_z_is_scipys() -> None:
    ring = Potential(f="(r2 - 1)^2 + x1/2")
    exact, _ = integrate.dblquad(lambda y, x: math.exp(-((x * x + y * y - 1) ** 2) - x / 2), -4, 4, -4, 4)
    value = float(ring.log_prob(torch.tensor([[0.2, 0.4]], dtype=torch.float64)))
    assert value == pytest.approx(-(0.8**2) - 0.1 - math.log(exact), abs=1e-6)


# ---- the process -----------------------------------------------------------------------------------------------------

AXIS = np.linspace(-3.5, 3.5, 701)


def fokker_planck(times: list[float]) -> dict[float, np.ndarray]:
    """p_t on the axis: dp/dt = (f' p)' + p'', finite differences in flux form, Crank-Nicolson steps of at most 1e-3."""
    h = AXIS[1] - AXIS[0]
    middle = (AXIS[1:] + AXIS[:-1]) / 2
    drift = 4 * middle * (middle**2 - 1)
    up, down = (1 / h + drift / 2) / h, (1 / h - drift / 2) / h  # rates into the left cell from the right one, and back
    upper, lower = np.append(0.0, up), np.append(down, 0.0)
    middle_band = -np.append(down, 0.0) - np.append(0.0, up)
    p = DATA.log_prob(torch.from_numpy(AXIS)[:, None]).exp().numpy()
    found, now = {}, 0.0
    for t in sorted(times):
        n = max(1, math.ceil((t - now) / 1e-3))
        half = (t - now) / n / 2
        for _ in range(n):
            pushed = p + half * (middle_band * p + np.append(up * p[1:], 0.0) + np.append(0.0, down * p[:-1]))
            bands = np.stack([-half * upper, 1 - half * middle_band, -half * lower])
            p = linalg.solve_banded((1, 1), bands, pushed)
        found[t], now = p, t
    return found


@pytest.fixture(scope="module")
def laws() -> dict[float, np.ndarray]:
    """p_t at the times of a grid of 300 steps."""
    times = QuadraticGrid().times(300, CLOCK, CLOCK.t_min, CLOCK.t_max)
    return fokker_planck([float(t) for t in times])


def exact_denoiser(laws: dict[float, np.ndarray], clock: OrnsteinUhlenbeck = CLOCK) -> LangevinDenoiser:
    """A LangevinDenoiser whose network is the Fokker-Planck score, linear between the points of the axis."""
    levels = np.array(sorted(laws))
    scores = []
    for t in levels:
        known = laws[t] > 1e-7 * laws[t].max()  # outside, the score of the nearest known place
        scores.append(np.interp(AXIS, AXIS[known], np.gradient(np.log(laws[t][known]), AXIS[known])))

    def network(x: Tensor, c_time: Tensor, label: Tensor | None) -> Tensor:
        t = clock.time_of_log_nsr(c_time.double())
        points = (x * LangevinDenoiser.input_variance(shell, t).sqrt()[:, None])[:, 0].numpy()
        rows = np.abs(levels[None] - t[:, None].numpy()).argmin(1)
        excess = np.zeros_like(points)
        for row in np.unique(rows):
            here = rows == row
            excess[here] = np.interp(points[here], AXIS, scores[row])
        excess += 4 * points * (points**2 - 1)
        return clock.ab(t)[1][:, None] * torch.from_numpy(excess)[:, None]

    shell = LangevinDenoiser(
        spec=SPEC, schedule=clock, trained_schedule=clock, prediction=Noise(), network=network, prior=WELL
    )
    return shell


@pytest.mark.parametrize(("stepper", "p"), [(EulerMaruyama(), 1e-3), (Heun(), 1e-3)], ids=["sde", "ode"])
def test_back_from_the_well_to_the_data(laws: dict[float, np.ndarray], stepper: object, p: float) -> None:
    """From the Langevin chain on exp(-f) the reverse process leads to the data's law: Kolmogorov-Smirnov."""
    denoiser, n = exact_denoiser(laws), 1500
    sampler = GridSampler(stepper=stepper, grid=QuadraticGrid(), steps=300)  # type: ignore[arg-type]
    *_, (end, t) = sampler.path(denoiser, start(denoiser, 0, range(n), double=True), 0, range(n))
    cdf = integrate.cumulative_simpson(laws[min(laws)], x=AXIS, initial=0)
    assert t == CLOCK.t_min
    distance = stats.kstest(end[:, 0].numpy(), lambda v: np.interp(v, AXIS, cdf))
    assert distance.pvalue > p or distance.statistic < 0.03  # steps of order one leave about 0.02


def test_for_a_parabola_the_process_is_ornstein_uhlenbeck() -> None:
    """f = |x|^2/2: with the exact score, velocity and score equal those of the path a data + b noise."""
    truth = oracle(DATA, SCHEDULES["langevin"])
    schedule = truth.schedule

    def network(x: Tensor, c_time: Tensor, label: Tensor | None) -> Tensor:
        t = schedule.time_of_log_nsr(c_time.double())
        x_t = x * denoiser.input_variance(t).sqrt()[:, None]
        return schedule.ab(t)[1][:, None] * (truth.score(x_t, t) + x_t)

    denoiser = LangevinDenoiser(
        spec=truth.spec, schedule=schedule, trained_schedule=schedule, prediction=Noise(), network=network,
        prior=Potential(f="r2/2", dimension=1),
    )  # fmt: skip
    x = torch.randn(20, 1, dtype=torch.float64)
    for t in (0.01, 0.3, 2.0):
        at = torch.tensor(t, dtype=torch.float64)
        for found, expected in zip(denoiser.velocity_and_score(x, at), truth.velocity_and_score(x, at), strict=True):
            assert torch.allclose(found, expected, rtol=1e-5, atol=1e-6)


def test_transitions_teach_the_score(laws: dict[float, np.ndarray]) -> None:
    """E[-z/sqrt(2 h) | x_{k+1}], by bins of 200,000 chains, is the Fokker-Planck score at t_{k+1}."""
    generator, n, steps = torch.Generator().manual_seed(0), 200_000, 60
    edges = torch.linspace(0, 0.3, steps + 1, dtype=torch.float64)
    data, _ = DATA.sample(n, generator)
    noise = torch.randn(steps, n, 1, dtype=torch.float64, generator=generator)
    states = chain(WELL, data, edges, noise)
    h = float(edges[-1] - edges[-2])
    target = -noise[-1, :, 0] / math.sqrt(2 * h)
    law = fokker_planck([0.3])[0.3]
    score = np.gradient(np.log(law), AXIS)
    x = states[-1, :, 0]
    for low in (-1.2, -0.6, 0.0, 0.6, 1.1):
        inside = (x > low) & (x < low + 0.1)
        mean, error = float(target[inside].mean()), float(target[inside].std()) / math.sqrt(int(inside.sum()))
        expected = np.interp(x[inside].numpy(), AXIS, score).mean()
        assert mean == pytest.approx(expected, abs=4.5 * error + 0.1)  # 0.1: the chain's own step-size error


def test_the_loss_is_least_for_the_true_score() -> None:
    """On the same draws the exact network beats none and twice of it, early, where the data still show."""
    times = [float(t) for t in 0.1 * torch.linspace(0, 1, 201, dtype=torch.float64)[1:] ** 2]
    clock = OrnsteinUhlenbeck(t_min=1e-2, t_max=0.1)
    denoiser = exact_denoiser(fokker_planck([t for t in times if t >= 1e-2]), clock)
    objective = LangevinMatching(steps=200, transitions=4)
    data, _ = DATA.sample(20_000, torch.Generator().manual_seed(1))
    inner = denoiser.network

    def loss(factor: float) -> float:
        scaled = replace(denoiser, network=lambda x, c_time, label: factor * inner(x, c_time, label))
        return float(objective.loss(scaled, data, torch.Generator().manual_seed(2)).value.mean())

    losses = [loss(factor) for factor in (0.0, 1.0, 2.0)]
    assert losses[1] < losses[0]
    assert losses[1] < losses[2]


def test_each_transition_has_the_class_and_the_condition_of_its_example() -> None:
    """Labels and conditions are those of the batch, once for each transition of its chains."""
    seen: list[tuple[Tensor, Tensor]] = []

    def network(x: Tensor, c_time: Tensor, label: Tensor, condition: Condition) -> Tensor:
        seen.append((label, condition.change))
        return torch.zeros_like(x)

    denoiser = LangevinDenoiser(
        spec=replace(SPEC, num_classes=3), schedule=CLOCK, trained_schedule=CLOCK, prediction=Noise(), network=network,
        prior=WELL, label=torch.tensor([2, 0]), condition=Condition(change=torch.tensor([[5.0], [7.0]])),
    )  # fmt: skip
    objective = LangevinMatching(steps=4, transitions=3)
    objective.loss(denoiser, torch.zeros(2, 1), torch.Generator().manual_seed(0))
    ((label, change),) = seen
    assert label.tolist() == [2, 0, 2, 0, 2, 0]
    assert change[:, 0].tolist() == [5, 7, 5, 7, 5, 7]


def test_mistakes_are_refused_in_one_line(laws: dict[float, np.ndarray]) -> None:
    denoiser = exact_denoiser(laws)
    with pytest.raises(UserError, match="ddim"):
        GridSampler(stepper=Ddim(), steps=2).run(denoiser, torch.zeros(1, 1, dtype=torch.float64))
    with pytest.raises(UserError, match="schedule=ou"):
        LangevinDenoiser(
            spec=SPEC,
            schedule=Linear(),
            trained_schedule=Linear(),
            prediction=Noise(),
            network=denoiser.network,
            prior=WELL,
        )
    with pytest.raises(UserError, match="trained on"):
        denoiser.on_schedule(OrnsteinUhlenbeck())
    with pytest.raises(UserError, match="dimension"):
        WELL.draw(NumberedDraws(0, [0]), (2,))
    with pytest.raises(UserError, match="at 0"):
        Potential(f="1/r2")
    with pytest.raises(UserError, match="at most 2"):
        Potential(f="r2/2", dimension=3, chain_steps=5).log_prob(torch.zeros(1, 3))
    with pytest.raises(UserError, match="steps"):
        LangevinMatching(steps=1)

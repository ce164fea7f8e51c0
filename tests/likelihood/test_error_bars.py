"""The parts of a standard error, from scores whose parts are known; when a figure is not to be trusted."""

import math
from dataclasses import replace

import pytest
import scipy.stats
import torch
from support.oracles import SCHEDULES, oracle

from dfm.data.dataset import DatasetSpec, Split
from dfm.data.gaussian_mixture import mixture_of
from dfm.likelihood.error_bars import Audit, audit_subset, choose_steps, report
from dfm.likelihood.estimator import Likelihood
from dfm.likelihood.ode import LADDER, OdeLikelihood
from dfm.likelihood.scoring import Scores, Scoring

SPEC = DatasetSpec(name="x", shape=(1, 4, 4), levels=17, num_classes=0, mean=0.0, std=1.0)


def synthetic(n: int, data: float, probe: float, noise: float) -> tuple[torch.Tensor, Audit]:
    """Scores with known parts: every example's own value, one draw of probe error and one of noise error."""
    generator = torch.Generator().manual_seed(0)

    def draw(scale: float) -> torch.Tensor:
        return scale * torch.randn(n, dtype=torch.float64, generator=generator)

    own, with_probe, with_noise = 60 + draw(data), draw(probe), draw(noise)
    base = own + with_probe + with_noise
    audit = Audit(
        base=base,
        other_probe=own + draw(probe) + with_noise,
        other_noise=own + with_probe + draw(noise),
        fine=base + 0.001,
    )
    return base, audit


def of(nats: torch.Tensor) -> Scores:
    return Scores(indices=range(len(nats)), nats=nats, evaluations=100.0 * len(nats))


def test_the_parts_of_the_standard_error() -> None:
    """Against the deviations that went in: 20,000 examples leave 3 % of play in each."""
    n = 20_000
    nats, audit = synthetic(n, 5.0, 2.0, 1.0)
    found, unit = report(of(nats), audit, SPEC), 1 / (16 * math.log(2))
    for key, deviation in (
        ("stderr", math.sqrt(30.0)),
        ("stderr_data", 5.0),
        ("stderr_probe", 2.0),
        ("stderr_dequantization", 1.0),
    ):
        assert found[key] == pytest.approx(deviation / math.sqrt(n) * unit, rel=0.03), key
    assert found["bits_per_dim"] == pytest.approx(found["nats"] * unit)
    assert found["solver_error"] == pytest.approx(0.001 * unit)
    assert found["converged"] is True


def test_points_are_in_nats() -> None:
    nats, audit = synthetic(100, 1.0, 0.5, 0.0)
    found = report(of(nats), replace(audit, other_noise=None), replace(SPEC, shape=(2,), levels=None))
    assert (found["unit"], found["bits_per_dim"], found["stderr_dequantization"]) == ("nats", None, 0.0)
    assert found["stderr"] == pytest.approx(float(nats.std()) / 10)


def test_when_a_figure_is_not_to_be_trusted() -> None:
    nats, audit = synthetic(1000, 1.0, 0.1, 0.1)
    assert report(of(nats), replace(audit, fine=audit.base + 1.0), SPEC)["converged"] is False
    negative = report(of(nats - 100), replace(audit, fine=audit.fine), SPEC)
    assert negative["converged"] is False, "no probability gives fewer than zero bits"
    infinite = report(of(nats * math.inf), audit, SPEC)
    assert infinite["converged"] is False
    assert infinite["bits_per_dim"] is None, "JSON has no infinities"
    one = report(of(nats[:1]), Audit(base=nats[:1], other_probe=None, other_noise=None, fine=nats[:1]), SPEC)
    assert one["stderr"] is None
    assert one["stderr_data"] is None


def test_what_a_solver_is_held_against() -> None:
    assert OdeLikelihood(steps=32).finer().steps == 64
    assert OdeLikelihood(steps=32, precision="bf16").finer().precision == "fp32"
    assert OdeLikelihood(solver="dopri5", rtol=1e-5).finer().rtol == pytest.approx(1e-6)


# ---- the solver's error against the density in closed form -----------------------------------------------------------


def gaussian_scoring(likelihood: Likelihood) -> tuple[Scoring, float]:
    """A Gaussian whose law at t_max is the prior, in float64; and the exact mean of its nats."""
    gaussian = mixture_of([[0.4, 0.4, 0.4]], 0.36)
    model = oracle(gaussian, SCHEDULES["trig"])
    data = gaussian.sample(32, torch.Generator().manual_seed(0))[0].double()
    a = float(model.schedule.ab(torch.tensor(model.t_min, dtype=torch.float64))[0])
    exact = -(model.log_density(a * data, model.t_min) + 3 * math.log(a)).mean()
    split = Split(values=data, labels=None)  # float64, because float32's rounding is larger than rk5's error
    scoring = Scoring(
        denoiser=model,
        likelihood=likelihood,
        split=split,
        seed=0,
        batch_size=32,
        device=torch.device("cpu"),
    )
    return scoring, float(exact)


def told_over_true(likelihood: Likelihood) -> float:
    """The solver's error in the report, divided by the distance of the reported figure to the exact one."""
    scoring, exact = gaussian_scoring(likelihood)
    scores = scoring.all(range(32))
    audit = audit_subset(scoring, list(range(32)), scores.nats, lambda count: None)
    found = report(scores, audit, scoring.denoiser.spec, likelihood.change_to_error)
    return float(found["solver_error"] / abs(found["nats"] - exact))


@pytest.mark.parametrize(("solver", "steps"), [("euler", 48), ("heun", 12), ("midpoint", 12), ("rk5", 8)])
def test_the_solvers_error_is_that_of_the_figure(solver: str, steps: int) -> None:
    """Reported over true tends to 1: it is within 10 %, and nearer at eight times the steps."""
    few, many = (
        told_over_true(OdeLikelihood(solver=solver, steps=n, path="own", divergence="exact"))
        for n in (steps, 8 * steps)
    )
    assert few == pytest.approx(1, abs=0.1)
    assert abs(many - 1) < max(0.5 * abs(few - 1), 0.005)


@pytest.mark.parametrize("tolerance", [1e-3, 1e-5, 1e-7])
def test_the_error_of_adaptive_steps_is_told_to_a_factor_of_two(tolerance: float) -> None:
    """Its steps jump with the tolerance, and errors of examples cancel in part, so there is no limit to test."""
    likelihood = OdeLikelihood(solver="dopri5", rtol=tolerance, atol=tolerance, path="own", divergence="exact")
    assert 0.5 < told_over_true(likelihood) < 2


def test_the_pilot_holds_the_error_itself_to_the_tolerance() -> None:
    """Euler's error of the chosen steps, root mean square against the closed form, and of the rung below."""
    tolerance = 0.15
    likelihood = OdeLikelihood(solver="euler", path="own", tolerance=tolerance, divergence="exact")
    scoring, _ = gaussian_scoring(likelihood)
    chosen = choose_steps(scoring, list(range(32))).likelihood
    assert isinstance(chosen, OdeLikelihood)
    assert chosen.steps in LADDER
    a = float(scoring.denoiser.schedule.ab(torch.tensor(scoring.denoiser.t_min, dtype=torch.float64))[0])
    x = scoring.split.values
    exact = -(scoring.denoiser.log_density(a * x, scoring.denoiser.t_min) + 3 * math.log(a))  # type: ignore[attr-defined]

    def error(steps: int) -> float:
        found = replace(scoring, likelihood=replace(likelihood, steps=steps)).all(range(32)).nats
        return float((found - exact).square().mean().sqrt())

    below = LADDER[LADDER.index(chosen.steps) - 1]
    assert error(chosen.steps) < 1.1 * tolerance
    assert error(below) > 0.9 * tolerance


# ---- the interval ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("levels", [17, None])
def test_the_interval_is_students(levels: int | None) -> None:
    nats, _ = synthetic(6, 1.0, 0.5, 0.1)
    spec = replace(SPEC, levels=levels)
    found = report(of(nats), Audit(base=nats), spec)
    low, high = scipy.stats.t.interval(0.95, 5, float(nats.mean()), float(nats.std()) / math.sqrt(6))
    assert found["interval95_nats"] == pytest.approx([low, high])
    unit = 1 if levels is None else 1 / (16 * math.log(2))
    assert found["interval95"] == pytest.approx([low * unit, high * unit])
    assert report(of(nats[:1]), Audit(base=nats[:1]), spec)["interval95"] is None

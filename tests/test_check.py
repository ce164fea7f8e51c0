"""What ``dfm check`` measures, against other ways to the same number; and the command itself."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import SCHEDULES, Command, oracle
from scipy import stats
from scipy.spatial.distance import cdist

from dfm.basics.errors import UserError
from dfm.data.gaussian_mixture import GaussianMixture, mixture_of
from dfm.evaluation.distances import energy_distance, energy_spread, wasserstein_2
from dfm.evaluation.known_law import (
    ProjectedLaw,
    exact_end,
    kolmogorov_tail,
    law_at,
    likelihood_bias,
    order_between,
    start_gap,
)
from dfm.likelihood.ode import OdeLikelihood
from dfm.likelihood.path_divergence import path_divergence
from dfm.paths.variance_exploding import RandomWalk
from dfm.sampling.samplers import start

# ---- distances -------------------------------------------------------------------------------------------------------


def test_energy_distance_by_brute_force() -> None:
    x, y = torch.randn(40, 3), 0.5 + torch.randn(60, 3)
    cross, own_x, own_y = cdist(x, y).mean(), cdist(x, x).sum() / (40 * 39), cdist(y, y).sum() / (60 * 59)
    assert energy_distance(x, y) == pytest.approx((2 * cross - own_x - own_y) / math.sqrt(3), rel=1e-5)
    line = energy_distance(x[:, :1], y[:, :1])
    biased = stats.energy_distance(x[:, 0].numpy(), y[:, 0].numpy()) ** 2
    assert line == pytest.approx(biased, abs=0.1)


def test_energy_distance_scatters_about_zero_for_equal_laws_and_grows_otherwise() -> None:
    generator = torch.Generator().manual_seed(0)
    same = [energy_distance(*torch.randn(2, 100, 4, generator=generator)) for _ in range(60)]
    assert abs(np.mean(same)) < 4.5 * np.std(same) / math.sqrt(60)
    x, y = torch.randn(2, 400, 4, generator=generator)
    assert energy_distance(x, y + 0.5) > 10 * energy_spread(x, y)


def test_wasserstein_in_one_dimension_is_sorting() -> None:
    x, y = torch.randn(50, 1), 2 * torch.randn(50, 1)
    assert wasserstein_2(x, y) == pytest.approx(float((x.sort(0)[0] - y.sort(0)[0]).square().mean().sqrt()), rel=1e-5)
    shift = torch.tensor([3.0, 4.0])
    points = torch.randn(30, 2)
    assert wasserstein_2(points, points.flip(0) + shift) == pytest.approx(5.0, rel=1e-5)
    with pytest.raises(UserError, match="equally many"):
        wasserstein_2(points, points[:5])


# ---- laws ------------------------------------------------------------------------------------------------------------


def test_projected_distribution_functions(mixture: GaussianMixture) -> None:
    """Against frequencies of 100,000 draws, and for one Gaussian against scipy's normal."""
    law = law_at(oracle(mixture, SCHEDULES["vp"]), 0.4)
    draws, _ = law.mixture.sample(100_000, torch.Generator().manual_seed(0))
    place = torch.tensor([[0.3, -0.2], [1.0, 1.0]], dtype=torch.float64)
    lines, cuts = draws @ law.directions.T, place @ law.directions.T
    frequency = torch.stack([(lines < cut).double().mean(0) for cut in cuts])
    assert torch.allclose(law.cdf(place), frequency, atol=4.5 * 0.5 / math.sqrt(100_000))
    one = ProjectedLaw(mixture=mixture_of([[1.0]], 4.0), directions=torch.ones(1, 1, dtype=torch.float64))
    assert float(one.cdf(torch.tensor([[2.5]]))) == pytest.approx(stats.norm.cdf(2.5, 1, 2))


def test_kolmogorov_smirnov_is_scipys_in_one_dimension() -> None:
    law = ProjectedLaw(mixture=mixture_of([[0.0]], 1.0), directions=torch.ones(1, 1, dtype=torch.float64))
    x = torch.randn(300, 1, dtype=torch.float64)
    found = law.kolmogorov_smirnov(x)
    theirs = stats.kstest(x[:, 0].numpy(), stats.norm.cdf, method="asymp")
    assert found[0] == pytest.approx(theirs.statistic, rel=1e-9)
    assert found[1] == pytest.approx(theirs.pvalue, rel=1e-6)
    assert kolmogorov_tail(1.0) == pytest.approx(stats.kstwobign.sf(1.0), rel=1e-9)


def test_the_distance_of_laws_is_scipys_wasserstein() -> None:
    """A sample against the law: close to that against a large sample of the law."""
    law = ProjectedLaw(mixture=mixture_of([[0.0]], 1.0), directions=torch.ones(1, 1, dtype=torch.float64))
    x = 0.7 + 1.3 * torch.randn(500, 1, dtype=torch.float64)
    big = stats.norm.ppf((np.arange(100_000) + 0.5) / 100_000)
    assert law.distance(x) == pytest.approx(stats.wasserstein_distance(x[:, 0].numpy(), big), rel=5e-3)


def test_right_samples_pass_and_wrong_ones_do_not(mixture: GaussianMixture) -> None:
    law = law_at(oracle(mixture, SCHEDULES["edm"]), 0.5)
    draws, _ = law.mixture.sample(1000, torch.Generator().manual_seed(0))
    assert law.kolmogorov_smirnov(draws)[1] > 1e-3
    assert law.kolmogorov_smirnov(1.2 * draws)[1] < 1e-3


# ---- bias, gap, order ------------------------------------------------------------------------------------------------


def test_likelihood_bias_finds_a_coarse_solver(mixture: GaussianMixture) -> None:
    denoiser = oracle(mixture, SCHEDULES["vp"])
    data, _ = mixture.sample(60, torch.Generator().manual_seed(0))
    fine = likelihood_bias(denoiser, OdeLikelihood(solver="rk4", steps=64, divergence="exact"), data, 0)
    coarse = likelihood_bias(denoiser, OdeLikelihood(solver="euler", steps=8, divergence="exact"), data, 0)
    assert abs(fine.mean) < 5e-3
    assert abs(coarse.mean) > 20 * abs(fine.mean)


def test_the_start_gap_of_one_gaussian_is_zero_and_of_a_short_path_is_not(mixture: GaussianMixture) -> None:
    """A Gaussian is met exactly; a mixture seen through nsr 1 is not Gaussian yet."""
    data, _ = mixture.sample(4000, torch.Generator().manual_seed(0))
    walk = start_gap(oracle(mixture, RandomWalk(t_max=2500.0)), data, 0)
    assert walk.mean > 4.5 * walk.stderr
    gaussian = mixture_of([[0.3, 0.3]], 0.5)
    same = start_gap(oracle(gaussian, SCHEDULES["random_walk"]), gaussian.sample(500, torch.Generator())[0], 0)
    assert abs(same.mean) < 1e-9


def test_orders_from_errors() -> None:
    assert order_between([8, 16, 64], [1.0, 0.25, 0.25 / 16]) == [None, pytest.approx(2.0), pytest.approx(2.0)]
    assert order_between([8, 16], [1.0, 0.0]) == [None, None]


def test_the_exact_end_returns(mixture: GaussianMixture) -> None:
    denoiser = oracle(mixture, SCHEDULES["linear"])
    x = start(denoiser, 0, range(3), double=True)
    from dfm.sampling.adaptive_solver import DormandPrince

    end = exact_end(denoiser, x, 0.2)
    *_, back = DormandPrince(rtol=1e-9, atol=1e-9).solve(lambda rows: denoiser.velocity, end, 0.2, denoiser.t_max)
    assert torch.allclose(back.x, x, atol=1e-5)


# ---- path divergence -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["edm", "vp", "linear"])
def test_path_divergence_between_two_gaussians_in_closed_form(name: str) -> None:
    """For N(0, c^2) and N(0, d^2), with r = nsr: E|noise_c - noise_d|^2 = dim (r/(c^2 + r^2) - r/(d^2 + r^2))^2
    (c^2 + r^2), integrated over log nsr by scipy.
    """
    from scipy.integrate import quad

    c, d, schedule = 0.7, 1.1, SCHEDULES[name]
    true, model = (oracle(mixture_of([[0.0, 0.0]], v * v), schedule) for v in (c, d))
    data = c * torch.randn(4000, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    found = path_divergence(true, model, data, noise_levels=200)

    def rate(level: float) -> float:
        r = math.exp(2 * level)
        return 2 * r * (1 / (c * c + r) - 1 / (d * d + r)) ** 2 * (c * c + r)

    ends = schedule.log_nsr(torch.tensor([schedule.t_min, schedule.t_max], dtype=torch.float64))
    exact = quad(rate, float(ends[0]), float(ends[1]), epsabs=1e-12)[0]
    assert found.total == pytest.approx(exact, abs=4.5 * found.stderr + 1e-3 * exact)
    assert path_divergence(true, true, data[:10]).total == 0.0


def test_path_divergence_is_the_divergence_of_the_data_where_both_are_diffused_laws(mixture: GaussianMixture) -> None:
    """With both scores exact, KL(path) = KL(data) but for what is left at t_max (Song et al. 2021, theorem 2)."""
    c, d = 0.7, 1.1
    true, model = (oracle(mixture_of([[0.0, 0.0]], v * v), SCHEDULES["edm"]) for v in (c, d))
    data = c * torch.randn(4000, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    kl = 2 * (math.log(d / c) + c * c / (2 * d * d) - 0.5)
    found = path_divergence(true, model, data, noise_levels=200)
    assert found.total == pytest.approx(kl, abs=4.5 * found.stderr + 1e-3)
    with pytest.raises(UserError, match="two different schedules"):
        path_divergence(true, oracle(mixture, SCHEDULES["vp"]), data)


# ---- the command -----------------------------------------------------------------------------------------------------

QUICK = ("n=40", "batch_size=40", "steps=[4,8]", "samplers=[euler,dopri5,ancestral]")


def test_check_on_the_oracle(command: Command) -> None:
    done = command("check", "sampler=midpoint", "schedule=vp", *QUICK)
    found = json.loads((done.run / "check.json").read_text())
    assert [row["steps"] for row in found["errors"]] == [4, 8]
    assert found["errors"][1]["order"] is not None
    assert set(found["all"]) == {"euler", "dopri5", "ancestral"}
    assert found["all"]["ancestral"][0]["error"] is None, "no trajectory to compare a stochastic one with"
    assert {row["kept"] for row in found["marginals"]} <= {True, False}
    assert (done.run / "error_against_nfe.png").exists()


def test_check_on_a_model(tiny_run: Path, command: Command) -> None:
    done = command("check", f"ckpt={tiny_run}", *QUICK)
    found = json.loads((done.run / "check.json").read_text())
    assert [(row["sampler"], row["steps"]) for row in found["rows"]] == [
        ("euler", 4), ("euler", 8), ("dopri5", None), ("ancestral", 4), ("ancestral", 8),
    ]  # fmt: skip
    assert all(row["nfe"] > 0 for row in found["rows"])
    assert (done.run / "quality_against_nfe.png").exists()


def test_check_tells_a_wrong_network_from_a_wrong_sampler(command: Command) -> None:
    """The exact denoiser as a checkpoint: path divergence next to nothing; a network of two steps: a lot."""
    exact = command("train", "experiment=mixture_oracle", "trainer.max_steps=1", "nll.n=0", "samples.n=10").run
    raw = command("train", "dataset=mixture", "model=mlp", "trainer.max_steps=2", "nll.n=0", "samples.n=10").run
    nats = [
        json.loads((command("check", f"ckpt={run}", *QUICK).run / "check.json").read_text())["path_divergence"]["nats"]
        for run in (exact, raw)
    ]
    assert nats[0] < 1e-6
    assert nats[1] > 0.1


@pytest.mark.parametrize(
    ("given", "word"),
    [(["samplers=[heum]"], "heun"), (["steps=[]"], "steps"), (["steps=[0]"], "steps"), (["dataset=moons"], "mixture"),
     (["n=0"], "n=0"), (["ckpt=/nowhere"], "nowhere")],
)  # fmt: skip
def test_mistakes(given: list[str], word: str, command: Command) -> None:
    message = command("check", *given, code=1).err
    assert word in message
    assert len(message.strip().splitlines()) == 1

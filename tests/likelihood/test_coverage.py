"""Does the interval hold the truth as often as it says? 200 seeds of whole evaluations, against quadrature."""

import math

import numpy as np
import pytest
import scipy.stats
import torch
from support.oracles import SCHEDULES, oracle

from dfm.data.dataset import DatasetSpec, Split
from dfm.data.gaussian_mixture import mixture_of
from dfm.denoising.exact import MixtureDenoiser
from dfm.likelihood.error_bars import audit_subset, report
from dfm.likelihood.ode import OdeLikelihood
from dfm.likelihood.scoring import Scoring

SEEDS, N = 200, 48
COVARIANCE = [[0.30, 0.22], [0.22, 0.25]]


def interval(scoring: Scoring) -> tuple[float, float, dict]:
    """(mean, standard error, whole report) of one evaluation with its audit."""
    scored = scoring.all(range(N))
    audit = audit_subset(scoring, list(range(N)), scored.nats, lambda count: None)
    found = report(scored, audit, scoring.denoiser.spec)
    key = "nats" if found["unit"] == "nats" else "bits_per_dim"
    return found[key], found["stderr"], found


def shares(found: list[tuple[float, float, dict]], truth: float) -> float:
    """How often the 95 % interval holds the truth."""
    return float(np.mean([whole["interval95"][0] < truth < whole["interval95"][1] for _, _, whole in found]))


@pytest.mark.wide
def test_the_interval_of_points_holds_the_entropy() -> None:
    """Correlated coordinates, so that a probe has variance; the truth is the Gaussian's entropy at t_min.

    200 trials of chance 0.945 (48 examples: a Student t) are within 90 to 99 % but once in 500 times.
    """
    gaussian = mixture_of([[0.2, 0.2]], [COVARIANCE])
    denoiser = oracle(gaussian, SCHEDULES["trig"])
    nsr = float(denoiser.schedule.log_nsr(torch.tensor(denoiser.t_min, dtype=torch.float64)).exp())
    truth = scipy.stats.multivariate_normal(cov=np.array(COVARIANCE) + nsr**2 * np.eye(2)).entropy()
    found = []
    for seed in range(SEEDS):
        data = gaussian.sample(N, torch.Generator().manual_seed(seed))[0].float()
        scoring = Scoring(
            denoiser=denoiser, likelihood=OdeLikelihood(steps=4), split=Split(values=data, labels=None), seed=seed,
            batch_size=N, device=torch.device("cpu"),
        )  # fmt: skip
        found.append(interval(scoring))
    assert 0.90 <= shares(found, truth) <= 0.99
    spread = float(np.std([mean for mean, _, _ in found], ddof=1))
    told = float(np.sqrt(np.mean([error**2 for _, error, _ in found])))
    assert spread == pytest.approx(told, rel=0.2), "deviation over 200 seeds: 5 % of play, fourfold"


@pytest.mark.faults
def test_the_interval_of_integers_holds_the_truth() -> None:
    """Two correlated pixels of 9 levels: data, probe and dequantisation all vary; the truth by quadrature."""
    levels, mean = 9, 0.1
    spec = DatasetSpec(name="pair", shape=(1, 1, 2), levels=levels, num_classes=0, mean=mean, std=math.sqrt(0.275))
    model = MixtureDenoiser(spec=spec, schedule=SCHEDULES["trig"], mixture=mixture_of([[mean] * 2], [COVARIANCE]))
    nsr = float(model.schedule.log_nsr(torch.tensor(model.t_min, dtype=torch.float64)).exp())
    law = scipy.stats.multivariate_normal([mean, mean], np.array(COVARIANCE) + nsr**2 * np.eye(2))
    # all pairs of levels within two of each other, equally likely
    pairs = np.array([(i, j) for i in range(levels) for j in range(levels) if abs(i - j) <= 2])
    nodes, weights = np.polynomial.legendre.leggauss(8)
    u = (nodes + 1) / 2
    grid = np.stack(np.meshgrid(u, u, indexing="ij"), -1)
    at = 2 * (pairs[:, None, None, :] + grid) / levels - 1
    nats = -(law.logpdf(at) * np.outer(weights, weights) / 4).sum((1, 2)).mean() - 2 * math.log(2 / levels)
    truth = nats / (2 * math.log(2))
    found = []
    for seed in range(SEEDS):
        chosen = pairs[np.random.default_rng(seed).integers(len(pairs), size=N)]
        split = Split(values=torch.tensor(chosen).reshape(N, 1, 1, 2).to(torch.uint8), labels=None)
        scoring = Scoring(
            denoiser=model, likelihood=OdeLikelihood(steps=4), split=split, seed=seed, batch_size=N,
            device=torch.device("cpu"),
        )  # fmt: skip
        found.append(interval(scoring))
    assert 0.90 <= shares(found, truth) <= 0.99
    parts = ("stderr_data", "stderr_probe", "stderr_dequantization")
    squares = [np.mean([whole[part] ** 2 for _, _, whole in found]) for part in parts]
    told = np.mean([error**2 for _, error, _ in found])
    assert all(square > 0.005 * told for square in squares), "each part is there"
    assert sum(squares) == pytest.approx(told, rel=0.05)
    spread = float(np.var([mean for mean, _, _ in found], ddof=1))
    assert spread == pytest.approx(told, rel=0.4), "a variance over 200 seeds: 10 % of play, fourfold"

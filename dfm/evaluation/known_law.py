"""Tests of samplers and likelihoods on laws that are known exactly: the measurements of ``dfm check``.

For a mixture of Gaussians everything along the path is known: x_t is a mixture, too, and so is each of its
projections. The ODE can be solved to ten digits. Every error is then an error of the sampler, because the denoiser has
none.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from dfm.basics.intervals import mean_interval
from dfm.basics.seeding import Purpose, normal
from dfm.data.fields.law import Law
from dfm.denoising.denoiser import Denoiser
from dfm.denoising.exact import MixtureDenoiser
from dfm.likelihood.estimator import Likelihood
from dfm.sampling.adaptive_solver import DormandPrince
from dfm.sampling.samplers import Sampler, start

DIRECTIONS = 8


@dataclass(frozen=True, kw_only=True)
class ProjectedLaw:
    """A mixture of Gaussians, seen along unit directions: each projection is a mixture on the line.

    Args:
        mixture: the law of x, in d dimensions.
        directions: (K, d), unit vectors.
    """

    mixture: Law
    directions: Tensor

    def cdf(self, x: Tensor) -> Tensor:
        """Return P(v_k . X <= v_k . x) for x (n, *D): float64 (n, K)."""
        return self._cdf_along(self._project(x))

    def kolmogorov_smirnov(self, x: Tensor) -> tuple[float, float]:
        """Return (largest distance to the exact distribution function over all directions, its p-value).

        The p-value is Kolmogorov's limit for one direction, multiplied by the number of directions (Bonferroni).
        """
        n = len(x)
        ranks = torch.arange(1, n + 1, dtype=torch.float64)[:, None] / n
        u = self.cdf(x).sort(0).values
        distance = float(torch.maximum(ranks - u, u - ranks + 1 / n).max())
        return distance, min(1.0, len(self.directions) * kolmogorov_tail(math.sqrt(n) * distance))

    def distance(self, x: Tensor) -> float:
        """Return the 1-Wasserstein distance int |F_n - F| along each direction, root mean square over directions.

        It is in the unit of x.
        """
        line = self._project(x).sort(0).values
        low, high = line.min() - 1, line.max() + 1
        grid = torch.linspace(float(low), float(high), 4001, dtype=torch.float64)
        exact = self._cdf_along(grid[:, None].expand(-1, len(self.directions)))
        total = 0.0
        for k in range(len(self.directions)):
            empirical = torch.searchsorted(line[:, k].contiguous(), grid, right=True) / len(x)
            total += float((exact[:, k] - empirical).abs().mean() * (high - low)) ** 2
        return math.sqrt(total / len(self.directions))

    def _project(self, x: Tensor) -> Tensor:
        return x.double().flatten(1) @ self.directions.T

    def _cdf_along(self, line: Tensor) -> Tensor:
        """Return P(v_k . X <= s_k) for places s (n, K) along the directions: float64 (n, K)."""
        mean, std = self.mixture.along(self.directions)  # (K, components)
        return torch.special.ndtr((line[:, :, None] - mean) / std) @ self.mixture.weights


def kolmogorov_tail(x: float) -> float:
    """Return P(K > x) = 2 sum_k (-1)^(k-1) exp(-2 k^2 x^2) of Kolmogorov's limiting distribution."""
    if x < 0.2:
        return 1.0
    return min(1.0, max(0.0, 2 * sum((-1) ** (k - 1) * math.exp(-2 * (k * x) ** 2) for k in range(1, 101))))


def law_at(oracle: MixtureDenoiser, t: float, seed: int = 0) -> ProjectedLaw:
    """Return the exact law of x_t, seen along fixed random directions."""
    a, b = (float(c) for c in oracle.schedule.ab(torch.tensor(t, dtype=torch.float64)))
    scaled = oracle.mixture.smoothed(b / a).stretched(a)
    d = scaled.means.shape[1]
    directions = normal(seed, range(DIRECTIONS if d > 1 else 1), (d,), Purpose.PROBE)
    return ProjectedLaw(mixture=scaled, directions=directions / directions.norm(dim=1, keepdim=True))


@dataclass(frozen=True, kw_only=True)
class SamplerRun:
    """One run of a sampler on a batch.

    Args:
        x: the end of the trajectory, before the last denoising.
        t: its time.
        nfe: the mean number of evaluations per sample.
        states: some states of the trajectory, (t, x).
    """

    x: Tensor
    t: float
    nfe: float
    states: Sequence[tuple[float, Tensor]]


@torch.no_grad()
def follow(denoiser: Denoiser, sampler: Sampler, x: Tensor, seed: int, keep: int = 0) -> SamplerRun:
    """Run a sampler from x at t_max; keep about ``keep`` of its states, at equal distances in the number of moves."""
    states = [state for state in sampler.trajectory(denoiser, x, seed, range(len(x))) if not state.final]
    rows = sorted({round(k) for k in np.linspace(0, len(states) - 1, keep + 1)[1:]})
    last = states[-1]
    return SamplerRun(x=last.x, t=last.t, nfe=last.nfe, states=[(states[i].t, states[i].x) for i in rows])


def exact_end(denoiser: Denoiser, x: Tensor, t_end: float, tolerance: float = 1e-9) -> Tensor:
    """Return the solution of the probability-flow ODE at ``t_end`` from x at t_max, by Dormand-Prince."""
    with torch.no_grad():
        *_, last = DormandPrince(rtol=tolerance, atol=tolerance, max_steps=100_000).solve(
            lambda rows: denoiser.select(rows).velocity, x, denoiser.t_max, t_end
        )
    return last.x


def rms(x: Tensor, y: Tensor) -> float:
    """Return the root mean square of the differences of all coordinates."""
    return float((x.double() - y.double()).square().mean().sqrt())


def order_between(steps: Sequence[int], errors: Sequence[float]) -> list[float | None]:
    """Return -d log(error)/d log(steps) between neighbours; None for the first, and where an error is zero."""
    orders: list[float | None] = [None]
    for (n0, e0), (n1, e1) in zip(
        zip(steps[:-1], errors[:-1], strict=True), zip(steps[1:], errors[1:], strict=True), strict=True
    ):
        orders.append(math.log(e0 / e1) / math.log(n1 / n0) if e0 > 0 and e1 > 0 else None)
    return orders


@dataclass(frozen=True, kw_only=True)
class Bias:
    """The mean of a difference of log-densities, in nats per example, its standard error and its 95 % interval.

    ``exact`` is the expectation of the mean, where it is known in closed form.
    """

    mean: float
    stderr: float
    interval95: list[float] | None
    exact: float | None = None

    @classmethod
    def of(cls, gap: Tensor) -> "Bias":
        """Return the mean of the differences (n,) with its errors."""
        mean, stderr = float(gap.mean()), float(gap.std()) / math.sqrt(len(gap))
        return cls(mean=mean, stderr=stderr, interval95=mean_interval(mean, stderr, len(gap)))


def likelihood_bias(oracle: MixtureDenoiser, likelihood: Likelihood, data: Tensor, seed: int) -> Bias:
    """Return the mean of the estimator's log p minus the exact log p of the path's law at t_min, on data (n, *D)."""
    a = float(oracle.schedule.ab(torch.tensor(oracle.t_min, dtype=torch.float64))[0])
    exact = oracle.log_density(a * data, oracle.t_min) + data[0].numel() * math.log(a)
    gap = likelihood.log_density(oracle, data, seed).value - exact
    return Bias.of(gap)


def start_gap(oracle: MixtureDenoiser, data: Tensor, seed: int, model: Denoiser | None = None) -> Bias:
    """Return the KL divergence E[log p - log q] at t_max, on data (n, *D).

    p is the exact law of x at t_max, and q the law from which samplers start.

    Args:
        model: the denoiser whose samplers start from q; the default is the oracle.
    """
    noise = normal(seed, range(len(data)), tuple(data.shape[1:]), Purpose.STEP, 1)
    x = oracle.schedule.mix(data, noise, torch.tensor(oracle.t_max, dtype=torch.float64))
    gap = oracle.log_density(x, oracle.t_max) - (model or oracle).noise_end.log_density(x)
    return replace(Bias.of(gap), exact=exact_start_gap(oracle, model))


def exact_start_gap(oracle: MixtureDenoiser, model: Denoiser | None = None) -> float | None:
    """Return the divergence that ``start_gap`` estimates, if both laws are Gaussian; else None.

    KL(N(m, C) || N(n, s^2 I)) = (tr C/s^2 + |m - n|^2/s^2 - d + d log s^2 - log det C)/2
    """
    end, mixture = (model or oracle).noise_end, oracle.mixture
    if len(mixture.weights) > 1 or not end.prior.gaussian:
        return None
    a, b = (float(c) for c in oracle.schedule.ab(torch.tensor(oracle.t_max, dtype=torch.float64)))
    mean, std = end.moments
    values = a * a * mixture.eigenvalues[0] + b * b
    ratios = values / std**2
    far = float((a * mixture.means[0] - mean).square().sum()) / std**2
    return (far + float((ratios - 1 - ratios.log()).sum())) / 2


def starting_points(
    denoiser: Denoiser, n: int, seed: int, device: torch.device | None = None, double: bool = True
) -> Tensor:
    """Draw x at t_max of the samples 0 .. n-1; arguments as for ``dfm.sampling.samplers.start``."""
    return start(denoiser, seed, range(n), device, double=double)

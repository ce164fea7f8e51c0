"""Likelihoods of images of 3x32x32 in closed form, and what tolerances and steps do to them."""

import dataclasses
import math
from dataclasses import dataclass

import pytest
import torch
from support.oracles import SCHEDULES, oracle
from torch import Tensor

from dfm.basics.per_sample import per_sample
from dfm.data.dataset import DatasetSpec, Split
from dfm.data.gaussian_mixture import GaussianMixture
from dfm.denoising.denoiser import Denoiser
from dfm.likelihood.divergence import Exact
from dfm.likelihood.examples import dequantize_examples
from dfm.likelihood.ode import OdeLikelihood
from dfm.likelihood.scoring import Scoring, log_likelihood

SHAPE = (3, 32, 32)
SMALL = (3, 8, 8)


@dataclass(frozen=True, kw_only=True, eq=False)
class ReflectedGaussian(Denoiser):
    """data = H z with z_i ~ N(0, v_i) independent and H = I - 2 n n^T: a full covariance without a matrix.

    E[z | y] = v/(v + nsr^2) z for y = x/a, so the field is linear with the spectrum known, whatever the reflection.

    Args:
        variances, normal: v and the unit vector n, float64 (d,); n = 0 for no reflection.
    """

    variances: Tensor
    normal: Tensor

    @property
    def can_change_schedule(self) -> bool:
        return True

    def reflect(self, x: Tensor) -> Tensor:
        n = self.normal.to(x)
        return x - 2 * (x @ n)[:, None] * n

    def expectations(self, x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        a, b = self.schedule.ab(t)
        flat = x.flatten(1)
        y, square = flat / per_sample(a, flat), per_sample((b / a) ** 2, flat).to(flat)
        v = self.variances.to(flat)
        data = self.reflect(v / (v + square) * self.reflect(y)).reshape(x.shape)
        return data, (x - per_sample(a, x) * data) / per_sample(b, x)

    def exact(self, data: Tensor) -> Tensor:
        """log N(data; 0, H (v + nsr_min^2) H), by torch's normal distribution in the reflected frame."""
        nsr = float(self.schedule.log_nsr(torch.tensor(self.t_min, dtype=torch.float64)).exp())
        law = torch.distributions.Normal(0.0, (self.variances + nsr**2).sqrt())
        return law.log_prob(self.reflect(data.double().flatten(1))).sum(1)

    def sample(self, n: int) -> Tensor:
        z = torch.randn(n, len(self.variances), generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        return self.reflect(self.variances.sqrt() * z).reshape(n, *self.spec.shape)

    def bits(self, found: Tensor, data: Tensor) -> Tensor:
        """Errors of log-densities, in bits/dim."""
        return (found - self.exact(data)) / (len(self.variances) * math.log(2))


def gaussian(reflected: bool, shape: tuple[int, ...] = SHAPE, levels: int | None = None) -> ReflectedGaussian:
    """Variances from 0.001 to 0.5, as the spectrum of natural images falls; prior as good as exact at nsr = 10^4."""
    d = math.prod(shape)
    variances = torch.logspace(-3, math.log10(0.5), d, dtype=torch.float64)
    normal = torch.randn(d, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    spec = DatasetSpec(
        name="images", shape=shape, levels=levels, num_classes=0, mean=0.0, std=float(variances.mean().sqrt())
    )
    path = dataclasses.replace(SCHEDULES["linear"], t_max=0.9999)
    return ReflectedGaussian(spec=spec, schedule=path, variances=variances, normal=normal / normal.norm() * reflected)


def test_images_in_closed_form() -> None:
    """Without the reflection the Jacobian is diagonal, for which a Rademacher probe is exact: 1e-4 bits/dim is solver.

    The default of ``dfm.log_likelihood`` (tolerances of 1e-5), and the fixed steps that ``dfm nll`` takes at least.
    """
    denoiser = gaussian(reflected=False)
    data = denoiser.sample(4)
    for likelihood, close in ((None, 1e-4), (OdeLikelihood(steps=12), 2e-3)):
        assert float(denoiser.bits(log_likelihood(denoiser, data, likelihood), data).abs().max()) < close


def test_the_exact_divergence_of_an_image() -> None:
    """3,072 products in chunks, of which the last is not full, at one time: the trace of a Jacobian known exactly.

    u is linear in each direction of the reflected frame, with slope (a' a v + b' b)/(a^2 v + b^2).
    """
    denoiser, t = gaussian(reflected=True), torch.tensor(0.3, dtype=torch.float64)
    x = denoiser.sample(1)
    (a, b), (da, db) = denoiser.schedule.ab(t), denoiser.schedule.derivatives(t)
    slopes = (da * a * denoiser.variances + db * b) / (a * a * denoiser.variances + b * b)
    u, trace = Exact(chunk=500)(denoiser.velocity, x, t)
    assert torch.allclose(u, denoiser.velocity(x, t))
    assert float(trace) == pytest.approx(float(slopes.sum()), rel=1e-12)


def test_the_exact_divergence_along_the_path() -> None:
    """Of small images whose Jacobian is full, in chunks of any size, against the closed form."""
    denoiser = gaussian(reflected=True, shape=SMALL)
    data = denoiser.sample(2)
    fine = OdeLikelihood(steps=12, divergence="exact", chunk=100)
    found = fine.log_density(denoiser, data).value
    assert float(denoiser.bits(found, data).abs().max()) < 2e-3
    other = dataclasses.replace(fine, chunk=192).log_density(denoiser, data).value
    assert torch.allclose(found, other, rtol=1e-12)


def test_hutchinson_on_a_full_jacobian_of_images() -> None:
    """16 probes of one image: their mean within 3 standard errors of the closed form, which is above 0."""
    denoiser = gaussian(reflected=True)
    data = denoiser.sample(1)
    found = OdeLikelihood(steps=8).log_density(denoiser, data.expand(16, -1, -1, -1), 0, range(16)).value
    stderr = float(found.std()) / 4
    assert stderr > 0
    assert abs(float(found.mean() - denoiser.exact(data))) < 3 * stderr


def test_integers_of_eight_bits_in_closed_form() -> None:
    """-log p of the dequantised levels plus log q, example by example, in single precision: to 1e-3 bits/dim."""
    denoiser = gaussian(reflected=False, levels=256)
    values = torch.randint(60, 196, (6, *SHAPE), generator=torch.Generator().manual_seed(3)).to(torch.uint8)
    split = Split(values=values, labels=None)
    scoring = Scoring(
        denoiser=denoiser, likelihood=OdeLikelihood(solver="dopri5"), split=split, seed=5, batch_size=4,
        device=torch.device("cpu"),
    )  # fmt: skip
    order = [5, 0, 3]
    found = scoring.all(order).nats
    data, _ = dequantize_examples(
        split.values[order], denoiser.spec, scoring.dequantization, 5, order, 0, scoring.start
    )
    density = -found + math.prod(SHAPE) * math.log(256 / 2)
    assert float(denoiser.bits(density, data).abs().max()) < 1e-3


def test_the_tolerance_ladder(mixture: GaussianMixture) -> None:
    """A tenth of the tolerance, a smaller error of the density: at each rung below 100 times the tolerance.

    The pair controls the error of one step, of which there are some 30 to 100; what is left of the data at the prior's
    end, nsr = 10^6, is below 1e-6 nats.
    """
    denoiser = oracle(mixture, dataclasses.replace(SCHEDULES["linear"], t_max=1 - 1e-6))
    data = mixture.sample(40, torch.Generator().manual_seed(0))[0]
    a = float(denoiser.schedule.ab(torch.tensor(denoiser.t_min, dtype=torch.float64))[0])
    exact = denoiser.log_density(a * data, denoiser.t_min) + 2 * math.log(a)
    errors, costs = [], []
    for power in (2, 3, 4, 5, 6, 7):
        likelihood = OdeLikelihood(solver="dopri5", divergence="exact", rtol=10.0**-power, atol=10.0**-power)
        found = likelihood.log_density(denoiser, data)
        errors.append(float((found.value - exact).square().mean().sqrt()))
        costs.append(found.nfe)
        assert errors[-1] < 100 * 10.0**-power
    assert costs == sorted(costs)
    assert errors[-1] < errors[0] / 1000


def test_the_density_has_the_order_of_its_solver(mixture: GaussianMixture) -> None:
    """Error against a solve at 1e-11: doubling the steps divides it by 2 to the order, or more (rk5: 5.9 here)."""
    denoiser = oracle(mixture, dataclasses.replace(SCHEDULES["linear"], t_min=0.05, t_max=0.95))
    data = mixture.sample(8, torch.Generator().manual_seed(0))[0]
    tight = OdeLikelihood(solver="dopri5", divergence="exact", rtol=1e-11, atol=1e-11)
    exact = tight.log_density(denoiser, data).value
    for solver, order, first in (("euler", 1, 64), ("heun", 2, 64), ("rk4", 4, 32), ("rk5", 5, 24)):
        found = [OdeLikelihood(solver=solver, steps=n, divergence="exact") for n in (first, 2 * first)]
        errors = [float((f.log_density(denoiser, data).value - exact).square().mean().sqrt()) for f in found]
        assert order - 0.3 < math.log2(errors[0] / errors[1]) < order + 1.3, solver

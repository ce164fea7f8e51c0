"""The ODE as a map: closed forms of Gaussians, scipy, measured orders, and the commands encode, decode and compare."""

import dataclasses
import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from scipy.integrate import RK45, solve_ivp
from support.oracles import SCHEDULES, on_every_schedule, oracle
from torch import Tensor

import dfm
from dfm.basics.errors import UserError
from dfm.cli.commands.compare import distances
from dfm.data.dataset import DatasetSpec
from dfm.data.gaussian_mixture import GaussianMixture, mixture_of
from dfm.denoising.denoiser import Denoiser
from dfm.paths.schedule import Schedule
from dfm.sampling.grids import UniformGrid
from dfm.sampling.ode_flow import OdeMap, decode_batch, encode_batch, slerp

C = 0.7
TIGHT = OdeMap(rtol=1e-9, atol=1e-9)


def ends(schedule: Schedule) -> tuple[tuple[float, float], tuple[float, float]]:
    """(a, b) at t_min and at t_max."""
    a, b = schedule.ab(torch.tensor([schedule.t_min, schedule.t_max], dtype=torch.float64))
    return (float(a[0]), float(b[0])), (float(a[1]), float(b[1]))


def points(n: int, d: int = 2) -> Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


@on_every_schedule
@pytest.mark.parametrize("flow", [TIGHT, OdeMap(solver="rk4", steps=256)], ids=["dopri5", "rk4"])
def test_a_gaussians_latent_is_a_scale(flow: OdeMap, schedule: Schedule) -> None:
    """For N(m, C^2 I) the flow keeps the place within the marginal, whose deviation is sqrt(a^2 C^2 + b^2):

    latent = a (data - m)/sqrt(a^2 C^2 + b^2) at t_min, whatever t_max is; and decode is the inverse.
    """
    denoiser, data = oracle(mixture_of([[0.4, 0.4]], C * C), schedule), points(5)
    (a, b), _ = ends(schedule)
    exact = a * (data - 0.4) / math.hypot(a * C, b)
    latent = encode_batch(denoiser, data, flow).x
    assert torch.allclose(latent, exact, rtol=1e-6, atol=1e-6)
    assert torch.allclose(decode_batch(denoiser, exact, flow).x, data, rtol=1e-6, atol=1e-6)


def smooth(name: str, mixture: GaussianMixture) -> Denoiser:
    """The mixture on a stretch of its path where no coefficient is steep."""
    return oracle(mixture, dataclasses.replace(SCHEDULES[name], t_min=0.3, t_max={"edm": 3.0}.get(name, 0.9)))


def scipy_latent(denoiser: Denoiser, data: Tensor) -> Tensor:
    """x at t_max by scipy's DOP853 to 12 digits, over the deviation of x there, less its mean."""
    (a, _), (a_end, b_end) = ends(denoiser.schedule)

    def field(t: float, flat: np.ndarray) -> np.ndarray:
        x = torch.from_numpy(flat).reshape(data.shape)
        return denoiser.velocity(x, torch.tensor(t, dtype=torch.float64)).flatten().numpy()

    span = (denoiser.t_min, denoiser.t_max)
    solution = solve_ivp(field, span, (a * data).flatten().numpy(), method="DOP853", rtol=1e-12, atol=1e-13)
    x = torch.from_numpy(solution.y[:, -1]).reshape(data.shape)
    return (x - a_end * denoiser.spec.mean) / math.hypot(a_end * denoiser.spec.std, b_end)


ORDERS = {"euler": 1, "midpoint": 2, "heun": 2, "rk4": 4}


def slope(steps: list[int], errors: list[float]) -> float:
    """The power of the step in the error."""
    return -math.log(errors[1] / errors[0]) / math.log(steps[1] / steps[0])


@pytest.mark.parametrize("solver", sorted(ORDERS))
@pytest.mark.parametrize("name", ["edm", pytest.param("trig", marks=pytest.mark.wide)])
def test_orders_of_latents_and_of_round_trips(solver: str, name: str, mixture: GaussianMixture) -> None:
    """Latents converge to scipy's at the stated order p.

    A step down undoes the adjoint of a step up, whose leading error is (-1)^p times the same (Hairer, Lubich, Wanner
    2006, theorem II.3.2): for even p the two cancel, and the round trip converges at p + 1. On the way there the slopes
    are off by more (midpoint on edm: 2.34 at 64 steps), so they are taken where they have settled.
    """
    denoiser, data, order = smooth(name, mixture), points(4), ORDERS[solver]
    exact = scipy_latent(denoiser, data)
    steps = [64, 128] if order == 4 else [256, 512]
    errors, trips = [], []
    for n in steps:
        flow = OdeMap(solver=solver, steps=n, grid=UniformGrid())
        latent = encode_batch(denoiser, data, flow).x
        errors.append(float((latent - exact).abs().max()))
        trips.append(float((decode_batch(denoiser, latent, flow).x - data).abs().max()))
    assert slope(steps, errors) == pytest.approx(order, abs=0.25)
    assert slope(steps, trips) == pytest.approx(order + (order % 2 == 0), abs=0.15)


@pytest.mark.parametrize("name", ["edm", "trig"])
def test_rk5_is_scipys_rk45_at_steps_that_are_given(name: str, mixture: GaussianMixture) -> None:
    """Its error constant is so small that rounding is met before the order settles: so, the formula step by step.

    With tolerances that accept everything, and a largest step equal to the first, scipy's pair takes equal steps.
    """
    denoiser, data, n = smooth(name, mixture), points(4), 12
    (a, _), (a_end, b_end) = ends(denoiser.schedule)

    def field(t: float, flat: np.ndarray) -> np.ndarray:
        x = torch.from_numpy(flat).reshape(data.shape)
        return denoiser.velocity(x, torch.tensor(t, dtype=torch.float64)).flatten().numpy()

    h = (denoiser.t_max - denoiser.t_min) / n
    start = (a * data).flatten().numpy()
    solver = RK45(field, denoiser.t_min, start, denoiser.t_max, first_step=h, max_step=h, rtol=1e9, atol=1e9)
    for _ in range(n):
        solver.step()
    theirs = (torch.from_numpy(solver.y).reshape(data.shape) - a_end * denoiser.spec.mean) / math.hypot(
        a_end * denoiser.spec.std, b_end
    )
    ours = encode_batch(denoiser, data, OdeMap(solver="rk5", steps=n, grid=UniformGrid())).x
    assert solver.t == pytest.approx(denoiser.t_max, rel=1e-12)
    assert torch.allclose(ours, theirs, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("name", ["linear", "vp", "edm"])
def test_the_round_trip_error_falls_with_the_tolerance(name: str, mixture: GaussianMixture) -> None:
    """On the whole path, each tolerance a hundredth of the one before: at least ten times less error, and small."""
    denoiser, data = oracle(mixture, SCHEDULES[name]), mixture.sample(20, torch.Generator().manual_seed(0))[0]
    errors = []
    for tolerance in (1e-3, 1e-5, 1e-7, 1e-9):
        flow = OdeMap(rtol=tolerance, atol=tolerance)
        back = decode_batch(denoiser, encode_batch(denoiser, data, flow).x, flow).x
        errors.append(float((back - data).square().mean().sqrt()))
    assert all(fine < coarse / 10 for coarse, fine in pairwise(errors)), errors
    assert errors[-1] < 1e-6


def test_a_mixtures_latents_are_normal(mixture: GaussianMixture) -> None:
    """The flow carries the data's law to the prior's: radii of 4000 latents against those of N(0, I), by quantiles.

    |z|^2/2 is exponential, so its q-quantile is -log(1 - q), with standard error sqrt(q/((1 - q) n)).
    """
    data = mixture.sample(4000, torch.Generator().manual_seed(1))[0]
    latent = encode_batch(oracle(mixture, SCHEDULES["edm"]), data, OdeMap(rtol=1e-4, atol=1e-4)).x
    for q in (0.1, 0.5, 0.9):
        found = float((latent.square().sum(1) / 2).quantile(q))
        assert found == pytest.approx(-math.log(1 - q), abs=4 * math.sqrt(q / (1 - q) / 4000))


@dataclasses.dataclass(frozen=True, kw_only=True)
class ClassDenoiser(Denoiser):
    """Data N(label, C^2): S = a^2 C^2 + b^2, E[data | x] = m + a C^2 (x - a m)/S, E[noise | x] = b (x - a m)/S."""

    def expectations(self, x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        assert self.label is not None
        a, b = (c if c.ndim == 0 else c[:, None] for c in self.schedule.ab(t))
        m = self.label[:, None].to(x)
        offset = (x - a * m) / (a**2 * C**2 + b**2)
        return m + a * C**2 * offset, b * offset


def test_each_sample_keeps_its_class_in_every_batch() -> None:
    """x(t_max) = a_T m + (x(t_min) - a m) sqrt(S_T/S), for batches that cut the labels anywhere."""
    spec = DatasetSpec(name="x", shape=(1,), levels=None, num_classes=3, mean=0.0, std=1.0)
    labels = torch.tensor([0, 2, 1, 1, 2, 0, 2])
    denoiser, data = ClassDenoiser(spec=spec, schedule=SCHEDULES["trig"]).with_labels(labels), points(7, 1)
    (a, b), (a_end, b_end) = ends(denoiser.schedule)
    m, ratio = labels[:, None], math.hypot(a_end * C, b_end) / math.hypot(a * C, b)
    exact = (a_end * m + (a * data - a * m) * ratio) / math.hypot(a_end, b_end)
    for size in (7, 3, 1):
        latent = dfm.encode(denoiser, data, TIGHT, batch_size=size)
        assert torch.allclose(latent, exact, atol=1e-7)
        assert torch.allclose(dfm.decode(denoiser, latent, TIGHT, batch_size=size), data, atol=1e-6)


def test_the_map_in_python(mixture: GaussianMixture) -> None:
    denoiser = oracle(mixture, SCHEDULES["linear"])
    data = points(6)
    latent = dfm.encode(denoiser, data)
    assert torch.equal(latent, dfm.encode(denoiser, data, batch_size=4)), "a sample does not depend on its batch"
    assert torch.allclose(dfm.decode(denoiser, latent), data, atol=1e-3)
    assert dfm.encode(denoiser, data.float()).dtype == torch.float32
    assert dfm.encode(denoiser, data[:0]).shape == (0, 2)
    assert encode_batch(denoiser, data, OdeMap(solver="heun", steps=5)).nfe == 10
    for bad, word in ((data[0], r"allowed: \(n, 2\)"), (data.long(), "dequantize")):
        with pytest.raises(UserError, match=word):
            dfm.encode(denoiser, bad)
        with pytest.raises(UserError, match=word):
            dfm.decode(denoiser, bad)


@pytest.mark.parametrize("share", [0.0, 0.2, 0.5, 1.0])
def test_slerp_on_the_circle_adds_angles(share: float) -> None:
    """From angle p to angle q of less than half a turn: p + share (q - p), row by row."""
    p, q = torch.tensor([0.0, 1.0, -2.0, 0.3]).double(), torch.tensor([3.0, 0.5, -2.0, 0.3 + 1e-9]).double()

    def on_circle(angle: Tensor) -> Tensor:
        return torch.stack([angle.cos(), angle.sin()], 1)

    found = slerp(on_circle(p), on_circle(q), share)
    assert torch.allclose(found, on_circle(p + share * (q - p)), atol=1e-9)


def test_slerp_keeps_norms_and_is_straight_along_a_ray() -> None:
    first, second = (
        torch.randn(5, 1, 8, 8, generator=torch.Generator().manual_seed(k), dtype=torch.float64) for k in (0, 1)
    )
    second *= (first.flatten(1).norm(dim=1) / second.flatten(1).norm(dim=1)).reshape(-1, 1, 1, 1)
    for share in (0.1, 0.5, 0.8):
        made = slerp(first, second, share)
        assert made.shape == first.shape
        assert torch.allclose(made.flatten(1).norm(dim=1), first.flatten(1).norm(dim=1))
        assert torch.allclose(slerp(first, 3 * first, share), first * (1 + 2 * share))


def test_distance_and_angle_of_two_sets() -> None:
    """Coordinates apart by 3 and 4: root mean square sqrt(12.5). Opposite about the common mean: cosine -1."""
    x = torch.tensor([[0.0, 0.0], [6.0, 8.0]])
    assert distances(x, x + torch.tensor([3.0, 4.0]))["rms_mean"] == pytest.approx(math.sqrt(12.5))
    assert distances(x, x.flip(0))["cosine_mean"] == pytest.approx(-1)
    assert distances(x, x) == {"rms_mean": 0.0, "rms_max": 0.0, "cosine_mean": pytest.approx(1)}
    assert distances(x[:1], x[1:])["cosine_mean"] is None


@pytest.mark.parametrize(
    ("bad", "word"),
    [
        ({"solver": "rk6"}, "did you mean 'rk"),
        ({"steps": 0}, "at least 1"),
        ({"rtol": 0.0}, "above 0"),
        ({"atol": -1.0}, "above 0"),
    ],
)
def test_bad_settings_are_refused_in_one_line(bad: dict[str, object], word: str) -> None:
    with pytest.raises(UserError, match=word) as caught:
        OdeMap(**bad)  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)

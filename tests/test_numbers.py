"""Levels, seeds, batches, losses and error bars: small parts with exact answers."""

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from conftest import SCHEDULES
from test_path import PREDICTIONS, STD

from dfm.basics import seeding
from dfm.basics.errors import UserError
from dfm.basics.seeding import Purpose
from dfm.data.dataset import DatasetSpec, Split
from dfm.data.dequantization import UniformDequantization as UniformNoise
from dfm.data.pixel_levels import bits_per_dimension, dequantize, from_eight_bits, quantize, to_eight_bits
from dfm.denoising.network_denoiser import NetworkDenoiser
from dfm.likelihood.error_bars import Audit, report
from dfm.likelihood.ode import OdeLikelihood
from dfm.likelihood.scoring import Scores
from dfm.paths.schedule import Schedule
from dfm.training.batches import Batches
from dfm.training.objectives.densities import UniformDensity
from dfm.training.objectives.loss_weights import UniformWeight
from dfm.training.objectives.regression import Regression

# ---- levels ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("levels", [2, 17, 255, 256])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_quantisation_inverts_dequantisation(levels: int, dtype: torch.dtype) -> None:
    """For every level, wherever in its cell: random places, and near its edges as far as the type can tell."""
    v = torch.arange(levels)
    edge = 4e-5 if dtype == torch.float32 else 1e-12
    for u in (torch.full((levels,), edge), torch.full((levels,), 1 - edge), torch.rand(levels), torch.rand(levels)):
        assert torch.equal(quantize(dequantize(v, levels, u.to(dtype).clamp(edge, 1 - edge)), levels).long(), v)


def log_q(d: int, levels: int) -> float:
    """What uniform dequantisation adds to -log p of an example of d numbers."""
    values, u = torch.zeros(1, d, dtype=torch.uint8), torch.zeros(1, d, dtype=torch.float64)
    return float(UniformNoise().draw(values, levels, u, -4.0)[1])


def test_bits_of_the_uniform_density_are_log2_of_the_levels() -> None:
    """A density of 2^-d on [-1, 1]^d makes every level equally likely: log2 K bits per dimension, whatever d."""
    for levels in (2, 17, 256):
        for d in (1, 64, 3072):
            nats = log_q(d, levels) + d * math.log(2.0)
            assert float(bits_per_dimension(nats, d)) == pytest.approx(math.log2(levels), rel=1e-12)


def test_the_constant_for_bytes_is_seven_bits() -> None:
    """A density of one on [-1, 1]: the 7 that public tools add to the bits of 8-bit data."""
    assert float(bits_per_dimension(log_q(10, 256), 10)) == pytest.approx(7.0)


def test_eight_bits_are_one_to_one() -> None:
    for levels in (2, 17, 100, 256):
        stored = to_eight_bits(torch.arange(levels), levels)
        assert len(set(stored.tolist())) == levels
        assert (int(stored[0]), int(stored[-1])) == (0, 255)
        assert torch.equal(from_eight_bits(stored, levels), torch.arange(levels, dtype=torch.uint8))
    with pytest.raises(UserError, match="a pixel of 15; allowed: 17 levels"):
        from_eight_bits(torch.tensor([[0, 16], [15, 255]], dtype=torch.uint8), 17)


# ---- seeds -----------------------------------------------------------------------------------------------------------


def test_draws_depend_on_their_arguments_alone() -> None:
    draw = seeding.normal(3, [5, 1, 9], (4,), Purpose.STEP, 2)
    assert torch.equal(draw[1], seeding.normal(3, [1], (4,), Purpose.STEP, 2)[0])
    others = [
        seeding.normal(4, [1], (4,), Purpose.STEP, 2),
        seeding.normal(3, [2], (4,), Purpose.STEP, 2),
        seeding.normal(3, [1], (4,), Purpose.START, 2),
        seeding.normal(3, [1], (4,), Purpose.STEP, 3),
    ]
    assert all(not torch.equal(other[0], draw[1]) for other in others)


def test_each_row_is_a_fresh_philox_of_its_own() -> None:
    """By NumPy's generator, made anew with key (seed, index) and counter (0, part, step, purpose) for each."""
    shapes, last = {"normal": (3,), "uniform": (5,), "rademacher": (7,)}, 2**63 - 1
    for name, shape in shapes.items():
        found = getattr(seeding, name)(last, [5, 0, 2**40], shape, Purpose.PROBE, 6)
        for row, index in zip(found, [5, 0, 2**40], strict=True):
            counter = np.array([0, 0, 6, 3], dtype=np.uint64)
            own = np.random.Generator(np.random.Philox(key=np.array([last, index], dtype=np.uint64), counter=counter))
            one = {
                "normal": lambda g: g.standard_normal(3), "uniform": lambda g: g.random(5),
                "rademacher": lambda g: g.integers(0, 2, 7) * 2.0 - 1,
            }[name](own)  # fmt: skip
            assert np.array_equal(row.numpy(), one)


def test_draws_have_their_moments() -> None:
    """20,000 numbers over many indices: mean and variance within 4.5 standard errors, neighbours uncorrelated."""
    for kind, mean, variance in ((seeding.normal, 0, 1), (seeding.rademacher, 0, 1), (seeding.uniform, 0.5, 1 / 12)):
        x = kind(0, range(2000), (10,), Purpose.PROBE)
        assert abs(float(x.mean()) - mean) < 4.5 * math.sqrt(variance / x.numel())
        assert float(x.var()) == pytest.approx(variance, rel=4.5 * math.sqrt(2 / x.numel()))
        assert abs(float(torch.corrcoef(x[:2].repeat(1, 1))[0, 1])) < 1
        neighbours = torch.stack([x[:-1].flatten(), x[1:].flatten()])
        assert abs(float(torch.corrcoef(neighbours)[0, 1])) < 4.5 / math.sqrt(x.numel())


@pytest.mark.parametrize("seed", [-1, 2**63])
def test_seeds_out_of_range_are_refused(seed: int) -> None:
    with pytest.raises(UserError, match="seed="):
        seeding.stream(seed, 0, Purpose.START)


def test_a_lent_seed_is_given_back() -> None:
    torch.manual_seed(1)
    expected = torch.rand(2)
    torch.manual_seed(1)
    with seeding.seeded(torch.device("cpu"), 0, 7, 0, Purpose.DROPOUT):
        inside = torch.rand(3)
    assert torch.equal(torch.rand(2), expected)
    with seeding.seeded(torch.device("cpu"), 0, 7, 0, Purpose.DROPOUT):
        assert torch.equal(torch.rand(3), inside)


# ---- batches ---------------------------------------------------------------------------------------------------------


def numbered(n: int) -> Split:
    return Split(values=torch.arange(n, dtype=torch.float32)[:, None], labels=torch.arange(n))


@pytest.mark.parametrize(("n", "size"), [(10, 3), (10, 10), (7, 16), (1, 4)])
def test_every_epoch_is_a_permutation(n: int, size: int) -> None:
    batches = Batches(numbered(n), size, 0)
    stream = torch.cat([batches.indices(k) for k in range(-(-3 * n // size))])[: 3 * n]
    epochs = stream.reshape(3, n)
    assert all(sorted(epoch.tolist()) == list(range(n)) for epoch in epochs)
    if n == 10:
        assert len({tuple(epoch.tolist()) for epoch in epochs}) == 3


@pytest.mark.parametrize("workers", [0, 1, 3])
def test_batch_k_does_not_depend_on_how_it_was_reached(workers: int) -> None:
    stream = Batches(numbered(10), 4, 5).stream(6, workers)
    found = [next(stream) for _ in range(20)]
    stream.close()
    for k, batch in enumerate(found, start=6):
        alone = Batches(numbered(10), 4, 5).batch(k)
        assert torch.equal(batch.values, alone.values)
        assert torch.equal(batch.labels, alone.labels)


def test_orders_do_not_pile_up() -> None:
    batches = Batches(numbered(4), 4, 0)
    for k in range(1000):
        batches.indices(k)
    assert len(batches._orders) <= 3


# ---- losses ----------------------------------------------------------------------------------------------------------


def posterior_network(schedule: Schedule, prediction: Any, mean: float) -> Any:
    """The exact network for data N(mean, STD^2) per coordinate, written out for one Gaussian."""

    def network(x: torch.Tensor, c_time: torch.Tensor, label: torch.Tensor | None) -> torch.Tensor:
        t = schedule.time_of_log_nsr(c_time.double())
        (a, b), (p, q) = schedule.ab(t), prediction.row(schedule, t, STD)
        spread = a**2 * STD**2 + b**2
        x_t = x * spread.sqrt()[:, None]
        data = mean + (a * STD**2 / spread)[:, None] * (x_t - a[:, None] * mean)
        noise = (x_t - a[:, None] * data) / b[:, None]
        return (p[:, None] * data + q[:, None] * noise) / prediction.scale(schedule, t, STD)[:, None]

    return network


@pytest.mark.parametrize("name", sorted(PREDICTIONS))
def test_the_loss_of_the_exact_network_is_the_bayes_risk(name: str, schedule: Schedule) -> None:
    """Var(p data + q noise | x_t) = (det)^2 S^2/(a^2 S^2 + b^2) for one Gaussian; within 4.5 standard errors."""
    prediction, n, mean = PREDICTIONS[name], 4000, 0.3
    spec = DatasetSpec(name="g", shape=(4,), levels=None, num_classes=0, mean=mean, std=STD)
    network = posterior_network(schedule, prediction, mean)
    denoiser = NetworkDenoiser(
        spec=spec, schedule=schedule, trained_schedule=schedule, prediction=prediction, network=network
    )
    objective = Regression(density=UniformDensity(), weight=UniformWeight())
    generator = torch.Generator().manual_seed(2)
    for level in (-2.0, 0.0, 1.5):
        t = schedule.time_of_log_nsr(torch.full((n,), level, dtype=torch.float64))
        data = mean + STD * torch.randn(n, 4, dtype=torch.float64, generator=generator)
        noise = torch.randn(n, 4, dtype=torch.float64, generator=generator)
        losses = objective.at(denoiser, data, noise, t)
        assert losses.shape == (n,)
        (a, b), (p, q) = schedule.ab(t[0]), prediction.row(schedule, t[0], STD)
        risk = float((a * q - b * p) ** 2 * STD**2 / (a**2 * STD**2 + b**2))
        assert float(losses.mean()) == pytest.approx(risk, abs=4.5 * float(losses.std()) / math.sqrt(n))


# ---- error bars ------------------------------------------------------------------------------------------------------

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


def test_schedules_are_all_here() -> None:
    """The list that these tests run over is the list of presets."""
    from dfm.cli.command_line import config_dir

    for kind, names in (("schedule", SCHEDULES), ("prediction", PREDICTIONS)):
        assert sorted(p.stem for p in (config_dir() / kind).glob("*.yaml")) == sorted(names)

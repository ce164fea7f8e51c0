"""The parts of a standard error, from scores whose parts are known; when a figure is not to be trusted."""

import math
from dataclasses import replace

import pytest
import torch

from dfm.data.dataset import DatasetSpec
from dfm.likelihood.error_bars import Audit, report
from dfm.likelihood.ode import OdeLikelihood
from dfm.likelihood.scoring import Scores

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

"""Every example once and alike, however the work is divided; steps chosen by a pilot; refusals that are honest."""

import dataclasses
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from support.oracles import SCHEDULES
from torch import Tensor

from dfm.basics.processes import World
from dfm.cli.commands.nll.estimates import ScoringJob, score
from dfm.data.dataset import DatasetSpec, Split
from dfm.data.gaussian_mixture import mixture_of
from dfm.data.numbers.dequantization import (
    ImportanceDequantization,
    TruncatedNormalDequantization,
    UniformDequantization,
)
from dfm.data.numbers.pixel_levels import quantize
from dfm.denoising.exact import MixtureDenoiser
from dfm.denoising.network_denoiser import NetworkDenoiser
from dfm.denoising.predictions import Velocity
from dfm.likelihood.error_bars import choose_steps
from dfm.likelihood.estimator import Budget, Likelihood
from dfm.likelihood.evidence_bound import EvidenceBound
from dfm.likelihood.ode import LADDER, OdeLikelihood
from dfm.likelihood.scoring import NatsByLevel, Scoring
from dfm.models.unet import UNet
from dfm.sampling.grids import UniformGrid as UniformTimes

CPU = torch.device("cpu")


def network() -> NetworkDenoiser:
    """A small U-Net with random weights, of 8x8 images with 17 levels."""
    torch.manual_seed(1)
    spec = DatasetSpec(name="x", shape=(1, 8, 8), levels=17, num_classes=0, mean=0.0, std=0.5)
    options = {"channels": 8, "channel_multipliers": (1, 2), "blocks_per_level": 1, "groups": 4, "zero_init": False}
    net = UNet(shape=(1, 8, 8), **options).eval()
    linear = SCHEDULES["linear"]
    return NetworkDenoiser(spec=spec, schedule=linear, trained_schedule=linear, prediction=Velocity(), network=net)


def images(n: int) -> Split:
    values = torch.randint(0, 17, (n, 1, 8, 8), generator=torch.Generator().manual_seed(0))
    return Split(values=values.to(torch.uint8), labels=None)


ESTIMATORS: dict[
    str, tuple[Likelihood, UniformDequantization | TruncatedNormalDequantization | ImportanceDequantization]
] = {
    "ode": (OdeLikelihood(steps=2), UniformDequantization()),
    "ode, truncated": (OdeLikelihood(steps=2, probes=2), TruncatedNormalDequantization()),
    "ode, importance": (OdeLikelihood(steps=1), ImportanceDequantization(samples=3)),
    "exact": (OdeLikelihood(solver="heun", steps=1, divergence="exact"), UniformDequantization()),
    "bound": (EvidenceBound(steps=5, decoder="gaussian"), UniformDequantization()),
    "discrete bound": (EvidenceBound(steps=5, time="discrete", decoder="vdm"), UniformDequantization()),
}


SLOW = ("ode", "ode, importance", "exact")


@pytest.mark.parametrize("name", [pytest.param(n, marks=pytest.mark.wide if n in SLOW else ()) for n in ESTIMATORS])
def test_a_value_depends_on_its_example_alone(name: str) -> None:
    """Order, batch size and the number of processes change no value by more than 1e-5 of it; nothing is left out."""
    likelihood, noise = ESTIMATORS[name]
    scoring = Scoring(
        denoiser=network(), likelihood=likelihood, split=images(7), seed=3, batch_size=7, device=CPU,
        dequantization=noise,
    )  # fmt: skip
    whole = scoring.all(range(7))
    assert torch.equal(whole.nats, scoring.all(range(7)).nats), "the same again, to the last bit"
    for size in (1, 3):
        parts = dataclasses.replace(scoring, batch_size=size)
        assert torch.allclose(parts.all(range(7)).nats, whole.nats, rtol=1e-5, atol=0)
    order = [6, 2, 5, 0]
    assert torch.allclose(scoring.all(order).nats, whole.nats[order], rtol=1e-5, atol=0)
    assert float((dataclasses.replace(scoring, seed=4).all(range(7)).nats - whole.nats).abs().min()) > 0
    shared = dataclasses.replace(scoring, batch_size=2)
    found = {}
    for rank in range(3):
        for scored in dataclasses.replace(shared, world=World(rank, 3)).batches(range(7), 0, 0, False):
            assert not set(scored.indices) & set(found), "an example that two processes score"
            found.update(zip(scored.indices, scored.nats.tolist(), strict=True))
    assert torch.allclose(torch.tensor([found[i] for i in range(7)], dtype=torch.float64), whole.nats, rtol=1e-5)


def test_other_probes_and_other_noise_are_other_draws() -> None:
    scoring = Scoring(
        denoiser=network(), likelihood=OdeLikelihood(steps=1), split=images(4), seed=0, batch_size=4, device=CPU
    )
    base, probe, noise = (scoring.all(range(4), probe=p, noise=n).nats for p, n in ((0, 0), (1, 0), (0, 1)))
    assert float((probe - base).abs().min()) > 0
    assert float((noise - base).abs().min()) > 0


def small_images(std: float, n: int = 64) -> tuple[MixtureDenoiser, Split]:
    """4x4 images of 17 levels round 12, and a Gaussian of that place with deviation ``std`` as their model."""
    centre = 2 * 12.5 / 17 - 1
    spec = DatasetSpec(name="levels", shape=(1, 4, 4), levels=17, num_classes=0, mean=centre, std=std)
    model = MixtureDenoiser(spec=spec, schedule=SCHEDULES["linear"], mixture=mixture_of([[centre] * 16], std**2))
    draws = torch.randn(n, 1, 4, 4, generator=torch.Generator().manual_seed(2)) * std * 8.5 + 12
    return model, Split(values=draws.round().clamp(0, 16).to(torch.uint8), labels=None)


def on_levels(likelihood: Likelihood, std: float) -> Scoring:
    model, split = small_images(std)
    return Scoring(denoiser=model, likelihood=likelihood, split=split, seed=0, batch_size=64, device=CPU)


def test_the_pilot_takes_the_fewest_steps_that_do() -> None:
    """A Gaussian stands still on the path of unit variance, so the first rung does; with no hope, the last is taken."""
    subset = list(range(16))
    easy = choose_steps(on_levels(OdeLikelihood(), 0.3), subset).likelihood
    assert isinstance(easy, OdeLikelihood)
    assert easy.steps == LADDER[0]
    hopeless = choose_steps(
        on_levels(OdeLikelihood(solver="euler", path="own", tolerance=1e-9), 0.3), subset
    ).likelihood
    assert isinstance(hopeless, OdeLikelihood)
    assert hopeless.steps == LADDER[-1]
    fixed = on_levels(OdeLikelihood(steps=3), 0.3)
    assert choose_steps(fixed, subset) is fixed, "steps that are given stand"


def test_what_the_pilot_promises_holds() -> None:
    """Two modes, against a solve at 1e-8: the error of an example is the tolerance asked, root mean square, or less.

    The error is estimated from twice the steps, so there is some room.
    """
    model, _ = small_images(0.3)
    peaks = mixture_of([[-0.4] * 16, [0.3] * 16], [0.02, 0.05], [0.5, 0.5])
    model = dataclasses.replace(model, mixture=peaks)
    data = peaks.sample(64, torch.Generator().manual_seed(3))[0].reshape(64, 1, 4, 4)
    split = Split(values=quantize(data, 17), labels=None)
    for tolerance in (0.02, 0.002):
        likelihood = OdeLikelihood(solver="heun", tolerance=tolerance)
        scoring = Scoring(denoiser=model, likelihood=likelihood, split=split, seed=0, batch_size=64, device=CPU)
        chosen = choose_steps(scoring, list(range(64)))
        tight = dataclasses.replace(scoring, likelihood=OdeLikelihood(solver="dopri5", rtol=1e-8, atol=1e-8))
        gap = (chosen.all(range(64)).nats - tight.all(range(64)).nats) / (16 * math.log(2))
        assert float(gap.square().mean().sqrt()) < 1.1 * tolerance


def exam(model: MixtureDenoiser, split: Split, **change: object) -> ScoringJob:
    given = ScoringJob(
        denoiser=model, split=split, own=UniformDequantization(), chosen=None, n=len(split), seed=0, batch_size=64,
        audit=32, device=CPU, facts={"split": "test"}, world=World(),
    )  # fmt: skip
    return dataclasses.replace(given, **change)


EULER = OdeLikelihood(solver="euler", steps=8, path="own", grid=UniformTimes())


def result_of(wanted: ScoringJob, likelihood: Likelihood, directory: Path) -> dict:
    directory.mkdir()
    score(wanted, likelihood, directory)
    return json.loads((directory / "nll.json").read_text())


def test_eight_euler_steps_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """On a model that is exact: the default converges, eight Euler steps do not, and the line says what to change."""
    model, split = small_images(0.05)
    default = result_of(exam(model, split), OdeLikelihood(), tmp_path / "default")
    assert default["converged"] is True
    assert default["solver_error"] < 0.005
    assert "not converged" not in capsys.readouterr().err
    euler = result_of(exam(model, split), EULER, tmp_path / "euler")
    assert euler["converged"] is False
    out = capsys.readouterr().err
    assert "not converged: more steps change the result" in out
    assert "try likelihood.steps=null" in out
    off = abs(euler["bits_per_dim"] - default["bits_per_dim"])
    assert off > 3 * default["stderr"], "it was right to refuse"


def test_negative_bits_are_an_error_of_the_setting(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A model far narrower than a cell is very improbable on other levels; eight Euler steps make up the contrary."""
    model, split = small_images(0.005)
    assert result_of(exam(model, split), OdeLikelihood(), tmp_path / "default")["bits_per_dim"] > math.log2(17)
    found = result_of(exam(model, split), EULER, tmp_path / "euler")
    assert found["bits_per_dim"] < 0
    assert found["converged"] is False
    assert "error of the setting" in capsys.readouterr().err


def test_real_images_have_nats_in_their_unit(tmp_path: Path) -> None:
    """N(0, 1) noise of an image's shape in another unit: the entropy of its normal law, with the log of the unit."""
    model, _ = small_images(1.0)
    unit, moved = (3.0, 50.0)
    spec = dataclasses.replace(model.spec, levels=None, shift=(moved,), scale=(unit,))
    floats = dataclasses.replace(model, spec=spec)
    values = moved + unit * torch.randn(20, *spec.shape, generator=torch.Generator().manual_seed(0))
    found = result_of(exam(floats, Split(values=values, labels=None)), OdeLikelihood(), tmp_path / "unit")  # type: ignore[arg-type]
    plain = dataclasses.replace(floats, spec=dataclasses.replace(spec, shift=(), scale=()))
    before = result_of(
        exam(plain, Split(values=(values - moved) / unit, labels=None)), OdeLikelihood(), tmp_path / "plain"
    )  # type: ignore[arg-type]
    assert (found["unit"], found["bits_per_dim"]) == ("nats", None)
    assert found["nats"] == pytest.approx(before["nats"] + math.prod(spec.shape) * math.log(unit), abs=1e-4)


def test_the_rows_of_a_bound_add_up(tmp_path: Path) -> None:
    """levels.csv: decoder, levels in increasing noise without a gap, prior, dequantisation; their sum is the figure."""
    model, split = small_images(0.3)
    score(exam(model, split), EvidenceBound(steps=40), tmp_path)
    result = json.loads((tmp_path / "nll.json").read_text())
    rows = [row.split(",") for row in (tmp_path / "levels.csv").read_text().splitlines()]
    assert rows[0] == ["part", "log_nsr_low", "log_nsr_high", "nats", "stderr_nats", "bits_per_dim"]
    assert [row[0] for row in rows[1:]] == ["decoder", *["level"] * 40, "prior", "dequantization"]
    assert sum(float(row[3]) for row in rows[1:]) == pytest.approx(result["nats"], rel=1e-8)
    assert sum(float(row[5]) for row in rows[1:]) == pytest.approx(result["bits_per_dim"], rel=1e-6)
    edges = np.array([[float(row[1]), float(row[2])] for row in rows[2:42]])
    assert np.allclose(edges[1:, 0], edges[:-1, 1])
    assert (edges[:, 1] > edges[:, 0]).all()
    assert (tmp_path / "levels.png").stat().st_size > 0


@pytest.mark.wide
def test_memory_does_not_grow_with_the_number_of_examples() -> None:
    """What a pass keeps is one number an example: no tensor as large as a batch is alive between batches."""
    import gc

    def alive() -> int:
        gc.collect()
        return sum(1 for o in gc.get_objects() if issubclass(type(o), Tensor) and o.numel() >= 4 * 64)

    scoring = Scoring(
        denoiser=network(), likelihood=OdeLikelihood(steps=1), split=images(40), seed=0, batch_size=4, device=CPU
    )
    counts = [alive() for _ in scoring.batches(range(40), 0, 0, False)]
    assert len(counts) == 10
    assert counts[-1] <= counts[1]


def test_the_error_of_a_part_that_hardly_varies() -> None:
    """Parts near a million that differ in the sixth decimal, merged from uneven batches, against NumPy."""
    values = 1e6 + 1e-6 * np.random.default_rng(0).normal(size=(37, 4))
    parts = [
        NatsByLevel.of(
            Budget(edges=torch.zeros(3), bins=b[:, 1:3], prior=b[:, 3], decoder=b[:, 0]), torch.zeros(len(b))
        )
        for b in torch.from_numpy(values).split([1, 20, 7, 9])
    ]
    found = sum(parts[1:], parts[0])
    assert found.count == 37
    assert found.stderr[:4].numpy() == pytest.approx(values.std(0, ddof=1) / math.sqrt(37), rel=1e-3)
    assert parts[0].stderr.tolist() == [0.0] * 5

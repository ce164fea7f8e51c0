"""Data far from zero: what a network sees and learns has size one, and the formulas stay exact.

Of data N(m, S^2) the rows know everything: the loss of an output of zero is the variance of the target, which is 1.
"""

import math
from dataclasses import replace

import pytest
import torch
from support.cli import Command
from support.oracles import PREDICTIONS, SCHEDULES
from torch import Tensor, nn

import dfm
from dfm.data.dataset import DatasetSpec
from dfm.data.published.digits import Digits
from dfm.data.toys import Mixture
from dfm.denoising.exact import Oracle
from dfm.denoising.flow_map import flow_map
from dfm.denoising.network_denoiser import NetworkDenoiser
from dfm.denoising.noisy_classifier import NoisyClassifier
from dfm.denoising.predictions import Data, Edm, Prediction, Velocity
from dfm.paths.schedule import Schedule
from dfm.runs import checkpoint
from dfm.runs.directory import checkpoints
from dfm.runs.metrics import read_metrics
from dfm.training.few_steps.meanflow import MeanFlow
from dfm.training.objectives.densities import UniformDensity
from dfm.training.objectives.loss_weights import UniformWeight
from dfm.training.objectives.regression import Regression

MEAN, STD, N = -0.99, 0.01, 4096
FAR = DatasetSpec(name="dark", shape=(1,), levels=None, num_classes=0, mean=MEAN, std=STD, centre=MEAN)


class Nothing(nn.Module):
    """An output of zero; it keeps its last input."""

    def forward(self, x: Tensor, c_time: Tensor, label: Tensor | None = None, c_end: Tensor | None = None) -> Tensor:
        self.seen = x
        return torch.zeros_like(x)


def of(prediction: Prediction, schedule: Schedule, spec: DatasetSpec = FAR) -> NetworkDenoiser:
    return NetworkDenoiser(
        spec=spec, schedule=schedule, trained_schedule=schedule, prediction=prediction, network=Nothing()
    )  # fmt: skip


def points(n: int = N) -> Tensor:
    return MEAN + STD * torch.randn(n, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("name", sorted(PREDICTIONS))
def test_input_and_target_have_size_one(name: str, schedule: Schedule) -> None:
    """For every row on every schedule; with the mean left in, a mean square of up to 10,000."""
    model, objective = of(PREDICTIONS[name], schedule), Regression(density=UniformDensity(), weight=UniformWeight())
    generator = torch.Generator().manual_seed(2)
    t = UniformDensity().time((torch.arange(N, dtype=torch.float64) + 0.5) / N, schedule)
    noise = torch.randn(N, 1, dtype=torch.float64, generator=generator)
    error = objective.errors_at(model, points(), noise, t) / model.scale(t) ** 2
    assert float(error.mean()) == pytest.approx(1, abs=0.12)
    assert float(model.network.seen.square().mean()) == pytest.approx(1, abs=0.12)  # type: ignore[attr-defined]


@pytest.mark.parametrize("path", ["edm", "linear", "vp", "ve"])
def test_edms_row_knows_a_gaussian(path: str) -> None:
    """E[data | x] = m + a S^2 (x - a m)/(a^2 S^2 + b^2), which is c_skip's part: the network has nothing to add."""
    schedule = SCHEDULES[path]
    t = torch.linspace(schedule.t_min, schedule.t_max, 9, dtype=torch.float64)
    a, b = (c[:, None] for c in schedule.ab(t))
    x = a * MEAN + torch.hypot(a * STD, b) * torch.linspace(-2, 2, 9, dtype=torch.float64)[:, None]
    exact = MEAN + a * STD**2 * (x - a * MEAN) / (a**2 * STD**2 + b**2)
    model = of(Edm(), schedule)
    assert torch.allclose(model.data(x, t), exact, rtol=1e-9, atol=1e-12)
    assert torch.allclose(model.noise(x, t), b * (x - a * MEAN) / (a**2 * STD**2 + b**2), rtol=1e-9, atol=1e-12)
    old = of(Edm(), schedule, replace(FAR, centre=0.0)).data(x, t)
    assert torch.allclose(old, a * STD**2 * x / (a**2 * STD**2 + b**2)), "a checkpoint of dfm 0.1 keeps its meaning"


def test_an_oracle_is_exact_for_points_far_away() -> None:
    data = Mixture(means=[[50.0, 51.0], [52.0, 49.0]], covariances=0.1, n_train=2000)
    assert data.spec.centre == data.spec.mean > 10 * data.spec.std
    network = Oracle(
        shape=(2,), std=data.spec.std, means=data.means, covariances=0.1, centre=data.spec.centre
    )  # fmt: skip
    schedule = SCHEDULES["linear"]
    model = replace(of(Data(), schedule, replace(data.spec, num_classes=0)), network=network)
    x, t = torch.tensor([[20.0, 21.0]], dtype=torch.float64), torch.tensor(0.6, dtype=torch.float64)
    exact = data.mixture.denoise(x / 0.4, torch.tensor([1.5], dtype=torch.float64))
    assert torch.allclose(model.data(x, t), exact, atol=1e-9)


def test_a_mean_flow_far_away_is_that_of_the_centred_data() -> None:
    """One jump of any network leads to a_s m more than that of the same network on data about 0; so does the loss."""
    torch.manual_seed(0)
    network = nn.Linear(1, 1).double()

    class Both(nn.Module):
        def forward(self, x: Tensor, c_time: Tensor, label: Tensor | None, c_end: Tensor) -> Tensor:
            return network(x) * (1 + c_time[:, None]) + c_end[:, None]

    path = SCHEDULES["vp"]
    near = replace(FAR, mean=0.0, centre=0.0)
    there, here = (flow_map(replace(of(Velocity(), path, spec), network=Both())) for spec in (FAR, near))
    x = torch.randn(6, 1, dtype=torch.float64)
    t, s = (torch.tensor(v, dtype=torch.float64) for v in (0.9, 0.4))
    moved = there.jump(x + path.ab(t)[0] * MEAN, t, s)
    assert torch.allclose(moved, here.jump(x, t, s) + path.ab(s)[0] * MEAN, atol=1e-12)
    end = there.velocity(x + path.ab(t)[0] * MEAN, t.expand(6))
    assert torch.allclose(end, here.velocity(x, t.expand(6)) + path.derivatives(t)[0] * MEAN, atol=1e-12)
    assert torch.allclose(there.mean_velocity(x, t.expand(6), t.expand(6)), there.velocity(x, t.expand(6)), atol=1e-12)
    data, objective = STD * torch.randn(32, 1, dtype=torch.float64), MeanFlow(density=UniformDensity(), share=0.5)
    losses = [
        objective.loss(model, data + spec.centre, torch.Generator().manual_seed(0)).error
        for model, spec in ((there, FAR), (here, near))
    ]
    assert torch.allclose(*losses, rtol=1e-9)


def test_a_classifier_sees_data_of_size_one() -> None:
    model = NoisyClassifier(spec=FAR, schedule=SCHEDULES["edm"], trained_schedule=SCHEDULES["edm"], network=Nothing())
    x, _ = model.inputs(points(), torch.tensor(0.01, dtype=torch.float64))
    assert float(x.square().mean()) == pytest.approx(0.5, abs=0.05)


FAR_RUN = (
    "dataset=mixture", "dataset.means=[[30,30]]", "dataset.covariances=1.0", "dataset.weights=null", "model=mlp",
    "model.width=8", "model.depth=1", "dataset.n_train=64", "samples.n=2", "nll.n=0", "logger=none",
    "trainer.log_every=1", "trainer.lr_schedule=constant",
)  # fmt: skip


@pytest.mark.parametrize("objective", ["flow_matching", "meanflow", pytest.param("reflow", marks=pytest.mark.wide)])
def test_initial_weights_see_the_data_as_before(
    objective: str, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those of dfm 0.1 are a function of x_t itself: before its first step a student is its teacher, on every input."""
    with monkeypatch.context() as patch:
        patch.setattr("dfm.data.dataset.FAR", math.inf)
        old = command("train", *FAR_RUN, "trainer.max_steps=2").run
    words = (*FAR_RUN, f"objective={objective}", "trainer.max_steps=0", f"init={old}")
    begun = command("train", *words).run
    teacher, student = (dfm.load(run) for run in (old, begun))
    x = 30 + torch.randn(4, 2, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(student.velocity(x, 0.5), teacher.velocity(x, 0.5), rtol=1e-4)
    if objective == "flow_matching":
        elsewhere = command("train", *words, "dataset.means=[[10,10]]").run
        assert dfm.load(elsewhere).spec.centre == pytest.approx(10, abs=0.5), "other data have their own centre"


def test_initial_weights_see_columns_in_the_scale_they_know(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    """dfm 0.1 scaled no column: before its first step the run from such weights is that model, on every input."""
    words = (*FAR_RUN, "dataset.means=[[0,0]]", "dataset.covariances=[[1.0,1e6]]", "trainer.max_steps=0")
    with monkeypatch.context() as patch:
        patch.setattr("dfm.data.numbers.units.UNLIKE", math.inf)
        old = command("train", *words, "trainer.max_steps=1").run
    before, after, fresh = (
        dfm.load(run) for run in (old, command("train", *words, f"init={old}").run, command("train", *words).run)
    )
    assert (before.spec.scale, after.spec.scale, len(fresh.spec.scale)) == ((), (), 2)
    x = 100 * torch.randn(4, 2, generator=torch.Generator().manual_seed(0))
    assert torch.equal(after.velocity(x, 0.5), before.velocity(x, 0.5))
    other = (*words, "dataset.covariances=[[1.0,1e8]]", f"init={old}")
    assert len(dfm.load(command("train", *other).run).spec.scale) == 2, "other data have their own scale"


def test_an_old_run_on_such_data_goes_on_as_it_began(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    words = FAR_RUN
    with monkeypatch.context() as patch:
        patch.setattr("dfm.data.dataset.FAR", math.inf)  # as dfm 0.1, which wrote no centre
        whole = command("train", *words, "trainer.max_steps=4", "hydra.run.dir=whole").run
        run = command("train", *words, "trainer.max_steps=2", "hydra.run.dir=halved").run
    command("train", f"resume={run}", "trainer.max_steps=4")
    losses = [[line["loss"] for line in read_metrics(r / "metrics.jsonl") if "loss" in line] for r in (whole, run)]
    assert losses[0] == losses[1]
    assert checkpoint.read(checkpoints(run)[0]).spec.centre == 0.0
    fresh = command("train", *words, "trainer.max_steps=1", "hydra.run.dir=fresh").run
    assert checkpoint.read(checkpoints(fresh)[0]).spec.centre == pytest.approx(30, abs=0.5)


def test_ordinary_data_stay_where_they_are() -> None:
    """So no figure of theirs has changed; of nearly black pictures the mean is taken out."""
    assert Digits().spec.centre == 0.0
    dark = Mixture(means=[[3.0, 3.0]], covariances=1.0, n_train=500)
    assert dark.spec.centre == dark.spec.mean
    assert Mixture(means=[[1.0, 1.0]], covariances=1.0, n_train=500).spec.centre == 0.0

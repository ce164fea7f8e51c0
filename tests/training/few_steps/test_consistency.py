"""Consistency models: the pacings by hand, the closed form of Gaussian data, the sampler, and the commands."""

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from support.cli import TINY, Command
from support.oracles import SCHEDULES
from torch import Tensor, nn

from dfm.basics.errors import UserError
from dfm.data.dataset import DatasetSpec, Split
from dfm.denoising.denoiser import Denoiser, EvaluationCount
from dfm.denoising.network_denoiser import NetworkDenoiser
from dfm.denoising.predictions import Edm, Velocity
from dfm.models.mlp import MLP
from dfm.sampling.samplers import JumpSampler, start
from dfm.training.few_steps.consistency import Consistency, DoublingPacing, EasyPacing
from dfm.training.objectives.densities import LogNormalDensity, LogNsrDensity
from dfm.training.trainer import Trainer, TrainerConfig

MEAN, STD = 0.4, 0.5


def test_easy_pacing_by_hand() -> None:
    """Stage s of 8: lower = sigma (1 - (1 + 8/(1 + e^sigma))/2^(s + 1)), the data where that is negative."""
    sigma = torch.tensor([0.01, 1.0, 10.0], dtype=torch.float64)
    for progress, stage in ((0.0, 0), (0.124, 0), (0.126, 1), (0.5, 4), (1.0, 7)):
        upper, lower = EasyPacing().pair(sigma, progress)
        by_hand = [max(0.0, v * (1 - (1 + 8 / (1 + math.exp(v))) / 2 ** (stage + 1))) for v in sigma.tolist()]
        assert torch.equal(upper, sigma)
        assert lower.tolist() == pytest.approx(by_hand)
    assert float(EasyPacing().pair(sigma, 0.0)[1][0]) == 0.0, "at first small noise is compared with the data"


def test_doubling_pacing_by_hand() -> None:
    """10, 20, ..., 1280 levels and one, each as long as the others: eight stages."""
    pacing = DoublingPacing()
    found = [pacing.count((k + 0.5) / 8) for k in range(8)]
    assert found == [11, 21, 41, 81, 161, 321, 641, 1281]
    assert pacing.count(1.0) == 1281
    upper, lower = pacing.pair(torch.tensor([0.5, 80.0, 1e-9], dtype=torch.float64), 0.0)
    grid = [(0.002 ** (1 / 7) + k / 10 * (80 ** (1 / 7) - 0.002 ** (1 / 7))) ** 7 for k in range(11)]
    place = next(k for k, level in enumerate(grid) if level >= 0.5)
    assert upper.tolist() == pytest.approx([grid[place], grid[10], grid[1]])
    assert lower.tolist() == pytest.approx([grid[place - 1], grid[9], grid[0]])


def model(path: str = "edm") -> NetworkDenoiser:
    """A small perceptron for points on a line."""
    torch.manual_seed(1)
    spec = DatasetSpec(name="line", shape=(1,), levels=None, num_classes=0, mean=MEAN, std=STD)
    schedule = SCHEDULES[path]
    row = Edm() if path == "edm" else Velocity()
    return NetworkDenoiser(
        spec=spec, schedule=schedule, trained_schedule=schedule, prediction=row,
        network=MLP(shape=(1,), width=64, depth=2, time_features=32),
    )  # fmt: skip


def trained(path: str, pacing: EasyPacing | DoublingPacing, steps: int) -> Denoiser:
    """A consistency model of N(MEAN, STD^2) from scratch."""
    points = MEAN + STD * torch.randn(8192, 1, generator=torch.Generator().manual_seed(0))
    config = TrainerConfig(max_steps=steps, batch_size=256, lr=2e-3, ema_decay=0.98, warmup_steps=20)
    objective = Consistency(density=LogNormalDensity(floor=0.2), pacing=pacing, knee=80)
    trainer = Trainer(config, model(path), objective, Split(values=points, labels=None), device=torch.device("cpu"))
    for _ in trainer.steps():
        pass
    return trainer.averaged()


@pytest.mark.wide
@pytest.mark.parametrize(
    ("path", "pacing"),
    [
        ("edm", EasyPacing(stages=6)),
        ("linear", EasyPacing(stages=6)),
        pytest.param("vp", EasyPacing(stages=6), marks=pytest.mark.faults),
        pytest.param("linear", DoublingPacing(s1=80, high=None), marks=pytest.mark.faults),
    ],
)
def test_on_gaussian_data_training_finds_the_map_of_the_ode(path: str, pacing: EasyPacing | DoublingPacing) -> None:
    """f = m + S (y - m)/sqrt(S^2 + nsr^2) with y = x_t/a, and not the denoiser m + S^2 (y - m)/(S^2 + nsr^2).

    Up to the level at which a sampler starts.
    """
    found = trained(path, pacing, 1500)
    z = torch.linspace(-1.5, 1.5, 7, dtype=torch.float64)[:, None]
    highest = float(found.schedule.log_nsr(torch.tensor(found.t_max, dtype=torch.float64)).exp()) / 1.0001
    for nsr in (0.5, 1.0, 3.0, 10.0, 30.0, highest):
        t = found.schedule.time_of_log_nsr(torch.tensor(nsr, dtype=torch.float64).log())
        a, _ = found.schedule.ab(t)
        spread = math.hypot(STD, nsr)
        with torch.no_grad():
            data = found.data((a * (MEAN + spread * z)).float(), t).double()
        exact, denoised = MEAN + STD * z, MEAN + STD**2 / spread * z
        assert float((data - exact).abs().mean()) < 0.06
        assert float((data - denoised).abs().mean()) > 2 * float((data - exact).abs().mean())


@pytest.mark.parametrize("path", ["edm", "linear"])
def test_the_weight_above_the_knee_does_not_fall(path: str) -> None:
    """(1 + sigma/knee) times the papers' loss, example by example, with sigma in the unit of data of deviation 0.5."""
    net, data = model(path), MEAN + STD * torch.randn(64, 1, generator=torch.Generator().manual_seed(3))
    plain = Consistency(density=LogNsrDensity(), pacing=EasyPacing())
    losses = [
        objective.loss(net, data, torch.Generator().manual_seed(4), progress=1.0)
        for objective in (plain, replace(plain, knee=20.0))
    ]
    sigma = net.schedule.log_nsr(LogNsrDensity().time(losses[0].u, net.schedule)).exp() * 0.5 / STD
    assert float(sigma.max()) > 50
    assert torch.allclose(losses[1].value.double(), (1 + sigma / 20) * losses[0].value, rtol=1e-5)


class Exact(Denoiser):
    """The consistency function of N(MEAN, STD^2) on a path."""

    def expectations(self, x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        a, b = self.schedule.ab(t)
        data = MEAN + STD * (x / a - MEAN) / torch.hypot(torch.tensor(STD, dtype=torch.float64), b / a)
        return data, (x - a * data) / b


@pytest.mark.parametrize("steps", [1, 2, 4])
@pytest.mark.parametrize("path", ["edm", "linear", "vp"])
def test_samples_in_few_calls_have_the_law_of_the_data(path: str, steps: int) -> None:
    """20,000 samples of the exact map: mean and deviation to four standard errors; as many calls as steps."""
    spec = DatasetSpec(name="line", shape=(1,), levels=None, num_classes=0, mean=MEAN, std=STD)
    exact, n = Exact(spec=spec, schedule=SCHEDULES[path]), 20_000
    x = start(exact, 0, range(n), torch.device("cpu"), double=True)
    state = JumpSampler(steps=steps, renoise=True).run(exact, x, 0, range(n))
    assert state.nfe == steps
    assert float(state.x.mean()) == pytest.approx(MEAN, abs=4 * STD / math.sqrt(n))
    assert float(state.x.std()) == pytest.approx(STD, abs=4 * STD / math.sqrt(2 * n))
    part = range(100, 103)
    alone = JumpSampler(steps=steps, renoise=True).run(exact, x[100:103], 0, part).x
    assert torch.equal(alone, state.x[100:103]), "sample k is the same in any batch"


def test_both_calls_see_the_same_dropout() -> None:
    """With levels that coincide the two ends are the same, dropout and all: the loss is zero."""

    class Same(EasyPacing):
        def pair(self, sigma: Tensor, progress: float) -> tuple[Tensor, Tensor]:
            return sigma, sigma

    class Dropping(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner, self.calls = nn.Sequential(nn.Linear(1, 64), nn.Dropout(0.5), nn.Linear(64, 1)), 0

        def forward(self, x: Tensor, c_time: Tensor, label: Tensor | None) -> Tensor:
            return self.inner(x)

    net = replace(model(), network=Dropping().train())
    objective = Consistency(density=LogNormalDensity(), pacing=Same())
    data = torch.randn(16, 1)
    seed = 3
    nsr = torch.ones(16, dtype=torch.float64)
    ends = [objective._data_end(net, data, data.flip(0), nsr, seed) for _ in "ab"]
    assert torch.equal(*ends)
    other = objective._data_end(net, data, data.flip(0), nsr, seed + 1)
    assert not torch.equal(ends[0], other)


@pytest.mark.parametrize("pacing", ["easy", pytest.param("doubling", marks=pytest.mark.wide)])
def test_a_student_is_tuned_from_a_teacher_and_drawn_from(pacing: str, tiny_run: Path, command: Command) -> None:
    consistency = ("objective=consistency", f"pacing={pacing}", "sampler=consistency")
    tiny = [text for text in TINY if "likelihood" not in text]
    outcome = command("train", *tiny, *consistency, f"init={tiny_run}")
    assert "starts with the averaged weights" in outcome.err
    assert "no likelihood" in outcome.err
    for steps in (1, 2, 4):
        run = command("sample", f"ckpt={outcome.run}", "sampler=consistency", f"sampler.steps={steps}", "n=3").run
        assert json.loads((run / "sample.json").read_text())["nfe"] == steps
        assert np.load(run / "samples.npz")["samples"].shape == (3, 8, 8, 1)


def test_no_step_is_taken_from_other_weights_than_the_teachers(tiny_run: Path, command: Command) -> None:
    run = command("train", *TINY, f"init={tiny_run}", "trainer.max_steps=0", "nll.n=0").run
    weights = [
        torch.load(sorted((r / "checkpoints").glob("*.pt"))[-1], weights_only=True)["state"]["ema"]
        for r in (tiny_run, run)
    ]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["init=nowhere"], "nowhere"),
        (["init=latest", "model.blocks_per_level=2"], "its model"),
        (["init=latest", "objective=noise"], "its prediction"),
        (["init=latest", "conditional=true"], "a model of 0 classes; allowed: 10"),
        (["objective=consistency", "pacing.q=1"], "above 1"),
        (["objective=consistency", "pacing=doubling", "pacing.s0=0"], "s0"),
        (["objective=consistency", "objective.huber=0"], "above 0"),
        (["objective=consistency", "objective.knee=0"], "above 0"),
    ],
)
def test_a_mistake_is_one_line(arguments: list[str], says: str, tiny_run: Path, command: Command) -> None:
    outcome = command("train", *TINY, *arguments, code=1)
    assert says in outcome.err
    assert outcome.problem


def test_sampling_without_a_step_is_refused() -> None:
    x = torch.zeros(1, 1, dtype=torch.float64)
    exact = Exact(spec=model().spec, schedule=SCHEDULES["edm"])
    with pytest.raises(UserError, match="steps=0"):
        JumpSampler(steps=0, renoise=True).run(exact, x)
    calls = EvaluationCount()
    exact.counted(calls)
    assert calls.samples == 0

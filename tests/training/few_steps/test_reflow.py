"""Reflow on Gaussian data: the straight flow is a formula, and so is every straightness."""

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from scipy.integrate import quad
from support.gaussian_students import CPU, MEAN, STD, Bent, Table, denoiser, exact, reflow, trained
from support.oracles import SCHEDULES

from dfm.basics.errors import UserError
from dfm.data.dataset import Split
from dfm.paths.interpolating import Linear
from dfm.sampling.samplers import start
from dfm.training.few_steps.reflow import straightness
from dfm.training.few_steps.reflow_pairs import Pairs, make_pairs, read_pairs
from dfm.training.step_report import StepReport
from dfm.training.trainer import Trainer
from dfm.training.trainer_config import TrainerConfig


@pytest.mark.wide
def test_reflow_finds_the_straight_flow_of_gaussian_data() -> None:
    """On pairs (z, m + S z) E[data | y] = m + S/(S + nsr) (y - m): bend 1, shift 0; and straightness falls to 0."""
    objective = reflow(k=1, one_step=False, n=2048, solver_steps=30)
    reports: list[StepReport] = []
    trainer = trained(objective, denoiser(Linear(), Bent()), 600, reports)
    found = trainer.network.slope
    assert found.bend.item() == pytest.approx(1.0, abs=0.03)
    assert found.shift.item() == pytest.approx(0.0, abs=0.06)
    started = [report.measurements for report in reports if report.measurements]
    assert len(started) == 1, "once a round"
    assert started[0]["round"] == 0
    assert objective.rounds.finish(trainer.averaged())["straightness"] < 0.05 * started[0]["straightness"]


def test_the_last_round_learns_the_jump_alone() -> None:
    """With one step the loss is taken at t_max only: gradients reach a table's first place and no other."""
    path = Linear()
    grid = torch.linspace(float(path.log_nsr(torch.tensor(0.999))), -6.0, 12, dtype=torch.float64)
    table = Table(grid, exact(grid).float())
    objective = reflow(k=0, one_step=True, n=64)
    trainer = Trainer(
        TrainerConfig(max_steps=2, batch_size=16), denoiser(path, table), objective,
        Split(values=torch.randn(64, 1), labels=None), device=CPU,
    )  # fmt: skip
    before = table.values.detach().clone()
    for _ in trainer.steps():
        pass
    moved = (table.values.detach() != before).nonzero().flatten().tolist()
    assert moved == [0]
    assert not objective.outcome({}).has_ode
    assert reflow(one_step=False).outcome({}).has_ode


@pytest.mark.parametrize("name", ["linear", "vp", "edm"])
def test_straightness_of_a_gaussian_by_quadrature(name: str) -> None:
    """On the linear path x_t = m_t + s(t) z, so S = int s'(t)^2 dt - (s(1) - s(0))^2, times the mean of z^2."""
    model = denoiser(SCHEDULES[name], exact).on_schedule(Linear())
    low, high = model.t_min, model.t_max
    length = high - low

    def s(t: float) -> float:
        return math.hypot((1 - t) * STD, t)

    def speed(u: float) -> float:
        t = low + length * u
        return length * (t - (1 - t) * STD**2) / s(t)

    z = start(model, 3, range(500), CPU).double()
    mean, std = model.noise_end.moments
    z2 = float(((z - mean) / std).square().mean())
    by_hand = (quad(lambda u: speed(u) ** 2, 0, 1)[0] - (s(high) - s(low)) ** 2) * z2
    errors = [abs(straightness(model, 500, n, 3, CPU) - by_hand) / by_hand for n in (100, 400)]
    assert errors[1] < 0.01
    assert errors[1] < errors[0] / 2, "Euler's method converges to it"
    assert straightness(denoiser(SCHEDULES[name], exact), 50, 20, 3, CPU) == straightness(model, 50, 20, 3, CPU)
    bent = denoiser(SCHEDULES[name], lambda c: torch.sigmoid(math.log(STD) - c))
    assert straightness(bent, 50, 100, 3, CPU) < 1e-6, "the flow of pairs is straight on the linear path"


def test_pairs_are_the_teachers_and_are_kept(tmp_path: Path) -> None:
    """data = m + S z for latents z; the file is read again, and made again if damaged or of another teacher."""
    teacher = denoiser(Linear(), Bent())
    pairs = make_pairs(teacher, 50, 200, 0, CPU)
    assert torch.allclose(pairs.data, MEAN + STD * pairs.noise, atol=1e-3)
    objective = reflow(n=50, solver_steps=60)
    objective.rounds.directory = tmp_path
    objective.module(teacher.module())
    objective.rounds.start_if_due(teacher, 0.0)
    path = tmp_path / "pairs" / "round_0.safetensors"
    stamp = path.stat().st_mtime_ns
    again = reflow(n=50, solver_steps=60)
    again.rounds.directory = tmp_path
    again.module(teacher.module())
    again.rounds.start_if_due(teacher, 0.0)
    assert path.stat().st_mtime_ns == stamp, "read, not made"
    assert torch.equal(again.pairs(teacher).data, objective.pairs(teacher).data)
    path.write_bytes(path.read_bytes()[:100])
    damaged = reflow(n=50, solver_steps=60)
    damaged.rounds.directory = tmp_path
    damaged.module(teacher.module())
    damaged.rounds.start_if_due(teacher, 0.0)
    assert torch.equal(damaged.pairs(teacher).data, objective.pairs(teacher).data)
    assert read_pairs(path, {"teacher": "another"}) is None


def test_pairs_that_cannot_be_kept_are_used(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A full disk, or no directory: the run goes on, and the next one makes the same pairs again."""
    (tmp_path / "pairs").write_text("a file where the directory should be")
    teacher = denoiser(Linear(), Bent())
    found = []
    for directory in (tmp_path, None):
        objective = reflow(n=50, solver_steps=60)
        objective.rounds.directory = directory
        objective.module(teacher.module())
        objective.rounds.start_if_due(teacher, 0.0)
        found.append(objective.pairs(teacher).data)
    assert torch.equal(*found)
    assert "the run goes on with its pairs in memory" in caplog.text


def test_pairs_keep_the_classes() -> None:
    labels = torch.tensor([0, 1, 2]).repeat(20)
    pairs = Pairs(data=torch.arange(60.0)[:, None], noise=torch.zeros(60, 1), labels=labels, num_classes=3)
    wanted = torch.tensor([2, 0, 0, 1] * 200)
    picked = pairs.draw(wanted, 800, torch.Generator().manual_seed(0))
    assert torch.equal(labels[picked], wanted)
    assert len(set(picked.tolist())) == 60
    hidden = pairs.draw(torch.full((3000,), 3), 3000, torch.Generator().manual_seed(0))
    assert len(set(labels[hidden].tolist())) == 3, "a hidden class: any pair"
    with pytest.raises(UserError, match="one a class"):
        replace(pairs, labels=torch.zeros(60, dtype=torch.int64)).draw(wanted, 800, torch.Generator())


@pytest.mark.parametrize("given", [{"k": -1}, {"k": 0, "one_step": False}, {"n": 0}, {"solver_steps": 0}])
def test_a_reflow_of_nothing_is_refused(given: dict[str, object]) -> None:
    with pytest.raises(UserError, match="objective reflow"):
        reflow(**given)

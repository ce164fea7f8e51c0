"""Progressive distillation and reflow on Gaussian data, where every teacher, target and optimum is a formula."""

import copy
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from conftest import SCHEDULES
from scipy.integrate import quad
from torch import Tensor, nn

from dfm.datasets.base import DatasetSpec, Split
from dfm.densities import Uniform as UniformDensity
from dfm.densities import UniformLogNsr
from dfm.distillation import Progressive, Taught
from dfm.errors import UserError
from dfm.grids import LogNsr, NoiseShare
from dfm.networks import NetworkDenoiser
from dfm.predictions import Data
from dfm.reflow import Pairs, Reflow, made, read_pairs, straightness
from dfm.samplers import JumpSampler, start
from dfm.schedules import Linear, Schedule
from dfm.trainer import Trainer
from dfm.trainer_config import TrainerConfig
from dfm.weights import Uniform as UniformWeight

MEAN, STD = 0.4, 0.5
SPEC = DatasetSpec(name="line", shape=(1,), levels=None, num_classes=0, mean=MEAN, std=STD)
CPU = torch.device("cpu")
Slope = Callable[[Tensor], Tensor]


class Affine(nn.Module):
    """E[data | x_t] = m + k (x_t/a - m) with k a function of log nsr: k = S^2/(S^2 + nsr^2) is exact for N(m, S^2)."""

    def __init__(self, slope: Slope) -> None:
        super().__init__()
        self.slope = slope

    def forward(self, x: Tensor, c_time: Tensor, label: Tensor | None = None) -> Tensor:
        c = c_time.double()
        y = x * (STD**2 + (2 * c).exp()).sqrt()[:, None]
        return ((MEAN + self.slope(c)[:, None] * (y - MEAN)) / STD).to(x.dtype)


class Bent(nn.Module):
    """k = sigmoid(bend (log S - log nsr) + shift): bend 2 is the exact denoiser of N(m, S^2), bend 1 its reflow."""

    def __init__(self) -> None:
        super().__init__()
        self.bend, self.shift = nn.Parameter(torch.tensor(2.0)), nn.Parameter(torch.tensor(0.0))

    def forward(self, c: Tensor) -> Tensor:
        return torch.sigmoid(self.bend * (math.log(STD) - c) + self.shift)


class Table(nn.Module):
    """k as a number for each of a few places, the nearest of which counts."""

    def __init__(self, places: Tensor, values: Tensor) -> None:
        super().__init__()
        self.register_buffer("places", places)
        self.values = nn.Parameter(values)

    def forward(self, c: Tensor) -> Tensor:
        return self.values[(c[:, None] - self.places[None]).abs().argmin(1)]


def exact(c: Tensor) -> Tensor:
    return STD**2 / (STD**2 + (2 * c).exp())


def denoiser(schedule: Schedule, slope: Slope) -> NetworkDenoiser:
    return NetworkDenoiser(
        spec=SPEC, schedule=schedule, trained=schedule, prediction=Data(), network=Affine(slope)
    )  # fmt: skip


def progressive(start: int, steps: int = 1, **more: object) -> Progressive:
    return Progressive(density=UniformDensity(), weight=UniformWeight(), start=start, steps=steps, **more)  # type: ignore[arg-type]


def places(objective: Progressive, path: Schedule) -> Tensor:
    """log nsr of the student's times in the round that is going on."""
    return path.log_nsr(objective.grid.times(objective.count(), path, path.t_min, path.t_max)[:-1])


@pytest.mark.parametrize("grid", [NoiseShare(), LogNsr()], ids=["noise_share", "log_nsr"])
@pytest.mark.parametrize("path", ["linear", "vp", "edm", "trig"])
def test_perfect_students_do_in_one_step_what_the_teacher_does_in_many(path: str, grid: NoiseShare) -> None:
    """Rounds 16 -> 1 with students that are exactly their targets: the last one's jump is 16 steps of DDIM."""
    schedule = SCHEDULES[path]
    first = denoiser(schedule, exact)
    latents = start(first, 0, range(64), CPU, double=True)
    many = JumpSampler(steps=16, grid=grid).run(first, latents)
    objective, teacher = progressive(16, grid=grid), first
    for number in range(4):
        objective.teacher.round.fill_(number)
        step = torch.arange(objective.count()).repeat_interleave(2)
        z = torch.tensor([[-1.0], [1.5]], dtype=torch.float64).repeat(objective.count(), 1)
        t, x = objective.noisy(first, MEAN + STD * z, z.flip(0), step)
        data, noise = objective.target(teacher, x, step)
        a, b = (c[:, None] for c in schedule.ab(t))
        assert torch.allclose(a * data + b * noise, x, atol=1e-9), "the target is of the same place"
        slope = ((data - MEAN) / (x / a - MEAN))[:, 0].reshape(-1, 2)
        assert torch.allclose(slope[:, 0], slope[:, 1], rtol=1e-6), "the target is affine in x, as the teacher is"
        teacher = denoiser(schedule, Table(places(objective, schedule), slope[:, 0].detach()))
    one = JumpSampler(steps=1, grid=grid).run(teacher, latents)
    assert (many.nfe, one.nfe) == (16, 1)
    assert torch.allclose(one.x, many.x, atol=1e-8)


def test_the_target_by_hand() -> None:
    """In y = x/a and nsr one step of DDIM multiplies y - m by k + (s/t)(1 - k); two of them make the student's k~."""
    path = Linear()
    objective = progressive(8)
    teacher = denoiser(path, exact)
    times = objective.grid.times(8, path, path.t_min, path.t_max)
    nsr = path.log_nsr(times).exp().tolist()
    k = [STD**2 / (STD**2 + v * v) for v in nsr]
    for i in range(4):
        t, middle, s = 2 * i, 2 * i + 1, 2 * i + 2
        end = 0.0 if i == 3 else nsr[s]
        both = (k[t] + nsr[middle] / nsr[t] * (1 - k[t])) * (k[middle] + end / nsr[middle] * (1 - k[middle]))
        by_hand = (both - end / nsr[t]) / (1 - end / nsr[t])
        x = torch.tensor([[0.9]], dtype=torch.float64)
        data, _ = objective.target(teacher, x, torch.tensor([i]))
        y = 0.9 / float(path.ab(times[t])[0])
        assert float(data) == pytest.approx(MEAN + by_hand * (y - MEAN), rel=1e-9)


def trained(objective: Taught, model: NetworkDenoiser, steps: int, lr: float = 0.02) -> Trainer:
    points = MEAN + STD * torch.randn(4096, 1, generator=torch.Generator().manual_seed(0))
    config = TrainerConfig(
        max_steps=steps, batch_size=128, lr=lr, ema_decay=0.999, warmup_steps=1, clip_grad=None, betas=(0.9, 0.95)
    )
    trainer = Trainer(config, model, objective, Split(values=points, labels=None), device=CPU)
    for _ in trainer.steps():
        pass
    return trainer


def test_training_in_rounds_finds_the_one_step_student() -> None:
    """8 -> 1 by gradient descent, a number for each time: the slope at t_max is the product of eight steps of DDIM.

    Of the averaged weights: the average begins anew with each round.
    """
    path = Linear()
    objective = progressive(8)
    grid = path.log_nsr(objective.grid.times(8, path, path.t_min, path.t_max)[:-1])
    student = trained(objective, denoiser(path, Table(grid, exact(grid).float())), 900)
    assert int(objective.teacher.round) == 2, "three rounds"
    latents = start(denoiser(path, exact), 0, range(200), CPU)
    many = JumpSampler(steps=8).run(denoiser(path, exact), latents).x
    few = JumpSampler(steps=1).run(student.averaged(), latents).x
    untaught = JumpSampler(steps=1).run(denoiser(path, exact), latents).x
    assert float((few - many).abs().mean()) < 0.02
    assert float((untaught - many).abs().mean()) > 0.2


def test_rounds_take_the_student_of_the_round_before() -> None:
    objective = progressive(8)
    trainer = Trainer(
        TrainerConfig(max_steps=9, batch_size=8, warmup_steps=0, lr=0.1, ema_decay=0.999),
        denoiser(Linear(), Bent()), objective, Split(values=torch.randn(64, 1), labels=None), device=CPU,
    )  # fmt: skip
    seen, counts, rates, before = [], [], [], None
    for report in trainer.steps():
        taught = objective.teacher.network
        assert taught is not None
        seen.append(int(objective.teacher.round))
        counts.append(objective.count())
        rates.append(report.learning_rate)
        if report.step in (1, 4, 7):
            fresh = {k: v.clone() for k, v in trainer.ema.network.state_dict().items()}
            own = trainer.network.state_dict()
            start = taught.state_dict()
            for k, v in fresh.items():  # one step after a restart: 2/11 of the start and 9/11 of the weights
                assert torch.allclose(v, start[k] + (own[k] - start[k]) * 9 / 11, atol=1e-6)
        if report.step in (4, 7):
            assert before is not None
            assert all(torch.equal(v, before[k]) for k, v in taught.state_dict().items())
        before = {k: v.clone() for k, v in trainer.network.state_dict().items()}
    assert seen == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    assert counts == [4, 4, 4, 2, 2, 2, 1, 1, 1]
    assert rates[0] == rates[3] == rates[6] == pytest.approx(0.1), "the rate falls in each round and begins again"
    assert rates[2] < rates[1] < rates[0]
    assert not any(p.requires_grad for p in taught.parameters())


@pytest.mark.parametrize("kind", ["progressive", "reflow"])
def test_a_resumed_round_is_the_uninterrupted_one_bit_for_bit(kind: str, tmp_path: Path) -> None:
    def fresh(name: str) -> Trainer:
        torch.manual_seed(0)
        objective = progressive(8) if kind == "progressive" else reflow(k=2, n=40).placed(tmp_path / name)
        config = TrainerConfig(max_steps=9, batch_size=8, warmup_steps=0, lr=0.1)
        split = Split(values=torch.randn(64, 1), labels=None)
        return Trainer(config, denoiser(Linear(), Bent()), objective, split, device=CPU)

    whole = fresh("whole")
    state = None
    for report in whole.steps():
        if report.step == 5:
            state = copy.deepcopy(whole.state())
    assert state is not None
    again = fresh("again")  # which has none of the pairs that were made
    again.load_state(state)
    for _ in again.steps():
        pass
    for mine, theirs in ((whole.network, again.network), (whole.ema.network, again.ema.network)):
        assert all(torch.equal(v, theirs.state_dict()[k]) for k, v in mine.state_dict().items())


def reflow(**more: object) -> Reflow:
    return Reflow(density=UniformLogNsr(), weight=UniformWeight(), **more)  # type: ignore[arg-type]


def test_reflow_finds_the_straight_flow_of_gaussian_data() -> None:
    """On pairs (z, m + S z) E[data | y] = m + S/(S + nsr) (y - m): bend 1, shift 0; and straightness falls to 0."""
    objective = reflow(k=1, one_step=False, n=2048, solver_steps=30)
    trainer = trained(objective, denoiser(Linear(), Bent()), 600)
    found = trainer.network.slope
    assert found.bend.item() == pytest.approx(1.0, abs=0.03)
    assert found.shift.item() == pytest.approx(0.0, abs=0.06)
    news = objective.news()
    assert news["round"] == 0
    assert objective.closing(trainer.averaged())["straightness"] < 0.05 * news["straightness"]
    assert objective.news() == {}, "told once"


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
    assert not objective.has_ode
    assert reflow(one_step=False).has_ode


@pytest.mark.parametrize("name", ["linear", "vp", "edm"])
def test_straightness_of_a_gaussian_by_quadrature(name: str) -> None:
    """On the linear path x_t = m_t + s(t) z, so S = int s'(t)^2 dt - (s(1) - s(0))^2, times the mean of z^2."""
    model = denoiser(SCHEDULES[name], exact).on(Linear())
    low, high = model.t_min, model.t_max
    length = high - low

    def s(t: float) -> float:
        return math.hypot((1 - t) * STD, t)

    def speed(u: float) -> float:
        t = low + length * u
        return length * (t - (1 - t) * STD**2) / s(t)

    z = start(model, 3, range(500), CPU).double()
    mean, std = model.start_moments()
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
    pairs = made(teacher, 50, 200, 0, CPU)
    assert torch.allclose(pairs.data, MEAN + STD * pairs.noise, atol=1e-3)
    objective = reflow(n=50, solver_steps=60).placed(tmp_path)
    objective.module(teacher.module())
    objective.advance(teacher, 0.0)
    path = tmp_path / "pairs" / "round_0.safetensors"
    stamp = path.stat().st_mtime_ns
    again = reflow(n=50, solver_steps=60).placed(tmp_path)
    again.module(teacher.module())
    again.advance(teacher, 0.0)
    assert path.stat().st_mtime_ns == stamp, "read, not made"
    assert torch.equal(again.pairs(teacher).data, objective.pairs(teacher).data)
    path.write_bytes(path.read_bytes()[:100])
    damaged = reflow(n=50, solver_steps=60).placed(tmp_path)
    damaged.module(teacher.module())
    damaged.advance(teacher, 0.0)
    assert torch.equal(damaged.pairs(teacher).data, objective.pairs(teacher).data)
    assert read_pairs(path, {"teacher": "another"}) is None


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


@pytest.mark.parametrize(("start", "steps"), [(8, 8), (12, 1), (8, 3), (8, 0), (1, 2)])
def test_steps_that_cannot_be_halved_are_refused(start: int, steps: int) -> None:
    with pytest.raises(UserError, match="start="):
        progressive(start, steps)


@pytest.mark.parametrize("given", [{"k": -1}, {"k": 0, "one_step": False}, {"n": 0}, {"solver_steps": 0}])
def test_a_reflow_of_nothing_is_refused(given: dict[str, object]) -> None:
    with pytest.raises(UserError, match="objective reflow"):
        reflow(**given)

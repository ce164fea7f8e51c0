"""Progressive distillation on Gaussian data, where every teacher, target and optimum is a formula."""

import copy
from pathlib import Path

import pytest
import torch
from support.gaussian_students import CPU, MEAN, STD, Bent, Table, denoiser, exact, progressive, reflow, trained
from support.oracles import SCHEDULES
from torch import Tensor

from dfm.basics.errors import UserError
from dfm.data.dataset import Split
from dfm.paths.interpolating import Linear
from dfm.paths.schedule import Schedule
from dfm.sampling.grids import LogNsrGrid, NoiseShareGrid
from dfm.sampling.samplers import JumpSampler, start
from dfm.training.few_steps.progressive import Progressive
from dfm.training.trainer import Trainer
from dfm.training.trainer_config import TrainerConfig


def places(objective: Progressive, path: Schedule) -> Tensor:
    """log nsr of the student's times in the round that is going on."""
    return path.log_nsr(objective.grid.times(objective.count(), path, path.t_min, path.t_max)[:-1])


@pytest.mark.parametrize("grid", [NoiseShareGrid(), LogNsrGrid()], ids=["noise_share", "log_nsr"])
@pytest.mark.parametrize("path", ["linear", "vp", "edm", "trig"])
def test_perfect_students_do_in_one_step_what_the_teacher_does_in_many(path: str, grid: NoiseShareGrid) -> None:
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


@pytest.mark.wide
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
        objective = progressive(8) if kind == "progressive" else reflow(k=2, n=40)
        objective.rounds.directory = tmp_path / name
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


@pytest.mark.parametrize(("start", "steps"), [(8, 8), (12, 1), (8, 3), (8, 0), (1, 2)])
def test_steps_that_cannot_be_halved_are_refused(start: int, steps: int) -> None:
    with pytest.raises(UserError, match="start="):
        progressive(start, steps)

"""A few-step model is trained where its sampler starts: shares by scipy, every default on every schedule, a table."""

import math
from dataclasses import replace

import pytest
import torch
from scipy import stats
from support.cli import POINTS, Command
from support.gaussian_students import CPU, MEAN, STD, Table, denoiser, progressive, reflow
from support.oracles import SCHEDULES
from torch import Tensor, nn

from dfm.basics.errors import UserError
from dfm.cli.composition.command_line import compose
from dfm.data.dataset import Split
from dfm.denoising.network_denoiser import NetworkDenoiser
from dfm.paths.schedule import Schedule
from dfm.runs.parts import Parts
from dfm.sampling.samplers import JumpSampler, start
from dfm.training.few_steps.consistency import Consistency, DoublingPacing, EasyPacing, Pacing
from dfm.training.few_steps.meanflow import MeanFlow
from dfm.training.objectives.base import LEAST_AT_START, Objective
from dfm.training.objectives.densities import Density, LogNormalDensity, LogNsrDensity, UniformDensity
from dfm.training.trainer import Trainer
from dfm.training.trainer_config import TrainerConfig

EDMS, PUBLISHED = LogNormalDensity(), LogNormalDensity(mean=-1.1, std=2.0)
DEFAULT = LogNormalDensity(floor=0.2)


def of(schedule: Schedule) -> NetworkDenoiser:
    return denoiser(schedule, lambda c: c)


def consistency(density: Density, pacing: Pacing) -> Consistency:
    return Consistency(density=density, pacing=pacing)


@pytest.mark.parametrize("path", ["linear", "vp", "edm"])
@pytest.mark.parametrize("density", [EDMS, PUBLISHED])
def test_shares_are_those_of_the_law(density: LogNormalDensity, path: str) -> None:
    schedule = SCHEDULES[path]
    low, high = (
        float(schedule.log_nsr(torch.tensor(t, dtype=torch.float64))) for t in (schedule.t_min, schedule.t_max)
    )
    law = stats.truncnorm(*((end - density.mean) / density.std for end in (low, high)), density.mean, density.std)
    found = consistency(density, EasyPacing()).share_at_start(of(schedule))
    assert found == pytest.approx(law.sf(high - math.log(2)), abs=2**-15)
    both = consistency(DEFAULT, EasyPacing()).share_at_start(of(schedule))
    edms = stats.truncnorm(*((end + 1.2) / 1.2 for end in (low, high)), -1.2, 1.2).sf(high - math.log(2))
    assert both == pytest.approx(0.2 * math.log(2) / (high - low) + 0.8 * edms, abs=2**-15)
    even = consistency(LogNsrDensity(), EasyPacing()).share_at_start(of(schedule))
    assert even == pytest.approx(math.log(2) / (high - low), abs=2**-15)


def test_a_grid_that_ends_too_early_does_not_reach_the_start() -> None:
    linear, edm = of(SCHEDULES["linear"]), of(SCHEDULES["edm"])
    capped, open_end = (consistency(LogNsrDensity(), DoublingPacing(high=high)) for high in (80.0, None))
    assert capped.share_at_start(linear) == 0
    assert min(open_end.share_at_start(linear), capped.share_at_start(edm)) > 0.04
    wide = consistency(PUBLISHED, EasyPacing())
    wide.check_start(edm)  # the published recipe where it was published
    for objective, words in (
        (capped, "try pacing.high=null"), (wide, "try density=log_nsr"),
        (consistency(EDMS, DoublingPacing(high=80.0)), "try density=log_nsr pacing.high=null"),
        (MeanFlow(density=EDMS), "try density=log_nsr"),
        (replace(reflow(one_step=False), density=EDMS), "try density=log_nsr"),
    ):  # fmt: skip
        with pytest.raises(UserError, match=f"samples start at nsr=999, .*{words}$"):
            objective.check_start(linear)


@pytest.mark.parametrize("objective", [progressive(32), reflow(), replace(reflow(), density=EDMS)])
def test_students_of_fixed_times_are_trained_at_the_start(objective: Objective, schedule: Schedule) -> None:
    objective.check_start(of(schedule))


@pytest.mark.wide
@pytest.mark.parametrize("name", ["consistency", "consistency pacing=doubling", "meanflow", "progressive", "reflow"])
def test_defaults_reach_the_start_on_every_schedule(name: str, schedule: Schedule) -> None:
    objective = Parts(compose("train", *f"objective={name}".split())).objective
    objective.check_start(of(schedule))


class Share(nn.Module):
    """The slope of f at y as a share g of the true one, S/sqrt(S^2 + nsr^2): a number for each of 24 levels.

    A level that is never visited keeps the share of the denoiser, S/sqrt(S^2 + nsr^2) again, which is none at all where
    the noise is strong.
    """

    def __init__(self, schedule: Schedule) -> None:
        super().__init__()
        ends = torch.tensor([schedule.t_min, schedule.t_max], dtype=torch.float64)
        low, high = schedule.log_nsr(ends).tolist()
        places = torch.linspace(low, high, 24, dtype=torch.float64)
        self.table = Table(places, self.true(places))

    @staticmethod
    def true(c: Tensor) -> Tensor:
        return STD / (STD**2 + (2 * c).exp()).sqrt()

    def forward(self, c: Tensor) -> Tensor:
        return self.true(c) * self.table(c)


def one_call_deviation(path: str, density: Density, steps: int) -> float:
    """The deviation of samples in one call, as a share of the true one."""
    schedule = SCHEDULES[path]
    points = MEAN + STD * torch.randn(4096, 1, generator=torch.Generator().manual_seed(0))
    config = TrainerConfig(
        max_steps=steps, batch_size=128, lr=0.1, lr_schedule="constant", ema_decay=0.95, warmup_steps=1, clip_grad=None
    )
    objective = replace(consistency(density, EasyPacing(stages=2)), knee=80)
    run = Trainer(config, denoiser(schedule, Share(schedule)), objective, Split(values=points, labels=None), device=CPU)
    for _ in run.steps():
        pass
    model = run.averaged()
    x = start(model, 0, range(20_000), CPU)
    return float(JumpSampler(steps=1, renoise=True).run(model, x).x.std()) / STD


@pytest.mark.parametrize("path", ["linear", "vp", "edm"])
def test_the_levels_near_the_start_learn(path: str) -> None:
    """By the default density, as far as a table of steps can; by EDM's, they stay as they began, S/nsr.

    That they learn the right map is a test of a network, in test_consistency.py.
    """
    assert one_call_deviation(path, DEFAULT, 100) > 0.2
    assert one_call_deviation(path, EDMS, 20) < 0.01


def test_a_refusal_says_what_works(command: Command) -> None:
    words = ("train", *POINTS, "objective=consistency", "trainer.max_steps=1", "samples.n=2", "nll.n=0", "logger=none")
    problem = command(*words, "density=lognormal", code=1).problem
    assert "density=log_nsr" in problem
    command(*words, "density=log_nsr")


def test_uniform_times_pass_on_the_straight_path() -> None:
    share = MeanFlow(density=UniformDensity()).share_at_start(of(SCHEDULES["linear"]))
    assert share > LEAST_AT_START

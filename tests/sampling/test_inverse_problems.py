"""Inverse problems: exact posteriors of Gaussians, projections, exact known pixels, and the command."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.integrate import quad, solve_ivp
from support.cli import TINY, Command
from support.oracles import SCHEDULES
from torch import Tensor

from dfm.basics.errors import UserError
from dfm.data.dataset import DatasetSpec
from dfm.data.gaussian_mixture import GaussianMixture
from dfm.denoising.denoiser import EvaluationCount
from dfm.denoising.exact import MixtureDenoiser
from dfm.paths.schedule import Schedule
from dfm.sampling.inverse_problems import MASKS, Colorize, Conditioned, Inpaint, Task, Upsample
from dfm.sampling.samplers import GridSampler
from dfm.sampling.steppers.ode import RK4

SHAPE = (3, 4, 4)
TASKS = {
    "left": Inpaint(mask="left"),
    "center": Inpaint(mask="center"),
    "colorize": Colorize(),
    "upsample": Upsample(factor=2),
}


def gaussian(
    schedule: Schedule, covariance: Tensor, mean: float = 0.3, shape: tuple[int, ...] = SHAPE
) -> MixtureDenoiser:
    d = len(covariance)
    mixture = GaussianMixture(
        weights=torch.ones(1, dtype=torch.float64), means=torch.full((1, d), mean, dtype=torch.float64),
        covariances=covariance[None],
    )  # fmt: skip
    std = float(covariance.diagonal().mean().sqrt())
    spec = DatasetSpec(name="gaussian", shape=shape, levels=None, num_classes=0, mean=mean, std=std)
    return MixtureDenoiser(spec=spec, schedule=schedule, mixture=mixture)


@pytest.mark.parametrize("name", sorted(TASKS))
def test_what_is_known_is_an_orthogonal_projection(name: str) -> None:
    """P P = P and <P x, y> = <x, P y>, of the rank that one expects."""
    project = TASKS[name].projection(DatasetSpec(name="x", shape=SHAPE, levels=None, num_classes=0, mean=0.0, std=1.0))
    matrix = torch.stack([project(e.reshape(1, *SHAPE)).flatten() for e in torch.eye(48, dtype=torch.float64)])
    assert torch.allclose(matrix, matrix.T, atol=1e-12)
    assert torch.allclose(matrix @ matrix, matrix, atol=1e-12)
    rank = {"left": 24, "center": 36, "colorize": 16, "upsample": 12}[name]
    assert float(matrix.trace()) == pytest.approx(rank)


@pytest.mark.parametrize("method", ["replacement", "dps"])
@pytest.mark.parametrize("name", sorted(TASKS))
def test_the_posterior_of_an_isotropic_gaussian_is_exact(name: str, method: str, schedule: Schedule) -> None:
    """p(x_t | y): P x_t ~ N(a y, b^2), the rest N(a m, a^2 S^2 + b^2), so the score is known, at every level."""
    s = 0.6
    model = gaussian(schedule, s**2 * torch.eye(48, dtype=torch.float64))
    truth = torch.randn(2, *SHAPE, dtype=torch.float64)
    task: Task = replace(TASKS[name], method=method)
    observed = task.observe(model, truth)
    project = observed.projection
    for share in (0.1, 0.5, 0.9):
        t = torch.tensor(schedule.t_min + share * (schedule.t_max - schedule.t_min), dtype=torch.float64)
        a, b = schedule.ab(t)
        x = torch.randn(2, *SHAPE, dtype=torch.float64) * torch.hypot(a, b)
        free = -(x - a * 0.3) / (a**2 * s**2 + b**2)
        known = -(x - a * truth) / b**2
        exact = free - project(free) + project(known)
        assert torch.allclose(observed.score(x, t), exact, rtol=1e-7, atol=1e-7 * float(exact.abs().max()))
        data, noise = observed.expectations(x, t)
        assert torch.allclose(a * data + b * noise, x, rtol=1e-9, atol=1e-9 * float(x.abs().max()))


def mean_of_free_pixel(schedule: Schedule, method: str) -> float:
    """Mean of the free pixel where the known one is 1 and their correlation 0.9, by the law of the means.

    With y = x/a and s = nsr, dy/ds = (y - D(y, s))/s. For Gaussian data D is affine, so the mean of y obeys the same
    equation, from 0 at t_max; scipy solves it. The last denoising is D at t_min.
    """
    covariance = np.array([[1.0, 0.9], [0.9, 1.0]])
    ends = schedule.log_nsr(torch.tensor([schedule.t_max, schedule.t_min], dtype=torch.float64)).exp().tolist()

    def data(s: float, y: np.ndarray) -> np.ndarray:
        gain = covariance @ np.linalg.inv(covariance + s**2 * np.eye(2))
        plain = gain @ y
        if method == "replacement":
            return np.array([plain[0], 1.0])
        return plain + (1 + s**2) * gain[:, 1] * (1 - plain[1])  # s^2/r^2 = 1 + s^2 for variance 1

    path = solve_ivp(lambda s, y: (y - data(s, y)) / s, ends, np.zeros(2), method="DOP853", rtol=1e-9, atol=1e-11)
    return float(data(ends[1], path.y[:, -1])[0])


# the figures of docs/guidance.md; a Gaussian's conditional mean is 0.9
MEANS = {
    ("linear", "replacement"): 0.447, ("vp", "replacement"): 0.445, ("edm", "replacement"): 0.443,
    ("linear", "dps"): 0.846, ("vp", "dps"): 0.844, ("edm", "dps"): 0.841,
}  # fmt: skip


@pytest.mark.parametrize(("name", "method"), MEANS)
def test_the_mean_of_the_free_pixel_is_the_exact_one(name: str, method: str) -> None:
    """The sampler is affine here, too: the mean of its samples is the sample of the mean start, without any noise."""
    covariance = torch.tensor([[1.0, 0.9], [0.9, 1.0]], dtype=torch.float64)
    model = gaussian(SCHEDULES[name], covariance, mean=0.0, shape=(1, 1, 2))
    observed = Inpaint(mask="left", method=method).observe(model, torch.ones(1, 1, 1, 2, dtype=torch.float64))
    with torch.no_grad():
        made = GridSampler(stepper=RK4(), steps=96).run(observed, torch.zeros(1, 1, 1, 2, dtype=torch.float64)).x
    exact = mean_of_free_pixel(SCHEDULES[name], method)
    assert float(made[0, 0, 0, 0]) == pytest.approx(exact, abs=2e-4)
    assert exact == pytest.approx(MEANS[name, method], abs=5e-4)


def test_the_exact_mean_of_replacement_is_an_integral() -> None:
    """From all noise to none: 0.45 (0.19)^(1/4) int ((1.9 + v)(0.1 + v))^(-5/4) dv over v = nsr^2, with 1.9 and 0.1 the
    variances along the two diagonals."""
    integral, _ = quad(lambda v: ((1.9 + v) * (0.1 + v)) ** -1.25, 0, np.inf)
    wide = replace(SCHEDULES["edm"], t_min=1e-4, t_max=1e4)
    assert mean_of_free_pixel(wide, "replacement") == pytest.approx(0.45 * 0.19**0.25 * integral, abs=1e-4)


def test_rows_labels_calls_and_schedules_reach_the_denoiser_inside() -> None:
    model = gaussian(SCHEDULES["edm"], torch.eye(48, dtype=torch.float64))
    truth, calls = torch.randn(4, *SHAPE, dtype=torch.float64), EvaluationCount()
    observed = Inpaint(mask="top").observe(model, truth).counted(calls)
    part = observed.select(torch.tensor([2, 0])).with_labels(torch.tensor([5, 6]))
    assert isinstance(part, Conditioned)
    assert torch.equal(part.known, observed.known[[2, 0]])
    x = torch.randn(2, *SHAPE, dtype=torch.float64)
    part.on_schedule(SCHEDULES["linear"]).velocity(x, torch.tensor(0.5, dtype=torch.float64))
    assert calls.samples == 2
    assert torch.equal(part.restore(x)[:, :, :2], x[:, :, :2]), "the upper half is free"
    assert torch.equal(part.restore(x)[:, :, 2:], truth[[2, 0]][:, :, 2:])


@pytest.mark.parametrize("method", ["replacement", "dps"])
@pytest.mark.parametrize("mask", ["mine.png", *(pytest.param(m, marks=pytest.mark.wide) for m in MASKS)])
def test_known_pixels_are_exact_in_the_result(mask: str, method: str, tiny_run: Path, command: Command) -> None:
    mine = np.zeros((8, 8), np.uint8)
    mine[::2] = 255
    Image.fromarray(mine).save("mine.png")
    run = command(
        "sample", f"ckpt={tiny_run}", "task=inpaint", f"mask={mask}", f"task.method={method}", "n=5", "batch_size=2",
        "sampler.steps=2",
    ).run  # fmt: skip
    made = np.load(run / "samples.npz")["samples"][..., 0]
    from dfm.data.published.digits import Digits

    images = np.round(Digits().split("test").values[:5, 0].double().numpy() * 255 / 16).astype(int)
    known = mine > 127 if mask == "mine.png" else Inpaint(mask=mask).known_pixels(8, 8).numpy() > 0
    assert np.array_equal(made[:, known], images[:, known])
    assert not np.array_equal(made[:, ~known], images[:, ~known])
    facts = json.loads((run / "sample.json").read_text())
    assert facts["rms_error"] == pytest.approx(np.sqrt(((made - images.astype(float)) ** 2).mean()), rel=1e-6)
    assert facts["task"]["method"] == method
    alone = command(
        "sample", f"ckpt={tiny_run}", "task=inpaint", f"mask={mask}", f"task.method={method}", "index=3",
        "sampler.steps=2",
    ).run  # fmt: skip
    other = np.load(alone / "samples.npz")["samples"][0, ..., 0].astype(int)
    assert np.abs(other - made[3]).max() <= 16, "sample 3 is about image 3, alone or not (one level of rounding)"
    assert np.array_equal(other[known], images[3][known])


@pytest.mark.parametrize("name", sorted(TASKS))
def test_what_is_restored_has_the_known_part(name: str) -> None:
    model = gaussian(SCHEDULES["linear"], torch.eye(48, dtype=torch.float64))
    truth, x = torch.randn(2, 2, *SHAPE, dtype=torch.float64)
    observed = TASKS[name].observe(model, truth)
    found = observed.restore(x)
    assert torch.allclose(observed.projection(found), observed.projection(truth), atol=1e-12)
    free = [y - observed.projection(y) for y in (found, x)]
    assert torch.allclose(*free, atol=1e-12)


def test_a_picture_of_the_images_what_is_known_and_the_samples(tiny_run: Path, command: Command) -> None:
    run = command("sample", f"ckpt={tiny_run}", "task=upsample", "task.factor=4", "n=3", "sampler=dopri5").run
    sheet = np.asarray(Image.open(run / "task.png"))
    assert sheet.shape == (3 * 50 + 2, 3 * 50 + 2)
    known = sheet[52:100, 2:50]
    assert len(np.unique(known[:24, :24])) == 1, "a block has one grey"


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["task=inpaint"], "mask=left"),
        (["task=inpaint", "mask=lift"], "did you mean 'left'"),
        (["task=inpaint", "mask=nowhere.png"], "nowhere.png"),
        (["task=inpaint", "mask=small.png"], "8 x 8"),
        (["task=inpaint", "mask=left", "n=5000"], "try n=300 or less"),
        (["task=inpaint", "mask=left", "index=5000"], "try index=299 or less"),
        (["task=inpaint", "mask=left", "split=tset"], "did you mean 'test'"),
        (["task=inpaint", "mask=left", "task.scale=-1"], "at least 0"),
        (["task=inpaint", "mask=left", "task.method=repaint"], "replacement"),
        (["task=colorize"], "images with 3 channels"),
        (["task=upsample", "task.factor=3"], "divisor"),
    ],
)
def test_a_mistake_is_one_line(arguments: list[str], says: str, tiny_run: Path, command: Command) -> None:
    Image.fromarray(np.zeros((4, 4), np.uint8)).save("small.png")
    outcome = command("sample", f"ckpt={tiny_run}", *arguments, code=1)
    assert says in outcome.err
    assert outcome.problem


def test_points_have_no_pixels(command: Command) -> None:
    run = command("train", *[o for o in TINY if "model" not in o], "dataset=moons", "model=mlp").run
    assert "a model of images" in command("sample", f"ckpt={run}", "task=upsample", code=1).err
    with pytest.raises(UserError, match="points"):
        Colorize().projection(DatasetSpec(name="x", shape=(2,), levels=None, num_classes=0, mean=0.0, std=1.0))

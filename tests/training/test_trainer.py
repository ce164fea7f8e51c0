"""The trainer's promises: exact resume, accumulation, learning rates, EMA, precision."""

import copy
from pathlib import Path

import pytest
import torch
from support.cli import TINY, Command
from support.trainers import assert_equal, trainer, weights
from torch import nn

from dfm.basics.errors import UserError
from dfm.data.published.digits import Digits
from dfm.runs import checkpoint
from dfm.runs import directory as run_dir
from dfm.runs.metrics import read_metrics
from dfm.training.batches import Batch
from dfm.training.ema import Ema
from dfm.training.objectives.base import Loss
from dfm.training.objectives.densities import UniformDensity
from dfm.training.objectives.loss_weights import UniformWeight
from dfm.training.objectives.regression import Regression


def test_a_compiler_that_fails_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> object:
        raise RuntimeError("no compiler here\nand pages more")

    real = torch.compile
    monkeypatch.setattr(torch, "compile", lambda network: real(network, backend=broken))
    with pytest.raises(UserError, match=r"no compiler here.*try trainer.compile=false$") as caught:
        next(trainer(compile=True).steps())
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("stop", [1, 3, 7])
@pytest.mark.parametrize("workers", [0, 2])
def test_a_resumed_run_is_the_uninterrupted_one_bit_for_bit(stop: int, workers: int) -> None:
    whole = trainer(num_workers=workers)
    losses = [float(report.loss) for report in whole.steps()]
    first = trainer(num_workers=workers)
    reports = first.steps()
    for _ in range(stop):
        next(reports)
    reports.close()
    second = trainer(num_workers=workers)
    second.load_state(copy.deepcopy(first.state()))
    assert [float(report.loss) for report in second.steps()] == losses[stop:]
    assert_equal(second, whole)


def test_accumulated_passes_are_one_batch() -> None:
    """Loss and weights agree to rounding: the same examples, noise and times, in two passes or one.

    Times are stratified over a pass, so here they are drawn independently; a pass draws its dequantisation, then its
    times, then its noise, so equal draws cannot be asked for. What must hold is that the gradient of two passes over
    the *same* loss is the mean of theirs: checked with a loss that has no randomness.
    """

    class Plain(Regression):
        def loss(self, denoiser, data, generator, progress=1.0):  # type: ignore[no-untyped-def]
            t = torch.full((len(data),), 0.5, dtype=torch.float64)
            value = self.errors_at(denoiser, torch.zeros_like(data) + 0.3, torch.ones_like(data) * 0.1, t)
            return Loss(value=value, error=value, u=t)

    runs = [trainer(accumulate=k, clip_grad=None) for k in (1, 4)]
    for run in runs:
        run.objective = Plain(density=UniformDensity(), weight=UniformWeight())
    losses = [[float(report.loss) for report in run.steps()] for run in runs]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    for name, value in weights(runs[0]).items():
        assert torch.allclose(value, weights(runs[1])[name], atol=1e-5), name


def test_the_rate_warms_up_and_follows_a_cosine() -> None:
    run = trainer(max_steps=10, lr=1.0, warmup_steps=4, lr_schedule="cosine")
    rates = [report.learning_rate for report in run.steps()]
    expected = [min(1.0, (k + 1) / 4) * (1 + torch.cos(torch.tensor(torch.pi * k / 10)).item()) / 2 for k in range(10)]
    assert rates == pytest.approx(expected, rel=1e-5)
    flat = trainer(max_steps=6, lr=0.5, warmup_steps=2, lr_schedule="constant")
    assert [report.learning_rate for report in flat.steps()] == [0.25, 0.5, 0.5, 0.5, 0.5, 0.5]


def test_minutes_end_a_run_and_drive_its_progress() -> None:
    run = trainer(max_steps=10**9, max_minutes=0.01)
    for _ in run.steps():
        assert run.seconds < 30
    assert run.progress == 1.0
    assert run.seconds >= 0.6


def test_clipping_bounds_the_step_and_reports_the_norm_before() -> None:
    free, bound = trainer(clip_grad=None, max_steps=1), trainer(clip_grad=1e-6, max_steps=1)
    norms = [float(next(run.steps()).grad_norm) for run in (free, bound)]
    assert norms[0] == norms[1] > 1e-6


def test_ema_by_hand() -> None:
    """Against the recursion in plain floats, warm-up of the decay included."""
    layer = nn.Linear(1, 1, bias=False)
    layer.weight.data.fill_(1.0)
    ema, shadow = Ema(layer, copy.deepcopy(layer), 0.9), 1.0
    for step in range(1, 30):
        layer.weight.data.fill_(float(step))
        ema.update(step)
        decay = min(0.9, (1 + step) / (10 + step))
        shadow = decay * shadow + (1 - decay) * step
        assert float(ema.network.weight) == pytest.approx(shadow, rel=1e-5)
    with pytest.raises(UserError):
        Ema(layer, copy.deepcopy(layer), 1.0)


def test_learning_happens() -> None:
    """One hundred steps on the digits must take the velocity's error well below that of predicting nothing."""
    run = trainer(max_steps=100, batch_size=128, lr=3e-3)
    before = run.validation_loss(run.averaged(), Digits().split("validation"))
    for _ in run.steps():
        pass
    assert run.validation_loss(run.averaged(), Digits().split("validation")) < 0.75 * before


def test_validation_repeats_itself() -> None:
    run, split = trainer(), Digits().split("validation")
    assert run.validation_loss(run.averaged(), split) == run.validation_loss(run.averaged(), split)


def test_flips_are_half_and_repeatable() -> None:
    values = torch.zeros(2000, 1, 8, 8, dtype=torch.uint8)
    values[..., 0] = 1
    batch = Batch(values, None, torch.arange(2000))
    flip = trainer(flip=True).augmentation
    flipped = flip(batch, 0, 0).values
    share = float(flipped[:, 0, 0, -1].float().mean())
    assert abs(share - 0.5) < 4.5 * 0.5 / 2000**0.5
    assert torch.equal(flipped, flip(batch, 0, 0).values)
    assert not torch.equal(flipped, flip(batch, 0, 1).values)
    assert torch.equal(trainer().augmentation(batch, 0, 0).values, values)


def test_bf16_trains_in_float32_weights() -> None:
    run = trainer(precision="bf16", max_steps=2)
    assert all(torch.isfinite(report.loss) for report in run.steps())
    assert all(p.dtype == torch.float32 for p in run.parameters)


@pytest.mark.parametrize(
    "bad", [{"batch_size": 0}, {"accumulate": 3}, {"lr": -1.0}, {"max_minutes": 0.0}, {"clip_grad": -1.0}, {"seed": -1}]
)
def test_bad_numbers_are_refused(bad: dict[str, object]) -> None:
    with pytest.raises(UserError, match=f"{next(iter(bad))}"):
        trainer(**bad)


def test_resume_through_the_command_line_is_exact(command: Command, tmp_path: Path) -> None:
    """Stopped after 2 of 4 steps and resumed: same weights, same metrics but for the clock, same pictures."""
    common = [*TINY, "trainer.log_every=1", "trainer.checkpoint_every=2", "trainer.sample_every=2", "nll.n=0"]
    whole = command("train", *common, "trainer.max_steps=4", "trainer.lr_schedule=constant").run
    part = command("train", *common, "trainer.max_steps=2", "trainer.lr_schedule=constant").run
    # A line from beyond the checkpoint, as a killed run leaves it, and one cut short.
    with (part / "metrics.jsonl").open("a") as file:
        file.write('{"step": 3, "loss": 99.0}\n{"step": 4, "lo')
    outcome = command("train", f"resume={part}", "trainer.max_steps=4")
    assert outcome.run == part
    assert "resumed at step 2" in outcome.err
    states = [checkpoint.read(run_dir.checkpoints(run)[0]).state for run in (whole, part)]
    assert states[0]["step"] == states[1]["step"] == 4
    for kind in ("network", "ema"):
        for name, value in states[0][kind].items():
            assert torch.equal(value, states[1][kind][name]), name
    clock = ("images_per_second", "seconds")
    lines = [
        [{k: v for k, v in line.items() if k not in clock} for line in read_metrics(run / "metrics.jsonl")]
        for run in (whole, part)
    ]
    assert lines[0] == [line for line in lines[1] if line not in _validation_at(lines[1], 2)]
    for step in (0, 2, 4):
        name = f"samples/step_{step:08d}.png"
        assert (whole / name).read_bytes() == (part / name).read_bytes()


def _validation_at(lines: list[dict[str, float]], step: int) -> list[dict[str, float]]:
    # The shorter run validated at its own end, which the longer one passed without.
    return [line for line in lines if "validation_loss" in line and line["step"] == step]

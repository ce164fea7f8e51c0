"""Numbers gone bad: the step is not taken, what is known of it is told, and after a few the run stops."""

import copy
import json
import shlex
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from support.cli import TINY, Command
from support.trainers import trainer, weights

from dfm.basics.errors import UserError
from dfm.training.objectives.base import Loss
from dfm.training.objectives.regression import Regression
from dfm.training.step_failures import SkippedStep, merge
from dfm.training.trainer import Trainer


def poisoned(run: Trainer, rows: slice, steps: set[int]) -> None:
    """The loss of these rows of the batch is infinite at these steps (counted from 1)."""
    real = run.objective.loss

    class Poison(Regression):
        def loss(self, denoiser, data, generator, progress=1.0):  # type: ignore[no-untyped-def]
            found = real(denoiser, data, generator, progress)
            if run.step + 1 not in steps:
                return found
            value = found.value.clone()
            value[rows] = value[rows] * torch.inf
            return Loss(value=value, error=found.error, u=found.u)

    run.objective = Poison(density=run.objective.density, weight=run.objective.weight)  # type: ignore[attr-defined]


def test_a_bad_step_is_passed_over_and_named() -> None:
    run = trainer(max_steps=4)
    poisoned(run, slice(2, 4), {2})
    reports, states = [], []
    for report in run.steps():
        reports.append(report)
        states.append(copy.deepcopy(run.state()))
    assert [bool(report.skipped) for report in reports] == [False, True, False, False]
    skipped = reports[1].skipped
    assert skipped is not None
    assert list(skipped.indices) == run.batches.indices(1)[2:4].tolist()
    assert skipped.log_nsr is not None
    assert len(skipped.log_nsr) == 2
    assert skipped.layer == "linear_out.bias", "an infinite loss: the gradient is bad from the output on"
    for kind in ("network", "ema"):
        assert all(torch.equal(v, states[1][kind][k]) for k, v in states[0][kind].items()), "nothing moved"
        assert not all(torch.equal(v, states[2][kind][k]) for k, v in states[1][kind].items())
    moments = [state["optimizer"]["state"][0] for state in states[:2]]
    assert all(torch.equal(moments[0][k], moments[1][k]) for k in moments[0])


def test_a_skipped_step_has_no_part_in_what_follows() -> None:
    """The steps after it are those of a run whose bad batch moved nothing: only the count goes on."""
    runs = [trainer(max_steps=3, lr_schedule="constant", warmup_steps=0) for _ in "ab"]
    poisoned(runs[0], slice(0, 1), {2})
    for _ in runs[0].steps():
        pass
    steps = runs[1].steps()
    next(steps)
    runs[1].step = 2  # batch 2 never came
    steps.close()
    for _ in runs[1].steps():
        pass
    for name, value in weights(runs[0]).items():
        assert torch.equal(value, weights(runs[1])[name]), name


@pytest.mark.parametrize("layer", ["linear_in", "blocks.0.linear_1", "linear_out"])
def test_the_first_bad_layer_is_found(layer: str) -> None:
    run = trainer(max_steps=2)
    broken = run.network.get_submodule(layer)
    with torch.no_grad():
        next(broken.parameters()).fill_(torch.nan)
    (report, *_) = run.steps()
    assert report.skipped is not None
    assert report.skipped.layer.startswith(layer)
    assert len(report.skipped.indices) == run.config.batch_size


@pytest.mark.parametrize("clip_grad", [1.0, None])
def test_the_first_bad_gradient_is_found_where_all_outputs_are_finite(clip_grad: float | None) -> None:
    run = trainer(max_steps=2, clip_grad=clip_grad)
    layer = run.network.get_submodule("embedding.linear_1")
    layer.weight.register_hook(lambda gradient: gradient * torch.nan)
    (report, *_) = run.steps()
    assert report.skipped is not None
    assert report.skipped.layer == "embedding.linear_1.weight"


def test_the_troubles_of_several_processes_become_one() -> None:
    fine = SkippedStep(loss=1.0, grad_norm=float("nan"), indices=[1, 2], log_nsr=[0.0, 1.0], layer="a")
    bad = SkippedStep(loss=float("nan"), grad_norm=float("nan"), indices=[7], log_nsr=[2.0], layer="b")
    found = merge([fine, bad])
    assert (found.indices, found.log_nsr, found.layer) == ([7], [2.0], "b")
    both = merge([fine, fine])
    assert (both.indices, both.layer) == ([1, 2, 1, 2], "a")


def test_after_some_in_a_row_the_run_stops_in_words() -> None:
    run = trainer(max_steps=9, max_skipped=3)
    poisoned(run, slice(None), {2, 4, 5, 6, 7})
    reports = run.steps()
    seen = [bool(next(reports).skipped) for _ in range(6)]
    with pytest.raises(UserError, match="3 steps in a row") as caught:
        next(reports)
    assert seen == [False, True, False, True, True, True]
    assert "try a smaller trainer.lr" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_density_that_adapts_learns_nothing_from_a_bad_step() -> None:
    from dfm.training.objectives.densities import LossAwareDensity
    from dfm.training.objectives.loss_weights import UniformWeight

    run = trainer(max_steps=1)
    density = LossAwareDensity()
    run.objective = Regression(density=density, weight=UniformWeight())
    before = density.running.squares.clone()
    poisoned(run, slice(0, 1), {1})
    for _ in run.steps():
        pass
    assert torch.equal(density.running.squares, before)


def test_the_command_tells_and_keeps_what_was_before(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    real = Regression.loss

    def bad(self, denoiser, data, generator, progress=1.0):  # type: ignore[no-untyped-def]
        found = real(self, denoiser, data, generator, progress)
        return Loss(value=found.value * torch.nan, error=found.error, u=found.u) if progress > 0.4 else found

    words = [*TINY, "trainer.max_steps=8", "trainer.max_skipped=2", "trainer.validate_every=0", "trainer.lr=4e-3"]
    with monkeypatch.context() as patch:
        patch.setattr(Regression, "loss", bad)
        outcome = command("train", *words, "hydra.run.dir=run", code=1)
    assert "2 steps in a row were not taken" in outcome.err
    assert outcome.problem
    assert outcome.err.count("was not taken") == 2
    lines = [json.loads(line) for line in (Path("run") / "metrics.jsonl").read_text().splitlines()]
    skipped = [line for line in lines if line.get("skipped")]
    assert [line["step"] for line in skipped] == [5, 6]
    assert all(len(line["indices"]) == 32 and line["layer"] for line in skipped)
    state = torch.load(Path("run") / "checkpoints" / "step_00000006.pt", weights_only=True)["state"]
    assert all(bool(v.isfinite().all()) for v in state["network"].values())
    again = shlex.split(outcome.problem.rpartition(", try dfm ")[2])
    assert again == ["train", f"from={Path('run').absolute()}", f"init={Path('run').absolute()}", "trainer.lr=0.0004"]
    assert "starts with the averaged weights" in command(*again).err


def of_the_card() -> None:
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")


def of_the_machine() -> None:
    torch.empty(2**55)  # no machine has so much, and torch says so in words of its own


@pytest.mark.parametrize("use_up", [of_the_card, of_the_machine])
def test_out_of_memory_names_the_switches(use_up: Callable[[], None], monkeypatch: pytest.MonkeyPatch) -> None:
    run = trainer(max_steps=1)

    def full(*_: object) -> None:
        use_up()

    monkeypatch.setattr(run, "_losses", full)
    with pytest.raises(UserError, match=r"trainer\.batch_size=\d+ in 1 parts; try trainer\.accumulate=2"):
        next(run.steps())

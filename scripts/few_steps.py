"""Students in few calls beside their teacher: train them all, measure them all, print the table.

Usage: python scripts/few_steps.py digits --out DIR [--n 1000] [--seeds 3]
       python scripts/few_steps.py fashion --out DIR --seeds 2

Runs that are already in DIR are not made again: it can be stopped and started. On 2 cores ``digits`` takes about half
an hour, ``fashion`` an hour and a half. The figure is the Fréchet distance of ``dfm eval`` (features of the data set's
own classifier) of n samples to the test split, mean and standard error over seeds; beside it the training's seconds
(the making of reflow's pairs included; the teacher's own training is not a student's cost). The teacher and all
students sample by ``sampler=jump`` (the teacher: DDIM's steps, the last one to the data), the consistency model by its
own, so NFE is the number of steps; the teacher also by Heun's method on the rho grid. ``few_steps.png`` has a row of
samples for each row of the table.
"""

import argparse
import json
import statistics
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import torch

import dfm
from dfm.data.pixel_levels import quantize
from dfm.evaluation.classifier_features import features_for
from dfm.evaluation.features import Features
from dfm.evaluation.sample_quality import frechet_distance
from dfm.runs.checkpoint import find
from dfm.runs.directory import checkpoints, step_of
from dfm.runs.images import grid, nhwc, save_png
from dfm.runs.metrics import read_metrics
from dfm.runs.parts import Parts
from dfm.sampling.draw import stored
from dfm.sampling.grids import LogNsrGrid, RhoGrid
from dfm.sampling.samplers import GridSampler, JumpSampler, Sampler
from dfm.sampling.steppers.ode import Heun

SHOWN = 16  # samples of each row in the picture


@dataclass(frozen=True)
class Student:
    """A student's training: overrides, and at which checkpoint which numbers of steps are measured."""

    name: str
    overrides: list[str]
    shown: list[tuple[int, list[int]]]  # (the how-manieth checkpoint from the last, steps)
    renoise: bool = False


@dataclass(frozen=True)
class Plan:
    """How the students of a data set are trained.

    Args:
        steps: optimiser steps of consistency and reflow; progressive distillation has ``halvings`` rounds of ``round``
            steps, the flow map ``flow_map`` steps.
        pairs: overrides for reflow's.
    """

    experiment: list[str]
    teacher: list[str]
    steps: int
    halvings: int
    round: int
    flow_map: int
    pairs: list[str]

    def students(self) -> list[Student]:
        """What is compared. Of progressive distillation and reflow each round leaves a checkpoint."""
        common = [
            f"trainer.max_steps={self.steps}", "trainer.max_minutes=null", "trainer.sample_every=0",
            "trainer.validate_every=0", "nll.n=0", "model.dropout=0", "trainer.lr=5e-4",
        ]  # fmt: skip
        rounds = [
            f"trainer.max_steps={self.round * self.halvings}", f"trainer.checkpoint_every={self.round}",
            f"trainer.keep_checkpoints={self.halvings}", f"objective.start={2**self.halvings}",
        ]  # fmt: skip
        two = [f"trainer.checkpoint_every={self.steps // 2}"]
        return [
            Student("consistency", ["objective=consistency", *common], [(0, [1, 2, 4])], renoise=True),
            Student("progressive", ["objective=progressive", *common, *rounds], [(0, [1]), (1, [2]), (2, [4])]),
            Student("reflow", ["objective=reflow", *common, *two, *self.pairs], [(1, [1, 2, 4]), (0, [1])]),
            Student(
                "meanflow", ["objective=meanflow", *common, f"trainer.max_steps={self.flow_map}"], [(0, [1, 2, 4])]
            ),
        ]


PLANS = {
    "digits": Plan(["experiment=digits_flow"], [], 1500, 5, 1000, 1500, []),
    "fashion": Plan(
        [
            "experiment=fashion_flow", "model=unet_small", "density=uniform", "trainer.optimizer=adamw",
            "trainer.lr=1e-3",
        ],
        ["trainer.max_minutes=25", "nll.n=0"], 1000, 4, 250, 400, ["objective.n=2048", "objective.solver_steps=9"],
    ),
}  # fmt: skip


def train(run: Path, overrides: list[str]) -> None:
    """``dfm train`` into a directory, unless it is there and done."""
    if (run / "done").exists():
        return
    print(f"$ dfm train {' '.join(overrides)}", flush=True)
    run.parent.mkdir(parents=True, exist_ok=True)
    again = [f"resume={run}"] if (run / "config.yaml").exists() and checkpoints(run) else [f"hydra.run.dir={run}"]
    with run.with_suffix(".log").open("a") as log:
        command = [
            sys.executable,
            "-m",
            "dfm",
            "train",
            *(again if again[0].startswith("resume") else overrides + again),
        ]
        if subprocess.run(command, stdout=log, stderr=subprocess.STDOUT).returncode:
            raise SystemExit(f"failed; see {log.name}")
    (run / "done").touch()


def seconds(run: Path, step: int | None = None) -> float:
    """What the training of a run took, all of it or to a step."""
    lines = [line for line in read_metrics(run / "metrics.jsonl") if "seconds" in line]
    return max(line["seconds"] for line in lines if step is None or line["step"] <= step)


def figure(
    ckpt: Path, sampler: Sampler, features: Features, references: torch.Tensor, given: argparse.Namespace
) -> tuple[str, torch.Tensor]:
    """The Fréchet distance over seeds, and the first few samples, which start from the same latents in every row."""
    model = dfm.load(ckpt)
    levels = model.spec.levels
    assert levels is not None
    values, shown = [], torch.zeros(0)
    for seed in range(given.seeds):
        samples = dfm.sample(model, given.n, sampler, seed=seed, batch_size=250)
        shown = shown if len(shown) else stored(samples[:SHOWN], model.spec)
        values.append(frechet_distance(features.of(quantize(samples, levels)), references))
    spread = statistics.stdev(values) / len(values) ** 0.5 if len(values) > 1 else float("nan")
    return f"{statistics.mean(values):.2f} ± {spread:.2f}", shown


def sampler(student: Student, steps: int) -> JumpSampler:
    """As ``sampler=consistency`` and ``sampler=jump``."""
    return JumpSampler(steps=steps, renoise=True, grid=LogNsrGrid()) if student.renoise else JumpSampler(steps=steps)


def main() -> None:
    """Train, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", choices=PLANS)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--n", type=int, default=1000)
    parser.add_argument("--seeds", type=int, default=3)
    given = parser.parse_args()
    plan, teacher = PLANS[given.data], given.out / "teacher"
    train(teacher, [*plan.experiment, *plan.teacher])
    for student in plan.students():
        train(given.out / student.name, [*plan.experiment, f"init={teacher}", *student.overrides])
    found, _ = find(str(teacher))
    data = Parts(found.config).dataset
    features = features_for(data)
    references = features.of(data.split("test").values)
    floor = features.of(data.split("train").values[torch.randperm(len(data.split("train")))[: given.n]])
    print(f"{given.n} samples, {len(references)} test examples; features {json.dumps(features.facts)}")
    print(f"as many training examples: {frechet_distance(floor, references):.2f}")
    print("| model | NFE | Fréchet distance | training, s |\n|---|---|---|---|")
    ways: list[tuple[str, int, Sampler]] = [("jump", n, JumpSampler(steps=n)) for n in (1, 2, 4, 8, 32)]
    ways += [("Heun", 2 * n + 1, GridSampler(stepper=Heun(), steps=n, grid=RhoGrid())) for n in (3, 15)]
    pictures = []
    for way, nfe, how in ways:
        row, shown = figure(teacher, how, features, references, given)
        pictures.append(shown)
        print(f"| teacher, {way} | {nfe} | {row} | {seconds(teacher):.0f} |", flush=True)
    for student in plan.students():
        run = given.out / student.name
        for back, numbers in student.shown:
            path = checkpoints(run)[back]
            for n in numbers:
                row, shown = figure(path, sampler(student, n), features, references, given)
                pictures.append(shown)
                print(f"| {student.name}, {path.stem} | {n} | {row} | {seconds(run, step_of(path)):.0f} |", flush=True)

    save_png(grid(nhwc(torch.cat(pictures)), SHOWN), given.out / "few_steps.png")


if __name__ == "__main__":
    main()

"""Few-step students beside their teacher: train them all, measure them all, print a table.

Usage: python scripts/results/few_steps.py digits --out DIR [--n 1000] [--seeds 3]
       python scripts/results/few_steps.py fashion --out DIR --seeds 2
       python scripts/results/few_steps.py digits --out DIR --students consistency meanflow

Runs that are finished in DIR are not repeated, so the script can be stopped and started again. On 2 cores, ``digits``
takes about half an hour and ``fashion`` an hour and a half.

The measure is the Fréchet distance of ``dfm eval`` (features of the data set's own classifier) of n samples to the test
split: mean and standard error over seeds. Beside it are the seconds of the training. They include the time to make
reflow's pairs, but not the training of the teacher. The consistency model has its own sampler; the teacher and the
other students use ``sampler=jump`` (for the teacher these are steps of DDIM, the last one to the data). So NFE is the
number of steps. The teacher is also sampled by Heun's method on the rho grid. ``few_steps.png`` shows samples of each
row of the table.
"""

import argparse
import json
import statistics
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from _runs import train, training_seconds

import dfm
from dfm.data.numbers.pixel_levels import quantize
from dfm.data.numbers.stored_form import stored
from dfm.evaluation.classifier_features import features_for
from dfm.evaluation.features import Features
from dfm.evaluation.sample_quality import frechet_distance
from dfm.runs.checkpoint import find
from dfm.runs.directory import checkpoints, step_of
from dfm.runs.parts import Parts
from dfm.runs.pictures.images import grid, nhwc, save_png
from dfm.sampling.grids import LogNsrGrid, RhoGrid
from dfm.sampling.samplers import GridSampler, JumpSampler, Sampler
from dfm.sampling.steppers.ode import Heun

NAMES = ["consistency", "progressive", "reflow", "meanflow"]
SHOWN = 16  # samples per row of the picture


@dataclass(frozen=True)
class Student:
    """The training of a student, and its checkpoints to measure.

    Args:
        overrides: of ``dfm train``.
        cases: (checkpoint, counted from the last; numbers of sampling steps).
        renoise: whether its sampler is ``sampler=consistency``.
    """

    name: str
    overrides: list[str]
    cases: list[tuple[int, list[int]]]
    renoise: bool = False


@dataclass(frozen=True)
class Plan:
    """The training settings for one data set.

    Args:
        experiment, teacher: overrides for all runs, and for the teacher alone.
        steps: optimiser steps of consistency and reflow. Progressive distillation has ``halvings`` rounds of ``round``
            steps, and the flow map has ``flow_map`` steps.
        pairs: overrides for the pairs of reflow.
    """

    experiment: list[str]
    teacher: list[str]
    steps: int
    halvings: int
    round: int
    flow_map: int
    pairs: list[str]

    def students(self) -> list[Student]:
        """Return the students. Each round of progressive distillation and of reflow leaves a checkpoint."""
        common = [
            f"trainer.max_steps={self.steps}",
            "trainer.max_minutes=null",
            "trainer.sample_every=0",
            "trainer.validate_every=0",
            "nll.n=0",
            "model.dropout=0",
            "trainer.lr=5e-4",
        ]
        rounds = [
            f"trainer.max_steps={self.round * self.halvings}",
            f"trainer.checkpoint_every={self.round}",
            f"trainer.keep_checkpoints={self.halvings}",
            f"objective.start={2**self.halvings}",
        ]
        two = [f"trainer.checkpoint_every={self.steps // 2}"]
        density = "density=lognormal_wide"  # that of the objective; the experiment may have named another
        return [
            Student("consistency", ["objective=consistency", density, *common], [(0, [1, 2, 4])], renoise=True),
            Student("progressive", ["objective=progressive", *common, *rounds], [(0, [1]), (1, [2]), (2, [4])]),
            Student("reflow", ["objective=reflow", *common, *two, *self.pairs], [(1, [1, 2, 4]), (0, [1])]),
            Student(
                "meanflow", ["objective=meanflow", *common, f"trainer.max_steps={self.flow_map}"], [(0, [1, 2, 4])]
            ),
        ]


PLANS = {
    "digits": Plan(
        experiment=["experiment=digits_flow"],
        teacher=[],
        steps=1500,
        halvings=5,
        round=1000,
        flow_map=1500,
        pairs=[],
    ),
    "fashion": Plan(
        experiment=[
            "experiment=fashion_flow",
            "model=unet_small",
            "density=uniform",
            "trainer.optimizer=adamw",
            "trainer.lr=1e-3",
        ],
        teacher=["trainer.max_minutes=25", "nll.n=0"],
        steps=1000,
        halvings=4,
        round=250,
        flow_map=400,
        pairs=["objective.n=2048", "objective.solver_steps=9"],
    ),
}


def measure(
    ckpt: Path, sampler: Sampler, features: Features, references: torch.Tensor, options: argparse.Namespace
) -> tuple[str, torch.Tensor]:
    """Return the Fréchet distance over seeds as text, and the first samples; every row has the same latents."""
    model = dfm.load(ckpt)
    levels = model.spec.levels
    assert levels is not None
    values, first = [], torch.zeros(0)
    for seed in range(options.seeds):
        samples = dfm.sample(model, options.n, sampler, seed=seed, batch_size=250)
        first = first if len(first) else stored(samples[:SHOWN], model.spec)
        values.append(frechet_distance(features.of(quantize(samples, levels)), references))
    spread = statistics.stdev(values) / len(values) ** 0.5 if len(values) > 1 else float("nan")
    return f"{statistics.mean(values):.2f} ± {spread:.2f}", first


def sampler(student: Student, steps: int) -> JumpSampler:
    """Return the sampler of a student: ``sampler=consistency`` or ``sampler=jump``."""
    return JumpSampler(steps=steps, renoise=True, grid=LogNsrGrid()) if student.renoise else JumpSampler(steps=steps)


def main() -> None:
    """Train, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", choices=PLANS)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--n", type=int, default=1000)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--students", nargs="+", choices=NAMES, default=NAMES)
    options = parser.parse_args()
    plan, teacher = PLANS[options.data], options.out / "teacher"
    students = [student for student in plan.students() if student.name in options.students]
    train(teacher, [*plan.experiment, *plan.teacher])
    for student in students:
        train(options.out / student.name, [*plan.experiment, f"init={teacher}", *student.overrides])
    checkpoint, _ = find(str(teacher))
    data = Parts(checkpoint.config).dataset
    features = features_for(data)
    references = features.of(data.split("test").all())
    floor = features.of(data.split("train").take(torch.randperm(len(data.split("train")))[: options.n]))
    print(f"{options.n} samples, {len(references)} test examples; features {json.dumps(features.facts)}")
    print(f"as many training examples: {frechet_distance(floor, references):.2f}")
    print("| model | NFE | Fréchet distance | training, s |\n|---|---|---|---|")
    pictures = [*teacher_rows(teacher, features, references, options)]
    for student in students:
        pictures += student_rows(student, options.out / student.name, features, references, options)
    save_png(grid(nhwc(torch.cat(pictures)), SHOWN), options.out / "few_steps.png")


def teacher_rows(
    teacher: Path, features: Features, references: torch.Tensor, options: argparse.Namespace
) -> Iterator[torch.Tensor]:
    """Print the rows of the teacher, and yield the first samples of each."""
    samplers: list[tuple[str, int, Sampler]] = [("jump", n, JumpSampler(steps=n)) for n in (1, 2, 4, 8, 32)]
    samplers += [("Heun", 2 * n + 1, GridSampler(stepper=Heun(), steps=n, grid=RhoGrid())) for n in (3, 15)]
    for name, nfe, how in samplers:
        row, first = measure(teacher, how, features, references, options)
        print(f"| teacher, {name} | {nfe} | {row} | {training_seconds(teacher):.0f} |", flush=True)
        yield first


def student_rows(
    student: Student, run: Path, features: Features, references: torch.Tensor, options: argparse.Namespace
) -> Iterator[torch.Tensor]:
    """Print the rows of a student, and yield the first samples of each."""
    for back, numbers in student.cases:
        file = checkpoints(run)[back]
        for n in numbers:
            row, first = measure(file, sampler(student, n), features, references, options)
            seconds = training_seconds(run, step_of(file))
            print(f"| {student.name}, {file.stem} | {n} | {row} | {seconds:.0f} |", flush=True)
            yield first


if __name__ == "__main__":
    main()

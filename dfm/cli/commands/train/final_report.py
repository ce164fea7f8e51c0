"""The report at the end of a training run: the likelihood of held-out data, or a classifier's report."""

import json

from dfm.cli import console
from dfm.cli.commands.nll.estimates import ScoringJob, score
from dfm.cli.commands.train.classifier_report import write_classifier_report
from dfm.cli.commands.train.training_run import TrainingRun

SHARE = 1 / 5  # of the time of the training steps, for the likelihood


def is_done(run: TrainingRun) -> bool:
    """Whether the report on the current step exists already."""
    wanted = run.settings.nll
    name = "classifier.json" if run.parts.objective.trains == "classifier" else "nll.json"
    try:
        report = json.loads((run.directory / name).read_text("utf-8"))
    except (OSError, ValueError):
        return wanted.n == 0
    n = min(wanted.n, len(run.parts.dataset.split(wanted.split)))
    asked = report.get("num_asked", report.get("num_examples"))
    return report.get("checkpoint_step") == run.trainer.step and asked == n


def time_bound(run: TrainingRun) -> float:
    """Return the minutes for the likelihood: ``nll.max_minutes``, else a share of the training's time."""
    given = run.settings.nll.max_minutes
    return max(1.0, SHARE * run.trainer.seconds / 60) if given is None else given


def write_final_report(run: TrainingRun) -> None:
    """Write ``nll.json`` and ``nll.csv`` of the averaged weights, or a classifier's report, unless ``nll.n`` is 0."""
    wanted, parts, step = run.settings.nll, run.parts, run.trainer.step
    split = parts.dataset.split(wanted.split)
    n = min(wanted.n, len(split))
    if n == 0:
        if wanted.n:
            console.say(f"no likelihood: the {wanted.split} split has no examples (nll.split=train has some)")
        return
    if parts.objective.trains == "classifier":
        averaged = run.trainer.averaged(everywhere=False)
        if run.job.world.first:
            write_classifier_report(
                averaged, parts.dequantization, split, n, wanted.seed, run.device, run.directory, step
            )
        return
    if not parts.objective.outcome({}).has_ode:
        console.say("no likelihood: a model of this objective has no ODE, so it has no density")
        return
    work = ScoringJob(
        denoiser=run.trainer.averaged(),
        split=split,
        own=parts.dequantization,
        chosen=None,
        n=n,
        seed=wanted.seed,
        batch_size=wanted.batch_size,
        audit=wanted.audit,
        device=run.device,
        facts={"split": wanted.split, "checkpoint_step": step},
        world=run.job.world,
        max_minutes=time_bound(run),
    )
    score(work, parts.likelihood, run.directory)

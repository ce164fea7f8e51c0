"""What a training run ends with: the likelihood of held-out data, or a classifier's report."""

import json

from dfm.cli import console
from dfm.cli.commands.nll.estimates import ScoringJob, score
from dfm.cli.commands.train.classifier_report import write_classifier_report
from dfm.cli.commands.train.training_run import Run
from dfm.runs import parts as assemble


def is_done(run: Run) -> bool:
    """Whether what ``examine`` would write of this step is there."""
    path = run.directory / ("classifier.json" if assemble.is_classifier(run.config) else "nll.json")
    try:
        found = json.loads(path.read_text())
    except (OSError, ValueError):
        return run.nll.n == 0
    n = min(run.nll.n, len(run.dataset.split(run.nll.split)))
    return found.get("checkpoint_step") == run.trainer.step and found.get("num_examples") == n


def write_final_report(run: Run) -> None:
    """``nll.json`` and ``nll.csv`` of the averaged weights, or a classifier's report, unless ``nll.n`` is 0."""
    split, step = run.dataset.split(run.nll.split), run.trainer.step
    n = min(run.nll.n, len(split))
    if n and assemble.is_classifier(run.config):
        averaged = run.trainer.averaged(everywhere=False)
        if run.world.first:
            write_classifier_report(
                averaged, run.dequantization, split, n, run.nll.seed, run.device, run.directory, step
            )
    elif n and not run.objective.has_ode:
        console.say("no likelihood: what this objective trains has no ODE of its own, and so no density")
    elif n:
        exam = ScoringJob(
            denoiser=run.trainer.averaged(), split=split, own=run.dequantization, chosen=None, n=n, seed=run.nll.seed,
            batch_size=run.nll.batch_size, audit=run.nll.audit, device=run.device,
            facts={"split": run.nll.split, "checkpoint_step": step}, world=run.world,
        )  # fmt: skip
        score(exam, run.likelihood, run.directory)

"""``dfm nll``: log-likelihoods of held-out data, with their errors."""

from collections.abc import Mapping
from typing import Any

from dfm.basics.errors import UserError
from dfm.cli.commands.nll.compare_paths import compare_paths, load_other
from dfm.cli.commands.nll.estimates import ScoringJob, score
from dfm.cli.commands.nll.per_class import check_classes, classify
from dfm.cli.composition.unused_settings import check_settings
from dfm.cli.from_checkpoint import examples_of, how_many, load_denoiser
from dfm.cli.job import Job
from dfm.cli.settings import NllSettings
from dfm.runs.parts import Parts
from dfm.sampling.draw import check_count


def run(job: Job) -> None:
    """Score a checkpoint on a split. The processes of torchrun share the examples."""
    wanted: NllSettings = job.settings
    if wanted.per_class and wanted.max_minutes is not None:
        raise UserError(
            f"per_class=true with max_minutes={wanted.max_minutes:g}; allowed: one of them; try max_minutes=null n=100"
        )
    refuse_augmentation(job.config)
    likelihood = job.parts.likelihood
    check_settings(likelihood, "likelihood")
    chosen = job.parts.dequantization if job.config.get("dequantization") else None
    check_count(1 if wanted.n is None else wanted.n, wanted.batch_size)
    checkpoint, denoiser = load_denoiser(job, wanted.ckpt)
    split = examples_of(checkpoint, job, wanted.split)
    work = ScoringJob(
        denoiser=denoiser,
        split=split,
        own=Parts(checkpoint.config, job.trusted).dequantization,
        chosen=chosen,
        n=how_many(wanted.n, split, wanted.split),
        seed=wanted.seed,
        batch_size=wanted.batch_size,
        audit=wanted.audit,
        device=job.device,
        world=job.world,
        max_minutes=wanted.max_minutes,
        facts={"split": wanted.split, "checkpoint": str(checkpoint.path), "checkpoint_step": checkpoint.step},
    )
    other = None if wanted.against is None else load_other(job, work, checkpoint)
    if wanted.per_class:
        check_classes(work)
    scores = score(work, likelihood, job.directory)
    if wanted.per_class:
        classify(work, likelihood, job.directory)
    if other is not None and job.world.first:
        compare_paths(job, work, other, scores)


def refuse_augmentation(config: Mapping[str, Any]) -> None:
    """Refuse mirrored examples. A likelihood is the likelihood of the examples as they are.

    Raises:
        UserError: the configuration asks for mirrored examples.
    """
    if config["dataset"].get("flip"):
        raise UserError(
            "dataset.flip=true: each example is scored once, as it is, also for a model trained with flips; try "
            "without dataset.flip"
        )

"""``dfm nll``: log-likelihoods of held-out data, with their errors."""

from typing import Any

from omegaconf import DictConfig

from dfm.basics.errors import UserError
from dfm.cli import console
from dfm.cli.command_line import overrides, plain, run_directory
from dfm.cli.launch import launch
from dfm.cli.settings import NllSettings
from dfm.runs.build import settings


def main() -> None:
    """The command; under torchrun its processes share the examples."""
    launch("nll", job, shared=True)


def job(cfg: DictConfig) -> None:
    """Score one checkpoint on one split."""
    config, directory = plain(cfg), run_directory()
    wanted = settings(config, NllSettings)
    from dfm.basics.devices import resolve_device
    from dfm.basics.processes import world
    from dfm.cli.commands.nll.compare_paths import compare_paths
    from dfm.cli.commands.nll.estimates import ScoringJob, score
    from dfm.cli.commands.nll.per_class import check_classes, classify
    from dfm.cli.from_checkpoint import examples_of, load_denoiser
    from dfm.cli.unused_settings import check_settings
    from dfm.runs import parts as assemble
    from dfm.runs.directory import write_overrides
    from dfm.sampling.draw import check_count

    trust = assemble.trusted(config)
    refuse_augmentation(config)
    likelihood = assemble.likelihood(config, trust)
    check_settings(likelihood, "likelihood")
    chosen = assemble.dequantization(config, trust) if config.get("dequantization") else None
    check_count(1 if wanted.n is None else wanted.n, wanted.batch_size)
    members = world()
    device = resolve_device(wanted.device, members.local)
    found, denoiser = load_denoiser(config, wanted.ckpt, device, trust)
    split = examples_of(found, config, wanted.split, trust)
    exam = ScoringJob(
        denoiser=denoiser, split=split, own=assemble.dequantization(found.config, trust), chosen=chosen,
        n=len(split) if wanted.n is None else min(wanted.n, len(split)), seed=wanted.seed,
        batch_size=wanted.batch_size, audit=wanted.audit, device=device, world=members,
        facts={"split": wanted.split, "checkpoint": str(found.path), "checkpoint_step": found.step},
    )  # fmt: skip
    if wanted.per_class:
        check_classes(exam)
    if exam.world.first:
        write_overrides(directory, overrides())
    scored = score(exam, likelihood, directory)
    if wanted.per_class:
        classify(exam, likelihood, directory)
    if wanted.against is not None and exam.world.first:
        compare_paths(config, exam, found, scored, wanted.against, directory, trust)
    if exam.world.first:
        console.result(f"run directory: {directory}")


def refuse_augmentation(config: dict[str, Any]) -> None:
    """A likelihood is of the examples as they are.

    Raises:
        UserError: the command asks for mirrored ones.
    """
    if config["dataset"].get("flip"):
        raise UserError(
            "dataset.flip=true: a likelihood is of the examples as they are, each once; allowed: leave it out (a model "
            "trained with flips is scored without them)"
        )

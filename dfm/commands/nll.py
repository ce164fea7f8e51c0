"""``dfm nll``: log-likelihoods of held-out data, with their errors."""

from dataclasses import dataclass
from typing import Any

from omegaconf import DictConfig

from dfm import console
from dfm.config import launch, overrides, plain, run_directory, settings
from dfm.errors import UserError


@dataclass(frozen=True)
class NllSettings:
    """The command's own keys; ``configs/nll.yaml`` says what each is."""

    ckpt: str | None
    split: str
    n: int | None
    seed: int
    batch_size: int
    audit: int
    against: str | None
    per_class: bool
    device: str


def main() -> None:
    """The command; under torchrun its processes share the examples."""
    launch("nll", job, shared=True)


def job(cfg: DictConfig) -> None:
    """Score one checkpoint on one split."""
    config, directory = plain(cfg), run_directory()
    wanted = settings(config, NllSettings)
    from dfm import assemble
    from dfm.commands.against import compare_paths
    from dfm.commands.classified import check_classes, classify
    from dfm.commands.idle import check_likelihood
    from dfm.commands.loaded import examples_of, loaded
    from dfm.commands.scored import Exam, score
    from dfm.devices import resolve_device
    from dfm.distributed import team
    from dfm.run_dir import write_overrides
    from dfm.sampling import check_count

    trust = assemble.trusted(config)
    refuse_augmentation(config)
    likelihood = assemble.likelihood(config, trust)
    check_likelihood(likelihood)
    chosen = assemble.dequantization(config, trust) if config.get("dequantization") else None
    check_count(1 if wanted.n is None else wanted.n, wanted.batch_size)
    members = team()
    device = resolve_device(wanted.device, members.local)
    found, denoiser = loaded(config, wanted.ckpt, device, trust)
    split = examples_of(found, config, wanted.split, trust)
    exam = Exam(
        denoiser=denoiser, split=split, own=assemble.dequantization(found.config, trust), chosen=chosen,
        n=len(split) if wanted.n is None else min(wanted.n, len(split)), seed=wanted.seed,
        batch_size=wanted.batch_size, audit=wanted.audit, device=device, team=members,
        facts={"split": wanted.split, "checkpoint": str(found.path), "checkpoint_step": found.step},
    )  # fmt: skip
    if wanted.per_class:
        check_classes(exam)
    if exam.team.first:
        write_overrides(directory, overrides())
    scored = score(exam, likelihood, directory)
    if wanted.per_class:
        classify(exam, likelihood, directory)
    if wanted.against is not None and exam.team.first:
        compare_paths(config, exam, found, scored, wanted.against, directory, trust)
    if exam.team.first:
        console.say(f"run directory: {directory}")


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

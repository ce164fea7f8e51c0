"""What a resumed run finds changed: its data, which must be the same, and its length, which changes the rate."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dfm.basics.errors import UserError
from dfm.cli import console
from dfm.cli.commands.train.resume import needs_teacher
from dfm.cli.composition.command_line import overrides
from dfm.cli.from_checkpoint import warn_other_names
from dfm.cli.words.own_code import key_of
from dfm.cli.words.printed_command import printed, setting
from dfm.data.dataset import Dataset, DatasetSpec
from dfm.runs.build import settings
from dfm.runs.checkpoint import Checkpoint
from dfm.training.learning_rate import LearningRate
from dfm.training.trainer import Trainer
from dfm.training.trainer_config import TrainerConfig

LENGTH = ("max_steps", "max_minutes")


def check_same_data(newest: Checkpoint, spec: DatasetSpec, data: Dataset, run: Path) -> None:
    """Refuse other data than those with which a run started, and warn of other names of their classes.

    A run of dfm 0.1 knows only their form and moments.

    Args:
        newest: the checkpoint from which the run goes on.
        spec: the form of the data that were found now.

    Raises:
        UserError: the form, the number or the content of a split differs.
    """
    unlike = spec.unlike(newest.spec)
    other = [f"the data have {', '.join(unlike)}"] if unlike else []
    for name, trained in newest.data.items() if not other else ():
        found = data.fingerprint(name)
        if found.examples != trained.examples:
            other.append(f"the {name} split has {found.examples} examples instead of {trained.examples}")
        elif found != trained:
            other.append(f"the {name} split has other examples")
    if other:
        if names := newest.spec.names_changed(spec):
            other[0] += f", and classes have other names: {names}"
        fits = (spec.shape, spec.num_classes) == (newest.spec.shape, newest.spec.num_classes)
        start = [setting("init", run)] if fits and not needs_teacher(newest.config) else []
        words = [text for text in overrides() if key_of(text).startswith("dataset.")]
        command = printed("train", setting("from", run), *start, *words)
        raise UserError(
            f"resume: {other[0]}; allowed: the data with which this run started; for a new run on these, try {command}"
        )
    warn_other_names("resume: the data", newest.spec, spec)


def adapt_rate(trainer: Trainer, before: Mapping[str, Any]) -> None:
    """Apply ``trainer.rate_on_resume`` if the length of the run has changed, and say what the rate does.

    Args:
        trainer: with the state of the checkpoint.
        before: the trainer's settings when that checkpoint was written.
    """
    now, rate = trainer.config, trainer.rate
    changed = [name for name in LENGTH if before.get(name) != getattr(now, name)]
    regretted = (before.get("rate_on_resume"), now.rate_on_resume) == ("keep", "rewarm")
    ended = not trainer.step or trainer.progress >= 1  # before its first step, or after its last
    if now.lr_schedule != "cosine" or ended or not (changed or regretted):
        return
    last = last_rate(trainer, before)
    if now.rate_on_resume == "rewarm":
        rate.rewarm()
    else:
        rate.keep(trainer.step, trainer.progress, last)
    what = ", ".join(f"trainer.{name} is {getattr(now, name)}, was {before.get(name)}" for name in changed)
    rewarm, keep = "rewarm: the rate of a run of this length", "keep: on from the last rate, without a jump"
    chosen, other = (rewarm, keep) if now.rate_on_resume == "rewarm" else (keep, rewarm)
    console.say(
        f"{what or 'another trainer.rate_on_resume'}: the learning rate goes from {last:.3g} to "
        f"{trainer.learning_rate():.3g} (trainer.rate_on_resume={chosen}; there is {other})"
    )


def last_rate(trainer: Trainer, before: Mapping[str, Any]) -> float:
    """Return the rate of the last step: noted in the checkpoint, or computed for a run that was begun with dfm 0.1."""
    if trainer.rate.last is not None:
        return trainer.rate.last
    config, step = settings(before, TrainerConfig), trainer.step - 1
    shares = [step / config.max_steps if config.max_steps else 1.0]
    if config.max_minutes is not None:
        shares.append(trainer.seconds / (60 * config.max_minutes))
    return LearningRate(config).at(step, min(1.0, max(shares)))

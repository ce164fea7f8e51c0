"""Which examples the validation of a training run has, and how many."""

from dataclasses import dataclass

from dfm.cli import console
from dfm.data.split import Split
from dfm.runs.parts import Parts

MOST, LEAST = 512, 16  # examples of a validation
SHARE = 0.05  # of the time of the training steps


@dataclass(frozen=True)
class Validation:
    """The examples of a validation.

    Args:
        split: the validation split, or the test split if that one is empty; None if both are.
        count: how many of its first examples a validation has.
    """

    split: Split | None
    count: int


def validation_of(parts: Parts) -> Validation:
    """Return the validation of a run, and say so if it has fewer than ``MOST`` examples though there are more.

    A clock must not decide, because the losses choose the checkpoint that stays. So this counts: a pass costs a third
    of a step's work for the same examples, and all passes cost ``SHARE`` of the steps' at most.
    """
    config = parts.trainer
    splits = (parts.dataset.split(name) for name in ("validation", "test"))
    split = next((split for split in splits if len(split)), None)
    between = config.validate_every * config.batch_size  # examples; 0: only at the end
    fitting = int(3 * SHARE * between) if between else MOST
    count = min(MOST, max(LEAST, fitting))
    whole = 0 if split is None else min(MOST, len(split))
    if count < whole and parts.objective.validates:
        console.say(
            f"validation: {count} of {whole} examples each time, so that it takes {SHARE:.0%} of the training; for "
            f"all, try trainer.validate_every={-(-config.validate_every * whole // max(1, fitting))}"
        )
    return Validation(split, count)

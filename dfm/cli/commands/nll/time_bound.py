"""Likelihoods in bounded time: how many examples fit, decided from the cost of a few before the others are scored.

The examples are taken in a random order that the seed decides, so any number of them is a fair sample of all, and the
standard error over them is honest. Their number follows from the time that a first few need, never from a value. If
all of them fit, they are scored as without a bound.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

from dfm.basics.seeding import Purpose, stream
from dfm.likelihood.error_bars import choose_steps
from dfm.likelihood.scoring import Scoring

LEAST = 8  # examples that are scored in any case
FIRST = 4  # examples of the first measurement of the cost
LADDER_SHARE = 1 / 3  # of the time, at most, for choosing the number of steps
LADDER_COST = 15  # a typical search for the number of steps: 1 + 2 + 4 + 8 times its smallest
AUDIT_SHARE = 1 / 2  # of the time, at most, for scoring again


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What is scored.

    Args:
        indices: the examples.
        subset: those of them that are scored again.
        bounded: whether they are fewer than was asked.
    """

    scoring: Scoring
    indices: Sequence[int]
    subset: Sequence[int]
    bounded: bool


def everything(scoring: Scoring, asked: Sequence[int], subset: list[int]) -> Plan:
    """Return the plan without a bound."""
    return Plan(scoring=choose_steps(scoring, subset), indices=asked, subset=subset, bounded=False)


def in_time(scoring: Scoring, asked: Sequence[int], subset: list[int], seconds: float) -> Plan:
    """Return the plan whose scoring takes about ``seconds``. The search for the number of steps is part of it.

    All processes must call this together; they get the same plan.

    Args:
        asked, subset: the plan without a bound.
    """
    started, n = time.perf_counter(), len(asked)

    def left() -> float:
        return seconds - scoring.world.all_max(time.perf_counter() - started)

    places = stream(scoring.seed, 0, Purpose.RESAMPLE, step=2).permutation(n).tolist()
    order = [asked[place] for place in places]
    ladder, pilot = scoring.likelihood.ladder(), subset
    if ladder:
        cheapest = replace(scoring, likelihood=ladder[min(ladder)])
        budget = LADDER_SHARE * seconds / LADDER_COST
        pilot = _fitting(subset, order, budget / cost(cheapest, order, len(subset), budget, seconds))
    before = left()
    scoring = choose_steps(scoring, pilot)
    weight = audit_cost(scoring)
    whole = n + weight * len(subset)
    each = (before - left()) / len(
        pilot
    )  # the search for the number of steps took more than one scoring at that number
    if not ladder or whole * each > left():
        each = cost(scoring, order, whole, left(), seconds)
    time_left = left()
    if whole * each <= time_left:
        return Plan(scoring=scoring, indices=asked, subset=subset, bounded=False)
    fitting = int(AUDIT_SHARE * time_left / (weight * each)) if weight else len(subset)
    audited = min(len(subset), max(LEAST, fitting))
    count = min(n, max(audited, LEAST, int(time_left / each - weight * audited)))
    return Plan(scoring=scoring, indices=sorted(order[:count]), subset=sorted(order[:audited]), bounded=True)


def audit_cost(scoring: Scoring) -> int:
    """Return how much more an audited example costs: other probes, other noise, and twice the steps."""
    likelihood = scoring.likelihood
    finer = 2 if likelihood.finer() is not None else 0
    return int(likelihood.noisy) + int(scoring.dequantizes) + finer + int(likelihood.estimate() is not None)


def cost(scoring: Scoring, order: Sequence[int], wanted: float, left: float, seconds: float) -> float:
    """Return the seconds that an example takes, the longest among the processes.

    A few examples cost more each than a full batch does. So more are timed, four times as many each time, until
    ``wanted`` of them fit into ``left``, a batch is full, or a tenth of ``seconds`` is used.
    """
    size, used = FIRST, 0.0
    while True:
        start = time.perf_counter()
        scoring.all(order[: size * scoring.world.size])
        took = scoring.world.all_max(time.perf_counter() - start)
        used += took
        each = max(took, 1e-9) / min(len(order), size * scoring.world.size)
        full = size >= min(scoring.batch_size, len(order))
        if wanted * each <= left or full or used > seconds / 10:
            return each
        size = min(4 * size, scoring.batch_size)


def _fitting(subset: list[int], order: Sequence[int], count: float) -> list[int]:
    """Return the subset if ``count`` examples are enough for it, else the first ones of the order."""
    return subset if count >= len(subset) else sorted(order[: max(LEAST, int(count))])

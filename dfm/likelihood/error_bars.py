"""The error of a mean of likelihoods, in parts.

The standard error of the mean over n examples has three parts: the examples differ, each has its own probe, and each
has its own dequantisation noise. The last two parts are measured on a subset, the audit, which is scored again with
other probes and with other noise. The variance of one draw is half of the mean squared difference.

The solver's error is the error of the mean of the main pass, I_N in N steps. It is estimated from the same subset with
twice the steps. For a method of order p the error is e(N) = c/N^p in the limit of many steps, so

    I_2N - I_N = (1 - 2^-p) c/N^p        e(N) = (I_2N - I_N) 2^p/(2^p - 1)

The factor (``change_to_error``) is 2 for Euler, 4/3 for order two and 32/31 for order five. An adaptive solver is
compared with a tenth of its tolerances, to which its error is about proportional, so its factor is 10/9; the result is
good to a factor of two or three. The result of a grid solver, too, is an estimate. It is too large or too small where
the steps are too long for the limit, where a network is not smooth, or where the errors of the examples cancel.
"""

import math
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from dfm.basics.intervals import mean_interval
from dfm.data.dataset import DatasetSpec
from dfm.data.numbers.pixel_levels import unit_of
from dfm.likelihood.scoring import Advance, Scores, Scoring


@dataclass(frozen=True, kw_only=True)
class Audit:
    """The scores of the audit's subset, in nats, (m,) each; None where the estimator has no such error.

    Args:
        base: the scores of the main pass.
        other_probe: with other probes.
        other_noise: with other dequantisation noise.
        fine: with a smaller solver error.
    """

    base: Tensor
    other_probe: Tensor | None = None
    other_noise: Tensor | None = None
    fine: Tensor | None = None


def choose_steps(scoring: Scoring, subset: list[int]) -> Scoring:
    """Return the scoring with a number of steps; if the user left it open, choose it by scoring the subset.

    The choice is the smallest number of the ladder whose error (root mean square over the examples, estimated from
    twice the steps) is at most the tolerance. If there is none, it is the largest.
    """
    ladder = scoring.likelihood.ladder()
    if not ladder:
        return scoring
    scale = unit_of(scoring.denoiser.spec).per_nat * scoring.likelihood.change_to_error
    scores: dict[int, Tensor] = {}

    def at(steps: int) -> Tensor:
        """Return the scores of the subset with this number of steps; their changes are errors, like the tolerance."""
        if steps not in scores:
            pilot = replace(scoring, likelihood=ladder[steps], dequantization=scoring.dequantization.inner)
            scores[steps] = pilot.all(subset).nats * scale
        return scores[steps]

    for steps in sorted(ladder):
        if (
            2 * steps in ladder
            and float((at(steps) - at(2 * steps)).square().mean().sqrt()) <= scoring.likelihood.tolerance
        ):
            break
    return replace(scoring, likelihood=scoring.likelihood.with_steps(steps))


def audit_subset(scoring: Scoring, subset: list[int], base: Tensor, advance: Advance) -> Audit:
    """Score the subset again, once for each source of error that the estimator has."""

    def again(needed: bool, **change: Any) -> Tensor | None:
        return scoring.all(subset, advance, **change).nats if needed else None

    return Audit(
        base=base,
        other_probe=again(scoring.likelihood.noisy, probe=1),
        other_noise=again(scoring.dequantizes, noise=1),
        fine=again(scoring.likelihood.finer() is not None, fine=True),
    )


def report(scores: Scores, audit: Audit, spec: DatasetSpec, change_to_error: float = 1.0) -> dict[str, Any]:
    """Return the content of ``nll.json``: the mean, its standard error with its parts, and the solver's error.

    Errors and ``interval95`` are in the unit of the mean: bits/dim for integer data, nats for points. The interval
    follows from the standard error by Student's t; the solver's error is not in it. ``converged`` is false, and
    ``problem`` gives the reason, if the solver's error exceeds the standard error, if a value is not finite, or if
    integer data have less than zero bits, which is impossible for a probability.

    Args:
        change_to_error: as ``Likelihood.change_to_error``.
    """
    n, unit = len(scores.nats), unit_of(spec)
    mean = float(scores.nats.mean())
    stderr = float(scores.nats.std()) / math.sqrt(n) if n > 1 else None
    probe, noise = (_part(audit.base, other, n) for other in (audit.other_probe, audit.other_noise))
    data = None if stderr is None else math.sqrt(max(0.0, stderr**2 - probe**2 - noise**2))
    solver = 0.0 if audit.fine is None else change_to_error * float((audit.fine - audit.base).mean().abs())
    interval = mean_interval(mean, stderr, n)
    parts = {"stderr": stderr, "stderr_data": data, "stderr_probe": probe, "stderr_dequantization": noise}
    problem = _problem(mean, solver, stderr, spec)
    return {
        "unit": unit.name,
        "bits_per_dim": None if spec.levels is None else _finite(unit.of(mean)),
        "nats": _finite(mean),
        **{name: None if value is None else _finite(value * unit.per_nat) for name, value in parts.items()},
        "interval95": None if interval is None else [unit.of(end) for end in interval],
        "interval95_nats": interval,
        "solver_error": _finite(solver * unit.per_nat),
        "converged": problem is None,
        "problem": problem,
        "num_examples": n,
        "num_audited": len(audit.base),
        "nfe": scores.evaluations / n,
        "levels": spec.levels,
    }


def _problem(mean: float, solver: float, stderr: float | None, spec: DatasetSpec) -> str | None:
    """Return what is wrong with the result, in a few words; None if no problem is known."""
    if not (math.isfinite(mean) and math.isfinite(solver)):
        return "a value is not finite"
    if spec.levels is not None and mean <= 0:
        return "below zero bits/dim, impossible for integers: an error of the settings, not of the model"
    if solver > (stderr or 0.0):
        return "more steps change the result by more than its standard error"
    return None


def _part(base: Tensor, other: Tensor | None, n: int) -> float:
    """Return the standard error of a mean over n examples due to one source of noise, from a second draw of it."""
    return 0.0 if other is None else math.sqrt(float((other - base).square().mean()) / 2 / n)


def _finite(value: float) -> float | None:
    """Return the value, or None if it is not finite: JSON has no infinity."""
    return value if math.isfinite(value) else None

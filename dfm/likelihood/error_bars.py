"""What a mean of held-out likelihoods is worth: its error, in parts.

The standard error of the mean over n examples contains three parts: examples differ, and each has its own probe and
its own dequantisation noise. The last two are measured on a subset (the audit) that is scored again with other probes
and with other noise; the variance of one draw is half the mean square of the difference. The solver's error is the
change of the mean on the same subset at twice the steps (a tenth of the tolerances for an adaptive solver): half the
steps would show the error of half the steps, which for a method of order five is 32 times that of the figure.
"""

import math
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from dfm.data.dataset import DatasetSpec
from dfm.data.pixel_levels import unit_of
from dfm.likelihood.scoring import Advance, Scores, Scoring


@dataclass(frozen=True, kw_only=True)
class Audit:
    """Scores in nats (m,) of a subset: as in the main pass, with other probes, with other noise, and finer."""

    base: Tensor
    other_probe: Tensor | None = None
    other_noise: Tensor | None = None
    fine: Tensor | None = None


def choose_steps(scoring: Scoring, subset: list[int]) -> Scoring:
    """The scoring with steps, where they are left open: enough by the subset, whose examples are scored on a ladder.

    Enough are the fewest whose doubling moves an example by no more than the tolerance (root mean square); where none
    are, the most.
    """
    ladder = scoring.likelihood.ladder()
    if not ladder:
        return scoring
    per_nat = unit_of(scoring.denoiser.spec).per_nat
    found: dict[int, Tensor] = {}

    def at(steps: int) -> Tensor:
        if steps not in found:
            pilot = replace(scoring, likelihood=ladder[steps], dequantization=scoring.dequantization.inner)
            found[steps] = pilot.all(subset).nats * per_nat
        return found[steps]

    for steps in sorted(ladder):
        if (
            2 * steps in ladder
            and float((at(steps) - at(2 * steps)).square().mean().sqrt()) <= scoring.likelihood.tolerance
        ):
            break
    return replace(scoring, likelihood=scoring.likelihood.with_steps(steps))


def audit_subset(scoring: Scoring, subset: list[int], base: Tensor, advance: Advance) -> Audit:
    """The subset scored again in every way that the estimator has."""

    def again(wanted: bool, **change: Any) -> Tensor | None:
        return scoring.all(subset, advance, **change).nats if wanted else None

    return Audit(
        base=base,
        other_probe=again(scoring.likelihood.noisy, probe=1),
        other_noise=again(scoring.dequantizes, noise=1),
        fine=again(scoring.likelihood.finer() is not None, fine=True),
    )


def report(scored: Scores, audit: Audit, spec: DatasetSpec) -> dict[str, Any]:
    """The content of ``nll.json``: mean, standard error with its parts, the solver's error, and whether to trust it.

    Errors are in the unit of the figure: bits/dim for integer data, nats for points. ``converged`` is false where
    twice the steps move the mean by more than its standard error, where a value is not finite, and where integer
    data come out below zero bits, which no probability can; ``problem`` says which.
    """
    n, unit = len(scored.nats), unit_of(spec)
    mean = float(scored.nats.mean())
    stderr = float(scored.nats.std()) / math.sqrt(n) if n > 1 else None
    probe, noise = (_part(audit.base, other, n) for other in (audit.other_probe, audit.other_noise))
    data = None if stderr is None else math.sqrt(max(0.0, stderr**2 - probe**2 - noise**2))
    solver = 0.0 if audit.fine is None else float((audit.fine - audit.base).mean().abs())
    parts = {"stderr": stderr, "stderr_data": data, "stderr_probe": probe, "stderr_dequantization": noise}
    problem = _problem(mean, solver, stderr, spec)
    return {
        "unit": unit.name,
        "bits_per_dim": None if spec.levels is None else _finite(unit.of(mean)),
        "nats": _finite(mean),
        **{name: None if value is None else _finite(value * unit.per_nat) for name, value in parts.items()},
        "solver_error": _finite(solver * unit.per_nat),
        "converged": problem is None,
        "problem": problem,
        "num_examples": n,
        "num_audited": len(audit.base),
        "nfe": scored.evaluations / n,
        "levels": spec.levels,
    }


def _problem(mean: float, solver: float, stderr: float | None, spec: DatasetSpec) -> str | None:
    """What is wrong with a figure, in a few words; None if nothing is known to be."""
    if not (math.isfinite(mean) and math.isfinite(solver)):
        return "a value is not finite"
    if spec.levels is not None and mean <= 0:
        return "below zero bits/dim, which no probability of integers has: an error of the setting, not of the model"
    if solver > (stderr or 0.0):
        return "a finer solution gives another figure, by more than its standard error"
    return None


def _part(base: Tensor, other: Tensor | None, n: int) -> float:
    """Standard error of a mean over n due to one source of noise, from a second draw of it."""
    return 0.0 if other is None else math.sqrt(float((other - base).square().mean()) / 2 / n)


def _finite(value: float) -> float | None:
    """JSON has no infinities."""
    return value if math.isfinite(value) else None

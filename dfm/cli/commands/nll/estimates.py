"""Score a model with one estimator or with all of them, for ``dfm nll`` and for the end of ``dfm train``."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from dfm.basics.errors import UserError
from dfm.basics.files import write_json
from dfm.basics.intervals import mean_interval
from dfm.basics.processes import World
from dfm.cli import console, progress
from dfm.cli.commands.nll.report import print_report, write_csv, write_levels, write_table
from dfm.cli.commands.nll.time_bound import Plan, everything, in_time
from dfm.data.dataset import Split
from dfm.data.numbers.dequantization import Dequantization
from dfm.data.numbers.pixel_levels import unit_of
from dfm.denoising.denoiser import Denoiser
from dfm.likelihood.error_bars import Audit, audit_subset, report
from dfm.likelihood.estimator import Entry, Estimators, Likelihood, prior_gap
from dfm.likelihood.examples import examples
from dfm.likelihood.scoring import Advance, Scores, Scoring

PIXELS = 1 << 14  # in a batch on a CPU: 16 images of 32x32, 256 of 8x8


@dataclass(frozen=True, kw_only=True)
class ScoringJob:
    """A model, the examples to score, and the settings of the scoring.

    Args:
        own: the dequantisation of the model's training.
        chosen: the dequantisation that the user asks for, or None.
        n: the number of examples; the first n of the split are scored.
        audit: the number of examples that are scored again, to find the errors of the estimate.
        facts: further entries of ``nll.json``.
        max_minutes: the time for all of it, about; None for any time.
    """

    denoiser: Denoiser
    split: Split
    own: Dequantization
    chosen: Dequantization | None
    n: int
    seed: int
    batch_size: int
    audit: int
    device: torch.device
    facts: dict[str, Any]
    world: World
    max_minutes: float | None = None

    def __post_init__(self) -> None:
        if self.max_minutes is not None and not self.max_minutes > 0:
            raise UserError(f"max_minutes={self.max_minutes:g}; allowed: above 0, or null for no bound")

    def entries(self, likelihood: Estimators) -> list[Entry]:
        """Return the lines of the result: one estimator, or all of them.

        Raises:
            UserError: the dequantisation or the decoder does not suit the data.
        """
        return suited_entries(self.denoiser, likelihood, self.own, self.chosen)

    def subset(self) -> list[int]:
        """Return the examples that are scored again, evenly spread over all of them."""
        return torch.linspace(0, self.n - 1, min(max(1, self.audit), self.n)).round().long().tolist()

    def scoring(self, entry: Entry) -> Scoring:
        """Return the scoring for one line of the result. On a CPU its batches are small, so that progress is seen."""
        spec, most = self.denoiser.spec, self.batch_size
        if self.device.type == "cpu":
            most = min(most, max(1, PIXELS // math.prod(spec.shape[1:])))
        return Scoring(
            denoiser=self.denoiser,
            likelihood=entry.likelihood,
            split=self.split,
            seed=self.seed,
            batch_size=most,
            device=self.device,
            dequantization=entry.dequantization,
            world=self.world,
        )


def suited_entries(
    denoiser: Denoiser, likelihood: Estimators, own: Dequantization, chosen: Dequantization | None = None
) -> list[Entry]:
    """Return the lines of a result, each with its estimator adapted to the data. This is asked before any long work.

    Args:
        own, chosen: as in ``ScoringJob``.

    Raises:
        UserError: the dequantisation, the decoder or the prior does not suit the estimator or the data.
    """
    spec = denoiser.spec
    if spec.levels is None and chosen is not None:
        raise UserError(f"dequantization=: {spec.name} has no integer levels; try without dequantization=")
    entries = likelihood.entries(spec, own, chosen)
    entries = [replace(e, likelihood=e.likelihood.adapt(spec, e.dequantization)) for e in entries]
    if chosen is not None and entries[0].likelihood.discrete(spec):
        raise UserError(
            f"dequantization=: likelihood={entries[0].name} with this decoder scores the integers themselves; "
            "allowed: likelihood=ode, or likelihood.decoder=gaussian; or try without dequantization="
        )
    if any(entry.likelihood.exact for entry in entries):
        denoiser.noise_end.log_density(torch.zeros(1, *spec.shape, dtype=torch.float64))  # refuses an unknown density
    return entries


def score(work: ScoringJob, likelihood: Estimators, directory: Path) -> Scores:
    """Score, print the report and write the files; return the scores of the main result.

    Only the first process writes and prints.
    """
    entries = work.entries(likelihood)
    seconds = None if work.max_minutes is None else 60 * work.max_minutes / len(entries)
    pairs = [score_entry(work, entry, seconds) for entry in entries]
    if work.world.first:
        # first on the screen: a full disk must not cost what was computed
        print_report([result for result, _ in pairs], work.denoiser.spec.name, work.facts["split"])
        write_results(work, pairs, directory)
    return pairs[0][1]


Result = dict[str, Any]


def write_results(work: ScoringJob, pairs: Sequence[tuple[Result, Scores]], directory: Path) -> None:
    """Write ``nll.csv`` and ``nll.json``, and the files for several estimators and for the parts of a bound."""
    spec, results, main_scores = work.denoiser.spec, [result for result, _ in pairs], pairs[0][1]
    several = len(pairs) > 1
    write_csv(directory / "nll.csv", main_scores, spec)
    facts = {**results[0], **work.facts, "seed": work.seed, **({"estimators": results} if several else {})}
    write_json(directory / "nll.json", facts)
    if several:
        write_table(directory / "estimators.csv", results)
    for result, scores in pairs:
        if scores.nats_by_level is not None:
            name = f"levels_{result['estimator']}" if several else "levels"
            write_levels(directory / f"{name}.csv", scores.nats_by_level, len(scores.nats), spec)


def score_entry(work: ScoringJob, entry: Entry, seconds: float | None = None) -> tuple[Result, Scores]:
    """Return the result of one estimator in plain containers, and its scores.

    Args:
        seconds: the time for it, about; None for any time.
    """
    with progress.work(quiet=not work.world.first) as shown:
        name = f"likelihood by {entry.name}"
        with shown.task(f"{name}: how many steps and examples", 1, "searches", brief=True):
            plan = plan_of(work, entry, seconds)
        scoring, subset = plan.scoring, list(plan.subset)
        indices = plan.indices
        if plan.bounded:
            console.say(
                f"{name}: {len(indices)} of {work.n} examples, drawn at random, {len(subset)} of them again, to take "
                f"about {progress.duration(seconds or 0.0)}; for all of them, try dfm nll ckpt=RUN"
            )
        with shown.task(name, len(indices) + passes(scoring) * len(subset), "examples") as task:
            scores = scoring.all(indices, task.advance)
            row_of = {index: row for row, index in enumerate(indices)}
            task.note("again, for the errors")
            audit = audit_subset(scoring, subset, scores.nats[[row_of[i] for i in subset]], task.advance)
            hutchinson = against_hutchinson(scoring, subset, audit, task.advance)
    result = {
        "estimator": entry.name,
        "dequantization": entry.dequantization.name if scoring.dequantizes else None,
        **report(scores, audit, work.denoiser.spec, scoring.likelihood.change_to_error),
        **path_ends(scoring, subset),
        "likelihood": settings_for_json(scoring.likelihood),
        **hutchinson,
        "num_asked": work.n,
        "bounded_by_minutes": work.max_minutes if plan.bounded else None,
    }
    return result, scores


def plan_of(work: ScoringJob, entry: Entry, seconds: float | None) -> Plan:
    """Return which examples are scored, all or as many as fit into ``seconds``."""
    scoring, subset = work.scoring(entry), work.subset()
    asked: Sequence[int] = subset if entry.audit_only else range(work.n)
    return everything(scoring, asked, subset) if seconds is None else in_time(scoring, asked, subset, seconds)


def passes(scoring: Scoring) -> int:
    """Return how often the audit scores its subset, for the bar."""
    likelihood = scoring.likelihood
    reasons = (
        likelihood.noisy,
        scoring.dequantizes,
        likelihood.finer() is not None,
        likelihood.estimate() is not None,
    )
    return sum(bool(reason) for reason in reasons)


def against_hutchinson(scoring: Scoring, subset: list[int], audit: Audit, advance: Advance) -> dict[str, Any]:
    """Return how far Hutchinson's estimate is from the exact divergence on the subset: in nats, and as a z-score.

    Without an exact divergence the result is empty.
    """
    estimate = scoring.likelihood.estimate()
    if estimate is None or len(subset) < 2:
        return {}
    gap = replace(scoring, likelihood=estimate).all(subset, advance).nats - audit.base
    stderr = float(gap.std()) / math.sqrt(len(gap))
    z = 0.0 if stderr == 0 else float(gap.mean()) / stderr
    interval = mean_interval(float(gap.mean()), stderr, len(gap))
    return {
        "hutchinson": {
            "difference_nats": float(gap.mean()),
            "stderr_nats": stderr,
            "z": z,
            "n": len(gap),
            "interval95": interval,
        }
    }


def path_ends(scoring: Scoring, subset: list[int]) -> dict[str, float | None]:
    """Return facts on both ends of the path.

    ``t_min`` is the time on the denoiser's schedule where the density is taken, and ``nsr_min`` is b/a there.
    ``prior_gap`` bounds the error of the prior at the other end in the unit of the figure; None if it is not known.
    """
    denoiser, spec = scoring.denoiser, scoring.denoiser.spec
    t = denoiser.schedule.time_of_log_nsr(torch.tensor(scoring.start, dtype=torch.float64))
    gap = None
    if denoiser.prior.gaussian and denoiser.independent:
        data = examples(scoring.split, spec, subset, scoring.seed, scoring.dequantization.inner, scoring.start)
        gap = unit_of(spec).of(float(prior_gap(denoiser, data).mean()))
    return {"t_min": max(float(t), denoiser.t_min), "nsr_min": math.exp(scoring.start), "prior_gap": gap}


def settings_for_json(likelihood: Likelihood) -> dict[str, Any]:
    """Return the settings that have an effect on the result. A setting that is a part is given by its name."""
    unused = likelihood.unused_settings()
    plain = (int, float, str, type(None))
    return {
        key: value if isinstance(value, plain) else getattr(value, "name", str(value))
        for key, value in vars(likelihood).items()
        if key not in unused
    }

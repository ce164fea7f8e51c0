"""Scoring a model by one estimator or by all: the work of ``dfm nll``, and of ``dfm train`` at its end."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from dfm.basics.errors import UserError
from dfm.basics.files import write_json
from dfm.basics.processes import World
from dfm.cli import console
from dfm.cli.commands.nll.report import print_report, write_csv, write_levels, write_table
from dfm.data.dataset import Split
from dfm.data.dequantization import Dequantization
from dfm.data.pixel_levels import unit_of
from dfm.denoising.denoiser import Denoiser
from dfm.likelihood.error_bars import Audit, audit_subset, choose_steps, report
from dfm.likelihood.estimator import Entry, Estimators, Likelihood, prior_gap
from dfm.likelihood.scoring import Advance, Scores, Scoring, examples


@dataclass(frozen=True, kw_only=True)
class ScoringJob:
    """What is scored, and how much of it.

    Args:
        own: the dequantisation of the model's training.
        chosen: another one that the command names, or None.
        n: the first so many examples.
        audit: how many of them are scored again.
        facts: what joins the JSON.
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

    def entries(self, likelihood: Estimators) -> list[Entry]:
        """The lines of the result: one, or all.

        Raises:
            UserError: the dequantisation or the decoder does not suit the data.
        """
        spec = self.denoiser.spec
        if spec.levels is None and len(spec.shape) > 1:
            raise UserError(
                f"{spec.name}: images of {spec.shape} with no levels on record, so bits/dim has no unit; allowed: "
                "integer images, whose spec says how many levels a pixel has"
            )
        if spec.levels is None and self.chosen is not None:
            raise UserError(f"dequantization=: {spec.name} has no integer levels; allowed: leave it out")
        entries = likelihood.entries(spec, self.own, self.chosen)
        entries = [replace(e, likelihood=e.likelihood.adapt(spec, e.dequantization)) for e in entries]
        if self.chosen is not None and entries[0].likelihood.discrete(spec):
            raise UserError(
                f"dequantization=: likelihood={entries[0].name} with this decoder scores integers as they "
                "are; allowed: leave it out, or likelihood=ode, likelihood.decoder=gaussian"
            )
        return entries

    def subset(self) -> list[int]:
        """The examples that are scored again, evenly spread."""
        return torch.linspace(0, self.n - 1, min(max(1, self.audit), self.n)).round().long().tolist()

    def scoring(self, entry: Entry) -> Scoring:
        """The work for one line."""
        return Scoring(
            denoiser=self.denoiser, likelihood=entry.likelihood, split=self.split, seed=self.seed,
            batch_size=self.batch_size, device=self.device, dequantization=entry.dequantization, world=self.world,
        )  # fmt: skip


def score(work: ScoringJob, likelihood: Estimators, directory: Path) -> Scores:
    """Score and write; what comes back are the scores of the first line. Only the first process writes and speaks."""
    entries = work.entries(likelihood)
    found = [one(work, entry) for entry in entries]
    results = [result for result, _ in found]
    whole = {**results[0], **work.facts, "seed": work.seed}
    if len(results) > 1:
        whole["estimators"] = results
    if work.world.first:
        write_csv(directory / "nll.csv", found[0][1], work.denoiser.spec)
        write_json(directory / "nll.json", whole)
        if len(found) > 1:
            write_table(directory / "estimators.csv", results)
        for result, scored in found:
            if scored.nats_by_level is not None:
                name = "levels" if len(found) == 1 else f"levels_{result['estimator']}"
                write_levels(directory / f"{name}.csv", scored.nats_by_level, len(scored.nats), work.denoiser.spec)
        print_report(results, work.denoiser.spec.name, work.facts["split"])
    return found[0][1]


def one(work: ScoringJob, entry: Entry) -> tuple[dict[str, Any], Scores]:
    """The result of one estimator, and its scores."""
    subset = work.subset()
    scoring = choose_steps(work.scoring(entry), subset)
    indices: Sequence[int] = subset if entry.audit_only else range(work.n)
    with console.bar(quiet=not work.world.first) as bar:
        task = bar.add_task(f"nll {entry.name}", total=len(indices) + passes(scoring) * len(subset))

        def advance(count: int) -> None:
            bar.advance(task, count)

        scored = scoring.all(indices, advance)
        place = {index: row for row, index in enumerate(indices)}
        audit = audit_subset(scoring, subset, scored.nats[[place[i] for i in subset]], advance)
        result = {
            "estimator": entry.name,
            "dequantization": entry.dequantization.name if scoring.dequantizes else None,
            **report(scored, audit, work.denoiser.spec),
            **path_ends(scoring, subset),
            "likelihood": settings_for_json(scoring.likelihood),
            **against_hutchinson(scoring, subset, audit, advance),
        }
    return result, scored


def passes(scoring: Scoring) -> int:
    """How often the audit scores its subset, for the bar."""
    own = scoring.likelihood
    again = (own.noisy, scoring.dequantizes, own.finer() is not None, own.estimate() is not None)
    return sum(bool(wanted) for wanted in again)


def against_hutchinson(scoring: Scoring, subset: list[int], audit: Audit, advance: Advance) -> dict[str, Any]:
    """For the exact divergence: the mean of Hutchinson's figure minus it on the subset, in standard errors."""
    estimate = scoring.likelihood.estimate()
    if estimate is None or len(subset) < 2:
        return {}
    estimated = replace(scoring, likelihood=estimate).all(subset, advance).nats
    gap = estimated - audit.base
    stderr = float(gap.std()) / math.sqrt(len(gap))
    z = float(gap.mean()) / stderr if stderr > 0 else 0.0
    return {"hutchinson": {"difference_nats": float(gap.mean()), "stderr_nats": stderr, "z": z, "n": len(gap)}}


def path_ends(scoring: Scoring, subset: list[int]) -> dict[str, float | None]:
    """Where on the path the density is taken: the time on the denoiser's schedule, and b/a there; and what the prior
    at the other end may cost, at most (null for a prior whose gap is not known), in the figure's unit."""
    denoiser, spec = scoring.denoiser, scoring.denoiser.spec
    t = denoiser.schedule.time_of_log_nsr(torch.tensor(scoring.start, dtype=torch.float64))
    gap = None
    if denoiser.prior.gaussian and denoiser.independent:
        data = examples(scoring.split, spec, subset, scoring.seed, scoring.dequantization.inner, scoring.start)
        gap = unit_of(spec).of(float(prior_gap(denoiser, data).mean()))
    return {"t_min": max(float(t), denoiser.t_min), "nsr_min": math.exp(scoring.start), "prior_gap": gap}


def settings_for_json(likelihood: Likelihood) -> dict[str, Any]:
    """The settings that matter to the figure; a part among them by its name."""
    unused = likelihood.unused_settings()
    known = (int, float, str, type(None))
    return {
        key: value if isinstance(value, known) else getattr(value, "name", str(value))
        for key, value in vars(likelihood).items()
        if key not in unused
    }

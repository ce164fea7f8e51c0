"""``dfm check`` on an exactly known law: errors, orders, marginals and likelihood bias of a sampler."""

from pathlib import Path
from typing import Any

from dfm.basics.files import write_json
from dfm.basics.intervals import as_text
from dfm.cli import console, progress
from dfm.cli.composition.config_dirs import options
from dfm.cli.job import Job
from dfm.cli.settings import CheckSettings
from dfm.data.numbers.units import to_model
from dfm.denoising.exact import MixtureDenoiser, exact_denoiser
from dfm.evaluation.known_law import (
    exact_end,
    follow,
    law_at,
    likelihood_bias,
    order_between,
    rms,
    start_gap,
    starting_points,
)
from dfm.runs.pictures.charts import curves
from dfm.runs.pictures.images import save_png
from dfm.sampling.samplers import Sampler


def check_sampler(job: Job) -> None:
    """Print the tables, and write the chart and ``check.json``, for the exact denoiser of a data set with a known law.

    Raises:
        UserError: the law of the data set is not known, or the job has several likelihood estimators.
    """
    wanted: CheckSettings = job.settings
    parts, data = job.parts, job.parts.dataset
    oracle, likelihood = exact_denoiser(data, parts.schedule), parts.likelihood.single()
    rows = sampler_rows(oracle, parts.sampler, wanted)
    marginals = marginal_rows(oracle, parts.sampler, wanted)
    test = data.split("test")
    few = to_model(test.take(range(min(wanted.n, 500, len(test)))).double(), oracle.spec)
    console.notices(data.all_notices)
    bias = likelihood_bias(oracle, likelihood, few, wanted.seed)
    gap = start_gap(oracle, few, wanted.seed)
    print_report(job.choice("sampler"), rows, marginals, bias, gap)
    samplers = {name: job.variant(f"sampler={name}").sampler for name in wanted.samplers or options("sampler")}
    series = {}
    with progress.task("check", len(samplers), "samplers") as task:
        for name, sampler in samplers.items():
            task.note(name)
            series[name] = sampler_rows(oracle, sampler, wanted)
            task.advance()
    draw(series, job.directory / "error_against_nfe.png")
    facts = {
        "sampler": job.choice("sampler"),
        "settings": job.config["sampler"],
        "schedule": job.config["schedule"],
        "n": wanted.n,
        "seed": wanted.seed,
        "errors": rows,
        "marginals": marginals,
        "likelihood_bias": vars(bias),
        "start_gap": vars(gap),
        "all": series,
    }
    write_json(job.directory / "check.json", facts)


def sampler_rows(oracle: MixtureDenoiser, sampler: Sampler, wanted: CheckSettings) -> list[dict[str, Any]]:
    """Return NFE, error, order and distance of laws for each number of steps; one row for an adaptive sampler."""
    x = starting_points(oracle, wanted.n, wanted.seed)
    rows: list[dict[str, Any]] = []
    counts = [None] if sampler.adaptive else list(wanted.steps)
    for steps in counts:
        end = follow(oracle, sampler if steps is None else sampler.with_steps(steps), x, wanted.seed)
        error = None if sampler.stochastic else rms(end.x, exact_end(oracle, x, end.t))
        law = law_at(oracle, end.t).distance(end.x)
        rows.append({"steps": steps, "nfe": end.nfe, "error": error, "law_distance": law})
    errors = [row["error"] for row in rows]
    orders = order_between([c or 1 for c in counts], errors) if None not in errors else [None] * len(rows)
    return [{**row, "order": order} for row, order in zip(rows, orders, strict=True)]


def marginal_rows(oracle: MixtureDenoiser, sampler: Sampler, wanted: CheckSettings) -> list[dict[str, Any]]:
    """Return Kolmogorov-Smirnov tests of the states along the path, for the largest number of steps."""
    x = starting_points(oracle, wanted.n, wanted.seed + 1)
    finest = sampler if sampler.adaptive else sampler.with_steps(max(wanted.steps))
    end = follow(oracle, finest, x, wanted.seed + 1, keep=0 if sampler.adaptive else 5)
    rows = []
    for t, state in [(oracle.t_max, x), *end.states, *([(end.t, end.x)] if sampler.adaptive else [])]:
        distance, p = law_at(oracle, t).kolmogorov_smirnov(state)
        rows.append({"t": t, "distance": distance, "p": p, "kept": p > 0.001})
    return rows


def print_report(name: str, rows: list[dict[str, Any]], marginals: list[dict[str, Any]], bias: Any, gap: Any) -> None:
    """Print the tables."""

    def number(value: float | None, form: str = ".2e") -> str:
        return "-" if value is None else format(value, form)

    console.table(
        f"{name} on the exact denoiser",
        ("steps", "NFE", "error", "order", "distance of laws"),
        [
            (
                str(r["steps"] or "own"),
                f"{r['nfe']:.0f}",
                number(r["error"]),
                number(r["order"], ".2f"),
                number(r["law_distance"]),
            )
            for r in rows
        ],
    )
    console.table(
        "is every marginal kept? (Kolmogorov-Smirnov test, largest number of steps)",
        ("t", "distance", "p", "kept"),
        [(f"{r['t']:.4g}", f"{r['distance']:.3f}", f"{r['p']:.2g}", "yes" if r["kept"] else "NO") for r in marginals],
    )
    console.result(
        f"likelihood bias {bias.mean:+.2e} +- {bias.stderr:.1e} nats (95 %: {as_text(bias.interval95, '+.2e')})"
    )
    console.result(
        f"path divergence: 0 along the path (exact scores), {gap.mean:.2e} +- {gap.stderr:.1e} nats at the "
        f"start (95 %: {as_text(gap.interval95, '.2e')}{'' if gap.exact is None else f'; exactly {gap.exact:.2e}'})"
    )


def draw(series: dict[str, list[dict[str, Any]]], path: Path) -> None:
    """Draw error against NFE: the error of the ends for ODE samplers, the distance of laws for stochastic ones."""
    lines = {}
    for name, rows in series.items():
        ode = rows[0]["error"] is not None
        label = name if ode else f"{name} (law)"
        lines[label] = ([r["nfe"] for r in rows], [r["error"] if ode else r["law_distance"] for r in rows])
    title = "error against evaluations (stochastic samplers: distance of laws)"
    save_png(curves(lines, "NFE", "error", title), path)

"""The results of scoring as files (``nll.csv``, ``levels.csv``, ``levels.png``) and as a table."""

import math
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from dfm.basics.files import write_atomically
from dfm.basics.intervals import as_text
from dfm.cli import console
from dfm.data.dataset import DatasetSpec
from dfm.data.numbers.pixel_levels import unit_of
from dfm.likelihood.scoring import NatsByLevel, Scores
from dfm.runs.pictures.images import save_png

BARS = 32  # of the chart, at most


COLUMNS = (  # of estimators.csv
    "estimator",
    "dequantization",
    "bits_per_dim",
    "nats",
    "stderr",
    "stderr_data",
    "stderr_probe",
    "stderr_dequantization",
    "solver_error",
    "converged",
    "num_examples",
    "nfe",
)


def write_csv(path: Path, scores: Scores, spec: DatasetSpec) -> None:
    """Write one row per example: index, nats, bits_per_dim (empty for points)."""
    rows, unit = ["index,nats,bits_per_dim"], unit_of(spec)
    for index, value in zip(scores.indices, scores.nats.tolist(), strict=True):
        bits = "" if spec.levels is None else f"{unit.of(value):.8g}"
        rows.append(f"{index},{value:.10g},{bits}")
    write_atomically(path, ("\n".join(rows) + "\n").encode())


def write_table(path: Path, results: list[dict[str, Any]]) -> None:
    """Write one row per estimator."""
    rows = [",".join(COLUMNS)]
    for result in results:
        cells = ("" if result[name] is None else str(result[name]).replace(",", "") for name in COLUMNS)
        rows.append(",".join(cells))
    write_atomically(path, ("\n".join(rows) + "\n").encode())


def write_levels(path: Path, parts: NatsByLevel, n: int, spec: DatasetSpec) -> None:
    """Write the parts of a bound: one row per bin of noise levels, and one for each end. Draw the bins as bars.

    The rows add up to the bound.
    """
    mean = parts.total / n
    unit = unit_of(spec)
    rows = ["part,log_nsr_low,log_nsr_high,nats,stderr_nats,bits_per_dim"]
    edges, place = parts.edges.tolist(), 0
    for name, value, error in zip(parts.names, mean.tolist(), parts.stderr.tolist(), strict=True):
        low, high = (f"{edges[place]:.8g}", f"{edges[place + 1]:.8g}") if name == "level" else ("", "")
        place += name == "level"
        bits = "" if spec.levels is None else f"{value * unit.per_nat:.8g}"
        rows.append(f"{name},{low},{high},{value:.10g},{error:.4g},{bits}")
    write_atomically(path, ("\n".join(rows) + "\n").encode())
    save_png(draw_levels(parts, mean * unit.per_nat, unit.name), path.with_suffix(".png"))


def draw_levels(parts: NatsByLevel, means: Tensor, unit: str) -> np.ndarray:
    """Draw the bins of a bound as bars over log nsr; the title gives the sum and the ends.

    Args:
        means: the mean of each part in ``unit``.
    """
    pairs = list(zip(parts.names, means.tolist(), strict=True))
    heights = np.array([value for name, value in pairs if name == "level"])
    ends = {name: value for name, value in pairs if name != "level"}
    rest = ", ".join(f"{name} {value:+.3f}" for name, value in ends.items() if value)
    from dfm.runs.pictures.charts import bars  # only a bound waits for matplotlib

    edges, density = merge_bars(parts.edges.numpy(), heights)
    title = f"{sum(heights) + sum(ends.values()):.3f} {unit} = {sum(heights):.3f} under the bars, {rest}"
    return bars(edges, density, "log nsr (noise to the right)", f"{unit} per unit of log nsr", title)


def merge_bars(edges: np.ndarray, heights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return (edges, density) of at most ``BARS`` bars. Each bar merges about the same number of bins."""
    cuts = np.unique(np.linspace(0, len(heights), min(BARS, len(heights)) + 1).round().astype(int))
    sums = np.add.reduceat(heights, cuts[:-1])
    return edges[cuts], sums / np.diff(edges[cuts])


def print_report(results: list[dict[str, Any]], name: str, split: str) -> None:
    """Print the results as a table, the main result on one line, and warnings about doubtful results.

    Args:
        name: the name of the data set.
    """
    unit, first = results[0]["unit"], results[0]
    names = [f"{r['estimator']}\n{r['dequantization'] or ''}" for r in results]
    measures = zip(MEASURES, *(cells(result) for result in results), strict=True)
    console.table(f"{name}, {split}, levels {first['levels'] or '-'}", (unit, *names), measures)
    value, stderr, solver = number(figure(first)), number(first["stderr"]), number(first["solver_error"])
    console.result(
        f"{value} {unit} +- {stderr} (standard error; 95 %: {as_text(first['interval95'])}) over "
        f"{first['num_examples']} examples of {split}; solver error {solver}, {first['nfe']:.0f} NFE"
    )
    for result in results:
        warn(result)
        if "hutchinson" in result:
            gap = result["hutchinson"]
            console.result(
                f"Hutchinson's estimate minus the exact one: {gap['difference_nats']:+.4f} +- {gap['stderr_nats']:.4f} "
                f"nats over {gap['n']} examples, z = {gap['z']:+.2f}"
            )


def figure(result: dict[str, Any]) -> float | None:
    """Return the figure of a result in its unit."""
    return result["bits_per_dim"] if result["unit"] == "bits/dim" else result["nats"]


def number(value: float | None, digits: int = 4) -> str:
    """Return a number as text, and a question mark for None."""
    return "?" if value is None else f"{value:.{digits}f}"


MEASURES = (
    "figure",
    "95 % interval",
    "standard error",
    "  data",
    "  probe",
    "  dequantization",
    "solver error",
    "converged",
    "examples",
    "NFE",
    "t_min",
    "nsr there",
    "prior's gap, at most",
)


def cells(result: dict[str, Any]) -> tuple[str, ...]:
    """Return a column of the table, in the order of ``MEASURES``."""
    errors = ("stderr", "stderr_data", "stderr_probe", "stderr_dequantization", "solver_error")
    return (
        number(figure(result)),
        as_text(result["interval95"]),
        *(number(result[name]) for name in errors),
        "yes" if result["converged"] else "NO",
        str(result["num_examples"]),
        f"{result['nfe']:.0f}",
        f"{result['t_min']:.3g}",
        f"{result['nsr_min']:.3g}",
        "?" if result["prior_gap"] is None else f"{result['prior_gap']:.1e}",
    )


def warn(result: dict[str, Any]) -> None:
    """Warn of a doubtful result, and say what to change."""
    value, levels = figure(result), result["levels"]
    if levels and value is not None and value > math.log2(levels):
        console.warn(
            f"{result['estimator']}: more than the {math.log2(levels):.2f} bits/dim of uniform noise; try longer "
            "training, or prediction=edm or prediction=velocity if the model is wrong at small noise"
        )
    if not result["converged"]:
        console.warn(f"{result['estimator']} not converged: {result['problem']}; try {advice(result['likelihood'])}")


def advice(settings: dict[str, Any]) -> str:
    """Return what to change if the solver is not accurate enough."""
    if settings.get("precision") in ("tf32", "bf16"):
        return "likelihood.precision=fp32"
    if settings.get("solver") == "dopri5":
        return "a tenth of likelihood.rtol and likelihood.atol"
    return (
        "likelihood.steps=null, which finds enough steps, likelihood.solver=rk5 or dopri5, or "
        "likelihood.path=unit_variance"
    )

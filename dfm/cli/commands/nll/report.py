"""What came out of scoring, as files (``nll.csv``, ``levels.csv``, ``levels.png``) and as a table."""

import math
from pathlib import Path
from typing import Any

import numpy as np

from dfm.basics.files import write_atomically
from dfm.cli import console
from dfm.data.dataset import DatasetSpec
from dfm.data.pixel_levels import unit_of
from dfm.likelihood.scoring import NatsByLevel, Scores
from dfm.runs.charts import bars
from dfm.runs.images import save_png

BARS = 32


def write_csv(path: Path, scored: Scores, spec: DatasetSpec) -> None:
    """A row an example: index, nats, bits_per_dim (empty for points)."""
    rows, unit = ["index,nats,bits_per_dim"], unit_of(spec)
    for index, value in zip(scored.indices, scored.nats.tolist(), strict=True):
        bits = "" if spec.levels is None else f"{unit.of(value):.8g}"
        rows.append(f"{index},{value:.10g},{bits}")
    write_atomically(path, ("\n".join(rows) + "\n").encode())


def write_table(path: Path, results: list[dict[str, Any]]) -> None:
    """A row an estimator."""
    keys = [
        "estimator", "dequantization", "bits_per_dim", "nats", "stderr", "stderr_data", "stderr_probe",
        "stderr_dequantization", "solver_error", "converged", "num_examples", "nfe",
    ]  # fmt: skip
    rows = [",".join(keys)]
    for result in results:
        cells = ("" if result[key] is None else str(result[key]).replace(",", "") for key in keys)
        rows.append(",".join(cells))
    write_atomically(path, ("\n".join(rows) + "\n").encode())


def write_levels(path: Path, parts: NatsByLevel, n: int, spec: DatasetSpec) -> None:
    """Where the bits go, a row a noise level, and the same as bars: the rows add up to the figure."""
    mean = parts.total / n
    stderr = ((parts.squares / n - mean.square()).clamp_min(0) / max(1, n - 1)).sqrt()
    unit = unit_of(spec)
    rows = ["part,log_nsr_low,log_nsr_high,nats,stderr_nats,bits_per_dim"]
    edges, level = parts.edges.tolist(), 0
    for name, value, error in zip(parts.names, mean.tolist(), stderr.tolist(), strict=True):
        low, high = (f"{edges[level]:.8g}", f"{edges[level + 1]:.8g}") if name == "level" else ("", "")
        level += name == "level"
        bits = "" if spec.levels is None else f"{value * unit.per_nat:.8g}"
        rows.append(f"{name},{low},{high},{value:.10g},{error:.4g},{bits}")
    write_atomically(path, ("\n".join(rows) + "\n").encode())
    heights = np.array(
        [v * unit.per_nat for v, name in zip(mean.tolist(), parts.names, strict=True) if name == "level"]
    )
    ends = {name: v * unit.per_nat for v, name in zip(mean.tolist(), parts.names, strict=True) if name != "level"}
    rest = ", ".join(f"{name} {value:+.3f}" for name, value in ends.items() if value)
    picture = bars(
        *merge_bars(np.array(edges), heights), "log nsr (noise to the right)", f"{unit.name} per unit of log nsr",
        f"{sum(heights) + sum(ends.values()):.3f} {unit.name} = {sum(heights):.3f} under the bars, {rest}",
    )  # fmt: skip
    save_png(picture, path.with_suffix(".png"))


def merge_bars(edges: np.ndarray, heights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(edges, density) of at most ``BARS`` bars of about as many levels each."""
    cuts = np.unique(np.linspace(0, len(heights), min(BARS, len(heights)) + 1).round().astype(int))
    sums = np.add.reduceat(heights, cuts[:-1])
    return edges[cuts], sums / np.diff(edges[cuts])


def print_report(results: list[dict[str, Any]], name: str, split: str) -> None:
    """The figure on one line, its parts in a table, and a warning where it is not to be trusted.

    Args:
        name: of the data set.
    """
    unit, first = results[0]["unit"], results[0]
    names = [f"{r['estimator']}\n{r['dequantization'] or ''}" for r in results]
    measures = zip(MEASURES, *(cells(result) for result in results), strict=True)
    console.table(f"{name}, {split}, levels {first['levels'] or '-'}", (unit, *names), measures)
    value, stderr, solver = shown(key(first)), shown(first["stderr"]), shown(first["solver_error"])
    console.result(
        f"{value} {unit} +- {stderr} (standard error) over {first['num_examples']} examples of {split}; "
        f"solver error {solver}, {first['nfe']:.0f} NFE"
    )
    for result in results:
        warn(result)


def key(result: dict[str, Any]) -> float | None:
    """The figure."""
    return result["bits_per_dim"] if result["unit"] == "bits/dim" else result["nats"]


def shown(value: float | None, digits: int = 4) -> str:
    """A number, or what stands for none."""
    return "?" if value is None else f"{value:.{digits}f}"


MEASURES = (
    "figure", "standard error", "  data", "  probe", "  dequantization", "solver error", "converged", "examples", "NFE",
    "t_min", "nsr there", "prior's gap, at most",
)  # fmt: skip


def cells(result: dict[str, Any]) -> tuple[str, ...]:
    """A column of the table, in the order of ``MEASURES``."""
    parts = ("stderr", "stderr_data", "stderr_probe", "stderr_dequantization", "solver_error")
    return (
        shown(key(result)), *(shown(result[part]) for part in parts), "yes" if result["converged"] else "NO",
        str(result["num_examples"]), f"{result['nfe']:.0f}", f"{result['t_min']:.3g}", f"{result['nsr_min']:.3g}",
        "?" if result["prior_gap"] is None else f"{result['prior_gap']:.1e}",
    )  # fmt: skip


def warn(result: dict[str, Any]) -> None:
    """What is wrong, and what to change."""
    value, levels = key(result), result["levels"]
    if levels and value is not None and value > math.log2(levels):
        console.warn(
            f"{result['estimator']}: more than the {math.log2(levels):.2f} bits/dim of uniform noise; try longer "
            "training, or prediction=edm or velocity if the model is wrong at small noise"
        )
    if not result["converged"]:
        console.warn(f"{result['estimator']} not converged: {result['problem']}; try {advice(result['likelihood'])}")
    if "hutchinson" in result:
        h = result["hutchinson"]
        console.result(
            f"Hutchinson's figure minus the exact one: {h['difference_nats']:+.4f} +- {h['stderr_nats']:.4f} nats over "
            f"{h['n']} examples, z = {h['z']:+.2f}"
        )


def advice(settings: dict[str, Any]) -> str:
    """What to change where the solver is not to be trusted."""
    if settings.get("precision") in ("tf32", "bf16"):
        return "likelihood.precision=fp32"
    if settings.get("solver") == "dopri5":
        return "a tenth of likelihood.rtol and likelihood.atol"
    return (
        "more likelihood.steps (null finds enough), likelihood.solver=rk5 or dopri5, or likelihood.path=unit_variance"
    )

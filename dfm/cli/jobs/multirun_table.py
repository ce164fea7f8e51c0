"""The table at the end of a multirun: what each job reports, and the results in its directory."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dfm.basics.files import read_text
from dfm.cli import console
from dfm.runs.metrics import read_metrics


@dataclass(frozen=True, kw_only=True)
class JobRecord:
    """What a job of a multirun reports when it ends.

    Args:
        number: its place in the multirun, from 0.
        overrides: its overrides of the command line.
        directory: its directory, which may be gone if the job failed.
        error: why it failed, in one line; None if it did not.
    """

    number: int
    overrides: Sequence[str]
    directory: str
    error: str | None


FOLD = 48
COLUMNS = ("overrides", "loss", "bits/dim or nats", "Frechet distance", "nfe", "path, or why it failed")


def print_table(records: Sequence[JobRecord], varied: Sequence[str]) -> None:
    """Print a row for each job: overrides, loss, bits/dim (or nats), Frechet distance, NFE, path or error.

    Args:
        varied: the keys that differ between the jobs of the multirun. Of a job alone, only these are shown.
    """
    shared = set.intersection(*(set(each.overrides) for each in records))
    if len(records) == 1:
        shared = {text for text in shared if text.partition("=")[0].lstrip("+~") not in varied}
    rows = [row(each, shared) for each in records]
    columns = [name for name in COLUMNS if any(cells[name] != "-" for cells in rows)]
    console.table("jobs of this multirun", columns, [[cells[name] for name in columns] for cells in rows])


def row(record: JobRecord, shared: set[str]) -> dict[str, str]:
    """Return {column: cell} for a job, with a dash where the job has no such file.

    Args:
        shared: overrides that all jobs have, which are left out.
    """
    job = Path(record.directory)
    losses = job / "metrics.jsonl"
    lines = [line["loss"] for line in read_metrics(losses) if "loss" in line] if losses.exists() else []
    nll, sample, quality = (_json(job / name) for name in ("nll.json", "sample.json", "eval.json"))
    value = nll.get("bits_per_dim") if nll.get("unit") == "bits/dim" else nll.get("nats")
    nfe = sample.get("nfe", quality.get("nfe", nll.get("nfe")))
    cells = (
        "\n".join(part for text in record.overrides if text not in shared for part in folded(text)),
        f"{lines[-1]:.4f}" if lines and lines[-1] is not None else "-",
        with_error(value, nll.get("stderr")),
        with_error(quality.get("frechet"), quality.get("frechet_stderr")),
        "-" if nfe is None else f"{nfe:.0f}",
        "\n".join([*([str(job)] if job.is_dir() else []), *([f"failed: {record.error}"] if record.error else [])]),
    )
    return dict(zip(COLUMNS, cells, strict=True))


def with_error(value: float | None, error: float | None) -> str:
    """Return a figure with its standard error, which nobody knows for a single example."""
    return "-" if value is None else f"{value:.4f} +- {'?' if error is None else f'{error:.4f}'}"


def folded(text: str) -> list[str]:
    """Return a text in pieces of at most ``FOLD`` characters, so that it leaves room for the other columns."""
    return [text[start : start + FOLD] for start in range(0, len(text), FOLD)]


def _json(path: Path) -> dict[str, Any]:
    return json.loads(read_text(path)) if path.exists() else {}

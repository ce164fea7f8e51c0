"""The table at the end of a multirun, read from the files of its jobs."""

import json
from pathlib import Path
from typing import Any

from hydra.experimental.callback import Callback
from omegaconf import DictConfig

from dfm.basics.files import read_text
from dfm.cli import console
from dfm.runs.metrics import read_metrics


class Table(Callback):
    """A table of the jobs of a sweep: overrides, loss, bits/dim (or nats), Frechet distance, NFE, path.

    It reads the directories of the jobs, so any launcher, process or machine may have run them.
    """

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        """Print the table. Hydra calls this after the last job."""
        sweep = Path(config.hydra.sweep.dir)
        jobs = sorted((p for p in sweep.iterdir() if p.is_dir() and p.name.isdigit()), key=lambda p: int(p.name))
        texts = {job: overrides(job) for job in jobs}
        shared = set.intersection(*map(set, texts.values())) if len(jobs) > 1 else set()
        rows = [row(job, texts[job], shared) for job in jobs]
        columns = [name for name in COLUMNS if any(cells[name] != "-" for cells in rows)]
        console.table("jobs of this multirun", columns, [[cells[name] for name in columns] for cells in rows])
        console.result(f"run directory: {sweep}")


COLUMNS = ("overrides", "loss", "bits/dim or nats", "Frechet distance", "nfe", "path")


def overrides(job: Path) -> list[str]:
    """Return the overrides of a job, or its number if the job ended before it wrote them."""
    path = job / "overrides.txt"
    return read_text(path).splitlines() if path.exists() else [job.name]


def row(job: Path, texts: list[str], shared: set[str]) -> dict[str, str]:
    """Return {column: cell} for a job, with a dash where the job has no such file.

    Args:
        texts: the overrides of the job.
        shared: overrides that all jobs have, which are left out.
    """
    losses = job / "metrics.jsonl"
    lines = [line["loss"] for line in read_metrics(losses) if "loss" in line] if losses.exists() else []
    nll, sample, quality = (_json(job / name) for name in ("nll.json", "sample.json", "eval.json"))
    value = nll.get("bits_per_dim") if nll.get("unit") == "bits/dim" else nll.get("nats")
    figure = "-" if value is None else f"{value:.4f} +- {nll['stderr'] or 0:.4f}"
    nfe = sample.get("nfe", quality.get("nfe", nll.get("nfe")))
    cells = (
        "\n".join(text for text in texts if text not in shared),
        f"{lines[-1]:.4f}" if lines and lines[-1] is not None else "-",
        figure,
        f"{quality['frechet']:.4f} +- {quality['frechet_stderr']:.4f}" if quality else "-",
        "-" if nfe is None else f"{nfe:.0f}",
        str(job),
    )
    return dict(zip(COLUMNS, cells, strict=True))


def _json(path: Path) -> dict[str, Any]:
    return json.loads(read_text(path)) if path.exists() else {}

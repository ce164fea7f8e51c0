"""Training runs that the scripts of this folder share: start one, resume it, and read what it cost."""

import subprocess
import sys
from pathlib import Path

from dfm.runs.directory import checkpoints
from dfm.runs.metrics import read_metrics


def train(run: Path, overrides: list[str]) -> None:
    """Run ``dfm train`` into a directory, or resume it there; do nothing if it is finished."""
    if (run / "done").exists():
        return
    print(f"$ dfm train {' '.join(overrides)}", flush=True)
    run.parent.mkdir(parents=True, exist_ok=True)
    started = (run / "config.yaml").exists() and checkpoints(run)
    arguments = [f"resume={run}"] if started else [*overrides, f"hydra.run.dir={run}", "resume=auto"]
    with run.with_suffix(".log").open("a", encoding="utf-8") as log:
        command = [sys.executable, "-m", "dfm", "train", *arguments]
        if subprocess.run(command, stdout=log, stderr=subprocess.STDOUT).returncode:
            raise SystemExit(f"failed; see {log.name}")
    (run / "done").touch()


def training_seconds(run: Path, step: int | None = None) -> float:
    """Return how many seconds the training took, in total or up to a step."""
    lines = [line for line in read_metrics(run / "metrics.jsonl") if "seconds" in line]
    return max(line["seconds"] for line in lines if step is None or line["step"] <= step)

"""What a run leaves on disk, and how a refusal must look."""

from pathlib import Path

import torch

from dfm.data.dataset import DatasetSpec
from dfm.runs import checkpoint, metrics
from dfm.runs import directory as run_dir
from dfm.runs.checkpoint import Checkpoint
from support.cli import one_error

CLOCK = ("images_per_second", "seconds")


def left(run: Path) -> tuple[dict[str, object], list[dict[str, object]], dict[str, bytes]]:
    """All that a run leaves but the clock: last state, metrics, pictures."""
    state = checkpoint.read(run_dir.checkpoints(run)[0]).state
    lines = [{k: v for k, v in line.items() if k not in CLOCK} for line in metrics.read_metrics(run / "metrics.jsonl")]
    return state, lines, {p.name: p.read_bytes() for p in (run / "samples").iterdir()}


def assert_same(one: Path, other: Path) -> None:
    (state, lines, pictures), (state2, lines2, pictures2) = left(one), left(other)
    assert lines == lines2
    assert pictures == pictures2
    for kind in ("network", "ema", "objective"):
        assert all(torch.equal(v, state2[kind][k]) for k, v in state[kind].items())  # type: ignore[attr-defined, index]
    for mine, theirs in zip(state["optimizer"]["state"].values(), state2["optimizer"]["state"].values(), strict=True):  # type: ignore[index]
        assert all(torch.equal(mine[k], theirs[k]) for k in mine)


def one_line(outcome: object, *words: str) -> None:
    err = outcome.err  # type: ignore[attr-defined]
    assert one_error(err)
    assert all(word in err for word in words), err
    assert not Path("pwned").exists()


def newest(run: Path) -> Path:
    return run_dir.checkpoints(run)[0]


def content(step: int) -> Checkpoint:
    spec = DatasetSpec(name="x", shape=(2,), levels=None, num_classes=0, mean=0.0, std=1.0)
    weights = {"w": torch.full((1000,), float(step))}
    return Checkpoint(config={"a": 1}, spec=spec, state={"step": step, "ema": weights})


def contents(directory: Path) -> dict[Path, bytes | None]:
    """Everything below a directory: the bytes of the files, and None for the directories."""
    return {path: path.read_bytes() if path.is_file() else None for path in directory.rglob("*")}

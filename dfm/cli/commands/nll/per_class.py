"""Classification by likelihood, ``dfm nll per_class=true``: score every example under every class."""

import csv
import io
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dfm.basics.errors import UserError
from dfm.basics.files import write_atomically, write_json
from dfm.basics.intervals import as_text, mean_interval, share_interval
from dfm.cli import console, progress
from dfm.cli.commands.nll.estimates import ScoringJob
from dfm.data.dataset import DatasetSpec
from dfm.data.numbers.pixel_levels import unit_of
from dfm.likelihood.error_bars import choose_steps
from dfm.likelihood.estimator import Estimators

LISTED = 30  # classes in the table on the screen, at most; per_class.json has all


def check_classes(work: ScoringJob) -> None:
    """Refuse a model without classes, or data without labels. This is called before any scoring.

    Raises:
        UserError: the model has no classes, or the data have no labels.
    """
    if work.denoiser.spec.num_classes == 0 or work.split.labels is None:
        raise UserError(
            "per_class=true: this model was trained without classes; allowed: a model with conditional=true"
        )


def classify(work: ScoringJob, likelihood: Estimators, directory: Path) -> None:
    """Write ``per_class.csv`` and ``per_class.json``, and print how often the likeliest class is the true class.

    All classes see the same dequantisation noise and probes, so only the class differs. If the C classes are equally
    likely, then p(c | x) = p(x | c)/sum_c' p(x | c'). The likelihood without the class is p(x) = sum_c p(x | c)/C, so
    -log p(x) = log C - log sum_c p(x | c).
    """
    entry = work.entries(likelihood)[0]
    count, indices = work.denoiser.spec.num_classes, range(work.n)
    scoring = choose_steps(work.scoring(entry), work.subset())
    with progress.task("classes", count * work.n, "examples", quiet=not work.world.first) as task:
        nats = torch.stack([replace(scoring, label=c).all(indices, task.advance).nats for c in range(count)], 1)
    if not work.world.first:
        return
    assert work.split.labels is not None
    truth = work.split.labels[: work.n]
    facts = {**summary(nats, truth, work.denoiser.spec), **work.facts}
    percent = [100 * end for end in facts["accuracy_interval95"]]
    console.result(
        f"the likeliest class is the true one for {100 * facts['accuracy']:.1f} % +- "
        f"{100 * facts['accuracy_stderr']:.1f} % (95 %: {as_text(percent, '.1f')}) of {work.n} examples; "
        f"by chance {100 / count:.1f} %"
    )
    if count <= LISTED:
        print_classes(facts["of_class"])
    write_atomically(directory / "per_class.csv", table(nats, truth, work.denoiser.spec.class_names).encode())
    write_json(directory / "per_class.json", facts)


def summary(nats: Tensor, truth: Tensor, spec: DatasetSpec) -> dict[str, Any]:
    """Return the accuracy, and the likelihood without the class, from nats (n, C) and labels (n,)."""
    n, count = nats.shape
    hits = nats.argmin(1) == truth
    right = int(hits.sum())
    accuracy = right / n
    marginal = math.log(count) - (-nats).logsumexp(1)
    unit = unit_of(spec)
    mean = float(marginal.mean()) * unit.per_nat
    stderr = float(marginal.std()) / math.sqrt(n) * unit.per_nat if n > 1 else None
    return {
        "accuracy": accuracy,
        "accuracy_stderr": math.sqrt(accuracy * (1 - accuracy) / n),
        "accuracy_interval95": share_interval(right, n),
        "num_classes": count,
        "num_examples": n,
        "without_class": mean,
        "without_class_stderr": stderr,
        "without_class_interval95": mean_interval(mean, stderr, n),
        "unit": unit.name,
        "class_names": list(spec.class_names) or None,
        "of_class": [of_class(hits[truth == c], c, spec) for c in range(count)],
    }


def of_class(hits: Tensor, label: int, spec: DatasetSpec) -> dict[str, Any]:
    """Return how often the likeliest class is the true one among the examples of a class, bool (m,)."""
    m = len(hits)
    return {
        "label": label,
        "label_name": spec.class_names[label] if spec.class_names else None,
        "num_examples": m,
        "accuracy": float(hits.double().mean()) if m else None,
        "accuracy_interval95": share_interval(int(hits.sum()), m) if m else None,
    }


def print_classes(rows: Sequence[dict[str, Any]]) -> None:
    """Print a row for each class that has examples."""
    cells = [
        (
            str(row["label"]) if row["label_name"] is None else row["label_name"],
            str(row["num_examples"]),
            f"{100 * row['accuracy']:.1f} %",
            as_text([100 * end for end in row["accuracy_interval95"]], ".1f"),
        )
        for row in rows
        if row["num_examples"]
    ]
    console.table("the likeliest class is the true one", ("class", "examples", "right", "95 %"), cells)


def table(nats: Tensor, truth: Tensor, names: Sequence[str] = ()) -> str:
    """Return CSV with one row per example: index, label, likeliest class, and the nats under each class.

    With ``names`` of the classes, two more columns have those of the label and of the likeliest class.
    """
    best: list[int] = nats.argmin(1).tolist()
    header = ["index", "label", "likeliest", *(f"nats_{c}" for c in range(nats.shape[1]))]
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")  # quotes a name with a comma
    writer.writerow([*header, *(("label_name", "likeliest_name") if names else ())])
    for index, (label, likeliest, values) in enumerate(zip(truth.tolist(), best, nats.tolist(), strict=True)):
        named = (names[label], names[likeliest]) if names else ()
        writer.writerow([index, label, likeliest, *(f"{value:.10g}" for value in values), *named])
    return file.getvalue()

"""The report on a noisy classifier: its accuracy and the calibration of its probabilities, at each noise level."""

from pathlib import Path

import torch
from torch import Tensor

from dfm.basics import seeding
from dfm.basics.files import write_atomically, write_json
from dfm.basics.seeding import Purpose
from dfm.cli import console, progress
from dfm.data.dataset import Split
from dfm.data.numbers.dequantization import Dequantization
from dfm.denoising.noisy_classifier import NoisyClassifier
from dfm.evaluation.calibration import accuracy_and_calibration
from dfm.likelihood.examples import examples

NOISE_LEVELS, BATCH = 12, 256
COLUMNS = ("log_nsr", "accuracy", "cross_entropy", "calibration_error")


@torch.no_grad()
def write_classifier_report(
    classifier: NoisyClassifier,
    dequantization: Dequantization,
    split: Split,
    n: int,
    seed: int,
    device: torch.device,
    directory: Path,
    step: int,
) -> None:
    """Write ``classifier.csv`` and ``classifier.json``, and print the table: one row per noise level.

    The noise of example k is a function of (seed, k, noise level), so the batch size does not change it.
    """
    path = classifier.trained_schedule
    ends = path.log_nsr(torch.tensor([path.t_min, path.t_max], dtype=torch.float64))
    noise_levels = torch.linspace(float(ends[0]), float(ends[1]), NOISE_LEVELS, dtype=torch.float64)
    assert split.labels is not None
    labels = split.labels[:n].to(device)
    rows = []
    with progress.task("report on the classifier", NOISE_LEVELS, "noise levels") as task:
        for number, log_nsr in enumerate(noise_levels):
            t = path.time_of_log_nsr(log_nsr).clamp(path.t_min, path.t_max)
            parts = [
                predictions(classifier, dequantization, split, range(k, min(k + BATCH, n)), seed, number, t, device)
                for k in range(0, n, BATCH)
            ]
            rows.append((float(log_nsr), *accuracy_and_calibration(torch.cat(parts).double(), labels)))
            task.advance()
    table = [[f"{row[0]:.2f}", *(f"{value:.3f}" for value in row[1:])] for row in rows]
    console.table(f"classifier on {n} held-out examples", COLUMNS, table)
    lines = [",".join(COLUMNS), *(",".join(f"{value:.6g}" for value in row) for row in rows)]
    write_atomically(directory / "classifier.csv", ("\n".join(lines) + "\n").encode())
    means = {name: sum(row[k] for row in rows) / NOISE_LEVELS for k, name in enumerate(COLUMNS) if k}
    write_json(
        directory / "classifier.json",
        {"num_examples": n, "checkpoint_step": step, "num_classes": classifier.spec.num_classes, **means},
    )


def predictions(
    classifier: NoisyClassifier,
    dequantization: Dequantization,
    split: Split,
    indices: range,
    seed: int,
    noise_level: int,
    t: Tensor,
    device: torch.device,
) -> Tensor:
    """Return log p(c | x_t) of examples ``indices``, (len(indices), C), at the time t of a noise level."""
    path = classifier.trained_schedule
    lowest = float(path.log_nsr(torch.tensor(path.t_min, dtype=torch.float64)))
    data = examples(split, classifier.spec, indices, seed, dequantization, lowest).to(device)
    noise = seeding.normal(seed, indices, tuple(data.shape[1:]), Purpose.START, noise_level).to(data)
    return classifier.log_probabilities(path.mix(data, noise, t), t)

"""What is found in a data set, in plain containers: splits, classes, channels, duplicates, memory."""

import math
from typing import Any

import numpy as np

from dfm.cli import progress
from dfm.data.dataset import SPLITS, Dataset
from dfm.data.numbers.statistics import statistics
from dfm.data.numbers.stored_form import stored_type
from dfm.evaluation.duplicates import Duplicates, across, hashes, within


def survey(data: Dataset, look_for_duplicates: bool) -> dict[str, Any]:
    """Return the facts of a data set that can be counted, for ``data.json``.

    Raises:
        UserError: the data cannot be read, or no model can be trained on them.
    """
    spec = data.spec
    splits: dict[str, dict[str, Any]] = {name: {"examples": len(data.split(name))} for name in SPLITS}
    if look_for_duplicates:
        for name, found in duplicates(data).items():
            splits[name] |= found
    kind, numbers = str(stored_type(spec)).removeprefix("torch."), math.prod(spec.shape)
    each = numbers * np.dtype(kind).itemsize
    return {
        "dataset": spec.name,
        "shape": list(spec.shape),
        "type": kind,
        "levels": spec.levels,
        "lowest": spec.lowest if spec.levels else None,
        "splits": splits,
        "classes": classes(data),
        "channels": channels(data),
        "model_sees": {"mean": spec.mean, "std": spec.std, "shift": list(spec.shift), "scale": list(spec.scale)},
        "bytes_an_example": each,
        "bytes": each * sum(split["examples"] for split in splits.values()),
        "mapped_from": list(data.mapped_files),
        "flip": data.flip,
        "notices": list(data.all_notices),
        "found": dict(data.facts),
    }


def classes(data: Dataset) -> list[dict[str, Any]]:
    """Return label, name (null: it has none) and count in each split of every class."""
    number = data.num_classes
    names = data.class_names or (None,) * number
    counts = {}
    for name in SPLITS:
        labels = data.split(name).labels
        counts[name] = np.zeros(number, int) if labels is None else np.bincount(labels.numpy(), minlength=number)
    return [
        {"label": k, "name": names[k], **{name: int(each[k]) for name, each in counts.items()}} for k in range(number)
    ]


def channels(data: Dataset) -> list[dict[str, Any]]:
    """Return name (null: none), range, mean and deviation of each channel in training, in the unit of the file."""
    split = data.split("train")
    found = data.statistics("train") if data.levels is None else statistics(split, data.name, None)
    rows = zip(found.low.tolist(), found.high.tolist(), found.mean.tolist(), found.variance.tolist(), strict=True)
    by, names = split.lowest, data.channel_names or (None,) * split.shape[0]
    keys = ("lowest", "highest", "mean")
    return [
        {
            "name": name,
            **{k: v + by for k, v in zip(keys, row, strict=True)},
            "deviation": math.sqrt(max(0.0, variance)),
        }
        for name, (*row, variance) in zip(names, rows, strict=True)
    ]


def duplicates(data: Dataset) -> dict[str, dict[str, Any]]:
    """Return for each split how many examples occur earlier in it, and how many of the others occur in training."""
    found = {}
    with progress.task("look for duplicates", sum(len(data.split(name)) for name in SPLITS), "examples") as task:
        for name in SPLITS:
            found[name] = hashes(data.split(name), task.advance)

    def facts(of: Duplicates, name: str) -> dict[str, Any]:
        return {name: of.count, f"{name}_pairs": [list(pair) for pair in of.pairs]}

    return {
        name: facts(within(own), "duplicates")
        | ({} if name == "train" else facts(across(found["train"], own), "also_in_train"))
        for name, own in found.items()
    }

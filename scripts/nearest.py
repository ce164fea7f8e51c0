"""Draw samples beside the training examples that are nearest to them, and say how near they are.

Usage: python scripts/nearest.py RUN [--rows 12] [--k 5] [--out outputs/nearest.png]

RUN is a run directory of ``dfm sample``. Each row of the picture has a sample and then its k nearest training
examples. Distances are Euclidean, of pixels or of numbers as the model sees them. The held-out examples of the test
split say what is usual: a new draw of the data is nearer to a training example than 95 % of them are with a chance of
5 %. A model that repeats its training examples is much nearer, much more often.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from dfm.basics.errors import UserError
from dfm.data.numbers.stored_form import to_stored
from dfm.evaluation.nearest import nearest
from dfm.runs.checkpoint import read
from dfm.runs.parts import Parts
from dfm.runs.pictures.drawing import picture
from dfm.runs.pictures.images import save_png
from dfm.runs.sample_files import read_samples

SHARE = 0.05  # of the held-out examples, which are nearer to a training example than all others


def draw(run: Path, rows: int, k: int, out: Path) -> str:
    """Write the picture, and return a line about the distances.

    Raises:
        UserError: there are no samples, or their data are not there.
    """
    if not (run / "sample.json").is_file():
        raise UserError(f"{run}: no sample.json; allowed: a run directory of dfm sample")
    facts = json.loads((run / "sample.json").read_text("utf-8"))
    checkpoint = read(Path(facts["checkpoint"]))
    data, spec = Parts(checkpoint.config).dataset, checkpoint.spec
    train, test = data.split("train"), data.split("test")
    samples = read_samples(str(run), spec)
    distances, numbers = nearest(samples, train, spec, k)
    shown = torch.cat([torch.cat([samples[i : i + 1], train.take(numbers[i])]) for i in range(min(rows, len(samples)))])
    save_png(picture(to_stored(shown, spec), spec, columns=k + 1), out)
    usual = nearest(test.all(), train, spec)[0][:, 0] if len(test) else torch.tensor([float("nan")])
    near = float((distances[:, 0] < usual.quantile(SHARE)).double().mean())
    return (
        f"{len(samples):,} samples: {float(distances[:, 0].median()):.4g} to the nearest of {len(train):,} training "
        f"examples (median); {len(test):,} test examples: {float(usual.median()):.4g}; {near:.0%} of the samples are "
        f"nearer than {1 - SHARE:.0%} of the test examples, where {SHARE:.0%} is usual"
    )


def main(words: Sequence[str]) -> int:
    """Print the line and the picture's place; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--rows", type=int, default=12)
    parser.add_argument("--k", type=int, default=5)
    parser.add_argument("--out", type=Path, default=Path("outputs/nearest.png"))
    options = parser.parse_args(words)
    try:
        print(draw(options.run, options.rows, options.k, options.out))
    except UserError as problem:
        print(f"error: {problem}", file=sys.stderr)
        return 1
    print(options.out)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

"""Hold the power spectra of samples of signals and volumes against those of the law of their data, and draw both.

Usage: scripts/spectra.py RUN [RUN ...] [--out outputs/spectra.png]

RUN is a run directory of ``dfm sample`` for a model of dataset=signals or dataset=volumes. For each channel the script
prints the power of the samples over the law's, averaged over shells of frequencies, and its statistical error.
"""

import argparse
import json
import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from dfm.basics.errors import UserError
from dfm.data.fields.gaussian_fields import GaussianFields
from dfm.data.fields.spectra import power, shells
from dfm.runs.checkpoint import read
from dfm.runs.parts import Parts
from dfm.runs.pictures.charts import curves
from dfm.runs.pictures.images import save_png


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Spectra over shells of frequencies, in units of the variance of a place of the law.

    Args:
        frequency: of each shell, cycles a place (m,).
        law, samples: their power, (C, m).
        error: relative standard error of the samples' power (m,).
    """

    name: str
    frequency: Tensor
    law: Tensor
    samples: Tensor
    error: Tensor


def compared(run: Path) -> Comparison:
    """Return the spectra of the samples of a run and of the law of its data.

    Raises:
        UserError: there are no samples, or their data are no Gaussian fields.
    """
    if not (run / "samples.npz").is_file():
        raise UserError(f"{run}: no samples.npz; allowed: a run directory of dfm sample")
    facts = json.loads((run / "sample.json").read_text("utf-8"))
    data = Parts(read(Path(facts["checkpoint"])).config).dataset
    if not isinstance(data, GaussianFields):
        raise UserError(f"{run}: a model of {data.name}; allowed: dataset=signals, volumes")
    x = torch.from_numpy(np.load(run / "samples.npz")["samples"]).double()
    sides = len(data.sides)
    column = (-1, *[1] * sides)
    centre = torch.tensor(list(data.means), dtype=torch.float64).reshape(column)
    unit = torch.tensor(list(data.deviations), dtype=torch.float64).square().reshape(column)
    frequency, law, count = shells(data.law.spectrum / unit, sides)
    _, found, _ = shells(power(x, centre) / unit, sides)
    # f and -f are one complex number, whose power has the relative variance 1; samples are of several kinds
    kinds = shells(data.law.spectra[..., 0, 0], sides)[1]
    each = (data.law.weights @ kinds.square()) / (data.law.weights @ kinds).square()
    error = ((each * (1 + 2 / count) - 1) / len(x)).sqrt()
    return Comparison(name=f"{data.name}, {len(x):,} samples", frequency=frequency, law=law, samples=found, error=error)


def main(words: Sequence[str]) -> int:
    """Print a table for each run and write the chart; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs="+", metavar="RUN")
    parser.add_argument("--out", type=Path, default=Path("outputs/spectra.png"))
    wanted = parser.parse_args(words)
    lines: dict[str, tuple[list[float], list[float]]] = {}
    for run in wanted.runs:
        one = compared(run)
        for channel, (law, samples) in enumerate(zip(one.law, one.samples, strict=True)):
            ratio = samples / law
            away = math.sqrt(float(ratio.log().square().mean()))
            own = float(one.error.square().mean().sqrt())
            print(
                f"{one.name}, channel {channel}: power over the law's {ratio.min():.3f} to {ratio.max():.3f}; root "
                f"mean square of its logarithm {away:.3f}, of the law's own draws about {own:.3f}"
            )
            for f, p, r, e in zip(one.frequency, law, ratio, one.error, strict=True):
                print(f"  {f:.3f} cycles a place: law {p:9.4f}, samples/law {r:.3f} +- {e:.3f}")
        x = one.frequency[1:].tolist()
        lines[f"{one.name.partition(',')[0]} (law)"] = (x, one.law[0, 1:].tolist())
        lines[one.name] = (x, one.samples[0, 1:].tolist())
    wanted.out.parent.mkdir(parents=True, exist_ok=True)
    save_png(curves(lines, "cycles a place", "power / variance of a place", "spectra of samples and laws"), wanted.out)
    print(wanted.out)
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except UserError as problem:
        sys.exit(f"error: {problem}")

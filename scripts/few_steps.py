"""A student in a few calls beside its teacher: energy distances to held-out data.

Usage: python scripts/few_steps.py --teacher RUN --student RUN [--n 300] [--seeds 3]

The teacher samples with Euler's method on the log-nsr grid and with Heun's on the rho grid; the student, a consistency
model, with its own sampler. Energy distance x 1000 of n samples to the first n test examples, mean and standard error
over seeds; NFE counts every call, the last denoising included.
"""

import argparse
import statistics

from torch import Tensor

import dfm
from dfm import assemble
from dfm.checkpoint import find
from dfm.distances import energy_distance
from dfm.grids import LogNsr, Rho
from dfm.quantization import centres
from dfm.samplers import GridSampler, JumpSampler, Sampler
from dfm.steppers import Euler, Heun


def held_out(ckpt: str, n: int) -> Tensor:
    """Test examples as the model sees them, (n, d)."""
    found, _ = find(ckpt)
    values = assemble.dataset({"dataset": found.config["dataset"]}, ("dfm",)).split("test").values[:n]
    data = values if found.spec.levels is None else centres(values, found.spec.levels)
    return data.flatten(1).float()


def main() -> None:
    """Sample, compare, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--teacher", required=True)
    parser.add_argument("--student", required=True)
    parser.add_argument("--n", type=int, default=300)
    parser.add_argument("--seeds", type=int, default=3)
    given = parser.parse_args()
    test = held_out(given.teacher, given.n)
    rows: list[tuple[str, str, int, Sampler]] = [
        ("student", given.student, n, JumpSampler(steps=n, renoise=True)) for n in (1, 2, 4)
    ]
    rows += [
        ("teacher, Euler", given.teacher, n, GridSampler(stepper=Euler(), steps=n - 1, grid=LogNsr()))
        for n in (2, 4, 8, 32)
    ]
    rows += [
        ("teacher, Heun", given.teacher, 2 * n + 1, GridSampler(stepper=Heun(), steps=n, grid=Rho()))
        for n in (1, 3, 15)
    ]
    print("| model | NFE | energy distance x 1000 |\n|---|---|---|")
    for name, ckpt, nfe, sampler in rows:
        model = dfm.load(ckpt)
        samples = [dfm.sample(model, given.n, sampler, seed=seed).flatten(1) for seed in range(given.seeds)]
        values = [1000 * float(energy_distance(x, test)) for x in samples]
        error = statistics.stdev(values) / len(values) ** 0.5 if len(values) > 1 else float("nan")
        print(f"| {name} | {nfe} | {statistics.mean(values):.2f} ± {error:.2f} |", flush=True)


if __name__ == "__main__":
    main()

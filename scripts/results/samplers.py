"""Compare all samplers on one checkpoint: quality and images/s against the number of evaluations (NFE).

Usage: python scripts/results/samplers.py RUN --out DIR [--nfe 5 9 17 33 65] [--n 1000] [--seeds 3]
           [--only heun unipc ...]

Quality is the Fréchet distance to the test split in the features of ``dfm eval``, mean over seeds. Every sampler starts
from the same --n latents. ``--only heun@uniform`` is a sampler on another grid than its own. The converged distance is
the distance of the ODE by RK4 in 64 steps on noise_share (257 NFE). The last table shows for each sampler the smallest
NFE within 5 % of it. Because the latents are the same, the ratio of a distance to the converged distance has a smaller
error than either; its error over seeds is printed, too. Adaptive samplers choose their steps, so they run with several
tolerances instead. The script prints one table and draws one figure.
"""

import argparse
import math
import statistics
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from dfm.basics.devices import resolve_device
from dfm.basics.errors import UserError
from dfm.cli.composition.command_line import compose
from dfm.cli.console import table
from dfm.data.dataset import Split
from dfm.data.numbers.stored_form import as_data
from dfm.denoising.network_denoiser import NetworkDenoiser
from dfm.evaluation.classifier_features import features_for
from dfm.evaluation.features import Features
from dfm.evaluation.sample_quality import frechet_distance
from dfm.runs.checkpoint import find
from dfm.runs.parts import Parts
from dfm.sampling.draw import batch_of, draw_samples
from dfm.sampling.samplers import Sampler

OF_ODE = ("euler", "midpoint", "heun", "rk4", "rk5", "adams_bashforth", "ddim", "dpmpp_2m", "dpmpp_3m", "unipc", "jump")
OF_SDE = ("ancestral", "churn", "dpmpp_2m_sde", "euler_maruyama", "predictor_corrector", "annealed_langevin")
ADAPTIVE = ("heun_euler", "bosh3", "dopri5")
CALLS = {  # evaluations per step; 1 for all others
    "midpoint": 2,
    "heun": 2,
    "churn": 2,
    "rk4": 4,
    "rk5": 6,
    "predictor_corrector": 2,
    "annealed_langevin": 5,
}
TOLERANCES = (0.3, 0.1, 0.03, 0.01, 1e-3)
CLOSE = 1.05
MARKS = "osv^D<>PX*hd"


@dataclass(frozen=True)
class Point:
    """The result of a sampler at one NFE: the Fréchet distance of each seed, and images/s."""

    sampler: str
    nfe: float
    distances: tuple[float, ...]
    images: float

    @property
    def distance(self) -> float:
        """The mean over seeds."""
        return statistics.mean(self.distances)

    def ratio(self, converged: "Point") -> tuple[float, float]:
        """Return (distance divided by the converged distance, mean over seeds; its standard error)."""
        return spread([mine / best for mine, best in zip(self.distances, converged.distances, strict=True)])


def spread(values: Sequence[float]) -> tuple[float, float]:
    """Return (mean, its standard error)."""
    error = statistics.stdev(values) / math.sqrt(len(values)) if len(values) > 1 else math.nan
    return statistics.mean(values), error


def sampler(name: str, *changes: str) -> Sampler:
    """Return the sampler ``name``, or ``name@grid``, of ``dfm sample`` with some settings changed."""
    name, _, grid = name.partition("@")
    changes = (*changes, f"grid={grid}") if grid else changes
    return Parts(compose("sample", f"sampler={name}", *changes)).sampler


def variants(name: str, evaluations: list[int]) -> Iterator[Sampler]:
    """Yield the sampler with about these NFE. Except for jumps, the last evaluation is the denoising."""
    if name in ADAPTIVE:
        for tolerance in TOLERANCES:
            yield sampler(name, f"sampler.solver.rtol={tolerance}", f"sampler.solver.atol={tolerance}")
        return
    last = 0 if name == "jump" else 1
    for steps in sorted({(nfe - last) // CALLS.get(name.partition("@")[0], 1) for nfe in evaluations} - {0}):
        yield sampler(name, f"sampler.steps={steps}")


@dataclass(frozen=True)
class Setup:
    """The inputs that all samplers have in common."""

    denoiser: NetworkDenoiser
    features: Features
    references: torch.Tensor
    labels: torch.Tensor | None
    n: int
    seeds: int
    batch_size: int | None
    device: torch.device


def measure(name: str, how: Sampler, setup: Setup) -> Point:
    """Draw samples with every seed, and compare them with the references."""
    distances, nfe, seconds = [], 0.0, 0.0
    for seed in range(setup.seeds):
        start = time.perf_counter()
        result = draw_samples(
            setup.denoiser,
            how,
            range(setup.n),
            seed=seed,
            batch_size=batch_of(setup.batch_size, setup.denoiser.spec, setup.device),
            labels=setup.labels,
            device=setup.device,
            convert=lambda x: as_data(x, setup.denoiser.spec),
        )
        seconds += time.perf_counter() - start
        nfe += result.nfe / setup.seeds
        distances.append(frechet_distance(setup.features.of(result.samples), setup.references))
    return Point(name, nfe, tuple(distances), setup.n * setup.seeds / seconds)


def prepare(options: argparse.Namespace) -> Setup:
    """Read the checkpoint and its data."""
    import dfm

    checkpoint, _ = find(options.run)
    data = Parts(checkpoint.config).dataset
    features, test = features_for(data), data.split("test")
    denoiser = dfm.load(options.run)
    labels = torch.arange(options.n) % denoiser.spec.num_classes if denoiser.spec.num_classes else None
    real: Split = data.split("train")
    floor = features.of(real.take(torch.randperm(len(real), generator=torch.manual_seed(0))[: options.n]))
    references = features.of(test.all())
    print(f"as many training examples: {frechet_distance(floor, references):.3f}")
    return Setup(
        denoiser=denoiser,
        features=features,
        references=references,
        labels=labels,
        n=options.n,
        seeds=options.seeds,
        batch_size=options.batch_size,
        device=resolve_device("auto"),
    )


def draw(points: list[Point], best: Point, file: Path) -> None:
    """Draw quality (ODE samplers on a grid, then the others) and images/s of all samplers against NFE."""
    import matplotlib.pyplot as plt
    from matplotlib.ticker import LogLocator, NullFormatter

    figure, (left, middle, right) = plt.subplots(1, 3, figsize=(15, 5), layout="constrained")
    middle.sharey(left)
    for k, name in enumerate(dict.fromkeys(point.sampler for point in points)):
        own = [point for point in points if point.sampler == name]
        style = {"marker": MARKS[k % len(MARKS)], "color": plt.get_cmap("tab20")(k % 20), "ms": 4, "lw": 1}
        on_grid = name.partition("@")[0] in OF_ODE
        (left if on_grid else middle).loglog([p.nfe for p in own], [p.distance for p in own], label=name, **style)
        right.loglog([p.nfe for p in own], [p.images for p in own], ls="" if on_grid else ":", **style)
    for panel, title in ((left, "ODE along a grid"), (middle, "ODE with error control; SDE")):
        panel.set(title=title, ylabel="Fréchet distance (grey: within 5 % of converged)")
        if panel.lines:
            panel.axhspan(best.distance, CLOSE * best.distance, color="0.85")
            panel.legend(fontsize=7)
        else:
            panel.set_visible(False)
    right.set(title="all", ylabel="images/s")
    for panel in (left, middle, right):
        panel.set_xlabel("NFE")
        panel.grid(alpha=0.3)
        for axis in (panel.xaxis, panel.yaxis):
            axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            axis.set_major_formatter("{x:g}")
            axis.set_minor_formatter(NullFormatter())
    figure.savefig(file, dpi=100)


def summary(points: list[Point], best: Point) -> list[list[str]]:
    """Return a row for each sampler: where it comes within 5 %, its distance at the smallest NFE, and its lowest."""
    rows = []
    for name in dict.fromkeys(point.sampler for point in points):
        own = [point for point in points if point.sampler == name]
        fit = next((p for p in own if p.ratio(best)[0] <= CLOSE), None)
        lowest = min(own, key=lambda p: p.distance)
        ends = [f"{p.distance:.3f} ({p.nfe:.0f})" for p in (own[0], lowest)]
        within = ["none", ""] if fit is None else [f"{fit.nfe:.0f}", f"{fit.images:.0f}"]
        rows.append([name, *within, *ends])
    return rows


def main() -> None:
    """Measure, print the table, draw the figure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", help="a run directory or a checkpoint")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--nfe", type=int, nargs="*", default=[5, 9, 17, 33, 65])
    parser.add_argument("--n", type=int, default=1000)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--batch-size", type=int, help="default: chosen for the device")
    parser.add_argument("--converged", type=int, default=64, help="steps of RK4 that count as converged")
    parser.add_argument("--only", nargs="*", default=[*OF_ODE, *ADAPTIVE, *OF_SDE])
    options = parser.parse_args()
    setup, points = prepare(options), []
    best = measure("rk4", sampler("rk4@noise_share", f"sampler.steps={options.converged}"), setup)
    print("converged, rk4 at {:.0f} NFE: {:.3f} ± {:.3f}".format(best.nfe, *spread(best.distances)), flush=True)
    for name in options.only:
        for how in variants(name, options.nfe):
            try:
                point = measure(name, how, setup)
            except UserError as problem:  # for example, the model has no SDE
                print(f"{name}: {problem}")
                break
            points.append(point)
            ratio, error = point.ratio(best)
            line = f"{name} {point.nfe:.0f} {point.distance:.3f}, {ratio:.2f} ± {error:.2f} of converged"
            print(f"{line}, {point.images:.0f}/s", flush=True)
    columns = ["sampler", "NFE within 5 %", "images/s there", "at the fewest NFE", "lowest distance (NFE)"]
    title = "{} samples, {} seeds; converged: {:.3f} ± {:.3f}".format(setup.n, setup.seeds, *spread(best.distances))
    table(title, columns, summary(points, best))
    options.out.mkdir(parents=True, exist_ok=True)
    draw(points, best, options.out / "samplers.png")


if __name__ == "__main__":
    main()

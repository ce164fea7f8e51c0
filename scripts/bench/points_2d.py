"""Flow, transport, interpolant and diffusion between laws in the plane, beside the public package torchcfm.

Usage: python scripts/bench/points_2d.py [--steps 4000] [--seeds 5] [--workers 2] [--methods flow,vp] [--out FILE]

dfm's methods train dfm's MLP (width 27: 8,156 parameters; 54 more for the second output of the interpolant), and
torchcfm's methods train its own MLP (width 64: 8,706 parameters). All use the same loop (Adam, batch 256, cosine rate
from 2e-3, EMA 0.999) on the same points, and are integrated by RK4 in 50 steps from the same 2,000 held-out source
points. ``flow_their_mlp`` is the flow method of dfm with torchcfm's MLP. The table has mean and standard deviation over
the seeds of

    W2      exact 2-Wasserstein distance to 2,000 held-out target points (scipy's assignment)
    energy  path energy E int |v|^2 dt divided by the exact squared W2 of source and target: 1 is the smallest possible

and, for comparison, the W2 of two sets of 2,000 target points. Needs the development extras (torchcfm).
Cost: under 30 minutes on two CPU cores.
"""

import argparse
import copy
import json
import os
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from itertools import pairwise
from multiprocessing import get_context
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")  # the workers share the cores

import torch
from torch import Tensor, nn
from torchcfm.conditional_flow_matching import (
    ConditionalFlowMatcher,
    ExactOptimalTransportConditionalFlowMatcher,
)
from torchcfm.models import MLP as TorchcfmMLP  # noqa: N811

from dfm.data.dataset import DatasetSpec
from dfm.data.toys import EightGaussians, Moons, Points, SwissRoll
from dfm.denoising.interpolant import InterpolantDenoiser
from dfm.denoising.network_denoiser import NetworkDenoiser
from dfm.denoising.predictions import Velocity
from dfm.evaluation.distances import wasserstein_2
from dfm.models.mlp import MLP
from dfm.paths.interpolant_latents import RootLatent
from dfm.paths.interpolating import Linear
from dfm.paths.priors import DatasetPrior, GaussianPrior, Prior
from dfm.paths.schedule import Schedule
from dfm.paths.variance_preserving import VariancePreserving
from dfm.sampling.steppers.ode import RK4
from dfm.training.ema import Ema
from dfm.training.objectives.base import Objective
from dfm.training.objectives.couplings import IndependentCoupling, OptimalTransport
from dfm.training.objectives.densities import UniformDensity
from dfm.training.objectives.loss_weights import UniformWeight
from dfm.training.objectives.regression import Interpolation, Regression

PAIRS = (("normal", "eight_gaussians"), ("eight_gaussians", "moons"), ("normal", "moons"), ("normal", "swiss_roll"))
METHODS = ("flow", "ot_flow", "interpolant", "vp", "flow_their_mlp", "torchcfm I-CFM", "torchcfm OT-CFM")
LAWS: dict[str, type[Points]] = {"eight_gaussians": EightGaussians, "moons": Moons, "swiss_roll": SwissRoll}
N, BATCH, MOVES = 2000, 256, 50
Loss = Callable[[Tensor, Tensor, torch.Generator], Tensor]
Field = Callable[[Tensor, Tensor], Tensor]


class TheirMlp(nn.Module):
    """torchcfm's MLP as a network of dfm. Its inputs are c_in x, and t = b/(a + b) as in its own package."""

    def __init__(self) -> None:
        super().__init__()
        self.mlp = TorchcfmMLP(dim=2, w=64, time_varying=True)

    def forward(self, x: Tensor, c_time: Tensor, label: Tensor | None = None) -> Tensor:
        """Return the output (B, 2) for x (B, 2) and c_time = log nsr (B,)."""
        return self.mlp(torch.cat([x, c_time.sigmoid()[:, None]], 1))


def points(law: str, seed: int, split: str) -> Tensor:
    """Return points of a law, float32 (n, 2): 50,000 for training, 2,000 for testing."""
    if law == "normal":
        n, stream = (50_000, 0) if split == "train" else (N, 1)
        return torch.randn(n, 2, generator=torch.Generator().manual_seed(97 * seed + stream))
    return LAWS[law](seed=seed, n_test=N).split(split).all()


def ours(method: str, source: str, target: str, seed: int) -> tuple[nn.Module, Loss, Callable[[nn.Module], Field]]:
    """Return the network of a method of dfm, its loss, and the function that makes a velocity field of a network."""
    outputs = 2 if method == "interpolant" else 1
    data = points(target, seed, "train")
    own = MLP(shape=(2,), outputs=outputs, width=27, depth=3, time_features=16)
    network = TheirMlp() if method == "flow_their_mlp" else own
    spec = DatasetSpec(
        name=target,
        shape=(2,),
        levels=None,
        num_classes=0,
        mean=float(data.mean()),
        std=float(data.var(0).mean().sqrt()),
    )
    path: Schedule = VariancePreserving() if method == "vp" else Linear()
    prior: Prior = GaussianPrior() if source == "normal" else DatasetPrior(dataset=LAWS[source](seed=seed))
    common: dict[str, Any] = {
        "spec": spec,
        "schedule": path,
        "trained_schedule": path,
        "prediction": Velocity(),
        "prior": prior,
    }
    kind = Interpolation if method == "interpolant" else Regression
    coupling = OptimalTransport() if method == "ot_flow" else IndependentCoupling()
    objective: Objective = kind(density=UniformDensity(), weight=UniformWeight(), coupling=coupling)

    def denoiser(module: nn.Module) -> NetworkDenoiser:
        if method == "interpolant":
            return InterpolantDenoiser(network=module, latent=RootLatent(), **common)
        return NetworkDenoiser(network=module, **common)

    def loss(start: Tensor, data: Tensor, generator: torch.Generator) -> Tensor:
        return objective.loss(denoiser(network), data, generator).value.mean()

    return network, loss, lambda module: denoiser(module).velocity


def theirs(method: str) -> tuple[nn.Module, Loss, Callable[[nn.Module], Field]]:
    """Return the same for torchcfm, whose time runs from the source, t = 0, to the target, t = 1."""
    matcher = (
        ExactOptimalTransportConditionalFlowMatcher(sigma=0.0)
        if method.endswith("OT-CFM")
        else ConditionalFlowMatcher(sigma=0.0)
    )
    network = TorchcfmMLP(dim=2, w=64, time_varying=True)

    def loss(start: Tensor, data: Tensor, generator: torch.Generator) -> Tensor:
        t, x, u = matcher.sample_location_and_conditional_flow(start, data)
        return (network(torch.cat([x, t[:, None]], 1)) - u).square().mean()

    def field(module: nn.Module) -> Field:
        return lambda x, t: -module(torch.cat([x, (1 - t.to(x)).expand(len(x), 1)], 1))

    return network, loss, field


def train(network: nn.Module, loss: Loss, source: str, target: str, seed: int, steps: int) -> nn.Module:
    """Train a network; return it with averaged weights."""
    starts, data = points(source, seed, "train"), points(target, seed, "train")
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.Adam(network.parameters(), lr=2e-3)
    rate = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    ema = Ema(network, copy.deepcopy(network), 0.999)
    for step in range(steps):
        rows = torch.randint(len(data), (2, BATCH), generator=generator)
        value = loss(starts[rows[0]], data[rows[1]], generator)
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        rate.step()
        ema.update(step + 1)
    return ema.network


@torch.no_grad()
def carry(field: Field, x: Tensor, t_start: float, t_end: float) -> tuple[Tensor, float]:
    """Return x at t_end by RK4, and the mean of int |v|^2 dt by the trapezoidal rule."""
    times = torch.linspace(t_start, t_end, MOVES + 1, dtype=torch.float64)
    energy = 0.0
    for t, s in pairwise(times):
        half = abs(float(s - t)) / 2
        energy += half * float(field(x, t).square().sum(1).mean())
        x = RK4().step(field, x, t, s)
        energy += half * float(field(x, s).square().sum(1).mean())
    return x, energy


def one(job: tuple[str, str, str, int, int]) -> dict[str, object]:
    """Train and measure one method on one pair with one seed."""
    source, target, method, seed, steps = job
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    start_time = time.perf_counter()
    by_us = not method.startswith("torchcfm")
    network, loss, field = ours(method, source, target, seed) if by_us else theirs(method)
    averaged = train(network, loss, source, target, seed, steps)
    seconds = time.perf_counter() - start_time
    ends = {"vp": (1.0, 1e-5)}.get(method, (0.999, 1e-3) if by_us else (1.0, 0.0))
    start, test = points(source, seed, "test"), points(target, seed, "test")
    end, energy = carry(field(averaged), start, *ends)
    return {
        "source": source,
        "target": target,
        "method": method,
        "seed": seed,
        "train_seconds": seconds,
        "parameters": sum(p.numel() for p in network.parameters()),
        "w2": wasserstein_2(end, test),
        "energy": energy / wasserstein_2(start, test) ** 2,
        "floor": wasserstein_2(points(target, seed, "train")[:N], test),
    }


def table(results: list[dict[str, object]]) -> str:
    """Return the table of means and standard deviations over seeds, with a row for each method."""
    lines = [
        "| method | " + " | ".join(f"{s} → {t}: W2, energy" for s, t in PAIRS) + " |",
        "|---|" + "---|" * len(PAIRS),
    ]

    def cell(key: str, runs: list[dict[str, object]]) -> str:
        values = torch.tensor([float(r[key]) for r in runs])  # type: ignore[arg-type]
        return f"{values.mean():.3f} ± {values.std() if len(values) > 1 else 0:.3f}"

    for method in METHODS:
        row = []
        for source, target in PAIRS:
            runs = [r for r in results if (r["method"], r["source"], r["target"]) == (method, source, target)]
            row.append(f"{cell('w2', runs)}, {cell('energy', runs)}" if runs else "")
        lines.append(f"| {method} | " + " | ".join(row) + " |")
    floors = [cell("floor", [r for r in results if r["target"] == t and r["source"] == s]) for s, t in PAIRS]
    return "\n".join([*lines, "| two sets of target points | " + " | ".join(floors) + " |"])


def main() -> None:
    """Train and measure all methods, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=4000)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--methods", default=",".join(METHODS))
    parser.add_argument("--out", type=Path, default=Path("outputs/benchmark_2d.json"))
    options = parser.parse_args()
    jobs = [
        (source, target, method, seed, options.steps)
        for seed in range(options.seeds)
        for source, target in PAIRS
        for method in options.methods.split(",")
        if method != "vp" or source == "normal"
    ]
    start, results = time.perf_counter(), []
    with ProcessPoolExecutor(options.workers, mp_context=get_context("spawn")) as pool:
        for count, result in enumerate(pool.map(one, jobs), start=1):
            results.append(result)
            name = f"{result['source']} -> {result['target']}  {result['method']}"
            measures = f"W2 {result['w2']:.3f}, energy {result['energy']:.3f}"
            print(f"{count}/{len(jobs)}  {time.perf_counter() - start:.0f} s  {name}: {measures}", flush=True)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(results, indent=1), "utf-8")
    print(table(results))
    print(f"{time.perf_counter() - start:.0f} s in total")


if __name__ == "__main__":
    main()

"""Measure the cost of likelihoods: dfm beside flow_matching and torchdiffeq, and dfm against n, d and probes.

Usage: python scripts/bench/likelihood.py --ckpt RUN [--n 64] [--rounds 3] [--out outputs/benchmark_likelihood]
       (needs pip install -e '.[bench]'; RUN is a training run on images, e.g. the run of make demo)

All methods have the same network, the same dequantised held-out images in one batch, the same Rademacher probes, the
same two ends of the path and the same prior. The reference is dfm's dopri5 at tolerances of 1e-7 with these probes.
`rms error` is over the images, in bits/dim. The methods are timed in turn; `seconds` is the median over the rounds.
flow_matching and torchdiffeq integrate in their own way: in the model's own time, with one step size for the batch.
"""

import argparse
import json
import math
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor

import dfm
from dfm.basics.seeding import Purpose, rademacher
from dfm.data.dataset import DatasetSpec
from dfm.data.numbers.pixel_levels import unit_of
from dfm.denoising.denoiser import Denoiser, EvaluationCount
from dfm.denoising.network_denoiser import NetworkDenoiser
from dfm.denoising.predictions import Velocity
from dfm.likelihood.divergence import Hutchinson
from dfm.likelihood.error_bars import choose_steps
from dfm.likelihood.estimator import ends
from dfm.likelihood.examples import examples
from dfm.likelihood.ode import OdeLikelihood
from dfm.likelihood.scoring import Scoring
from dfm.models.unet import UNet
from dfm.paths.interpolating import Linear
from dfm.runs.checkpoint import find
from dfm.runs.parts import Parts

TARGETS = (5e-3, 5e-4)  # errors in bits/dim at which the methods are compared
Solution = tuple[Tensor, float]  # log p (B,), and NFE


@dataclass
class Row:
    """A method and its measurements."""

    name: str
    solve: Callable[[], Solution]
    seconds: list[float] = field(default_factory=list)
    nfe: float = 0.0
    rms: float = math.nan
    mean: float = math.nan


@dataclass(frozen=True)
class Task:
    """Images (B, *D) as the model sees them; their probes are the numbers 0 .. B-1 of seed 0."""

    denoiser: Denoiser
    data: Tensor

    @property
    def probes(self) -> Tensor:
        """The Rademacher probes, (B, *D)."""
        shape = tuple(self.data.shape[1:])
        return rademacher(0, range(len(self.data)), shape, Purpose.PROBE, 0).to(self.data)

    def ours(self, **options: Any) -> Solution:
        """Return the result of dfm, which draws the same probes."""
        result = OdeLikelihood(**options).log_density(self.denoiser, self.data)
        return result.value, result.nfe

    def ends(self) -> tuple[Tensor, float]:
        """Return (x at t_min, d log a), the start of every method."""
        a = float(self.denoiser.schedule.ab(torch.tensor(self.denoiser.t_min, dtype=torch.float64))[0])
        return a * self.data, self.data[0].numel() * math.log(a)

    def time(self, t: Tensor) -> Tensor:
        """Return t inside the path: torchdiffeq steps beyond the end and interpolates back."""
        return t.double().clamp(self.denoiser.t_min, self.denoiser.t_max)

    def plain(self, **options: Any) -> Solution:
        """Return the result of torchdiffeq on (x, integral of div u), with one step size for the batch.

        (As in Song et al. 2021.)
        """
        from torchdiffeq import odeint

        calls, divergence = EvaluationCount(), Hutchinson(self.probes[None])
        counted, (x, log_a) = self.denoiser.counted(calls), self.ends()

        def derivative(t: Tensor, state: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
            return divergence(counted.velocity, state[0], self.time(t))

        times = torch.tensor([self.denoiser.t_min, self.denoiser.t_max])
        with torch.no_grad():
            latents, integrals = odeint(derivative, (x, torch.zeros(len(x))), times, **options)
        value = self.denoiser.noise_end.log_density(latents[-1].double()) + integrals[-1].double() + log_a
        return value, calls.samples / len(x)

    def flow_matching(self, **options: Any) -> Solution:
        """Return the result of flow_matching's compute_likelihood, whose time runs from noise, 0, to data, 1."""
        from flow_matching.solver import ODESolver

        calls, (low, high) = EvaluationCount(), (self.denoiser.t_min, self.denoiser.t_max)
        counted, (x, log_a) = self.denoiser.counted(calls), self.ends()

        class Field(torch.nn.Module):
            def forward(self, x: Tensor, t: Tensor) -> Tensor:
                return (low - high) * counted.velocity(x, task.time(high + (low - high) * t.double()))

        def prior(x: Tensor) -> Tensor:
            return task.denoiser.noise_end.log_density(x.double())

        task = self
        # The package's probe is +1 where a normal draw is negative.
        with patch("torch.randn_like", lambda x: -self.probes):
            _, value = ODESolver(velocity_model=Field()).compute_likelihood(x_1=x, log_p0=prior, **options)
        return value.detach().double() + log_a, calls.samples / len(x)


def methods(task: Task, steps: int) -> Iterator[Row]:
    """Yield the methods; the first is dfm's default with the number of steps that it chooses for these images."""
    yield Row(f"dfm default (rk5, {steps} steps)", partial(task.ours, steps=steps))
    yield Row("dfm dopri5 1e-5", partial(task.ours, solver="dopri5"))
    yield Row("dfm dopri5 1e-3", partial(task.ours, solver="dopri5", rtol=1e-3, atol=1e-3))
    for n in (6, 8, 12, 16, 24):
        if n != steps:
            yield Row(f"dfm rk5, {n} steps", partial(task.ours, steps=n))
    yield Row("torchdiffeq dopri5 1e-5", partial(task.plain, method="dopri5", rtol=1e-5, atol=1e-5))
    for tolerance in (1e-3, 1e-4, 1e-5):
        options = {"method": "dopri5", "rtol": tolerance, "atol": tolerance, "step_size": None}
        yield Row(f"flow_matching dopri5 {tolerance:.0e}", partial(task.flow_matching, **options))
    for method, counts in (("euler", (64, 256)), ("midpoint", (16, 32, 64, 128))):
        for n in counts:
            fixed = partial(task.flow_matching, method=method, step_size=1 / n)
            yield Row(f"flow_matching {method}, {n} steps", fixed)


def measure(rows: list[Row], reference: Tensor, rounds: int, bits: float) -> None:
    """Solve by each method in turn, ``rounds`` times."""
    for _ in range(rounds):
        for row in rows:
            start = time.perf_counter()
            value, row.nfe = row.solve()
            row.seconds.append(time.perf_counter() - start)
            error = (value - reference) * bits
            row.rms, row.mean = float(error.square().mean().sqrt()), float(error.mean())


def accuracy_table(rows: list[Row]) -> str:
    """Return the table in Markdown."""
    lines = [
        "| method | rms error, bits/dim | error of the mean | NFE | seconds | to dfm |",
        "|---|---|---|---|---|---|",
    ]
    base = statistics.median(rows[0].seconds)
    for row in rows:
        s = statistics.median(row.seconds)
        lines.append(f"| {row.name} | {row.rms:.5f} | {row.mean:+.5f} | {row.nfe:.0f} | {s:.2f} | {s / base:.1f} |")
    return "\n".join(lines)


def verdicts(rows: list[Row]) -> Iterator[str]:
    """Yield, for each accuracy, the cheapest method of each package that reaches it."""
    for target in TARGETS:
        cheapest: dict[str, tuple[float, str]] = {}
        for row in rows:
            family = row.name.split()[0]
            s = statistics.median(row.seconds)
            if row.rms <= target and s < cheapest.get(family, (math.inf, ""))[0]:
                cheapest[family] = (s, row.name)
        text = ", ".join(f"{name} {s:.2f} s" for s, name in cheapest.values())
        ours = cheapest.get("dfm")
        ratio = ", ".join(f"{f} {s / ours[0]:.1f} times" for f, (s, _) in cheapest.items() if ours and f != "dfm")
        yield f"rms error at most {target}: {text or 'none'}; against dfm: {ratio or '-'}"


def steps_of_default(task: Task, config: dict[str, Any], n: int) -> int:
    """Return the number of steps that dfm nll chooses, by scoring up to 64 examples."""
    parts = Parts(config)
    scoring = Scoring(
        denoiser=task.denoiser,
        likelihood=OdeLikelihood(),
        split=parts.dataset.split("test"),
        seed=0,
        batch_size=64,
        device=torch.device("cpu"),
        dequantization=parts.dequantization,
    )
    likelihood = choose_steps(scoring, list(range(min(n, 64)))).likelihood
    assert isinstance(likelihood, OdeLikelihood)
    return likelihood.moves


def run_command(*arguments: str) -> tuple[float, float]:
    """Return (seconds, peak memory in MiB) of a command of dfm in a separate process."""
    start = time.perf_counter()
    with tempfile.NamedTemporaryFile() as status:
        process = subprocess.run([sys.executable, "-c", COMMAND, status.name, *arguments], stdout=subprocess.DEVNULL)
        if process.returncode:
            raise SystemExit(f"failed: dfm {' '.join(arguments)}")
        peak = int(Path(status.name).read_text("utf-8").partition("VmHWM:")[2].split()[0]) / 1024
    return time.perf_counter() - start, peak


# The process reads its own peak, because the peak of wait4 includes the peak of the process that started it.
COMMAND = """
import pathlib, sys
from dfm.cli.main import main
status = sys.argv.pop(1)
try:
    main()
finally:
    pathlib.Path(status).write_text(pathlib.Path("/proc/self/status").read_text("utf-8"), "utf-8")
"""


def growth_with_n(ckpt: str, out: Path) -> Iterator[str]:
    """Yield time and memory of whole commands; they include the start of Python and its memory."""
    for n in (64, 256, 1024):
        run = out / f"{datetime.now():%Y-%m-%d_%H-%M-%S}-n{n}"
        options = ("split=train", f"n={n}", "batch_size=64", "audit=8", "likelihood.steps=6", f"hydra.run.dir={run}")
        seconds, peak = run_command("nll", f"ckpt={ckpt}", *options)
        yield f"| n = {n} | {seconds:.1f} s | {peak:.0f} MiB |"


def growth(batch: int = 16) -> Iterator[str]:
    """Yield the time per image of one call of the network with its divergence, against size and probes."""
    for side in (8, 16, 32):
        spec = DatasetSpec(name="x", shape=(3, side, side), levels=256, num_classes=0, mean=0.0, std=0.5)
        net = UNet(shape=spec.shape, channels=32, channel_multipliers=(1, 2), blocks_per_level=2, groups=8).eval()
        path = Linear()
        denoiser = NetworkDenoiser(spec=spec, schedule=path, trained_schedule=path, prediction=Velocity(), network=net)
        task = Task(denoiser, torch.rand(batch, *spec.shape) * 2 - 1)
        cases: list[tuple[str, dict[str, Any]]] = [(f"{k} probes", {"probes": k}) for k in (1, 2, 4, 8)]
        cases.append(("bf16", {"precision": "bf16"}))
        if side == 8:
            cases.append(("exact", {"divergence": "exact", "chunk": 64}))
        for name, options in cases:
            seconds = []
            for _ in range(3):
                start = time.perf_counter()
                task.ours(solver="euler", steps=2, **options)
                seconds.append((time.perf_counter() - start) / 2 / batch)
            yield f"| d = {3 * side * side}, {name} | {statistics.median(seconds) * 1e3:.2f} ms |"


def main() -> None:
    """Measure, print the tables, write likelihood.json."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ckpt", required=True)
    parser.add_argument("--n", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=Path("outputs/benchmark_likelihood"))
    arguments = parser.parse_args()
    try:
        import flow_matching  # noqa: F401
        import torchdiffeq  # noqa: F401
    except ImportError:
        raise SystemExit("the other packages are missing: pip install -e '.[bench]'") from None
    checkpoint, _ = find(arguments.ckpt)
    denoiser, parts = dfm.load(arguments.ckpt, device="cpu"), Parts(checkpoint.config)
    split, low = parts.dataset.split("test"), ends(denoiser, None)[0]
    data = examples(split, checkpoint.spec, range(min(arguments.n, len(split))), 0, parts.dequantization, low)
    task, bits = Task(denoiser, data), unit_of(checkpoint.spec).per_nat
    rows = list(methods(task, steps_of_default(task, checkpoint.config, arguments.n)))
    reference, _ = task.ours(solver="dopri5", rtol=1e-7, atol=1e-7)
    measure(rows, reference, arguments.rounds, bits)
    arguments.out.mkdir(parents=True, exist_ok=True)
    lines = [accuracy_table(rows), *verdicts(rows), *growth_with_n(arguments.ckpt, arguments.out), *growth()]
    print("\n".join(lines))
    record = [{name: getattr(row, name) for name in ("name", "rms", "mean", "nfe", "seconds")} for row in rows]
    (arguments.out / "likelihood.json").write_text(json.dumps(record, indent=1), "utf-8")


if __name__ == "__main__":
    main()

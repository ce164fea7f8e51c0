"""Held-out likelihoods with their errors: every example once, and what the mean of them is worth.

The standard error of the mean over n examples contains three parts: examples differ, and each has its own probe and
its own dequantisation noise. The last two are measured on a subset (the audit) that is scored again with other probes
and with other noise; the variance of one draw is half the mean square of the difference. The solver's error is the
change of the mean on the same subset at half the steps (tolerances ten times wider for an adaptive solver).
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from dfm.datasets.base import DatasetSpec, Split
from dfm.denoiser import Denoiser
from dfm.likelihood import OdeLikelihood
from dfm.quantization import bits_per_dimension, dequantize, discrete_nats
from dfm.seeding import Purpose, uniform


@dataclass(frozen=True, kw_only=True)
class Scored:
    """Negative log-likelihoods in nats, float64 (B,), of the examples numbered ``indices``, and their mean NFE."""

    indices: Sequence[int]
    nats: Tensor
    nfe: float


@dataclass(frozen=True, kw_only=True)
class Scoring:
    """A denoiser scoring one split.

    Args:
        seed: of dequantisation noise and probes; with it an example's value depends on its index alone.
    """

    denoiser: Denoiser
    likelihood: OdeLikelihood
    split: Split
    seed: int
    batch_size: int
    device: torch.device

    def scores(self, indices: Sequence[int], probe: int = 0, noise: int = 0, coarse: bool = False) -> Iterator[Scored]:
        """Scores of the examples ``indices`` of the split, a batch at a time.

        Args:
            probe, noise: other numbers draw other probes and other dequantisation noise.
            coarse: at half the steps, or at ten times the tolerance.
        """
        likelihood = coarser(self.likelihood) if coarse else self.likelihood
        for first in range(0, len(indices), self.batch_size):
            part = indices[first : first + self.batch_size]
            data = examples(self.split, self.denoiser.spec, part, self.seed, noise).to(self.device)
            labels = None if self.split.labels is None else self.split.labels[list(part)].to(self.device)
            given = self.denoiser.given(labels if self.denoiser.spec.num_classes else None)
            density = likelihood.log_density(given, data, self.seed, part, repeat=probe)
            nats = discrete_nats(density.value, data[0].numel(), self.denoiser.spec.levels).cpu()
            yield Scored(indices=part, nats=nats, nfe=density.nfe)


def examples(split: Split, spec: DatasetSpec, indices: Sequence[int], seed: int, noise: int = 0) -> Tensor:
    """Examples as the model sees them, float32 (n, *D): levels with dequantisation noise that depends on their index.

    Args:
        noise: another number, other noise.
    """
    values = split.values[list(indices)]
    if spec.levels is None:
        return values.float()
    u = uniform(seed, indices, tuple(values.shape[1:]), Purpose.DEQUANTIZE, noise)
    return dequantize(values, spec.levels, u).float()


def coarser(likelihood: OdeLikelihood) -> OdeLikelihood:
    """The same likelihood at half the steps, or at ten times the tolerances.

    One step cannot be halved: it is held against two, since a difference of zero would pass for convergence.
    """
    if likelihood.adaptive:
        return replace(likelihood, rtol=10 * likelihood.rtol, atol=10 * likelihood.atol)
    return replace(likelihood, steps=likelihood.steps // 2 if likelihood.steps > 1 else 2)


@dataclass(frozen=True, kw_only=True)
class Audit:
    """Scores in nats (m,) of a subset: as in the main pass, with other probes, other noise, and coarser."""

    base: Tensor
    other_probe: Tensor | None
    other_noise: Tensor | None
    coarse: Tensor


def report(nats: Tensor, audit: Audit, spec: DatasetSpec, nfe: float) -> dict[str, Any]:
    """The content of ``nll.json``: mean, standard error with its parts, the solver's error, and whether to trust it.

    Errors are in the unit of the figure: bits/dim for integer data, nats for points. ``converged`` is false where
    halving the steps moves the mean by more than its standard error, where a value is not finite, and where integer
    data come out below zero bits, which no probability can.
    """
    n, dimensions = len(nats), math.prod(spec.shape)
    unit = 1.0 if spec.levels is None else float(bits_per_dimension(1.0, dimensions))
    mean = float(nats.mean())
    stderr = float(nats.std()) / math.sqrt(n) if n > 1 else None
    probe, noise = (_part(audit.base, other, n) for other in (audit.other_probe, audit.other_noise))
    data = None if stderr is None else math.sqrt(max(0.0, stderr**2 - probe**2 - noise**2))
    solver = float((audit.coarse - audit.base).mean().abs())
    sound = math.isfinite(mean) and math.isfinite(solver) and (spec.levels is None or mean > 0)
    parts = {"stderr": stderr, "stderr_data": data, "stderr_probe": probe, "stderr_dequantization": noise}
    return {
        "unit": "nats" if spec.levels is None else "bits/dim",
        "bits_per_dim": None if spec.levels is None else _finite(float(bits_per_dimension(mean, dimensions))),
        "nats": _finite(mean),
        **{name: None if value is None else _finite(value * unit) for name, value in parts.items()},
        "solver_error": _finite(solver * unit),
        "converged": sound and solver <= (stderr or 0.0),
        "num_examples": n,
        "num_audited": len(audit.base),
        "nfe": nfe,
        "levels": spec.levels,
    }


def _part(base: Tensor, other: Tensor | None, n: int) -> float:
    """Standard error of a mean over n due to one source of noise, from a second draw of it."""
    return 0.0 if other is None else math.sqrt(float((other - base).square().mean()) / 2 / n)


def _finite(value: float) -> float | None:
    """JSON has no infinities."""
    return value if math.isfinite(value) else None

"""Likelihoods of the examples of a split, each example once, for any batch size and number of processes.

The value of an example depends only on its index and the seed, because its dequantisation noise and its probes are
drawn from these. ``error_bars.report`` computes the error of the mean over examples.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from dfm.basics.errors import UserError
from dfm.basics.processes import World
from dfm.data.dataset import Split
from dfm.data.numbers.dequantization import Dequantization, UniformDequantization
from dfm.data.numbers.units import log_volume, to_model
from dfm.denoising.arguments import (
    check_denoiser,
    check_finite,
    check_real,
    check_tensor,
    computable,
    device_of,
)
from dfm.denoising.denoiser import Denoiser
from dfm.likelihood.estimator import Budget, Likelihood, LogDensity, ends
from dfm.likelihood.examples import dequantize_examples, labels_for
from dfm.likelihood.ode import OdeLikelihood
from dfm.sampling.draw import check_count

Advance = Callable[[int], None]


@dataclass(frozen=True, kw_only=True)
class NatsByLevel:
    """The parts of a bound, summed over examples.

    Args:
        names: the parts in their order: ``decoder``, one ``level`` for each bin of log nsr, from little noise to much,
            ``prior``, ``dequantization``.
        edges: log nsr at the edges of the bins, float64 (L + 1,).
        count: the number of examples.
        total: the sum of each part over the examples, in nats, (L + 3,).
        deviations: the sum of its squared distances to its mean over these examples, (L + 3,).
    """

    names: tuple[str, ...]
    edges: Tensor
    count: int
    total: Tensor
    deviations: Tensor

    @classmethod
    def of(cls, budget: Budget, log_q: Tensor) -> "NatsByLevel":
        """Return the sums for a batch with this budget and log q (B,) of its dequantisation."""
        parts = torch.cat([budget.decoder[:, None], budget.bins, budget.prior[:, None], log_q[:, None]], 1)
        names = ("decoder", *["level"] * budget.bins.shape[1], "prior", "dequantization")
        deviations = (parts - parts.mean(0)).square().sum(0)
        return cls(names=names, edges=budget.edges, count=len(parts), total=parts.sum(0), deviations=deviations)

    def __add__(self, other: "NatsByLevel") -> "NatsByLevel":
        # the rule of Chan, Golub and LeVeque 1983: E[x^2] - E[x]^2 would cancel where a part hardly varies
        gap = other.total / other.count - self.total / self.count
        between = gap.square() * (self.count * other.count / (self.count + other.count))
        return replace(
            self,
            count=self.count + other.count,
            total=self.total + other.total,
            deviations=self.deviations + other.deviations + between,
        )

    @property
    def stderr(self) -> Tensor:
        """The standard error of the mean of each part, in nats, (L + 3,); zero for one example."""
        return (self.deviations / max(1, self.count - 1) / self.count).sqrt()


@dataclass(frozen=True, kw_only=True)
class Scores:
    """The scores of some examples.

    Args:
        indices: the numbers of the examples.
        nats: their negative log-likelihoods, float64 (B,).
        evaluations: evaluations of the network, summed over the examples.
        nats_by_level: the parts of a bound; None for the ODE.
    """

    indices: Sequence[int]
    nats: Tensor
    evaluations: float
    nats_by_level: NatsByLevel | None = None


@dataclass(frozen=True, kw_only=True)
class Scoring:
    """The work of scoring one split by one estimator.

    Args:
        likelihood: an estimator, after ``adapt``.
        seed: the seed of dequantisation noise and probes.
        dequantization: for integer levels.
        world: the processes that share the work.
        label: for a conditional model: one class for all examples instead of their own classes.
    """

    denoiser: Denoiser
    likelihood: Likelihood
    split: Split
    seed: int
    batch_size: int
    device: torch.device
    dequantization: Dequantization = field(default_factory=UniformDequantization)
    world: World = field(default_factory=World)
    label: int | None = None

    @property
    def dequantizes(self) -> bool:
        """Whether dequantisation noise is added to integer levels."""
        return self.denoiser.spec.levels is not None and not self.likelihood.discrete(self.denoiser.spec)

    @property
    def start(self) -> float:
        """The log nsr of the model's density."""
        low, _ = ends(self.denoiser, self.likelihood.decoder_start(self.denoiser.spec))
        levels = self.denoiser.spec.levels
        return self.dequantization.start(levels, low) if levels is not None and self.dequantizes else low

    def all(
        self,
        indices: Sequence[int],
        advance: Advance = lambda count: None,
        probe: int = 0,
        noise: int = 0,
        fine: bool = False,
    ) -> Scores:
        """Score the examples ``indices`` of the split; return their scores in this order, from all processes.

        Args:
            advance: is called with the number of examples done after each batch.
            probe, noise: other numbers give other probes and other dequantisation noise.
            fine: use the likelihood's ``finer``.
        """
        own = []
        for batch in self.batches(indices, probe, noise, fine):
            own.append(batch)
            advance(len(batch.nats) * self.world.size)
        batches = [batch for share in self.world.all_gather(own) for batch in share]
        numbers = (i for batch in batches for i in batch.indices)
        value = dict(zip(numbers, torch.cat([batch.nats for batch in batches]).tolist(), strict=True))
        parts = [batch.nats_by_level for batch in batches if batch.nats_by_level is not None]
        return Scores(
            indices=indices,
            nats=torch.tensor([value[i] for i in indices], dtype=torch.float64),
            evaluations=sum(batch.evaluations for batch in batches),
            nats_by_level=sum(parts[1:], parts[0]) if parts else None,
        )

    def batches(self, indices: Sequence[int], probe: int, noise: int, fine: bool) -> Iterator[Scores]:
        """Score this process's share of the examples; yield the scores of one batch at a time."""
        likelihood = (self.likelihood.finer() if fine else None) or self.likelihood
        parts = [indices[first : first + self.batch_size] for first in range(0, len(indices), self.batch_size)]
        for part in self.world.own_parts(parts):
            values = self.split.take(part)
            labelled = self.denoiser.with_labels(self._labels(part))

            def density(data: Tensor, part: Sequence[int] = part, labelled: Denoiser = labelled) -> LogDensity:
                return likelihood.log_density(labelled, data.to(self.device), self.seed, part, probe, self.start)

            yield (
                self._score_levels(values, part, noise, density)
                if self.dequantizes
                else self._score(values, part, density)
            )

    def _labels(self, part: Sequence[int]) -> Tensor | None:
        """Return the classes that the model gets for the examples ``part``."""
        own = labels_for(self.denoiser, self.split, part, self.device)
        return own if self.label is None or own is None else torch.full_like(own, self.label)

    def _score(self, values: Tensor, part: Sequence[int], density: Callable[[Tensor], LogDensity]) -> Scores:
        """Score real numbers in the user's unit, or integer levels by a discrete decoder."""
        spec = self.denoiser.spec
        data = values if spec.levels else to_model(values, spec)
        result = density(data.float() if self.device.type == "mps" else data)  # which has no float64
        volume = log_volume(spec)
        log_q = torch.full((len(values),), volume, dtype=torch.float64)
        return Scores(
            indices=part,
            nats=volume - result.value.cpu(),
            evaluations=result.nfe * len(values),
            nats_by_level=None if result.budget is None else NatsByLevel.of(result.budget, log_q),
        )

    def _score_levels(
        self, values: Tensor, part: Sequence[int], noise: int, density: Callable[[Tensor], LogDensity]
    ) -> Scores:
        """Score integer levels v by -log mean_k p(data_k)/q(data_k | v)."""
        spec, samples = self.denoiser.spec, self.dequantization.samples
        log_weights, evaluations, parts = [], 0.0, None
        for k in range(samples):
            data, log_q = dequantize_examples(
                values, spec, self.dequantization, self.seed, part, noise * samples + k, self.start
            )
            result = density(data)
            log_weights.append(result.value.cpu() - log_q)
            evaluations += result.nfe * len(values)
            parts = None if result.budget is None else NatsByLevel.of(result.budget, log_q)
        nats = math.log(samples) - torch.stack(log_weights).logsumexp(0)
        return Scores(indices=part, nats=nats, evaluations=evaluations, nats_by_level=parts)


def log_likelihood(
    denoiser: Denoiser, data: Tensor, likelihood: Likelihood | None = None, seed: int = 0, batch_size: int = 256
) -> Tensor:
    """Return log p(data) in nats, float64 (n,), of data (n, *D) in the unit in which the model was trained.

    Integers must be dequantised first (``dfm.data.numbers.pixel_levels.dequantize``), and real numbers of a model that
    scales them go through ``dfm.data.numbers.units.to_model``; its ``log_volume`` is not in the result. ``dfm nll``
    does all this itself.

    Args:
        denoiser: for a conditional model ``denoiser.with_labels(labels)`` with the classes of the data, int64 (n,).
        likelihood: the estimator. The default is the ODE by Dormand-Prince with tolerances of 1e-5 and Hutchinson's
            divergence.
        seed: the seed of the probes; the probes of row i are a function of (seed, i).

    If the data require a gradient, so does the result: the gradient of log p(data), through all steps of the solver,
    whose states are then kept in memory. Its probes are those of the value. The solver works in the type of the data,
    the network in that of its weights. So all is float64 for float64 data and ``denoiser.double()``.

    Raises:
        UserError: a few-step model, which has no density; the data have another shape than the model, or are not
            finite; there is not one label for each; integer levels for an estimator of real numbers, or real numbers
            for an estimator of integer levels.
    """
    check_denoiser(denoiser)
    denoiser.check_ode()
    estimator = likelihood or OdeLikelihood(solver="dopri5")
    if not estimator.discrete(denoiser.spec):
        check_real(denoiser, "data", data)
        check_finite("data", data)
        data = computable(data)
    else:
        check_tensor(denoiser, "data", data)
        if data.is_floating_point():
            raise UserError(f"data are {data.dtype}; this estimator scores integer levels; try uint8 levels")
    check_count(len(data) or 1, batch_size)
    device, values = device_of(denoiser), []
    for first in range(0, len(data), batch_size):
        rows = range(first, min(first + batch_size, len(data)))
        batch = data[first : first + batch_size].to(device)
        part = denoiser.select(torch.arange(rows.start, rows.stop))
        part = part if part.label is None else part.with_labels(part.label.to(device))
        values.append(estimator.log_density(part, batch, seed, rows).value.cpu())
    return torch.cat(values) if values else torch.zeros(0, dtype=torch.float64)

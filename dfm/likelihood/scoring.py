"""Held-out likelihoods: every example once, whatever the batches and the number of processes.

An example's value depends on its index and the seed alone: the noise of its dequantisation and its probes are drawn for
it. What a mean over examples is worth, ``report`` says.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from dfm.basics.errors import UserError
from dfm.basics.processes import World
from dfm.basics.seeding import Purpose, uniform
from dfm.data.dataset import DatasetSpec, Split
from dfm.data.dequantization import Dequantization, UniformDequantization
from dfm.denoising.denoiser import Denoiser, device_of
from dfm.likelihood.estimator import Budget, Likelihood, LogDensity, ends
from dfm.likelihood.ode import OdeLikelihood
from dfm.sampling import ode_flow as flows

Advance = Callable[[int], None]


@dataclass(frozen=True, kw_only=True)
class NatsByLevel:
    """Sums over examples of the nats of a bound and of their squares, by where they were paid: ``names`` says where."""

    names: tuple[str, ...]
    edges: Tensor
    total: Tensor
    squares: Tensor

    @classmethod
    def of(cls, budget: Budget, log_q: Tensor) -> "NatsByLevel":
        """A batch's: decoder, levels from little noise to much, prior, and what dequantisation adds."""
        parts = torch.cat([budget.decoder[:, None], budget.levels, budget.prior[:, None], log_q[:, None]], 1)
        names = ("decoder", *["level"] * budget.levels.shape[1], "prior", "dequantization")
        return cls(names=names, edges=budget.edges, total=parts.sum(0), squares=parts.square().sum(0))

    def __add__(self, other: "NatsByLevel") -> "NatsByLevel":
        return replace(self, total=self.total + other.total, squares=self.squares + other.squares)


@dataclass(frozen=True, kw_only=True)
class Scores:
    """Negative log-likelihoods in nats, float64 (B,), of the examples ``indices``; evaluations, summed over them."""

    indices: Sequence[int]
    nats: Tensor
    evaluations: float
    spent: NatsByLevel | None = None


@dataclass(frozen=True, kw_only=True)
class Scoring:
    """A denoiser scoring one split.

    Args:
        likelihood: ``suited`` to the data.
        seed: of dequantisation noise and probes; with it an example's value depends on its index alone.
        dequantization: for integer levels.
        world: the processes that share the work.
        label: a class for all in the place of the examples' own, for a conditional model.
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
        """Whether noise is added to integer levels."""
        return self.denoiser.spec.levels is not None and not self.likelihood.discrete(self.denoiser.spec)

    @property
    def start(self) -> float:
        """The log nsr at which the model's density is taken."""
        low, _ = ends(self.denoiser, self.likelihood.begins(self.denoiser.spec))
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
        """Scores of the examples ``indices`` of the split, in their order, gathered from all processes.

        Args:
            advance: told how many examples are done, as they are.
            probe, noise: other numbers draw other probes and other dequantisation noise.
            fine: with the likelihood's ``finer``.
        """
        mine = []
        for scored in self.batches(indices, probe, noise, fine):
            mine.append(scored)
            advance(len(scored.nats) * self.world.size)
        parts = [scored for share in self.world.all_gather(mine) for scored in share]
        value = dict(
            zip((i for p in parts for i in p.indices), torch.cat([p.nats for p in parts]).tolist(), strict=True)
        )
        spent = [p.spent for p in parts if p.spent is not None]
        return Scores(
            indices=indices,
            nats=torch.tensor([value[i] for i in indices], dtype=torch.float64),
            evaluations=sum(p.evaluations for p in parts),
            spent=sum(spent[1:], spent[0]) if spent else None,
        )

    def batches(self, indices: Sequence[int], probe: int, noise: int, fine: bool) -> Iterator[Scores]:
        """This process's share, a batch at a time."""
        likelihood = (self.likelihood.finer() if fine else None) or self.likelihood
        parts = [indices[first : first + self.batch_size] for first in range(0, len(indices), self.batch_size)]
        for part in self.world.own_parts(parts):
            values = self.split.values[list(part)]
            given = self.denoiser.with_labels(self._labels(part))

            def density(data: Tensor, part: Sequence[int] = part, given: Denoiser = given) -> LogDensity:
                return likelihood.log_density(given, data.to(self.device), self.seed, part, probe, self.start)

            yield (
                self._dequantized(values, part, noise, density)
                if self.dequantizes
                else self._plain(values, part, density)
            )

    def _labels(self, part: Sequence[int]) -> Tensor | None:
        own = labels_for(self.denoiser, self.split, part, self.device)
        return own if self.label is None or own is None else torch.full_like(own, self.label)

    def _plain(self, values: Tensor, part: Sequence[int], density: Callable[[Tensor], LogDensity]) -> Scores:
        """Of points, or of integers by a discrete decoder."""
        found = density(values)
        spent = (
            None
            if found.budget is None
            else NatsByLevel.of(found.budget, torch.zeros(len(values), dtype=torch.float64))
        )
        return Scores(indices=part, nats=-found.value.cpu(), evaluations=found.nfe * len(values), spent=spent)

    def _dequantized(
        self, values: Tensor, part: Sequence[int], noise: int, density: Callable[[Tensor], LogDensity]
    ) -> Scores:
        """-log mean_k p(data_k)/q(data_k | v) of integers."""
        spec, samples = self.denoiser.spec, self.dequantization.samples
        weights, evaluations, spent = [], 0.0, None
        for k in range(samples):
            data, log_q = dequantized(
                values, spec, self.dequantization, self.seed, part, noise * samples + k, self.start
            )
            found = density(data)
            weights.append(found.value.cpu() - log_q)
            evaluations += found.nfe * len(values)
            spent = None if found.budget is None else NatsByLevel.of(found.budget, log_q)
        nats = math.log(samples) - torch.stack(weights).logsumexp(0)
        return Scores(indices=part, nats=nats, evaluations=evaluations, spent=spent)


def dequantized(
    values: Tensor, spec: DatasetSpec, dequantization: Dequantization, seed: int, indices: Sequence[int], noise: int,
    log_nsr: float,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """(data float32 (B, *D), log q float64 (B,)) of integer levels, with noise that depends on their index."""
    assert spec.levels is not None
    u = uniform(seed, indices, tuple(values.shape[1:]), Purpose.DEQUANTIZE, noise)
    data, log_q = dequantization.draw(values, spec.levels, u, log_nsr)
    return data.float(), log_q


def labels_for(denoiser: Denoiser, split: Split, indices: Sequence[int], device: torch.device) -> Tensor | None:
    """Classes of the examples, int64 (len(indices),), for a model that wants them; else None."""
    if denoiser.spec.num_classes == 0 or split.labels is None:
        return None
    return split.labels[list(indices)].to(device)


def examples(
    split: Split, spec: DatasetSpec, indices: Sequence[int], seed: int, dequantization: Dequantization, log_nsr: float
) -> Tensor:
    """Examples as the model sees them, float32 (n, *D): levels with dequantisation noise that depends on their index.

    Args:
        log_nsr: the least noise at which the model may be asked.
    """
    values = split.values[list(indices)]
    if spec.levels is None:
        return values.float()
    return dequantized(values, spec, dequantization, seed, indices, 0, log_nsr)[0]


def log_likelihood(
    denoiser: Denoiser, data: Tensor, likelihood: Likelihood | None = None, seed: int = 0, batch_size: int = 256
) -> Tensor:
    """log p(data) in nats, float64 (n,), of data (n, *D) in the unit in which the model was trained.

    Integer images must be dequantised first (``dfm.data.pixel_levels.dequantize``); ``dfm nll`` does all of it.

    Args:
        denoiser: for a conditional model ``denoiser.with_labels(labels)``, int64 (n,): the classes of the data.
        likelihood: the estimator; default the ODE by Dormand-Prince with tolerances of 1e-5, Hutchinson's divergence.
        seed: of the probes; row i of the data has those of (seed, i).

    Raises:
        UserError: a few-step model, which has no density; data of another shape than the model's; integer levels for
            an estimator of real numbers, or the other way round.
    """
    denoiser.check_ode()
    how = likelihood or OdeLikelihood(solver="dopri5")
    if not how.discrete(denoiser.spec):
        flows.check_real(denoiser, "data", data)
    elif data.is_floating_point():
        raise UserError(f"data are {data.dtype}; this estimator scores integer levels; try uint8 levels as in a Split")
    place, parts = device_of(denoiser), range(0, len(data), batch_size)
    values = [
        how.log_density(
            denoiser.select(torch.arange(i, min(i + batch_size, len(data)))),
            data[i : i + batch_size].to(place),
            seed,
            range(i, min(i + batch_size, len(data))),
        ).value.cpu()
        for i in parts
    ]
    return torch.cat(values) if values else torch.zeros(0, dtype=torch.float64)

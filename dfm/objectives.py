"""What training minimises: a loss per sample at random noise levels. Only the trainer reduces it."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn

from dfm.broadcast import per_sample
from dfm.classifiers import NoisyClassifier
from dfm.couplings import Coupling, Independent
from dfm.denoiser import Denoiser
from dfm.densities import Density
from dfm.errors import UserError
from dfm.interpolants import InterpolantDenoiser
from dfm.langevin import LangevinDenoiser, chain
from dfm.networks import NetworkDenoiser
from dfm.seeding import GeneratorDraws
from dfm.uncertainty import Fixed, Uncertainty
from dfm.weights import Weight


@dataclass(frozen=True, kw_only=True)
class Loss:
    """Losses to minimise and where they were taken.

    Args:
        value: (B,), float32 or wider.
        error: (B,), what ``value`` was before importance and uncertainty rescaled it.
        u: quantiles of the density, float64 (B,).
    """

    value: Tensor
    error: Tensor
    u: Tensor

    def to(self, device: torch.device) -> "Loss":
        """The same on a device."""
        return Loss(value=self.value.to(device), error=self.error.to(device), u=self.u.to(device))


Model = NetworkDenoiser | NoisyClassifier


class Objective(ABC):
    """A loss of a model's network on a batch of data.

    Attributes:
        taught: whether it needs a teacher, given by ``init=``.
        few_steps: whether what it trains is made for a sampler of its own, of few steps.
        shardable: whether processes may share the weights: it keeps no copy of them, and calls the network equally
            often in all.
    """

    taught: ClassVar[bool] = False
    few_steps: ClassVar[bool] = False
    shardable: ClassVar[bool] = True

    @property
    def has_ode(self) -> bool:
        """Whether what it trains is E[data | x_t], and so has an ODE and a density."""
        return True

    @property
    def independent(self) -> bool:
        """Whether it leaves data and noise independent, beyond what its coupling does."""
        return True

    @property
    def rounds(self) -> int:
        """In how many rounds of equally many optimiser steps it goes."""
        return 1

    @property
    def validates(self) -> bool:
        """Whether its loss on held-out data tells more than its loss in training."""
        return True

    def steps_learned(self, noted: Mapping[str, Tensor]) -> int | None:
        """For how many sampling steps a few-step model was made, if for a certain number.

        Args:
            noted: the state of ``module()`` in its checkpoint.
        """
        return None

    @abstractmethod
    def loss(self, denoiser: Any, data: Tensor, generator: torch.Generator, progress: float = 1.0) -> Loss:
        """Losses of data (B, *D); all that is random comes from ``generator``, on the device of the data.

        Args:
            progress: the done share of the run, for an objective that changes on the way.
        """

    def observe(self, loss: Loss) -> None:  # noqa: B027
        """Take note of a training loss: only an objective that adapts does."""

    def module(self, network: nn.Module) -> nn.Module:
        """What the objective itself learns or notes: parameters to train, and frozen ones and buffers to keep.

        Args:
            network: that is to be trained.
        """
        return nn.Module()

    def advance(self, denoiser: Any, progress: float) -> bool:
        """Called before each optimiser step with the denoiser in training: whether a round begins with this step.

        What is learned in a round is another thing than in the round before, so the weights' average begins anew.
        """
        return False

    def annealed(self, progress: float) -> float:
        """The share of the way that the learning rate's fall has come: here that of the run."""
        return progress

    def placed(self, directory: Path) -> Self:
        """The same objective in a run directory, where it may keep files."""
        return self

    def news(self) -> dict[str, float]:
        """What it measured since it was last asked, for the metrics."""
        return {}

    def closing(self, denoiser: Any) -> dict[str, float]:
        """What is to be measured of the trained denoiser at the end of the run, for the metrics."""
        return {}


@dataclass(frozen=True, kw_only=True)
class Regression(Objective):
    """w(t) |out(x_t, t) - (p data + q noise)|^2 / d at x_t = a data + b noise, t from a density.

    (p, q) is the denoiser's prediction. Denoising, denoising score matching and flow matching are this loss with other
    rows, densities and weights (lecture, eqs. 6 and 8 and flow matching; Lipman et al. 2023, theorem 2). The error is
    formed in units of the target's scale, which the weight then carries, so that no weight overflows a small target.

    Args:
        coupling: pairs data and noise inside a batch.
        uncertainty: rescales the losses of the levels.
    """

    density: Density
    weight: Weight
    coupling: Coupling = field(default_factory=Independent)
    uncertainty: Uncertainty = field(default_factory=Fixed)

    def loss(self, denoiser: NetworkDenoiser, data: Tensor, generator: torch.Generator, progress: float = 1.0) -> Loss:
        u = self.density.uniforms(len(data), generator)
        t = self.density.time(u, denoiser.trained)
        noise = drawn(denoiser, data, generator)
        data, noise = self.coupling.pair(data, noise, denoiser.label, generator)
        error = self.errors(denoiser, data, noise, t, generator)
        value = self.uncertainty(error, denoiser.trained.log_nsr(t)) * self.density.importance(u).to(error)
        return Loss(value=value, error=error, u=u)

    def errors(
        self, denoiser: NetworkDenoiser, data: Tensor, noise: Tensor, t: Tensor, generator: torch.Generator
    ) -> Tensor:
        """Weighted squared errors (B,)."""
        return self.at(denoiser, data, noise, t)

    def at(self, denoiser: NetworkDenoiser, data: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """The losses (B,) at given noise and times."""
        refuse_latent(denoiser)
        a, b = denoiser.trained.ab(t)
        out = denoiser.output(per_sample(a, data) * data + per_sample(b, data) * noise, t)
        return self.row_error(denoiser, out, data, noise, t)

    def row_error(self, denoiser: NetworkDenoiser, out: Tensor, data: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """w |scale out - (p data + q noise)|^2 / d, (B,), of the network's output in units of its scale."""
        p, q = denoiser.prediction.row(denoiser.trained, t, denoiser.spec.std)
        scale = denoiser.scale(t)
        target = per_sample(p / scale, data) * data + per_sample(q / scale, data) * noise
        weight = self.weight(t, denoiser.trained, denoiser.prediction, denoiser.spec.std) * scale**2
        return (out - target).square().flatten(1).mean(1) * weight.to(out)

    def observe(self, loss: Loss) -> None:
        self.density.observe(loss.u, loss.error)

    def module(self, network: nn.Module) -> nn.ModuleDict:
        return nn.ModuleDict({**noted(self.density), "uncertainty": self.uncertainty})


@dataclass(frozen=True, kw_only=True)
class Interpolation(Regression):
    """``Regression`` at x_t = a data + b noise + c z, plus |z_out(x_t, t) - z|^2 / d: velocity and score together.

    (Albergo et al. 2023: their losses for the velocity and for the denoiser of z.) Needs a latent, e.g. latent=root.
    """

    def errors(
        self, denoiser: NetworkDenoiser, data: Tensor, noise: Tensor, t: Tensor, generator: torch.Generator
    ) -> Tensor:
        if not isinstance(denoiser, InterpolantDenoiser):
            raise UserError("objective=interpolant needs a latent; allowed: latent=root")
        z = torch.randn(data.shape, generator=generator, device=data.device, dtype=data.dtype)
        a, b = denoiser.trained.ab(t)
        c = denoiser.latent.c(denoiser.trained, t)
        x = per_sample(a, data) * data + per_sample(b, data) * noise + per_sample(c, data) * z
        row, z_out = denoiser.heads(x, t)
        latent_error = (z_out - z).square().flatten(1).mean(1)
        return self.row_error(denoiser, row, data, noise, t) + latent_error


@dataclass(frozen=True, kw_only=True)
class LangevinMatching(Objective):
    """The score of dX = -grad f dt + sqrt2 dB from its own transitions (lecture, general prior).

    The chain x_{k+1} = x_k - h grad f(x_k) + sqrt(2 h) z is run from the data; at random steps of each sample

        score target    grad log N(x_{k+1}; x_k - h grad f(x_k), 2 h I) = -z/sqrt(2 h)

    and the loss |sqrt(2 h) s(x_{k+1}, t_{k+1}) + z|^2/d weighs every step by its noise. Times are t_max (k/K)^2: short
    steps where the density is still that of the data. The chain's own law differs from the SDE's by O(h f''), so a
    steep potential wants many steps (with h f'' = 0.8 its variance in a well is 1.7 times too large).

    Args:
        steps: K.
        transitions: how many steps of each sample's chain enter the loss.

    Raises:
        UserError: steps is below 2, or transitions below 1; on use with a prior that has no potential.
    """

    steps: int = 400
    transitions: int = 8

    def __post_init__(self) -> None:
        if self.steps < 2 or self.transitions < 1:
            raise UserError(
                f"objective langevin: steps={self.steps}, transitions={self.transitions}; allowed: at least 2 and 1"
            )

    def loss(self, denoiser: NetworkDenoiser, data: Tensor, generator: torch.Generator, progress: float = 1.0) -> Loss:
        if not isinstance(denoiser, LangevinDenoiser):
            raise UserError("objective=langevin needs a potential; allowed: prior=double_well or prior=potential")
        edges = denoiser.trained.t_max * torch.linspace(0, 1, self.steps + 1, dtype=torch.float64) ** 2
        u = torch.rand(self.transitions * len(data), generator=generator, device=data.device, dtype=torch.float64)
        k = self._steps_inside(edges, denoiser.trained.t_min, u).to(data.device)
        noise = torch.randn(self.steps, *data.shape, generator=generator, device=data.device, dtype=data.dtype)
        rows = torch.arange(len(data), device=data.device).repeat(self.transitions)
        x = chain(denoiser.potential, data, edges, noise)[k + 1, rows]
        t, h = (edges.to(data.device)[k + 1], edges.diff().to(data.device)[k])
        _, score = denoiser.velocity_and_score(x, t)
        error = (per_sample((2 * h).sqrt(), x) * score + noise[k, rows]).square().flatten(1).mean(1)
        mean = error.reshape(self.transitions, len(data)).mean(0)
        return Loss(value=mean, error=mean, u=u[: len(data)])

    def _steps_inside(self, edges: Tensor, t_min: float, u: Tensor) -> Tensor:
        """A step k of each sample with t_{k+1} >= t_min, all with equal chance."""
        first = int((edges[1:] < t_min).sum())
        return first + (u * (self.steps - first)).long().clamp_max(self.steps - first - 1)


@dataclass(frozen=True, kw_only=True)
class Classification(Objective):
    """-log p(c | x_t) of a noisy classifier at x_t = a data + b noise, c the class of the data, t from a density."""

    density: Density

    def loss(self, denoiser: NoisyClassifier, data: Tensor, generator: torch.Generator, progress: float = 1.0) -> Loss:
        assert denoiser.label is not None
        u = self.density.uniforms(len(data), generator)
        t = self.density.time(u, denoiser.trained)
        noise = torch.randn(data.shape, generator=generator, device=data.device, dtype=data.dtype)
        a, b = denoiser.trained.ab(t)
        found = denoiser.log_probabilities(per_sample(a, data) * data + per_sample(b, data) * noise, t)
        error = -found.gather(1, denoiser.label[:, None])[:, 0]
        return Loss(value=error * self.density.importance(u).to(error), error=error, u=u)

    def observe(self, loss: Loss) -> None:
        self.density.observe(loss.u, loss.error)

    def module(self, network: nn.Module) -> nn.ModuleDict:
        return nn.ModuleDict(noted(self.density))


def refuse_latent(denoiser: Denoiser) -> None:
    """Refuse a network with an output for a latent, which this loss has no use for.

    Raises:
        UserError: it is one.
    """
    if isinstance(denoiser, InterpolantDenoiser):
        raise UserError("latent=root needs its own loss; allowed: objective=interpolant, or latent=none")


def drawn(denoiser: Denoiser, data: Tensor, generator: torch.Generator) -> Tensor:
    """Noise of the denoiser's prior for a batch of data (B, *D)."""
    return denoiser.source.draw(GeneratorDraws(len(data), generator, data.dtype), tuple(data.shape[1:]))


def noted(density: Density | None) -> dict[str, nn.Module]:
    """What a density has noted, if it notes anything, as a part of an objective's module."""
    memory = None if density is None else density.memory()
    return {} if memory is None else {"density": memory}

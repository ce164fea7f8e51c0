"""Priors of the lecture's general form exp(-f(x))/Z, of which we know only the potential f."""

import math
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

import torch
from torch import Tensor

from dfm.basics.errors import UserError
from dfm.basics.seeding import Draws, GeneratorDraws
from dfm.paths.formulas import Formula
from dfm.paths.priors import Prior

POINTS = {1: 4001, 2: 601}  # dimension: quadrature points along each axis


@dataclass(frozen=True, kw_only=True)
class Potential(Prior):
    """The law exp(-f)/Z on points of d dimensions; f is a formula of x1 .. xd (x means x1) and r2 = |x|^2.

    Draws come from a Langevin chain with the Metropolis correction (MALA, Roberts and Tweedie 1996). It accepts the
    proposal x - h v(x) + sqrt(2 h) z with the probability that makes exp(-f)/Z exactly invariant. The drift is bounded,
    v = grad f/(1 + h |grad f|), because where f is steep a full step overshoots and would be refused for ever.

    Args:
        f: the potential, which grows at infinity.
        dimension: d.
        chain_steps, step: number of steps of the chain, and h.
        box: half the width of a square; for Z and the moments, exp(-f) counts as 0 outside it (d at most 2).

    Raises:
        UserError: f is no formula, or a number is out of range.
    """

    is_potential: ClassVar[bool] = True

    f: str
    dimension: int = 2
    chain_steps: int = 500
    step: float = 0.05
    box: float = 8.0

    def __post_init__(self) -> None:
        if not (self.dimension >= 1 and self.chain_steps >= 1 and self.step > 0 and self.box > 0):
            raise UserError(
                f"prior: dimension={self.dimension}, chain_steps={self.chain_steps}, step={self.step}, box={self.box}; "
                "allowed: numbers above 0"
            )
        probe = self.energy(torch.zeros(1, self.dimension, dtype=torch.float64))
        if not bool(probe.isfinite().all()):
            raise UserError(f"prior.f='{self.f}' is {float(probe):g} at 0; allowed: finite values")

    @cached_property
    def _formula(self) -> Formula:
        names = ("x", "r2", *(f"x{i + 1}" for i in range(self.dimension)))
        return Formula(self.f, names, "prior.f")

    def energy(self, x: Tensor) -> Tensor:
        """Return f(x), (B,), of x (B, d)."""
        coordinates = {f"x{i + 1}": x[:, i] for i in range(self.dimension)}
        return self._formula(x=x[:, 0], r2=x.square().sum(1), **coordinates)

    def gradient(self, x: Tensor) -> Tensor:
        """Return grad f, (B, d), of x (B, d); it is differentiable if x is, for the divergence of the velocity."""
        differentiable = x.requires_grad and torch.is_grad_enabled()
        with torch.enable_grad():
            leaf = x if differentiable else x.detach().requires_grad_()
            energy = self.energy(leaf).sum()
            if not energy.requires_grad:  # f is constant
                return torch.zeros_like(x)
            (gradient,) = torch.autograd.grad(energy, leaf, create_graph=differentiable, materialize_grads=True)
        return gradient

    def draw(self, draws: Draws, shape: tuple[int, ...]) -> Tensor:
        if shape != (self.dimension,):
            fix = f"prior.dimension={shape[0]}" if len(shape) == 1 else "a data set of points, such as dataset=moons"
            raise UserError(
                f"prior.f has {self.dimension} dimensions and the data have shape {shape}; allowed: equal; try {fix}"
            )
        x = 1.5 * draws.normal(shape)
        noise, coins = draws.normal((self.chain_steps, *shape)), draws.uniform((self.chain_steps,))
        energy, drift = self.energy(x), self._drift(x)
        for k in range(self.chain_steps):
            new_x = x - self.step * drift + math.sqrt(2 * self.step) * noise[:, k]
            new_energy, new_drift = self.energy(new_x), self._drift(new_x)
            # -log of the proposal density, up to a constant: from x to new_x, and from new_x to x
            forward = (new_x - x + self.step * drift).square().sum(1) / (4 * self.step)
            backward = (x - new_x + self.step * new_drift).square().sum(1) / (4 * self.step)
            accept = coins[:, k].log() < energy - new_energy + forward - backward
            x = torch.where(accept[:, None], new_x, x)
            energy = torch.where(accept, new_energy, energy)
            drift = torch.where(accept[:, None], new_drift, drift)
        return x

    def _drift(self, x: Tensor) -> Tensor:
        gradient = self.gradient(x)
        return gradient / (1 + self.step * gradient.norm(dim=1, keepdim=True))

    @cached_property
    def _quadrature(self) -> tuple[float, float, float]:
        """log Z, mean and standard deviation over all coordinates, by the trapezoidal rule.

        In more than 2 dimensions log Z is NaN, and the moments come from 4096 draws.
        """
        if self.dimension not in POINTS:
            x = self.draw(GeneratorDraws(4096, torch.Generator().manual_seed(0), torch.float64), (self.dimension,))
            return math.nan, float(x.mean()), float(x.var(0).mean().sqrt())
        axis = torch.linspace(-self.box, self.box, POINTS[self.dimension], dtype=torch.float64)
        x = torch.cartesian_prod(*[axis] * self.dimension).reshape(-1, self.dimension)
        log_p = -self.energy(x)
        log_z = float(log_p.logsumexp(0)) + self.dimension * math.log(float(axis[1] - axis[0]))
        p = log_p.softmax(0)
        means = p @ x
        return log_z, float(means.mean()), math.sqrt(float((p @ x.square() - means.square()).mean()))

    @property
    def mean(self) -> float:
        return self._quadrature[1]

    @property
    def std(self) -> float:
        return self._quadrature[2]

    def log_prob(self, x: Tensor) -> Tensor:
        if self.dimension not in POINTS:
            raise UserError(
                f"no likelihood: Z of prior.f is unknown in {self.dimension} dimensions; allowed: at most 2"
            )
        return -self.energy(x.double()) - self._quadrature[0]


@dataclass(frozen=True, kw_only=True)
class DoubleWell(Potential):
    """The double well f = height (x1^2/width^2 - 1)^2 + (|x|^2 - x1^2)/2.

    It has wells at x1 = +-width; the other coordinates are standard normal.
    """

    f: str = ""
    height: float = 2.0
    width: float = 1.5

    @cached_property
    def _formula(self) -> Formula:
        text = f"{self.height} * (x^2/{self.width**2} - 1)^2 + (r2 - x^2)/2"
        return Formula(text, ("x", "r2", *(f"x{i + 1}" for i in range(self.dimension))), "prior")

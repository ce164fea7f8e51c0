"""Consistency models: one call of the network leads from any point of an ODE path to its end in the data.

    f(x_t, t) = f(x_r, r) for x_t, x_r on one path of the ODE,      f(x_r, r) -> data as nsr(r) -> 0

f is the denoiser's E[data | x_t] put to another use: every row of a prediction but ``data`` tends to x_r/a by itself
where there is no noise, so nothing of the network changes and a teacher's weights are a good beginning. Two points of
one path are x_t and x_r = a data + b noise with the same data and noise, in expectation and as r approaches t (Song et
al. 2023, theorem 2); how near they are, a ``Pacing`` says as training goes on.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from dfm.basics.errors import UserError
from dfm.basics.per_sample import per_sample
from dfm.denoising.network_denoiser import NetworkDenoiser
from dfm.training.objectives.base import Loss, Objective, Outcome, draw_noise
from dfm.training.objectives.couplings import Coupling, IndependentCoupling
from dfm.training.objectives.densities import Density

# The papers' noise levels are for data of this deviation; ours are scaled to it.
PAPERS_STD = 0.5


class Pacing(ABC):
    """Which two levels of noise are compared, and how that changes with the progress of a run (group ``pacing``)."""

    @abstractmethod
    def pair(self, sigma: Tensor, progress: float) -> tuple[Tensor, Tensor]:
        """(upper, lower) near sigma, float64 (B,), in the papers' unit; a lower of 0 is the data.

        Args:
            sigma: drawn from the density of training.
            progress: the done share of the run.
        """


@dataclass(frozen=True, kw_only=True)
class EasyPacing(Pacing):
    """lower/upper = 1 - n(sigma)/q^(1 + s), n = 1 + k sigmoid(-b sigma), at stage s of ``stages`` (Geng et al. 2024).

    At first q^-1 n > 1 where sigma is small: the lower level is the data, which is plain denoising; then they approach.

    Raises:
        UserError: q is not above 1, or there is no stage.
    """

    q: float = 2.0
    stages: int = 8
    k: float = 8.0
    b: float = 1.0

    def __post_init__(self) -> None:
        if not self.q > 1 or self.stages < 1:
            raise UserError(f"pacing easy: q={self.q:g}, stages={self.stages}; allowed: above 1, and at least 1")

    def pair(self, sigma: Tensor, progress: float) -> tuple[Tensor, Tensor]:
        stage = min(int(progress * self.stages), self.stages - 1)
        n = 1 + self.k * torch.sigmoid(-self.b * sigma)
        return sigma, sigma * (1 - n / self.q ** (stage + 1)).clamp_min(0)


@dataclass(frozen=True, kw_only=True)
class DoublingPacing(Pacing):
    """Neighbours of a rho grid of N levels, N = min(s0 2^floor(progress K), s1) + 1, K = log2(s1/s0) + 1.

    (Song and Dhariwal 2024, section 3.4, with their rho = 7 grid from ``low`` to ``high``.)

    Raises:
        UserError: 1 <= s0 <= s1 or 0 < low < high does not hold.
    """

    s0: int = 10
    s1: int = 1280
    low: float = 0.002
    high: float = 80.0
    rho: float = 7.0

    def __post_init__(self) -> None:
        if not (1 <= self.s0 <= self.s1 and 0 < self.low < self.high):
            raise UserError(
                f"pacing doubling: s0={self.s0}, s1={self.s1}, low={self.low:g}, high={self.high:g}; "
                "allowed: 1 <= s0 <= s1, 0 < low < high"
            )

    def count(self, progress: float) -> int:
        """N, how many levels the grid has."""
        doublings = math.floor(math.log2(self.s1 / self.s0)) + 1
        return min(self.s0 * 2 ** int(progress * doublings), self.s1) + 1

    def pair(self, sigma: Tensor, progress: float) -> tuple[Tensor, Tensor]:
        share = torch.linspace(0, 1, self.count(progress), dtype=torch.float64, device=sigma.device)
        ends = self.low ** (1 / self.rho), self.high ** (1 / self.rho)
        levels = (ends[0] + share * (ends[1] - ends[0])) ** self.rho
        upper = torch.searchsorted(levels, sigma).clamp(1, len(levels) - 1)
        return levels[upper], levels[upper - 1]


@dataclass(frozen=True, kw_only=True)
class Consistency(Objective):
    """(sqrt(|f(x_t, t) - sg f(x_r, r)|^2 + c^2) - c)/(sigma_t - sigma_r), sigma the nsr in the papers' unit.

    sg stops the gradient; both calls see the same dropout. c = huber sqrt(d). (Song and Dhariwal 2024, eqs. 7 and 8;
    Geng et al. 2024, section 3.) With ``init=TEACHER`` it tunes a teacher, without it trains from scratch.

    Args:
        density: of the levels, in the unit of nsr.
        pacing: which level each is compared with.
        huber: 0.00054 in the papers, for data of deviation 0.5.

    Raises:
        UserError: huber is not above 0.
    """

    density: Density
    pacing: Pacing
    coupling: Coupling = field(default_factory=IndependentCoupling)
    huber: float = 0.00054

    def outcome(self, state: Mapping[str, Tensor]) -> Outcome:
        return Outcome(has_ode=False, few_steps=True)

    def density_of_times(self) -> Density:
        return self.density

    def __post_init__(self) -> None:
        if not self.huber > 0:
            raise UserError(f"objective consistency: huber={self.huber:g}; allowed: above 0; try 0.00054")

    def loss(self, denoiser: NetworkDenoiser, data: Tensor, generator: torch.Generator, progress: float = 1.0) -> Loss:
        u = self.density.uniforms(len(data), generator)
        unit = PAPERS_STD / denoiser.spec.std
        sigma = denoiser.trained_schedule.log_nsr(self.density.time(u, denoiser.trained_schedule)).exp() * unit
        upper, lower = self.pacing.pair(sigma, progress)
        noise = draw_noise(denoiser, data, generator)
        data, noise = self.coupling.pair(data, noise, denoiser.label, generator)
        seed = int(torch.randint(2**31, (), generator=generator, device=generator.device))
        found = self._ends(denoiser, data, noise, upper / unit, seed)
        with torch.no_grad():
            known = lower / unit <= _least(denoiser)
            target = torch.where(
                per_sample(known, data) > 0, data, self._ends(denoiser, data, noise, lower / unit, seed)
            )
        c2 = self.huber**2 * data[0].numel() * (denoiser.spec.std / PAPERS_STD) ** 2
        distance = ((found - target).square().flatten(1).sum(1) + c2).sqrt() - math.sqrt(c2)
        error = distance / (upper - lower).to(distance)
        return Loss(value=error * self.density.importance(u).to(error), error=error, u=u)

    @staticmethod
    def _ends(denoiser: NetworkDenoiser, data: Tensor, noise: Tensor, nsr: Tensor, seed: int) -> Tensor:
        """f at a data + b noise, at these noise-to-signal ratios or the nearest that the path has."""
        path = denoiser.trained_schedule
        t = path.time_of_log_nsr(nsr.clamp_min(_least(denoiser)).log()).clamp(path.t_min, path.t_max)
        with torch.random.fork_rng(devices=[data.device] if data.is_cuda else []):
            torch.manual_seed(seed)
            return denoiser.data(path.mix(data, noise, t), t)


def _least(denoiser: NetworkDenoiser) -> float:
    """nsr at t_min of the trained path."""
    return float(
        denoiser.trained_schedule.log_nsr(torch.tensor(denoiser.trained_schedule.t_min, dtype=torch.float64)).exp()
    )

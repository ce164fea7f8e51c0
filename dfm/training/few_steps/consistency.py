"""Consistency models: one call of the network leads from any point of a solution of the ODE to its data end.

    f(x_t, t) = f(x_r, r) for x_t, x_r on one solution of the ODE,      f(x_r, r) -> data as nsr(r) -> 0

f is ``Denoiser.data``, trained in another way. For every prediction but ``data`` it tends to x_r/a where the noise
vanishes, so the network stays as it is and can start from the weights of a teacher. As two points of one solution we
take a data + b noise at t and at r with the same data and noise. That is right in expectation as r approaches t (Song
et al. 2023, theorem 2). A ``Pacing`` gives the distance of t and r in the course of training.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from dfm.basics.errors import UserError
from dfm.basics.per_sample import per_sample
from dfm.basics.seeding import draw_seed, lent_seed
from dfm.denoising.network_denoiser import NetworkDenoiser
from dfm.paths.schedule import Schedule
from dfm.training.objectives.base import LEAST_AT_START, Loss, Objective, Outcome, draw_noise
from dfm.training.objectives.couplings import Coupling, IndependentCoupling
from dfm.training.objectives.densities import Density, LogNsrDensity

# The papers give noise levels for data of this standard deviation; we scale ours to it.
PAPERS_STD = 0.5


class Pacing(ABC):
    """A rule for the two noise levels of a comparison, as a function of the run's progress (group ``pacing``)."""

    @abstractmethod
    def pair(self, sigma: Tensor, progress: float) -> tuple[Tensor, Tensor]:
        """Return (upper, lower) near sigma, float64 (B,), in the papers' unit; lower = 0 means the data.

        Args:
            sigma: noise levels, drawn from the training density, float64 (B,).
            progress: the share of the run that is done, from 0 to 1.
        """

    def up_to(self, start: float) -> "Pacing":
        """Return this rule for samples that start at a noise level, in the papers' unit."""
        return self


@dataclass(frozen=True, kw_only=True)
class EasyPacing(Pacing):
    """The rule lower/upper = 1 - n(sigma)/q^(1 + s), n = 1 + k sigmoid(-b sigma), at stage s (Geng et al. 2024).

    There are ``stages`` equal stages. In the first one n/q > 1 where sigma is small: the lower level is then the data,
    which gives plain denoising. Later the two levels come closer.

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
    """Neighbours on a rho grid of N noise levels, N = min(s0 2^floor(progress K), s1) + 1, K = floor(log2(s1/s0)) + 1.

    (Song and Dhariwal 2024, section 3.4, with their rho = 7 grid from ``low`` to ``high``.)

    Args:
        s0, s1: numbers of levels at first and at the end.
        low: the lowest level.
        high: the highest level; None: the one at which sampling starts.
        rho: of the grid.

    Raises:
        UserError: 1 <= s0 <= s1 or 0 < low < high does not hold.
    """

    s0: int = 10
    s1: int = 1280
    low: float = 0.002
    high: float | None = 80.0
    rho: float = 7.0

    def __post_init__(self) -> None:
        if not (1 <= self.s0 <= self.s1 and 0 < self.low < (self.high or math.inf)):
            raise UserError(
                f"pacing doubling: s0={self.s0}, s1={self.s1}, low={self.low:g}, high={self.high}; "
                "allowed: 1 <= s0 <= s1, 0 < low < high, or high=null"
            )

    def up_to(self, start: float) -> "DoublingPacing":
        return replace(self, high=start) if self.high is None else self

    def count(self, progress: float) -> int:
        """Return N, the number of noise levels of the grid."""
        doublings = math.floor(math.log2(self.s1 / self.s0)) + 1
        return min(self.s0 * 2 ** int(progress * doublings), self.s1) + 1

    def pair(self, sigma: Tensor, progress: float) -> tuple[Tensor, Tensor]:
        share = torch.linspace(0, 1, self.count(progress), dtype=torch.float64, device=sigma.device)
        assert self.high is not None  # by up_to
        ends = self.low ** (1 / self.rho), self.high ** (1 / self.rho)
        noise_levels = (ends[0] + share * (ends[1] - ends[0])) ** self.rho
        upper = torch.searchsorted(noise_levels, sigma).clamp(1, len(noise_levels) - 1)
        return noise_levels[upper], noise_levels[upper - 1]


@dataclass(frozen=True, kw_only=True)
class Consistency(Objective):
    """The loss (sqrt(|f(x_t, t) - sg f(x_r, r)|^2 + c^2) - c) w/(sigma_t - sigma_r), sigma the nsr in the papers' unit.

    w = 1 + sigma_t/knee, or 1 without a knee, as in the papers, whose levels end at 80. The first factor falls as
    1/sigma_t. On a path that begins at 999 the levels near its start would then hardly count, and what is learned at
    low levels would not have come up to them when the run ends.

    sg stops the gradient; both calls have the same dropout. c = huber sqrt(d) S/0.5, with S the standard deviation of
    the data. (Song and Dhariwal 2024, eqs. 7 and 8; Geng et al. 2024, section 3.) With ``init=TEACHER`` training starts
    from a teacher's weights, without it from scratch.

    Args:
        density: of the noise levels. One call leads from the highest level of the path to data, so the levels must
            reach it (``check_start``).
        pacing: gives the noise level with which each one is compared.
        coupling: pairs data and noise inside a batch.
        huber: 0.00054 in the papers, for data of standard deviation 0.5.
        knee: the noise level in the papers' unit above which a level's weight no longer falls; None: it always does.

    Raises:
        UserError: huber or knee is not above 0.
    """

    density: Density
    pacing: Pacing
    coupling: Coupling = field(default_factory=IndependentCoupling)
    huber: float = 0.00054
    knee: float | None = None  # a run of dfm 0.1 goes on without

    def outcome(self, state: Mapping[str, Tensor]) -> Outcome:
        return Outcome(has_ode=False, few_steps=True)

    def density_of_times(self) -> Density:
        return self.density

    def __post_init__(self) -> None:
        if not self.huber > 0:
            raise UserError(
                f"objective consistency: huber={self.huber:g}; allowed: above 0; try objective.huber=0.00054"
            )
        if self.knee is not None and not self.knee > 0:
            raise UserError(
                f"objective consistency: knee={self.knee:g}; allowed: above 0, or null; try objective.knee=80"
            )

    def loss(self, denoiser: NetworkDenoiser, data: Tensor, generator: torch.Generator, progress: float = 1.0) -> Loss:
        path, unit = denoiser.trained_schedule, PAPERS_STD / denoiser.spec.std
        u = self.density.uniforms(len(data), generator)
        upper, lower = self.pair(u, denoiser, progress)
        noise = draw_noise(denoiser, data, generator)
        data, noise = self.coupling.pair(data, noise, denoiser.label, generator)
        seed = draw_seed(generator)
        prediction = self._data_end(denoiser, data, noise, upper / unit, seed)
        with torch.no_grad():
            at_data = per_sample(lower / unit <= _nsr(path, path.t_min), data) > 0
            target = torch.where(at_data, data, self._data_end(denoiser, data, noise, lower / unit, seed))
        distance = self._distance(prediction, target, denoiser.spec.std)
        weight = 1.0 if self.knee is None else 1 + upper / self.knee
        error = distance / ((upper - lower) / weight).to(distance)
        return Loss(value=error * self.density.importance(u).to(error), error=error, u=u)

    def pair(self, u: Tensor, denoiser: NetworkDenoiser, progress: float) -> tuple[Tensor, Tensor]:
        """Return the (upper, lower) noise levels at the quantiles u (B,) of the density, in the papers' unit."""
        path, unit = denoiser.trained_schedule, PAPERS_STD / denoiser.spec.std
        sigma = path.log_nsr(self.density.time(u, path)).exp() * unit
        return self.pacing.up_to(_nsr(path, path.t_max) * unit).pair(sigma, progress)

    def levels_of_jumps(self, u: Tensor, denoiser: NetworkDenoiser) -> Tensor:
        path, unit = denoiser.trained_schedule, PAPERS_STD / denoiser.spec.std
        upper = self.pair(u, denoiser, progress=1.0)[0] / unit
        return path.time_of_log_nsr(upper.log()).clamp(path.t_min, path.t_max)

    def start_remedy(self, denoiser: NetworkDenoiser) -> str:
        wide = replace(self, density=LogNsrDensity())
        tries = {"density=log_nsr": wide}
        if isinstance(self.pacing, DoublingPacing):
            high = replace(self.pacing, high=None)
            tries["pacing.high=null"] = replace(self, pacing=high)
            tries["density=log_nsr pacing.high=null"] = replace(wide, pacing=high)
        enough = (words for words, each in tries.items() if each.share_at_start(denoiser) >= LEAST_AT_START)
        return next(enough, "another pacing")

    def _distance(self, x: Tensor, y: Tensor, std: float) -> Tensor:
        """Return sqrt(|x - y|^2 + c^2) - c, (B,), of x, y (B, *D)."""
        c2 = self.huber**2 * x[0].numel() * (std / PAPERS_STD) ** 2
        return ((x - y).square().flatten(1).sum(1) + c2).sqrt() - math.sqrt(c2)

    @staticmethod
    def _data_end(denoiser: NetworkDenoiser, data: Tensor, noise: Tensor, nsr: Tensor, seed: int) -> Tensor:
        """Return f at a data + b noise with these noise-to-signal ratios (B,), or the nearest ones of the path."""
        path = denoiser.trained_schedule
        t = path.time_of_log_nsr(nsr.clamp_min(_nsr(path, path.t_min)).log()).clamp(path.t_min, path.t_max)
        with lent_seed(data.device, seed):
            return denoiser.unchecked().data(path.mix(data, noise, t), t)


def _nsr(path: Schedule, t: float) -> float:
    """Return nsr at a time."""
    return float(path.log_nsr(torch.tensor(t, dtype=torch.float64)).exp())

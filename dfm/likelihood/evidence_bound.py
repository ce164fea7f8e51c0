"""Evidence bounds: -log p(data) from above, by noising the data (Sohl-Dickstein et al. 2015; Song et al. 2021).

With x_t = a data + b noise from t_0 (the least noise) to t_max, and n(x_t, t) the model's E[noise | x_t],

    -log p(data) <= E[-log p(data | x_{t_0})] + KL(q(x_{t_max} | data) || prior) + D

    continuous time    D = int E|noise - n|^2 d(log nsr)                             (VDM, Kingma et al. 2021, eq. 17)
    T steps            D = sum_i (nsr_{i+1}^2/nsr_i^2 - 1)/2 E|noise - n(x_{t_{i+1}})|^2          (VDM, eq. 13)

The first is the bound of Song et al. 2021 (Maximum likelihood training, theorem 3),

    -E log prior + 1/2 int E[g^2 |s + noise/b|^2 - g^2 |noise/b|^2 - 2 d f] dt

with E[-log p(data | x_{t_0})] - H(x_{t_0} | data) for what lies below t_0: put s = -n/b, g^2 dt = 2 b^2 d(log nsr) and
int f dt = log a(t_max)/a(t_0) into it; the terms in d are those of the KL and of the entropy, d/2 log(2 pi e b^2).

In T steps the reverse variance is that of the posterior q(x_s | x_t, data), or the forward one (Ho et al. 2020,
section 3.2), r = b_t^2/b_s^2 times it, which adds d/2 (log r + 1/r - 1) and divides the rest by r.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor

from dfm.basics.errors import UserError, unknown
from dfm.basics.seeding import Purpose, normal, uniform
from dfm.data.dataset import DatasetSpec
from dfm.data.dequantization import Dequantization, sharp
from dfm.data.pixel_levels import centres
from dfm.denoising.denoiser import Denoiser
from dfm.likelihood.decoders import DECODERS, Decoder
from dfm.likelihood.estimator import Budget, Likelihood, LogDensity, ends, prior_gap
from dfm.sampling.grids import Grid, LogNsrGrid


@dataclass(frozen=True, kw_only=True)
class EvidenceBound(Likelihood):
    """How to estimate an evidence bound; unbiased for any number of steps.

    Args:
        time: ``continuous``: steps levels of noise a sample, one drawn in each of as many equal parts of log nsr;
            ``discrete``: the model that takes ``steps`` reverse steps along the grid.
        decoder: ``gaussian`` for real data (integers are dequantised first), ``vdm`` or ``ddpm`` for integer levels;
            ``auto``: ``vdm`` for a model trained on the centres of the cells, else ``gaussian``.
        variance: ``posterior`` or ``forward``, of the reverse steps in discrete time.
        grid: of the steps in discrete time.
        cut: a discrete decoder starts where half a cell is so many deviations of the noise.

    Raises:
        UserError: a name or number outside these.
    """

    steps: int = 128
    time: Literal["continuous", "discrete"] = "continuous"
    decoder: Literal["auto", "gaussian", "vdm", "ddpm"] = "auto"
    variance: Literal["posterior", "forward"] = "posterior"
    grid: Grid = field(default_factory=LogNsrGrid)
    cut: float = 3.0

    exact = False
    noisy = True

    def __post_init__(self) -> None:
        for name, given, allowed in (
            ("likelihood.time", self.time, ("continuous", "discrete")),
            ("likelihood.decoder", self.decoder, ("auto", *DECODERS)),
            ("likelihood.variance", self.variance, ("posterior", "forward")),
        ):
            if given not in allowed:
                raise unknown(name, given, allowed)
        if self.steps < 1 or not self.cut > 0:
            raise UserError(
                f"likelihood.steps={self.steps}, likelihood.cut={self.cut}; allowed: at least 1, and above 0"
            )

    @property
    def name(self) -> str:
        return "bound_discrete" if self.time == "discrete" else "bound_sde"

    def unused_settings(self) -> dict[str, str]:
        unused = {}
        if self.time == "continuous":
            unused = dict.fromkeys(("grid", "variance"), "on a bound in continuous time")
        return unused | ({"cut": "on likelihood.decoder=gaussian"} if self.decoder == "gaussian" else {})

    def discrete(self, spec: DatasetSpec) -> bool:
        return spec.levels is not None and self.decoder in ("vdm", "ddpm")

    def begins(self, spec: DatasetSpec) -> float | None:
        return sharp(spec.levels, self.cut) if spec.levels is not None and self.discrete(spec) else None

    def suited(self, spec: DatasetSpec, dequantization: Dequantization) -> "EvidenceBound":
        centred = spec.levels is not None and dequantization.centred
        chosen = self if self.decoder != "auto" else replace(self, decoder="vdm" if centred else "gaussian")
        if chosen.decoder != "gaussian" and spec.levels is None:
            raise UserError(
                f"likelihood.decoder={chosen.decoder}: {spec.name} has no integer levels; allowed: "
                "likelihood=bound_sde, likelihood=ode"
            )
        if chosen.decoder == "gaussian" and dequantization.samples > 1:
            raise UserError(
                "dequantization=importance: its weights need log p, of which a bound is not an estimate; "
                "allowed: likelihood=ode, or another dequantization"
            )
        return chosen

    def log_density(
        self,
        denoiser: Denoiser,
        data: Tensor,
        seed: int = 0,
        indices: Sequence[int] | None = None,
        repeat: int = 0,
        start: float | None = None,
    ) -> LogDensity:
        denoiser.check_score()
        decoder, spec = DECODERS["gaussian" if self.decoder == "auto" else self.decoder], denoiser.spec
        target = data
        if decoder.discrete:
            assert spec.levels is not None
            data, start = centres(data, spec.levels).float(), sharp(spec.levels, self.cut)
        low, high = ends(denoiser, start)
        walk = _Walk(denoiser, data, seed, range(len(data)) if indices is None else indices, repeat)
        with torch.no_grad():
            edges, levels = self._continuous(walk, low, high) if self.time == "continuous" else self._steps(walk, low)
            last = walk.decode(decoder, target, low, part=self.steps)
        budget = Budget(edges=edges, levels=levels, prior=prior_gap(denoiser, data), decoder=last)
        value = -(levels.sum(1) + budget.prior + budget.decoder)
        return LogDensity(value=value, nfe=self.steps + decoder.calls, budget=budget)

    def _continuous(self, walk: "_Walk", low: float, high: float) -> tuple[Tensor, Tensor]:
        """(edges, nats between them): one level in each part, at a place of its own for each sample."""
        edges = torch.linspace(low, high, self.steps + 1, dtype=torch.float64)
        inside = uniform(walk.seed, walk.indices, (self.steps,), Purpose.LEVEL, walk.repeat)
        width = (high - low) / self.steps
        return edges, torch.stack(
            [width * walk.error(edges[j] + width * inside[:, j], j) for j in range(self.steps)], 1
        )

    def _steps(self, walk: "_Walk", low: float) -> tuple[Tensor, Tensor]:
        """(edges, nats between them) of the model in discrete time."""
        schedule = walk.denoiser.schedule
        begin = float(schedule.time_of_log_nsr(torch.tensor(low, dtype=torch.float64)))
        times = self.grid.times(self.steps, schedule, begin, walk.denoiser.t_max).flip(0)
        edges = schedule.log_nsr(times)
        return edges, torch.stack([self._step(walk, s, t, j) for j, (s, t) in enumerate(pairwise(times))], 1)

    def _step(self, walk: "_Walk", s: Tensor, t: Tensor, part: int) -> Tensor:
        """KL of one reverse step from t to s."""
        schedule = walk.denoiser.schedule
        log_nsr = schedule.log_nsr(t)
        kl = torch.expm1(2 * (log_nsr - schedule.log_nsr(s))) / 2 * walk.error(log_nsr.expand(len(walk.data)), part)
        if self.variance == "posterior":
            return kl
        r = (schedule.ab(t)[1] / schedule.ab(s)[1]).square()
        return kl / r + walk.data[0].numel() / 2 * (r.log() + 1 / r - 1)


@dataclass(frozen=True)
class _Walk:
    """A batch on its way to noise."""

    denoiser: Denoiser
    data: Tensor
    seed: int
    indices: Sequence[int]
    repeat: int

    def noise(self, part: int) -> Tensor:
        """Standard normal of the shape of the data; another part, other noise."""
        shape = tuple(self.data.shape[1:])  # part 0 is the places of the levels
        return normal(self.seed, self.indices, shape, Purpose.LEVEL, self.repeat, part + 1).to(self.data)

    def error(self, log_nsr: Tensor, part: int) -> Tensor:
        """|noise - E[noise | x_t]|^2, float64 (B,), at log nsr (B,)."""
        z = self.noise(part)
        t = self.denoiser.schedule.time_of_log_nsr(log_nsr).clamp(self.denoiser.t_min, self.denoiser.t_max)
        t = t.to(self.data.device)
        x = self.denoiser.schedule.mix(self.data, z, t)
        return (z - self.denoiser.noise(x, t)).double().square().flatten(1).sum(1).cpu()

    def decode(self, decoder: Decoder, target: Tensor, log_nsr: float, part: int) -> Tensor:
        """-log p(data | x_{t_0}), float64 (B,)."""
        level = torch.tensor(log_nsr, dtype=torch.float64)
        t = self.denoiser.schedule.time_of_log_nsr(level).clamp(self.denoiser.t_min, self.denoiser.t_max)
        x = self.denoiser.schedule.mix(self.data, self.noise(part), t)
        return decoder.nats(self.denoiser, target, x, t).cpu()

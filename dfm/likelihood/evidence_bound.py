"""Evidence bounds: upper bounds of -log p(data) (Sohl-Dickstein et al. 2015; Song et al. 2021).

With x_t = a data + b noise from t_0 (the smallest noise) to t_max, and n(x_t, t) the model's E[noise | x_t],

    -log p(data) <= E[-log p(data | x_{t_0})] + KL(q(x_{t_max} | data) || prior) + D

    continuous time    D = int E|noise - n|^2 d(log nsr)                             (VDM, Kingma et al. 2021, eq. 17)
    T steps            D = sum_i (nsr_{i+1}^2/nsr_i^2 - 1)/2 E|noise - n(x_{t_{i+1}})|^2          (VDM, eq. 13)

The bound in continuous time equals the bound of Song et al. 2021 (Maximum likelihood training, theorem 3),

    -E log prior + 1/2 int E[g^2 |s + noise/b|^2 - g^2 |noise/b|^2 - 2 d f] dt

plus E[-log p(data | x_{t_0})] - H(x_{t_0} | data) for the part below t_0. To see it, insert s = -n/b, g^2 dt = 2 b^2
d(log nsr) and int f dt = log a(t_max)/a(t_0). The terms with the dimension d belong to the KL divergence and to the
entropy, d/2 log(2 pi e b^2).

In T steps, the reverse variance is the variance of the posterior q(x_s | x_t, data), or the forward variance (Ho et
al. 2020, section 3.2). The forward variance is r = b_t^2/b_s^2 times as large; it adds d/2 (log r + 1/r - 1) and
divides the rest by r.
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
from dfm.data.numbers.dequantization import Dequantization, sharp
from dfm.data.numbers.pixel_levels import centres
from dfm.denoising.denoiser import Denoiser
from dfm.likelihood.decoders import DECODERS, Decoder
from dfm.likelihood.estimator import Budget, Likelihood, LogDensity, ends, prior_gap
from dfm.sampling.grids import Grid, LogNsrGrid


@dataclass(frozen=True, kw_only=True)
class EvidenceBound(Likelihood):
    """An unbiased estimator of an evidence bound, for any number of steps.

    Args:
        steps: the number of noise levels per example.
        time: ``continuous``: log nsr is divided into ``steps`` equal bins, and one noise level is drawn in each;
            ``discrete``: the bound of the model that makes ``steps`` reverse steps along the grid.
        decoder: ``gaussian`` for real data (integers are dequantised first), ``vdm`` or ``ddpm`` for integer levels;
            ``auto``: ``vdm`` for a model trained on the centres of the cells, else ``gaussian``.
        variance: the variance of the reverse steps in discrete time: ``posterior`` or ``forward``.
        grid: places the steps in discrete time.
        cut: a discrete decoder starts at the noise whose standard deviation is half a cell divided by ``cut``.

    Raises:
        UserError: an unknown name, steps below 1, or a cut that is not above 0.
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
        for name, value, allowed in (
            ("likelihood.time", self.time, ("continuous", "discrete")),
            ("likelihood.decoder", self.decoder, ("auto", *DECODERS)),
            ("likelihood.variance", self.variance, ("posterior", "forward")),
        ):
            if value not in allowed:
                raise unknown(name, value, allowed)
        if self.steps < 1 or not self.cut > 0:
            raise UserError(
                f"likelihood.steps={self.steps}, likelihood.cut={self.cut}; allowed: steps at least 1, cut above 0"
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

    def decoder_start(self, spec: DatasetSpec) -> float | None:
        return sharp(spec.levels, self.cut) if spec.levels is not None and self.discrete(spec) else None

    def adapt(self, spec: DatasetSpec, dequantization: Dequantization) -> "EvidenceBound":
        centred = spec.levels is not None and dequantization.centred
        bound = self if self.decoder != "auto" else replace(self, decoder="vdm" if centred else "gaussian")
        if bound.decoder != "gaussian" and spec.levels is None:
            raise UserError(
                f"likelihood.decoder={bound.decoder}: {spec.name} has no integer levels; allowed: "
                "likelihood=bound_sde, likelihood=ode"
            )
        if bound.decoder == "gaussian" and dequantization.samples > 1:
            raise UserError(
                "dequantization=importance: its weights need log p, and a bound is not an estimate of log p; "
                "allowed: likelihood=ode, or another dequantization"
            )
        return bound

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
        denoiser = denoiser.unchecked()
        decoder, spec = DECODERS["gaussian" if self.decoder == "auto" else self.decoder], denoiser.spec
        target = data
        if decoder.discrete:
            assert spec.levels is not None
            data, start = centres(data, spec.levels).float(), sharp(spec.levels, self.cut)
        low, high = ends(denoiser, start)
        batch = _NoisyBatch(denoiser, data, seed, range(len(data)) if indices is None else indices, repeat)
        with torch.set_grad_enabled(torch.is_grad_enabled() and data.requires_grad):
            edges, bins = (
                self._continuous(batch, low, high) if self.time == "continuous" else self._discrete(batch, low)
            )
            last = batch.decode(decoder, target, low, part=self.steps)
        budget = Budget(edges=edges, bins=bins, prior=prior_gap(denoiser, data), decoder=last)
        value = -(bins.sum(1) + budget.prior + budget.decoder)
        return LogDensity(value=value, nfe=self.steps + decoder.calls, budget=budget)

    def _continuous(self, batch: "_NoisyBatch", low: float, high: float) -> tuple[Tensor, Tensor]:
        """Return (edges, nats of each bin), with one noise level in each bin, another one for each example."""
        edges = torch.linspace(low, high, self.steps + 1, dtype=torch.float64)
        inside = uniform(batch.seed, batch.indices, (self.steps,), Purpose.LEVEL, batch.repeat)
        width = (high - low) / self.steps
        return edges, torch.stack(
            [width * batch.error(edges[j] + width * inside[:, j], j) for j in range(self.steps)], 1
        )

    def _discrete(self, batch: "_NoisyBatch", low: float) -> tuple[Tensor, Tensor]:
        """Return (edges, nats of each step) of the model in discrete time."""
        schedule = batch.denoiser.schedule
        t_start = float(schedule.time_of_log_nsr(torch.tensor(low, dtype=torch.float64)))
        times = self.grid.times(self.steps, schedule, t_start, batch.denoiser.t_max).flip(0)
        edges = schedule.log_nsr(times)
        return edges, torch.stack([self._step(batch, s, t, j) for j, (s, t) in enumerate(pairwise(times))], 1)

    def _step(self, batch: "_NoisyBatch", s: Tensor, t: Tensor, part: int) -> Tensor:
        """Return the KL divergence of one reverse step from t to s, in nats, (B,)."""
        schedule = batch.denoiser.schedule
        log_nsr = schedule.log_nsr(t)
        kl = torch.expm1(2 * (log_nsr - schedule.log_nsr(s))) / 2 * batch.error(log_nsr.expand(len(batch.data)), part)
        if self.variance == "posterior":
            return kl
        r = (schedule.ab(t)[1] / schedule.ab(s)[1]).square()
        return kl / r + batch.data[0].numel() / 2 * (r.log() + 1 / r - 1)


@dataclass(frozen=True)
class _NoisyBatch:
    """A batch of data at any noise level.

    Args:
        indices, seed, repeat: the noise is a function of these.
    """

    denoiser: Denoiser
    data: Tensor
    seed: int
    indices: Sequence[int]
    repeat: int

    def noise(self, part: int) -> Tensor:
        """Draw standard normal noise of the shape of the data; another part gives other noise."""
        shape = tuple(self.data.shape[1:])  # part 0 of the stream places the noise levels inside their bins
        return normal(self.seed, self.indices, shape, Purpose.LEVEL, self.repeat, part + 1).to(self.data)

    def error(self, log_nsr: Tensor, part: int) -> Tensor:
        """Return |noise - E[noise | x_t]|^2, float64 (B,), at log nsr (B,)."""
        z = self.noise(part)
        t = self.denoiser.schedule.time_of_log_nsr(log_nsr).clamp(self.denoiser.t_min, self.denoiser.t_max)
        t = t.to(self.data.device)
        x = self.denoiser.schedule.mix(self.data, z, t)
        return (z - self.denoiser.noise(x, t)).double().square().flatten(1).sum(1).cpu()

    def decode(self, decoder: Decoder, target: Tensor, log_nsr: float, part: int) -> Tensor:
        """Return -log p(data | x_{t_0}), float64 (B,), with t_0 the time of ``log_nsr``."""
        t = self.denoiser.schedule.time_of_log_nsr(torch.tensor(log_nsr, dtype=torch.float64))
        t = t.clamp(self.denoiser.t_min, self.denoiser.t_max)
        x = self.denoiser.schedule.mix(self.data, self.noise(part), t)
        return decoder.nats(self.denoiser, target, x, t).cpu()

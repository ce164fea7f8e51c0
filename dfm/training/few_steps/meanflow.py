"""MeanFlow: a network of two times that learns the average velocity between them (Geng et al. 2025).

    u(x_t, t, s) = 1/(t - s) int_s^t v(x_r, r) dr,  so that  x_s = x_t - (t - s) u(x_t, t, s)  in one call.

u(x_t, t, t) is the ordinary velocity: at equal times the model is a flow-matching model, with an ODE and a density.
"""

import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from dfm.basics.errors import UserError
from dfm.basics.per_sample import per_sample
from dfm.denoising.flow_map import FlowMapDenoiser, flow_map
from dfm.denoising.network_denoiser import NetworkDenoiser
from dfm.training.objectives.base import Loss, Objective, Outcome, draw_noise
from dfm.training.objectives.couplings import Coupling, IndependentCoupling
from dfm.training.objectives.densities import Density

LEVELS, GAPS = 16, 4  # groups of t, and of t - s where s < t, as quantiles of the density
DECAY = 0.99  # of a group's mean, for each example


class LevelErrors(nn.Module):
    """A running mean of the error of each group of times, which starts at one, the variance of the target.

    Attributes:
        means: float64 (groups,); None in a run of dfm 0.1, which goes on as it began: with each example's own error.
    """

    means: Tensor | None

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("means", torch.ones(LEVELS * (1 + GAPS), dtype=torch.float64))

    def group(self, t: Tensor, s: Tensor) -> Tensor:
        """Return the group of each pair of times, int64 (B,), from their quantiles; s = t has groups of its own."""
        level = (t * LEVELS).long().clamp(0, LEVELS - 1)
        return level * (1 + GAPS) + ((t - s) * GAPS).ceil().long().clamp(0, GAPS)

    def mean(self, group: Tensor, error: Tensor) -> Tensor:
        """Return the mean error of each example's group, (B,), without a gradient."""
        return error.detach() if self.means is None else self.means[group].to(error)

    def observe(self, loss: Loss) -> None:
        """Take the losses of a batch into the means."""
        if self.means is None or loss.group is None:
            return
        count = torch.bincount(loss.group, minlength=len(self.means)).double()
        total = torch.zeros_like(self.means).index_add_(0, loss.group, loss.error.double())
        keep = DECAY**count
        self.means.copy_(keep * self.means + (1 - keep) * total / count.clamp_min(1))

    def _load_from_state_dict(self, state: dict[str, Any], prefix: str, *rest: Any) -> None:
        if f"{prefix}means" not in state:
            self.means = None
        super()._load_from_state_dict(state, prefix, *rest)


@dataclass(frozen=True, kw_only=True)
class MeanFlow(Objective):
    """The loss w |u(x_t, t, s) - sg[v - (t - s) (v . grad_x u + du/dt)]|^2/d with v = a' data + b' noise.

    The target follows from the definition of u, differentiated in t. sg stops the gradient, and the derivative is one
    forward-mode pass. Where s = t, in all of the batch but ``share``, this is flow matching. w = 1/(e + c)^power, with
    e the mean of the squared error per dimension at such times (``LevelErrors``). With ``init=TEACHER`` the network
    starts with the weights of a flow and does not depend on s. It is near that flow and not equal to it, since it takes
    the times in another form. (Geng et al. 2025, algorithm 1; but there e is the error of the example itself. The
    minimum of the mean of log(e + c) is a mode of v given x_t and not E[v|x_t], so such a model has no ODE to the law
    of the data.)

    Args:
        density: of both times.
        coupling: pairs data and noise inside a batch.
        share: the share of a batch with s < t; there s and t are the smaller and the larger of two draws.
        power, c: the constants of w.

    Raises:
        UserError: share is outside [0, 1], c is not above 0, or the density adapts to the loss; or (on use) the
            prediction is not the velocity.
    """

    density: Density
    coupling: Coupling = field(default_factory=IndependentCoupling)
    share: float = 0.25
    power: float = 0.5
    c: float = 1e-3
    errors: LevelErrors = field(init=False, repr=False, compare=False, default_factory=LevelErrors)

    times: ClassVar[int] = 2
    shardable: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if self.density.memory() is not None:
            raise UserError("objective meanflow draws two times from a density; allowed: any density but loss_aware")
        if not (0 <= self.share <= 1 and self.c > 0):
            raise UserError(
                f"objective meanflow: share={self.share:g}, c={self.c:g}; allowed: a share from 0 to 1, c above 0"
            )

    def denoiser(self, plain: NetworkDenoiser) -> FlowMapDenoiser:
        return flow_map(plain)

    def outcome(self, state: Mapping[str, Tensor]) -> Outcome:
        return Outcome(few_steps=True)

    def density_of_times(self) -> Density:
        return self.density

    def levels_of_jumps(self, u: Tensor, denoiser: NetworkDenoiser) -> Tensor:
        return self.density.time(u.sqrt(), denoiser.trained_schedule)  # the larger one of two

    @property
    def adapts(self) -> bool:
        return self.errors.means is not None

    def observe(self, loss: Loss) -> None:
        self.errors.observe(loss)

    def module(self, network: nn.Module) -> nn.ModuleDict:
        return nn.ModuleDict({"errors": self.errors})

    def loss(self, denoiser: FlowMapDenoiser, data: Tensor, generator: torch.Generator, progress: float = 1.0) -> Loss:
        if denoiser.times != 2:
            raise UserError(
                "objective=meanflow needs a network of two times; try dfm.denoising.flow_map.flow_map(denoiser)"
            )
        path = denoiser.trained_schedule
        quantiles = self.draw_quantiles(self.density.uniforms(len(data), generator), generator)
        t, s = (self.density.time(u, path) for u in quantiles)
        noise = draw_noise(denoiser, data, generator)
        data, noise = self.coupling.pair(data, noise, denoiser.label, generator)
        x = path.mix(data, noise, t)
        scale = per_sample(denoiser.scale(t), x)
        target = self.target(denoiser, x, data, noise, t, s) / scale
        error = (denoiser.mean_output(x, t, s) - target).square().flatten(1).mean(1)
        group = self.errors.group(*quantiles)
        weight = (self.errors.mean(group, error) + self.c) ** -self.power
        return Loss(value=error * weight, error=error, u=quantiles[0], group=group)

    def draw_quantiles(self, u: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Draw the quantiles of (t, s) in the density, float64 (B,), with s <= t, from those of one of them."""
        other = self.density.uniforms(len(u), generator)
        two_times = torch.rand(len(u), generator=generator, device=u.device, dtype=torch.float64) < self.share
        return torch.where(two_times, torch.maximum(u, other), u), torch.where(two_times, torch.minimum(u, other), u)

    @torch.no_grad()
    def target(self, denoiser: FlowMapDenoiser, x: Tensor, data: Tensor, noise: Tensor, t: Tensor, s: Tensor) -> Tensor:
        """Return v - (t - s) du/dt along the path of (data, noise) in the rows with s < t, v in the others: (B, *D).

        v and u are those of data - m, with m the centre of the data.
        """
        whole = denoiser.trained_schedule.velocity(data, noise, t)
        velocity = denoiser.trained_schedule.velocity(data - denoiser.spec.centre, noise, t)
        rows = (s < t).nonzero().flatten()
        if len(rows) == 0:
            return velocity
        part, end = denoiser.select(rows), s[rows]
        # Forward mode supports only the plain attention, and no convolution whose input autocast has cast down.
        plain = torch.autocast(x.device.type, enabled=False)
        with plain, sdpa_kernel(SDPBackend.MATH), warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # torch's own warning, when it first loads forward mode
            _, change, *_ = torch.func.jvp(
                lambda x, t: part.mean_velocity_of_centred(x, t, end),
                (x[rows], t[rows]),
                (whole[rows], torch.ones_like(t[rows])),
            )
        return velocity.index_add(0, rows, -per_sample(t[rows] - end, change) * change)

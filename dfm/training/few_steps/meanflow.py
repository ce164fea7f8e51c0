"""MeanFlow: a network of two times that knows the average velocity between them (Geng et al. 2025).

    u(x_t, t, s) = 1/(t - s) int_s^t v(x_r, r) dr,  so that  x_s = x_t - (t - s) u(x_t, t, s)  in one call.

u(x_t, t, t) is the ordinary velocity: at equal times the model is a flow-matching model, with an ODE and a density.
"""

import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from dfm.basics.errors import UserError
from dfm.basics.per_sample import per_sample
from dfm.denoising.flow_map import FlowMapDenoiser, flow_map
from dfm.denoising.network_denoiser import NetworkDenoiser
from dfm.paths.schedule import Schedule
from dfm.training.objectives.base import Loss, Objective, Outcome, draw_noise
from dfm.training.objectives.couplings import Coupling, IndependentCoupling
from dfm.training.objectives.densities import Density, LossAwareDensity


@dataclass(frozen=True, kw_only=True)
class MeanFlow(Objective):
    """w |u(x_t, t, s) - sg[v - (t - s) (v . grad_x u + du/dt)]|^2/d with v = a' data + b' noise.

    The target is what the definition of u gives when differentiated in t; sg stops the gradient and the derivative is
    one forward-mode pass. Where s = t, in all but ``share`` of the batch, this is flow matching. w = 1/(e + c)^power, e
    the squared error per dimension, its gradient stopped; so the loss is near 1 and the error is what falls. With
    ``init=TEACHER`` the network begins with a flow's weights and blind to s; it is near that flow, not equal to it,
    since it is told its times otherwise. (Geng et al. 2025, algorithm 1.)

    Args:
        density: of both times.
        share: of a batch with s < t; s and t are then the smaller and the larger of two draws of the density.
        power, c: of w.

    Raises:
        UserError: a share outside [0, 1], or c not above 0; on use with a prediction other than the velocity.
    """

    density: Density
    coupling: Coupling = field(default_factory=IndependentCoupling)
    share: float = 0.25
    power: float = 1.0
    c: float = 1e-3

    times: ClassVar[int] = 2
    shardable: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if isinstance(self.density, LossAwareDensity):
            raise UserError("objective meanflow draws two times of a density; allowed: any density but loss_aware")
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

    def loss(self, denoiser: FlowMapDenoiser, data: Tensor, generator: torch.Generator, progress: float = 1.0) -> Loss:
        if denoiser.times != 2:
            raise UserError(
                "objective=meanflow needs a network of two times; from Python: dfm.denoising.flow_map.flow_map"
            )
        u = self.density.uniforms(len(data), generator)
        t, s = self.draw_times(u, denoiser.trained_schedule, generator)
        noise = draw_noise(denoiser, data, generator)
        data, noise = self.coupling.pair(data, noise, denoiser.label, generator)
        x = denoiser.trained_schedule.mix(data, noise, t)
        scale = per_sample(denoiser.scale(t), x)
        target = self.target(denoiser, x, data, noise, t, s) / scale
        error = (denoiser.mean_output(x, t, s) - target).square().flatten(1).mean(1)
        weight = (error.detach() + self.c) ** -self.power
        return Loss(value=error * weight, error=error, u=u)

    def draw_times(self, u: Tensor, path: Schedule, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """(t, s), float64 (B,), s <= t."""
        t = self.density.time(u, path)
        other = self.density.time(self.density.uniforms(len(u), generator), path)
        apart = torch.rand(len(u), generator=generator, device=u.device, dtype=torch.float64) < self.share
        return torch.where(apart, torch.maximum(t, other), t), torch.where(apart, torch.minimum(t, other), t)

    @torch.no_grad()
    def target(self, denoiser: FlowMapDenoiser, x: Tensor, data: Tensor, noise: Tensor, t: Tensor, s: Tensor) -> Tensor:
        """v - (t - s) du/dt along the path of (data, noise), for the rows where s < t; v for the others."""
        velocity = denoiser.trained_schedule.velocity(data, noise, t)
        rows = (s < t).nonzero().flatten()
        if len(rows) == 0:
            return velocity
        part, end = denoiser.select(rows), s[rows]
        # forward mode knows only the plain attention, and no convolution whose input autocast has made narrower
        plain = torch.autocast(x.device.type, enabled=False)
        with plain, sdpa_kernel(SDPBackend.MATH), warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # torch's own, when it first loads forward mode
            _, change, *_ = torch.func.jvp(
                lambda x, t: part.mean_velocity(x, t, end),
                (x[rows], t[rows]),
                (velocity[rows], torch.ones_like(t[rows])),
            )
        return velocity.index_add(0, rows, -per_sample(t[rows] - end, change) * change)

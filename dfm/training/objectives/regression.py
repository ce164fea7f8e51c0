"""The regression behind denoising, score matching and flow matching."""

from dataclasses import dataclass, field
from typing import cast

import torch
from torch import Tensor, nn

from dfm.basics.errors import UserError
from dfm.basics.per_sample import per_sample
from dfm.denoising.interpolant import InterpolantDenoiser
from dfm.denoising.network_denoiser import NetworkDenoiser
from dfm.paths.schedule import weighted_sum
from dfm.training.objectives.base import Loss, Objective, density_memory, draw_noise
from dfm.training.objectives.couplings import Coupling, IndependentCoupling
from dfm.training.objectives.densities import Density
from dfm.training.objectives.loss_weights import LossWeight
from dfm.training.objectives.uncertainty import FixedUncertainty, Uncertainty


@dataclass(frozen=True, kw_only=True)
class Regression(Objective):
    """The loss w(t) |out(x_t, t) - (p data + q noise)|^2 / d at x_t = a data + b noise.

    (p, q) is the denoiser's prediction. Denoising, denoising score matching and flow matching are this loss with
    different rows, densities and weights (lecture, eqs. 6 and 8 and flow matching; Lipman et al. 2023, theorem 2). We
    compute the error in units of the target's scale and put scale^2 into the weight: a large weight on a small target
    then does not overflow.

    Args:
        density: of the times t.
        weight: w, the weight of each noise level.
        coupling: pairs data and noise inside a batch.
        uncertainty: rescales the loss of each noise level.
    """

    density: Density
    weight: LossWeight
    coupling: Coupling = field(default_factory=IndependentCoupling)
    uncertainty: Uncertainty = field(default_factory=FixedUncertainty)

    def denoiser(self, plain: NetworkDenoiser) -> NetworkDenoiser:
        refuse_latent(plain)
        return plain

    def loss(self, denoiser: NetworkDenoiser, data: Tensor, generator: torch.Generator, progress: float = 1.0) -> Loss:
        u = self.density.uniforms(len(data), generator)
        t = self.density.time(u, denoiser.trained_schedule)
        noise = draw_noise(denoiser, data, generator)
        data, noise = self.coupling.pair(data, noise, denoiser.label, generator)
        error = self.errors(denoiser, data, noise, t, generator)
        value = self.uncertainty(error, denoiser.trained_schedule.log_nsr(t)) * self.density.importance(u).to(error)
        return Loss(value=value, error=error, u=u)

    def errors(
        self, denoiser: NetworkDenoiser, data: Tensor, noise: Tensor, t: Tensor, generator: torch.Generator
    ) -> Tensor:
        """Return the weighted squared errors, (B,)."""
        return self.errors_at(denoiser, data, noise, t)

    def errors_at(self, denoiser: NetworkDenoiser, data: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """Return the weighted squared errors, (B,), of x_t = a data + b noise without any random numbers."""
        refuse_latent(denoiser)
        out = denoiser.output(denoiser.trained_schedule.mix(data, noise, t), t)
        return self.row_error(denoiser, out, data, noise, t)

    def row_error(self, denoiser: NetworkDenoiser, out: Tensor, data: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """Return w |scale out - (p (data - m) + q noise)|^2 / d, (B,), for an output in units of its scale.

        m is the centre of the data, which the network does not see (``DatasetSpec.centre``).
        """
        p, q = denoiser.prediction.row(denoiser.trained_schedule, t, denoiser.spec.std)
        scale = denoiser.scale(t)
        target = weighted_sum((p / scale, q / scale), data - denoiser.spec.centre, noise)
        weight = self.weight(t, denoiser.trained_schedule, denoiser.prediction, denoiser.spec.std) * scale**2
        return (out - target).square().flatten(1).mean(1) * weight.to(out)

    def density_of_times(self) -> Density:
        return self.density

    def module(self, network: nn.Module) -> nn.ModuleDict:
        return nn.ModuleDict({**density_memory(self.density), "uncertainty": self.uncertainty})


@dataclass(frozen=True, kw_only=True)
class Interpolation(Regression):
    """The loss of ``Regression`` at x_t = a data + b noise + c z, plus |z_out(x_t, t) - z|^2 / d.

    It learns velocity and score together: these are the losses of Albergo et al. 2023 for the velocity and for the
    denoiser of z.

    Raises:
        UserError: (on use) the path has no latent; latent=root is one.
    """

    def denoiser(self, plain: NetworkDenoiser) -> NetworkDenoiser:
        _check_latent(plain)
        return plain

    def errors(
        self, denoiser: NetworkDenoiser, data: Tensor, noise: Tensor, t: Tensor, generator: torch.Generator
    ) -> Tensor:
        model = _check_latent(denoiser)
        z = torch.randn(data.shape, generator=generator, device=data.device, dtype=data.dtype)
        c = model.latent.c(denoiser.trained_schedule, t)
        x = denoiser.trained_schedule.mix(data, noise, t) + per_sample(c, data) * z
        row, z_out = model.heads(x, t)
        latent_error = (z_out - z).square().flatten(1).mean(1)
        return self.row_error(denoiser, row, data, noise, t) + latent_error


def _check_latent(denoiser: NetworkDenoiser) -> InterpolantDenoiser:
    """Return the denoiser; refuse one without a second output for the latent."""
    if denoiser.outputs != 2:
        raise UserError("objective=interpolant needs a latent; allowed: latent=root")
    return cast("InterpolantDenoiser", denoiser)


def refuse_latent(denoiser: NetworkDenoiser) -> None:
    """Refuse a network with a second output for a latent.

    Raises:
        UserError: the network has such an output.
    """
    if denoiser.outputs != 1:
        raise UserError("latent=root needs its own loss; allowed: objective=interpolant, or latent=none")

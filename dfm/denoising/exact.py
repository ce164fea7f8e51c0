"""Denoisers in closed form: the references for all other parts."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from dfm.basics.errors import UserError
from dfm.basics.per_sample import per_sample
from dfm.data.dataset import Dataset, DatasetSpec
from dfm.data.fields.law import Law
from dfm.data.gaussian_mixture import Covariance, mixture_of
from dfm.denoising.denoiser import Denoiser
from dfm.denoising.predictions import noise_at
from dfm.paths.schedule import Schedule


@dataclass(frozen=True, kw_only=True)
class MixtureDenoiser(Denoiser):
    """The exact denoiser of a mixture of Gaussians on any schedule, over points, or examples of any other shape.

    Since x_t/a = data + nsr noise, E[data | x_t] is ``Law.denoise`` at y = x_t/a and nsr = b/a. The mixture may be one
    of points (``GaussianMixture``) or of stationary fields (``FieldMixture``).
    """

    mixture: Law

    @property
    def can_change_schedule(self) -> bool:
        return True

    def expectations(self, x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        a, b = self.schedule.ab(t)
        data = self.mixture.denoise((x / per_sample(a, x)).flatten(1), b / a).reshape(x.shape)
        return data, noise_at(x, data, (a, b))

    def log_density(self, x: Tensor, t: float) -> Tensor:
        """Return log p_t(x) in nats, (B,), of x (B, *D): the smoothed mixture's at x/a, minus d log a."""
        a, b = self.schedule.ab(torch.tensor(t, dtype=torch.float64))
        flat = x.flatten(1)
        return self.mixture.smoothed(float(b / a)).log_prob(flat / float(a)) - flat.shape[1] * float(a.log())


def exact_denoiser(data: Dataset, path: Schedule, spec: DatasetSpec | None = None) -> MixtureDenoiser:
    """Return the exact denoiser, without classes, of a data set whose law is known.

    It lives in the unit of a model, (value - shift)/scale, as all denoisers do.

    Args:
        spec: of the model; None: the data set's own.

    Raises:
        UserError: the law of the data set is unknown.
    """
    law = data.law
    if law is None:
        raise UserError(
            f"dataset={data.name}: its law is not known exactly; allowed: dataset=mixture, eight_gaussians, table, "
            "signals, volumes"
        )
    spec = data.spec if spec is None else spec
    seen = law.scaled(spec.shift, spec.scale) if spec.scale else law
    known = replace(
        spec, num_classes=0, class_names=(), mean=float(seen.mean.mean()), std=float(seen.variance**0.5), centre=0.0
    )
    return MixtureDenoiser(spec=known, schedule=path, mixture=seen)


# The number of distances in memory at one time: 32 MB at 8 bytes each, for any number of points and any batch.
CHUNK = 2**22


@dataclass(frozen=True, kw_only=True, eq=False)
class EmpiricalDenoiser(Denoiser):
    """The exact denoiser of a finite set of points y_i, each of weight 1/n, on any schedule.

    With y = x_t/a = data + nsr noise and nsr = b/a,

        E[data | x_t] = sum_i r_i y_i,    r = softmax_i(-|y - y_i|^2 / (2 nsr^2)).

    This is the averaged flow of the lecture. It is also the model that memorises: its samples are the points
    themselves. We compute in float64 on the device of x, a few rows at a time, so that memory does not grow with the
    batch.

    Args:
        points: (n, *D) float, n >= 1, finite.

    Raises:
        UserError: there is no point, a point is not finite, or the points do not have the shape of the spec.
    """

    points: Tensor

    def __post_init__(self) -> None:
        if len(self.points) == 0 or self.points.shape[1:] != self.spec.shape or not self.points.isfinite().all():
            raise UserError(
                f"empirical denoiser: points {tuple(self.points.shape)} of {self.points.dtype}; allowed: finite "
                f"numbers of shape (n, {', '.join(map(str, self.spec.shape))}) with n at least 1"
            )

    @property
    def can_change_schedule(self) -> bool:
        return True

    def expectations(self, x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        y, nsr = self._at(x, t)
        points = self._flat(x)
        data = torch.cat([kernels.softmax(1) @ points for kernels in self._log_kernels(y, nsr, points)])
        # The noise comes from float64 numbers: in the type of x a difference of two near points has few digits.
        return data.reshape(x.shape).to(x.dtype), ((y - data) / nsr).reshape(x.shape).to(x.dtype)

    def log_density(self, x: Tensor, t: float) -> Tensor:
        """Return log p_t(x) in nats, (B,), of x (B, *D); p_t is the mean of the Gaussians N(a y_i, b^2 I)."""
        y, nsr = self._at(x, torch.tensor(t, dtype=torch.float64))
        points = self._flat(x)
        total = torch.cat([kernels.logsumexp(1) for kernels in self._log_kernels(y, nsr, points)])
        b = self.schedule.ab(torch.tensor(t, dtype=torch.float64))[1]
        constant = math.log(len(points)) + points.shape[1] * (float(b.log()) + math.log(2 * math.pi) / 2)
        return (total - constant).to(x.dtype)

    def _at(self, x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """Return y = x/a (B, d) and nsr (B, 1), float64."""
        a, b = self.schedule.ab(t)
        flat = x.double().flatten(1)
        return flat / per_sample(a, flat), per_sample(b / a, flat).expand(len(x), 1)

    def _flat(self, x: Tensor) -> Tensor:
        """Return the points as float64 (n, d), on the device of x."""
        return self.points.to(x.device, torch.float64).flatten(1)

    @staticmethod
    def _log_kernels(y: Tensor, nsr: Tensor, points: Tensor) -> Iterator[Tensor]:
        """Yield -|y_j - y_i|^2 / (2 nsr_j^2), (rows, n), for a few rows j of the batch at a time."""
        rows = max(1, CHUNK // len(points))
        for part, ratio in zip(y.split(rows), nsr.split(rows), strict=True):
            # We take the differences themselves: |y|^2 - 2 y.y_i + |y_i|^2 would cancel where nsr is small.
            distances = torch.cdist(part, points, compute_mode="donot_use_mm_for_euclid_dist")
            yield -distances.square() / (2 * ratio.square())


class Oracle(nn.Module):
    """A network that is exact for a mixture: it maps (y - m)/sqrt(S^2 + nsr^2) and log nsr to
    (E[data | y] - m)/S.

    Here y = data + nsr noise. The network has no parameters and is for ``prediction=data``. It can stand in the place
    of any trained network: its training loss is the smallest that the objective can reach, and its samples and
    likelihoods have only the error of the solver.

    Args:
        shape: (d,).
        std: S, the standard deviation of the data, the unit of the network's inputs and outputs.
        centre: m, which is taken from the data before the network sees them.
        shift, scale: of each column, as in ``DatasetSpec``: the model's data are (value - shift)/scale.
        weights, means, covariances: of the mixture of the values, as in ``dataset=mixture``.
        num_classes: must be 0.

    Raises:
        UserError: there are classes, or the mixture has another dimension than the data.
    """

    shapes_without_memory = False  # the constructor computes with numbers

    def __init__(
        self,
        *,
        shape: tuple[int, ...],
        std: float,
        means: Sequence[Sequence[float]],
        covariances: float | Sequence[Covariance] = 1.0,
        weights: Sequence[float] | None = None,
        num_classes: int = 0,
        centre: float = 0.0,
        shift: Sequence[float] = (),
        scale: Sequence[float] = (),
    ) -> None:
        super().__init__()
        if num_classes:
            raise UserError(f"model=oracle knows no classes, the data have {num_classes}; try conditional=false")
        mixture = mixture_of(means, covariances, weights)
        self.mixture, self.std, self.centre = mixture.scaled(shift, scale) if scale else mixture, std, centre
        if (self.mixture.means.shape[1],) != tuple(shape):
            raise UserError(
                f"model=oracle has a mixture in {self.mixture.means.shape[1]} dimensions; "
                f"allowed: the shape of the data, {tuple(shape)}"
            )

    def forward(self, x: Tensor, c_time: Tensor, label: Tensor | None = None) -> Tensor:
        """Return (E[data | y] - m)/S, (B, d), of x = (y - m)/sqrt(S^2 + nsr^2), (B, d), and c_time = log nsr, (B,)."""
        nsr = c_time.double().exp()
        y = x.double() * (self.std**2 + nsr**2).sqrt()[:, None] + self.centre
        return ((self.mixture.denoise(y, nsr) - self.centre) / self.std).to(x.dtype)

"""Denoisers known in closed form, against which everything else is measured."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from dfm.basics.errors import UserError
from dfm.basics.per_sample import per_sample
from dfm.data.dataset import Dataset, DatasetSpec
from dfm.data.gaussian_mixture import Covariance, GaussianMixture, mixture_of
from dfm.denoising.denoiser import Denoiser
from dfm.paths.schedule import Schedule


@dataclass(frozen=True, kw_only=True)
class MixtureDenoiser(Denoiser):
    """The exact denoiser of a Gaussian mixture on any schedule, over points or flattened images.

    x_t/a = data + nsr noise, so E[data | x_t] is the mixture's own, at y = x_t/a and nsr = b/a.
    """

    mixture: GaussianMixture

    @property
    def can_change_schedule(self) -> bool:
        return True

    def expectations(self, x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        a, b = self.schedule.ab(t)
        data = self.mixture.denoise((x / per_sample(a, x)).flatten(1), b / a).reshape(x.shape)
        return data, (x - per_sample(a, x) * data) / per_sample(b, x)

    def log_density(self, x: Tensor, t: float) -> Tensor:
        """log p_t(x) of x (B, *D): that of the smoothed mixture at x/a, minus d log a."""
        a, b = self.schedule.ab(torch.tensor(t, dtype=torch.float64))
        flat = x.flatten(1)
        return self.mixture.smoothed(float(b / a)).log_prob(flat / float(a)) - flat.shape[1] * float(a.log())


def exact_denoiser(data: Dataset, path: Schedule) -> MixtureDenoiser:
    """Return the exact denoiser of a data set whose law is a Gaussian mixture.

    Raises:
        UserError: the law is another one, or is not known.
    """
    mixture = getattr(data, "mixture", None)
    if mixture is None:
        raise UserError(f"dataset={data.name}: its law is not known exactly; allowed: dataset=mixture, eight_gaussians")
    spec = DatasetSpec(
        name=data.name,
        shape=(mixture.means.shape[1],),
        levels=None,
        num_classes=0,
        mean=float(mixture.mean.mean()),
        std=float(mixture.variance**0.5),
    )
    return MixtureDenoiser(spec=spec, schedule=path, mixture=mixture)


# Distances held at once, 8 bytes each: 32 MB, however many points and however large the batch.
CHUNK = 2**22


@dataclass(frozen=True, kw_only=True, eq=False)
class EmpiricalDenoiser(Denoiser):
    """The exact denoiser of a finite set of points y_i, each of weight 1/n, on any schedule.

    With y = x_t/a = data + nsr noise and nsr = b/a,

        E[data | x_t] = sum_i r_i y_i,    r = softmax_i(-|y - y_i|^2 / (2 nsr^2)).

    It is the lecture's averaged flow, and the model that memorises: its samples are the points themselves. Computed in
    float64 on the device of x, a few rows at a time, so that memory does not grow with the batch.

    Args:
        points: (n, *D) float, n >= 1, finite.

    Raises:
        UserError: the points are not of the shape that the spec says, there are none, or they are not finite.
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
        rows = zip(self._row_chunks(y), self._row_chunks(nsr), strict=True)
        data = torch.cat([self._log_kernels(part, level, points).softmax(1) @ points for part, level in rows])
        # noise from float64 numbers: in the type of x the difference of two near points would keep few digits
        return data.reshape(x.shape).to(x.dtype), ((y - data) / nsr).reshape(x.shape).to(x.dtype)

    def log_density(self, x: Tensor, t: float) -> Tensor:
        """log p_t(x) in nats, (B, *D) -> (B,): of the mean of the Gaussians N(a y_i, b^2 I)."""
        y, nsr = self._at(x, torch.tensor(t, dtype=torch.float64))
        points = self._flat(x)
        rows = zip(self._row_chunks(y), self._row_chunks(nsr), strict=True)
        total = torch.cat([self._log_kernels(part, level, points).logsumexp(1) for part, level in rows])
        b = self.schedule.ab(torch.tensor(t, dtype=torch.float64))[1]
        constant = math.log(len(points)) + points.shape[1] * (float(b.log()) + math.log(2 * math.pi) / 2)
        return (total - constant).to(x.dtype)

    def _at(self, x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """y = x/a (B, d) and nsr (B, 1), float64."""
        a, b = self.schedule.ab(t)
        flat = x.double().flatten(1)
        return flat / per_sample(a, flat), per_sample(b / a, flat).expand(len(x), 1)

    def _flat(self, x: Tensor) -> Tensor:
        """The points as float64 (n, d), on the device of x."""
        return self.points.to(x.device, torch.float64).flatten(1)

    def _row_chunks(self, rows: Tensor) -> tuple[Tensor, ...]:
        return rows.split(max(1, CHUNK // len(self.points)))

    @staticmethod
    def _log_kernels(y: Tensor, nsr: Tensor, points: Tensor) -> Tensor:
        """-|y_j - y_i|^2 / (2 nsr^2): (rows, n)."""
        # from the differences themselves: |y|^2 - 2 y.y_i + |y_i|^2 would cancel where nsr is small
        distances = torch.cdist(y, points, compute_mode="donot_use_mm_for_euclid_dist")
        return -distances.square() / (2 * nsr.square())


class Oracle(nn.Module):
    """E[data | y = data + nsr noise]/S for a mixture, as a network that is shown y/sqrt(S^2 + nsr^2) and log nsr.

    It has no parameters, stands for ``prediction=data``, and takes part wherever a trained network does: its training
    loss is the floor of the objective, its samples and likelihoods have only the solver's error.

    Args:
        shape: (d,).
        std: S, the standard deviation of the data by which inputs and outputs are scaled.
        weights, means, covariances: of the mixture, as in ``dataset=mixture``.
        num_classes: must be 0.
    """

    shapes_without_memory = False  # it computes while it is built

    def __init__(
        self,
        *,
        shape: tuple[int, ...],
        std: float,
        means: Sequence[Sequence[float]],
        covariances: float | Sequence[Covariance] = 1.0,
        weights: Sequence[float] | None = None,
        num_classes: int = 0,
    ) -> None:
        super().__init__()
        if num_classes:
            raise UserError("model=oracle knows no classes; try conditional=false")
        self.mixture, self.std = mixture_of(means, covariances, weights), std
        if (self.mixture.means.shape[1],) != tuple(shape):
            raise UserError(
                f"model=oracle has a mixture in {self.mixture.means.shape[1]} dimensions, the data have {tuple(shape)}"
            )

    def forward(self, x: Tensor, c_time: Tensor, label: Tensor | None = None) -> Tensor:
        """x (B, d), c_time = log nsr (B,) -> E[data | y]/S (B, d)."""
        nsr = c_time.double().exp()
        y = x.double() * (self.std**2 + nsr**2).sqrt()[:, None]
        return (self.mixture.denoise(y, nsr) / self.std).to(x.dtype)

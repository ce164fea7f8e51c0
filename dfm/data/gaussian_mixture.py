"""Gaussian mixtures: a family of laws with density, score and denoiser in closed form.

    p(x) = sum_k w_k N(x; m_k, C_k)

A mixture with noise is again a mixture: ``y = x + nsr * noise`` has the components N(m_k, C_k + nsr^2 I). We compute
the eigendecomposition C_k = Q_k diag(l_k) Q_k^T once. The inverse at *any* nsr is then Q_k diag(1 / (l_k + nsr^2))
Q_k^T, so an answer at any noise level costs only two products with Q_k.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from dfm.basics.errors import UserError
from dfm.basics.per_sample import per_sample

Covariance = float | Sequence[float] | Sequence[Sequence[float]]

# An eigenvalue of a matrix of correlations below this is a rounding error: the component has no density.
_FLOOR = 1e-13

# Where deviations of coordinates differ by more than this factor, densities are computed in units of the deviations: an
# eigenvalue has the error of the largest one, which is in the unit of the widest coordinate.
_UNLIKE = 100.0


@dataclass(frozen=True, kw_only=True, eq=False)
class GaussianMixture:
    """The law sum_k w_k N(m_k, C_k) in d dimensions.

    Everything is computed in float64, on the device of the points x, and returned in their dtype. Every answer is
    differentiable by autograd.

    Args:
        weights: (K,) float64, positive, with sum 1.
        means: (K, d) float64.
        covariances: (K, d, d) float64, symmetric and positive definite.

    Raises:
        UserError: the tensors do not fit together or differ from this description.
    """

    weights: Tensor
    means: Tensor
    covariances: Tensor

    def __post_init__(self) -> None:
        self._check_shapes()
        self._check_values()

    def _check_shapes(self) -> None:
        parts = {"weights": self.weights, "means": self.means, "covariances": self.covariances}
        shapes = ", ".join(f"{name} {tuple(value.shape)}" for name, value in parts.items())
        k, d = self.means.shape if self.means.ndim == 2 else (0, 0)
        fits = self.weights.shape == (k,) and self.covariances.shape == (k, d, d)
        if not fits or 0 in (k, d):
            raise UserError(f"mixture: {shapes}; allowed: weights (K,), means (K, d), covariances (K, d, d)")
        for name, value in parts.items():
            if value.dtype != torch.float64 or not value.isfinite().all():
                raise UserError(f"mixture: {name} of {value.dtype}; allowed: finite torch.float64 numbers")

    def _check_values(self) -> None:
        total = self.weights.sum().item()
        if self.weights.min() <= 0 or abs(total - 1) > 1e-9:
            raise UserError(f"mixture: weights {self.weights.tolist()}; allowed: positive numbers of sum 1")
        if not torch.allclose(self.covariances, self.covariances.mT, rtol=1e-9, atol=1e-12):
            raise UserError("mixture: a covariance is not symmetric; allowed: C[i][j] = C[j][i]")
        lowest = self._eigen[0][:, 0]
        own = self.covariances.diagonal(dim1=1, dim2=2).clamp_min(torch.finfo(torch.float64).tiny).sqrt()
        alike = self.covariances / (own[:, :, None] * own[:, None, :])  # correlations, whatever the units
        flat = (torch.linalg.eigvalsh(alike)[:, 0] <= _FLOOR).nonzero().flatten().tolist()
        if flat:
            raise UserError(
                f"mixture: covariance of component {flat[0]} has eigenvalue {lowest[flat[0]]:g}; "
                "allowed: a positive definite matrix"
            )

    @cached_property
    def _eigen(self) -> tuple[Tensor, Tensor]:
        """l (K, d), increasing, and Q (K, d, d) of C_k = Q_k diag(l_k) Q_k^T."""
        values, vectors = torch.linalg.eigh(self.covariances)
        return values, vectors

    @cached_property
    def _units(self) -> Tensor | None:
        """The deviations of the coordinates about their component's mean, (d,) float64; None if they are alike."""
        own = (self.weights @ self.covariances.diagonal(dim1=1, dim2=2)).sqrt()
        return own if float(own.max() / own.min()) > _UNLIKE else None

    @cached_property
    def _in_units(self) -> "GaussianMixture":
        """The law of x/units."""
        assert self._units is not None
        return self.scaled([0.0] * len(self._units), self._units.tolist())

    @property
    def eigenvalues(self) -> Tensor:
        """The eigenvalues of the covariances, (K, d) float64."""
        return self._eigen[0]

    @property
    def mean(self) -> Tensor:
        """E[x] = sum_k w_k m_k, (d,) float64."""
        return self.weights @ self.means

    @property
    def variance(self) -> float:
        """tr Cov[x] / d = (sum_k w_k (tr C_k + |m_k - mean|^2)) / d: the average variance of a coordinate."""
        spread = self._eigen[0].sum(1) + (self.means - self.mean).square().sum(1)
        return (self.weights @ spread).item() / self.means.shape[1]

    @property
    def entropy(self) -> float:
        """-E[log p(x)] = (d (1 + log 2 pi) + log det C) / 2 of a single Gaussian, in nats.

        Raises:
            UserError: there is more than one component, for which no closed form is known.
        """
        count, d = self.means.shape
        if count != 1:
            raise UserError(f"mixture: the entropy of {count} components has no closed form; allowed: 1 component")
        if self._units is not None:
            return self._in_units.entropy + float(self._units.log().sum())
        return (d * (1 + math.log(2 * math.pi)) + self._eigen[0].log().sum().item()) / 2

    def sample(self, n: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Draw n independent points (n, d) float64, and return them with their components (n,) int64.

        Both are on the generator's device. x = m_k + L_k z with the Cholesky factor L_k: it is unique, while the signs
        of eigenvectors differ between linear algebra libraries.
        """
        device = generator.device
        draws = torch.multinomial(self.weights.to(device), max(n, 1), replacement=True, generator=generator)
        labels = draws[:n]  # multinomial cannot draw 0 numbers, so it draws at least 1
        z = torch.randn(n, self.means.shape[1], generator=generator, dtype=torch.float64, device=device)
        factors = torch.linalg.cholesky(self.covariances).to(device)
        points = self.means.to(device)[labels]
        for k, factor in enumerate(factors):
            points[labels == k] += z[labels == k] @ factor.mT
        return points, labels

    def log_prob(self, x: Tensor) -> Tensor:
        """Return log p(x) in nats: (B, d) -> (B,)."""
        if self._units is not None and x.shape[1:] == self._units.shape:
            units = self._units.to(x.device)
            return (self._in_units.log_prob(x.double() / units) - units.log().sum()).to(x.dtype)
        log_joint, _, _ = self._components(x, 0.0)
        return log_joint.logsumexp(1).to(x.dtype)

    def score(self, x: Tensor) -> Tensor:
        """Return grad log p(x) = -sum_k r_k(x) C_k^-1 (x - m_k), r_k the responsibilities: (B, d) -> (B, d)."""
        if self._units is not None and x.shape[1:] == self._units.shape:
            units = self._units.to(x.device)
            return (self._in_units.score(x.double() / units) / units).to(x.dtype)
        log_joint, z, variances = self._components(x, 0.0)
        return -self._average(log_joint.softmax(1), z / variances).to(x.dtype)

    def smoothed(self, nsr: float) -> "GaussianMixture":
        """Return the law of data + nsr * noise: the same weights and means, covariances C_k + nsr^2 I."""
        noise = nsr**2 * torch.eye(self.means.shape[1], dtype=torch.float64, device=self.covariances.device)
        return GaussianMixture(weights=self.weights, means=self.means, covariances=self.covariances + noise)

    def scaled(self, shift: Sequence[float], scale: Sequence[float]) -> "GaussianMixture":
        """Return the law of (x - shift)/scale: means (m_k - shift)/scale, covariances C_ij/(scale_i scale_j)."""
        move, by = (torch.tensor(numbers, dtype=torch.float64) for numbers in (shift, scale))
        return GaussianMixture(
            weights=self.weights, means=(self.means - move) / by, covariances=self.covariances / torch.outer(by, by)
        )

    def stretched(self, factor: float) -> "GaussianMixture":
        """Return the law of factor x."""
        return GaussianMixture(
            weights=self.weights, means=factor * self.means, covariances=factor * factor * self.covariances
        )

    def along(self, directions: Tensor) -> tuple[Tensor, Tensor]:
        """Return the means and the deviations of the components along directions (J, d), each (J, K)."""
        variances = torch.einsum("ji,kil,jl->jk", directions, self.covariances, directions)
        return directions @ self.means.T, variances.sqrt()

    def denoise(self, y: Tensor, nsr: Tensor | float) -> Tensor:
        """Return E[data | data + nsr * noise = y] = sum_k r_k(y) (m_k + C_k (C_k + nsr^2 I)^-1 (y - m_k)).

        Args:
            y: (B, d).
            nsr: () or (B,), finite and at least 0; at 0 the answer is y.

        Returns:
            (B, d), in the dtype of y.

        Raises:
            UserError: a shape differs from these.
        """
        log_joint, z, variances = self._components(y, nsr)
        responsibilities = log_joint.softmax(1)
        offset = self._average(responsibilities, self._eigen[0].to(y.device) / variances * z)
        return (responsibilities @ self.means.to(y.device) + offset).to(y.dtype)

    def _components(self, y: Tensor, nsr: Tensor | float) -> tuple[Tensor, Tensor, Tensor]:
        """Return the parts of every answer at y (B, d), in float64, for component covariances C_k + nsr^2 I.

        These are log w_k N(y; m_k, C_k + nsr^2 I), (B, K); z_k = Q_k^T (y - m_k), (B, K, d); and the eigenvalues
        l_k + nsr^2, (K, d) or (B, K, d).
        """
        d = self.means.shape[1]
        if y.ndim != 2 or y.shape[1] != d:
            raise UserError(f"mixture: points of shape {tuple(y.shape)}; allowed: (B, {d})")
        weights, means, values, vectors = (v.to(y.device) for v in (self.weights, self.means, *self._eigen))
        offset = y.double()[:, None] - means
        z = torch.einsum("kij,bki->bkj", vectors, offset)
        # A Python number becomes float64 here. Torch would make it float32, an error of 1e-8 in all results.
        variances = values + per_sample(torch.as_tensor(nsr, dtype=torch.float64), offset).square()
        log_normal = -(z.square() / variances + variances.log() + math.log(2 * math.pi)).sum(2) / 2
        return weights.log() + log_normal, z, variances

    def _average(self, responsibilities: Tensor, z: Tensor) -> Tensor:
        """Return sum_k r_k Q_k z_k: r (B, K) and coordinates z (B, K, d) in each component's eigenbasis -> (B, d)."""
        return torch.einsum("bk,kij,bkj->bi", responsibilities, self._eigen[1].to(z.device), z)


def mixture_of(
    means: Sequence[Sequence[float]],
    covariances: float | Sequence[Covariance] = 1.0,
    weights: Sequence[float] | None = None,
) -> GaussianMixture:
    """Return the mixture that plain lists describe, as they stand in YAML.

    Args:
        means: K lists of d numbers.
        covariances: one number c for all components (C = c I), or K entries. An entry is a number c (c I), a list of d
            numbers (the diagonal) or d lists of d numbers (the matrix).
        weights: K positive numbers, divided by their sum; None for equal ones.

    Raises:
        UserError: they do not fit together, or a covariance is not positive definite.
    """
    centres = _numbers("means", means, 2)
    count, d = centres.shape
    shares = torch.ones(count, dtype=torch.float64) if weights is None else _numbers("weights", weights, 1)
    return GaussianMixture(
        weights=shares / shares.sum(), means=centres, covariances=_covariances(covariances, count, d)
    )


def _covariances(value: float | Sequence[Covariance], count: int, d: int) -> Tensor:
    """Turn one number for all components, or one entry for each, into (K, d, d)."""
    entries = list(value) if isinstance(value, Sequence) else [value] * count
    if len(entries) != count:
        raise UserError(
            f"mixture: {len(entries)} covariances for {count} means; allowed: one number, or {count} entries"
        )
    return torch.stack([_matrix(entry, d) for entry in entries])


def _matrix(entry: Covariance, d: int) -> Tensor:
    """Turn a number, a diagonal or a matrix into (d, d)."""
    numbers = _numbers("covariances", entry, None)
    if numbers.shape == (d, d):
        return numbers
    if numbers.shape in ((), (d,)):
        return torch.diag(numbers.expand(d))
    raise UserError(f"mixture: a covariance of shape {tuple(numbers.shape)}; allowed: a number, {d} numbers or {d}x{d}")


def _numbers(name: str, value: object, ndim: int | None) -> Tensor:
    """Turn nested lists (also OmegaConf's) of equal length into float64."""
    try:
        numbers = torch.tensor(_plain(value), dtype=torch.float64)
    except (TypeError, ValueError) as problem:
        raise UserError(f"mixture: {name}={value}; allowed: lists of numbers, of equal length") from problem
    if ndim is not None and (numbers.ndim != ndim or 0 in numbers.shape):
        raise UserError(f"mixture: {name}={value}; allowed: {'lists of' if ndim > 1 else 'a list of'} numbers")
    return numbers


def _plain(value: object) -> object:
    return [_plain(item) for item in value] if isinstance(value, Sequence) and not isinstance(value, str) else value

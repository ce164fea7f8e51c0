"""Gaussian mixtures: the one family whose density, score, entropy and denoiser are known in closed form.

    p(x) = sum_k w_k N(x; m_k, C_k)

Adding noise keeps it a mixture: ``y = x + nsr * noise`` has the components N(m_k, C_k + nsr^2 I). With the
eigendecomposition C_k = Q_k diag(l_k) Q_k^T, made once, the inverse at *any* nsr is Q_k diag(1 / (l_k + nsr^2)) Q_k^T;
that is why time-dependent questions cost no more than two products with Q_k.
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

# Eigenvalues below this share of a component's largest are rounding: such a component has no density.
_RELATIVE_FLOOR = 1e-13


@dataclass(frozen=True, kw_only=True, eq=False)
class GaussianMixture:
    """sum_k w_k N(m_k, C_k) in d dimensions.

    Everything is computed in float64, on the device of the points asked about, and handed back in their dtype;
    every answer is differentiable by autograd.

    Args:
        weights: (K,) float64, positive, of sum 1.
        means: (K, d) float64.
        covariances: (K, d, d) float64, symmetric and positive definite.

    Raises:
        UserError: the tensors do not fit together or are not what is said above.
    """

    weights: Tensor
    means: Tensor
    covariances: Tensor

    def __post_init__(self) -> None:
        self._check_shapes()
        self._check_values()

    def _check_shapes(self) -> None:
        given = {"weights": self.weights, "means": self.means, "covariances": self.covariances}
        shapes = ", ".join(f"{name} {tuple(value.shape)}" for name, value in given.items())
        k, d = self.means.shape if self.means.ndim == 2 else (0, 0)
        fits = self.weights.shape == (k,) and self.covariances.shape == (k, d, d)
        if not fits or 0 in (k, d):
            raise UserError(f"mixture: {shapes}; allowed: weights (K,), means (K, d), covariances (K, d, d)")
        for name, value in given.items():
            if value.dtype != torch.float64 or not value.isfinite().all():
                raise UserError(f"mixture: {name} of {value.dtype}; allowed: finite torch.float64 numbers")

    def _check_values(self) -> None:
        total = self.weights.sum().item()
        if self.weights.min() <= 0 or abs(total - 1) > 1e-9:
            raise UserError(f"mixture: weights {self.weights.tolist()}; allowed: positive numbers of sum 1")
        if not torch.allclose(self.covariances, self.covariances.mT, rtol=1e-9, atol=1e-12):
            raise UserError("mixture: a covariance is not symmetric; allowed: C[i][j] = C[j][i]")
        lowest, highest = self._eigen[0][:, 0], self._eigen[0][:, -1]
        flat = (lowest <= _RELATIVE_FLOOR * highest).nonzero().flatten().tolist()
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
        """-E[log p(x)] = (d (1 + log 2 pi) + log det C) / 2, in nats, of a single Gaussian.

        Raises:
            UserError: there is more than one component; then no closed form is known.
        """
        count, d = self.means.shape
        if count != 1:
            raise UserError(f"mixture: the entropy of {count} components has no closed form; allowed: 1 component")
        return (d * (1 + math.log(2 * math.pi)) + self._eigen[0].log().sum().item()) / 2

    def sample(self, n: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """n independent draws: points (n, d) float64 and the components they come from (n,) int64.

        They lie on the generator's device. x = m_k + L_k z with L_k the Cholesky factor: unlike eigenvectors its
        signs are not the linear algebra library's choice.
        """
        device = generator.device
        draws = torch.multinomial(self.weights.to(device), max(n, 1), replacement=True, generator=generator)
        labels = draws[:n]  # multinomial refuses to draw nothing
        z = torch.randn(n, self.means.shape[1], generator=generator, dtype=torch.float64, device=device)
        factors = torch.linalg.cholesky(self.covariances).to(device)
        points = self.means.to(device)[labels]
        for k, factor in enumerate(factors):
            points[labels == k] += z[labels == k] @ factor.mT
        return points, labels

    def log_prob(self, x: Tensor) -> Tensor:
        """log p(x) in nats: (B, d) -> (B,)."""
        log_joint, _, _ = self._components(x, 0.0)
        return log_joint.logsumexp(1).to(x.dtype)

    def score(self, x: Tensor) -> Tensor:
        """grad log p(x) = -sum_k r_k(x) C_k^-1 (x - m_k), r_k the responsibilities: (B, d) -> (B, d)."""
        log_joint, z, variances = self._components(x, 0.0)
        return -self._average(log_joint.softmax(1), z / variances).to(x.dtype)

    def smoothed(self, nsr: float) -> "GaussianMixture":
        """The law of data + nsr * noise: the same weights and means, covariances C_k + nsr^2 I."""
        noise = nsr**2 * torch.eye(self.means.shape[1], dtype=torch.float64, device=self.covariances.device)
        return GaussianMixture(weights=self.weights, means=self.means, covariances=self.covariances + noise)

    def denoise(self, y: Tensor, nsr: Tensor | float) -> Tensor:
        """E[data | data + nsr * noise = y] = sum_k r_k(y) (m_k + C_k (C_k + nsr^2 I)^-1 (y - m_k)).

        Args:
            y: (B, d).
            nsr: () or (B,), finite and at least 0; at 0 the answer is y.

        Returns:
            (B, d), in the dtype of y.

        Raises:
            UserError: a shape is not one of these.
        """
        log_joint, z, variances = self._components(y, nsr)
        responsibilities = log_joint.softmax(1)
        shrunk = self._average(responsibilities, self._eigen[0].to(y.device) / variances * z)
        return (responsibilities @ self.means.to(y.device) + shrunk).to(y.dtype)

    def _components(self, y: Tensor, nsr: Tensor | float) -> tuple[Tensor, Tensor, Tensor]:
        """What every answer at y (B, d) is made of, in float64, for component covariances C_k + nsr^2 I:

        log w_k N(y; m_k, C_k + nsr^2 I) (B, K); z_k = Q_k^T (y - m_k) (B, K, d); l_k + nsr^2 (K, d) or (B, K, d).
        """
        d = self.means.shape[1]
        if y.ndim != 2 or y.shape[1] != d:
            raise UserError(f"mixture: points of shape {tuple(y.shape)}; allowed: (B, {d})")
        weights, means, values, vectors = (v.to(y.device) for v in (self.weights, self.means, *self._eigen))
        offset = y.double()[:, None] - means
        z = torch.einsum("kij,bki->bkj", vectors, offset)
        # a float goes to float64 here: torch would read it as float32, an error of 1e-8 in all that follows
        variances = values + per_sample(torch.as_tensor(nsr, dtype=torch.float64), offset).square()
        log_normal = -(z.square() / variances + variances.log() + math.log(2 * math.pi)).sum(2) / 2
        return weights.log() + log_normal, z, variances

    def _average(self, responsibilities: Tensor, z: Tensor) -> Tensor:
        """sum_k r_k Q_k z_k: r (B, K) and coordinates z (B, K, d) in each component's eigenbasis -> (B, d)."""
        return torch.einsum("bk,kij,bkj->bi", responsibilities, self._eigen[1].to(z.device), z)


def mixture_of(
    means: Sequence[Sequence[float]],
    covariances: float | Sequence[Covariance] = 1.0,
    weights: Sequence[float] | None = None,
) -> GaussianMixture:
    """The mixture that plain lists describe, as they stand in YAML.

    Args:
        means: K lists of d numbers.
        covariances: one number c for all components (C = c I), or K entries, each of which is a number c (c I), a list
            of d numbers (the diagonal) or d lists of d numbers (the matrix).
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


def _covariances(given: float | Sequence[Covariance], count: int, d: int) -> Tensor:
    """One number for all or one entry a component -> (K, d, d)."""
    entries = list(given) if isinstance(given, Sequence) else [given] * count
    if len(entries) != count:
        raise UserError(
            f"mixture: {len(entries)} covariances for {count} means; allowed: one number, or {count} entries"
        )
    return torch.stack([_matrix(entry, d) for entry in entries])


def _matrix(entry: Covariance, d: int) -> Tensor:
    """A number, a diagonal or a matrix -> (d, d)."""
    value = _numbers("covariances", entry, None)
    if value.shape == (d, d):
        return value
    if value.shape in ((), (d,)):
        return torch.diag(value.expand(d))
    raise UserError(f"mixture: a covariance of shape {tuple(value.shape)}; allowed: a number, {d} numbers or {d}x{d}")


def _numbers(name: str, given: object, ndim: int | None) -> Tensor:
    """Nested lists (also OmegaConf's) of equal length -> float64."""
    try:
        value = torch.tensor(_plain(given), dtype=torch.float64)
    except (TypeError, ValueError) as problem:
        raise UserError(f"mixture: {name}={given}; allowed: lists of numbers, of equal length") from problem
    if ndim is not None and (value.ndim != ndim or 0 in value.shape):
        raise UserError(f"mixture: {name}={given}; allowed: {'lists of' if ndim > 1 else 'a list of'} numbers")
    return value


def _plain(given: object) -> object:
    return [_plain(item) for item in given] if isinstance(given, Sequence) and not isinstance(given, str) else given

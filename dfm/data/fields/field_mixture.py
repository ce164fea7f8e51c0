"""Stationary Gaussian fields on a periodic grid, and mixtures of them: density and denoiser by Fourier transform.

The covariance of two places of a stationary field depends on their distance along each side alone, so the Fourier
transform F diagonalises it: the coefficients (F x)(f) of different frequencies f are independent, and those of the C
channels at one frequency have a covariance S(f), (C, C). Answers take d log d steps, where a general Gaussian in d
dimensions takes d^2 and its eigenvectors d^3.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from dfm.basics.errors import UserError
from dfm.basics.per_sample import per_sample

BLOCK = 2**22  # numbers that are transformed at one time when examples are drawn


@dataclass(frozen=True, kw_only=True, eq=False)
class FieldMixture:
    """The law sum_k w_k N(m_k, F* S_k F) of examples (C, *sides), which may also be flattened.

    Everything is computed in float64, on the device of the examples, and returned in their type. Every answer is
    differentiable by autograd.

    Args:
        weights: (K,) float64, positive, with sum 1.
        centres: (K, C) float64, the mean of each channel, the same at all places.
        spectra: (K, *sides, C, C) float64: the covariance S_k(f) of the channels at each frequency, symmetric and
            positive definite, with S_k(-f) = S_k(f), because fields are real.

    Raises:
        UserError: the tensors do not fit together or differ from this description.
    """

    weights: Tensor
    centres: Tensor
    spectra: Tensor

    def __post_init__(self) -> None:
        parts = {"weights": self.weights, "centres": self.centres, "spectra": self.spectra}
        shapes = ", ".join(f"{name} {tuple(value.shape)}" for name, value in parts.items())
        k, c = self.centres.shape if self.centres.ndim == 2 else (0, 0)
        ends = (self.spectra.shape[0], *self.spectra.shape[-2:]) if self.spectra.ndim >= 4 else ()
        if 0 in (k, c) or self.weights.shape != (k,) or ends != (k, c, c):
            raise UserError(f"field: {shapes}; allowed: weights (K,), centres (K, C), spectra (K, *sides, C, C)")
        for name, value in parts.items():
            if value.dtype != torch.float64 or not value.isfinite().all():
                raise UserError(f"field: {name} of {value.dtype}; allowed: finite torch.float64 numbers")
        if self.weights.min() <= 0 or abs(self.weights.sum().item() - 1) > 1e-9:
            raise UserError(f"field: weights {self.weights.tolist()}; allowed: positive numbers of sum 1")
        mirrored = self.spectra
        for axis in range(1, 1 + len(self.sides)):
            mirrored = mirrored.flip(axis).roll(1, axis)
        if not torch.allclose(mirrored, self.spectra, rtol=1e-9) or not torch.allclose(self.spectra.mT, self.spectra):
            raise UserError("field: a spectrum is not symmetric; allowed: S(-f) = S(f), and symmetric matrices S(f)")
        lowest = self._eigen[0].min().item()
        if lowest <= 1e-13 * self._eigen[0].max().item():
            raise UserError(
                f"field: a spectrum has power {lowest:g} at some frequency, so there is no density; allowed: power "
                "above 0 at every one, such as a share of white noise"
            )

    @property
    def sides(self) -> tuple[int, ...]:
        """The number of places along each side."""
        return tuple(self.spectra.shape[1:-2])

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape (C, *sides) of an example."""
        return (self.centres.shape[1], *self.sides)

    @property
    def means(self) -> Tensor:
        """The means of the components, flattened, (K, d) float64."""
        return self.centres.repeat_interleave(math.prod(self.sides), 1)

    @property
    def mean(self) -> Tensor:
        """E[x], flattened, (d,) float64."""
        return self.weights @ self.means

    @property
    def eigenvalues(self) -> Tensor:
        """The eigenvalues of the covariances, (K, d) float64."""
        return self._eigen[0].flatten(1)

    @property
    def variance(self) -> float:
        """The average variance of a coordinate: (sum_k w_k (tr S_k + |m_k - mean|^2))/d."""
        spread = self.eigenvalues.sum(1) + (self.means - self.mean).square().sum(1)
        return (self.weights @ spread).item() / math.prod(self.shape)

    @property
    def entropy(self) -> float:
        """-E[log p(x)] = (d (1 + log 2 pi) + sum_f log det S(f))/2 of a single field, in nats.

        Raises:
            UserError: there is more than one component, for which no closed form is known.
        """
        if len(self.weights) != 1:
            raise UserError(f"field: the entropy of {len(self.weights)} components has no closed form; allowed: 1")
        values = self.eigenvalues
        return (values.numel() * (1 + math.log(2 * math.pi)) + values.log().sum().item()) / 2

    @property
    def spectrum(self) -> Tensor:
        """The power of each channel at each frequency about the overall mean, float64 (C, *sides)."""
        own = self.spectra.diagonal(dim1=-2, dim2=-1).movedim(-1, 1)  # (K, C, *sides)
        far = (self.centres - self.weights @ self.centres).square() * math.prod(self.sides)
        own = own.flatten(2)
        own = torch.cat([own[:, :, :1] + far[:, :, None], own[:, :, 1:]], 2)
        return torch.einsum("k,kcf->cf", self.weights, own).reshape(self.shape)

    def sample(self, n: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Draw n independent fields (n, C, *sides) float64, with their components (n,) int64.

        Both are on the generator's device. x = m_k + F* S_k^(1/2) F z with the symmetric root, which is unique.
        """
        device = generator.device
        draws = torch.multinomial(self.weights.to(device), max(n, 1), replacement=True, generator=generator)
        labels = draws[:n]  # multinomial cannot draw 0 numbers, so it draws at least 1
        x = torch.randn(n, *self.shape, generator=generator, dtype=torch.float64, device=device)
        values, vectors = (part.to(device) for part in self._eigen)
        roots = torch.einsum("k...ij,k...j,k...lj->k...il", vectors, values.sqrt(), vectors)
        rows = max(1, BLOCK // math.prod(self.shape))
        for k in range(len(self.weights)):
            for own in (labels == k).nonzero().flatten().split(rows):
                white = self._transform(x[own])
                fields = self._back(torch.einsum("...ij,b...j->b...i", roots[k].to(white), white))
                x[own] = fields + self.centres[k].to(device).reshape(-1, *[1] * len(self.sides))
        return x, labels

    def log_prob(self, x: Tensor) -> Tensor:
        """Return log p(x) in nats, (B,), of x (B, C, *sides) or (B, d)."""
        log_joint, _, _ = self._components(x, 0.0)
        return log_joint.logsumexp(1).to(x.dtype)

    def denoise(self, y: Tensor, nsr: Tensor | float) -> Tensor:
        """Return E[data | data + nsr noise = y], in the shape and type of y, (B, C, *sides) or (B, d).

        It is Wiener's filter of each component, averaged with the responsibilities r_k(y):

            sum_k r_k (m_k + F* S_k (S_k + nsr^2)^-1 F (y - m_k))

        Args:
            nsr: () or (B,), finite and at least 0; at 0 the answer is y.

        Raises:
            UserError: a shape differs from these.
        """
        log_joint, z, variances = self._components(y, nsr)
        responsibilities = log_joint.softmax(1)
        values, vectors = (part.to(y.device) for part in self._eigen)
        weighted = self._spread(responsibilities) * values / variances * z
        offset = self._back(torch.einsum("k...ij,bk...j->b...i", vectors.to(z.dtype), weighted))
        return (responsibilities @ self.means.to(y.device) + offset.flatten(1)).reshape(y.shape).to(y.dtype)

    def smoothed(self, nsr: float) -> "FieldMixture":
        """Return the law of data + nsr noise: spectra S_k + nsr^2 I."""
        return replace(self, spectra=self.spectra + nsr**2 * torch.eye(self.shape[0], dtype=torch.float64))

    def scaled(self, shift: Sequence[float], scale: Sequence[float]) -> "FieldMixture":
        """Return the law of (x - shift)/scale, one of each for each channel."""
        move, by = (torch.tensor(numbers, dtype=torch.float64) for numbers in (shift, scale))
        return replace(self, centres=(self.centres - move) / by, spectra=self.spectra / torch.outer(by, by))

    def stretched(self, factor: float) -> "FieldMixture":
        """Return the law of factor x."""
        return replace(self, centres=factor * self.centres, spectra=factor**2 * self.spectra)

    def along(self, directions: Tensor) -> tuple[Tensor, Tensor]:
        """Return the means and the deviations of the components along directions (J, d), each (J, K)."""
        values, vectors = self._eigen
        turned = torch.einsum("k...ij,b...i->bk...j", vectors.to(torch.complex128), self._transform(directions))
        variances = (turned.abs().square() * values).flatten(2).sum(2)
        return directions @ self.means.T, variances.sqrt()

    @cached_property
    def _eigen(self) -> tuple[Tensor, Tensor]:
        """l (K, *sides, C) and Q (K, *sides, C, C) of S_k(f) = Q diag(l) Q^T."""
        values, vectors = torch.linalg.eigh(self.spectra)
        return values, vectors

    @cached_property
    def _transformed_centres(self) -> Tensor:
        """F m_k, float64 (K, *sides, C): a constant has the frequency 0 alone."""
        found = torch.zeros(len(self.weights), *self.sides, self.shape[0], dtype=torch.float64)
        found.flatten(1, -2)[:, 0] = self.centres * math.sqrt(math.prod(self.sides))
        return found

    def _transform(self, x: Tensor) -> Tensor:
        """Return F x of x (B, C, *sides) or (B, d), with the channels last: complex128 (B, *sides, C).

        Raises:
            UserError: x has another shape.
        """
        if x.shape[1:] not in (self.shape, (math.prod(self.shape),)):
            raise UserError(
                f"field: examples of shape {tuple(x.shape)}; allowed: (B, {', '.join(map(str, self.shape))}) or "
                f"(B, {math.prod(self.shape)})"
            )
        places = x.double().reshape(-1, *self.shape).movedim(1, -1)
        return torch.fft.fftn(places, dim=self._axes, norm="ortho")

    def _back(self, coefficients: Tensor) -> Tensor:
        """Return the field (B, C, *sides) of coefficients (B, *sides, C) that belong to real numbers."""
        return torch.fft.ifftn(coefficients, dim=self._axes, norm="ortho").real.movedim(-1, 1)

    @property
    def _axes(self) -> tuple[int, ...]:
        return tuple(range(1, 1 + len(self.sides)))

    def _components(self, y: Tensor, nsr: Tensor | float) -> tuple[Tensor, Tensor, Tensor]:
        """Return the parts of every answer at y, for component spectra S_k + nsr^2 I.

        These are log w_k N(y; ...), (B, K); z_k = Q_k^T F (y - m_k), complex (B, K, *sides, C); and the eigenvalues
        l_k + nsr^2, (K, *sides, C) or (B, K, *sides, C).
        """
        weights, values, vectors = (v.to(y.device) for v in (self.weights, *self._eigen))
        moved = self._transform(y)[:, None] - self._transformed_centres.to(y.device)
        z = torch.einsum("k...ij,bk...i->bk...j", vectors.to(moved.dtype), moved)
        # A Python number becomes float64 here. Torch would make it float32, an error of 1e-8 in all results.
        variances = values + per_sample(torch.as_tensor(nsr, dtype=torch.float64), z.real).square()
        terms = (z.real.square() + z.imag.square()) / variances + variances.log() + math.log(2 * math.pi)
        return weights.log() - terms.flatten(2).sum(2) / 2, z, variances

    def _spread(self, responsibilities: Tensor) -> Tensor:
        """Return r (B, K) with the shape to multiply (B, K, *sides, C)."""
        return responsibilities.reshape(*responsibilities.shape, *[1] * (1 + len(self.sides)))

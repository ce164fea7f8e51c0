"""The questions that a law must answer so that models, samplers and likelihoods can be held against it."""

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor


class Law(Protocol):
    """A mixture of K Gaussians in d dimensions. Examples may be flattened, (B, d), or have their own shape, (B, *D).

    Every answer is computed in float64 and returned in the type of x.
    """

    @property
    def weights(self) -> Tensor:
        """The shares of the components, (K,) float64."""

    @property
    def means(self) -> Tensor:
        """Their means, (K, d) float64."""

    @property
    def eigenvalues(self) -> Tensor:
        """The eigenvalues of their covariances, (K, d) float64."""

    @property
    def mean(self) -> Tensor:
        """E[x], (d,) float64."""

    @property
    def variance(self) -> float:
        """The average variance of a coordinate."""

    @property
    def entropy(self) -> float:
        """-E[log p(x)] in nats; UserError if there are several components."""

    def sample(self, n: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Draw n examples, float64 (n, *D), with their components (n,) int64."""

    def log_prob(self, x: Tensor) -> Tensor:
        """Return log p(x) in nats, (B,)."""

    def denoise(self, y: Tensor, nsr: Tensor | float) -> Tensor:
        """Return E[data | data + nsr noise = y], in the shape of y."""

    def smoothed(self, nsr: float) -> "Law":
        """Return the law of data + nsr noise."""

    def scaled(self, shift: Sequence[float], scale: Sequence[float]) -> "Law":
        """Return the law of (x - shift)/scale, with one number for each channel."""

    def stretched(self, factor: float) -> "Law":
        """Return the law of factor x."""

    def along(self, directions: Tensor) -> tuple[Tensor, Tensor]:
        """Return the means and deviations of the components along directions (J, d), each (J, K)."""

"""``model=oracle``: the exact denoiser of a Gaussian mixture in the place of a network, with nothing to train."""

from collections.abc import Sequence

from torch import Tensor, nn

from dfm.errors import UserError
from dfm.mixtures import Covariance, mixture_of


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

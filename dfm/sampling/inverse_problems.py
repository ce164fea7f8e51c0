"""Inverse problems: a part of an image is known, and a model that was not trained for this fills in the rest.

The known part is y = P data, where P is an orthogonal projection (a mask, the mean over channels, the mean over blocks
of pixels). Every image x has a known part P x and a free part x - P x. There are two ways to make a denoiser respect
y. The result of each is a denoiser again, so every sampler accepts it:

    replacement   E[data | x_t, y] ~ D - P D + y: on the known part the ODE then follows a y + b noise, the noised y
                  (the idea of Song et al. 2021, appendix I.2, on the denoiser, as Wang et al. 2023, eq. 13)
    dps           score + w grad_x log N(y; P D(x), r^2 I) with r^2 = b^2 V/(a^2 V + b^2), V the data's variance
                  (Chung et al. 2023, eq. 16, with the variance of Song et al. 2023, PiGDM, eq. 8)

Both are exact for Gaussian data with covariance V I. In general, replacement uses only the information on the free part
that the network finds in x_t. dps adds the information that y gives through the network, and costs a backward pass.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import ClassVar, Literal, Self

import torch
from torch import Tensor
from torch.nn import functional

from dfm.basics.errors import UserError, unknown
from dfm.basics.locations import PathText
from dfm.basics.per_sample import per_sample
from dfm.data.dataset import DatasetSpec
from dfm.denoising.denoiser import Denoiser, EvaluationCount, WrappedDenoiser

Projection = Callable[[Tensor], Tensor]
MASKS = ("left", "right", "top", "bottom", "center", "outside", "random")


@dataclass(frozen=True, kw_only=True, eq=False)
class Conditioned(WrappedDenoiser):
    """A denoiser of images whose known part is ``known``.

    Args:
        inner: the denoiser of images without a known part.
        known: P data, (B, *D): the known part of each sample of the batch.
        projection: P, orthogonal and linear.
    """

    known: Tensor
    projection: Projection

    def restore(self, data: Tensor) -> Tensor:
        """Return data - P data + known: the image with its known part exact."""
        return data - self.projection(data) + self.known.to(data)

    def select(self, index: Tensor) -> Self:
        return replace(super().select(index), known=self.known[index.to(self.known.device)])

    def counted(self, calls: EvaluationCount) -> Denoiser:
        return replace(self, checks_times=False, inner=self.inner.counted(calls))


@dataclass(frozen=True, kw_only=True, eq=False)
class ReplacementDenoiser(Conditioned):
    """The method ``replacement``: E[data | x_t] with the known part in its place."""

    def expectations(self, x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        data = self.restore(self.inner.data(x, t))
        a, b = self.schedule.ab(t)
        return data, per_sample(1 / b, x) * x - per_sample(a / b, x) * data


@dataclass(frozen=True, kw_only=True, eq=False)
class DpsDenoiser(Conditioned):
    """The method ``dps``: the score of x_t given y.

    With g = w grad log p(y | x_t), E[data | x_t] changes by (b^2/a) g, and E[noise | x_t] by -b g.

    Args:
        scale: w; 1 gives the posterior of Gaussian data.
    """

    scale: float = 1.0

    def expectations(self, x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        a, b = self.schedule.ab(t)
        variance = self.spec.std**2
        r2 = b**2 * variance / (a**2 * variance + b**2)
        with torch.enable_grad():
            x = x.detach().requires_grad_()
            data, noise = self.inner.expectations(x, t)
            error = (self.known.to(x) - self.projection(data)).square().flatten(1).sum(1)
            (g,) = torch.autograd.grad((-error / (2 * r2.to(x))).sum(), x)
        shift = self.scale * g
        return data.detach() + per_sample(b**2 / a, x) * shift, noise.detach() - per_sample(b, x) * shift


@dataclass(frozen=True, kw_only=True)
class Task(ABC):
    """An inverse problem: which part of an image is known, and how a model respects it (config group ``task``).

    Args:
        method: ``replacement`` or ``dps``.
        scale: w of dps.

    Attributes:
        is_none: whether nothing is known, so that the model is used as it is.
        takes_mask: whether ``mask`` says which pixels are known.

    Raises:
        UserError: scale is below zero.
    """

    is_none: ClassVar[bool] = False
    takes_mask: ClassVar[bool] = False

    method: Literal["replacement", "dps"] = "replacement"
    scale: float = 1.0

    @property
    def mask_file(self) -> str | None:
        """The file of the user's own mask, if the task has one."""
        return None

    def with_known_pixels(self, known: Tensor) -> "Task":
        """Return the task with the user's own mask (H, W), 1 where a pixel is known."""
        return self

    def __post_init__(self) -> None:
        if self.scale < 0:
            raise UserError(f"task.scale={self.scale:g}; allowed: at least 0; try task.scale=1")

    @abstractmethod
    def projection(self, spec: DatasetSpec) -> Projection:
        """Return P for images of this shape.

        Raises:
            UserError: the task does not exist for data of this shape.
        """

    def observe(self, denoiser: Denoiser, data: Tensor) -> Conditioned:
        """Return the denoiser for images whose part P data is known, data (B, *D).

        Raises:
            UserError: x_t is not a data + b noise; or, for dps, the noise is not standard normal.
        """
        denoiser.require_linear_path(f"task.method={self.method}", normal=self.method == "dps")
        project = self.projection(denoiser.spec)
        plain = ReplacementDenoiser(**denoiser.common_fields(), inner=denoiser, known=project(data), projection=project)
        return DpsDenoiser(**vars(plain), scale=self.scale) if self.method == "dps" else plain


@dataclass(frozen=True, kw_only=True)
class NoTask(Task):
    """No task: no part of the image is known."""

    is_none: ClassVar[bool] = True

    def projection(self, spec: DatasetSpec) -> Projection:
        return torch.zeros_like


@dataclass(frozen=True, kw_only=True)
class Inpaint(Task):
    """A task where some pixels are missing.

    Args:
        mask: the missing pixels: ``left``, ``right``, ``top``, ``bottom`` (this half), ``center`` (the middle half of
            height and width), ``outside`` (all but the center), or ``random`` (each pixel with probability 1/2, the
            same pixels in all images); or a picture file (``dfm.runs.pictures.masks``).
        known: the mask of the file (H, W), 1 where a pixel is known; it replaces the name.
    """

    takes_mask: ClassVar[bool] = True

    mask: PathText | None = None
    known: Tensor | None = None

    @property
    def mask_file(self) -> str | None:
        named = self.mask is None or self.mask in MASKS or not set("./\\") & set(self.mask)
        return None if named else self.mask

    def with_known_pixels(self, known: Tensor) -> "Inpaint":
        return replace(self, known=known)

    def known_pixels(self, height: int, width: int) -> Tensor:
        """Return the mask float64 (H, W): 1 where a pixel is known, else 0.

        Raises:
            UserError: there is no mask, it has an unknown name, it has another size than the images, or all pixels or
                none are known.
        """
        known = self._named(height, width) if self.known is None else self.known
        if known.shape != (height, width):
            size = " x ".join(map(str, known.shape))
            raise UserError(
                f"mask={self.mask}: {size} pixels (height x width); allowed: {height} x {width}, as the images; try "
                "mask=left, or scale the picture to this size"
            )
        for value, what, problem in ((1, "every", "nothing is left to fill in"), (0, "no", "nothing is given")):
            if bool((known == value).all()):
                raise UserError(
                    f"mask={self.mask}: {what} pixel is known, so {problem}; allowed: both kinds (white: known, black: "
                    "missing; or opaque: known, transparent: missing); try mask=left"
                )
        return known

    def _named(self, height: int, width: int) -> Tensor:
        """Return the mask of this name, float64 (H, W)."""
        if self.mask is None:
            raise UserError(f"task=inpaint: which pixels are missing? try mask=left; allowed: {', '.join(MASKS)}")
        if self.mask not in MASKS:
            raise unknown("mask", self.mask, (*MASKS, "FILE.png"))
        known = torch.ones(height, width, dtype=torch.float64)
        middle = (slice(height // 4, height - height // 4), slice(width // 4, width - width // 4))
        if self.mask == "random":
            return torch.randint(0, 2, (height, width), generator=torch.Generator().manual_seed(0)).double()
        if self.mask == "outside":
            known.zero_()[middle] = 1
            return known
        missing = {
            "left": (slice(None), slice(0, width // 2)),
            "right": (slice(None), slice(width // 2, None)),
            "top": (slice(0, height // 2),),
            "bottom": (slice(height // 2, None),),
            "center": middle,
        }[self.mask]
        known[missing] = 0
        return known

    def projection(self, spec: DatasetSpec) -> Projection:
        _, height, width = _image_shape("inpaint", spec)
        known = self.known_pixels(height, width)
        return lambda x: x * known.to(x)


@dataclass(frozen=True, kw_only=True)
class Colorize(Task):
    """A task where the mean over the three channels is known."""

    def projection(self, spec: DatasetSpec) -> Projection:
        if _image_shape("colorize", spec)[0] != 3:
            raise UserError(f"task=colorize: {spec.name} has {spec.shape[0]} channel; allowed: images with 3 channels")
        return lambda x: x.mean(1, keepdim=True).expand_as(x)


@dataclass(frozen=True, kw_only=True)
class Upsample(Task):
    """A task where the means over blocks of factor x factor pixels are known.

    Args:
        factor: at least 2, and a divisor of height and width.
    """

    factor: int = 2

    def projection(self, spec: DatasetSpec) -> Projection:
        _, height, width = _image_shape("upsample", spec)
        if self.factor < 2 or height % self.factor or width % self.factor:
            raise UserError(
                f"task.factor={self.factor}; allowed: at least 2, and a divisor of the {height} x {width} pixels"
            )
        return lambda x: functional.interpolate(functional.avg_pool2d(x, self.factor), scale_factor=self.factor)


def _image_shape(name: str, spec: DatasetSpec) -> tuple[int, ...]:
    """Return (C, H, W) of the data; refuse other data."""
    if len(spec.shape) != 3:
        what = "points" if len(spec.shape) == 1 else "data"
        raise UserError(f"task={name}: {spec.name} has {what} of shape {spec.shape}; allowed: a model of images")
    return spec.shape

"""Random changes of training pictures of which the network is told, so that its samples do not show them.

A network that is told of a change learns the law of the changed pictures beside that of the pictures as they are. Zeros
mean that nothing was changed, and sampling and scoring tell nothing. So the samples follow the data alone, and the
changed pictures only help the network to learn them (Karras et al. 2022, appendix F.2).
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass
from functools import reduce
from typing import cast

import torch
from torch import Tensor
from torch.nn import functional

from dfm.basics.errors import UserError, unknown
from dfm.denoising.network_denoiser import NetworkDenoiser
from dfm.training.objectives.base import Model, Objective

# The changes in the order in which they are made, each with the number of its numbers.
CHANGES = {"xflip": 1, "yflip": 1, "scale": 1, "rotate": 2, "stretch": 2, "shift": 2}
FACTOR = 2**0.2  # of a scale or a stretch of one deviation
SHARE = 1 / 8  # of a side: a shift of one deviation
LEAST_UNCHANGED = 0.01  # of the pictures; samples are drawn as they are


class Warp(ABC):
    """A random change of pictures, of which the network is told (group ``augmentation``)."""

    @property
    @abstractmethod
    def numbers(self) -> int:
        """How many numbers tell the network of a change; 0: nothing is ever changed. All zero: this picture was not."""

    @property
    @abstractmethod
    def kinds(self) -> frozenset[str]:
        """The names of the changes that can happen."""

    def check(self, shape: tuple[int, ...]) -> None:  # noqa: B027, a warp may take every shape
        """Refuse examples of a shape that cannot be changed so.

        Raises:
            UserError: as said.
        """

    @abstractmethod
    def draw(self, n: int, generator: torch.Generator) -> Tensor:
        """Draw how n pictures are changed: what the network is told, float32 (n, numbers), on the generator's device.

        Every call draws equally many random numbers.
        """

    @abstractmethod
    def apply(self, data: Tensor, change: Tensor) -> Tensor:
        """Return the data (B, *D), in the unit of the model, changed as ``change`` (B, numbers) says."""


@dataclass(frozen=True, kw_only=True)
class NoWarp(Warp):
    """No change."""

    @property
    def numbers(self) -> int:
        return 0

    @property
    def kinds(self) -> frozenset[str]:
        return frozenset()

    def draw(self, n: int, generator: torch.Generator) -> Tensor:
        return torch.zeros(n, 0, device=generator.device)

    def apply(self, data: Tensor, change: Tensor) -> Tensor:
        return data


@dataclass(frozen=True, kw_only=True)
class GeometricWarp(Warp):
    """Mirrors, scale, rotation, stretch and shift, each made with a probability of its own (Karras et al. 2022, F.2).

    With independent n_k ~ N(0, 1) and uniform angles, a picture with sides (H, W) is changed in this order; beside each
    change are the numbers that tell it.

        xflip    left becomes right                               1
        yflip    top becomes bottom                               1
        scale    larger by 2^(0.2 n_1)                            n_1
        rotate   by the angle A, against the clock                cos A - 1, sin A
        stretch  along the angle B by 2^(0.2 n_2), and            n_2 cos 2B, n_2 sin 2B
                 across it by 2^(-0.2 n_2)
        shift    right by W n_3/8, down by H n_4/8                n_3, n_4

    Nine numbers; those of a change that was not made are 0. (The paper tells n_2 cos B, n_2 sin B. With twice the angle
    equal maps have equal numbers.) A mirror is exact. For the others see ``warped``.

    Args:
        probability: of each change.
        changes: the changes that may happen, by name.
        mirror: the probability of xflip, where it is another; None: as the others. The paper mirrors half of all.

    Raises:
        UserError: a name is unknown, a probability is none, or fewer than 1 % of the pictures stay as they are; or (on
            use) the examples are no pictures.
    """

    probability: float = 0.12
    changes: tuple[str, ...] = tuple(CHANGES)
    mirror: float | None = None

    def __post_init__(self) -> None:
        for name in self.changes:
            if name not in CHANGES:
                raise unknown("augmentation.changes", name, CHANGES)
        for key in ("probability", "mirror"):
            value = getattr(self, key)
            if value is not None and not 0 <= value <= 1:
                raise UserError(f"augmentation.{key}={value:g}; allowed: from 0 to 1; try augmentation.{key}=0.12")
        if self.mirror is not None and "xflip" not in self.changes:
            raise UserError(
                f"augmentation.mirror={self.mirror:g}: the changes {list(self.changes)} have no xflip; allowed: null; "
                "try augmentation.mirror=null"
            )
        unchanged = math.prod(1 - chance for chance in self.chances.values())
        if unchanged < LEAST_UNCHANGED:
            raise UserError(
                f"augmentation.probability={self.probability:g}: {unchanged:.2%} of the pictures stay as they are, and "
                f"samples are made as such; allowed: at least {LEAST_UNCHANGED:.0%}; try augmentation.probability=0.12"
                f"{'' if self.mirror is None else ' augmentation.mirror=0.5'}"
            )

    @property
    def chances(self) -> dict[str, float]:
        """The probability of each change."""
        own = {"xflip": self.probability if self.mirror is None else self.mirror}
        return {name: own.get(name, self.probability) if name in self.changes else 0.0 for name in CHANGES}

    @property
    def kinds(self) -> frozenset[str]:
        """The changes with a probability above 0."""
        return frozenset(name for name, chance in self.chances.items() if chance)

    @property
    def numbers(self) -> int:
        """Nine, or 0 if nothing can happen."""
        return sum(CHANGES.values()) if self.kinds else 0

    def check(self, shape: tuple[int, ...]) -> None:
        if len(shape) != 3:
            raise UserError(
                f"augmentation={sorted(self.kinds)}: an example has the shape {shape}; allowed: pictures (C, H, W), or "
                "augmentation=none; try augmentation=none"
            )

    def draw(self, n: int, generator: torch.Generator) -> Tensor:
        device = generator.device
        uniform = torch.rand(n, len(CHANGES) + 2, generator=generator, device=device)
        normal = torch.randn(n, 4, generator=generator, device=device)
        made = uniform[:, :-2] < torch.tensor(list(self.chances.values()), device=device)
        turn, along = (2 * math.pi * uniform[:, -2:]).unbind(1)  # ``along`` is twice the angle B
        one = torch.ones(n, device=device)
        told = torch.stack(
            [one, one, normal[:, 0], turn.cos() - 1, turn.sin(),
             normal[:, 1] * along.cos(), normal[:, 1] * along.sin(), normal[:, 2], normal[:, 3]], 1,
        )  # fmt: skip
        counts = torch.tensor(list(CHANGES.values()), device=device)
        return torch.where(made.repeat_interleave(counts, 1), told, 0.0)

    def apply(self, data: Tensor, change: Tensor) -> Tensor:
        change = change.to(data)
        for column, axis in ((0, -1), (1, -2)):
            data = torch.where(change[:, column, None, None, None] > 0, data.flip(axis), data)
        moved = (change[:, 2:] != 0).any(1)
        return torch.where(moved[:, None, None, None], warped(data, *inverse_map(change[:, 2:], data.shape[2:])), data)


def check_warp(warp: Warp, model: Model, objective: Objective) -> None:
    """Refuse a warp of which the network cannot be told, or that would change what is learned of pictures as they are.

    Raises:
        UserError: the examples do not suit the warp; the objective trains a classifier, or on pairs of its own; or the
            coupling would give the pictures that are not changed a part of the noise of their own.
    """
    if not warp.numbers:
        return
    warp.check(model.spec.shape)
    name, kinds = type(objective).__name__.lower(), ", ".join(sorted(warp.kinds))
    if objective.trains != "denoiser":
        why, allowed = f"objective={name} trains a {objective.trains}, which is told of no change", "another objective"
    elif objective.own_pairs:
        why, allowed = f"objective={name} learns from pairs of its own, not from pictures", "another objective"
    elif not cast(NetworkDenoiser, model).independent:
        why = "this coupling would give unchanged pictures noise of their own, and samples start from all of the noise"
        allowed = "coupling=independent"
    else:
        return
    raise UserError(f"augmentation ({kinds}): {why}; allowed: {allowed}, or augmentation=none; try augmentation=none")


def inverse_map(numbers: Tensor, sides: Iterable[int]) -> tuple[Tensor, Tensor]:
    """Return (M, c): the place p of a changed picture shows the place M p + c of the picture.

    Args:
        numbers: of scale, rotation, stretch and shift, (B, 7).
        sides: (H, W).

    Returns:
        M (B, 2, 2) and c (B, 2), for places (right, down) from the centre, in pixels.
    """
    scale, cos, sin, u, v, right, down = numbers.unbind(1)
    height, width = sides
    larger = math.log(FACTOR) * scale
    cos = cos + 1
    turn = matrix(cos, -sin, sin, cos)  # turns back: the axis of places points down
    # stretch = exp(k L) with L = [[u, -v], [-v, -u]] and L^2 = (u^2 + v^2) I, since the axis of places points down
    k, size = math.log(FACTOR), (u.square() + v.square()).sqrt()
    share = torch.where(size > 0, (k * size).sinh() / size.clamp_min(torch.finfo(size.dtype).tiny), k)
    even = (k * size).cosh()
    back = matrix(even - share * u, share * v, share * v, even + share * u)
    linear = turn @ back * (-larger).exp()[:, None, None]
    shift = SHARE * torch.stack([width * right, height * down], 1)
    return linear, -(linear @ shift[:, :, None])[:, :, 0]


def matrix(a: Tensor, b: Tensor, c: Tensor, d: Tensor) -> Tensor:
    """Return [[a, b], [c, d]], (B, 2, 2), of numbers (B,)."""
    return torch.stack([torch.stack([a, b], 1), torch.stack([c, d], 1)], 1)


def warped(data: Tensor, linear: Tensor, offset: Tensor) -> Tensor:
    """Return pictures that show at each place p, from the centre and in pixels, what ``data`` has at M p + c.

    Between pixels we first find the middle points by the cubic through four neighbours, along each axis, and then
    interpolate linearly on the grid of half pixels. The error is of second order in the size of a pixel, with a quarter
    of the constant of linear interpolation. Beyond its border a picture goes on as its mirror image.

    Args:
        data: (B, C, H, W).
        linear, offset: M (B, 2, 2) and c (B, 2), see ``inverse_map``.
    """
    half = torch.tensor([data.shape[3] / 2, data.shape[2] / 2]).to(data)  # torch measures places in half sides
    theta = torch.cat([linear * half / half[:, None], (offset / half)[:, :, None]], 2)
    grid = functional.affine_grid(theta, list(data.shape), align_corners=False)
    # the ends of the finer grid are the edges of the picture, so there its corners are at -1 and 1
    finer = reduce(with_middles, (2, 3), data)
    return functional.grid_sample(finer, grid, mode="bilinear", padding_mode="reflection", align_corners=True)


def with_middles(x: Tensor, axis: int) -> Tensor:
    """Return x with the points between its n places along an axis, and its two ends: 2n + 1 places half as far apart.

    A middle is (9 (x_0 + x_1) - (x_-1 + x_2))/16, exact for cubics. The ends lie half a place outside, at the edges of
    a picture, about which x is mirrored.
    """
    n = x.shape[axis]
    places = torch.arange(-2, n + 2, device=x.device).remainder(2 * n)
    longer = x.index_select(axis, torch.minimum(places, 2 * n - 1 - places))
    before, left, right, after = (longer.narrow(axis, k, n + 1) for k in range(4))
    middles = (9 * (left + right) - (before + after)) / 16
    pairs = torch.stack([middles.narrow(axis, 0, n), x], axis + 1).flatten(axis, axis + 1)
    return torch.cat([pairs, middles.narrow(axis, n, 1)], axis)

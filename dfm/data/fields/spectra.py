"""Power spectra of signals, maps and volumes on a periodic grid: those of a law, and those of examples.

With the unitary discrete Fourier transform F, (F x)(k) = N^-1/2 sum_r x(r) exp(-2 pi i k.r/n), white noise of
variance 1 has power E|(F x)(k)|^2 = 1 at every frequency, and the mean power is the variance of a place (Parseval).
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from dfm.basics.errors import UserError


def frequencies(sides: Sequence[int]) -> Tensor:
    """Return |omega|, the frequency in radians a place, of every place of the transform: float64 (*sides).

    Along each side it is the one of smallest size that the grid cannot tell from others, in [-pi, pi].
    """
    each = [2 * math.pi * torch.fft.fftfreq(side, dtype=torch.float64) for side in sides]
    return torch.stack(torch.meshgrid(*each, indexing="ij")).square().sum(0).sqrt()


def ridge(sides: Sequence[int], length: float, exponent: float, frequency: float = 0.0, noise: float = 0.0) -> Tensor:
    """Return a spectrum, float64 (*sides), with mean 1, so that the variance of a place is 1.

        S(omega) = (1 - noise) c (1 + ((|omega| - 2 pi frequency) length)^2)^(-exponent/2) + noise

    With frequency 0 it is Matern's spectrum in D dimensions of smoothness nu = (exponent - D)/2: flat up to 1/length,
    then 1/omega^exponent. With another frequency it is an oscillation that forgets its phase after about ``length``.

    Args:
        length: places over which values are alike.
        exponent: of the fall of power.
        frequency: of the ridge, in cycles a place, from 0 to 1/2.
        noise: share of the variance that is white: independent from place to place.

    Raises:
        UserError: a number is outside its range.
    """
    allowed = {
        "length": (length, length > 0, "above 0"),
        "exponent": (exponent, exponent >= 0, "at least 0"),
        "frequency": (frequency, 0 <= frequency <= 0.5, "from 0 to 0.5 cycles a place"),
        "noise": (noise, 0 <= noise <= 1, "a share from 0 to 1"),
    }
    for name, (value, fits, words) in allowed.items():
        if not (fits and math.isfinite(value)):
            raise UserError(f"spectrum: {name}={value:g}; allowed: a number {words}")
    away = (frequencies(sides) - 2 * math.pi * frequency) * length
    coloured = (1 + away.square()) ** (-exponent / 2)
    return (1 - noise) * coloured / coloured.mean() + noise


def power(x: Tensor, centre: Tensor | float = 0.0) -> Tensor:
    """Return the mean power |F(x - centre)|^2 of examples (n, C, *sides) at each frequency: float64 (C, *sides).

    Args:
        centre: what is taken from the examples, of a shape like theirs; only the frequency 0 depends on a constant.
    """
    total = torch.zeros(x.shape[1:], dtype=torch.float64)
    for part in x.split(max(1, 2**22 // max(1, x[:1].numel()))):
        away = part.double() - centre
        total += torch.fft.fftn(away, dim=tuple(range(2, x.ndim)), norm="ortho").abs().square().sum(0)
    return total / len(x)


def shells(spectrum: Tensor, sides: int) -> tuple[Tensor, Tensor, Tensor]:
    """Average a spectrum over all directions, in shells one step of the lowest frequency thick.

    Args:
        spectrum: (..., *sides).
        sides: the number of sides, which are its last axes.

    Returns:
        The mean frequency of each shell in cycles a place (m,); the mean power (..., m); and the number of frequencies
        in each shell (m,). Shells above 1/2 cycle a place, which are corners of the grid, are left out.
    """
    grid = spectrum.shape[spectrum.ndim - sides :]
    radius = frequencies(grid) / (2 * math.pi)
    step = 1 / max(grid)
    number = (radius / step).round().long().flatten()
    inside = radius.flatten() <= 0.5 + 1e-9
    number, flat = number[inside], spectrum.double().flatten(spectrum.ndim - sides)[..., inside]
    count = torch.bincount(number)
    where = torch.nn.functional.one_hot(number, len(count)).double() / count
    return radius.flatten()[inside] @ where, flat @ where, count

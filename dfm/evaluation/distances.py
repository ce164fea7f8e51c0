"""Distances between two sets of samples, without a trained network."""

import math

import torch
from torch import Tensor

from dfm.basics.errors import UserError


def energy_distance(x: Tensor, y: Tensor) -> float:
    """Return (2 E|X - Y| - E|X - X'| - E|Y - Y'|)/sqrt(d), unbiased (Szekely and Rizzo 2013).

    The exact distance is zero only for equal laws; its estimate then scatters around zero. Because of sqrt(d) it is in
    the unit of one coordinate.

    Args:
        x: (n, *D), y: (m, *D), at least two of each.
    """
    a, b = _flat(x, y)
    n, m = len(a), len(b)
    cross = _mean_distance(a, b)
    own = _mean_distance(a, a) * n / (n - 1) + _mean_distance(b, b) * m / (m - 1)
    return (2 * cross - own) / math.sqrt(a.shape[1])


NEAR = 1e-6  # of |a|^2 + |b|^2, below which |a - b|^2 is taken from the difference
PARTS = 4  # into which both sets are divided for the standard error


def energy_spread(x: Tensor, y: Tensor, splits: int = PARTS) -> float:
    """Return the standard error of ``energy_distance``.

    It is computed from the distances of ``splits`` disjoint random parts of both sets. For equal laws the error of the
    estimate falls like 1/n, not like 1/sqrt(n). The result is then about sqrt(splits) times too large.
    """
    generator = torch.Generator().manual_seed(0)  # in random order, because samples may be sorted by class
    x, y = (v[torch.randperm(len(v), generator=generator)] for v in (x.cpu(), y.cpu()))
    parts = [energy_distance(x[k::splits], y[k::splits]) for k in range(splits)]
    return float(torch.tensor(parts).std()) / math.sqrt(splits)


def wasserstein_2(x: Tensor, y: Tensor) -> float:
    """Return sqrt(min_pi (1/n) sum_i |x_i - y_pi(i)|^2), exactly, by scipy's linear assignment.

    Args:
        x, y: (n, *D), the same number of each.

    Raises:
        UserError: the numbers differ.
    """
    from scipy.optimize import linear_sum_assignment

    a, b = _flat(x, y)
    if len(a) != len(b):
        raise UserError(f"2-Wasserstein distance of {len(a)} and {len(b)} points; allowed: equally many")
    cost = distances(a, b).square().numpy()
    rows, columns = linear_sum_assignment(cost)
    return math.sqrt(cost[rows, columns].mean())


def distances(a: Tensor, b: Tensor) -> Tensor:
    """Return |a_i - b_j|, (n, m), to nearly all digits, for sets anywhere in space.

    |a|^2 + |b|^2 - 2 a.b is many times faster than the differences in many dimensions, but it loses the digits that
    |a - b|^2 is smaller by. So we take it from the middle of b, and take the differences for the pairs that it would
    give fewer than nine digits.

    Args:
        a, b: float64, (n, d) and (m, d).
    """
    middle = b.mean(0)
    u, v = a - middle, b - middle
    sizes = u.square().sum(1)[:, None] + v.square().sum(1)
    squares = sizes - 2 * u @ v.T
    rows, columns = (squares <= NEAR * sizes).nonzero(as_tuple=True)
    if len(rows) > squares.numel() // 20:
        return torch.cdist(a, b, compute_mode="donot_use_mm_for_euclid_dist")
    squares[rows, columns] = (a[rows] - b[columns]).square().sum(1)
    return squares.sqrt()


def _flat(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Return both sets as float64 matrices on the CPU; refuse different shapes, and fewer than two samples."""
    a, b = x.detach().cpu().double().flatten(1), y.detach().cpu().double().flatten(1)
    if a.shape[1] != b.shape[1] or min(len(a), len(b)) < 2:
        raise UserError(
            f"samples of shapes {tuple(x.shape)} and {tuple(y.shape)}; allowed: at least two of each, with one shape"
        )
    return a, b


def _mean_distance(a: Tensor, b: Tensor, rows: int = 1024) -> float:
    """Return the mean of |a_i - b_j| over all pairs, a block of rows at a time."""
    total = sum(float(distances(part, b).sum()) for part in a.split(rows))
    return total / (len(a) * len(b))

"""Four measures of the quality of samples, from two matrices of features with one row per example.

The Fréchet distance compares means and covariances; a finite number of samples makes it too large. The kernel distance
is unbiased. Precision is the fraction of samples that look real, and recall the fraction of real examples that have
samples near them. The measures work with any features, but only values with the same features can be compared.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from dfm.basics.errors import UserError
from dfm.basics.intervals import mean_interval
from dfm.basics.seeding import Purpose, stream
from dfm.evaluation.distances import distances

NEIGHBOURS = 3
BLOCK = 2000  # rows of a table of pairs that are in memory at once


@dataclass(frozen=True, kw_only=True)
class Quality:
    """The four measures, with standard errors and 95 % intervals for the finite size of both sets.

    The intervals are those of Student's t for the smaller set. The Fréchet distance of finite sets is too large on
    average; its interval is for this average, at these sizes.

    Args:
        frechet, kernel, precision, recall: see the functions of this module.
        num_samples, num_references: the number of rows of each set.
    """

    frechet: float
    frechet_stderr: float
    frechet_interval95: list[float] | None
    kernel: float
    kernel_stderr: float
    kernel_interval95: list[float] | None
    precision: float
    recall: float
    num_samples: int
    num_references: int


def quality(samples: Tensor, references: Tensor, *, seed: int = 0, neighbours: int = NEIGHBOURS) -> Quality:
    """Return all measures of samples against references.

    Args:
        samples: features (n, k).
        references: features (m, k).
        seed: the seed of the bootstrap.
        neighbours: the number of neighbours for precision and recall.

    Raises:
        UserError: the matrices differ in their width, have too few rows, or hold numbers that are not finite.
    """
    x, y = _check_features(samples, references, neighbours)
    kernel, kernel_stderr = kernel_distance(x, y)
    precision, recall = precision_and_recall(x, y, neighbours)
    frechet, frechet_stderr = frechet_distance(x, y), frechet_spread(x, y, seed)
    n = min(len(x), len(y))
    return Quality(
        frechet=frechet,
        frechet_stderr=frechet_stderr,
        frechet_interval95=mean_interval(frechet, frechet_stderr, n),
        kernel=kernel,
        kernel_stderr=kernel_stderr,
        kernel_interval95=mean_interval(kernel, kernel_stderr, n),
        precision=precision,
        recall=recall,
        num_samples=len(x),
        num_references=len(y),
    )


def frechet_distance(x: Tensor, y: Tensor) -> float:
    """Return |m_x - m_y|^2 + tr(C_x + C_y - 2 (C_x C_y)^(1/2)) of means and covariances (Heusel et al. 2017, eq. 6).

    It is the squared 2-Wasserstein distance of Gaussians. For equal laws it is above zero by O(k^2/n). So compare
    values with the same n, and with the distance of n real examples.

    Args:
        x: (n, k), y: (m, k), at least two of each.
    """
    from torch_fidelity.metric_fid import KEY_METRIC_FID, fid_statistics_to_metric

    return float(fid_statistics_to_metric(_moments(x), _moments(y), verbose=False)[KEY_METRIC_FID])


def frechet_spread(x: Tensor, y: Tensor, seed: int = 0, resamples: int = 40) -> float:
    """Return the standard error of ``frechet_distance``: its standard deviation over bootstrap resamples of both sets.

    Compared with fresh draws of Gaussians, it is correct to 30 % where the laws differ clearly. Where they hardly
    differ, it is twice too large, because resamples vary more than fresh draws.
    """

    def resample(rows: Tensor, number: int, part: int) -> Tensor:
        index = stream(seed, number, Purpose.RESAMPLE, part=part).integers(0, len(rows), len(rows))
        return rows[torch.from_numpy(index)]

    values = [frechet_distance(resample(x, k, 0), resample(y, k, 1)) for k in range(resamples)]
    return float(np.std(values, ddof=1))


def kernel_distance(x: Tensor, y: Tensor) -> tuple[float, float]:
    """Return E k(X, X') + E k(Y, Y') - 2 E k(X, Y) and its standard error, with k(u, v) = (u.v/d + 1)^3.

    It is an unbiased estimate of the squared maximum mean discrepancy (Binkowski et al. 2018, section 4). For equal
    laws it scatters around zero. (It is below zero if a set has the same number of examples of each class, because its
    rows are then not independent.) All pairs are used; the usual mean over random subsets of 1,000 leaves some out. The
    standard error comes from the jackknife over the rows of both sets. For equal laws it is about sqrt(2) times too
    large.

    Args:
        x: (n, d), y: (m, d), at least three of each.
    """
    n, m = len(x), len(y)
    centre = torch.cat([x, y]).mean(0)
    x, y = x - centre, y - centre
    own_x, own_y = (_sums(z, z, centre) - _diagonal(z, centre) for z in (x, y))
    cross_x, cross_y = _sums(x, y, centre), _sums(y, x, centre)

    def value(xx: Tensor, yy: Tensor, xy: Tensor, n: int, m: int) -> Tensor:
        return xx / (n * (n - 1)) + yy / (m * (m - 1)) - 2 * xy / (n * m)

    xx, yy, xy = own_x.sum(), own_y.sum(), cross_x.sum()
    without_x = value(xx - 2 * own_x, yy, xy - cross_x, n - 1, m)
    without_y = value(xx, yy - 2 * own_y, xy - cross_y, n, m - 1)
    variance = sum((len(v) - 1) * v.var(correction=0) for v in (without_x, without_y))
    return float(value(xx, yy, xy, n, m)), math.sqrt(float(variance))


def precision_and_recall(x: Tensor, y: Tensor, neighbours: int = NEIGHBOURS) -> tuple[float, float]:
    """Return (precision, recall) of samples x and references y (Kynkaanniemi et al. 2019, eq. 2).

    Precision is the fraction of x inside the manifold of y; recall is the fraction of y inside the manifold of x. The
    manifold of a set is the union of the balls around its points that reach to their ``neighbours``-th neighbour.

    Args:
        x: samples (n, k), y: references (m, k), more than ``neighbours`` of each.
    """
    return _share_inside(x, y, neighbours), _share_inside(y, x, neighbours)


def _moments(x: Tensor) -> dict[str, np.ndarray]:
    """Return mean and covariance of the rows, in the form of torch_fidelity."""
    from torch_fidelity.metric_fid import fid_features_to_statistics

    statistics = fid_features_to_statistics(x)
    # NumPy's covariance of one coordinate is a number, not a matrix.
    return {"mu": statistics["mu"], "sigma": np.atleast_2d(statistics["sigma"])}


def _share_inside(points: Tensor, manifold: Tensor, neighbours: int) -> float:
    """Return the share of the points that lie in the manifold (``precision_and_recall``)."""
    # each point is its own nearest neighbour, at distance zero
    radii = torch.cat([distances(p, manifold).kthvalue(neighbours + 1).values for p in manifold.split(BLOCK)])
    inside = torch.cat([(distances(part, manifold) <= radii).any(1) for part in points.split(BLOCK)])
    return float(inside.double().mean())


def _sums(x: Tensor, y: Tensor, centre: Tensor) -> Tensor:
    """Return sum_j h(x_i, y_j), (n,), as ``_centred_kernel``."""
    at_y = y @ centre / len(centre)
    parts = (
        _centred_kernel(part @ y.T / len(centre), (part @ centre / len(centre))[:, None], at_y, centre)
        for part in x.split(BLOCK)
    )
    return torch.cat([part.sum(1) for part in parts])


def _diagonal(x: Tensor, centre: Tensor) -> Tensor:
    """Return h(x_i, x_i), (n,), as ``_centred_kernel``."""
    at_x = x @ centre / len(centre)
    return _centred_kernel(x.square().mean(1), at_x, at_x, centre)


def _centred_kernel(r: Tensor, p: Tensor, q: Tensor, c: Tensor) -> Tensor:
    """Return h(x, y) = k(c + x, c + y) - k(c + x, c) - k(c, c + y) + k(c, c).

    With h the kernel distance is the same as with k, because what is subtracted cancels in its three means. Far from
    the origin k is the same large number for all pairs, to nearly all digits; in h this number is not there at all.

    Args:
        r, p, q: x.y/d, x.c/d and y.c/d.
    """
    s, pq, sum_ = c.square().mean() + 1, p * q, p + q
    linear = 3 * s.square() * r
    square = 3 * s * (2 * pq + 2 * sum_ * r + r.square())
    return linear + square + 3 * pq * sum_ + 3 * sum_.square() * r + 3 * sum_ * r.square() + r.pow(3)


def check_enough(samples: int, references: int, neighbours: int = NEIGHBOURS) -> None:
    """Refuse numbers of samples and references that are too small for ``quality``, before any work.

    Raises:
        UserError: one of them is.
    """
    if neighbours < 1:
        raise UserError(f"neighbours={neighbours}; allowed: a whole number of at least 1")
    least = max(3, neighbours + 1)
    if min(samples, references) < least:
        way = "n=1000" if references >= least else "split=train, or more references"
        raise UserError(
            f"{samples} samples and {references} references; allowed: at least {least} of each, for the {neighbours} "
            f"nearest neighbours of precision and recall; try {way}"
        )


def _check_features(samples: Tensor, references: Tensor, neighbours: int) -> tuple[Tensor, Tensor]:
    """Return both matrices as float64 on the CPU; refuse wrong shapes, too few rows and infinite numbers."""
    x, y = samples.detach().cpu().double(), references.detach().cpu().double()
    if x.ndim != 2 or y.ndim != 2 or x.shape[1] != y.shape[1]:
        raise UserError(f"features of shapes {tuple(x.shape)} and {tuple(y.shape)}; allowed: (n, k) and (m, k)")
    check_enough(len(x), len(y), neighbours)
    for name, rows in (("samples", x), ("references", y)):
        if not bool(rows.isfinite().all()):
            raise UserError(f"the features of the {name} are not all finite; allowed: finite numbers")
    return x, y

"""How good samples are beside real data: four figures from two matrices of features, a row an example.

Each looks at something else. The Fréchet distance compares means and covariances and is biased upwards by a finite
number of samples; the kernel distance is unbiased; precision is the share of samples that look real, recall the share
of real examples that the samples come near to. Any features will do; only figures in the same ones can be compared.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from dfm.basics.errors import UserError
from dfm.basics.seeding import Purpose, stream

NEIGHBOURS = 3


@dataclass(frozen=True, kw_only=True)
class Quality:
    """The figures, with the standard errors that are due to the two sets being samples.

    Args:
        frechet, kernel, precision, recall: as the functions of this module say.
        num_samples, num_references: how many there were of each.
    """

    frechet: float
    frechet_stderr: float
    kernel: float
    kernel_stderr: float
    precision: float
    recall: float
    num_samples: int
    num_references: int


def quality(samples: Tensor, references: Tensor, *, seed: int = 0, neighbours: int = NEIGHBOURS) -> Quality:
    """All figures of samples against references.

    Args:
        samples: features (n, k). references: (m, k).
        seed: of the bootstrap.
        neighbours: of precision and recall.

    Raises:
        UserError: not two matrices of one width, too few rows, or numbers that are not finite.
    """
    x, y = _checked(samples, references, neighbours)
    kernel, kernel_stderr = kernel_distance(x, y)
    precision, recall = precision_and_recall(x, y, neighbours)
    return Quality(
        frechet=frechet_distance(x, y), frechet_stderr=frechet_spread(x, y, seed), kernel=kernel,
        kernel_stderr=kernel_stderr, precision=precision, recall=recall, num_samples=len(x), num_references=len(y),
    )  # fmt: skip


def frechet_distance(x: Tensor, y: Tensor) -> float:
    """|m_x - m_y|^2 + tr(C_x + C_y - 2 (C_x C_y)^(1/2)) of means and covariances (Heusel et al. 2017, eq. 6).

    It is the squared 2-Wasserstein distance of Gaussians. For equal laws it is above zero by O(k^2/n), so compare it at
    equal n, and with that of as many real examples.

    Args:
        x: (n, k), y: (m, k), at least two each.
    """
    from torch_fidelity.metric_fid import KEY_METRIC_FID, fid_statistics_to_metric

    return float(fid_statistics_to_metric(_moments(x), _moments(y), verbose=False)[KEY_METRIC_FID])


def frechet_spread(x: Tensor, y: Tensor, seed: int = 0, resamples: int = 40) -> float:
    """Standard error of ``frechet_distance``: its standard deviation over bootstrap resamples of the rows of both.

    Measured over fresh draws of Gaussians it is right to 30 % where their laws differ clearly, and twice too large
    where they hardly do, since resamples differ from each other by more than fresh draws would.
    """

    def drawn(rows: Tensor, number: int, part: int) -> Tensor:
        chosen = stream(seed, number, Purpose.RESAMPLE, part=part).integers(0, len(rows), len(rows))
        return rows[torch.from_numpy(chosen)]

    values = [frechet_distance(drawn(x, k, 0), drawn(y, k, 1)) for k in range(resamples)]
    return float(np.std(values, ddof=1))


def kernel_distance(x: Tensor, y: Tensor) -> tuple[float, float]:
    """E k(X, X') + E k(Y, Y') - 2 E k(X, Y), k(u, v) = (u.v/d + 1)^3 in d dimensions, and its standard error.

    The squared maximum mean discrepancy (Binkowski et al. 2018, section 4), unbiased: for equal laws it scatters about
    zero (below it where a set is balanced by class, since then its rows are not independent). All pairs enter, where
    the usual mean over random subsets of 1,000 leaves some out. The error is the jackknife's over the rows of both
    sets; for equal laws it is too large, by about sqrt(2).

    Args:
        x: (n, d), y: (m, d), at least three each.
    """
    n, m = len(x), len(y)
    own_x, own_y = _sums(x, x) - _kernel_diagonal(x), _sums(y, y) - _kernel_diagonal(y)
    cross_x, cross_y = _sums(x, y), _sums(y, x)

    def value(xx: Tensor, yy: Tensor, xy: Tensor, n: int, m: int) -> Tensor:
        return xx / (n * (n - 1)) + yy / (m * (m - 1)) - 2 * xy / (n * m)

    xx, yy, xy = own_x.sum(), own_y.sum(), cross_x.sum()
    without_x = value(xx - 2 * own_x, yy, xy - cross_x, n - 1, m)
    without_y = value(xx, yy - 2 * own_y, xy - cross_y, n, m - 1)
    variance = sum((len(v) - 1) * v.var(correction=0) for v in (without_x, without_y))
    return float(value(xx, yy, xy, n, m)), math.sqrt(float(variance))


def precision_and_recall(x: Tensor, y: Tensor, neighbours: int = NEIGHBOURS) -> tuple[float, float]:
    """The shares of x inside the manifold of y, and of y inside that of x (Kynkaanniemi et al. 2019, eq. 2).

    The manifold of a set is the union of the balls about its points that reach to their ``neighbours``-th neighbour.

    Args:
        x: samples (n, k), y: references (m, k), more than ``neighbours`` each.
    """
    from torch_fidelity.metric_prc import KEY_METRIC_PRECISION, KEY_METRIC_RECALL, prc_features_to_metric

    found = prc_features_to_metric(
        x, y, prc_neighborhood=neighbours, prc_batch_size=BLOCK, save_cpu_ram=True, verbose=False
    )
    return float(found[KEY_METRIC_PRECISION]), float(found[KEY_METRIC_RECALL])


BLOCK = 2000  # rows of a table of pairs that are held at once


def _moments(x: Tensor) -> dict[str, np.ndarray]:
    from torch_fidelity.metric_fid import fid_features_to_statistics

    found = fid_features_to_statistics(x)
    return {
        "mu": found["mu"],
        "sigma": np.atleast_2d(found["sigma"]),
    }  # NumPy's covariance of one coordinate is a number


def _sums(x: Tensor, y: Tensor) -> Tensor:
    """sum_j k(x_i, y_j), (n,)."""
    return torch.cat([(part @ y.T / x.shape[1] + 1).pow(3).sum(1) for part in x.split(BLOCK)])


def _kernel_diagonal(x: Tensor) -> Tensor:
    """k(x_i, x_i), (n,)."""
    return (x.square().mean(1) + 1).pow(3)


def _checked(samples: Tensor, references: Tensor, neighbours: int) -> tuple[Tensor, Tensor]:
    x, y = samples.detach().cpu().double(), references.detach().cpu().double()
    if x.ndim != 2 or y.ndim != 2 or x.shape[1] != y.shape[1]:
        raise UserError(f"features of shapes {tuple(x.shape)} and {tuple(y.shape)}; allowed: (n, k) and (m, k)")
    if neighbours < 1:
        raise UserError(f"neighbours={neighbours}; allowed: a whole number of at least 1")
    least = max(3, neighbours + 1)
    if min(len(x), len(y)) < least:
        raise UserError(
            f"{len(x)} samples and {len(y)} references; allowed: at least {least} of each, for the {neighbours} "
            "nearest neighbours of precision and recall; try n=1000"
        )
    for name, rows in (("samples", x), ("references", y)):
        if not bool(rows.isfinite().all()):
            raise UserError(f"the features of the {name} are not all finite; allowed: finite numbers")
    return x, y

"""Intervals against scipy's laws, and how often they hold the truth."""

import math

import numpy as np
import pytest
import scipy.stats

from dfm.basics.intervals import as_text, mean_interval, share_interval


@pytest.mark.parametrize("n", [4, 8, 16])
def test_the_interval_of_a_mean_holds_the_truth_as_often_as_it_says(n: int) -> None:
    """5,000 means of n normal values: 95 % within four standard errors. 1.96 deviations would give 86 to 93 %."""
    values = np.random.default_rng(n).normal(3.0, 2.0, (5000, n))
    means, errors = values.mean(1), values.std(1, ddof=1) / math.sqrt(n)
    intervals = np.array([mean_interval(*pair, n) for pair in zip(means.tolist(), errors.tolist(), strict=True)])
    held = float(((intervals[:, 0] < 3.0) & (intervals[:, 1] > 3.0)).mean())
    assert held == pytest.approx(0.95, abs=4 * math.sqrt(0.95 * 0.05 / 5000))
    assert intervals[0] == pytest.approx(scipy.stats.t.interval(0.95, n - 1, means[0], errors[0]))


def test_a_mean_without_an_error_has_no_interval() -> None:
    assert mean_interval(1.0, None, 1) is None
    assert mean_interval(1.0, 0.5, 1) is None
    assert mean_interval(math.inf, 0.5, 9) is None
    assert as_text(None) == "?"


@pytest.mark.parametrize(("count", "n"), [(0, 1), (0, 12), (12, 12), (3, 12), (297, 300)])
def test_the_interval_of_a_share_is_the_exact_one(count: int, n: int) -> None:
    exact = scipy.stats.binomtest(count, n).proportion_ci(0.95, "exact")
    assert share_interval(count, n) == pytest.approx([exact.low, exact.high])

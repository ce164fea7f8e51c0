"""Intervals of 95 % around a mean of few examples, and around a share."""

import math

SHARE = 0.95


def mean_interval(mean: float | None, stderr: float | None, n: int) -> list[float] | None:
    """Return [mean - q stderr, mean + q stderr], with q the quantile of Student's t with n - 1 degrees of freedom.

    If the n values are normal, it holds their true mean in 95 % of all cases, for every n. (With 1.96 for q it would
    hold it in 70, 86 and 92 % at n = 2, 4 and 8.) For another law this is so in the limit of many values.

    Args:
        stderr: the standard deviation of the n values (with n - 1), divided by sqrt(n).
        n: the number of independent values behind the mean.

    Returns:
        None if there are fewer than two values, or if a number is unknown or not finite.
    """
    from scipy.special import stdtrit

    if mean is None or stderr is None or n < 2 or not math.isfinite(mean + stderr):
        return None
    half = float(stdtrit(n - 1, (1 + SHARE) / 2)) * stderr
    return [mean - half, mean + half]


def share_interval(count: int, n: int) -> list[float]:
    """Return the exact interval of a share of which ``count`` of n draws are a sample (Clopper and Pearson 1934).

    It holds the true share in at least 95 % of all cases, for every n, also where all or none of the draws count.
    """
    from scipy.special import betaincinv

    tail = (1 - SHARE) / 2
    low = 0.0 if count == 0 else float(betaincinv(count, n - count + 1, tail))
    high = 1.0 if count == n else float(betaincinv(count + 1, n - count, 1 - tail))
    return [low, high]


def as_text(interval: list[float] | None, form: str = ".4f") -> str:
    """Return the interval for the screen, such as "1.83 to 1.88"; a question mark for None."""
    return "?" if interval is None else f"{interval[0]:{form}} to {interval[1]:{form}}"

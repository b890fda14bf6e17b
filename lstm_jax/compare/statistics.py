"""Medians, ratios of medians with their confidence intervals, and slopes.

An interval comes from the bootstrap: rounds are drawn with replacement as often as there were rounds, and
the ratio of medians is computed of those drawn; the middle 95 % of many such ratios are the interval. Two
frameworks of one run were measured in the same rounds, and so are drawn together: what slowed a round down
met both, and cancels. Two runs have no rounds in common, and are drawn apart; what changed on the machine
between them no interval can know.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

RESAMPLES = 4000
CONFIDENCE = 0.95
# Of fewer rounds there is no such interval: the true median is outside of all n measurements once in
# 2 ** (n - 1) times, for n = 4 that is once in 8. For n = 5 it is once in 16: what is called 95 % is 94 %.
LEAST_ROUNDS = 5
SEED = 0


class Quartiles(NamedTuple):
    """A quarter of the numbers is below ``low``, half of them below ``median``, a quarter above ``high``."""

    low: float
    median: float
    high: float


class Ratio(NamedTuple):
    """A ratio of medians, and its 95 % confidence interval; None if there were too few rounds for one.

    Its bounds are taken as they are shown, with two decimals: "1.00 to 1.03" is no difference.
    """

    value: float
    low: float | None = None
    high: float | None = None

    @property
    def has_interval(self) -> bool:
        """Whether something can be said of its spread."""
        return self.low is not None

    @property
    def above_one(self) -> bool:
        """Whether all of the interval is above 1."""
        return self.low is not None and round(self.low, 2) > 1

    @property
    def below_one(self) -> bool:
        """Whether all of the interval is below 1."""
        return self.high is not None and round(self.high, 2) < 1


def quartiles(samples: Sequence[float]) -> Quartiles:
    """The quartiles of one number or more."""
    low, median, high = np.percentile(samples, [25, 50, 75])
    return Quartiles(float(low), float(median), float(high))


def median(samples: Sequence[float]) -> float:
    """The median of one number or more."""
    return quartiles(samples).median


def ratio(over: Sequence[float], under: Sequence[float], *, paired: bool) -> Ratio:
    """The median of ``over`` by that of ``under``, with its interval.

    Args:
        over: one number per round.
        under: the same of something else, none of them 0.
        paired: whether both have the same rounds, in the same order.
    """
    above, below = np.asarray(over, np.float64), np.asarray(under, np.float64)
    value = float(np.median(above) / np.median(below))
    if min(len(above), len(below)) < LEAST_ROUNDS:
        return Ratio(value)
    rng = np.random.default_rng(SEED)
    drawn = _draw(rng, len(above))
    ratios = _medians(above, drawn) / _medians(below, drawn if paired else _draw(rng, len(below)))
    low, high = np.quantile(ratios, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return Ratio(value, float(low), float(high))


def _draw(rng: np.random.Generator, rounds: int) -> Int[np.ndarray, "resamples rounds"]:
    return rng.integers(0, rounds, (RESAMPLES, rounds))


def _medians(
    samples: Float[np.ndarray, " rounds"], drawn: Int[np.ndarray, "resamples rounds"]
) -> Float[np.ndarray, " resamples"]:
    return np.median(samples[drawn], axis=1)


def slope(sizes: Sequence[int | float], seconds: Sequence[float]) -> float | None:
    """The slope of a straight line through a curve on double logarithmic axes, by least squares.

    Where it is 1, twice the size takes twice the time; where 2, four times. None for fewer than two sizes.
    """
    if len(set(sizes)) < 2:
        return None
    x, y = np.log(sizes), np.log(seconds)
    x = x - x.mean()
    return float(x @ y / (x @ x))


def mean_and_deviation(values: Sequence[float]) -> tuple[float, float | None]:
    """The mean, and the standard deviation of the distribution they come from; None for a single value."""
    deviation = float(np.std(values, ddof=1)) if len(values) > 1 else None
    return float(np.mean(values)), deviation

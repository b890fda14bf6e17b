"""Medians, ratios of medians with their confidence intervals, rankings, and slopes.

An interval comes from the bootstrap: as many rounds as there were are drawn with replacement, and the ratio
of medians is computed from them. The interval holds the middle 95 % of many such ratios. The two frameworks
were measured in the same rounds, so they are drawn together: a disturbance of a round affected both, and
cancels.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

RESAMPLES = 4000
CONFIDENCE = 0.95
# With fewer rounds there is no such interval: the true median lies outside of all n measurements with
# probability 1 / 2 ** (n - 1). For n = 4 that is 1 / 8. For n = 5 it is 1 / 16, so "95 %" is really 94 %.
LEAST_ROUNDS = 5
SEED = 0


class Ratio(NamedTuple):
    """A ratio of medians, and its 95 % confidence interval; None if there were too few rounds for one."""

    value: float
    interval: tuple[float, float] | None = None

    @property
    def is_above_one(self) -> bool:
        """Whether the interval, rounded as in tables, is above 1: "1.00 to 1.03" is not."""
        return self.interval is not None and round(self.interval[0], 2) > 1


def quartiles(samples: Sequence[float]) -> tuple[float, float, float]:
    """Compute the quartiles of one or more numbers; the second is the median."""
    low, middle, high = map(float, np.percentile(samples, [25, 50, 75]))
    return low, middle, high


def median(samples: Sequence[float]) -> float:
    """Compute the median of one or more numbers."""
    return quartiles(samples)[1]


def ratio(over: Sequence[float], under: Sequence[float]) -> Ratio:
    """Divide the median of ``over`` by that of ``under``, with the interval of the ratio.

    Args:
        over: one number per round.
        under: the numbers of the other framework in the same rounds, none of them 0.
    """
    above, below = np.asarray(over, np.float64), np.asarray(under, np.float64)
    value = float(np.median(above) / np.median(below))
    if len(above) != len(below) or len(above) < LEAST_ROUNDS:
        return Ratio(value)
    drawn = np.random.default_rng(SEED).integers(0, len(above), (RESAMPLES, len(above)))
    ratios = np.median(above[drawn], axis=1) / np.median(below[drawn], axis=1)
    low, high = np.quantile(ratios, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return Ratio(value, (float(low), float(high)))


class Ranking(NamedTuple):
    """A ranking by speed.

    Attributes:
        order: all names, by their medians.
        first: the fastest and those level with it; empty if there are too few rounds to say.
    """

    order: tuple[str, ...]
    first: tuple[str, ...]


def rank(samples: Mapping[str, Sequence[float]]) -> Ranking:
    """Compare all with the one of the smallest median.

    Those whose ratio to it has 1 within its interval are level with it.
    """
    order = tuple(sorted(samples, key=lambda name: median(samples[name])))
    if len(order) < 2:
        return Ranking(order, ())
    ratios = {name: ratio(samples[name], samples[order[0]]) for name in order[1:]}
    if not all(found.interval for found in ratios.values()):
        return Ranking(order, ())
    return Ranking(order, (order[0], *(name for name in order[1:] if not ratios[name].is_above_one)))


def slope(sizes: Sequence[int], seconds: Sequence[float]) -> float | None:
    """Fit a straight line to a curve on double logarithmic axes by least squares, and return its slope.

    With slope 1, twice the size takes twice the time; with slope 2, four times. It is None for fewer than two
    sizes.
    """
    if len(set(sizes)) < 2:
        return None
    return float(np.polyfit(np.log(sizes), np.log(seconds), 1)[0])

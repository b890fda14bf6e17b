"""Mean, standard deviation and confidence interval of what several seeds gave.

With n values of mean m and sample standard deviation s = sqrt(sum (x - m)^2 / (n - 1)), the interval of the
mean is Student's (1908), which holds for as few as two values if they are about normally distributed:

    m +- t s / sqrt(n),        P(|T| < t) = 0.95 for Student's T of n - 1 degrees of freedom

It says what the mean over other seeds would be, on the same test images. What other images would give is
another matter, and another interval: see `evaluation_report.py`.
"""

import math
from collections.abc import Sequence
from statistics import fmean, stdev
from typing import Any, NamedTuple

CONFIDENCE = 0.95


class Spread(NamedTuple):
    """What is said of several values.

    Attributes:
        mean: their mean.
        standard_deviation: of the sample, with n - 1.
        interval: the confidence interval of the mean. It may reach beyond what is possible, an accuracy
            above 1 for instance.
        confidence: how sure the interval is.
    """

    mean: float
    standard_deviation: float
    interval: tuple[float, float]
    confidence: float

    def as_json(self) -> dict[str, Any]:
        """The figures as what JSON can hold."""
        return {**self._asdict(), "interval": list(self.interval)}


def spread_of(values: Sequence[float], *, confidence: float = CONFIDENCE) -> Spread:
    """Mean, standard deviation and interval of at least two values."""
    mean, deviation = fmean(values), stdev(values)
    half = student_quantile(len(values) - 1, confidence) * deviation / math.sqrt(len(values))
    return Spread(mean, deviation, (mean - half, mean + half), confidence)


def student_quantile(degrees: int, confidence: float = CONFIDENCE) -> float:
    """The t with P(|T| < t) = ``confidence``.

    Args:
        degrees: degrees of freedom of T, at least 1.
        confidence: a probability between 0 and 1.
    """
    # By bisection of the angle: the probability rises with it, and it lies between 0 and pi / 2.
    low, high = 0.0, math.pi / 2
    while (middle := (low + high) / 2) not in (low, high):
        if _probability_within(middle, degrees) < confidence:
            low = middle
        else:
            high = middle
    return math.sqrt(degrees) * math.tan(middle)


def _probability_within(angle: float, degrees: int) -> float:
    """P(|T| < t) for t = sqrt(degrees) tan(angle).

    A finite sum (Abramowitz & Stegun 1964, Handbook of Mathematical Functions, 26.7.3 and 26.7.4).
    """
    odd = degrees % 2
    cosine = math.cos(angle)
    total, term = 0.0, cosine if odd else 1.0
    for k in range(2 + odd, degrees + 1, 2):
        total += term
        term *= (k - 1) / k * cosine**2
    series = math.sin(angle) * total
    return 2 / math.pi * (angle + series) if odd else series

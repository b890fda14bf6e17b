"""Mean, standard deviation and confidence interval of the accuracies that several seeds gave.

With n accuracies of mean m and sample standard deviation s = sqrt(sum (x - m)^2 / (n - 1)), the interval of
the mean is Student's (1908), which holds for as few as two values if they are about normally distributed. It
is taken on the scale of log-odds, L(m) = log(m / (1 - m)), where dL = dm / (m (1 - m)), and brought back:

    L(m) +- t s / (sqrt(n) m (1 - m)),        P(|T| < t) = 0.95 for Student's T of n - 1 degrees of freedom

So it lies within 0 and 1, as accuracies do. These are the logit limits of survey statistics (Korn & Graubard
1998, Survey Methodology 24, 193-201; SURVEYFREQ of SAS, svyciprop of R). Where they are near each other they
are m +- t s / sqrt(n), nearly.

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
        interval: the confidence interval of the mean, within 0 and 1.
        confidence: how sure the interval is.
    """

    mean: float
    standard_deviation: float
    interval: tuple[float, float]
    confidence: float

    def as_json(self) -> dict[str, Any]:
        """The figures as what JSON can hold."""
        return {**self._asdict(), "interval": list(self.interval)}


def spread_of(accuracies: Sequence[float], *, confidence: float = CONFIDENCE) -> Spread:
    """Mean, standard deviation and interval of at least two numbers from 0 to 1."""
    mean, deviation = fmean(accuracies), stdev(accuracies)
    half = student_quantile(len(accuracies) - 1, confidence) * deviation / math.sqrt(len(accuracies))
    return Spread(mean, deviation, _within_0_and_1(mean, half), confidence)


def _within_0_and_1(mean: float, half: float) -> tuple[float, float]:
    """The interval ``mean`` +- ``half``, taken on the scale of log-odds."""
    if half == 0:  # as where all are 0 or all are 1, which have no log-odds
        return mean, mean
    centre, half = math.log(mean / (1 - mean)), half / (mean * (1 - mean))
    # The inverse of the log-odds, in a form that does not overflow.
    return (1 + math.tanh((centre - half) / 2)) / 2, (1 + math.tanh((centre + half) / 2)) / 2


def student_quantile(degrees: int, confidence: float = CONFIDENCE) -> float:
    """The t with P(|T| < t) = ``confidence``.

    Args:
        degrees: degrees of freedom of T, at least 1.
        confidence: a probability between 0 and 1.
    """
    from scipy.special import stdtrit  # for runs of many seeds; the others need not wait for it

    return float(stdtrit(degrees, (1 + confidence) / 2))

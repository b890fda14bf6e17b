"""Mean, standard deviation and confidence interval of the accuracies of several seeds.

With n accuracies of mean m and sample standard deviation s = sqrt(sum (x - m)^2 / (n - 1)), the interval of
the mean is Student's (1908), which holds for as few as two values if they are about normally distributed. It
is computed on the scale of log-odds, L(m) = log(m / (1 - m)), where dL = dm / (m (1 - m)), and mapped back:

    L(m) +- t s / (sqrt(n) m (1 - m)),        P(|T| < t) = 0.95 for Student's T of n - 1 degrees of freedom

So it lies within 0 and 1, as accuracies do. These are the logit limits of survey statistics (Korn & Graubard
1998, Survey Methodology 24, 193-201; SURVEYFREQ of SAS, svyciprop of R). A narrow interval is nearly
m +- t s / sqrt(n).

The interval covers the choice of seeds, on the same test images. For the choice of test images there is
another interval: see `report/figures.py`.
"""

import math
from collections.abc import Sequence
from statistics import fmean, stdev
from typing import Any, NamedTuple

CONFIDENCE = 0.95


class Spread(NamedTuple):
    """Statistics of several values.

    Attributes:
        mean: their mean.
        standard_deviation: of the sample, with n - 1.
        interval: the confidence interval of the mean, within 0 and 1.
        confidence: the confidence level of the interval.
    """

    mean: float
    standard_deviation: float
    interval: tuple[float, float]
    confidence: float

    def as_json(self) -> dict[str, Any]:
        """Return the figures as JSON values."""
        return {**self._asdict(), "interval": list(self.interval)}


def spread_of(accuracies: Sequence[float], *, confidence: float = CONFIDENCE) -> Spread:
    """Compute mean, standard deviation and interval of at least two numbers from 0 to 1."""
    mean, deviation = fmean(accuracies), stdev(accuracies)
    half = student_quantile(len(accuracies) - 1, confidence) * deviation / math.sqrt(len(accuracies))
    return Spread(mean, deviation, _within_0_and_1(mean, half), confidence)


def _within_0_and_1(mean: float, half: float) -> tuple[float, float]:
    """Compute the interval ``mean`` +- ``half`` on the scale of log-odds."""
    if half == 0:  # also where all values are 0, or all are 1, which have no finite log-odds
        return mean, mean
    centre, half = math.log(mean / (1 - mean)), half / (mean * (1 - mean))
    # The inverse of the log-odds, in a form that does not overflow.
    return (1 + math.tanh((centre - half) / 2)) / 2, (1 + math.tanh((centre + half) / 2)) / 2


def student_quantile(degrees: int, confidence: float = CONFIDENCE) -> float:
    """Compute the t with P(|T| < t) = ``confidence``.

    Args:
        degrees: degrees of freedom of T, at least 1.
        confidence: a probability between 0 and 1.
    """
    from scipy.special import stdtrit  # imported here because only runs of many seeds need it

    return float(stdtrit(degrees, (1 + confidence) / 2))

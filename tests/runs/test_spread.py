"""Mean, standard deviation and interval of accuracies, against NumPy, tables and numerical integration."""

import json
import math

import numpy as np
import pytest

from lstm_jax.runs.spread import spread_of, student_quantile
from tests.helpers.runs import by_numpy

# The 97.5th percentiles that tables of Student's distribution print, by degrees of freedom.
TABLE = {
    1: 12.706, 2: 4.303, 3: 3.182, 4: 2.776, 5: 2.571, 6: 2.447, 7: 2.365, 8: 2.306, 9: 2.262, 10: 2.228,
    15: 2.131, 20: 2.086, 29: 2.045, 30: 2.042, 60: 2.000, 120: 1.980,
}  # fmt: skip


@pytest.mark.parametrize(("degrees", "t"), TABLE.items())
def test_student_s_quantiles_are_those_of_tables(degrees: int, t: float) -> None:
    assert round(student_quantile(degrees), 3) == t


@pytest.mark.parametrize("confidence", [0.5, 0.95, 0.999])
@pytest.mark.parametrize("degrees", [1, 2, 3, 4, 7, 30, 1023])
def test_the_density_within_a_quantile_adds_up(degrees: int, confidence: float) -> None:
    # The density itself, integrated by Gauss and Legendre over u of x = sinh(u): no sum of cosines.
    t = student_quantile(degrees, confidence)
    log_scale = math.lgamma((degrees + 1) / 2) - math.lgamma(degrees / 2) - math.log(degrees * math.pi) / 2
    nodes, weights = np.polynomial.legendre.leggauss(100)
    u = nodes * math.asinh(t)
    density = np.exp(log_scale - (degrees + 1) / 2 * np.log1p(np.sinh(u) ** 2 / degrees))
    integral = math.asinh(t) * np.sum(weights * density * np.cosh(u))
    assert integral == pytest.approx(confidence, abs=1e-9)


def test_spread_by_numpy() -> None:
    values = np.array([0.9826, 0.9816, 0.9814, 0.9831, 0.9820])
    found = spread_of(values.tolist())
    deviation = np.std(values, ddof=1)
    assert found.mean == pytest.approx(np.mean(values))
    assert found.standard_deviation == pytest.approx(deviation)
    assert found.interval == pytest.approx(by_numpy(values, TABLE[4]), abs=1e-6)
    # So narrow, it is Student's of the accuracies themselves to less than what is shown of it.
    half = TABLE[4] * deviation / np.sqrt(5)
    assert found.interval == pytest.approx((np.mean(values) - half, np.mean(values) + half), abs=1e-4)
    assert json.loads(json.dumps(found.as_json())) == found.as_json()


@pytest.mark.parametrize("count", [2, 3, 5])
def test_no_interval_leaves_the_possible(count: int) -> None:
    rng = np.random.default_rng(count)
    draws = [rng.uniform(low, 1, count) for low in rng.uniform(0, 1, 200)]
    draws += [1 - draw for draw in draws] + [np.array([0.0, 1.0]), np.array([1.0, 1.0]), np.array([1.0, 0.9])]
    plain = 0
    for values in draws:
        low, high = spread_of(values.tolist()).interval
        assert 0 <= low <= np.mean(values) <= high <= 1
        plain += np.mean(values) + TABLE[len(values) - 1] * np.std(values, ddof=1) / len(values) ** 0.5 > 1
    assert plain > 10  # that many of Student's own do
    assert spread_of([0.88, 0.91]).interval == pytest.approx(
        by_numpy(np.array([0.88, 0.91]), TABLE[1]), abs=1e-5
    )


def test_the_interval_holds_the_mean_as_often_as_it_says() -> None:
    # With z = 1.96 for t it would be 82 % of three values; the standard error of these shares is 0.3 %.
    draws = np.random.default_rng(0).normal(0.9, 0.01, (4000, 3)).tolist()
    intervals = [spread_of(values).interval for values in draws]
    assert np.mean([low < 0.9 < high for low, high in intervals]) == pytest.approx(0.95, abs=0.015)


def test_equal_values_have_no_spread() -> None:
    found = spread_of([0.25, 0.25])
    assert (found.mean, found.standard_deviation, found.interval) == (0.25, 0.0, (0.25, 0.25))

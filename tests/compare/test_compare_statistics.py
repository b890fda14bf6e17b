"""Medians, ratios and intervals: by hand, by others, and against distributions that are known."""

import statistics as stdlib_statistics

import numpy as np
import pytest

from lstm_jax.compare.statistics import (
    LEAST_ROUNDS,
    Ratio,
    mean_and_deviation,
    median,
    quartiles,
    ratio,
    slope,
)


def test_quartiles_ratios_and_slopes_by_hand() -> None:
    assert quartiles([5.0, 1.0, 4.0, 2.0, 3.0]) == (2, 3, 4)
    assert quartiles([7.0]) == (7, 7, 7)
    assert median([1.0, 2.0, 10.0]) == 2
    assert ratio([6.0] * 5, [3.0] * 5, paired=True) == (2, 2, 2)
    # Paired, each round has the same ratio; unpaired it is anything from 1/5 to 5 times that.
    rounds = [1.0, 2.0, 3.0, 4.0, 5.0]
    doubled = [2 * value for value in rounds]
    assert ratio(doubled, rounds, paired=True) == (2, 2, 2)
    apart = ratio(doubled, rounds, paired=False)
    assert apart.value == 2
    assert apart.low is not None
    assert apart.high is not None
    assert 2 / 5 <= apart.low < 1 < 3 < apart.high <= 2 * 5
    assert slope([1, 10, 100], [3.0, 300.0, 30000.0]) == pytest.approx(2)
    assert slope([64], [1.0]) is None
    assert slope([64, 64], [1.0, 2.0]) is None


def test_slope_and_deviation_as_others_compute_them() -> None:
    rng = np.random.default_rng(0)
    sizes, seconds = rng.uniform(1, 1000, 9), rng.lognormal(size=9)
    assert slope(list(sizes), list(seconds)) == pytest.approx(
        np.polyfit(np.log(sizes), np.log(seconds), 1)[0]
    )
    values = list(rng.normal(size=7))
    assert mean_and_deviation(values) == pytest.approx(
        (stdlib_statistics.mean(values), stdlib_statistics.stdev(values))
    )
    assert mean_and_deviation([3.0]) == (3, None)


def test_too_few_rounds_have_no_interval() -> None:
    for rounds in range(1, LEAST_ROUNDS):
        few = ratio([2.0] * rounds, [1.0] * rounds, paired=True)
        assert few == Ratio(2)
        assert (few.has_interval, few.above_one, few.below_one) == (False, False, False)
    assert ratio([2.0] * LEAST_ROUNDS, [1.0] * LEAST_ROUNDS, paired=True).above_one
    assert ratio([1.0] * LEAST_ROUNDS, [2.0] * LEAST_ROUNDS, paired=True).below_one
    # What is shown as "1.00 to 1.03" is no difference.
    assert not Ratio(1.02, 1.004, 1.03).above_one
    assert not Ratio(0.99, 0.97, 0.996).below_one


@pytest.mark.parametrize("rounds", [LEAST_ROUNDS, 15])
@pytest.mark.parametrize("paired", [True, False])
def test_intervals_hold_the_truth_as_often_as_they_say(paired: bool, rounds: int) -> None:
    rng = np.random.default_rng(1)
    times, truth = 200, 1.3
    held = 0
    for _ in range(times):
        under = rng.lognormal(sigma=0.1, size=rounds)
        over = truth * rng.lognormal(sigma=0.1, size=rounds)
        found = ratio(over.tolist(), under.tolist(), paired=paired)
        assert found.low is not None
        assert found.high is not None
        held += found.low <= truth <= found.high
    # 95 % of 200 are 190; three standard deviations of such a count are 9. The bootstrap of a median is
    # a little off on either side, which is what the rest is for.
    assert 178 <= held <= 200


def test_pairing_takes_out_what_slows_both_down() -> None:
    rng = np.random.default_rng(2)
    drift = rng.lognormal(sigma=0.5, size=15)
    under = (drift * rng.lognormal(sigma=0.01, size=15)).tolist()
    over = (1.1 * drift * rng.lognormal(sigma=0.01, size=15)).tolist()
    assert ratio(over, under, paired=True).above_one
    assert not ratio(over, under, paired=False).above_one
    assert ratio(over, under, paired=True) == ratio(over, under, paired=True)  # a fixed seed

"""Medians, ratios, intervals and rankings: by hand, by others, and against distributions that are known."""

import numpy as np
import pytest

from lstm_jax.compare.statistics import LEAST_ROUNDS, Ratio, median, quartiles, rank, ratio, slope


def test_quartiles_ratios_and_slopes_by_hand() -> None:
    assert quartiles([5.0, 1.0, 4.0, 2.0, 3.0]) == (2, 3, 4)
    assert quartiles([7.0]) == (7, 7, 7)
    assert median([1.0, 2.0, 10.0]) == 2
    # Each round has the same ratio.
    rounds = [1.0, 2.0, 3.0, 4.0, 5.0]
    assert ratio([2 * value for value in rounds], rounds) == (2, (2, 2))
    assert slope([1, 10, 100], [3.0, 300.0, 30000.0]) == pytest.approx(2)
    assert slope([64], [1.0]) is slope([64, 64], [1.0, 2.0]) is None


def test_too_few_rounds_have_no_interval_and_no_winner() -> None:
    for rounds in range(1, LEAST_ROUNDS):
        assert ratio([2.0] * rounds, [1.0] * rounds) == Ratio(2)
        assert rank({"a": [2.0] * rounds, "b": [1.0] * rounds}) == (("b", "a"), ())
    assert ratio([2.0] * 6, [1.0] * 5).interval is None  # other rounds
    assert rank({"a": [1.0] * 5}) == (("a",), ())  # alone
    # What is shown as "1.00 to 1.03" is no difference.
    assert not Ratio(1.02, (1.004, 1.03)).is_above_one
    assert Ratio(1.02, (1.006, 1.03)).is_above_one


@pytest.mark.parametrize("rounds", [LEAST_ROUNDS, 15])
def test_intervals_hold_the_truth_as_often_as_they_say(rounds: int) -> None:
    rng = np.random.default_rng(1)
    times, truth = 200, 1.3
    held = 0
    for _ in range(times):
        over, under = truth * rng.lognormal(sigma=0.1, size=rounds), rng.lognormal(sigma=0.1, size=rounds)
        low, high = ratio(over.tolist(), under.tolist()).interval or (0, 0)
        held += low <= truth <= high
    # 95 % of 200 are 190; three standard deviations of such a count are 9. The bootstrap of a median is
    # a little off on either side, which is what the rest is for.
    assert 178 <= held <= 200


def test_rounds_that_are_slow_for_all_take_nothing_from_a_difference() -> None:
    rng = np.random.default_rng(2)
    drift = rng.lognormal(sigma=0.5, size=15)
    under = (drift * rng.lognormal(sigma=0.01, size=15)).tolist()
    over = (1.1 * drift * rng.lognormal(sigma=0.01, size=15)).tolist()
    again = (drift * rng.lognormal(sigma=0.01, size=15)).tolist()
    assert ratio(over, under) == ratio(over, under)  # a fixed seed
    found = rank({"slower": over, "one": under, "another": again})
    assert set(found.first) == {"one", "another"}
    assert found.order[0] == found.first[0]
    assert found.order[2] == "slower"

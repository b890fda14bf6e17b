"""Processor cores, and numbers of threads."""

import os

import pytest

from lstm_jax.cores import fastest, thread_counts, usable_cores


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="this system has no such limits")
def test_only_usable_cores_count() -> None:
    before = os.sched_getaffinity(0)
    assert usable_cores() == tuple(sorted(before))
    try:
        os.sched_setaffinity(0, {min(before)})
        assert usable_cores() == (min(before),)
    finally:
        os.sched_setaffinity(0, before)


@pytest.mark.parametrize(
    ("cores", "counts"), [(1, [1]), (2, [1, 2]), (3, [1, 2, 3]), (6, [1, 2, 4, 6]), (8, [1, 2, 4, 8])]
)
def test_numbers_of_threads(cores: int, counts: list[int]) -> None:
    assert thread_counts(cores) == counts


def test_the_fastest_number_of_threads_is_found() -> None:
    now, runs = 0.0, []
    seconds = {1: 3.0, 2: 2.0, 4: 2.5}

    def run(count: int) -> None:
        nonlocal now
        first = count not in runs
        disturbed = runs.count(count) == 2  # once of three times, by something else
        runs.append(count)
        now += seconds[count] + 10 * first + 5 * disturbed

    assert fastest(run, [1, 2, 4], clock=lambda: now) == 2
    assert runs == [1, 2, 4] * 4  # they take turns
    runs.clear()
    assert fastest(run, [7], clock=lambda: now) == 7
    assert not runs  # nothing to choose

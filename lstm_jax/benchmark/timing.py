"""Timing: measurements of equal length that take turns, and their medians and quartiles.

What is timed is a function of a number of steps that returns when the last of them is done. The clock is
an argument, so that tests need not wait.
"""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, TypeAlias, TypeVar

import numpy as np

Key = TypeVar("Key")

# Takes so many steps, and returns when they are done.
Run: TypeAlias = Callable[[int], object]
Clock: TypeAlias = Callable[[], float]

# A cold start adds some tenths of a second to a first step. One that takes longer than this is that slow.
COLD_SECONDS = 5.0


class Timing(NamedTuple):
    """The measurements of one thing.

    Attributes:
        steps: steps in each measurement.
        seconds: seconds per step, one number for each round.
    """

    steps: int
    seconds: tuple[float, ...]

    @property
    def quartiles(self) -> tuple[float, float, float]:
        """The quartiles of the seconds per step; the second is the median."""
        low, median, high = np.percentile(self.seconds, [25, 50, 75])
        return float(low), float(median), float(high)

    @property
    def median(self) -> float:
        """The median of the seconds per step."""
        return self.quartiles[1]


def steps_for(run: Run, *, seconds: float, clock: Clock = time.perf_counter) -> int:
    """How many steps fill a measurement of ``seconds``; at least one. Warms up on the way.

    Args:
        run: what is to be timed.
        seconds: the time to fill.
        clock: seconds since any moment.
    """
    run(0)  # compiles, where there is something to compile
    steps, elapsed = 1, _elapsed(run, 1, clock)
    if elapsed < COLD_SECONDS:
        elapsed = _elapsed(run, 1, clock)
    while elapsed < seconds:
        # A tenth more, so that the next try is likely the last; a hundredfold at most, for a
        # measurement of a few microseconds says little.
        wanted = math.ceil(1.1 * steps * seconds / max(elapsed, 1e-9))
        steps = max(steps + 1, min(wanted, 100 * steps))
        elapsed = _elapsed(run, steps, clock)
    return steps


def take_turns(
    runs: Mapping[Key, Run], *, rounds: int, seconds: float, clock: Clock = time.perf_counter
) -> dict[Key, Timing]:
    """Time every run once in each round, so that whatever slows the machine down meets all of them.

    Args:
        runs: what is to be timed.
        rounds: how often.
        seconds: the shortest time of a measurement.
        clock: seconds since any moment.
    """
    steps = {key: steps_for(run, seconds=seconds, clock=clock) for key, run in runs.items()}
    samples: dict[Key, list[float]] = {key: [] for key in runs}
    for index in range(rounds):
        for key in turn(list(runs), index, rounds):
            if steps[key] > 1:
                # Untimed: what was timed before has left its data in the caches, and perhaps threads that
                # still spin. A single long step does not notice.
                runs[key](math.ceil(steps[key] / 10))
            samples[key].append(_elapsed(runs[key], steps[key], clock) / steps[key])
    return {key: Timing(steps[key], tuple(samples[key])) for key in runs}


def turn(keys: Sequence[Key], index: int, rounds: int) -> list[Key]:
    """The order of round ``index``: each begins elsewhere, and every other one runs backwards.

    Rotation alone would give everybody the same neighbour in all rounds.
    """
    first = index * len(keys) // rounds
    order = [*keys[first:], *keys[:first]]
    return order[::-1] if index % 2 else order


def _elapsed(run: Run, steps: int, clock: Clock) -> float:
    start = clock()
    run(steps)
    return clock() - start

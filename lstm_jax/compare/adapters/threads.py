"""How many threads suit a framework that does not choose by itself: found by trial, as its users would."""

import os
import time
from collections.abc import Callable

# Trials of each number of threads, which take turns; the best counts, for what disturbs only adds time.
TRIALS = 3


def usable_cores() -> int:
    """The number of processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def thread_counts(most: int) -> list[int]:
    """The numbers of threads to try: the powers of two below the number of cores, and that number."""
    return [*(2**power for power in range(most.bit_length()) if 2**power < most), most]


def fastest(
    run: Callable[[int], object],
    counts: list[int],
    *,
    clock: Callable[[], float] = time.perf_counter,
) -> int:
    """The number of threads with which something takes the least time.

    Args:
        run: does it with so many threads.
        counts: the numbers to try.
        clock: seconds since any moment.
    """
    if len(counts) == 1:
        return counts[0]
    best = dict.fromkeys(counts, float("inf"))
    for count in counts:
        run(count)  # untimed: threads start, and programs are compiled
    for _ in range(TRIALS):
        for count in counts:
            start = clock()
            run(count)
            best[count] = min(best[count], clock() - start)
    return min(counts, key=best.__getitem__)


def in_words(count: int) -> str:
    """A number of threads for a table."""
    return "1 thread" if count == 1 else f"{count} threads"

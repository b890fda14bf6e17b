"""Processor cores that this process may use, and how many threads suit what does not choose by itself."""

import os
import time
from collections.abc import Callable, Sequence

# Trials of each number of threads, which take turns; the best counts, for what disturbs only adds time.
TRIALS = 3

# Where a process cannot be kept to some cores, `usable_cores` counts all.
CAN_BE_LIMITED = hasattr(os, "sched_setaffinity")


def usable_cores() -> tuple[int, ...]:
    """The numbers of the processor cores that this process may use."""
    return tuple(sorted(os.sched_getaffinity(0))) if CAN_BE_LIMITED else tuple(range(os.cpu_count() or 1))


def thread_counts(most: int) -> list[int]:
    """The numbers of threads to try: the powers of two below the number of cores, and that number."""
    return [*(2**power for power in range(most.bit_length()) if 2**power < most), most]


def fastest(
    run: Callable[[int], object], counts: Sequence[int], *, clock: Callable[[], float] = time.perf_counter
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

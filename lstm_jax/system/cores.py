"""Processor cores that this process may use, and how many threads suit what does not choose by itself."""

import math
import os
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

# Trials of each number of threads, which take turns; the best counts, for what disturbs only adds time.
TRIALS = 3

# Where a process cannot be kept to some cores, `usable_cores` counts all.
CAN_BE_LIMITED = hasattr(os, "sched_setaffinity")


def usable_cores(root: Path = Path("/")) -> tuple[int, ...]:
    """The numbers of the processor cores that this process may use at once.

    They are no more than the time that a container is granted is worth: with more threads, all of them
    would be stopped together when it is used up.

    Args:
        root: where ``proc`` and ``sys`` are.
    """
    cores = tuple(sorted(os.sched_getaffinity(0))) if CAN_BE_LIMITED else tuple(range(os.cpu_count() or 1))
    return cores[: math.ceil(min([len(cores), *_quotas(root)]))]


def _quotas(root: Path) -> Iterator[float]:
    """How many cores' time each control group grants that this process is in (Linux, cgroups(7)).

    A group is granted no more than the groups around it. In a container, the name of its own group may be
    that of the host, where no such folder can be seen, and the container's group lies at the root.
    """
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:  # another system
        return
    mounted = root / "sys/fs/cgroup"
    for line in lines:
        _, controllers, group = line.split(":", 2)
        if not controllers:  # version 2: one tree for all controllers
            trees, read = [mounted], _quota_of_version_2
        elif "cpu" in controllers.split(","):  # version 1: a tree for some, under one name or the other
            trees, read = [mounted / controllers, mounted / "cpu"], _quota_of_version_1
        else:
            continue
        names = [name for name in group.split("/") if name]
        for folder in (tree.joinpath(*names[:depth]) for tree in trees for depth in range(len(names) + 1)):
            try:
                cores = read(folder)
            except (OSError, ValueError, ZeroDivisionError):  # nothing there, or nothing that is known
                continue
            if cores > 0:
                yield cores


def _quota_of_version_2(folder: Path) -> float:
    """From "150000 100000", both in microseconds, or "max 100000"."""
    quota, period = (folder / "cpu.max").read_text().split()
    return math.inf if quota == "max" else int(quota) / int(period)


def _quota_of_version_1(folder: Path) -> float:
    """From two files; a quota of -1 is none."""
    quota, period = (int((folder / f"cpu.cfs_{name}_us").read_text()) for name in ("quota", "period"))
    return math.inf if quota < 0 else quota / period


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

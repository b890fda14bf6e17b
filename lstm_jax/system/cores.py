"""The processor cores that this process may use, and the fastest number of threads."""

import math
import os
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

# Trials of each number of threads, which take turns. The best one counts: disturbances only add time.
TRIALS = 3

# Whether a process can be limited to some cores. If not, `usable_cores` counts all.
CAN_BE_LIMITED = hasattr(os, "sched_setaffinity")


def usable_cores(root: Path = Path("/")) -> tuple[int, ...]:
    """Return the numbers of the processor cores that this process may use at once.

    There are no more of them than the processor time of its container allows. With more threads, the system
    would stop all of them together once that time is used up.

    Args:
        root: the folder of ``proc`` and ``sys``.
    """
    cores = tuple(sorted(os.sched_getaffinity(0))) if CAN_BE_LIMITED else tuple(range(os.cpu_count() or 1))
    return cores[: math.ceil(min([len(cores), *_quotas(root)]))]


def _quotas(root: Path) -> Iterator[float]:
    """Yield the number of cores that each control group of this process grants (Linux, cgroups(7)).

    A group has no more than the groups that contain it. In a container, the name of the group may be that of
    the host. Then no such folder is visible, and the container's group is at the root.
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
            except (OSError, ValueError, ZeroDivisionError):  # no such file, or an unknown format
                continue
            if cores > 0:
                yield cores


def _quota_of_version_2(folder: Path) -> float:
    """Read the quota in cores from "150000 100000", both in microseconds, or "max 100000"."""
    quota, period = (folder / "cpu.max").read_text().split()
    return math.inf if quota == "max" else int(quota) / int(period)


def _quota_of_version_1(folder: Path) -> float:
    """Read the quota in cores from two files; -1 stands for no limit."""
    quota, period = (int((folder / f"cpu.cfs_{name}_us").read_text()) for name in ("quota", "period"))
    return math.inf if quota < 0 else quota / period


def thread_counts(most: int) -> list[int]:
    """Return the numbers of threads to try: the powers of two below the number of cores, and that number."""
    return [*(2**power for power in range(most.bit_length()) if 2**power < most), most]


def fastest(
    run: Callable[[int], object], counts: Sequence[int], *, clock: Callable[[], float] = time.perf_counter
) -> int:
    """Return the number of threads with which a function takes the least time.

    Args:
        run: the function, of the number of threads.
        counts: the numbers to try.
        clock: returns seconds since any fixed moment.
    """
    if len(counts) == 1:
        return counts[0]
    best = dict.fromkeys(counts, float("inf"))
    for count in counts:
        run(count)  # untimed, because threads start and programs are compiled
    for _ in range(TRIALS):
        for count in counts:
            start = clock()
            run(count)
            best[count] = min(best[count], clock() - start)
    return min(counts, key=best.__getitem__)

"""Processor cores, and numbers of threads."""

import os
from pathlib import Path

import pytest

from lstm_jax.system import cores
from lstm_jax.system.cores import fastest, thread_counts, usable_cores


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="this system has no such limits")
def test_only_usable_cores_count(tmp_path: Path) -> None:
    before = os.sched_getaffinity(0)
    assert usable_cores(tmp_path) == tuple(sorted(before))  # no control groups there
    try:
        os.sched_setaffinity(0, {min(before)})
        assert usable_cores(tmp_path) == (min(before),)
    finally:
        os.sched_setaffinity(0, before)


# Of a machine with 16 cores: what /proc/self/cgroup says, files under /sys/fs/cgroup, and the cores to use.
GROUPS = {
    "no limit": ("0::/\n", {"cpu.max": "max 100000\n"}, 16),
    "version 2": ("0::/\n", {"cpu.max": "300000 100000\n"}, 3),
    "another period": ("0::/\n", {"cpu.max": "100000 50000\n"}, 2),
    "one and a half": ("0::/\n", {"cpu.max": "150000 100000\n"}, 2),
    "half of one": ("0::/\n", {"cpu.max": "50000 100000\n"}, 1),
    "more than there are": ("0::/\n", {"cpu.max": "9900000 100000\n"}, 16),
    "nested, the outer less": (
        "0::/pod/job/step\n",
        {
            "pod/cpu.max": "400000 100000\n",
            "pod/job/cpu.max": "max 100000\n",
            "pod/job/step/cpu.max": "800000 100000\n",
        },
        4,
    ),
    "nested, the inner less": (
        "0::/pod/job\n",
        {"pod/cpu.max": "900000 100000\n", "pod/job/cpu.max": "500000 100000\n"},
        5,
    ),
    "the neighbour's": ("0::/pod/job\n", {"pod/other/cpu.max": "100000 100000\n"}, 16),
    "the host's name": ("0::/docker/0123\n", {"cpu.max": "700000 100000\n"}, 7),
    "version 1": (
        "9:memory:/\n4:cpu,cpuacct:/docker/a:b\n1:name=systemd:/\n",
        {
            "cpu,cpuacct/docker/a:b/cpu.cfs_quota_us": "600000\n",
            "cpu,cpuacct/docker/a:b/cpu.cfs_period_us": "100000\n",
        },
        6,
    ),
    "version 1, in its container": (
        "4:cpuacct,cpu:/docker/0123\n0::/\n",
        {"cpu/cpu.cfs_quota_us": "250000\n", "cpu/cpu.cfs_period_us": "50000\n"},
        5,
    ),
    "version 1, no limit": (
        "1:cpu:/\n",
        {"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"},
        16,
    ),
    "another controller of version 1": (
        "1:cpuset:/\n2:cpuacct:/\n",
        {"cpu/cpu.cfs_quota_us": "100000\n", "cpu/cpu.cfs_period_us": "100000\n"},
        16,
    ),
    "unknown": ("0::/\n", {"cpu.max": "several\n"}, 16),
    "no period": ("0::/\n", {"cpu.max": "100000 0\n"}, 16),
    "nothing granted": ("0::/\n", {"cpu.max": "0 100000\n"}, 16),
}


@pytest.mark.parametrize(("cgroup", "files", "count"), GROUPS.values(), ids=GROUPS)
def test_no_more_cores_than_a_container_has_time_on(
    cgroup: str, files: dict[str, str], count: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/self/cgroup").write_text(cgroup)
    for name, content in files.items():
        path = tmp_path / "sys/fs/cgroup" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    numbers = range(3, 19)
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(numbers))
    monkeypatch.setattr(cores, "CAN_BE_LIMITED", True)
    assert usable_cores(tmp_path) == tuple(numbers[:count])


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

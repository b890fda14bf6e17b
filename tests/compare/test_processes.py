"""The processes of frameworks: what becomes of those that fail, what they have for themselves."""

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from lstm_jax.compare import parity
from lstm_jax.compare.frameworks import Framework
from lstm_jax.compare.processes import FrameworkError, Process
from lstm_jax.compare.work import initial_params, row_batches
from lstm_jax.system.cores import usable_cores
from tests.helpers.fake_frameworks import FRAMEWORKS, SIZE, few_digits

PARAMS = initial_params(SIZE, seed=0)
BATCHES = row_batches(few_digits(), SIZE, steps=2)


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[[str], Process]]:
    """Starts fake frameworks, and ends them after the test."""
    processes: list[Process] = []

    def start(name: str) -> Process:
        processes.append(Process(FRAMEWORKS[name], cores=usable_cores()[:1], log=tmp_path / "log"))
        processes[-1].call("build", SIZE, PARAMS, 0.1)
        processes[-1].call("load", "many", *BATCHES)
        return processes[-1]

    yield start
    for process in processes:
        process.close()


def test_a_process_that_ends_is_told_with_its_last_words(start: Callable[[str], Process]) -> None:
    process = start("dies")
    with pytest.raises(FrameworkError, match=r"^its process ended with code 3: the last words$"):
        process.call("train", "many")


def test_a_process_that_hangs_is_ended(start: Callable[[str], Process]) -> None:
    process = start("hangs")
    began = time.monotonic()
    with pytest.raises(FrameworkError, match=r"^train took longer than 0\.2 s$"):
        process.call("train", "many", seconds=0.2)
    assert time.monotonic() - began < 60


def test_errors_and_what_is_printed_do_not_get_among_the_answers(tmp_path: Path) -> None:
    framework = Framework("not there", "tests.no_such_module:Nothing", ("", ""))
    with Process(framework, cores=(), log=tmp_path / "log") as process:
        for _ in range(2):  # it goes on
            with pytest.raises(FrameworkError, match=r"^ModuleNotFoundError: No module named 'tests"):
                process.call("build", SIZE, {}, 0.1)
        assert process.call("memory").peak != 0
    assert "Traceback" in (tmp_path / "log").read_text()


def test_a_framework_that_prints_computes_on_its_core_with_its_own_memory(
    start: Callable[[str], Process], tmp_path: Path
) -> None:
    ours = np.ones(400_000_000, np.uint8)  # more than the fake has
    process = start("large")
    before = process.call("memory")
    process.call("forget_memory")
    after = process.call("memory")
    # Not that of the process that starts it, and not that of what was before.
    assert before.now + 50e6 < before.peak < ours.size
    assert before.now - 50e6 < after.peak < before.peak - 50e6
    found = parity.parity_of(process, SIZE, PARAMS, BATCHES, parity.verdict(PARAMS, BATCHES))
    assert found.why_different is None
    assert "and one of its C++ part" in (tmp_path / "log").read_text()
    status = Path(f"/proc/{process._popen.pid}/status").read_text()
    assert f"Cpus_allowed_list:\t{usable_cores()[0]}\n" in status


def test_the_process_of_a_framework_has_nothing_of_jax_in_it() -> None:
    """Or PyTorch's start and memory would be those of two frameworks."""
    code = (
        "import sys, lstm_jax.compare.worker as w; w.Worker('a:B'); "
        "print([m for m in ('jax', 'flax', 'tyro', 'torch', 'tensorflow', 'keras') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"

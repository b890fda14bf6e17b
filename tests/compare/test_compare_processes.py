"""The processes of a comparison, with frameworks of known faults."""

import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from lstm_jax.compare.options import Compare

from lstm_jax.compare.adapter import Adapter
from lstm_jax.compare.frameworks import Framework
from lstm_jax.compare.processes import FrameworkError, Process, several_at_once
from lstm_jax.compare.work import Examples, initial_params, row_batches
from lstm_jax.compare.worker import INFER, LATENCY, LATENCY_CALLS, TRAIN, Worker
from tests.helpers.fake_frameworks import FRAMEWORKS
from tests.helpers.small_comparison import SIZE, StartProcess, check


def test_what_settles_a_measurement_is_of_its_kind(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    class Recorder(Adapter):
        def __init__(self) -> None:
            pass

        def load(self, images: Any, labels: Any) -> Any:
            return images

        def train(self, batches: Any) -> float:
            calls.append(("train", batches.shape))
            return 0.0

        def infer(self, batches: Any) -> Any:
            calls.append(("infer", batches.shape))
            return np.zeros((*batches.shape[:2], 10), np.float32)

    worker = Worker("nowhere:Nothing")
    monkeypatch.setattr(worker, "_adapter", Recorder())
    monkeypatch.setattr("lstm_jax.compare.worker.SETTLE_SECONDS", 1e-4)
    shapes = {"chunk": (6, 4, 5, 28), "first": (1, 4, 5, 28), "single": (1, 1, 5, 28)}
    for name, shape in shapes.items():
        worker.load(name, np.zeros(shape, np.float32), np.zeros(shape[:2], np.int32))
    for measure, name, settles, call, repeats in [
        (TRAIN, "chunk", "first", "train", 1),
        (INFER, "chunk", "first", "infer", 1),
        (LATENCY, "single", "single", "infer", LATENCY_CALLS),
    ]:
        calls.clear()
        worker.time(measure, name)
        settled, measured = calls[:-repeats], calls[-repeats:]
        assert set(settled) == {(call, shapes[settles])}
        assert measured == [(call, shapes[name])] * repeats


def test_what_a_framework_raises_is_told_in_one_line(start: StartProcess, digits: Examples) -> None:
    with pytest.raises(FrameworkError, match=r"^RuntimeError: no kernel for this$"):
        check(start("raises"), digits)


def test_a_process_that_ends_is_told_with_its_last_words(start: StartProcess, digits: Examples) -> None:
    with pytest.raises(FrameworkError, match=r"^its process ended with code 3: the last words$"):
        check(start("dies"), digits)


@pytest.mark.parametrize("most", [1, 2, 5])
def test_several_at_once_are_no_more_than_that(most: int) -> None:
    running, seen, begun = set[str](), [], []

    together = threading.Barrier(most, timeout=60)

    def begin(name: str) -> Callable[[], str]:
        begun.append(name)
        assert threading.current_thread() is threading.main_thread()
        running.add(name)
        seen.append(len(running))

        def work() -> str:
            if int(name) < most:
                together.wait()
            time.sleep(0.01 * (5 - int(name)))
            if name == "3":
                raise FrameworkError("three")
            return name * 2

        return work

    found = {}
    for name, future in several_at_once("01234", begin, most=most):
        running.remove(name)
        found[name] = future
    assert begun == list("01234")
    assert max(seen) == most
    assert {name: future.result() for name, future in found.items() if name != "3"} == {
        "0": "00", "1": "11", "2": "22", "4": "44"
    }  # fmt: skip
    with pytest.raises(FrameworkError, match="three"):
        found["3"].result()
    assert most > 1 or list(found) == begun


def test_stopping_does_not_wait_for_what_is_under_way() -> None:
    began = time.monotonic()
    ended = threading.Event()
    several = several_at_once("01", lambda name: lambda: name == "0" or ended.wait(60), most=2)
    assert next(several)[0] == "0"
    several.close()
    assert time.monotonic() - began < 30
    ended.set()


def test_a_process_that_hangs_is_ended(start: StartProcess, digits: Examples) -> None:
    process = start("hangs")
    process.call("build", SIZE, initial_params(SIZE, seed=0), 0.1)
    process.call("load", "many", *row_batches(digits, SIZE, steps=2))
    began = time.monotonic()
    with pytest.raises(FrameworkError, match=r"^train took longer than 0.2 s$"):
        process.call("train", "many", seconds=0.2)
    assert time.monotonic() - began < 60


def test_what_a_framework_prints_does_not_get_among_the_answers(
    start: StartProcess, digits: Examples
) -> None:
    assert check(start("noisy"), digits).why_different is None


def test_a_missing_module_is_an_error_of_the_framework(tmp_path: Path) -> None:
    framework = Framework("not there", "tests.no_such_module:Nothing")
    with (
        Process(framework, cores=(), log=tmp_path / "log") as process,
        pytest.raises(FrameworkError, match=r"No module named 'tests\.no_such_module'"),
    ):
        process.call("build", SIZE, {}, 0.1)


def test_the_cores_are_limited(start: StartProcess, tmp_path: Path) -> None:
    cores = Compare(threads=1).cores()
    assert len(cores) == 1
    with Process(FRAMEWORKS["right"], cores=cores, log=tmp_path / "log") as process:
        process.call("build", SIZE, initial_params(SIZE, seed=0), 0.1)
        pid = process._popen.pid
        found = Path(f"/proc/{pid}/status").read_text()
        assert f"Cpus_allowed_list:\t{cores[0]}\n" in found


def test_the_process_of_a_framework_has_nothing_of_jax_in_it() -> None:
    """Or PyTorch's start and memory would be those of two frameworks."""
    code = (
        "import sys, lstm_jax.compare.worker as w; w.Worker('a:B'); "
        "print([m for m in ('jax', 'flax', 'tyro', 'torch', 'tensorflow', 'keras') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_memory_is_that_of_the_framework(start: StartProcess) -> None:
    """Not that of the process that starts it, and not that of what was before."""
    ours = np.ones(400_000_000, np.uint8)  # more than any of the fakes has
    process = start("large")
    process.call("build", SIZE, initial_params(SIZE, seed=0), 0.1)
    before = process.call("memory")
    process.call("forget_memory")
    after = process.call("memory")
    assert before.now + 50e6 < before.peak < ours.size
    assert before.now - 50e6 < after.peak < before.peak - 50e6

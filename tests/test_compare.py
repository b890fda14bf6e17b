"""The harness of the comparison, with frameworks of known speed and known faults."""

import dataclasses
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lstm_jax.benchmark.size import Size
from lstm_jax.compare import beginning, comparison, judge, measuring, parity, work
from lstm_jax.compare.adapter import Adapter, Decay
from lstm_jax.compare.comparison import Effort, compare
from lstm_jax.compare.frameworks import FRAMEWORKS as REAL
from lstm_jax.compare.frameworks import Framework
from lstm_jax.compare.learning import Course, course_of, learn
from lstm_jax.compare.options import Compare
from lstm_jax.compare.processes import FrameworkError, Process, several_at_once
from lstm_jax.compare.results import Results
from lstm_jax.compare.work import Examples, initial_params, row_batches
from lstm_jax.compare.worker import INFER, LATENCY, LATENCY_CALLS, TRAIN, Worker
from lstm_jax.config import recipe_config
from lstm_jax.cores import usable_cores
from lstm_jax.data import epoch_order
from lstm_jax.errors import ConfigError
from tests.fake_frameworks import COMPILE_SECONDS, FRAMEWORKS, INFER_SECONDS, STEP_SECONDS

SIZE = Size(hidden=3, batch=4, time=5, inputs=28)
OPTIONS = Compare(hidden_size=3, batch_size=4, time_steps=5, scaling=False)
EFFORT = Effort(curve_steps=4, steps=3, rounds=3, scaling_steps=2, scaling_rounds=2)


@pytest.fixture
def few_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """At the tests' sizes a call would take a thousand."""
    monkeypatch.setattr(measuring, "MOST_STEPS", 5)


@pytest.fixture(scope="module")
def digits() -> Examples:
    """Not digits, but as many classes, and every row differs."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (60, 28, 28), np.uint8)
    return Examples(images, rng.integers(0, 10, 60, np.int32))


StartProcess = Callable[[str], Process]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[StartProcess]:
    """Starts fake frameworks, and ends them after the test."""
    processes: list[Process] = []

    def start(name: str) -> Process:
        processes.append(Process(FRAMEWORKS[name], cores=(), log=tmp_path / "log"))
        return processes[-1]

    yield start
    for process in processes:
        process.close()


def check(process: Process, digits: Examples) -> Any:
    params, batches = initial_params(SIZE, seed=0), row_batches(digits, SIZE, steps=4)
    right = parity.verdict(params, batches)
    return parity.compare_training(process, SIZE, params, batches, right)


# --------------------------------------------------------------------------------------------------
# Parity
# --------------------------------------------------------------------------------------------------


def test_one_that_computes_the_same_is_found_the_same(start: StartProcess, digits: Examples) -> None:
    found = check(start("right"), digits)
    assert found.why_different is None
    assert (found.logits, found.loss, found.gradients, found.curve) == (0, 0, 0, 0)
    assert found.chunk < 1e-12
    assert len(found.losses) == 4


@pytest.mark.parametrize(
    ("name", "beyond"),
    [
        ("swapped", ["logits", "loss", "gradients", "curve"]),
        ("optimizer", ["curve"]),
        ("forgetful", ["chunk"]),
        ("inference-off", ["inference"]),
        ("nan", ["loss off by inf"]),
    ],
)
def test_one_that_computes_something_else_is_caught(
    start: StartProcess, digits: Examples, name: str, beyond: list[str]
) -> None:
    found = check(start(name), digits)
    for word in beyond:
        assert word in (found.why_different or "")


def test_wrong_names_and_shapes_are_different() -> None:
    right = {"a": np.ones((2, 3)), "b": {"c": np.ones(4)}}
    assert parity._tree_error(right, right) == 0
    assert parity._tree_error({"a": np.ones((2, 3))}, right) == float("inf")
    assert parity._tree_error({"a": np.ones((3, 2)), "b": {"c": np.ones(4)}}, right) == float("inf")
    off = {"a": np.ones((2, 3)), "b": {"c": np.array([1, 1, 1.5, 1])}}
    assert parity._tree_error(off, right) == 0.5


# --------------------------------------------------------------------------------------------------
# Processes
# --------------------------------------------------------------------------------------------------


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


# --------------------------------------------------------------------------------------------------
# The whole
# --------------------------------------------------------------------------------------------------


def compared(
    names: list[str], digits: Examples, logs: Path, *, options: Compare = OPTIONS, effort: Effort = EFFORT
) -> tuple[Results, list[Results], list[str]]:
    saved: list[Results] = []
    said: list[str] = []
    chosen = {name: FRAMEWORKS[name] for name in names}
    results = compare(
        options, chosen, digits, digits, logs=logs, save=saved.append, report=said.append, effort=effort
    )
    return results, saved, said


@pytest.mark.usefixtures("few_steps")
@pytest.mark.parametrize("at_once", [1, 3])
def test_the_times_are_right_and_what_is_wrong_is_not_timed(
    digits: Examples, tmp_path: Path, at_once: int
) -> None:
    names = ["right", "slow", "swapped", "raises", "dies-later", "missing", "inference"]
    effort = dataclasses.replace(EFFORT, at_once=at_once)
    results, saved, said = compared(names, digits, tmp_path / "logs", effort=effort)
    assert results.started_at_once == at_once
    found = results.frameworks

    right, slow = found["right"].speed, found["slow"].speed
    assert right is not None
    assert slow is not None
    assert right.train_seconds == (STEP_SECONDS,) * EFFORT.rounds
    assert slow.train_seconds == (3 * STEP_SECONDS,) * EFFORT.rounds
    assert right.infer_seconds == slow.infer_seconds == (INFER_SECONDS,) * EFFORT.rounds
    assert right.latency_seconds == (INFER_SECONDS,) * EFFORT.rounds
    assert right.first_step_seconds == COMPILE_SECONDS + STEP_SECONDS
    training = "1 thread" if len(usable_cores()) == 1 else "2 threads"
    assert right.settings == {"train": training, "infer": "1 thread", "latency": "1 thread"}
    # The seconds of the processor are those of the world.
    assert all(0 <= seconds < STEP_SECONDS for seconds in right.train_cpu_seconds)
    assert 0 < right.start_seconds < 60
    assert right.peak_memory is not None
    assert right.peak_memory >= (right.start_memory or 0) > 1e6
    assert results.peak is not None
    assert len(results.peak.seconds) == EFFORT.rounds

    assert found["swapped"].speed is None
    assert (found["swapped"].why_not or "").startswith("different: logits off by")
    assert found["raises"].why_not == "RuntimeError: no kernel for this"
    assert (found["dies-later"].why_not or "").startswith("its process ended with code 4")
    assert found["dies-later"].speed is None
    assert found["missing"].why_not == "not installed: pip install no-such-pip-name"
    assert "missing: not installed: pip install no-such-pip-name" in said

    inference = found["inference"]
    assert inference.why_not is None
    assert inference.speed is not None
    assert inference.speed.train_seconds == ()
    assert inference.speed.first_step_seconds is None
    assert len(inference.speed.latency_seconds) == EFFORT.rounds
    # What the broken ones printed is kept, and nothing else.
    logs = {path.stem for path in (tmp_path / "logs").iterdir()}
    assert logs == {"swapped", "raises", "dies-later"}
    assert "no kernel" in (tmp_path / "logs" / "raises.log").read_text()
    assert results.steps_per_call == 5
    assert results.test_images == 60
    # What was known was kept at each stage: first parity of one after the other, in any order.
    before = [each for each in saved if not each.steps_per_call]
    assert sum(one.parity is not None for one in before[0].frameworks.values()) == 1
    assert before[-1].frameworks["right"].parity is not None
    assert before[-1].frameworks["right"].speed is None


@pytest.mark.usefixtures("few_steps")
def test_curves_and_learning(digits: Examples, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(comparison, "CURVES", {"hidden": (2,), "batch": (3, 8)})
    options = dataclasses.replace(OPTIONS, time_steps=28, scaling=True, epochs=2, seeds=2)
    results, _, _ = compared(["right", "inference"], digits, tmp_path / "logs", options=options)

    assert [curve.axis for curve in results.scaling] == ["hidden", "batch"]
    assert [point.hidden for point in results.scaling[0].points] == [2, 3]
    assert [point.batch for point in results.scaling[1].points] == [3, 4, 8]
    for curve in results.scaling:
        for point in curve.points:
            # The other does not train.
            assert point.seconds == {"right": (STEP_SECONDS,) * EFFORT.scaling_rounds}

    runs = results.frameworks["right"].learning
    assert [run.seed for run in runs] == [0, 1]
    steps = 60 // 4 // 3
    assert runs[0].steps == tuple(steps * part for part in range(1, 7))
    assert runs[0].seconds == tuple(STEP_SECONDS * steps for steps in runs[0].steps)
    assert runs[0].first_step_seconds == COMPILE_SECONDS
    assert runs[0].accuracy != runs[1].accuracy
    assert results.frameworks["inference"].learning == ()
    assert results.epochs == 2


def test_learning_is_that_of_the_judge(start: StartProcess, digits: Examples) -> None:
    """The same accuracy as a loop written out here: no batch is left out, taken twice or out of order."""
    size = SIZE._replace(time=28)
    course = course_of("tutorial", size, digits, epochs=2)
    assert course is not None
    found = learn(lambda: start("right"), size, digits, digits, seed=3, course=course)

    weights = judge.weights_of(initial_params(size, seed=3))
    optimizer = judge.start_adam(weights)
    expected = []
    for epoch in range(2):
        order = np.random.Generator(np.random.Philox(key=[3, epoch])).permutation(60)
        for step in range(15):
            chosen = order[4 * step : 4 * step + 4]
            images = digits.images[chosen] / np.float32(255)
            _, _, gradient = judge.loss_and_gradient(weights, images, digits.labels[chosen])
            weights, optimizer = judge.adam_step(weights, gradient, optimizer, learning_rate=0.01)
            if step % 5 == 4:
                logits, _ = judge.logits_and_states(weights, digits.images / np.float32(255))
                expected.append(np.mean(np.argmax(logits, axis=1) == digits.labels))
    np.testing.assert_allclose(found.accuracy, expected, rtol=0, atol=1e-9)
    first_best = expected.index(max(expected))
    assert found.seconds_to(max(expected)) == found.seconds[first_best]
    from_start = found.start_seconds + COMPILE_SECONDS + found.seconds[first_best]
    assert found.seconds_from_start_to(max(expected)) == from_start
    assert found.seconds_to(1.1) is None
    assert found.seconds_from_start_to(1.1) is None


def test_a_recipe_of_steps_goes_over_the_ends_of_epochs(start: StartProcess, digits: Examples) -> None:
    """60 digits in batches of 4 are 15 steps an epoch."""
    size = SIZE._replace(time=28)
    course = course_of("fast", size, digits, epochs=5)
    recipe = recipe_config("fast")
    decay = Decay(warmup=125, total=2500, clip_norm=1.0)
    assert course == Course(10, 250, 15, recipe.learning_rate, decay)
    order = np.concatenate([epoch_order(3, epoch, 60) for epoch in range(3)])
    for first, steps in ((0, 15), (7, 30), (14, 2), (15, 1), (29, 16)):
        found = work.epoch_batches(digits, size, seed=3, first=first, steps=steps, steps_per_epoch=15)
        expected = digits.labels[order[4 * first : 4 * (first + steps)].reshape(steps, 4)]
        np.testing.assert_array_equal(found.labels, expected)
    short = course._replace(parts=2, steps=10, decay=Decay(warmup=3, total=20, clip_norm=0.5))
    run = learn(lambda: start("decays"), size, digits, digits, seed=3, course=short)
    batches = work.epoch_batches(digits, size, seed=3, first=0, steps=20, steps_per_epoch=15)
    params = initial_params(size, seed=3)
    _, params = judge.train(params, *batches, learning_rate=short.learning_rate, decay=short.decay)
    right = np.argmax(judge.logits(params, digits.images / np.float32(255)), axis=1) == digits.labels
    assert run.accuracy[-1] == np.mean(right)
    assert run.steps == (10, 20)


def test_nothing_installed_is_an_error(digits: Examples, tmp_path: Path) -> None:
    with pytest.raises(
        ConfigError, match="none of those asked for can be compared; missing: not installed: pip install no-"
    ):
        compared(["missing"], digits, tmp_path / "logs")


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


def test_slow_compilers_are_left_out_where_they_would_take_too_long() -> None:
    unrolled = REAL["lstm_jax-unrolled"]
    assert beginning._why_not(unrolled, SIZE, shorten=False) is None
    assert "it compiles for long" in (beginning._why_not(unrolled, SIZE, shorten=True) or "")
    assert "112 time steps" in (beginning._why_not(unrolled, SIZE._replace(time=784), shorten=False) or "")


def test_a_quick_look_leaves_out_what_has_a_stand_in_unless_asked_for(digits: Examples) -> None:
    def left_out(options: Compare) -> dict[str, str]:
        chosen = {name: REAL[name] for name in options.names()}
        found = beginning.beginning(options, chosen, digits).frameworks
        return {name: why for name, f in found.items() if (why := f.why_not) and "quick" in why}

    assert left_out(Compare(quick=True))["lstm_jax-scan"].endswith("comparison: flax-scan stands for it")
    stand_ins = {each.stand_in for each in REAL.values() if each.stand_in is not None}
    assert stand_ins <= REAL.keys() - left_out(Compare(quick=True)).keys()
    assert not left_out(Compare(quick=True, frameworks="lstm_jax-scan,lstm_jax-unrolled"))
    assert not left_out(Compare())


# --------------------------------------------------------------------------------------------------
# Work
# --------------------------------------------------------------------------------------------------


def test_sequences_of_any_length_are_rows_of_digits(digits: Examples) -> None:
    order = np.random.Generator(np.random.Philox(key=[0, 0])).permutation(60)
    middle = row_batches(digits, SIZE, steps=2)
    assert middle.images.shape == (2, 4, 5, 28)
    np.testing.assert_array_equal(middle.images[1, 2], digits.images[order[6], 11:16] / np.float32(255))
    assert middle.labels[1, 2] == digits.labels[order[6]]
    # 30 rows: a digit, and two rows of the next one; of 60 digits, 20 steps need them several times.
    longer = row_batches(digits, SIZE._replace(time=30), steps=20)
    first, second = digits.images[order[2]], digits.images[order[3]]
    rows = np.concatenate([first, second[:2]]) / np.float32(255)
    np.testing.assert_array_equal(longer.images[0, 1], rows)
    assert longer.labels[0, 1] == digits.labels[order[2]]
    assert longer.images.dtype == np.float32


def test_initial_weights_are_fixed_by_the_seed_and_have_the_right_size() -> None:
    size = Size(hidden=50, batch=1, time=1, inputs=30)
    cell = initial_params(size, seed=1)["lstm_0_forward"]["cell"]
    limits = {"i": (6 / 80) ** 0.5, "h": (6 / 100) ** 0.5}
    for kind, limit in limits.items():
        for gate in "ifgo":
            kernel = cell[f"{kind}{gate}"]["kernel"]
            assert 0.95 * limit < np.abs(kernel).max() <= limit
            assert abs(kernel.mean()) < 0.05 * limit
    assert [cell[f"h{gate}"]["bias"][0] for gate in "ifgo"] == [0, 1, 0, 0]
    again, other = initial_params(size, seed=1), initial_params(size, seed=2)
    np.testing.assert_array_equal(cell["ii"]["kernel"], again["lstm_0_forward"]["cell"]["ii"]["kernel"])
    assert np.any(cell["ii"]["kernel"] != other["lstm_0_forward"]["cell"]["ii"]["kernel"])


def test_the_test_set_comes_whole_and_in_order(digits: Examples) -> None:
    batches = work.test_batches(digits, batch=20)
    assert batches.images.shape == (3, 20, 28, 28)
    np.testing.assert_array_equal(batches.labels.ravel(), digits.labels)


def test_the_number_of_steps_keeps_the_arithmetic() -> None:
    assert measuring.steps_for(comparison.TUTORIAL, reference=comparison.TUTORIAL, steps=100) == 100
    larger = comparison.TUTORIAL._replace(batch=512)
    assert measuring.steps_for(larger, reference=comparison.TUTORIAL, steps=100) == 25
    assert measuring.steps_for(larger._replace(hidden=512), reference=comparison.TUTORIAL, steps=100) == 2
    # However small, a call takes no more than so many steps.
    assert measuring.steps_for(SIZE, reference=comparison.TUTORIAL, steps=100) == measuring.MOST_STEPS

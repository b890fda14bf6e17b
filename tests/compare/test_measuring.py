"""Parity, rounds of timing, learning, and whole comparisons, with frameworks of known speed and faults."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lstm_jax.compare import comparison, judge, learning, measuring, parity, work, worker
from lstm_jax.compare.adapter import Decay
from lstm_jax.compare.comparison import ComparisonPlan, Parts
from lstm_jax.compare.learning import Course, course_of
from lstm_jax.compare.measuring import PEAK, Effort, Measurement, steps_for, turn
from lstm_jax.compare.results import Point
from lstm_jax.compare.work import epoch_batches, initial_params, row_batches
from lstm_jax.compare.worker import DISPATCHED, GRADIENT, INFER, LATENCY, TRAIN, Worker
from lstm_jax.config import recipe_config
from lstm_jax.data.dataset import epoch_order
from lstm_jax.errors import ConfigError, ResultsError
from tests.helpers.fake_frameworks import (
    CLOCK,
    COMPILE_SECONDS,
    FRAMEWORKS,
    GRADIENT_SECONDS,
    INFER_SECONDS,
    SIZE,
    STEP_SECONDS,
    LocalProcess,
    Right,
    few_digits,
)

DIGITS = few_digits()
ROUNDS = 3


class Product:
    """In the place of the machine's matrix product: a product takes a quarter of a second."""

    def __init__(self, *args: Any, **options: Any) -> None:
        pass

    def load(self, images: Any, labels: Any) -> int:
        return len(labels)

    def infer(self, steps: int) -> None:
        CLOCK.now += steps / 4

    def set_threads(self, count: int) -> bool:
        return False


@pytest.fixture(autouse=True)
def fakes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Time that only the fakes move, two cores, few steps."""
    monkeypatch.setattr(worker.time, "perf_counter", CLOCK)
    monkeypatch.setattr(worker, "usable_cores", lambda: (0, 1))
    monkeypatch.setattr(worker, "MatrixProduct", Product)
    monkeypatch.setattr(measuring, "MOST_STEPS", 4)
    few_calls = {LATENCY: worker.MEASURES[LATENCY]._replace(calls=3)}
    monkeypatch.setattr(worker, "MEASURES", {**worker.MEASURES, **few_calls})
    monkeypatch.setattr(Right, "is_compiled", True)


def start(name: str) -> Any:
    if name == PEAK:
        return LocalProcess(measuring.PEAK_PRODUCT)
    return LocalProcess(FRAMEWORKS[name])


def measured(*names: str, **effort: Any) -> tuple[Point, list[str]]:
    said: list[str] = []
    point = Measurement(
        SIZE,
        initial_params(SIZE, seed=0),
        lambda steps: row_batches(DIGITS, SIZE, steps=steps),
        {name: FRAMEWORKS[name] for name in names},
        Effort(**{"measures": (TRAIN, INFER, LATENCY), "steps": 100, "rounds": ROUNDS, **effort}),
        start,
        said.append,
    ).point()
    return point, said


@pytest.mark.parametrize(
    ("name", "beyond"),
    [
        ("swapped", ["logits", "loss", "gradients", "curve"]),
        ("optimizer", ["curve"]),
        ("forgetful", ["call"]),
        ("inference-off", ["logits"]),
        ("nan", ["loss off by inf"]),
    ],
)
def test_one_that_computes_something_else_is_caught_and_not_timed(name: str, beyond: list[str]) -> None:
    point, said = measured(name, "right", rounds=1, measures=(TRAIN,), peak=False)
    found = point.rows[name]
    assert found.parity is not None
    for word in beyond:
        assert word in (found.parity.why_different or "")
    assert found.why_not == f"different: {found.parity.why_different}"
    assert not found.seconds
    assert f"  {name}: {found.why_not}" in said
    right = point.rows["right"]
    assert right.why_not is None
    assert right.parity is not None
    assert right.parity.why_different is None
    assert max(error or 0 for error in right.parity.errors.values()) < 1e-12
    assert len(right.parity.losses) == len(point.judge_losses) == 4


def test_wrong_names_and_shapes_are_different() -> None:
    right = {"a": np.ones((2, 3)), "b": {"c": np.ones(4)}}
    assert parity.tree_error(right, right) == 0
    assert parity.tree_error({"a": np.ones((2, 3))}, right) == float("inf")
    assert parity.tree_error({"a": np.ones((3, 2)), "b": {"c": np.ones(4)}}, right) == float("inf")
    assert parity.tree_error({"a": np.ones((2, 3)), "b": {"c": np.array([1, 1, 1.5, 1])}}, right) == 0.5


def test_the_times_are_right_and_who_fails_does_not_stop_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Right, "is_compiled", False)
    point, _ = measured("right", "slow", "raises", "raises-later", "inference")
    right, slow, inference = (point.rows[name] for name in ("right", "slow", "inference"))
    assert right.seconds[TRAIN] == pytest.approx([STEP_SECONDS] * ROUNDS)
    assert slow.seconds[TRAIN] == pytest.approx([3 * STEP_SECONDS] * ROUNDS)
    for row in (right, slow, inference):
        assert row.seconds[INFER] == row.seconds[LATENCY] == pytest.approx([INFER_SECONDS] * ROUNDS)
    assert right.first_step_seconds == pytest.approx(COMPILE_SECONDS + STEP_SECONDS)
    assert slow.first_step_seconds == pytest.approx(3 * STEP_SECONDS)
    # The best number of threads is found for each measure.
    assert right.threads == {TRAIN: 2, INFER: 1, LATENCY: 1}
    assert set(inference.seconds) == {INFER, LATENCY}
    assert inference.first_step_seconds is None
    assert point.rows["raises"].why_not == "RuntimeError: no kernel for this"
    assert point.rows["raises-later"].why_not == "RuntimeError: tired"
    assert point.rows["raises-later"].parity is not None
    assert not point.rows["raises-later"].seconds
    assert point.peak_seconds == pytest.approx([0.25] * ROUNDS)
    assert point.steps == 4
    assert right.peak_memory is None or right.peak_memory >= (right.start_memory or 0) > 1e6


def test_a_measurement_is_filled_and_what_an_adapter_has_not_is_left_out() -> None:
    point, _ = measured("right", measures=(INFER, GRADIENT, TRAIN, DISPATCHED), seconds=40.0, parity=False)
    row = point.rows["right"]
    assert set(row.seconds) == {INFER, GRADIENT, TRAIN}
    assert row.seconds[GRADIENT] == pytest.approx([GRADIENT_SECONDS] * ROUNDS)
    assert row.parity is None
    made = Worker(FRAMEWORKS["right"].adapter)
    made.build(SIZE, initial_params(SIZE, seed=0), 0.1)
    batches = row_batches(DIGITS, SIZE, steps=3)
    made.load("first", *batches.first())
    made.load("many", *batches)
    made.prepare((GRADIENT,), 40.0)
    before = CLOCK.now
    made.time(GRADIENT, False)
    assert CLOCK.now - before == pytest.approx(42, abs=1e-3)  # seven calls of 6 s


def test_two_devices_are_for_those_that_can_share() -> None:
    point, _ = measured("right", devices=2)
    assert point.rows["right"].why_not == "RuntimeError: it is compared on one device only"


def test_each_round_has_everybody_once_and_another_order() -> None:
    keys = ["a", "b", "c", "d", "e"]
    orders = [turn(keys, index, 5) for index in range(5)]
    assert all(sorted(order) == keys for order in orders)
    assert len({tuple(order) for order in orders}) == 5
    # Nobody has the same one before it in all rounds.
    for key in keys:
        assert len({order[order.index(key) - 1] for order in orders if order[0] != key}) > 1


def test_the_number_of_steps_keeps_the_arithmetic(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measuring, "MOST_STEPS", 200)
    tutorial = measuring.TUTORIAL
    sizes = (tutorial, tutorial._replace(batch=512), tutorial._replace(batch=512, hidden=512), SIZE)
    assert [steps_for(size, steps=100) for size in sizes] == [100, 25, 2, 200]


# --------------------------------------------------------------------------------------------------
# The work
# --------------------------------------------------------------------------------------------------


def test_sequences_of_any_length_are_rows_of_digits() -> None:
    order = np.random.Generator(np.random.Philox(key=[0, 0])).permutation(60)
    middle = row_batches(DIGITS, SIZE, steps=2)
    np.testing.assert_array_equal(middle.images[1, 2], DIGITS.images[order[6], 11:16] / np.float32(255))
    assert middle.labels[1, 2] == DIGITS.labels[order[6]]
    # 30 rows: a digit, and two rows of the next one; of 60 digits, 20 steps need them several times.
    longer = row_batches(DIGITS, SIZE._replace(time=30), steps=20)
    rows = np.concatenate([DIGITS.images[order[2]], DIGITS.images[order[3], :2]]) / np.float32(255)
    np.testing.assert_array_equal(longer.images[0, 1], rows)
    assert longer.labels[0, 1] == DIGITS.labels[order[2]]


def test_initial_weights_are_fixed_by_the_seed_and_have_the_right_size() -> None:
    size = SIZE._replace(hidden=50, inputs=30, time=20)
    cell = initial_params(size, seed=1)["lstm_0_forward"]["cell"]
    for kind, limit in {"i": (6 / 80) ** 0.5, "h": (6 / 100) ** 0.5}.items():
        for gate in "ifgo":
            kernel = cell[f"{kind}{gate}"]["kernel"]
            assert 0.95 * limit < np.abs(kernel).max() <= limit
            assert abs(kernel.mean()) < 0.05 * limit
    assert [cell[f"h{gate}"]["bias"][0] for gate in "ifgo"] == [0, 1, 0, 0]
    remembers = initial_params(size, seed=1, remember=True)["lstm_0_forward"]["cell"]
    assert [remembers[f"h{gate}"]["bias"][0] for gate in "if"] == pytest.approx([-np.log(20), np.log(20)])
    again, other = (initial_params(size, seed=seed)["lstm_0_forward"]["cell"] for seed in (1, 2))
    np.testing.assert_array_equal(cell["ii"]["kernel"], again["ii"]["kernel"])
    assert np.any(cell["ii"]["kernel"] != other["ii"]["kernel"])


# --------------------------------------------------------------------------------------------------
# Learning
# --------------------------------------------------------------------------------------------------


def test_learning_is_that_of_the_judge(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same accuracy as a loop written out here: no batch is left out, taken twice or out of order."""
    size = SIZE._replace(time=28)
    course = course_of("tutorial", size, DIGITS, epochs=2)
    assert course is not None
    monkeypatch.setattr(Right, "is_compiled", False)
    found = learning.learn("right", start, size, DIGITS, DIGITS, seed=3, course=course, threads=2)
    expected = []
    order = np.concatenate(
        [np.random.Generator(np.random.Philox(key=[3, e])).permutation(60) for e in (0, 1)]
    )
    images, labels = (each[order].reshape(30, 4, *each.shape[1:]) for each in DIGITS)
    for steps in range(5, 31, 5):
        params = initial_params(size, seed=3)
        batches = images[:steps] / np.float32(255), labels[:steps]
        _, params = judge.train(params, *batches, learning_rate=0.01)
        right = np.argmax(judge.logits(params, DIGITS.images / np.float32(255)), axis=1) == DIGITS.labels
        expected.append(np.mean(right))
    np.testing.assert_allclose(found.accuracy, expected, rtol=0, atol=1e-9)
    assert [*found.steps] == [5, 10, 15, 20, 25, 30]
    assert found.seconds == pytest.approx([STEP_SECONDS * steps for steps in found.steps])
    assert found.first_step_seconds == pytest.approx(COMPILE_SECONDS)
    best = expected.index(max(expected))
    assert found.seconds_to(max(expected)) == found.seconds[best]
    from_start = found.start_seconds + found.first_step_seconds + found.seconds[best]
    assert found.seconds_to(max(expected), from_start=True) == from_start
    assert found.seconds_to(1.1) is None


def test_a_recipe_of_steps_goes_over_the_ends_of_epochs() -> None:
    """60 digits in batches of 4 are 15 steps an epoch."""
    size = SIZE._replace(time=28)
    course = course_of("fast", size, DIGITS, epochs=5)
    decay = Decay(warmup=125, total=2500, clip_norm=1.0)
    assert course == Course(10, 250, 15, recipe_config("fast").optimizer.learning_rate, decay)
    order = np.concatenate([epoch_order(3, epoch, 60) for epoch in range(3)])
    for first, steps in ((0, 15), (7, 30), (14, 2), (15, 1), (29, 16)):
        found = epoch_batches(DIGITS, size, seed=3, first=first, steps=steps, steps_per_epoch=15)
        expected = DIGITS.labels[order[4 * first : 4 * (first + steps)].reshape(steps, 4)]
        np.testing.assert_array_equal(found.labels, expected)
    short = course._replace(parts=2, steps=10, decay=Decay(warmup=3, total=20, clip_norm=0.5))
    run = learning.learn("right", start, size, DIGITS, DIGITS, seed=3, course=short)
    batches = epoch_batches(DIGITS, size, seed=3, first=0, steps=20, steps_per_epoch=15)
    params = initial_params(size, seed=3)
    _, params = judge.train(params, *batches, learning_rate=short.learning_rate, decay=short.decay)
    right = np.argmax(judge.logits(params, DIGITS.images / np.float32(255)), axis=1) == DIGITS.labels
    assert run.accuracy[-1] == np.mean(right)
    assert np.all(work.test_batches(DIGITS, batch=20).labels.ravel() == DIGITS.labels)


# --------------------------------------------------------------------------------------------------
# A whole comparison
# --------------------------------------------------------------------------------------------------


def plan_of(folder: Path, *names: str, **changes: Any) -> ComparisonPlan:
    frameworks = {name: FRAMEWORKS[name] for name in names}
    options = {"command": "python -m lstm_jax compare", "epochs": 1, "seeds": 2, "rounds": 2, **changes}
    return ComparisonPlan(
        folder=folder, frameworks=frameworks, size=SIZE._replace(time=28), cores=(0, 1), **options
    )


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What is started in a comparison: fakes in this process."""
    names: list[str] = []

    def start_locally(framework: Any, *, cores: Any, log: Path) -> LocalProcess:
        names.append(log.stem)
        log.touch()
        return LocalProcess(framework)

    monkeypatch.setattr(comparison, "Process", start_locally)
    monkeypatch.setattr(comparison, "CURVES", {"hidden": (2,), "batch": (3, 8), "time": ()})
    return names


@pytest.mark.slow
def test_a_whole_comparison_goes_on_where_it_was_stopped(
    tmp_path: Path, started: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    names = ("right", "inference", "raises", "missing")

    def parts(**changes: Any) -> Parts:
        return Parts(plan_of(tmp_path, *names, **changes), DIGITS, DIGITS, report=lambda text: None)

    # Stopped while the second seed learns.
    def stop(*args: Any, seed: int, **options: Any) -> Any:
        if seed == 1:
            raise KeyboardInterrupt
        return learning.learn(*args, seed=seed, **options)

    with monkeypatch.context() as patch:
        patch.setattr(comparison, "learn", stop)
        with pytest.raises(KeyboardInterrupt):
            parts().measure()
    before = parts().gathered()
    assert [run.seed for run in before.runs] == [0]
    started.clear()
    whole = parts()
    whole.measure()
    assert started == ["right"]  # the second seed alone
    found = whole.gathered()
    assert found.points == before.points
    assert [(run.name, run.seed, len(run.steps)) for run in found.runs] == [("right", 0, 3), ("right", 1, 3)]
    assert set(found.points) == {"main", "hidden-2", "hidden-3", "batch-3", "batch-4", "batch-8", "time-28"}
    # On curves is who trains and has not failed.
    assert [list(point.rows) for name, point in found.points.items() if name != "main"] == [["right"]] * 6
    assert found.points["hidden-2"].seconds(TRAIN)["right"] == pytest.approx([STEP_SECONDS] * 2)
    rows = found.points["main"].rows
    assert list(rows) == list(names)
    assert rows["missing"].why_not == "not installed: pip install no-such-pip-name"
    assert found.about.epochs == 1
    assert {path.stem for path in (tmp_path / "logs").iterdir()} == {"right", "inference", "raises", PEAK}
    assert json.loads(found.as_json())["points"]["main"]["size"]["hidden"] == 3

    with pytest.raises(ConfigError, match=r"comparison of something else \(command: .* there, other now\)"):
        parts(command="other")
    (tmp_path / "parts" / "main.json").write_text('{"size": 3}')
    with pytest.raises(ResultsError, match=r"main\.json: got no part of a comparison"):
        parts().measure()
    parts(overwrite=True)
    assert [path.name for path in (tmp_path / "parts").iterdir()] == ["about.json"]


def test_nothing_installed_is_an_error_and_what_is_there_is_not_overwritten(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="none of the given ones can be compared; missing: not installed"):
        Parts(plan_of(tmp_path, "missing"), DIGITS, DIGITS, report=lambda text: None)
    (tmp_path / "results.json").write_text("{}")
    with pytest.raises(ConfigError, match=r"has a results\.json of something else"):
        Parts(plan_of(tmp_path, "right"), DIGITS, DIGITS, report=lambda text: None)

"""The harness of the comparison, with frameworks of known speed and known faults."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from lstm_jax.compare.options import Compare

from lstm_jax.compare import beginning, comparison, judge, measuring, parity, work
from lstm_jax.compare.adapter import Decay
from lstm_jax.compare.comparison import Effort, compare
from lstm_jax.compare.frameworks import FRAMEWORKS as REAL
from lstm_jax.compare.learning import Course, course_of, learn
from lstm_jax.compare.results import Results
from lstm_jax.compare.work import Examples, initial_params
from lstm_jax.config import recipe_config
from lstm_jax.data.dataset import epoch_order
from lstm_jax.errors import ConfigError
from lstm_jax.system.cores import usable_cores
from tests.helpers.fake_frameworks import COMPILE_SECONDS, FRAMEWORKS, INFER_SECONDS, STEP_SECONDS
from tests.helpers.small_comparison import EFFORT, OPTIONS, SIZE, StartProcess, check


@pytest.fixture
def few_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """At the tests' sizes a call would take a thousand."""
    monkeypatch.setattr(measuring, "MOST_STEPS", 5)


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

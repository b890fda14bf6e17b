"""The adapters in JAX: each computes what the judge does, keeps its state, and compiles once."""

import importlib
import logging
import math
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import numpy as np
import pytest

from lstm_jax.compare import judge
from lstm_jax.compare.adapter import Adapter, Decay, Gradient, Params
from lstm_jax.compare.adapters import flax_linen, in_jax
from lstm_jax.compare.frameworks import FRAMEWORKS
from lstm_jax.config import recipe_config
from lstm_jax.optimizer import learning_rate_schedule
from tests.helpers.adapter_checks import (
    AFTER_TRAINING,
    IMAGES,
    LABELS,
    LEARNING_RATE,
    PARAMS,
    SIZE,
    STEPS,
    TOLERANCE,
    random_params,
)
from tests.helpers.project import Run

# Steps, and so errors, that are ten times as large.
AFTER_LARGE_STEPS = {"rtol": 1e-3, "atol": 1e-3}

# Haiku's forget bias is another number, and the difference may round in its last bit.
UNTOUCHED = {"rtol": 0.0, "atol": 2.0**-22}

MODULES = ("ours", "flax_linen", "flax_nnx", "equinox_lstm", "haiku_lstm")
NAMES = [name for name, framework in FRAMEWORKS.items() if framework.adapter.split(":")[0] in MODULES]


def build(name: str, **options: Any) -> Adapter:
    framework = FRAMEWORKS[name]
    for package in framework.packages:
        pytest.importorskip(package)
    module, adapter = framework.adapter.split(":")
    built = getattr(importlib.import_module(f"lstm_jax.compare.adapters.{module}"), adapter)
    return built(SIZE, PARAMS, **{"learning_rate": LEARNING_RATE, **options})


@pytest.fixture(params=NAMES)
def adapter(request: pytest.FixtureRequest) -> Adapter:
    return build(request.param)


def assert_close(actual: Any, expected: Any, **tolerance: float) -> None:
    assert jax.tree.structure(actual) == jax.tree.structure(expected)
    for (path, one), other in zip(jax.tree.leaves_with_path(actual), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(one, other, **tolerance, err_msg=jax.tree_util.keystr(path))


def assert_numpy_float32(tree: Any) -> None:
    assert all(type(leaf) is np.ndarray and leaf.dtype == np.float32 for leaf in jax.tree.leaves(tree))


def test_all_are_tested() -> None:
    assert {FRAMEWORKS[name].adapter.split(":")[0] for name in NAMES} == set(MODULES)


def compiles(caplog: pytest.LogCaptureFixture, run: Callable[[], Any]) -> bool:
    """Whether JAX compiles anything while this runs."""
    caplog.clear()
    with jax.log_compiles(), caplog.at_level(logging.WARNING, "jax"):
        run()
    return any("Compiling" in record.getMessage() for record in caplog.records)


def test_gradient_and_inference_are_the_judges(adapter: Adapter, caplog: pytest.LogCaptureFixture) -> None:
    def run() -> tuple[Gradient, np.ndarray]:
        return adapter.gradient(IMAGES[0], LABELS[0]), adapter.infer(adapter.load(IMAGES, LABELS))

    answer, logits = run()
    assert isinstance(answer.loss, float)
    assert_numpy_float32((answer.logits, answer.gradients, logits))
    assert_close(answer, judge.gradient(PARAMS, IMAGES[0], LABELS[0]), **TOLERANCE)
    assert_close(logits, np.stack([judge.logits(PARAMS, images) for images in IMAGES]), **TOLERANCE)
    assert not compiles(caplog, run)
    # Nothing of it trains, and there is nothing to choose; the parameters come back as they went in.
    assert not adapter.set_threads(1)
    params = adapter.params()
    assert_numpy_float32(params)
    assert_close(params, PARAMS, **UNTOUCHED)


def test_it_trains_as_the_judge_does(adapter: Adapter, caplog: pytest.LogCaptureFixture) -> None:
    in_jax.train_steps.clear_cache()  # other tests may have compiled the same
    # Several steps, one by itself, and several again: the state of the optimizer is kept in between.
    parts = [slice(0, 3), slice(3, 4), slice(0, 3)]
    means = []

    def train(part: slice) -> None:
        before = adapter.params()
        copy = jax.tree.map(np.array, before)
        means.append(adapter.train(adapter.load(IMAGES[part], LABELS[part])))
        assert_close(before, copy, rtol=0)  # a train step does not write into what was given away

    assert [compiles(caplog, partial(train, part)) for part in parts] == [True, True, False]
    assert all(isinstance(mean, float) for mean in means)
    order = np.concatenate([np.arange(STEPS)[part] for part in parts])
    losses, params = judge.train(PARAMS, IMAGES[order], LABELS[order], learning_rate=LEARNING_RATE)
    np.testing.assert_allclose(means, [losses[:3].mean(), losses[3], losses[4:].mean()], **TOLERANCE)
    assert_close(adapter.params(), params, **AFTER_TRAINING)


@pytest.mark.parametrize("name", NAMES)
def test_one_program_serves_every_learning_rate(name: str, caplog: pytest.LogCaptureFixture) -> None:
    def params_after(learning_rate: float) -> Params:
        adapter = build(name, learning_rate=learning_rate)
        adapter.train(adapter.load(IMAGES, LABELS))
        return adapter.params()

    params_after(LEARNING_RATE)
    found: list[Params] = []
    assert not compiles(caplog, lambda: found.append(params_after(10 * LEARNING_RATE)))
    _, right = judge.train(PARAMS, IMAGES, LABELS, learning_rate=10 * LEARNING_RATE)
    assert_close(found[0], right, **AFTER_LARGE_STEPS)


@pytest.mark.parametrize("name", NAMES)
def test_it_decays_and_clips_as_the_judge_does(name: str) -> None:
    decay = Decay(warmup=2, total=STEPS + 1, clip_norm=1.0)
    adapter = build(name, decay=decay)
    adapter.train(adapter.load(IMAGES, LABELS))
    _, params = judge.train(PARAMS, IMAGES, LABELS, learning_rate=LEARNING_RATE, decay=decay)
    assert_close(adapter.params(), params, **AFTER_TRAINING)
    for change in ({"warmup": 1}, {"total": STEPS}, {"clip_norm": 0.9}, {"clip_norm": math.inf}):
        other = decay._replace(**change)
        _, wrong = judge.train(PARAMS, IMAGES, LABELS, learning_rate=LEARNING_RATE, decay=other)
        with pytest.raises(AssertionError):
            assert_close(wrong, params, **AFTER_TRAINING)


def test_the_decay_is_that_of_train_py() -> None:
    config = recipe_config("fast", steps=40)
    decay = Decay(warmup=2, total=40, clip_norm=1.0)
    schedule = learning_rate_schedule(config, total_steps=40)
    assert callable(schedule)
    for step in range(40):
        assert config.learning_rate * decay.share(step) == pytest.approx(float(schedule(step)), rel=1e-5)


def test_adapters_share_no_memory() -> None:
    one, other = build("flax-rnn"), build("flax-rnn")
    one.train(one.load(IMAGES, LABELS))
    assert_close(other.params(), PARAMS, rtol=0)
    assert_close(PARAMS, random_params(), rtol=0)


def swapped(params: Params, gate: str, other: str) -> Params:
    """The parameters with two gates taken for each other."""
    cell = dict(params["lstm_0_forward"]["cell"])
    for kind in "ih":
        cell[kind + gate], cell[kind + other] = cell[kind + other], cell[kind + gate]
    return {**params, "lstm_0_forward": {"cell": cell}}


def shifted(params: Params, gate: str, by: float) -> Params:
    """The parameters with something added to the bias of a gate."""
    cell = dict(params["lstm_0_forward"]["cell"])
    cell[f"h{gate}"] = {**cell[f"h{gate}"], "bias": cell[f"h{gate}"]["bias"] + by}
    return {**params, "lstm_0_forward": {"cell": cell}}


def assert_all_differ(answer: Gradient) -> None:
    for one, other in zip(answer, judge.gradient(PARAMS, IMAGES[0], LABELS[0]), strict=True):
        with pytest.raises(AssertionError, match="Not equal to tolerance"):
            assert_close(one, other, **TOLERANCE)


def test_a_wrong_adapter_is_seen() -> None:
    right = flax_linen.classifier(flax_linen.RNNClassifier(SIZE.hidden))
    wrong = right._replace(to_own=lambda params: flax_linen.to_own(swapped(params, "i", "f")))
    assert_all_differ(in_jax.InJax(wrong, PARAMS, learning_rate=LEARNING_RATE).gradient(IMAGES[0], LABELS[0]))


@pytest.mark.parametrize(
    "params",
    [
        swapped(PARAMS, "f", "g"),
        swapped(PARAMS, "g", "o"),
        shifted(PARAMS, "f", 1),
        shifted(PARAMS, "f", 0.01),
    ],
    ids=["f and g", "g and o", "forget bias", "a little"],
)
def test_other_mistakes_would_be_seen(params: Params) -> None:
    assert_all_differ(judge.gradient(params, IMAGES[0], LABELS[0]))


@pytest.mark.parametrize("change", [{"learning_rate": 0.98 * LEARNING_RATE}, {"images": IMAGES[::-1]}])
def test_mistakes_in_training_would_be_seen(change: dict[str, Any]) -> None:
    options = {"images": IMAGES, "labels": LABELS, "learning_rate": LEARNING_RATE}
    _, params = judge.train(PARAMS, **options)
    _, others = judge.train(PARAMS, **{**options, **change})
    with pytest.raises(AssertionError, match="Not equal to tolerance"):
        assert_close(others, params, **AFTER_TRAINING)


def test_an_adapter_imports_no_other_framework(run: Run) -> None:
    # Of Equinox, because the others need Flax, Haiku's own package too.
    pytest.importorskip("equinox")
    code = """
import sys
from lstm_jax.compare import judge
assert not {"jax", "flax"} & set(sys.modules)  # the judge judges by itself
from lstm_jax.compare.adapters import equinox_lstm
print(sorted({"flax", "haiku", "keras", "tensorflow", "torch", "jax"} & set(sys.modules)))
"""
    done = run("-c", code)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["['jax']"]

"""The adapters in JAX: each computes what the judge does, and compiles once."""

import importlib
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import jax
import numpy as np
import pytest

from lstm_jax.compare import judge, parity
from lstm_jax.compare.adapter import Decay
from lstm_jax.compare.adapters import flax_linen, in_jax
from lstm_jax.compare.frameworks import BENCHMARKED, FRAMEWORKS
from lstm_jax.config import recipe_config
from lstm_jax.kernels.choice import why_no_kernel
from lstm_jax.optimizer import learning_rate_schedule
from tests.helpers.adapter_checks import (
    AFTER_TRAINING,
    DECAY,
    IMAGES,
    LABELS,
    LEARNING_RATE,
    PARAMS,
    SIZE,
    TOLERANCE,
    assert_close,
    assert_trained,
    check_gradient,
    check_inference,
    check_training,
    judge_train,
)
from tests.helpers.project import Run

pytestmark = pytest.mark.slow

MODULES = ("ours", "ours_nnx", "ours_equinox", "flax_linen", "flax_nnx", "equinox_lstm", "haiku_lstm")
ALL = {each.adapter: each for each in (*FRAMEWORKS.values(), *BENCHMARKED.values())}
IN_JAX = [adapter for adapter in ALL if adapter.split(":")[0] in MODULES]
NAMES = [adapter for adapter in IN_JAX if ALL[adapter].tolerance == 1]


def build(spec: str, **options: Any) -> in_jax.InJax:
    for package in ALL[spec].packages:
        pytest.importorskip(package)
    if spec == "ours:Tiles" and (reason := why_no_kernel("native-tiles")) is not None:
        pytest.skip(reason)
    module, name = spec.split(":")
    adapter = getattr(importlib.import_module(f"lstm_jax.compare.adapters.{module}"), name)
    return adapter(SIZE, PARAMS, **{"learning_rate": LEARNING_RATE, **options})


@contextmanager
def nothing_compiles(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    caplog.clear()
    with jax.log_compiles(), caplog.at_level(logging.WARNING, "jax"):
        yield
    assert not [record for record in caplog.records if "Compiling" in record.getMessage()]


def test_all_are_tested() -> None:
    assert {name.split(":")[0] for name in NAMES} == set(MODULES)
    assert all("BFloat16" in name for name in set(IN_JAX) - set(NAMES))
    in_others = {"ours_predictor", "keras_lstm", "pytorch_lstm", "onnx_lstm"}
    assert {adapter.split(":")[0] for adapter in ALL} == {*MODULES, *in_others}


@pytest.mark.parametrize("name", NAMES)
def test_it_computes_what_the_judge_does(name: str, caplog: pytest.LogCaptureFixture) -> None:
    again = partial(nothing_compiles, caplog)
    adapter = build(name)
    check_inference(adapter, again=again)
    check_gradient(adapter)
    check_training(adapter, again=again)
    assert not adapter.set_threads(1)
    # One program serves every learning rate, and the state of another model of the same size.
    other = build(name, learning_rate=10 * LEARNING_RATE)
    with again():
        other.train(other.load(IMAGES[:3], LABELS[:3]))
    _, params = judge.train(PARAMS, IMAGES[:3], LABELS[:3], learning_rate=10 * LEARNING_RATE)
    assert_trained(other, params)


@pytest.mark.parametrize("name", sorted(set(IN_JAX) - set(NAMES)))
def test_one_in_bfloat16_is_as_far_from_the_judge_as_it_may_be(name: str) -> None:
    adapter, batch = build(name), (IMAGES[:1], LABELS[:1])
    loss, gradients = adapter.gradients(adapter.load(*batch))
    right, tree = judge.gradient(PARAMS, IMAGES[0], LABELS[0])
    errors = {"loss": parity.error_of(loss, right)}
    errors["gradients"] = parity.tree_error(adapter.exchanged(gradients), tree)
    for of, error in errors.items():
        assert error < ALL[name].tolerance * parity.TOLERANCES[of], errors
    # Only that of the kernel may be as exact as float32.
    assert name == "ours:BFloat16Native" or errors["gradients"] > parity.TOLERANCES["gradients"]


def test_the_predictor_computes_what_the_judge_does(caplog: pytest.LogCaptureFixture) -> None:
    adapter = build("ours_predictor:Compiled")
    check_inference(adapter, again=partial(nothing_compiles, caplog))
    assert not adapter.set_threads(1)
    assert not BENCHMARKED["predictor"].trains


def test_it_decays_clips_and_is_dispatched_as_the_judge_does() -> None:
    # That another decay would be seen is shown in test_adapters_other.py.
    check_training(build("ours:Fused", decay=DECAY), right=partial(judge_train, decay=DECAY))
    check_training(build("ours:Fused"), method="dispatch")


def test_the_decay_is_that_of_train_py() -> None:
    config = recipe_config("fast", steps=40)
    decay = Decay(warmup=2, total=40, clip_norm=1.0)
    schedule = learning_rate_schedule(config.optimizer, total_steps=40)
    assert callable(schedule)
    for step in range(40):
        assert config.optimizer.learning_rate * decay.share(step) == pytest.approx(
            float(schedule(step)), rel=1e-5
        )


def test_several_devices_compute_the_same_and_take_many_steps_one_by_one() -> None:
    """More than JAX lets wait for a device: without a limit, it hung."""
    images, labels = (np.repeat(array, 2, axis=1) for array in (IMAGES, LABELS))  # two halves
    adapter = build("ours:Fused")
    adapter.share(2)
    loss, gradients = adapter.gradients(adapter.load(images[:1], labels[:1]))
    right = judge.gradient(PARAMS, images[0], labels[0])
    assert loss == pytest.approx(right[0], rel=1e-5)
    assert_close(adapter.exchanged(gradients), right[1], **TOLERANCE)
    assert adapter.step_memory() is None
    many = [np.concatenate([array] * 25) for array in (images, labels)]
    adapter.dispatch(adapter.load(*many))
    _, params = judge.train(PARAMS, *many, learning_rate=LEARNING_RATE)
    found = adapter.infer(adapter.load(images, labels))
    expected = np.stack([judge.logits(params, each) for each in images])
    # A hundred steps of rounding.
    np.testing.assert_allclose(found, expected, rtol=0.02, atol=0.02)
    assert (adapter.step_memory() or 0) > sum(leaf.nbytes for leaf in jax.tree.leaves(PARAMS))


def swapped(params: Any, gate: str, other: str) -> Any:
    """The parameters with two gates taken for each other."""
    cell = dict(params["lstm_0_forward"]["cell"])
    for kind in "ih":
        cell[kind + gate], cell[kind + other] = cell[kind + other], cell[kind + gate]
    return {**params, "lstm_0_forward": {"cell": cell}}


def test_a_wrong_adapter_is_seen() -> None:
    class Wrong(flax_linen.RNN):
        @staticmethod
        def model(size: Any) -> in_jax.Model:
            right = flax_linen.RNN.model(size)
            return right._replace(to_own=lambda params: right.to_own(swapped(params, "i", "f")))

    for check in (check_inference, check_gradient, check_training):
        with pytest.raises(AssertionError, match="Not equal to tolerance"):
            check(Wrong(SIZE, PARAMS, learning_rate=LEARNING_RATE))


@pytest.mark.parametrize("change", [{"learning_rate": 0.98 * LEARNING_RATE}, {"images": IMAGES[::-1]}])
def test_mistakes_in_training_would_be_seen(change: dict[str, Any]) -> None:
    options = {"images": IMAGES, "labels": LABELS, "learning_rate": LEARNING_RATE}
    _, params = judge.train(PARAMS, **options)
    _, others = judge.train(PARAMS, **{**options, **change})
    one, other = (np.stack([judge.logits(each, images) for images in IMAGES]) for each in (params, others))
    with pytest.raises(AssertionError, match="Not equal to tolerance"):
        np.testing.assert_allclose(other, one, **AFTER_TRAINING)


def test_an_adapter_imports_no_other_framework(run_afresh: Run) -> None:
    # Of Equinox, because the others need Flax, Haiku's own package too.
    pytest.importorskip("equinox")
    code = """
import sys
from lstm_jax.compare import judge
assert not {"jax", "flax"} & set(sys.modules)  # the judge judges by itself
from lstm_jax.compare.adapters import equinox_lstm
print(sorted({"flax", "haiku", "keras", "tensorflow", "torch", "jax"} & set(sys.modules)))
"""
    done = run_afresh("-c", code)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["['jax']"]

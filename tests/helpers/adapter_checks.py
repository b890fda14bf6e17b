"""What every adapter must do, against the judge: for adapters of any framework, in whatever process.

It imports no framework: Keras has one backend per process, so its adapters are checked in processes of their
own, by `main`. Errors are those of ``numpy.testing``, or assertions.
"""

import importlib
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import Any
from unittest import mock

import numpy as np

from lstm_jax.compare import judge
from lstm_jax.compare.adapter import Adapter, Decay, Trainer
from lstm_jax.compare.size import Size
from lstm_jax.exchange.layouts import Params

SIZE = Size(hidden=5, batch=3, time=4, inputs=2)  # all different
STEPS = 4
LEARNING_RATE = 0.01

# Of values near 1, float32 sums in another order differ by some units in the seventh digit; a few steps in
# time add some. The mistakes that `test_adapters_other.py` makes on purpose are in the first or second digit.
TOLERANCE = {"rtol": 1e-5, "atol": 1e-6}
# Adam divides a gradient by its size: an error of 1e-6 in one that is as small as 1e-3 is a thousandth of a
# step of 0.01. A step that is missing, or one too many, is a hundredth.
AFTER_TRAINING = {"rtol": 1e-4, "atol": 3e-4}

# The training of `check_training` has 7 steps; some of its gradients are larger than this, and some smaller.
DECAY = Decay(warmup=2, total=8, clip_norm=1.0)

Again = Callable[[], AbstractContextManager[None]]
Train = Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, Params]]


def random_params() -> Params:
    """All random, the biases too: where a value is zero, its wrong use cannot be seen."""
    rng = np.random.default_rng(0)
    shapes = ((SIZE.inputs, 4 * SIZE.hidden), (SIZE.hidden, 4 * SIZE.hidden), (4 * SIZE.hidden,))
    head = ((SIZE.hidden, 10), (10,))
    params = judge.params_of(judge.JoinedWeights(*(rng.normal(size=shape) for shape in (*shapes, *head))))
    return _float32(params)


def _float32(tree: Any) -> Any:
    if isinstance(tree, Mapping):
        return {name: _float32(value) for name, value in tree.items()}
    return tree.astype(np.float32)


_rng = np.random.default_rng(1)
PARAMS = random_params()
IMAGES = _rng.normal(size=(STEPS, SIZE.batch, SIZE.time, SIZE.inputs)).astype(np.float32)
LABELS = _rng.integers(0, 10, (STEPS, SIZE.batch)).astype(np.int32)
PROBES = 2 * _rng.normal(size=IMAGES.shape).astype(np.float32)


def leaves(params: Params, path: str = "") -> dict[str, Any]:
    """The arrays by their path."""
    if not isinstance(params, Mapping):
        return {path: params}
    found: dict[str, Any] = {}
    for name, value in params.items():
        found |= leaves(value, f"{path}/{name}")
    return found


def assert_close(actual: Params, expected: Params, **tolerance: float) -> None:
    found, right = leaves(actual), expected if "/head/bias" in expected else leaves(expected)
    assert found.keys() == right.keys()
    for path, array in found.items():
        assert type(array) is np.ndarray, path
        assert array.dtype == np.float32, path
        np.testing.assert_allclose(array, right[path], **tolerance, err_msg=path)


def check_gradient(adapter: Trainer) -> None:
    """Loss and gradients are the judge's, of several batches the means; taking them changes nothing."""
    right = [judge.gradient(PARAMS, images, labels) for images, labels in zip(IMAGES, LABELS, strict=True)]
    trees = [leaves(each) for _, each in right]
    for _ in range(2):
        loss, gradients = adapter.gradients(adapter.load(IMAGES, LABELS))
        assert type(loss) is float
        np.testing.assert_allclose(loss, np.mean([each for each, _ in right]), **TOLERANCE)
        means = {path: np.mean([tree[path] for tree in trees], axis=0) for path in trees[0]}
        assert_close(adapter.exchanged(gradients), means, **TOLERANCE)


def check_inference(adapter: Adapter, *, again: Again = nullcontext) -> None:
    """Logits are the judge's, of batches of other sizes too."""
    whole, single = adapter.load(IMAGES, LABELS), adapter.load(IMAGES[:1, :1], LABELS[:1, :1])
    right = np.stack([judge.logits(PARAMS, images) for images in IMAGES])
    for context in (nullcontext, again):
        with context():
            found = adapter.infer(whole), adapter.infer(single)
        assert all(type(logits) is np.ndarray and logits.dtype == np.float32 for logits in found)
        np.testing.assert_allclose(found[0], right, **TOLERANCE)
        np.testing.assert_allclose(found[1], right[:1, :1], **TOLERANCE)


def judge_train(
    images: np.ndarray, labels: np.ndarray, *, decay: Decay | None = None
) -> tuple[np.ndarray, Params]:
    """The judge's losses, and its parameters after the last step."""
    return judge.train(PARAMS, images, labels, learning_rate=LEARNING_RATE, decay=decay)


def check_training(
    adapter: Trainer, *, again: Again = nullcontext, right: Train = judge_train, method: str = "train"
) -> None:
    """It trains as the judge does: several steps, one by itself, and several again.

    Args:
        adapter: at its start.
        again: a context in which it is an error to compile.
        right: what the losses and parameters must be.
        method: what trains, in case it does not tell the mean of the losses.
    """
    parts = [slice(0, 3), slice(3, 4), slice(0, 3)]
    means = []
    for part, context in zip(parts, (nullcontext, nullcontext, again), strict=True):
        with context():
            means.append(getattr(adapter, method)(adapter.load(IMAGES[part], LABELS[part])))
    order = np.concatenate([np.arange(STEPS)[part] for part in parts])
    losses, params = right(IMAGES[order], LABELS[order])
    if method == "train":
        assert all(type(mean) is float for mean in means)
        np.testing.assert_allclose(means, [losses[:3].mean(), losses[3], losses[4:].mean()], **TOLERANCE)
    assert_trained(adapter, params)


def assert_trained(adapter: Adapter, params: Params) -> None:
    """The parameters are these, as far as the logits of other images can tell."""
    found = adapter.infer(adapter.load(PROBES, np.zeros(PROBES.shape[:2], np.int32)))
    right = np.stack([judge.logits(params, images) for images in PROBES])
    np.testing.assert_allclose(found, right, **AFTER_TRAINING)


def keras_train(
    images: np.ndarray, labels: np.ndarray, *, decay: Decay | None = None
) -> tuple[np.ndarray, Params]:
    """The judge with Keras's Adam, which adds epsilon to the root before the root is corrected."""
    weights = judge.weights_of(PARAMS)
    optimizer = judge.AdamState.start(weights)
    losses = []
    for step, (batch, classes) in enumerate(zip(images, labels, strict=True), start=1):
        _, loss, gradient = judge.loss_and_gradient(weights, batch, classes)
        rate = LEARNING_RATE
        if decay is not None:
            gradient, rate = judge.clipped(gradient, decay.clip_norm), rate * decay.share(step - 1)
        with mock.patch.object(judge, "EPSILON", 1e-8 / (1 - judge.B2**step) ** 0.5):
            weights, optimizer = judge.adam_step(weights, gradient, optimizer, learning_rate=rate)
        losses.append(loss)
    return np.array(losses), judge.params_of(weights)


def main(*names: str) -> None:
    """Check adapters of Keras, by class, on the backend that the environment names."""
    module = importlib.import_module("lstm_jax.compare.adapters.keras_lstm")
    loss: Any = importlib.import_module("keras").losses.SparseCategoricalCrossentropy

    @contextmanager
    def nothing_is_traced() -> Iterator[None]:
        before = traced.call_count
        yield
        assert traced.call_count == before

    for name in names:
        build = partial(getattr(module, name), SIZE, PARAMS, learning_rate=LEARNING_RATE)
        check_gradient(build())
        check_inference(build())
        # Tracing comes by here, compiled code does not.
        with mock.patch.object(loss, "call", autospec=True, side_effect=loss.call) as traced:
            check_training(build(), again=nothing_is_traced, right=keras_train)
        assert traced.called
        check_training(build(decay=DECAY), right=partial(keras_train, decay=DECAY))
        assert not build().set_threads(1)
    others = {"jax": ("tensorflow", "torch"), "tensorflow": ("torch",)}[os.environ["KERAS_BACKEND"]]
    assert not set(others) & set(sys.modules)
    print("as the judge says")


if __name__ == "__main__":
    main(*sys.argv[1:])

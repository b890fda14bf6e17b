"""The judge of the comparison: finite differences, Flax's numbers, and optax's Adam."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from lstm_jax import LSTM
from lstm_jax.compare import judge
from lstm_jax.exchange.layouts import split_gates

HIDDEN, BATCH, TIME, INPUTS, STEPS = 5, 3, 4, 2, 6  # all different
LEARNING_RATE = 0.05

# Central differences in float64: the step squared (1e-12) times third derivatives, and a rounding of 1e-16
# divided by the step.
STEP = 1e-6
DIFFERENCES = {"rtol": 1e-6, "atol": 1e-9}
# Two float64 computations of the same values; a float32 one would be wrong in the seventh digit.
FLOAT64 = {"rtol": 1e-11, "atol": 1e-13}


def random_weights() -> judge.JoinedWeights:
    """All random, the biases too, and all gates different."""
    rng = np.random.default_rng(0)
    shapes = ((INPUTS, 4 * HIDDEN), (HIDDEN, 4 * HIDDEN), (4 * HIDDEN,), (HIDDEN, 10), (10,))
    return judge.JoinedWeights(*(rng.normal(size=shape) for shape in shapes))


def random_batches() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(1)
    images = rng.normal(size=(STEPS, BATCH, TIME, INPUTS)).astype(np.float32)
    return images, rng.integers(0, 10, (STEPS, BATCH)).astype(np.int32)


WEIGHTS = random_weights()
PARAMS = judge.params_of(WEIGHTS)
IMAGES, LABELS = random_batches()


def assert_close(actual: Any, expected: Any, **tolerance: float) -> None:
    assert jax.tree.structure(actual) == jax.tree.structure(expected)
    jax.tree.map(lambda one, other: np.testing.assert_allclose(one, other, **tolerance), actual, expected)


@jax.jit
def gradient_in_jax(params: Any, images: Any, labels: Any) -> Any:
    """The same by Flax and optax: the reference implementation, and JAX's own gradient."""

    def loss_of(params: Any) -> tuple[jax.Array, jax.Array]:
        # Not `LSTMClassifier`, whose head is in float32 always.
        layer = LSTM(HIDDEN, implementation="scan", param_dtype=jnp.float64, return_outputs=False)
        _, h = layer.apply({"params": params["lstm_0_forward"]}, images)
        logits = h @ params["head"]["kernel"] + params["head"]["bias"][None]
        return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean(), logits

    (loss, logits), gradients = jax.value_and_grad(loss_of, has_aux=True)(params)
    assert loss.dtype == jnp.float64
    return logits, loss, gradients


@pytest.mark.parametrize("field", judge.JoinedWeights._fields)
def test_every_gradient_is_that_of_finite_differences(field: str) -> None:
    _, _, gradient = judge.loss_and_gradient(WEIGHTS, IMAGES[0], LABELS[0])
    array = getattr(WEIGHTS, field)

    def loss_at(index: tuple[int, ...], change: float) -> float:
        changed = array.copy()
        changed[index] += change
        return judge.loss_and_gradient(WEIGHTS._replace(**{field: changed}), IMAGES[0], LABELS[0])[1]

    differences = np.empty_like(array)
    for index in np.ndindex(array.shape):
        differences[index] = (loss_at(index, STEP) - loss_at(index, -STEP)) / (2 * STEP)
    np.testing.assert_allclose(getattr(gradient, field), differences, **DIFFERENCES)
    assert np.all(np.abs(differences) > DIFFERENCES["atol"])  # none that a zero would pass for


def test_it_agrees_with_the_reference_in_float64() -> None:
    with jax.enable_x64(True):
        logits, *expected = gradient_in_jax(PARAMS, IMAGES[0].astype(np.float64), LABELS[0])
    assert_close(judge.gradient(PARAMS, IMAGES[0], LABELS[0]), tuple(expected), **FLOAT64)
    assert_close(judge.logits(PARAMS, IMAGES[0]), logits, **FLOAT64)


def test_it_trains_as_optax_does_in_float64() -> None:
    losses, params = judge.train(PARAMS, IMAGES, LABELS, learning_rate=LEARNING_RATE)
    optimizer = optax.adam(LEARNING_RATE)

    @jax.jit
    def update(gradients: Any, state: Any, params: Any) -> tuple[Any, Any]:
        updates, state = optimizer.update(gradients, state)
        return optax.apply_updates(params, updates), state

    with jax.enable_x64(True):
        expected: Any = PARAMS
        state = optimizer.init(expected)
        expected_losses = []
        for images, labels in zip(IMAGES.astype(np.float64), LABELS, strict=True):
            _, loss, gradients = gradient_in_jax(expected, images, labels)
            expected, state = update(gradients, state, expected)
            expected_losses.append(float(loss))
    np.testing.assert_allclose(losses, expected_losses, **FLOAT64)
    assert_close(params, expected, **FLOAT64)


def test_it_computes_in_float64_whatever_it_gets() -> None:
    params = jax.tree.map(np.float32, PARAMS)
    answer = judge.gradient(params, IMAGES[0], LABELS[0])
    assert all(np.asarray(array).dtype == np.float64 for array in jax.tree.leaves(answer))
    widened = jax.tree.map(np.float64, params)
    assert_close(answer, judge.gradient(widened, IMAGES[0].astype(np.float64), LABELS[0]), rtol=0)


def test_large_numbers_do_not_overflow() -> None:
    # exp of a thousand is infinite, and warnings are errors.
    large = judge.params_of(judge.JoinedWeights(*(1000 * array for array in WEIGHTS)))
    answer = judge.gradient(large, IMAGES[0], LABELS[0])
    assert all(np.all(np.isfinite(array)) for array in jax.tree.leaves(answer))


def test_the_parameters_come_back_as_they_were() -> None:
    assert_close(judge.params_of(judge.weights_of(PARAMS)), PARAMS, rtol=0)
    cell = split_gates(judge.Joined(*WEIGHTS[:3]))
    assert_close(PARAMS["lstm_0_forward"]["cell"], cell, rtol=0)

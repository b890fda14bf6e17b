"""Readings: the model's own logits, Flax's own gates, the answers to the steps so far, the gradient."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lstm_jax.explain.reading import cells_of, decided_at, lstm_steps, read_steps, saliency
from lstm_jax.model import LSTMClassifier, as_sequence, logits_of
from tests.helpers.mnist import oracle

HIDDEN = 5
ROUNDING = 1e-5
MODELS: dict[str, dict[str, Any]] = {
    "rows": {},
    "stacked": {"num_layers": 2},
    "bidirectional": {"bidirectional": True},
    "both": {"bidirectional": True, "num_layers": 2},
    "columns": {"task": "columns"},
    "pixels": {"task": "pixels"},
    "permuted": {"task": "permuted"},
}


def images(count: int = 2) -> np.ndarray:
    return oracle()["test_images"][:count]


def model_of(name: str) -> tuple[LSTMClassifier, Any]:
    """A model whose weights are large enough for every gate to matter, and biases that are not zero."""
    model = LSTMClassifier(HIDDEN, implementation="scan", **MODELS[name])
    params = model.init(jax.random.key(1), jnp.zeros((1, 28, 28)))["params"]
    keys = iter(jax.random.split(jax.random.key(2), len(jax.tree.leaves(params))))
    return model, jax.tree.map(lambda leaf: leaf + 0.3 * jax.random.normal(next(keys), leaf.shape), params)


@pytest.mark.parametrize("name", MODELS)
def test_the_logits_are_the_models_own(name: str) -> None:
    model, params = model_of(name)
    found = read_steps(model, params, images())
    expected = logits_of(model, params, jnp.asarray(images()))
    np.testing.assert_allclose(found.logits, expected, atol=ROUNDING)
    np.testing.assert_allclose(found.probability[:, -1], jax.nn.softmax(expected), atol=ROUNDING)
    sequence = as_sequence(jnp.asarray(images(), jnp.float32) / 255, model.task, model.permutation_seed)
    # To the last bit of each: XLA of jax 0.10.0 multiplies by the reciprocal.
    np.testing.assert_array_max_ulp(found.sequence, np.asarray(sequence), maxulp=1)
    assert len(found.layers) == model.num_layers
    for layer in found.layers:
        assert sorted(layer) == (["backward", "forward"] if model.bidirectional else ["forward"])
        for steps in layer.values():
            assert {array.shape for array in steps} == {(2, sequence.shape[1], HIDDEN)}


@pytest.mark.parametrize("reverse", [False, True])
def test_the_gates_are_those_of_flax(reverse: bool) -> None:
    model, params = model_of("rows")
    (cell,) = cells_of(model, params)
    sequence = np.asarray(images(1)[0, 8:13] / 255, np.float32)  # where there is ink
    found = lstm_steps(cell["forward"], jnp.asarray(sequence), reverse=reverse)
    carry = (jnp.zeros(HIDDEN), jnp.zeros(HIDDEN))
    for t in reversed(range(5)) if reverse else range(5):
        (carry, _), kept = nn.LSTMCell(HIDDEN).apply(
            {"params": cell["forward"]}, carry, sequence[t], capture_intermediates=True
        )
        z = {
            name: values["__call__"][0]
            for name, values in kept["intermediates"].items()
            if name != "__call__"
        }
        for gate, activation in (("i", nn.sigmoid), ("f", nn.sigmoid), ("g", nn.tanh), ("o", nn.sigmoid)):
            expected = activation(z[f"i{gate}"] + z[f"h{gate}"])
            np.testing.assert_allclose(getattr(found, gate)[t], expected, atol=ROUNDING, err_msg=gate)
        np.testing.assert_allclose(found.cell[t], carry[0], atol=ROUNDING)
        np.testing.assert_allclose(found.hidden[t], carry[1], atol=ROUNDING)


@pytest.mark.parametrize("name", ["rows", "stacked", "bidirectional", "both"])
def test_the_answer_after_some_rows_is_that_to_these_rows_alone(name: str) -> None:
    model, params = model_of(name)
    found = read_steps(model, params, images())
    for length in (1, 13):
        logits = logits_of(model, params, jnp.asarray(images()[:, :length]))
        expected = jax.nn.softmax(logits)
        np.testing.assert_allclose(found.probability[:, length - 1], expected, atol=ROUNDING)


def test_one_image_of_a_reading() -> None:
    model, params = model_of("both")
    found = read_steps(model, params, images(3))
    one = found.of(2)
    np.testing.assert_array_equal(one.logits, found.logits[2:])
    np.testing.assert_array_equal(one.layers[1]["backward"].cell, found.layers[1]["backward"].cell[2:])


def test_the_step_of_the_decision() -> None:
    named = np.eye(3)
    assert decided_at(named[[0, 1, 0, 2, 2]]) == 3
    assert decided_at(named[[2, 2]]) == 0
    assert decided_at(named[[0, 0, 1]]) == 2


@pytest.mark.parametrize("name", MODELS)
def test_saliency_is_the_gradient_of_the_equations(name: str) -> None:
    model, params = model_of(name)
    found = saliency(model, params, images())
    pixels = jnp.asarray(images(), jnp.float32)
    named = np.argmax(read_steps(model, params, images()).logits, axis=1)

    def of_named(pixels: Any) -> Any:
        return sum(read_steps(model, params, pixels).logits[k, named[k]] for k in range(2))

    np.testing.assert_allclose(found, 255 * jax.grad(of_named)(pixels), atol=ROUNDING)


def test_saliency_says_what_a_little_ink_does() -> None:
    model, params = model_of("permuted")
    found = saliency(model, params, images(1))[0]
    named = int(np.argmax(read_steps(model, params, images(1)).logits))
    row, column = np.unravel_index(np.argmax(np.abs(found)), found.shape)
    moved = np.zeros((2, 28, 28), np.float32)
    moved[:, row, column] = (-5, 5)
    logits = logits_of(model, params, jnp.asarray(images(1) + moved))
    slope = float(logits[1, named] - logits[0, named]) / (10 / 255)
    assert slope == pytest.approx(float(found[row, column]), rel=0.02)

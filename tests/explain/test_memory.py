"""Gradients by the hidden state: against the gradient of the rest of the sequence, begun from that state."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from lstm_jax import lstm
from lstm_jax.explain.memory import (
    FORGET_BIASES,
    PLAIN,
    TRAINED,
    hidden_gradients,
    hidden_gradients_of_plain_rnn,
    init_plain_rnn,
    measure_memory,
    pytorch_uniform,
)
from lstm_jax.model import LSTMClassifier
from tests.helpers.mnist import oracle

IMAGES, LABELS = oracle()["test_images"][:3], oracle()["test_labels"][:3].astype(np.int32)


def loss_of(head: Any, features: Any, label: Any) -> Any:
    logits = features @ head["kernel"] + head["bias"]
    return optax.softmax_cross_entropy_with_integer_labels(logits, label)


@pytest.mark.parametrize("layers", [1, 2])
def test_the_gradient_is_that_of_the_rest_of_the_sequence(layers: int) -> None:
    model = LSTMClassifier(6, num_layers=layers, implementation="scan")
    params = model.init(jax.random.key(3), jnp.zeros((1, 28, 28)))["params"]
    found = hidden_gradients(model, params, IMAGES, LABELS)[0]
    inputs = jnp.asarray(IMAGES[0] / 255, jnp.float32)
    for layer in range(layers - 1):
        _, inputs = lstm(params[f"lstm_{layer}_forward"]["cell"], inputs, implementation="scan")
    top = params[f"lstm_{layers - 1}_forward"]["cell"]
    for step in (1, 20):
        (c, h), _ = lstm(top, inputs[:step], implementation="scan")

        def rest(h: Any, c: Any = c, step: int = step) -> Any:
            (_, last), _ = lstm(top, inputs[step:], (c, h), implementation="scan")
            return loss_of(params["head"], last, LABELS[0])

        assert found[step - 1] == pytest.approx(np.linalg.norm(jax.grad(rest)(h)), rel=1e-4)
    (_, h), _ = lstm(top, inputs, implementation="scan")
    at_end = jax.grad(loss_of, argnums=1)(params["head"], h, LABELS[0])
    assert found[-1] == pytest.approx(np.linalg.norm(at_end), rel=1e-4)


def test_a_bidirectional_model_is_measured_in_its_forward_direction() -> None:
    model = LSTMClassifier(4, num_layers=2, bidirectional=True, implementation="scan")
    params = model.init(jax.random.key(3), jnp.zeros((1, 28, 28)))["params"]
    found = hidden_gradients(model, params, IMAGES, LABELS)
    logits = model.apply({"params": params}, jnp.asarray(IMAGES / 255, jnp.float32))
    # The last h goes through the first half of the dense layer alone.
    of_logits = jax.nn.softmax(logits) - jax.nn.one_hot(LABELS, 10)
    expected = np.linalg.norm(of_logits @ params["head"]["kernel"][:4].T, axis=1)
    np.testing.assert_allclose(found[:, -1], expected, rtol=1e-4)


def test_the_gradient_of_a_plain_rnn_is_the_product_of_its_steps() -> None:
    params = init_plain_rnn(jax.random.key(4), "columns", 5)
    found = hidden_gradients_of_plain_rnn(params, IMAGES[:1], LABELS[:1], "columns")[0]
    w_x, w_h = np.float64(params.of_inputs), np.float64(params.of_state)
    hidden = [np.zeros(5)]
    for x in IMAGES[0].T / 255:
        hidden.append(np.tanh(x @ w_x + hidden[-1] @ w_h))
    kernel = np.float64(params.head["kernel"])
    logits = hidden[-1] @ kernel
    gradient = kernel @ (np.exp(logits) / np.exp(logits).sum() - np.eye(10)[LABELS[0]])
    for step in reversed(range(28)):
        assert found[step] == pytest.approx(np.linalg.norm(gradient), rel=1e-4)
        gradient = w_h @ ((1 - hidden[step + 1] ** 2) * gradient)


def test_what_is_measured() -> None:
    model = LSTMClassifier(4, implementation="scan")
    params = model.init(jax.random.key(0), jnp.zeros((1, 28, 28)))["params"]
    found = measure_memory(IMAGES, LABELS, task="rows", hidden_size=4, seeds=(5, 6), trained=(model, params))
    assert found.task == "rows"
    assert list(found.norms) == [*PLAIN, *FORGET_BIASES, TRAINED]
    assert {name: norms.shape for name, norms in found.norms.items()} == {
        **dict.fromkeys((*PLAIN, *FORGET_BIASES), (6, 28)),
        TRAINED: (3, 28),
    }
    biased = LSTMClassifier(4, forget_bias="chrono", implementation="scan")
    own = biased.init(jax.random.key(6), jnp.zeros((1, 28, 28)))["params"]
    np.testing.assert_allclose(
        found.norms["LSTM, chrono"][3:], hidden_gradients(biased, own, IMAGES, LABELS), rtol=1e-5
    )


def test_what_the_text_says_of_784_steps() -> None:
    found = measure_memory(IMAGES, LABELS, task="pixels", hidden_size=8, seeds=(0,)).norms
    left = {name: float(np.median(norms[:, 0] / norms[:, -1])) for name, norms in found.items()}
    assert left["LSTM, chrono"] > 1e-6
    assert left["LSTM, forget bias 1"] < 1e-9
    assert left["LSTM, forget bias 0"] < 1e-30
    assert left["plain RNN, PyTorch's weights"] < 1e-30


def test_weights_as_pytorch_draws_them() -> None:
    drawn = np.asarray(pytorch_uniform(jax.random.key(0), (28, 64)))
    assert np.abs(drawn).max() <= 1 / 8
    assert drawn.std() == pytest.approx(1 / 8 / 3**0.5, rel=0.05)

"""The predictor computes what the model does, in a program that XLA starts at once."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lstm_jax import LSTMClassifier, Predictor
from lstm_jax.kernels.build import why_not_available
from lstm_jax.model import logits_of

IMAGES = np.random.default_rng(0).integers(0, 256, (8, 28, 28), np.uint8)
# XLA counts fewer operations than this, and runs the program on the thread that calls.
FEW_OPERATIONS = 1000


def random_params(model: LSTMClassifier, *, scale: float = 2.0) -> Any:
    params = model.init(jax.random.key(0), jnp.zeros((1, 28, 28)))["params"]
    # Larger than at the start, and no bias zero, so that nothing can be left out unseen.
    return jax.tree.map(lambda leaf: scale * (leaf + 0.01), params)


@pytest.mark.parametrize(
    "options",
    [{}, {"num_layers": 2, "bidirectional": True}, {"task": "columns"}, {"implementation": "scan"}],
    ids=str,
)
def test_its_probabilities_are_those_of_the_model(options: dict[str, Any]) -> None:
    model = LSTMClassifier(hidden_size=5, **options)
    params = random_params(model)
    predict, right = Predictor(model, params), np.asarray(logits_of(model, params, jnp.asarray(IMAGES)))
    for count in (1, 8):
        found = predict(IMAGES[:count])
        assert (found.shape, found.dtype) == ((count, 10), np.float32)
        np.testing.assert_allclose(found, jax.nn.softmax(right[:count]), rtol=1e-4, atol=1e-6)
        logits = predict.logits(IMAGES[:count] / np.float32(255))
        assert logits.dtype == np.float32
        np.testing.assert_allclose(logits, right[:count], rtol=1e-5, atol=1e-5)


def test_large_logits_do_not_overflow() -> None:
    model = LSTMClassifier(hidden_size=5)
    found = Predictor(model, random_params(model, scale=1000.0))(IMAGES)
    np.testing.assert_allclose(found.sum(axis=1), 1, rtol=1e-6)


@pytest.mark.parametrize("count", [1, 8])
def test_xla_starts_it_at_once(count: int) -> None:
    if (reason := why_not_available()) is not None:
        pytest.skip(reason)
    model = LSTMClassifier(num_layers=2, bidirectional=True, implementation="native")
    params = random_params(model)
    features = Predictor(model, params)._features
    inputs = np.zeros((count, 28, 28), np.float32)
    assert _operations(features, inputs) < FEW_OPERATIONS
    # The whole classifier would not be.
    assert _operations(jax.jit(lambda images: logits_of(model, params, images)), inputs) >= FEW_OPERATIONS


def _operations(program: Any, inputs: np.ndarray) -> float:
    return float(program.lower(inputs).compile().cost_analysis()["flops"])


def test_it_compiles_once_for_each_batch_size() -> None:
    model = LSTMClassifier(hidden_size=5)
    predict = Predictor(model, random_params(model))
    for count in (1, 8, 1, 8):
        predict(IMAGES[:count])
    assert predict._features._cache_size() == 2


def test_a_model_without_classes_gives_what_the_dense_layer_reads() -> None:
    model = LSTMClassifier(hidden_size=5, bidirectional=True)
    params, images = random_params(model), jnp.asarray(IMAGES, jnp.float32) / 255
    features = model.clone(num_classes=None).apply({"params": params}, images)
    assert features.shape == (8, 10)
    kernel, bias = (np.asarray(params["head"][name]) for name in ("kernel", "bias"))
    right = model.apply({"params": params}, images)
    np.testing.assert_allclose(np.asarray(features) @ kernel + bias, right, rtol=1e-5, atol=1e-5)

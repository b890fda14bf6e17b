"""Models with random weights, for the tests that carry weights from one framework to another."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lstm_jax.exchange.layouts import Architecture
from lstm_jax.model import LSTMClassifier


def model_of(architecture: Architecture) -> LSTMClassifier:
    _, hidden_size, num_layers, bidirectional, num_classes = architecture
    return LSTMClassifier(
        hidden_size, num_classes, num_layers=num_layers, bidirectional=bidirectional, implementation="scan"
    )


def random_params(architecture: Architecture) -> Any:
    """All random, the biases too."""
    rng = np.random.default_rng(0)
    shapes = jax.eval_shape(
        model_of(architecture).init, jax.random.key(0), jnp.zeros((1, 1, architecture.inputs))
    )["params"]
    return jax.tree.map(lambda leaf: rng.standard_normal(leaf.shape).astype(np.float32), shapes)


def assert_same_bits(actual: Any, expected: Any) -> None:
    assert jax.tree.structure(actual) == jax.tree.structure(expected)
    jax.tree.map(np.testing.assert_array_equal, actual, expected)

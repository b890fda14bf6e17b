"""Does an installed wheel bring its kernel? Run from anywhere: ``python tests/wheel_check.py``.

It needs what `pip install WHEEL` brings, and no compiler is found while it runs: the kernel is the one in the
wheel. Two steps of gradient descent with it are compared with `scan`, in Linen, in NNX and by the function.
"""

import os

os.environ["CXX"] = "no-compiler"

import importlib.util
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

import lstm_jax.nnx
from lstm_jax import LSTM, lstm
from lstm_jax.kernels import build, library

TOLERANCE = 1e-5  # float32, summed up in another order
HIDDEN = 20
INPUTS = jax.random.normal(jax.random.key(1), (7, 9, 5))


def losses(params: Any, outputs: Callable[[Any], Any]) -> jax.Array:
    """Return the losses of two steps, and of the parameters after them."""

    @jax.jit
    @jax.value_and_grad
    def loss(params):
        return jnp.mean((outputs(params) - 0.5) ** 2)

    values = []
    for _ in range(2):
        value, gradients = loss(params)
        values.append(value)
        params = jax.tree.map(lambda old, by: old - 0.5 * by, params, gradients)
    return jnp.array([*values, loss(params)[0]])


def linen(implementation: str) -> jax.Array:
    layer = LSTM(HIDDEN, implementation)
    return losses(layer.init(jax.random.key(0), INPUTS), lambda params: layer.apply(params, INPUTS))


def function(implementation: str) -> jax.Array:
    params = LSTM(HIDDEN).init(jax.random.key(0), INPUTS)["params"]["cell"]
    return losses(params, lambda params: lstm(params, INPUTS, implementation=implementation)[1])


def of_nnx(implementation: str) -> jax.Array:
    cell = nnx.LSTMCell(INPUTS.shape[-1], HIDDEN, rngs=nnx.Rngs(0))
    graph, weights, others = nnx.split(lstm_jax.nnx.LSTM(cell, implementation=implementation), nnx.Param, ...)
    zeros = (jnp.zeros((len(INPUTS), HIDDEN)),) * 2
    return losses(weights, lambda weights: nnx.merge(graph, weights, others)(INPUTS, initial_carry=zeros))


def what_training_misses() -> str:
    """What the package says where the packages of training are not installed."""
    try:
        lstm_jax.Config  # noqa: B018  the access is what is tested
    except ImportError as error:
        return str(error)
    return ""


if __name__ == "__main__":
    assert list(library.PREBUILT.glob("*.so")), f"{lstm_jax.__file__} has no kernels beside it"
    for train in (linen, function, of_nnx):
        native, scan = train("native"), train("scan")
        assert jnp.abs(native - scan).max() < TOLERANCE, (train, native, scan)
        assert native[2] < native[0], (train, native)
    assert build.why_not_available() is None
    if importlib.util.find_spec("tyro") is None:
        assert what_training_misses().endswith('pip install "lstm_jax[train]"'), what_training_misses()
    variant = library.best_variant()
    print("two steps with", variant.name if variant else None, "of", lstm_jax.__file__)

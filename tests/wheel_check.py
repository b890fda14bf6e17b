"""Does an installed wheel bring its kernel? Run from anywhere: ``python tests/wheel_check.py``.

It needs jax, flax, numpy and the wheel. No compiler is found while it runs, so the kernel is the one in the
wheel. Two steps of gradient descent with it are compared with `scan`.
"""

import os

os.environ["CXX"] = "no-compiler"

import jax
import jax.numpy as jnp

import lstm_jax
from lstm_jax import LSTM
from lstm_jax.kernels import build, library

TOLERANCE = 1e-5  # float32, summed up in another order


def train(implementation: str) -> jax.Array:
    """Return the losses of two steps, and of the weights after them."""
    layer = LSTM(20, implementation)
    inputs = jax.random.normal(jax.random.key(1), (7, 9, 5))
    params = layer.init(jax.random.key(0), inputs)

    @jax.jit
    @jax.value_and_grad
    def loss(params):
        return jnp.mean((layer.apply(params, inputs) - 0.5) ** 2)

    losses = []
    for _ in range(2):
        value, gradients = loss(params)
        losses.append(value)
        params = jax.tree.map(lambda old, by: old - 0.5 * by, params, gradients)
    return jnp.array([*losses, loss(params)[0]])


if __name__ == "__main__":
    assert list(library.PREBUILT.glob("*.so")), f"{lstm_jax.__file__} has no kernels beside it"
    native, scan = train("native"), train("scan")
    assert build.why_not_available() is None
    assert jnp.abs(native - scan).max() < TOLERANCE, (native, scan)
    assert native[2] < native[0], native
    variant = library.best_variant()
    print("two steps with", variant.name if variant else None, "of", lstm_jax.__file__)

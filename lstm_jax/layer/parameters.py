"""The parameters of the layer: the tree of `nn.LSTMCell`, without its computation.

Every implementation reads them from here. So a checkpoint of one is a checkpoint of all, and of Flax.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.linen import initializers
from flax.typing import Dtype, Initializer
from jaxtyping import Array, Key

from lstm_jax.kernels.gate_order import GATES
from lstm_jax.kernels.interface import AxisSize
from lstm_jax.layer.wrappers import chrono_bias


def orthogonal(key: Key[Array, ""], shape: Sequence[int], dtype: Any = jnp.float32) -> Array:
    """Draw an orthogonal matrix as `jax.nn.initializers.orthogonal` does, in any dtype of floats.

    JAX decomposes matrices in float32 and float64 only. What is narrower is drawn in float32 and rounded.

    Args:
        key: the random key.
        shape: two or more axes; the last counts the columns.
        dtype: of the result.
    """
    if jnp.dtype(dtype).itemsize < jnp.dtype(jnp.float32).itemsize:
        return _ORTHOGONAL(key, shape, jnp.float32).astype(dtype)
    return _ORTHOGONAL(key, shape, dtype)


_ORTHOGONAL = initializers.orthogonal()


class LSTMCellParameters(nn.Module):
    """The parameters of an `nn.LSTMCell`, declared under its names, with its initial values.

    ``setup`` does all the work. `capture_intermediates` and `tabulate` would take a call of another method
    for a computation.
    """

    features: int
    num_inputs: int
    forget_bias: float | str
    time: AxisSize
    kernel_init: Initializer
    recurrent_kernel_init: Initializer
    bias_init: Initializer
    param_dtype: Dtype

    def setup(self) -> None:
        """Declare the parameters of each gate."""
        shifts = self._bias_shifts()
        for gate in GATES:
            bias_init = _shifted(self.bias_init, shifts[gate]) if gate in shifts else self.bias_init
            of_inputs = {"kernel": ((self.num_inputs, self.features), self.kernel_init)}
            of_state = {
                "kernel": ((self.features, self.features), self.recurrent_kernel_init),
                "bias": ((self.features,), bias_init),
            }
            setattr(self, f"i{gate}", DenseParameters(of_inputs, self.param_dtype))
            setattr(self, f"h{gate}", DenseParameters(of_state, self.param_dtype))

    @nn.nowrap
    def _bias_shifts(self) -> dict[str, float | Array]:
        """Return what to add to the initial biases of some gates."""
        if not isinstance(self.forget_bias, str):
            return {"f": self.forget_bias}
        if self.forget_bias != "chrono":
            raise ValueError(f"forget_bias: got {self.forget_bias!r}, expected a number or 'chrono'")
        if not self.is_initializing():
            return {}  # the biases exist already
        bias = chrono_bias(self.make_rng("params"), self.features, self.time)
        return {"f": bias, "i": -bias}


class DenseParameters(nn.Module):
    """The parameters of an `nn.Dense`, without its computation: {name: (shape, initializer)}."""

    shapes_and_inits: Mapping[str, tuple[tuple[int, ...], Initializer]]
    param_dtype: Dtype

    def setup(self) -> None:
        """Declare the parameters."""
        self.arrays = {
            name: self.param(name, init, shape, self.param_dtype)
            for name, (shape, init) in self.shapes_and_inits.items()
        }


def _shifted(init: Initializer, by: float | Array) -> Initializer:
    """Add ``by`` to the values of ``init``, which may be in a box that says how they are sharded."""

    def shifted(key: Array, shape: tuple[int, ...], dtype: Any) -> Any:
        return jax.tree.map(lambda bias: bias + jnp.asarray(by, dtype), init(key, shape, dtype))

    return shifted

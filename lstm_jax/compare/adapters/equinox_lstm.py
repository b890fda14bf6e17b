"""Equinox: ``eqx.nn.LSTMCell`` in `jax.lax.scan`, for one sequence, and `jax.vmap` over the batch.

Equinox's example "Train RNN" and the documentation of its recurrent cells write it so: layers take single
examples, and the final state of the scan goes to a linear layer. A model is a pytree of only its parameters.
So JAX's transformations and optax accept it as it is ("All of Equinox": models as pytrees), and
``eqx.filter_jit`` would compile to the same program. It is made by ``eqx.filter_eval_shape``, as in the
documentation of ``eqx.tree_deserialise_leaves``, because its values come from elsewhere.

The cell has the state (h, c), kernels (4H, D) and (4H, H), and one bias; ``eqx.nn.Linear`` has (10, H).
"""

import functools
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float32

from lstm_jax.compare.adapter import NUM_CLASSES
from lstm_jax.compare.adapters.in_jax import Images, InJax, Logits, Model, Tree, joined
from lstm_jax.compare.size import Size
from lstm_jax.exchange.layouts import Params

Layer = Callable[[eqx.nn.LSTMCell, Float32[Array, "time inputs"]], Float32[Array, " hidden"]]


def last_output(cell: eqx.nn.LSTMCell, image: Float32[Array, "time inputs"]) -> Float32[Array, " hidden"]:
    """Scan a cell over the rows of an image, and return the last output."""
    zeros = jnp.zeros(cell.hidden_size)
    (h, _), _ = jax.lax.scan(lambda state, x: (cell(x, state), None), (zeros, zeros), image)
    return h


class Classifier(eqx.Module):
    """An LSTM and a linear layer, for a single image."""

    cell: eqx.nn.LSTMCell
    head: eqx.nn.Linear
    layer: Layer = eqx.field(static=True)

    def __init__(self, size: Size, layer: Layer, *, key: Array) -> None:
        cell_key, head_key = jax.random.split(key)
        self.cell = eqx.nn.LSTMCell(size.inputs, size.hidden, key=cell_key)
        self.head = eqx.nn.Linear(size.hidden, NUM_CLASSES, key=head_key)
        self.layer = layer

    def __call__(self, image: Float32[Array, "time inputs"]) -> Float32[Array, " classes"]:
        """Compute the logits of one image."""
        return self.head(self.layer(self.cell, image))


@functools.cache
def classifier(size: Size, layer: Layer = last_output) -> Model:
    """Make a model of the module; its parameters are the module itself."""
    skeleton = eqx.filter_eval_shape(Classifier, size, layer, key=jax.random.key(0))

    def logits(own: Tree, images: Images) -> Logits:
        return jax.vmap(own)(images)

    def arrays_of(module: Tree) -> tuple[Any, ...]:
        cell, head = module.cell, module.head
        return cell.weight_ih, cell.weight_hh, cell.bias, head.weight, head.bias

    def to_own(params: Params) -> Tree:
        input_kernel, recurrent_kernel, bias = joined(params["lstm_0_forward"]["cell"], "ifgo")
        head = jnp.transpose(params["head"]["kernel"]), params["head"]["bias"]
        return eqx.tree_at(arrays_of, skeleton, (input_kernel.T, recurrent_kernel.T, bias, *head))

    return Model(logits, to_own)


class Equinox(InJax):
    """``eqx.nn.LSTMCell`` in `jax.lax.scan`."""

    model = staticmethod(classifier)

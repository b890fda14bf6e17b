"""Flax NNX: ``nnx.RNN(nnx.OptimizedLSTMCell)``.

The layer is used as in the documentation of `flax.nnx.RNN`, with the cell that it calls more efficient. The
training loop is the "functional training loop" of Flax's guide "Performance considerations": the module is
split once into its structure and its parameters, and merged again inside of the compiled step. The module is
made by ``nnx.eval_shape``, as in the guide "Save and load checkpoints", because its values come from
elsewhere.

The cell has kernels (D, 4H) and (H, 4H), and one bias.
"""

import functools
from collections.abc import Callable
from typing import Any

from flax import nnx

from lstm_jax.compare.adapter import NUM_CLASSES
from lstm_jax.compare.adapters.in_jax import Images, InJax, Logits, Model, Tree, joined
from lstm_jax.compare.size import Size
from lstm_jax.exchange.layouts import Params


class Classifier(nnx.Module):
    """A layer of `nnx.OptimizedLSTMCell`, such as ``nnx.RNN``, and a dense layer."""

    def __init__(self, size: Size, layer: Callable[..., Any], *, rngs: nnx.Rngs) -> None:
        cell = nnx.OptimizedLSTMCell(size.inputs, size.hidden, rngs=rngs)
        # rngs=False: else it would keep a stream of random keys for initial carries. The call passes one.
        self.lstm = layer(cell, return_carry=True, rngs=False)
        self.head = nnx.Linear(size.hidden, NUM_CLASSES, rngs=rngs)

    def __call__(self, images: Images) -> Logits:
        """Compute the logits of images, from the output in the final state."""
        (_, h), _ = self.lstm(images, rngs=nnx.Rngs(0))
        return self.head(h)


@functools.cache
def classifier(size: Size, layer: Callable[..., Any] = nnx.RNN) -> Model:
    """Make a model of the module; its parameters are a nested dictionary of arrays."""
    structure, _ = nnx.split(nnx.eval_shape(lambda: Classifier(size, layer, rngs=nnx.Rngs(0))))

    def logits(own: Tree, images: Images) -> Logits:
        return nnx.merge(structure, own)(images)

    def to_own(params: Params) -> Tree:
        input_kernel, recurrent_kernel, bias = joined(params["lstm_0_forward"]["cell"], "ifgo")
        dense = {"dense_i": {"kernel": input_kernel}, "dense_h": {"kernel": recurrent_kernel, "bias": bias}}
        return {"lstm": {"cell": dense}, "head": params["head"]}

    return Model(logits, to_own)


class NNX(InJax):
    """``nnx.RNN(nnx.OptimizedLSTMCell)``."""

    model = staticmethod(classifier)

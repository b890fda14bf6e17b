"""Flax Linen, in the ways in which its users write an LSTM.

* `RNN`: ``nn.RNN`` around a cell, as in the encoder of Flax's example ``seq2seq`` and in the documentation of
  `flax.linen.RNN`. `OptimizedRNN` has ``nn.OptimizedLSTMCell``, with the same parameters, which Flax's
  documentation calls more efficient.
* `Scan`: ``nn.scan`` of ``nn.LSTMCell``, which is the example in the documentation of `flax.linen.scan`, and
  part of Flax's example ``sst2``.

All take the last output from the final state, as the encoder of ``seq2seq`` does. The names and shapes of the
cells' parameters are those of the exchanged layout.
"""

import functools
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.typing import Dtype

from lstm_jax.compare.adapter import NUM_CLASSES
from lstm_jax.compare.adapters.in_jax import Images, InJax, Logits, Model, Tree
from lstm_jax.compare.size import Size
from lstm_jax.exchange.layouts import Params


class RNNClassifier(nn.Module):
    """``nn.RNN`` around a class of cells, and a dense layer."""

    hidden: int
    cell: type[nn.LSTMCell | nn.OptimizedLSTMCell]
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, images: Images) -> Logits:
        """Compute the logits of images."""
        (_, h), _ = nn.RNN(self.cell(self.hidden, dtype=self.dtype, name="cell"), return_carry=True)(images)
        return nn.Dense(NUM_CLASSES, name="head")(h)


class ScanClassifier(nn.Module):
    """``nn.scan`` of a cell, and a dense layer."""

    hidden: int

    @nn.compact
    def __call__(self, images: Images) -> Logits:
        """Compute the logits of images."""
        scanned = nn.scan(
            nn.LSTMCell, variable_broadcast="params", split_rngs={"params": False}, in_axes=1, out_axes=1
        )
        cell = scanned(self.hidden, name="cell")
        carry = cell.initialize_carry(jax.random.key(0), images[:, 0].shape)
        (_, h), _ = cell(carry, images)
        return nn.Dense(NUM_CLASSES, name="head")(h)


@functools.cache
def classifier(size: Size, module: type[nn.Module], **options: Any) -> Model:
    """Make a model of a module."""
    made = module(size.hidden, **options)

    def logits(own: Tree, images: Images) -> Logits:
        return made.apply({"params": own}, images)  # type: ignore[return-value]  # Flax: it may be a pair

    def to_own(params: Params) -> Tree:
        return {"cell": params["lstm_0_forward"]["cell"], "head": params["head"]}

    return Model(logits, to_own)


class RNN(InJax):
    """``nn.RNN(nn.LSTMCell)``."""

    model = partial(classifier, module=RNNClassifier, cell=nn.LSTMCell)


class BFloat16RNN(InJax):
    """``nn.RNN(nn.LSTMCell)`` that computes in bfloat16, with parameters in float32."""

    model = partial(classifier, module=RNNClassifier, cell=nn.LSTMCell, dtype=jnp.bfloat16)


class OptimizedRNN(InJax):
    """``nn.RNN(nn.OptimizedLSTMCell)``."""

    model = partial(classifier, module=RNNClassifier, cell=nn.OptimizedLSTMCell)


class Scan(InJax):
    """``nn.scan(nn.LSTMCell)``."""

    model = partial(classifier, module=ScanClassifier)

"""Flax Linen, in the ways in which its users write an LSTM.

* `RNN`: ``nn.RNN`` around a cell, as Flax's example ``seq2seq`` has its encoder and the documentation of
  `flax.linen.RNN` shows. `OptimizedRNN` has ``nn.OptimizedLSTMCell``, which Flax's documentation calls the
  more efficient one of the two cells that have the same parameters.
* `Scan`: ``nn.scan`` of ``nn.LSTMCell``, as in the documentation of `flax.linen.scan`, whose example is this
  very layer, and in Flax's example ``sst2``.

All take the last output from the final state, which the encoder of ``seq2seq`` does too. The names and
shapes of the cells' parameters are those that are exchanged.
"""

import functools
from functools import partial
from typing import Any

import flax.linen as nn
import jax

from lstm_jax.compare.adapter import NUM_CLASSES
from lstm_jax.compare.adapters.in_jax import Images, InJax, Logits, Model, Tree
from lstm_jax.compare.size import Size
from lstm_jax.exchange.layouts import Params


class RNNClassifier(nn.Module):
    """``nn.RNN`` around a class of cells, and a dense layer."""

    hidden: int
    cell: type[nn.LSTMCell | nn.OptimizedLSTMCell]

    @nn.compact
    def __call__(self, images: Images) -> Logits:
        """The logits of images."""
        (_, h), _ = nn.RNN(self.cell(self.hidden, name="cell"), return_carry=True)(images)
        return nn.Dense(NUM_CLASSES, name="head")(h)


class ScanClassifier(nn.Module):
    """``nn.scan`` of a cell, and a dense layer."""

    hidden: int

    @nn.compact
    def __call__(self, images: Images) -> Logits:
        """The logits of images."""
        scanned = nn.scan(
            nn.LSTMCell, variable_broadcast="params", split_rngs={"params": False}, in_axes=1, out_axes=1
        )
        cell = scanned(self.hidden, name="cell")
        carry = cell.initialize_carry(jax.random.key(0), images[:, 0].shape)
        (_, h), _ = cell(carry, images)
        return nn.Dense(NUM_CLASSES, name="head")(h)


@functools.cache
def classifier(size: Size, module: type[nn.Module], **options: Any) -> Model:
    """A module as a model."""
    made = module(size.hidden, **options)

    def logits(own: Tree, images: Images) -> Logits:
        return made.apply({"params": own}, images)  # type: ignore[return-value]  # Flax: it may be a pair

    def to_own(params: Params) -> Tree:
        return {"cell": params["lstm_0_forward"]["cell"], "head": params["head"]}

    return Model(logits, to_own)


class RNN(InJax):
    """``nn.RNN(nn.LSTMCell)``."""

    model = partial(classifier, module=RNNClassifier, cell=nn.LSTMCell)


class OptimizedRNN(InJax):
    """``nn.RNN(nn.OptimizedLSTMCell)``."""

    model = partial(classifier, module=RNNClassifier, cell=nn.OptimizedLSTMCell)


class Scan(InJax):
    """``nn.scan(nn.LSTMCell)``."""

    model = partial(classifier, module=ScanClassifier)

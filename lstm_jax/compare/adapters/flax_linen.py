"""Flax Linen, in the two ways in which its users write an LSTM.

* `RNN`: ``nn.RNN`` around a cell, as Flax's example ``seq2seq`` has its encoder and the documentation of
  `flax.linen.RNN` shows; the cell is ``nn.OptimizedLSTMCell``, which Flax's documentation calls the more
  efficient one of the two that have the same parameters.
* `Scan`: ``nn.scan`` of ``nn.LSTMCell``, as in the documentation of `flax.linen.scan`, whose example is this
  very layer, and in Flax's example ``sst2``.

Both take the last output from the final state, which the encoder of ``seq2seq`` does too. The names and
shapes of the cells' parameters are those that are exchanged.
"""

import functools

import flax.linen as nn
import jax

from lstm_jax.benchmark.size import Size
from lstm_jax.compare.adapter import NUM_CLASSES, Decay, Params
from lstm_jax.compare.adapters.in_jax import Images, InJax, Logits, Model, Tree


class RNNClassifier(nn.Module):
    """``nn.RNN`` and a dense layer.

    Attributes:
        hidden: hidden units.
    """

    hidden: int

    @nn.compact
    def __call__(self, images: Images) -> Logits:
        """The logits of images."""
        (_, h), _ = nn.RNN(nn.OptimizedLSTMCell(self.hidden, name="cell"), return_carry=True)(images)
        return nn.Dense(NUM_CLASSES, name="head")(h)


class ScanClassifier(nn.Module):
    """``nn.scan`` and a dense layer.

    Attributes:
        hidden: hidden units.
    """

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
def classifier(module: RNNClassifier | ScanClassifier) -> Model:
    """A module as a model."""

    def logits(own: Tree, images: Images) -> Logits:
        return module.apply({"params": own}, images)  # type: ignore[return-value]  # Flax: it may be a pair

    return Model(logits, to_own, to_params)


def to_own(params: Params) -> Tree:
    """The parameters under the names in the modules above."""
    return {"cell": params["lstm_0_forward"]["cell"], "head": params["head"]}


def to_params(own: Tree) -> Params:
    """The inverse of `to_own`."""
    return {"lstm_0_forward": {"cell": own["cell"]}, "head": own["head"]}


class RNN(InJax):
    """``nn.RNN(nn.OptimizedLSTMCell)``."""

    def __init__(
        self, size: Size, params: Params, *, learning_rate: float, decay: Decay | None = None
    ) -> None:
        super().__init__(
            classifier(RNNClassifier(size.hidden)), params, learning_rate=learning_rate, decay=decay
        )


class Scan(InJax):
    """``nn.scan(nn.LSTMCell)``."""

    def __init__(
        self, size: Size, params: Params, *, learning_rate: float, decay: Decay | None = None
    ) -> None:
        super().__init__(
            classifier(ScanClassifier(size.hidden)), params, learning_rate=learning_rate, decay=decay
        )

"""lstm_jax for Equinox: `lstm_jax.equinox.LSTM` in the place of a scan, all else as in `equinox_lstm`."""

from functools import partial

import equinox as eqx
from jaxtyping import Array, Float32

from lstm_jax.compare.adapters.equinox_lstm import classifier
from lstm_jax.compare.adapters.in_jax import InKernel
from lstm_jax.equinox import LSTM


def last_output(cell: eqx.nn.LSTMCell, image: Float32[Array, "time inputs"]) -> Float32[Array, " hidden"]:
    """Apply the layer to the rows of an image, and return the last output."""
    (h, _), _ = LSTM(cell, implementation="native")(image)
    return h


class Native(InKernel):
    """The C++ kernel."""

    model = partial(classifier, layer=last_output)

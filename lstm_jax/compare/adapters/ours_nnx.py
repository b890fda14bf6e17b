"""lstm_jax for Flax NNX: `lstm_jax.nnx.LSTM` in the place of ``nnx.RNN``, all else as in `flax_nnx`."""

from functools import partial

from lstm_jax.compare.adapters.flax_nnx import classifier
from lstm_jax.compare.adapters.in_jax import InKernel
from lstm_jax.nnx import LSTM

# One object, because models are kept by their arguments.
LAYER = partial(LSTM, implementation="native")


class Native(InKernel):
    """The C++ kernel."""

    model = partial(classifier, layer=LAYER)

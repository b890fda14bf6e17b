"""lstm_jax's `Predictor`: the classifier compiled with its weights inside, called batch by batch."""

import numpy as np
from jaxtyping import Float32

from lstm_jax.compare.adapter import Decay, OfArrays
from lstm_jax.compare.size import Size
from lstm_jax.exchange.layouts import Params
from lstm_jax.model import LSTMClassifier
from lstm_jax.predictor import Predictor


class Compiled(OfArrays):
    """A predictor."""

    def __init__(
        self, size: Size, params: Params, *, learning_rate: float, decay: Decay | None = None
    ) -> None:
        self._predictor = Predictor(LSTMClassifier(hidden_size=size.hidden), params)

    def logits(
        self, images: Float32[np.ndarray, "batch time inputs"]
    ) -> Float32[np.ndarray, "batch classes"]:
        """Compute the logits of a batch."""
        return self._predictor.logits(images)

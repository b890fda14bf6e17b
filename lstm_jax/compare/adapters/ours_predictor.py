"""lstm_jax's `Predictor`: the classifier compiled with its weights inside, called batch by batch."""

import numpy as np
from jaxtyping import Float32, Int32

from lstm_jax.compare.adapter import Adapter, Decay
from lstm_jax.compare.size import Size
from lstm_jax.exchange.layouts import Params
from lstm_jax.model import LSTMClassifier
from lstm_jax.predictor import Predictor


class Compiled(Adapter):
    """A predictor."""

    def __init__(
        self, size: Size, params: Params, *, learning_rate: float, decay: Decay | None = None
    ) -> None:
        self._predictor = Predictor(LSTMClassifier(hidden_size=size.hidden), params)

    def load(
        self,
        images: Float32[np.ndarray, "steps batch time inputs"],
        labels: Int32[np.ndarray, "steps batch"],
    ) -> Float32[np.ndarray, "steps batch time inputs"]:
        """Return the images as they are: it reads NumPy arrays."""
        return images

    def infer(
        self, batches: Float32[np.ndarray, "steps batch time inputs"]
    ) -> Float32[np.ndarray, "steps batch classes"]:
        """Compute the logits of all batches."""
        return np.stack([self._predictor.logits(images) for images in batches])

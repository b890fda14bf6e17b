"""The classifier for answers one at a time: compiled with its weights inside, NumPy arrays in and out.

What takes the time of so small a call is what surrounds the arithmetic. On a CPU, XLA hands a program to
another thread, which must wake up, unless it counts less than a thousand operations in it, and it counts none
in the native kernel. So the program is the LSTM alone, and runs at once on the thread that calls. The rest of
the classifier takes NumPy some microseconds.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float32, UInt8

from lstm_jax.model import HEAD, LSTMClassifier, Params


class Predictor:
    """A trained classifier as a function of images.

    It is compiled at the first call with each batch size.

    Example::

        >>> import jax, jax.numpy as jnp, numpy as np
        >>> from lstm_jax import LSTMClassifier, Predictor
        >>> model = LSTMClassifier(hidden_size=64)
        >>> params = model.init(jax.random.key(0), jnp.ones((1, 28, 28)))["params"]
        >>> predict = Predictor(model, params)
        >>> predict(np.zeros((1, 28, 28), np.uint8)).shape
        (1, 10)

    Args:
        model: the classifier.
        params: its parameters.
    """

    def __init__(self, model: LSTMClassifier, params: Params) -> None:
        head = params[HEAD]
        self._kernel, self._bias = np.asarray(head["kernel"]), np.asarray(head["bias"])
        below = {name: part for name, part in params.items() if name != HEAD}
        weights = {"params": jax.tree.map(jnp.asarray, below)}
        self._features = jax.jit(partial(model.clone(num_classes=None).apply, weights))

    def __call__(self, images: UInt8[np.ndarray, "batch 28 28"]) -> Float32[np.ndarray, "batch classes"]:
        """Compute the probability of each class for images of grey levels, white (255) on black."""
        logits = self.logits(images / np.float32(255))
        shares = np.exp(logits - logits.max(axis=1, keepdims=True))
        return shares / shares.sum(axis=1, keepdims=True)

    def logits(
        self, inputs: Float32[np.ndarray, "batch rows columns"]
    ) -> Float32[np.ndarray, "batch classes"]:
        """Compute the logits of images with values from 0 to 1, or of whatever the model was trained on."""
        return np.asarray(self._features(inputs)) @ self._kernel + self._bias

"""The interface of an adapter: one framework's LSTM classifier behind the few calls of the harness.

The model is that of `lstm_jax.model`: one LSTM layer from a zero state over sequences (B, T, D), a dense
layer on the output h_T of the last step, softmax cross-entropy averaged over the batch, and Adam with
b1 = 0.9, b2 = 0.999, epsilon = 1e-8 and without weight decay; all in float32. Its parameters are exchanged in
the layout of `LSTMClassifier`, {"lstm_0_forward": {"cell": ...}, "head": ...}, as NumPy arrays.

To add a framework, write its adapter in `adapters/` (one in JAX needs only a `Model`, see
`adapters/in_jax.py`), and name it in `frameworks.py`. An adapter has its own process (`worker.py`), which
imports no other framework. The module of the adapter imports its framework.
"""

from abc import abstractmethod
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float32, Int32

from lstm_jax.compare.size import Size
from lstm_jax.exchange.layouts import Params

NUM_CLASSES = 10


class Decay(NamedTuple):
    """The learning rate schedule and gradient clipping of a recipe, as in `lstm_jax.optimizer`.

    Attributes:
        warmup: steps over which the learning rate rises linearly.
        total: steps after which it has fallen linearly to zero.
        clip_norm: gradients of a larger global norm are scaled down to this norm.
    """

    warmup: int
    total: int
    clip_norm: float

    def lines(self, step: Any) -> tuple[Any, Any]:
        """Return the values of the rising and the falling line at a step, counted from 0.

        The smaller one is the learning rate as a share of its largest value. ``step`` may be a number or an
        array of any framework.
        """
        return (step + 1) / (self.warmup + 1), (self.total - step) / (self.total - self.warmup)

    def share(self, step: int) -> float:
        """Return the learning rate of a step, counted from 0, as a share of its largest value."""
        return min(self.lines(step))


@runtime_checkable  # for type checks at run time
class Adapter(Protocol):
    """A classifier for inference. Its methods return when the work is done."""

    def __init__(
        self, size: Size, params: Params, *, learning_rate: float, decay: Decay | None = None
    ) -> None:
        """Build the model with these parameters, and a new optimizer."""

    def load(
        self,
        images: Float32[np.ndarray, "steps batch time inputs"],
        labels: Int32[np.ndarray, "steps batch"],
    ) -> Any:
        """Convert the batches to the form that the framework uses."""

    def infer(self, batches: Any) -> Float32[np.ndarray, "steps batch classes"]:
        """Compute the logits of all batches, on the host. This is timed."""

    def set_threads(self, count: int) -> bool:
        """Compute with so many threads from now on.

        Returns:
            False if the framework distributes its work among the cores by itself; then nothing changes.
        """
        return False


class OfArrays(Adapter):
    """An adapter for inference that reads and returns NumPy arrays, one batch in a call."""

    def load(
        self,
        images: Float32[np.ndarray, "steps batch time inputs"],
        labels: Int32[np.ndarray, "steps batch"],
    ) -> Float32[np.ndarray, "steps batch time inputs"]:
        """Return the images as they are."""
        return images

    def infer(
        self, batches: Float32[np.ndarray, "steps batch time inputs"]
    ) -> Float32[np.ndarray, "steps batch classes"]:
        """Compute the logits of all batches."""
        return np.stack([self.logits(images) for images in batches])

    @abstractmethod
    def logits(
        self, images: Float32[np.ndarray, "batch time inputs"]
    ) -> Float32[np.ndarray, "batch classes"]:
        """Compute the logits of a batch."""


@runtime_checkable
class Trainer(Adapter, Protocol):
    """A classifier for training, too. The timed code is what a user would write for speed."""

    def train(self, batches: Any) -> float:
        """Take one train step with each of the batches, in their order. This is timed.

        Returns:
            The mean of the losses, each taken before its step.
        """

    def gradients(self, batches: Any) -> tuple[float, Any]:
        """Compute mean loss and mean gradients of the batches, at the present parameters. This is timed.

        Returns:
            The loss in nats, and the gradients in the framework's own form.
        """

    def exchanged(self, gradients: Any) -> Params:
        """Convert gradients to the layout in which parameters are exchanged."""

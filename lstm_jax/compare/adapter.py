"""What an adapter is: one framework's LSTM classifier behind the few calls that the harness makes.

The model is that of `lstm_jax.model`: one layer of LSTM from a zero state over sequences (B, T, D), a dense
layer on the output h_T of the last step, softmax cross-entropy averaged over the batch, and Adam with
b1 = 0.9, b2 = 0.999, epsilon = 1e-8 and without weight decay; all in float32. Its parameters are exchanged in
the layout of `LSTMClassifier`, {"lstm_0_forward": {"cell": ...}, "head": ...}, as NumPy arrays.

To add a framework: write its adapter in `adapters/` (one in JAX needs only a `Model`, see
`adapters/in_jax.py`), and name it in `frameworks.py`. An adapter lives in a process of its own
(`worker.py`), which imports no other framework; importing its module imports its framework.
"""

from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float32, Int32

from lstm_jax.compare.size import Size
from lstm_jax.exchange.layouts import Params

NUM_CLASSES = 10


class Decay(NamedTuple):
    """What a recipe may have besides Adam at a constant rate, as `lstm_jax.optimizer` defines it.

    Attributes:
        warmup: steps over which the learning rate rises linearly.
        total: steps after which it has fallen linearly to nothing.
        clip_norm: gradients of a larger global norm are scaled down to this one.
    """

    warmup: int
    total: int
    clip_norm: float

    def lines(self, step: Any) -> tuple[Any, Any]:
        """The two lines at a step, counted from 0; the lower is the share of the largest learning rate.

        In whatever a framework counts its steps with.
        """
        return (step + 1) / (self.warmup + 1), (self.total - step) / (self.total - self.warmup)

    def share(self, step: int) -> float:
        """The learning rate of a step, counted from 0, as a share of its largest."""
        return min(self.lines(step))


@runtime_checkable  # so that type checkers at run time accept it as a hint
class Adapter(Protocol):
    """A classifier that infers. Its functions return when the work is done."""

    def __init__(
        self, size: Size, params: Params, *, learning_rate: float, decay: Decay | None = None
    ) -> None:
        """Build the model with these parameters, and an optimizer at its start."""

    def load(
        self,
        images: Float32[np.ndarray, "steps batch time inputs"],
        labels: Int32[np.ndarray, "steps batch"],
    ) -> Any:
        """The batches as the framework wants to have them."""

    def infer(self, batches: Any) -> Float32[np.ndarray, "steps batch classes"]:
        """The logits of all batches, on the host. This is timed."""

    def set_threads(self, count: int) -> bool:
        """Compute with so many threads from now on.

        Returns:
            False if the framework shares out its work among the cores by itself; then nothing is changed.
        """
        return False


@runtime_checkable
class Trainer(Adapter, Protocol):
    """A classifier that also trains. What is timed is written as a user does who wants it to be fast."""

    def train(self, batches: Any) -> float:
        """Take one train step with each of the batches, in their order. This is timed.

        Returns:
            The mean of the losses, each taken before its step.
        """

    def gradients(self, batches: Any) -> tuple[float, Any]:
        """Mean loss and mean gradients of the batches, at the parameters as they are. This is timed.

        Returns:
            The loss in nats, and the gradients in the framework's own form.
        """

    def exchanged(self, gradients: Any) -> Params:
        """Gradients in the layout in which parameters are exchanged."""

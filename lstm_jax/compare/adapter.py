"""What an adapter is: one framework's LSTM classifier behind the few calls that the comparison makes.

The model is that of `lstm_jax.model`: one layer of LSTM from a zero state over sequences (B, T, D), a dense
layer on the output h_T of the last step, softmax cross-entropy averaged over the batch, and Adam with
b1 = 0.9, b2 = 0.999, epsilon = 1e-8 and without any decay; all in float32. Its parameters are exchanged in
the layout of `LSTMClassifier`, {"lstm_0_forward": {"cell": ...}, "head": ...}, as NumPy arrays.

An adapter lives in a process of its own (`lstm_jax.compare.worker`), which imports nothing of any other
framework; importing its module imports its framework.
"""

from typing import Any, NamedTuple, Protocol, TypeAlias, runtime_checkable

import numpy as np
from jaxtyping import Float, Float32, Int32

from lstm_jax.benchmark.size import Size

Params: TypeAlias = Any  # see above

NUM_CLASSES = 10


class Gradient(NamedTuple):
    """What one batch gives at the parameters as they are.

    Attributes:
        logits: (B, 10).
        loss: mean softmax cross-entropy in nats.
        gradients: of the loss by every parameter, in the layout of the parameters.
    """

    logits: Float[np.ndarray, "batch classes"]
    loss: float
    gradients: Params


class Decay(NamedTuple):
    """What a recipe may have besides Adam at a constant rate, as `lstm_jax.optimizer` defines it.

    Attributes:
        warmup: steps over which the learning rate rises in a line.
        total: steps after which it has fallen to nothing, in a line.
        clip_norm: to this global norm gradients are scaled down, if theirs is larger.
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
    """One framework's classifier. Its functions return when the work is done."""

    def __init__(
        self, size: Size, params: Params, *, learning_rate: float, decay: Decay | None = None
    ) -> None:
        """Build the model with these parameters, and an optimizer at its start.

        One that cannot let its learning rate decay, or clip gradients, has no ``decay``.
        """

    def load(
        self,
        images: Float32[np.ndarray, "steps batch time inputs"],
        labels: Int32[np.ndarray, "steps batch"],
    ) -> Any:
        """The batches as the framework wants to have them; this is not timed."""

    def train(self, batches: Any) -> float:
        """Take one train step with each of the batches, in their order; returns the mean of their losses.

        This is timed: it is what a user of the framework writes who wants it to be fast. Each loss is that
        before its step.
        """

    def infer(self, batches: Any) -> Float32[np.ndarray, "steps batch classes"]:
        """The logits of all batches, on the host. This is timed."""

    def gradient(
        self, images: Float32[np.ndarray, "batch time inputs"], labels: Int32[np.ndarray, " batch"]
    ) -> Gradient:
        """Logits, loss and gradients of one batch. The parameters stay as they are."""

    def params(self) -> Params:
        """The parameters as they are now."""

    def set_threads(self, count: int) -> bool:
        """Compute with so many threads from now on.

        Returns:
            False if the framework shares out its work among the cores by itself; then nothing is changed.
        """

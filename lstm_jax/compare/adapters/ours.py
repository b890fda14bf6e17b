"""lstm_jax itself: `LSTMClassifier` by implementation.

The idiom is that of the README and of `lstm_jax.training`: the model's ``apply`` in a pure train step. It
takes its last output from the LSTM's final state. The parameters are those that are exchanged.
"""

import functools
from typing import ClassVar

from lstm_jax import LSTMClassifier
from lstm_jax.benchmark.size import Size
from lstm_jax.compare.adapter import Decay, Params
from lstm_jax.compare.adapters.in_jax import Images, InJax, Logits, Model, Tree
from lstm_jax.errors import ImplementationError
from lstm_jax.kernels.build import why_not_available


@functools.cache
def classifier(hidden: int, implementation: str) -> Model:
    """The classifier, computed by an implementation of the LSTM."""
    model = LSTMClassifier(hidden_size=hidden, implementation=implementation)

    def logits(own: Tree, images: Images) -> Logits:
        return model.apply({"params": own}, images)  # type: ignore[return-value]  # Flax: it may be a pair

    return Model(logits, to_own=lambda params: params, to_params=lambda own: own)


class _Ours(InJax):
    """The adapter; each subclass is one implementation."""

    implementation: ClassVar[str]

    def __init__(
        self, size: Size, params: Params, *, learning_rate: float, decay: Decay | None = None
    ) -> None:
        super().__init__(
            classifier(size.hidden, self.implementation), params, learning_rate=learning_rate, decay=decay
        )


class Native(_Ours):
    """The kernel in C++."""

    implementation = "native"

    def __init__(
        self, size: Size, params: Params, *, learning_rate: float, decay: Decay | None = None
    ) -> None:
        """Build the kernel, if this machine has not built it yet, and the model.

        Raises:
            ImplementationError: if the kernel cannot be built or used here.
        """
        if (reason := why_not_available()) is not None:
            raise ImplementationError(f"implementation 'native' cannot be used: {reason}")
        super().__init__(size, params, learning_rate=learning_rate, decay=decay)


class Fused(_Ours):
    """JAX, with a gradient of its own."""

    implementation = "fused"


class Scan(_Ours):
    """The reference: `nn.scan` over `nn.LSTMCell`."""

    implementation = "scan"


class Unrolled(_Ours):
    """The reference with its loop written out."""

    implementation = "unrolled"

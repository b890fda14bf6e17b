"""lstm_jax itself: `LSTMClassifier` with each implementation.

The train step is a pure function with the model's ``apply``, as in the README and in `lstm_jax.training`. The
last output comes from the LSTM's final state. The parameters already have the exchanged layout.
"""

import functools
from functools import partial

import jax.numpy as jnp
from flax.typing import Dtype

from lstm_jax import LSTMClassifier
from lstm_jax.compare.adapters.in_jax import Images, InJax, InKernel, Logits, Model, Tree
from lstm_jax.compare.size import Size


@functools.cache
def classifier(size: Size, implementation: str, dtype: Dtype = jnp.float32) -> Model:
    """Make a model of the classifier with an implementation of the LSTM, which computes in ``dtype``."""
    model = LSTMClassifier(hidden_size=size.hidden, implementation=implementation, dtype=dtype)

    def logits(own: Tree, images: Images) -> Logits:
        return model.apply({"params": own}, images)  # type: ignore[return-value]  # Flax: it may be a pair

    return Model(logits, to_own=lambda params: params)


class Native(InKernel):
    """The C++ kernel."""

    model = partial(classifier, implementation="native")


class Vectors(InKernel):
    """The C++ kernel with products of vectors."""

    implementation = "native-vectors"
    model = partial(classifier, implementation=implementation)


class Tiles(InKernel):
    """The C++ kernel with products on tile registers."""

    implementation = "native-tiles"
    model = partial(classifier, implementation=implementation)


class BFloat16Native(InKernel):
    """The C++ kernel in bfloat16."""

    model = partial(classifier, implementation="native", dtype=jnp.bfloat16)


class Fused(InJax):
    """JAX with a custom gradient."""

    model = partial(classifier, implementation="fused")


class BFloat16Fused(InJax):
    """The same in bfloat16."""

    model = partial(classifier, implementation="fused", dtype=jnp.bfloat16)


class Scan(InJax):
    """The reference: `nn.scan` over `nn.LSTMCell`."""

    model = partial(classifier, implementation="scan")


class Unrolled(InJax):
    """The reference with an unrolled loop."""

    model = partial(classifier, implementation="unrolled")

"""Haiku: ``hk.LSTM`` in ``hk.dynamic_unroll``, made pure by ``hk.transform``.

This is how Haiku's example ``rnn`` writes it. That example predicts at every step; the classifier needs the
last output only and takes it from the final state, which ``hk.dynamic_unroll`` returns beside the outputs.
``hk.without_apply_rng`` is Haiku's way to say that a network needs no random keys.

``hk.LSTM`` has one kernel for input and output together, (D + H, 4H), one bias, and its gates in the order
i, g, f, o. It adds 1 to the forget gate while it runs; so its bias of that gate is 1 less than ours.
"""

import functools

import haiku as hk
import jax.numpy as jnp

from lstm_jax.compare.adapter import NUM_CLASSES
from lstm_jax.compare.adapters.in_jax import Images, InJax, Logits, Model, Tree, joined
from lstm_jax.compare.size import Size
from lstm_jax.exchange.layouts import Params

GATES = "igfo"


@functools.cache
def classifier(size: Size) -> Model:
    """The network as a model."""

    def network(images: Images) -> Logits:
        core = hk.LSTM(size.hidden)
        start = core.initial_state(len(images))
        _, state = hk.dynamic_unroll(core, images, start, time_major=False)
        return hk.Linear(NUM_CLASSES)(state.hidden)

    def to_own(params: Params) -> Tree:
        input_kernel, recurrent_kernel, bias = joined(params["lstm_0_forward"]["cell"], GATES)
        added = jnp.repeat(jnp.array([float(gate == "f") for gate in GATES]), size.hidden)
        head = {"w": params["head"]["kernel"], "b": params["head"]["bias"]}
        kernel = jnp.concatenate([input_kernel, recurrent_kernel])
        return {"lstm/linear": {"w": kernel, "b": bias - added}, "linear": head}

    transformed: hk.Transformed = hk.without_apply_rng(hk.transform(network))
    return Model(transformed.apply, to_own)


class Haiku(InJax):
    """``hk.LSTM`` in ``hk.dynamic_unroll``."""

    model = staticmethod(classifier)

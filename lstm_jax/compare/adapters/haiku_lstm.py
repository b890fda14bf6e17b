"""Haiku: ``hk.LSTM`` in ``hk.dynamic_unroll``, made pure by ``hk.transform``.

Haiku's example ``rnn`` writes it so. That example predicts at every step. The classifier needs only the last
output, and takes it from the final state, which ``hk.dynamic_unroll`` returns with the outputs.
``hk.without_apply_rng`` declares that the network needs no random keys.

``hk.LSTM`` has one kernel (D + H, 4H) for inputs and outputs together, one bias, and the gate order i, g, f,
o. It adds 1 to the forget gate in every step, so its bias of that gate is 1 less than ours.
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
    """Make a model of the network."""

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

"""Haiku: ``hk.LSTM`` in ``hk.dynamic_unroll``, made pure by ``hk.transform``.

This is how Haiku's example ``rnn`` writes it. That example predicts at every step; the classifier needs the
last output only and takes it from the final state, which ``hk.dynamic_unroll`` returns beside the outputs.
``hk.without_apply_rng`` is Haiku's way to say that a network needs no random keys.

``hk.LSTM`` has one kernel for input and output together, (D + H, 4H), one bias, and its gates in the order
i, g, f, o. It adds 1 to the forget gate while it runs; so its bias of that gate is 1 less than ours, and the
gradients are the same.
"""

import functools

import haiku as hk
import numpy as np

from lstm_jax.compare.adapter import NUM_CLASSES
from lstm_jax.compare.adapters.in_jax import Images, InJax, Logits, Model, Tree
from lstm_jax.compare.size import Size
from lstm_jax.exchange.layouts import Joined, Params, join_gates, split_gates

GATES = "igfo"
ADDED_TO_FORGET_GATE = 1.0


@functools.cache
def classifier(size: Size) -> Model:
    """The network as a model."""

    def network(images: Images) -> Logits:
        core = hk.LSTM(size.hidden)
        start = core.initial_state(len(images))
        _, state = hk.dynamic_unroll(core, images, start, time_major=False)
        return hk.Linear(NUM_CLASSES)(state.hidden)

    transformed: hk.Transformed = hk.without_apply_rng(hk.transform(network))
    return Model(transformed.apply, to_own, to_params, to_gradients)


def to_own(params: Params) -> Tree:
    """The parameters under Haiku's names."""
    joined = join_gates(params["lstm_0_forward"]["cell"], gates=GATES)
    head = params["head"]
    return {
        "lstm/linear": {
            "w": np.concatenate([joined.input_kernel, joined.recurrent_kernel]),
            "b": joined.bias - _added(joined.bias),
        },
        "linear": {"w": head["kernel"], "b": head["bias"]},
    }


def to_params(own: Tree) -> Params:
    """The inverse of `to_own`."""
    lstm = own["lstm/linear"]
    return to_gradients({**own, "lstm/linear": {**lstm, "b": lstm["b"] + _added(lstm["b"])}})


def to_gradients(own: Tree) -> Params:
    """The same for gradients, to which nothing is added."""
    lstm, head = own["lstm/linear"], own["linear"]
    hidden = lstm["w"].shape[1] // len(GATES)
    input_kernel, recurrent_kernel = lstm["w"][:-hidden], lstm["w"][-hidden:]
    cell = split_gates(Joined(input_kernel, recurrent_kernel, lstm["b"]), gates=GATES)
    return {"lstm_0_forward": {"cell": cell}, "head": {"kernel": head["w"], "bias": head["b"]}}


def _added(bias: np.ndarray) -> np.ndarray:
    """What Haiku adds to the gates while it runs."""
    per_gate = [ADDED_TO_FORGET_GATE * (gate == "f") for gate in GATES]
    return np.repeat(np.array(per_gate, bias.dtype), len(bias) // len(GATES))


class Haiku(InJax):
    """``hk.LSTM`` in ``hk.dynamic_unroll``."""

    model = staticmethod(classifier)

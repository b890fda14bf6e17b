"""`lstm` as a function of its parameters: what it takes, what it refuses, and sequences that come in pieces.

Its numbers are those of the layers, which call it: test_lstm.py.
"""

from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

from lstm_jax import lstm
from tests.helpers.references import FLOAT32, assert_equal, each_implementation, numpy_lstm, random_case


def test_it_computes_the_equations() -> None:
    case = random_case(6, (2, 3), 5, 4)
    (c, h), outputs = numpy_lstm(case)
    found = lstm(case.params["cell"], case.inputs, case.carry)
    assert_equal(found, ((np.float32(c), np.float32(h)), np.float32(outputs)), **FLOAT32)


def test_the_first_state_is_zero_unless_it_is_given() -> None:
    case = random_case(3, (2,), 5, 4)
    zeros = jnp.zeros((2, 4))
    assert_equal(
        lstm(case.params["cell"], case.inputs), lstm(case.params["cell"], case.inputs, (zeros, zeros))
    )


def test_what_is_not_wanted_is_none() -> None:
    case = random_case(3, (2,), 5, 4)
    carry, outputs = lstm(case.params["cell"], case.inputs)
    assert_equal(lstm(case.params["cell"], case.inputs, return_outputs=False), (carry, None))
    assert_equal(lstm(case.params["cell"], case.inputs, return_carry=False), (None, outputs))


@each_implementation
def test_a_sequence_in_pieces_is_the_whole_to_the_bit(implementation: str) -> None:
    case = random_case(11, (3,), 5, 20)
    params = case.params["cell"]
    carry, outputs = lstm(params, case.inputs, case.carry, implementation=implementation)
    state, pieces = case.carry, []
    for begin, end in ((0, 4), (4, 5), (5, 11)):
        state, piece = lstm(params, case.inputs[:, begin:end], state, implementation=implementation)
        pieces.append(piece)
    assert_equal((state, jnp.concatenate(pieces, axis=1)), (carry, outputs))


def _changed(name: str, change: Any) -> dict[str, Any]:
    params = dict(random_case(3, (2,), 5, 4).params["cell"])
    params[name] = change(params[name])
    return params


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ([1, 2], r"params: got a list of 2, expected the tree of an nn.LSTMCell, .*"),
        (
            random_case(3, (2,), 5, 4).params,
            r"params: got a tree with 'cell' in it, .*; use params\['cell'\]",
        ),
        ({"ii": {}}, "params: got 'ii', expected the tree of an nn.LSTMCell, .*"),
        (
            _changed("hf", lambda of_gate: {"kernel": of_gate["kernel"]}),
            r"params\['hf'\]: got \['kernel'\], expected \['bias', 'kernel'\]",
        ),
        (
            _changed("ig", lambda of_gate: {"kernel": of_gate["kernel"].T}),
            r"params\['ig'\]\['kernel'\]: got shape \(4, 5\), expected \(5, 4\)",
        ),
        (
            _changed("ho", lambda of_gate: {**of_gate, "bias": of_gate["bias"][:1]}),
            r"params\['ho'\]\['bias'\]: got shape \(1,\), expected \(4,\)",
        ),
    ],
)
def test_other_parameters_are_refused(params: Any, message: str) -> None:
    with pytest.raises(ValueError, match=f"^{message}$"):
        lstm(params, random_case(3, (2,), 5, 4).inputs)


def test_inputs_of_another_number_of_features_are_refused() -> None:
    """Not the parameters, as long as they fit one another."""
    case = random_case(3, (2,), 5, 4)
    with pytest.raises(ValueError, match=r"^inputs: got 6 features, expected 5, as the cell has$"):
        lstm(case.params["cell"], jnp.ones((2, 3, 6)))

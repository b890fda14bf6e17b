"""What the handlers of the C++ kernel refuse, in words: sizes and dtypes that do not fit together."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lstm_jax import LSTM

ATTRIBUTES = {"bfloat16": False, "products": 0, "most_threads": 2, "masked": False, "with_resets": False}
RESETS = {
    "resets": np.zeros((2, 3, 4, 1), bool),
    "c_reset": np.zeros((2, 4, 6), np.float32),
    "h_reset": np.zeros((2, 4, 6), np.float32),
}


def _forward_arguments(**changes: Any) -> dict[str, Any]:
    """Two members of T = 3, B = 4, D = 5, H = 6."""
    arguments = {
        "x": np.zeros((2, 3, 4, 5), np.float32),
        "c0": np.zeros((2, 4, 6), np.float32),
        "h0": np.zeros((2, 4, 6), np.float32),
        "last": np.full((2, 4), 2, np.int32),
        **{f"wx{g}": np.zeros((2, 5, 6), np.float32) for g in range(4)},
        **{f"wh{g}": np.zeros((2, 6, 6), np.float32) for g in range(4)},
        **{f"b{g}": np.zeros((2, 6), np.float32) for g in range(4)},
    }
    return arguments | changes


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"x": np.zeros((3, 4, 5), np.float32)}, r"got x \(3, 4, 5\) and h0 \(2, 4, 6\), expected"),
        ({"x": np.zeros((2, 0, 4, 5), np.float32)}, "expected sizes of at least 1"),
        ({"c0": np.zeros((2, 3, 6), np.float32)}, r"c0: got shape \(2, 3, 6\), expected \(2, 4, 6\)"),
        ({"x": np.zeros((2, 3, 4, 5), np.float64)}, "x: expected float32"),
        (
            {"wx2": np.zeros((2, 6, 5), np.float32)},
            r"kernel of x: got shape \(2, 6, 5\), expected \(2, 5, 6\)",
        ),
        ({"wh3": np.zeros((1, 6, 6), np.float32)}, "kernel of h: got shape"),
        ({"b0": np.zeros((2, 7), np.float32)}, "bias: got shape"),
        ({"last": np.full((2, 4), 3, np.int32)}, "last: got 3, expected a step from 0 to 2"),
        ({"last": np.full((2, 4), -1, np.int32)}, "last: got -1, expected a step from 0 to 2"),
        (
            {**RESETS, "resets": np.zeros((2, 3, 4), bool)},
            r"resets: got shape \(2, 3, 4\), expected \(2, 3, 4, 1\)",
        ),
        ({**RESETS, "c_reset": np.zeros((1, 4, 6), np.float32)}, r"c_reset: got shape \(1, 4, 6\)"),
        ({"resets": RESETS["resets"]}, "c_reset is missing"),
    ],
    ids=lambda value: ",".join(value) if isinstance(value, dict) else "",
)
def test_sizes_that_do_not_fit_are_refused_in_words(changes: dict[str, Any], message: str) -> None:
    LSTM(1, "native").init(jax.random.key(0), jnp.zeros((1, 1, 1)))  # makes the kernel known to JAX
    state = jax.ShapeDtypeStruct((2, 4, 6), jnp.float32)
    with jax.enable_x64(True):
        call = jax.ffi.ffi_call("lstm_jax_forward", [state, state])
        attributes = ATTRIBUTES | {"with_resets": "resets" in changes}
        with pytest.raises(Exception, match=f"lstm_jax forward: .*{message}"):
            jax.block_until_ready(call(*_forward_arguments(**changes).values(), **attributes))


def test_a_result_that_does_not_fit_is_refused_in_words() -> None:
    LSTM(1, "native").init(jax.random.key(0), jnp.zeros((1, 1, 1)))
    state = jax.ShapeDtypeStruct((2, 4, 6), jnp.float32)
    short = jax.ShapeDtypeStruct((2, 4, 5), jnp.float32)
    for results, message in (
        ([state, short], r"h_last: got shape \(2, 4, 5\)"),
        ([state], "h_last is missing"),
        ([state, state, jax.ShapeDtypeStruct((2, 3, 4, 6), jnp.float32), state], "cells: got shape"),
    ):
        call = jax.ffi.ffi_call("lstm_jax_forward", results)
        with pytest.raises(Exception, match=f"lstm_jax forward: {message}"):
            jax.block_until_ready(call(*_forward_arguments().values(), **ATTRIBUTES))


@pytest.mark.parametrize(
    ("place", "array", "message"),
    [
        (
            4,
            np.zeros((2, 3, 4, 5), np.float32),
            r"outputs: got shape \(2, 3, 4, 5\), expected \(2, 3, 4, 6\)",
        ),
        (5, np.zeros((2, 3, 4, 6), np.float32), r"cells: got shape \(2, 3, 4, 6\), expected \(2, 3, 4, 16\)"),
        (6, np.zeros((2, 3, 4, 16), np.float32), "gates: got shape"),
        (8, np.zeros((2, 4), np.float32), "dh_last: got shape"),
        (17, np.zeros((2, 3, 4, 5), np.float32), "d_outputs: got shape"),
        (None, 3, "got 3 groups, expected a divisor of B = 4"),
    ],
)
def test_the_backward_handler_refuses_too(place: int | None, array: Any, message: str) -> None:
    LSTM(1, "native").init(jax.random.key(0), jnp.zeros((1, 1, 1)))
    forward = list(_forward_arguments().values())
    row, state = (2, 3, 4), np.zeros((2, 4, 6), np.float32)
    saved = [np.zeros((*row, size), np.float32) for size in (6, 16, 64)]
    arguments = [*forward[:4], *saved, state, state, *forward[4:12], np.zeros((*row, 6), np.float32)]
    groups = array if place is None else 1
    if place is not None:
        arguments[place] = array
    shapes = [(5, 6)] * 4 + [(6, 6)] * 4 + [(6,)] * 4
    results = [(2, 4, 6), (2, 4, 6), *((2, groups, *shape) for shape in shapes)]
    call = jax.ffi.ffi_call("lstm_jax_backward", [jax.ShapeDtypeStruct(s, jnp.float32) for s in results])
    with pytest.raises(Exception, match=f"lstm_jax backward: {message}"):
        jax.block_until_ready(call(*arguments, groups=groups, **ATTRIBUTES))

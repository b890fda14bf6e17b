"""`native` in bfloat16: no less accurate than the cell of Flax, with float64 as the judge; and its dtypes.

Where a processor has no tile registers the kernel multiplies in float32. What it computes with them,
instructions written out in plain C++ can show on every machine, slowly:

    CXX="c++ -DLSTM_JAX_EMULATE_TILES" python -m pytest tests/kernels/test_bfloat16.py
"""

import functools
from collections.abc import Iterator
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lstm_jax import LSTM
from lstm_jax.errors import ImplementationError
from tests.helpers.references import (
    HIDDEN,
    Case,
    Tree,
    a_case,
    flax_rnn,
    numpy_answer,
    random_case,
    results_and_gradients,
)


@pytest.fixture(autouse=True)
def standard_promotion() -> Iterator[None]:
    """The cell of Flax multiplies gates in bfloat16 with a state in float32."""
    with jax.numpy_dtype_promotion("standard"):
        yield


def _native(hidden: int, **attributes: Any) -> LSTM:
    return LSTM(hidden, "native", return_carry=True, **attributes)


def _flax(hidden: int, **attributes: Any) -> nn.RNN:
    # Flax's default is orthogonal. JAX refuses that in bfloat16, from 0.12 on even where weights are given.
    zeros = nn.initializers.zeros
    return flax_rnn(hidden, return_carry=True, recurrent_kernel_init=zeros, **attributes)


# --------------------------------------------------------------------------------------------------
# Accuracy
# --------------------------------------------------------------------------------------------------


def _errors(answer: tuple[Tree, Tree], exact: tuple[Tree, Tree]) -> dict[str, float]:
    """The error of each result and each kind of gradient, as a share of its size."""

    def parts(answer: tuple[Tree, Tree]) -> dict[str, Tree]:
        ((c, h), outputs), gradients = answer
        return {"c": c, "h": h, "outputs": outputs} | Case(*gradients)._asdict()

    def flat(tree: Tree) -> np.ndarray:
        return np.concatenate([np.asarray(leaf, np.float64).ravel() for leaf in jax.tree.leaves(tree)])

    return {
        name: float(np.linalg.norm(flat(part) - flat(judge)) / np.linalg.norm(flat(judge)))
        for (name, part), judge in zip(parts(answer).items(), parts(exact).values(), strict=True)
    }


def _assert_no_less_accurate_than_flax(answer: tuple[Tree, Tree], case: Case, **attributes: Any) -> None:
    flax = results_and_gradients(_flax(case.carry[0].shape[-1], **attributes), case)
    exact = numpy_answer(case)
    ours, theirs = _errors(answer, exact), _errors(flax, exact)
    assert all(ours[name] <= theirs[name] for name in ours), (ours, theirs)
    assert max(theirs.values()) > 1e-3  # they were rounded indeed


@pytest.mark.parametrize(
    ("time", "batch", "num_inputs", "hidden", "param_dtype"),
    [
        (28, 128, 28, 64, jnp.float32),
        (28, 61, 33, 71, jnp.bfloat16),
        (100, 32, 19, 65, jnp.float32),
        (100, 7, 1, 5, jnp.bfloat16),
    ],
)
def test_no_less_accurate_than_flax(
    time: int, batch: int, num_inputs: int, hidden: int, param_dtype: Any
) -> None:
    case = random_case(time, (batch,), num_inputs, hidden)
    case = jax.tree.map(lambda leaf: leaf.astype(param_dtype), case)
    attributes = {"dtype": jnp.bfloat16, "param_dtype": param_dtype}
    answer = results_and_gradients(_native(hidden, **attributes), case)
    _assert_no_less_accurate_than_flax(answer, case, **attributes)


def test_no_less_accurate_than_flax_when_exported() -> None:
    """What is exported multiplies in bfloat16 on every device."""
    case = random_case(28, (9,), 28, 20)
    run = jax.jit(functools.partial(results_and_gradients, _native(20, dtype=jnp.bfloat16)))
    exported = jax.export.export(run, platforms=("cpu", "cuda", "tpu"))(case)
    text = exported.mlir_module()
    assert "@lstm_jax_" not in text
    products = [line for line in text.splitlines() if "stablehlo.dot_general" in line]
    assert products
    assert all("bf16>, tensor<" in line for line in products)
    _assert_no_less_accurate_than_flax(exported.call(case), case, dtype=jnp.bfloat16)


# --------------------------------------------------------------------------------------------------
# Dtypes
# --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("dtype", "params", "inputs", "carry"),
    [
        (None, jnp.bfloat16, jnp.bfloat16, jnp.bfloat16),
        (None, jnp.float32, jnp.bfloat16, jnp.bfloat16),
        (jnp.bfloat16, jnp.float32, jnp.float32, jnp.bfloat16),
        (jnp.float32, jnp.bfloat16, jnp.bfloat16, jnp.bfloat16),
    ],
)
def test_results_and_gradients_have_the_dtypes_of_flax(
    dtype: Any, params: Any, inputs: Any, carry: Any
) -> None:
    parts = zip(a_case(), (params, inputs, carry), strict=True)
    case = Case(*(jax.tree.map(lambda leaf, to=to: leaf.astype(to), part) for part, to in parts))
    actual, expected = (
        jax.eval_shape(functools.partial(results_and_gradients, layer), case)
        for layer in (_native(HIDDEN, dtype=dtype), LSTM(HIDDEN, "scan", return_carry=True, dtype=dtype))
    )
    assert actual == expected


@pytest.mark.parametrize(
    ("dtype", "params", "rounded"),
    [
        (jnp.bfloat16, jnp.float32, True),
        (None, jnp.bfloat16, True),
        (jnp.float32, jnp.bfloat16, False),
        (None, jnp.float32, False),
    ],
)
def test_the_kernel_is_told_what_it_may_round(dtype: Any, params: Any, rounded: bool) -> None:
    """Forward and backward, and under `vmap`."""
    case = jax.tree.map(lambda leaf: leaf.astype(params), a_case())
    run = functools.partial(results_and_gradients, _native(HIDDEN, dtype=dtype))
    for function, given in ((run, case), (jax.vmap(run), jax.tree.map(lambda leaf: leaf[None], case))):
        calls = [
            line for line in jax.jit(function).lower(given).as_text().splitlines() if "@lstm_jax_" in line
        ]
        assert len(calls) == 2
        assert all(f"bfloat16 = {str(rounded).lower()}" in line for line in calls)


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.float64])
def test_other_dtypes_are_refused(dtype: Any) -> None:
    with (
        jax.enable_x64(True),
        pytest.raises(
            ImplementationError,
            match=f"it computes in float32 or bfloat16, not {jnp.dtype(dtype)}; use 'fused'",
        ),
    ):
        _native(HIDDEN, dtype=dtype).init(jax.random.key(0), jnp.zeros((2, 3, 4), jnp.float32))

"""What stands behind the ends of sequences, where ``seq_lengths`` says so, reaches nothing."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lstm_jax import LSTM
from lstm_jax.layer.arguments import without_spoilt_padding
from tests.helpers.references import FLOAT32, HIDDEN, LENGTHS, TIME, Case, Tree, a_case, assert_equal

VALID = np.arange(TIME)[None] < np.array(LENGTHS)[:, None]  # (batch, time)
SPOILS = [jnp.nan, -jnp.inf, 3e38]


def _spoilt(case: Case) -> Case:
    """With another of `SPOILS` in each padded step, in turn."""
    places = np.argwhere(~VALID)
    inputs = np.array(case.inputs)
    for number, (row, step) in enumerate(places):
        inputs[row, step] = [SPOILS[number % 3], -SPOILS[(number + 1) % 3]]
    return case._replace(inputs=jnp.asarray(inputs))


def _loss(layer: LSTM, case: Case, *, reverse: bool) -> jax.Array:
    """Of the final state and of all outputs that are no padding, as a masked loss has them."""
    (c, h), outputs = layer.apply(
        {"params": case.params},
        case.inputs,
        initial_carry=case.carry,
        seq_lengths=jnp.array(LENGTHS),
        return_carry=True,
        reverse=reverse,
        keep_order=True,
    )
    per_step = jnp.where(VALID, (outputs**3).sum(-1), 0.0)
    return (c**2).sum() + (h * c).sum() + per_step.sum()


@pytest.mark.parametrize(
    ("implementation", "reverse"),
    [
        ("scan", False),
        ("scan", True),
        ("unrolled", True),
        ("fused", False),
        ("fused", True),
        ("native", True),
    ],
)
def test_padding_that_is_not_finite_changes_no_result_and_no_gradient(
    implementation: str, reverse: bool
) -> None:
    layer = LSTM(HIDDEN, implementation)

    @jax.jit
    def run(case: Case) -> tuple[jax.Array, Tree]:
        return jax.value_and_grad(lambda case: _loss(layer, case, reverse=reverse))(case)

    assert_equal(run(_spoilt(a_case())), run(a_case()), **FLOAT32)


def test_finite_padding_stays() -> None:
    """So that the outputs of padding are those of nn.RNN, whoever looks at them; see test_lstm.py."""
    inputs = jnp.moveaxis(a_case().inputs, 1, 0) * 1e18
    assert_equal(without_spoilt_padding(inputs, jnp.array(LENGTHS, jnp.int32)), inputs)


def test_what_is_no_padding_stays() -> None:
    spoilt = jnp.full((TIME, 3, 2), jnp.nan)
    kept = without_spoilt_padding(spoilt, jnp.array(LENGTHS, jnp.int32))
    np.testing.assert_array_equal(np.isnan(kept), np.broadcast_to(VALID.T[..., None], kept.shape))


def test_without_lengths_the_inputs_are_not_touched() -> None:
    """The same program as ever, and so the same bits and speed."""
    layer = LSTM(HIDDEN, "native")
    program = str(jax.make_jaxpr(layer.apply)({"params": a_case().params}, a_case().inputs))
    assert "select_n" not in program
    assert "abs" not in program

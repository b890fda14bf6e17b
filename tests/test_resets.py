"""Resets are the same as cutting the sequence: results and gradients, with every implementation and option.

The judge cuts each sequence into pieces in Python, and runs Flax's ``nn.RNN`` over each piece from the
initial state.
"""

import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lstm_jax import LSTM, lstm
from tests.helpers.references import (
    FLOAT32,
    HIDDEN,
    Case,
    Tree,
    assert_equal,
    each_implementation,
    flax_rnn,
    random_case,
    random_like,
)

TIME, BATCH, INPUTS = 7, 3, 2
# Pieces of one step, of many; none but the first; a reset before the first step, which changes nothing.
RESETS = np.array([[0, 0, 1, 1, 0, 0, 1], [0, 0, 0, 0, 0, 0, 0], [1, 0, 0, 0, 1, 0, 0]], bool)
LENGTHS = (7, 4, 5)


def by_pieces(case: Case, resets: np.ndarray, lengths: Any, *, reverse: bool, keep_order: bool) -> Tree:
    """The results for (batch, time, inputs), one sequence and piece after the other; padding gives zeros."""
    rnn = flax_rnn(HIDDEN, return_carry=True, reverse=reverse, keep_order=True)
    carries, rows = [], []
    for row, length in enumerate(lengths):
        state = jax.tree.map(lambda leaf, row=row: leaf[row], case.carry)
        begins = [0, *(t for t in range(1, length) if resets[row, t]), length]
        ends, outputs = [], []
        for begin, end in itertools.pairwise(begins):
            piece = case.inputs[row, begin:end]
            carry, of_piece = rnn.apply({"params": case.params}, piece, initial_carry=state)
            ends.append(carry)
            outputs.append(of_piece)
        whole = jnp.concatenate(outputs)
        if reverse and not keep_order:
            whole = whole[::-1]
        rows.append(jnp.pad(whole, ((0, case.inputs.shape[1] - length), (0, 0))))
        carries.append(ends[0] if reverse else ends[-1])
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *carries), jnp.stack(rows)


def answer(run: Any, case: Case) -> tuple[Tree, Tree]:
    """What ``run`` returns, and the gradients by parameters, inputs and state, as one program."""

    @jax.jit
    def both(case: Case) -> tuple[Tree, Tree]:
        results, pull_back = jax.vjp(run, case)
        return results, pull_back(random_like(results))

    return both(case)


@pytest.mark.parametrize("lengths", [None, LENGTHS])
@pytest.mark.parametrize("options", [{}, {"reverse": True}, {"reverse": True, "keep_order": True}])
@each_implementation
def test_it_is_cutting_the_sequence(implementation: str, options: dict[str, bool], lengths: Any) -> None:
    case = random_case(TIME, (BATCH,), INPUTS, HIDDEN)
    order = {"reverse": False, "keep_order": False, **options}
    layer = LSTM(HIDDEN, implementation, return_carry=True, **options)
    valid = np.arange(TIME) < np.array(lengths or (TIME,) * BATCH)[:, None]

    def with_resets(case: Case) -> Tree:
        carry, outputs = layer.apply(
            {"params": case.params},
            case.inputs,
            initial_carry=case.carry,
            resets=RESETS,
            seq_lengths=None if lengths is None else jnp.array(lengths),
        )
        return carry, jnp.where(valid[..., None], outputs, 0)

    expected = answer(lambda case: by_pieces(case, RESETS, lengths or (TIME,) * BATCH, **order), case)
    assert_equal(answer(with_resets, case), expected, **FLOAT32)


@pytest.mark.parametrize("implementation", ["fused", "native"])
@pytest.mark.parametrize("size", [(90, 5, 1, 3), (9, 40, 28, 64), (4, 130, 3, 17)])
def test_at_sizes_that_take_other_ways(implementation: str, size: tuple[int, ...]) -> None:
    # Many steps at once, several slices, tails of vectors: `scan` is right by the test above.
    time, batch, inputs, hidden = size
    case = random_case(time, (batch,), inputs, hidden, time_major=True)
    resets = np.random.default_rng(2).random((time, batch)) < 0.2
    mask = jnp.asarray(np.random.default_rng(3).random((batch, hidden)), jnp.float32)

    def run(name: str) -> Any:
        def of_case(case: Case) -> Tree:
            options: dict[str, Any] = {"time_major": True, "recurrent_mask": mask, "resets": resets}
            return lstm(case.params["cell"], case.inputs, case.carry, implementation=name, **options)

        return answer(of_case, case)

    # Sums over some hundred rows.
    assert_equal(run(implementation), run("scan"), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("implementation", ["scan", "fused", "native"])
@pytest.mark.parametrize("mapped", ["rows", "weights", "resets alone"])
def test_under_vmap(implementation: str, mapped: str) -> None:
    many = [random_case(TIME, (BATCH,), INPUTS, HIDDEN) for _ in range(2)]
    many[1] = jax.tree.map(lambda leaf: leaf[::-1] * 0.5, many[1])
    resets = np.stack([RESETS, ~RESETS])
    if mapped != "weights":
        many[1] = many[1]._replace(params=many[0].params)
    if mapped == "resets alone":
        many[1] = many[0]
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *many)
    axes = (
        Case(0, 0, 0) if mapped == "weights" else Case(None, 0, 0) if mapped == "rows" else Case(*[None] * 3)
    )
    given = jax.tree.map(
        lambda axis, part, first: part if axis == 0 else first,
        axes,
        stacked,
        many[0],
        is_leaf=lambda leaf: leaf is None,
    )

    def run(case: Case, resets: Any) -> Tree:
        return lstm(
            case.params["cell"], case.inputs, case.carry, resets=resets, implementation=implementation
        )

    def loss_of_all(case: Case) -> Any:
        results = jax.vmap(run, in_axes=(axes, 0))(case, resets)
        return sum(jax.tree.leaves(jax.tree.map(lambda a, b: jnp.sum(a * b), results, random_like(results))))

    def loss_one_by_one(case: Case) -> Any:
        parts = []
        for i in range(2):
            one = jax.tree.map(
                lambda axis, part, i=i: part if axis is None else jax.tree.map(lambda leaf: leaf[i], part),
                axes,
                case,
                is_leaf=lambda leaf: leaf is None,
            )
            parts.append(
                lstm(one.params["cell"], one.inputs, one.carry, resets=resets[i], implementation="scan")
            )
        results = jax.tree.map(lambda *leaves: jnp.stack(leaves), *parts)
        return sum(jax.tree.leaves(jax.tree.map(lambda a, b: jnp.sum(a * b), results, random_like(results))))

    found, expected = (jax.jit(jax.value_and_grad(loss))(given) for loss in (loss_of_all, loss_one_by_one))
    assert_equal(found, expected, **FLOAT32)


def test_time_first() -> None:
    case = random_case(TIME, (BATCH,), INPUTS, HIDDEN)
    carry, outputs = lstm(case.params["cell"], case.inputs, case.carry, resets=RESETS)
    again = lstm(
        case.params["cell"], jnp.swapaxes(case.inputs, 0, 1), case.carry, resets=RESETS.T, time_major=True
    )
    assert_equal(again, (carry, jnp.swapaxes(outputs, 0, 1)))


@pytest.mark.parametrize(
    ("resets", "message"),
    [
        (np.zeros((BATCH, TIME), int), "resets: got dtype int32, expected booleans"),
        (RESETS.T, r"resets: got shape \(7, 3\), expected \(3, 7\), as the inputs"),
        ("all", "resets: got a str, expected booleans"),
    ],
)
def test_what_else_is_given_is_refused(resets: Any, message: str) -> None:
    case = random_case(TIME, (BATCH,), INPUTS, HIDDEN)
    with pytest.raises(ValueError, match=f"^{message}$"):
        lstm(case.params["cell"], case.inputs, resets=resets)


def test_no_parts_with_resets() -> None:
    case = random_case(TIME, (BATCH,), INPUTS, HIDDEN)
    with pytest.raises(ValueError, match=r"^remat: got resets, expected remat=None with them$"):
        lstm(case.params["cell"], case.inputs, resets=RESETS, remat=7, implementation="scan")

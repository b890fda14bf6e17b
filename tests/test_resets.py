"""Resets are the same as cutting the sequence: results and gradients, with every implementation and option.

The judge cuts each sequence into pieces in Python, and runs Flax's ``nn.RNN`` over each piece: the one that
is read first from the initial state, unless a sequence begins there, all others from the state of resets.
"""

import itertools
from functools import cache, partial
from typing import Any, NamedTuple

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
# Pieces of one step, of many; one that begins where the padding does; a reset before the first step.
RESETS = np.array([[0, 0, 1, 1, 0, 0, 1], [0, 0, 0, 0, 1, 0, 0], [1, 0, 0, 0, 1, 0, 0]], bool)
LENGTHS = (7, 4, 5)


class WithResets(NamedTuple):
    """A case, and the state that new sequences begin with."""

    case: Case
    reset_carry: Tree


def random_case_with_resets(*sizes: Any, **options: Any) -> WithResets:
    case = random_case(*sizes, **options)
    return WithResets(case, jax.tree.map(lambda leaf: leaf[::-1] * 0.7 + 0.1, case.carry))


def by_pieces(
    given: WithResets, resets: np.ndarray, lengths: Any, *, reverse: bool, keep_order: bool
) -> Tree:
    """The results for (batch, time, inputs), one sequence and piece after the other; padding gives zeros."""
    case = given.case
    rnn = flax_rnn(HIDDEN, return_carry=True, reverse=reverse, keep_order=True)
    carries, rows = [], []
    for row, length in enumerate(lengths):
        first, fresh = jax.tree.map(lambda leaf, row=row: leaf[row], (case.carry, given.reset_carry))
        begins = [0, *(t for t in range(1, length) if resets[row, t]), length]
        ends, outputs = [], []
        for begin, end in itertools.pairwise(begins):
            piece = case.inputs[row, begin:end]
            is_first = end == length if reverse else begin == 0 and not resets[row, 0]
            state = first if is_first else fresh
            carry, of_piece = rnn.apply({"params": case.params}, piece, initial_carry=state)
            ends.append(carry)
            outputs.append(of_piece)
        whole = jnp.concatenate(outputs)
        if reverse and not keep_order:
            whole = whole[::-1]
        rows.append(jnp.pad(whole, ((0, case.inputs.shape[1] - length), (0, 0))))
        carries.append(ends[0] if reverse else ends[-1])
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *carries), jnp.stack(rows)


def answer(run: Any, given: WithResets) -> tuple[Tree, Tree]:
    """What ``run`` returns, and the gradients by parameters, inputs and both states, as one program."""

    @jax.jit
    def both(given: WithResets) -> tuple[Tree, Tree]:
        results, pull_back = jax.vjp(run, given)
        return results, pull_back(random_like(results))

    return both(given)


@cache
def expected_of(lengths: tuple[int, ...], reverse: bool, keep_order: bool) -> tuple[Tree, Tree]:
    """What the judge says, computed once for all implementations."""
    run = partial(by_pieces, resets=RESETS, lengths=lengths, reverse=reverse, keep_order=keep_order)
    return answer(run, random_case_with_resets(TIME, (BATCH,), INPUTS, HIDDEN))


@pytest.mark.parametrize("lengths", [None, LENGTHS])
@pytest.mark.parametrize("options", [{}, {"reverse": True}, {"reverse": True, "keep_order": True}])
@each_implementation
def test_it_is_cutting_the_sequence(implementation: str, options: dict[str, bool], lengths: Any) -> None:
    given = random_case_with_resets(TIME, (BATCH,), INPUTS, HIDDEN)
    layer = LSTM(HIDDEN, implementation, return_carry=True, **options)
    valid = np.arange(TIME) < np.array(lengths or (TIME,) * BATCH)[:, None]

    def with_resets(given: WithResets) -> Tree:
        carry, outputs = layer.apply(
            {"params": given.case.params},
            given.case.inputs,
            initial_carry=given.case.carry,
            resets=RESETS,
            reset_carry=given.reset_carry,
            seq_lengths=None if lengths is None else jnp.array(lengths),
        )
        return carry, jnp.where(valid[..., None], outputs, 0)

    order = options.get("reverse", False), options.get("keep_order", False)
    expected = expected_of(lengths or (TIME,) * BATCH, *order)
    assert_equal(answer(with_resets, given), expected, **FLOAT32)


@pytest.mark.parametrize("implementation", ["fused", "native"])
@pytest.mark.parametrize("size", [(90, 5, 1, 3), (9, 40, 28, 64), (4, 130, 3, 17)])
def test_at_sizes_that_take_other_ways(implementation: str, size: tuple[int, ...]) -> None:
    # Many steps at once, several slices, tails of vectors: `scan` is right by the test above.
    time, batch, inputs, hidden = size
    given = random_case_with_resets(time, (batch,), inputs, hidden, time_major=True)
    resets = np.random.default_rng(2).random((time, batch)) < 0.2
    mask = jnp.asarray(np.random.default_rng(3).random((batch, hidden)), jnp.float32)

    def run(name: str) -> Any:
        def of_given(given: WithResets) -> Tree:
            (params, *rest), reset_carry = given
            options: dict[str, Any] = {"time_major": True, "recurrent_mask": mask, "resets": resets}
            return lstm(params["cell"], *rest, reset_carry=reset_carry, implementation=name, **options)

        return answer(of_given, given)

    # Sums over some hundred rows.
    assert_equal(run(implementation), run("scan"), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("implementation", ["scan", "fused", "native"])
@pytest.mark.parametrize("mapped", ["rows", "weights", "resets alone", "their state alone"])
def test_under_vmap(implementation: str, mapped: str) -> None:
    many = [random_case_with_resets(TIME, (BATCH,), INPUTS, HIDDEN) for _ in range(2)]
    many[1] = jax.tree.map(lambda leaf: leaf[::-1] * 0.5, many[1])
    resets = np.stack([RESETS, ~RESETS])
    if mapped != "weights":
        many[1] = many[1]._replace(case=many[1].case._replace(params=many[0].case.params))
    if mapped == "rows":
        many[1] = many[1]._replace(reset_carry=many[0].reset_carry)
    if mapped == "resets alone":
        many[1] = many[0]
    if mapped == "their state alone":
        many[1] = many[1]._replace(case=many[0].case)
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *many)
    axes = {
        "weights": WithResets(Case(0, 0, 0), 0),
        "rows": WithResets(Case(None, 0, 0), None),
        "resets alone": WithResets(Case(None, None, None), None),
        "their state alone": WithResets(Case(None, None, None), 0),
    }[mapped]
    given = jax.tree.map(
        lambda axis, part, first: part if axis == 0 else first,
        axes,
        stacked,
        many[0],
        is_leaf=lambda leaf: leaf is None,
    )

    def run(given: WithResets, resets: Any, implementation: str = implementation) -> Tree:
        (params, *rest), reset_carry = given
        return lstm(
            params["cell"], *rest, resets=resets, reset_carry=reset_carry, implementation=implementation
        )

    def loss_of_all(given: WithResets) -> Any:
        results = jax.vmap(run, in_axes=(axes, 0))(given, resets)
        return sum(jax.tree.leaves(jax.tree.map(lambda a, b: jnp.sum(a * b), results, random_like(results))))

    def loss_one_by_one(given: WithResets) -> Any:
        parts = []
        for i in range(2):
            one = jax.tree.map(
                lambda axis, part, i=i: part if axis is None else jax.tree.map(lambda leaf: leaf[i], part),
                axes,
                given,
                is_leaf=lambda leaf: leaf is None,
            )
            parts.append(run(one, resets[i], "scan"))
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


@pytest.mark.parametrize("resets", [None, RESETS])
def test_another_state_for_resets_is_refused(resets: Any) -> None:
    case = random_case(TIME, (BATCH,), INPUTS, HIDDEN)
    message = r"^reset_carry: got h of shape \(3, 5\), expected \(3, 4\)$"
    with pytest.raises(ValueError, match=message):
        lstm(case.params["cell"], case.inputs, resets=resets, reset_carry=(case.carry[0], jnp.ones((3, 5))))


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


def _run(given: WithResets, **options: Any) -> Tree:
    (params, *rest), reset_carry = given
    return lstm(params["cell"], *rest, resets=RESETS, reset_carry=reset_carry, **options)


@pytest.mark.parametrize("implementation", ["scan", "fused", "native"])
def test_in_parts_that_save_memory(implementation: str) -> None:
    given = random_case_with_resets(TIME, (BATCH,), INPUTS, HIDDEN)
    whole = answer(partial(_run, implementation=implementation), given)
    assert_equal(answer(partial(_run, implementation=implementation, remat=7), given), whole, **FLOAT32)


@each_implementation
@pytest.mark.parametrize("size", [1, 3])
def test_pieces_are_the_whole(implementation: str, size: int) -> None:
    """An agent sees one step at a time, and learns from many: both must reset alike."""
    given = random_case_with_resets(TIME, (BATCH,), INPUTS, HIDDEN)
    (params, inputs, state), reset_carry = given
    pieces = []
    for begin in range(0, TIME, size):
        steps = (slice(None), slice(begin, begin + size))
        state, outputs = lstm(
            params["cell"],
            inputs[steps],
            state,
            resets=RESETS[steps],
            reset_carry=reset_carry,
            implementation=implementation,
        )
        pieces.append(outputs)
    whole = _run(given, implementation=implementation)
    assert_equal((state, jnp.concatenate(pieces, axis=1)), whole, **FLOAT32)


def test_a_new_sequence_begins_with_zeros_unless_a_state_is_given() -> None:
    case = random_case(TIME, (BATCH,), INPUTS, HIDDEN)
    found = lstm(case.params["cell"], case.inputs, case.carry, resets=RESETS)
    zeros = WithResets(case, jax.tree.map(jnp.zeros_like, case.carry))
    assert_equal(found, _run(zeros))


def test_in_a_layer_it_begins_with_what_the_layer_begins_with() -> None:
    case = random_case(TIME, (BATCH,), INPUTS, HIDDEN)
    layer = LSTM(HIDDEN, carry_init=jax.nn.initializers.normal(1.0))
    run = partial(layer.apply, {"params": case.params}, case.inputs, resets=RESETS)
    fresh = layer._initial_carry(jax.random.key(0), (BATCH, INPUTS))
    assert_equal(run(initial_carry=case.carry), run(initial_carry=case.carry, reset_carry=fresh))
    assert_equal(run(), run(initial_carry=fresh, reset_carry=fresh))


def test_another_platform_computes_the_same() -> None:
    """What is exported has the steps of `fused` in place of the kernel."""
    given = random_case_with_resets(TIME, (BATCH,), INPUTS, HIDDEN)

    def both(given: WithResets) -> tuple[Tree, Tree]:
        results, pull_back = jax.vjp(partial(_run, implementation="native"), given)
        return results, pull_back(random_like(results))

    def by_weights(given: WithResets) -> Tree:  # without a gradient by the inputs
        def of_weights(params: Tree) -> Tree:
            of_params = WithResets(given.case._replace(params=params), given.reset_carry)
            return _run(of_params, implementation="native")

        results, pull_back = jax.vjp(of_weights, given.case.params)
        return pull_back(random_like(results))

    for run in (both, by_weights):
        exported = jax.export.export(jax.jit(run))(given)
        assert "@lstm_jax_" not in exported.mlir_module()
        assert_equal(exported.call(given), jax.jit(run)(given), **FLOAT32)

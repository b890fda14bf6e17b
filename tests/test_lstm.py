"""The LSTM is ``nn.RNN(nn.LSTMCell(features))`` by another name, and does what its equations say.

Nothing here is all ones or all zeros: inputs that are the same at every step cannot show a wrong
order in time, and a state of zero cannot show where it is used. `test_the_case_would_show_a_bug`
checks that the usual mistakes are far outside of the tolerance.
"""

import functools
import itertools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lstm_jax import LSTM
from tests.helpers.references import (
    FLOAT32,
    HIDDEN,
    INPUTS,
    LENGTHS,
    NAMES,
    TIME,
    Case,
    Tree,
    a_case,
    as_arguments,
    assert_equal,
    each_fast,
    each_general_implementation,
    each_implementation,
    examples,
    flax_answer,
    flax_rnn,
    numpy_lstm,
    random_case,
    random_like,
    results_and_gradients,
    step_by_step,
)

pytestmark = pytest.mark.usefixtures("strict_dtypes")

# --------------------------------------------------------------------------------------------------
# The cases can fail
# --------------------------------------------------------------------------------------------------


def _gates_swapped(case: Case, one: str, other: str) -> Case:
    cell = case.params["cell"]
    swap = {one: other, other: one}
    return case._replace(params={"cell": {n: cell[n[0] + swap.get(n[1], n[1])] for n in cell}})


def _with_leaf(case: Case, name: str, leaf: str, change: Any) -> Case:
    cell = case.params["cell"]
    return case._replace(
        params={"cell": {**cell, name: {**cell[name], leaf: change(cell[name][leaf])}}},
    )


MISTAKES = {
    **{
        f"gates {one} and {other} swapped": functools.partial(_gates_swapped, one=one, other=other)
        for one, other in itertools.combinations("ifgo", 2)
    },
    "c and h swapped": lambda case: case._replace(carry=case.carry[::-1]),
    "time reversed": lambda case: case._replace(inputs=case.inputs[:, ::-1]),
    "two inner steps swapped": lambda case: case._replace(inputs=case.inputs[:, [0, 2, 1, 3, 4]]),
    "initial c ignored": lambda case: case._replace(carry=(case.carry[0] * 0, case.carry[1])),
    "initial h ignored": lambda case: case._replace(carry=(case.carry[0], case.carry[1] * 0)),
    **{
        f"kernel of h{gate} transposed": functools.partial(
            _with_leaf, name=f"h{gate}", leaf="kernel", change=jnp.transpose
        )
        for gate in "ifgo"
    },
    **{
        f"bias of h{gate} missing": functools.partial(
            _with_leaf, name=f"h{gate}", leaf="bias", change=jnp.zeros_like
        )
        for gate in "ifgo"
    },
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_the_case_would_show_a_bug(mistake: str) -> None:
    """Each mistake changes the final c, the final h and the outputs by hundreds of tolerances."""
    case = a_case()
    right, wrong = numpy_lstm(case), numpy_lstm(MISTAKES[mistake](case))
    for one, other in zip(jax.tree.leaves(right), jax.tree.leaves(wrong), strict=True):
        assert np.abs(one - other).max() > 100 * (FLOAT32["atol"] + FLOAT32["rtol"])


def test_no_gradient_of_the_case_is_trivially_zero() -> None:
    """Else "the same gradient" would say nothing; the smallest entry shows that no step is cut off."""
    _, gradients = flax_answer({"return_carry": True})
    for path, gradient in jax.tree.leaves_with_path(gradients):
        assert np.abs(gradient).max() > 0.1, path
        assert np.abs(gradient).min() > 1e-5, path


# --------------------------------------------------------------------------------------------------
# Against the equations
# --------------------------------------------------------------------------------------------------


@each_implementation
def test_step_by_step(implementation: str) -> None:
    """Most other tests compile what they compute as one program."""
    options = {"return_carry": True, "seq_lengths": LENGTHS, "reverse": True}
    actual = step_by_step(LSTM(HIDDEN, implementation), a_case(), **as_arguments(options))
    assert_equal(actual, flax_answer(options), **FLOAT32)


@each_implementation
def test_two_steps_by_hand(implementation: str) -> None:
    """One unit and weights in units of ln 3, which make fractions: with L = ln 3,

        sigmoid(-L) = 1/4   sigmoid(0) = 1/2   sigmoid(L) = 3/4   sigmoid(2 L) = 9/10
        tanh(-L/2) = -1/2   tanh(L) = 4/5

    The inputs are 1 and 2. The outputs h_0 = -2/5 (given) and h_1 = 2/5 (found below) enter through
    recurrent kernels in units of 5/2 L, as -1 and +1.
    """
    unit = np.log(3.0)
    #         kernel of x, of h, bias        z_1 = kernel_x - kernel_h + bias
    weights = {  #                           z_2 = 2 kernel_x + kernel_h + bias
        "i": (1.0, -1.0, 0.0),  #            z_1 =  2 L, z_2 =  L      i = 9/10,  3/4
        "f": (-1.0, 1.0, 1.0),  #            z_1 = -L,   z_2 =  0      f =  1/4,  1/2
        "g": (0.5, -1.0, -0.5),  #           z_1 =  L,   z_2 = -L/2    g =  4/5, -1/2
        "o": (1.0, -1.0, -2.0),  #           z_1 =  0,   z_2 = -L      o =  1/2,  1/4
    }
    # c_1 = 1/4 c_0 + 9/10 * 4/5 should be L, for then h_1 = 1/2 * tanh(L) = 2/5.
    c_0 = 4 * (unit - 18 / 25)
    c_2 = 1 / 2 * unit - 3 / 4 * 1 / 2  # = f c_1 + i g
    h_2 = 1 / 4 * np.tanh(c_2)

    cell: dict[str, dict[str, jax.Array]] = {}
    for gate, (of_x, of_h, bias) in weights.items():
        cell[f"i{gate}"] = {"kernel": jnp.full((1, 1), unit * of_x, jnp.float32)}
        cell[f"h{gate}"] = {
            "kernel": jnp.full((1, 1), 5 / 2 * unit * of_h, jnp.float32),
            "bias": jnp.full((1,), unit * bias, jnp.float32),
        }
    inputs = jnp.array([[1.0], [2.0]])
    carry = (jnp.full((1,), c_0, jnp.float32), jnp.full((1,), -2 / 5, jnp.float32))
    expected = ((np.full(1, c_2), np.full(1, h_2)), np.array([[2 / 5], [h_2]]))

    # The NumPy loop that other tests trust is held to the same numbers.
    assert_equal(numpy_lstm(Case({"cell": cell}, inputs, carry)), expected, **FLOAT32)
    result = LSTM(1, implementation).apply(
        {"params": {"cell": cell}}, inputs, initial_carry=carry, return_carry=True
    )
    assert_equal(result, jax.tree.map(np.float32, expected), **FLOAT32)


@each_implementation
def test_equals_the_equations_in_float64(implementation: str) -> None:
    case = a_case()
    layer = LSTM(HIDDEN, implementation, return_carry=True)
    result = layer.apply({"params": case.params}, case.inputs, initial_carry=case.carry)
    assert_equal(result, jax.tree.map(np.float32, numpy_lstm(case)), **FLOAT32)


@each_implementation
def test_gradients_equal_finite_differences_of_the_equations(implementation: str) -> None:
    """Every partial derivative, by moving each number a little in float64: no JAX in the reference."""
    case = random_case(time=3, batch=(2,), num_inputs=3, hidden=2)
    layer = LSTM(2, implementation, return_carry=True)
    results, gradients = results_and_gradients(layer, case)
    weights = jax.tree.map(np.float64, random_like(results))  # of the sum that was differentiated
    leaves, structure = jax.tree.flatten(jax.tree.map(np.float64, case))

    def weighted_sum() -> float:
        values = numpy_lstm(jax.tree.unflatten(structure, leaves))
        return sum(jax.tree.leaves(jax.tree.map(np.vdot, weights, values)))

    step = 1e-5  # the error is of the order of its square, and of 1e-16 divided by it
    expected = []
    for leaf in leaves:
        slopes = np.empty_like(leaf)
        for index in np.ndindex(leaf.shape):
            here, sums = leaf[index], []
            for leaf[index] in (here + step, here - step):
                sums.append(weighted_sum())
            leaf[index] = here
            slopes[index] = (sums[0] - sums[1]) / (2 * step)
        expected.append(slopes.astype(np.float32))
    assert_equal(Case(*gradients), jax.tree.unflatten(structure, expected), **FLOAT32)


# --------------------------------------------------------------------------------------------------
# Against nn.RNN: parameters
# --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("implementation", ["auto", "scan"])
@pytest.mark.parametrize(
    "attributes",
    [
        {},
        {
            "kernel_init": nn.initializers.normal(0.3),
            "recurrent_kernel_init": nn.initializers.uniform(0.2),
            "bias_init": nn.initializers.normal(0.1),  # random: zeros cannot show which key was used
            "param_dtype": jnp.bfloat16,
        },
    ],
    ids=["defaults", "others"],
)
def test_same_initial_parameters(implementation: str, attributes: dict[str, Any]) -> None:
    """Names, shapes, dtypes and values, so that a checkpoint of one is a checkpoint of the other."""
    inputs = a_case().inputs.astype(attributes.get("param_dtype", jnp.float32))
    expected, actual = (
        layer.init(jax.random.key(1), inputs)
        for layer in (flax_rnn(HIDDEN, **attributes), LSTM(HIDDEN, implementation, **attributes))
    )
    assert_equal(actual, expected)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_initial_parameters_in_16_bits(dtype: Any) -> None:
    """JAX has no QR decomposition for them, and so Flax has no orthogonal matrices."""
    exact, rounded = (
        LSTM(HIDDEN, param_dtype=kind).init(jax.random.key(1), a_case().inputs)["params"]["cell"]
        for kind in (jnp.float32, dtype)
    )
    exact = exact["hf"]["kernel"]
    assert_equal(rounded["hf"]["kernel"], exact.astype(dtype))
    np.testing.assert_allclose(exact @ exact.T, np.eye(HIDDEN), atol=1e-6)


def test_forget_bias_shifts_the_bias_of_the_forget_gate_only() -> None:
    options = {"bias_init": nn.initializers.normal(0.1)}
    inputs = a_case().inputs
    plain, shifted = (
        LSTM(HIDDEN, forget_bias=bias, **options).init(jax.random.key(1), inputs)["params"]["cell"]
        for bias in (0.0, 1.5)
    )
    forget = plain["hf"]["bias"] + 1.5
    assert_equal(shifted, {**plain, "hf": {**plain["hf"], "bias": forget}})


# --------------------------------------------------------------------------------------------------
# Against nn.RNN: results and gradients
# --------------------------------------------------------------------------------------------------

OPTIONS: list[dict[str, Any]] = [
    {},
    {"return_carry": True},
    {"reverse": True, "return_carry": True},
    {"keep_order": True},  # nothing to put back
    {"time_major": True, "reverse": True, "keep_order": True},
    {"seq_lengths": LENGTHS, "return_carry": True},
    {"seq_lengths": LENGTHS, "reverse": True},
    {"seq_lengths": LENGTHS, "reverse": True, "keep_order": True, "return_carry": True},
    {"seq_lengths": LENGTHS, "time_major": True, "return_carry": True},
    {
        "seq_lengths": LENGTHS,
        "time_major": True,
        "reverse": True,
        "keep_order": True,
        "return_carry": True,
    },
    # Nothing sensible can be asked of no step at all; what nn.RNN answers (the last step) is the rule.
    {"seq_lengths": (0, 5, 1), "reverse": True, "return_carry": True},
]


# The layer turns the sequences round and masks the padding itself: one implementation shows all of that. An
# implementation has no more to do than the lengths that it selects the state by.
@pytest.mark.parametrize(
    ("implementation", "options"),
    [
        *(("scan", options) for options in OPTIONS),
        *(
            (name, options)
            for name in ("unrolled", "fused", "native")
            for options in (OPTIONS[1], OPTIONS[9], OPTIONS[10])
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else ",".join(value) or "none",
)
def test_options_of_the_call(implementation: str, options: dict[str, Any]) -> None:
    arguments = as_arguments(options)
    actual = results_and_gradients(LSTM(HIDDEN, implementation), a_case(**options), **arguments)
    assert_equal(actual, flax_answer(options), **FLOAT32)


@pytest.mark.parametrize(
    "attributes",
    [
        {"return_carry": True},
        {"time_major": True},
        {"reverse": True},
        {"reverse": True, "keep_order": True},
    ],
    ids=",".join,
)
def test_options_of_the_constructor(attributes: dict[str, bool]) -> None:
    """They are the defaults of the call, which overrides them, with False too."""
    layer = LSTM(HIDDEN, **attributes)
    case = a_case(**attributes)
    variables = {"params": case.params}
    expected, _ = flax_answer(attributes)
    assert_equal(layer.apply(variables, case.inputs, initial_carry=case.carry), expected, **FLOAT32)
    overridden = dict.fromkeys(attributes, False)
    result = layer.apply(variables, a_case().inputs, initial_carry=case.carry, **overridden)
    assert_equal(result, flax_answer({})[0], **FLOAT32)


REVERSED = {"return_carry": True, "reverse": True}


@functools.cache
def _flax_answer_of_size(
    time: int, batch: tuple[int, ...], num_inputs: int, hidden: int
) -> tuple[Tree, Tree]:
    return results_and_gradients(flax_rnn(hidden), random_case(time, batch, num_inputs, hidden), **REVERSED)


@pytest.mark.parametrize("implementation", ["scan", "fused", "native"])
@pytest.mark.parametrize(
    ("time", "batch", "num_inputs", "hidden"),
    [
        (1, (3,), 2, 4),
        (5, (1,), 1, 3),
        (3, (), 3, 2),  # a single sequence, without a batch dimension
        (2, (2, 1, 3), 2, 2),
        (0, (3,), 2, 4),  # no step: the state comes back as it went in
        (3, (0,), 2, 4),  # no sequence
    ],
)
def test_sizes(implementation: str, time: int, batch: tuple[int, ...], num_inputs: int, hidden: int) -> None:
    actual = results_and_gradients(
        LSTM(hidden, implementation), random_case(time, batch, num_inputs, hidden), **REVERSED
    )
    assert_equal(actual, _flax_answer_of_size(time, batch, num_inputs, hidden), **FLOAT32)


@pytest.mark.parametrize("implementation", ["scan", "native"])
@pytest.mark.parametrize(("batch", "reverse"), [((), True), ((3,), False), ((2, 3), True)])
def test_each_length_is_a_sequence_without_padding(
    implementation: str, batch: tuple[int, ...], reverse: bool
) -> None:
    """Cut to its length and run alone, a sequence gives the same state and valid outputs.

    nn.RNN selects the states for one batch dimension only; this holds for any number of them.
    """
    case = random_case(TIME, batch, INPUTS, HIDDEN)
    lengths = np.random.default_rng(2).integers(1, TIME, batch, endpoint=True).astype(np.int32)
    (c, h), outputs = LSTM(HIDDEN, implementation).apply(
        {"params": case.params},
        case.inputs,
        initial_carry=case.carry,
        seq_lengths=jnp.asarray(lengths),
        reverse=reverse,
        return_carry=True,
    )
    for place in np.ndindex(batch):
        valid = np.asarray(case.inputs[place])[: lengths[place]]
        alone = Case(
            case.params, valid[:: -1 if reverse else 1], (case.carry[0][place], case.carry[1][place])
        )
        result = ((c[place], h[place]), outputs[place][: lengths[place]])
        assert_equal(result, jax.tree.map(np.float32, numpy_lstm(alone)), **FLOAT32)


@each_fast
def test_lengths_with_several_batch_dimensions(implementation: str) -> None:
    """A batch of 2 x 3 is a batch of 6, in its gradients too."""
    case = random_case(TIME, (2, 3), INPUTS, HIDDEN)
    lengths = jnp.array([[5, 1, 3], [2, 4, 5]])
    flat = Case(case.params, *jax.tree.map(lambda leaf: leaf.reshape(6, *leaf.shape[2:]), case[1:]))
    options = {"return_carry": True, "reverse": True, "keep_order": True}
    layer = LSTM(HIDDEN, implementation)
    actual = results_and_gradients(layer, case, seq_lengths=lengths, **options)
    expected = results_and_gradients(flax_rnn(HIDDEN), flat, seq_lengths=lengths.reshape(6), **options)
    shaped = jax.tree.map(lambda leaf, like: leaf.reshape(like.shape), expected, actual)
    assert_equal(actual, shaped, **FLOAT32)


@each_fast
def test_a_length_beyond_the_end_is_that_of_the_whole_sequence(implementation: str) -> None:
    """As in nn.RNN, whose gradient leaves such a sequence out, though."""
    layer = LSTM(HIDDEN, implementation, return_carry=True)
    actual, expected = (
        results_and_gradients(layer, a_case(), seq_lengths=jnp.array(lengths))
        for lengths in ((TIME + 1, 100, 2), (TIME, TIME, 2))
    )
    assert_equal(actual, expected)


@pytest.mark.parametrize(("implementation", "init_key"), [("scan", None), ("fused", 7), ("native", 8)])
def test_initial_carry_by_default(implementation: str, init_key: int | None) -> None:
    """It is drawn from ``init_key``; zeros, the usual initializer, would hide which key was used."""
    case = a_case()
    arguments = {
        "init_key": None if init_key is None else jax.random.key(init_key),
        "return_carry": True,
    }
    carry_init = nn.initializers.normal(1.0)
    expected, actual = (
        layer.apply({"params": case.params}, case.inputs, **arguments)
        for layer in (
            flax_rnn(HIDDEN, carry_init=carry_init),
            LSTM(HIDDEN, implementation, carry_init=carry_init),
        )
    )
    assert_equal(actual, expected, **FLOAT32)


@each_fast
def test_initial_carry_is_zero_if_nothing_is_said(implementation: str) -> None:
    case = a_case()
    layer = LSTM(HIDDEN, implementation)
    zeros = jax.tree.map(jnp.zeros_like, case.carry)
    expected = layer.apply({"params": case.params}, case.inputs, initial_carry=zeros)
    assert_equal(layer.apply({"params": case.params}, case.inputs), expected)


@each_general_implementation
def test_other_activations(implementation: str) -> None:
    attributes = {"gate_fn": nn.hard_sigmoid, "activation_fn": nn.softplus}
    expected = results_and_gradients(flax_rnn(HIDDEN, **attributes), a_case())
    actual = results_and_gradients(LSTM(HIDDEN, implementation, **attributes), a_case())
    assert_equal(actual, expected, **FLOAT32)


@pytest.mark.parametrize("unroll", [2, TIME + 1])  # one that leaves a rest, and too many
def test_unroll(unroll: int) -> None:
    options = {"seq_lengths": LENGTHS, "return_carry": True}
    layer = LSTM(HIDDEN, "scan", unroll=unroll)
    actual = results_and_gradients(layer, a_case(), **as_arguments(options))
    assert_equal(actual, flax_answer(options), **FLOAT32)


@examples(6)
@given(st.data())
def test_any_sizes_and_options(data: st.DataObject) -> None:
    implementation = data.draw(st.sampled_from(NAMES), "implementation")
    time, *batch = data.draw(st.lists(st.integers(1, 3), min_size=1, max_size=3), "time, batch")
    num_inputs, hidden = data.draw(st.integers(1, 5), "inputs"), data.draw(st.integers(1, 5), "hidden")
    options: dict[str, Any] = {
        name: data.draw(st.booleans(), name)
        for name in ("time_major", "reverse", "keep_order", "return_carry")
    }
    # nn.RNN selects the states at the ends for one batch dimension only.
    if len(batch) == 1 or not options["return_carry"]:
        lengths = data.draw(
            st.lists(st.integers(0, time), min_size=int(np.prod(batch)), max_size=int(np.prod(batch)))
            | st.none(),
            "lengths",
        )
        if lengths is not None:
            options["seq_lengths"] = jnp.array(lengths, jnp.int32).reshape(batch)
    case = random_case(time, tuple(batch), num_inputs, hidden, time_major=options["time_major"])
    expected = results_and_gradients(flax_rnn(hidden), case, **options)
    actual = results_and_gradients(LSTM(hidden, implementation), case, **options)
    assert_equal(actual, expected, **FLOAT32)

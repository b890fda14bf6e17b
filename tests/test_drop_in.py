"""What a user of Flax can do with ``nn.RNN(nn.LSTMCell(n))`` can be done with ``LSTM(n)``: a table.

A row is a use: a method of `nn.Module`, a lifted transformation, an example of Flax's documentation. A column
is an implementation. Programs are only traced, where shapes, names and boxes of the results say enough;
numbers are compared in the other files of tests, and here for one implementation.
"""

import functools
import re
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lstm_jax import LSTM, LSTMClassifier
from lstm_jax.errors import ImplementationError
from lstm_jax.layer.arguments import check_features
from tests.helpers.references import (
    FLOAT32,
    HIDDEN,
    Tree,
    a_case,
    assert_equal,
    each_fast,
    each_name,
    flax_rnn,
    random_like,
)

# --------------------------------------------------------------------------------------------------
# Uses inside of a module
# --------------------------------------------------------------------------------------------------

Use = Callable[[nn.Module, jax.Array], Any]


class Outer(nn.Module):
    """A module with a layer, which it uses in some way."""

    make: Callable[[], nn.Module]
    use: Use

    def setup(self) -> None:
        self.layer = self.make()

    def __call__(self, inputs: jax.Array) -> Any:
        return self.use(self.layer, inputs)


def _call(layer: nn.Module, x: jax.Array) -> jax.Array:
    return layer(x)


def _loss(layer: nn.Module, x: jax.Array) -> jax.Array:
    outputs = layer(x)
    return jnp.vdot(outputs, jnp.arange(outputs.size, dtype=jnp.float32).reshape(outputs.shape))


def _in_a_loop(layer: nn.Module, x: jax.Array) -> jax.Array:
    layer(x)  # parameters cannot be made within a loop
    return nn.while_loop(lambda _, i: i[0] < 2, lambda m, i: (i[0] + 1, m(x) + i[1]), layer, (0, layer(x)))[1]


def _under_a_condition(layer: nn.Module, x: jax.Array) -> jax.Array:
    return nn.cond(x.sum() > 0, _call, lambda m, x: 2 * m(x), layer, x)


def _chunk_after_chunk(layer: nn.Module, x: jax.Array) -> Any:
    """Truncated sequences, the state handed on."""
    carry, first = layer(x[:, :2], return_carry=True)
    return layer(x[:, 2:], return_carry=True, initial_carry=jax.lax.stop_gradient(carry)), first


def _scanned_over_chunks(layer: nn.Module, x: jax.Array) -> Any:
    chunks = jnp.stack([x, 2 * x])
    state = tuple(jnp.zeros((len(x), HIDDEN)) for _ in range(2))
    loop = nn.scan(
        lambda m, carry, x: m(x, initial_carry=carry, return_carry=True),
        variable_broadcast="params",
        split_rngs={"params": False},
    )
    return loop(layer, state, chunks)


USES: dict[str, Use] = {
    "call": _call,
    "batch dimensions": lambda m, x: m(jnp.stack([x, 2 * x])),
    "no batch dimension": lambda m, x: m(x[0]),
    "time_major, keep_order": lambda m, x: m(x, time_major=True, reverse=True, keep_order=True),
    "seq_lengths": lambda m, x: m(x, return_carry=True, seq_lengths=jnp.array([2, 5, 1])),
    "init_key": lambda m, x: m(x, init_key=jax.random.key(3), return_carry=True),
    "chunk after chunk": _chunk_after_chunk,
    "twice": lambda m, x: m(x) + m(2 * x),
    "nn.jit": nn.jit(_call),
    "nn.remat": nn.remat(_call),
    "nn.checkpoint, dots": nn.checkpoint(_call, policy=jax.checkpoint_policies.dots_saveable),
    "nn.vmap, an ensemble": nn.vmap(
        _call, in_axes=None, variable_axes={"params": 0}, split_rngs={"params": True}, axis_size=2
    ),
    "nn.vmap, over the batch": nn.vmap(_call, variable_axes={"params": None}, split_rngs={"params": False}),
    "nn.vmap, weights in the last axis": nn.vmap(
        _call,
        in_axes=None,
        out_axes=1,
        variable_axes={"params": -1},
        split_rngs={"params": True},
        axis_size=2,
    ),
    "nn.scan": _scanned_over_chunks,
    "nn.while_loop": _in_a_loop,
    "nn.cond": _under_a_condition,
    "nn.value_and_grad": lambda m, x: nn.value_and_grad(_loss, m, x),
    "nn.map_variables": nn.map_variables(
        _call, "params", lambda tree: jax.tree.map(lambda leaf: 2 * leaf, tree), init=True
    ),
    "grad inside": lambda m, x: jax.grad(lambda x: _loss(m, x))(x),
    "variables": lambda m, x: (m(x), m.variables["params"]["cell"]["if"]["kernel"])[1],
    "has_variable": lambda m, x: (m(x), jnp.asarray(m.has_variable("params", "cell")))[1],
}


def _outer(use: str, implementation: str | None) -> Outer:
    make = functools.partial(LSTM, HIDDEN, implementation) if implementation else _flax
    return Outer(make, USES[use])


def _flax() -> nn.Module:
    return flax_rnn(HIDDEN)


def _inputs() -> jax.Array:
    return a_case().inputs


@functools.cache
def _flax_traced(use: str) -> Any:
    return jax.eval_shape(_outer(use, None).init_with_output, jax.random.key(1), _inputs())


# Each with two of the four: what an implementation sees of a use is a transformation, and those are composed
# at random in test_stacks.py.
@pytest.mark.parametrize(
    ("use", "implementation"),
    [
        (use, name)
        for number, use in enumerate(USES)
        for name in (("native", "unrolled"), ("fused", "scan"))[number % 2]
    ],
)
def test_results_and_parameters_of_a_use(use: str, implementation: str) -> None:
    """Names, shapes and dtypes of both."""
    run = _outer(use, implementation).init_with_output
    traced = jax.eval_shape(run, jax.random.key(1), _inputs())
    assert traced == _flax_traced(use)


# Of gradients, see test_stacks.py.
NUMBERS = (
    "chunk after chunk",
    "nn.vmap, an ensemble",
    "nn.vmap, weights in the last axis",
    "nn.scan",
    "nn.cond",
    "nn.map_variables",
)


@pytest.mark.parametrize("use", NUMBERS)
def test_numbers_of_a_use(use: str) -> None:
    variables = random_like(_flax_traced(use)[1])
    expected, actual = (
        jax.jit(_outer(use, implementation).apply)(variables, _inputs()) for implementation in (None, "auto")
    )
    assert_equal(actual, expected, **FLOAT32)


# --------------------------------------------------------------------------------------------------
# Uses of the layer by itself
# --------------------------------------------------------------------------------------------------

BOXES = {
    "with_partitioning": nn.with_partitioning,
    "with_logical_partitioning": nn.with_logical_partitioning,
}


@functools.cache
def _boxed(box: str) -> dict[str, Any]:
    put = BOXES[box]
    return {
        "kernel_init": put(nn.initializers.lecun_normal(), ("inputs", "hidden")),
        "recurrent_kernel_init": put(nn.initializers.orthogonal(), ("hidden", "more")),
        "bias_init": put(nn.initializers.normal(), ("hidden",)),
    }


@pytest.mark.parametrize("box", BOXES)
@pytest.mark.parametrize("forget_bias", [0.0, 1.0, "chrono"])
def test_initializers_that_say_how_parameters_are_sharded(box: str, forget_bias: Any) -> None:
    expected, actual = (
        jax.eval_shape(layer.init, jax.random.key(1), _inputs())
        for layer in (
            flax_rnn(HIDDEN, **_boxed(box)),
            LSTM(HIDDEN, forget_bias=forget_bias, **_boxed(box)),
        )
    )
    assert actual == expected
    assert nn.get_partition_spec(actual) == nn.get_partition_spec(expected)


@pytest.mark.parametrize("box", BOXES)
def test_the_values_in_a_box_are_those_without_it(box: str) -> None:
    plain = {name: init for name, init in _boxed(box).items() if name == "bias_init"}
    boxed, expected = (
        LSTM(HIDDEN, forget_bias=1.5, bias_init=init).init(jax.random.key(1), _inputs())
        for init in (plain["bias_init"], nn.initializers.normal())
    )
    assert_equal(nn.unbox(boxed), expected)


@each_name
def test_what_apply_captures_are_the_outputs(implementation: str) -> None:
    def captured(layer: nn.Module) -> Tree:
        run = functools.partial(layer.apply, capture_intermediates=True)
        return jax.eval_shape(run, {"params": a_case().params}, _inputs())

    assert captured(LSTM(HIDDEN, implementation)) == captured(_flax())


@pytest.mark.parametrize("implementation", ["auto", "scan"])
def test_tabulate(implementation: str) -> None:
    """One row for the layer, all of its parameters, no word of what is inside; warnings are errors."""
    layer = LSTM(HIDDEN, implementation)
    counted = {"compute_flops": True, "compute_vjp_flops": implementation == "auto"}
    table = layer.tabulate(jax.random.key(0), _inputs(), console_kwargs={"width": 200}, **counted)
    number = sum(leaf.size for leaf in jax.tree.leaves(a_case().params))
    assert f"Total Parameters: {number}" in table
    assert table.count("LSTM") == 2  # the title and the row
    assert "Dense" not in table


def test_tabulate_and_capture_of_the_classifier() -> None:
    """Its layers are listed, and not what makes them; what is captured are outputs."""
    model = LSTMClassifier(HIDDEN, bidirectional=True, implementation="scan")
    table = model.tabulate(jax.random.key(0), _inputs(), console_kwargs={"width": 200})
    assert re.findall(r"│ (\w+) +│ \w+", table) == ["lstm_0_forward", "lstm_0_backward", "head"]
    variables = jax.eval_shape(model.init, jax.random.key(0), _inputs())
    _, state = jax.eval_shape(
        functools.partial(model.apply, capture_intermediates=True), variables, _inputs()
    )
    layers = {name: list(captured) for name, captured in state["intermediates"].items()}
    names = ("lstm_0_forward", "lstm_0_backward", "head")
    assert layers.pop("__call__")
    assert layers == {name: ["__call__"] for name in names}


@pytest.mark.parametrize("implementation", ["auto", "scan"])
def test_bind_unbind_clone_and_lazy_init(implementation: str) -> None:
    layer, variables = LSTM(HIDDEN, implementation), {"params": a_case().params}
    bound = layer.bind(variables)
    assert jax.eval_shape(bound, _inputs()).shape == (*_inputs().shape[:-1], HIDDEN)
    module, found = bound.unbind()
    assert module == layer
    assert_equal(found, variables)
    assert layer.clone() == layer == layer.copy()
    assert hash(layer.clone()) == hash(layer)
    shape = jax.ShapeDtypeStruct(_inputs().shape, jnp.float32)
    lazy = jax.eval_shape(lambda: layer.lazy_init(jax.random.key(0), shape))
    assert lazy == jax.eval_shape(lambda: _flax().lazy_init(jax.random.key(0), shape))


CONTAINERS: dict[str, Callable[[Any], nn.Module]] = {
    "nn.Bidirectional": lambda make: nn.Bidirectional(make(), make(), return_carry=True),
    "nn.Sequential": lambda make: nn.Sequential([make(), nn.tanh, make(), nn.Dense(2)]),
}


@pytest.mark.parametrize("implementation", ["auto", "scan"])
@pytest.mark.parametrize("container", CONTAINERS)
def test_containers_of_flax(container: str, implementation: str) -> None:
    def traced(make: Any) -> Any:
        layer = CONTAINERS[container](make)
        return jax.eval_shape(layer.init_with_output, jax.random.key(0), _inputs())

    assert traced(functools.partial(LSTM, HIDDEN, implementation)) == traced(_flax)


def test_parameters_of_a_compact_parent() -> None:
    """Flax makes the cell a child of that parent; this line turns them into ours."""

    class Parent(nn.Module):
        make: Any

        @nn.compact
        def __call__(self, x: jax.Array) -> jax.Array:
            return self.make()(x)

    flax, ours = Parent(lambda: nn.RNN(nn.LSTMCell(HIDDEN))), Parent(functools.partial(LSTM, HIDDEN))
    params = flax.init(jax.random.key(0), _inputs())["params"]
    converted = {"LSTM_0": {"cell": params["LSTMCell_0"]}}
    assert_equal(
        ours.apply({"params": converted}, _inputs()), flax.apply({"params": params}, _inputs()), **FLOAT32
    )


# --------------------------------------------------------------------------------------------------
# What is given: taken alike by all implementations, or refused in words
# --------------------------------------------------------------------------------------------------


def _traced(implementation: str, *inputs: Any, **options: Any) -> Any:
    layer = LSTM(HIDDEN, implementation, return_carry=True)
    x = inputs[0] if inputs else _inputs()
    run = functools.partial(layer.apply, {"params": a_case().params}, **options)
    return jax.eval_shape(run, x) if isinstance(x, jax.Array | np.ndarray) else run(x)


@pytest.mark.parametrize("implementation", ["auto", "fused"])
@pytest.mark.parametrize(
    "form",
    [list, jnp.stack, np.asarray, lambda carry: tuple(state.astype(jnp.bfloat16) for state in carry)],
    ids=["list", "one array", "NumPy", "bfloat16"],
)
def test_forms_of_a_carry(implementation: str, form: Any) -> None:
    carry = a_case().carry
    with jax.numpy_dtype_promotion("standard"):
        assert _traced(implementation, initial_carry=form(carry)) == _traced("scan", initial_carry=carry)


@each_fast
def test_one_array_is_c_and_h(implementation: str) -> None:
    case, layer = a_case(), LSTM(HIDDEN, implementation)
    actual, expected = (
        layer.apply({"params": case.params}, case.inputs, initial_carry=carry)
        for carry in (jnp.stack(case.carry), case.carry)
    )
    assert_equal(actual, expected)


ONE = np.ones((3, HIDDEN), np.float32)
REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "a state alone": (
        {"initial_carry": ONE[0]},
        "initial_carry: got an array of shape (4,), expected two arrays",
    ),
    "three states": (
        {"initial_carry": [ONE] * 3},
        "initial_carry: got a list of 3, expected two arrays (c, h)",
    ),
    "a number": (
        {"initial_carry": 0.0},
        "initial_carry: got a float, expected two arrays (c, h) of shape (3, 4)",
    ),
    "another shape": (
        {"initial_carry": (ONE, ONE.T)},
        "initial_carry: got h of shape (4, 3), expected (3, 4)",
    ),
    "integers": ({"initial_carry": (ONE.astype(int), ONE)}, "initial_carry: got c of dtype int32, expected"),
    "lengths of floats": (
        {"seq_lengths": np.ones(3, np.float32)},
        "seq_lengths: got dtype float32, expected int",
    ),
    "a mask": ({"seq_lengths": np.ones((3, 5), bool)}, "seq_lengths: got dtype bool, expected integers"),
    "lengths per step": (
        {"seq_lengths": np.ones((3, 5), np.int32)},
        "seq_lengths: got shape (3, 5), expected (3,)",
    ),
    "one length": ({"seq_lengths": 3}, "seq_lengths: got shape (), expected (3,), as the batch"),
    "a word": ({"seq_lengths": "all"}, "seq_lengths: got a str, expected integers"),
}


@pytest.mark.parametrize("implementation", ["auto", "scan"])
@pytest.mark.parametrize("reason", REFUSED)
def test_what_cannot_be_taken_is_refused_by_name(implementation: str, reason: str) -> None:
    options, message = REFUSED[reason]
    with pytest.raises(ValueError) as raised:  # noqa: PT011
        _traced(implementation, **options)
    assert str(raised.value).startswith(message)
    assert "\n" not in str(raised.value)


def test_inputs_that_are_no_sequences() -> None:
    with pytest.raises(
        ValueError, match=r"^inputs: got shape \(5,\), expected an array \(\*batch, time, inputs"
    ):
        _traced("auto", jnp.ones(5))


@pytest.mark.parametrize(
    ("features", "got"),
    [
        (0, "0"),
        (-3, "-3"),
        (64.0, "64.0"),
        (True, "True"),
        ("64", "'64'"),
        (nn.LSTMCell(4), "a module LSTMCell"),
    ],
    ids=["zero", "negative", "float", "bool", "word", "cell"],
)
def test_a_number_of_hidden_units_that_is_none(features: Any, got: str) -> None:
    message = f"^features: got {got}, expected a (whole )?number of hidden units"
    with pytest.raises(ValueError, match=message):
        check_features(features)
    if type(features) is int:  # the types are checked too while tests run
        with pytest.raises(ValueError, match=message):
            LSTM(features)


LENGTHS = [2, 9, 1]  # of 5 steps


@pytest.mark.parametrize(("implementation", "reverse"), [("scan", True), ("fused", False), ("native", True)])
def test_forms_of_lengths_and_one_beyond_the_end(implementation: str, reverse: bool) -> None:
    case, layer = a_case(), LSTM(HIDDEN, implementation, return_carry=True)
    run = functools.partial(layer.apply, {"params": case.params}, case.inputs, reverse=reverse)
    expected = run(seq_lengths=jnp.array([2, 5, 1], jnp.int32))
    for lengths in (LENGTHS, np.array(LENGTHS), jnp.array(LENGTHS, jnp.uint8)):
        assert_equal(run(seq_lengths=lengths), expected)


@each_name
def test_no_time_steps_with_lengths_give_the_initial_carry(implementation: str) -> None:
    case, layer = a_case(), LSTM(HIDDEN, implementation, return_carry=True)
    carry, outputs = layer.apply(
        {"params": case.params}, case.inputs[:, :0], initial_carry=case.carry, seq_lengths=[0, 0, 3]
    )
    assert_equal(carry, case.carry)
    assert outputs.shape == (3, 0, HIDDEN)


# --------------------------------------------------------------------------------------------------
# Derivatives
# --------------------------------------------------------------------------------------------------


def test_auto_says_what_has_forward_mode() -> None:
    """Somebody who never chose an implementation learns which to choose."""
    case, layer = a_case(), LSTM(HIDDEN)

    def run(inputs: jax.Array) -> jax.Array:
        return layer.apply({"params": case.params}, inputs)

    message = "which 'auto' can stand for, has no forward-mode .* use implementation 'scan' for it"
    with pytest.raises(ImplementationError, match=message):
        jax.jvp(run, (case.inputs,), (case.inputs,))

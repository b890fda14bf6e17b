"""The layer for Flax NNX against ``nnx.RNN`` over the same cell: results, gradients, state, training."""

import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from lstm_jax.nnx import LSTM
from tests.helpers.references import FLOAT32, Tree, assert_equal, random_like

CELLS = [nnx.LSTMCell, nnx.OptimizedLSTMCell]
each_cell = pytest.mark.parametrize("cell", CELLS)
OPTIONS = [
    {"time_major": time_major, "reverse": reverse, "keep_order": keep_order, "return_carry": return_carry}
    for time_major, (reverse, keep_order), return_carry in itertools.product(
        (False, True), ((False, False), (True, False), (True, True)), (False, True)
    )
]


def a_cell(kind: Any, seed: int = 0, inputs: int = 3, hidden: int = 5) -> Any:
    """A cell with random biases: zero ones would not show a wrong use of them."""
    cell = kind(inputs, hidden, rngs=nnx.Rngs(seed))
    structure, state = nnx.split(cell)
    return nnx.merge(structure, jax.tree.map(lambda a, b: a + 0.3 * b, state, random_like(state)))


def sequences(time_major: bool = False) -> jax.Array:
    rng = np.random.default_rng(5)
    return jnp.asarray(rng.standard_normal((6, 4, 3) if time_major else (4, 6, 3)), jnp.float32)


def results_and_gradients(layer: Any, inputs: Any, **call: Any) -> tuple[Tree, Tree]:
    structure, params, rest = nnx.split(layer, nnx.Param, ...)

    @jax.jit
    def run(params: Any, inputs: Any, call: Any) -> tuple[Tree, Tree]:
        results, pull_back = jax.vjp(
            lambda params, inputs, call: nnx.merge(structure, params, rest)(inputs, **call),
            params,
            inputs,
            call,
        )
        return results, list(pull_back(random_like(results))[:2])

    return run(params, inputs, call)


# The options are handled before an implementation is chosen.
@pytest.mark.parametrize(
    ("options", "implementation"),
    [*((options, "auto") for options in OPTIONS), (OPTIONS[0], "scan"), (OPTIONS[-1], "fused")],
    ids=str,
)
@each_cell
def test_it_is_nnx_rnn(cell: Any, options: dict[str, bool], implementation: str) -> None:
    one = a_cell(cell)
    inputs = sequences(options["time_major"])
    rng = np.random.default_rng(6)
    carry = tuple(jnp.asarray(rng.standard_normal((4, 5)), jnp.float32) for _ in range(2))
    call: dict[str, Any] = {"initial_carry": carry, "seq_lengths": jnp.array([6, 1, 4, 2])}
    expected = results_and_gradients(nnx.RNN(one, **options), inputs, **call)
    found = results_and_gradients(LSTM(one, implementation=implementation, **options), inputs, **call)
    assert_equal(found, expected, **FLOAT32)


@each_cell
def test_the_options_of_a_call_win(cell: Any) -> None:
    one = a_cell(cell)
    call: dict[str, Any] = {"time_major": True, "reverse": True, "keep_order": True, "return_carry": True}
    found, expected = (layer(one)(sequences(True), **call) for layer in (LSTM, nnx.RNN))
    assert_equal(found, expected, **FLOAT32)


@each_cell
def test_the_state_of_the_one_is_a_state_of_the_other(cell: Any) -> None:
    ours, theirs = LSTM(a_cell(cell, 1)), nnx.RNN(a_cell(cell, 2))
    expected = theirs(sequences())
    nnx.update(ours, nnx.state(theirs))
    assert_equal(ours(sequences()), expected, **FLOAT32)
    assert jax.tree.structure(nnx.state(ours)) == jax.tree.structure(nnx.state(theirs))
    paths = [[path for path, _ in nnx.to_flat_state(nnx.state(layer))] for layer in (ours, theirs)]
    assert paths[0] == paths[1]


@each_cell
def test_it_trains_as_nnx_rnn_does(cell: Any) -> None:
    class Classifier(nnx.Module):
        def __init__(self, layer: Any, rngs: nnx.Rngs) -> None:
            forward, backward = (layer(a_cell(cell, seed)) for seed in (1, 2))
            self.lstm = nnx.Bidirectional(forward, backward)
            self.head = nnx.Linear(10, 2, rngs=rngs)

        def __call__(self, x: Any) -> Any:
            return self.head(self.lstm(x)[:, -1])

    def losses(layer: Any) -> list[float]:
        model = Classifier(layer, nnx.Rngs(3))
        optimizer = nnx.Optimizer(model, optax.adam(0.05), wrt=nnx.Param)

        @nnx.jit
        def step(model: Any, optimizer: Any, x: Any) -> Any:
            def loss(model: Any) -> Any:
                labels = (jnp.arange(4) % 2).astype(jnp.int32)
                return optax.softmax_cross_entropy_with_integer_labels(model(x), labels).mean()

            value, gradients = nnx.value_and_grad(loss)(model)
            optimizer.update(model, gradients)
            return value

        return [float(step(model, optimizer, sequences())) for _ in range(5)]

    found, expected = losses(LSTM), losses(nnx.RNN)
    np.testing.assert_allclose(found, expected, rtol=1e-4)
    assert expected[-1] < expected[0]


def test_several_at_once() -> None:
    @nnx.vmap(in_axes=0, out_axes=0)
    def make(key: Any) -> LSTM:
        return LSTM(nnx.LSTMCell(3, 5, rngs=nnx.Rngs(key)))

    many = make(jax.random.split(jax.random.key(0), 3))
    found = nnx.vmap(lambda layer, x: layer(x), in_axes=(0, None))(many, sequences())
    one_by_one = []
    structure, state = nnx.split(many)
    for i in range(3):
        one = nnx.merge(structure, jax.tree.map(lambda leaf, i=i: leaf[i], state))
        one_by_one.append(nnx.RNN(one.cell)(sequences()))
    assert_equal(found, jnp.stack(one_by_one), **FLOAT32)


def test_in_a_scan_of_layers() -> None:
    @nnx.vmap(in_axes=0, out_axes=0)
    def make(key: Any) -> LSTM:
        return LSTM(nnx.LSTMCell(3, 3, rngs=nnx.Rngs(key)), rngs=False)

    many = make(jax.random.split(jax.random.key(0), 3))
    zeros = (jnp.zeros((4, 3)),) * 2

    @nnx.scan(in_axes=(nnx.Carry, 0), out_axes=nnx.Carry)
    def through(x: Any, layer: LSTM) -> Any:
        return layer(x, initial_carry=zeros)

    expected = sequences()
    structure, state = nnx.split(many)
    for i in range(3):
        one = nnx.merge(structure, jax.tree.map(lambda leaf, i=i: leaf[i], state))
        expected = nnx.RNN(one.cell)(expected)
    assert_equal(through(sequences(), many), expected, **FLOAT32)


def test_the_carry_alone() -> None:
    one = a_cell(nnx.LSTMCell)
    carry, _ = nnx.RNN(one, return_carry=True)(sequences())
    assert_equal(LSTM(one, return_outputs=False)(sequences()), carry, **FLOAT32)


def test_resets_cut_the_sequence() -> None:
    one = a_cell(nnx.OptimizedLSTMCell)
    resets = np.zeros((4, 6), bool)
    resets[:, 2] = True
    expected = jnp.concatenate([nnx.RNN(one)(sequences()[:, :2]), nnx.RNN(one)(sequences()[:, 2:])], axis=1)
    assert_equal(LSTM(one)(sequences(), resets=resets), expected, **FLOAT32)


def test_other_cells_are_refused() -> None:
    with pytest.raises(TypeError, match=r"^cell: got a GRUCell, expected an nnx.LSTMCell or"):
        LSTM(nnx.GRUCell(3, 5, rngs=nnx.Rngs(0)))
    cell = a_cell(nnx.LSTMCell)
    cell.if_ = nnx.LoRALinear(3, 5, lora_rank=1, use_bias=False, rngs=nnx.Rngs(0))
    with pytest.raises(TypeError, match=r"^cell.if_: got a LoRALinear, expected an nnx.Linear; use nnx.RNN"):
        LSTM(cell)

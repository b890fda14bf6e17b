"""The layer for Flax NNX against ``nnx.RNN`` over the same cell: results, gradients, state, training."""

import itertools
import re
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from lstm_jax.nnx import LSTM
from tests.helpers.references import BFLOAT16, FLOAT32, Tree, assert_equal, random_like

CELLS = [nnx.LSTMCell, nnx.OptimizedLSTMCell]
each_cell = pytest.mark.parametrize("cell", CELLS)
OPTIONS = [
    {"time_major": time_major, "reverse": reverse, "keep_order": keep_order, "return_carry": return_carry}
    for time_major, (reverse, keep_order), return_carry in itertools.product(
        (False, True), ((False, False), (True, False), (True, True)), (False, True)
    )
]


def a_cell(kind: Any, seed: int = 0, inputs: int = 3, hidden: int = 5, **options: Any) -> Any:
    """A cell with random biases: zero ones would not show a wrong use of them."""
    if "param_dtype" in options:  # the orthogonal matrices of one kind of cell are in float32 only
        options["recurrent_kernel_init"] = nnx.initializers.lecun_normal()
    cell = kind(inputs, hidden, rngs=nnx.Rngs(seed), **options)
    structure, state = nnx.split(cell)
    return nnx.merge(structure, jax.tree.map(lambda a, b: a + 0.3 * b, state, random_like(state)))


def sequences(time_major: bool = False) -> jax.Array:
    rng = np.random.default_rng(5)
    return jnp.asarray(rng.standard_normal((6, 4, 3) if time_major else (4, 6, 3)), jnp.float32)


def results_and_gradients(
    make: Any, cell: Any, inputs: Any, carry: Any = None, **call: Any
) -> tuple[Tree, Tree]:
    """What the layer that ``make`` makes of a cell gives, and the gradients by weights, inputs and carry."""
    structure, params = nnx.split(cell)

    def run(params: Any, inputs: Any, carry: Any) -> Tree:
        # Made here, so that its random keys for a carry of its own belong to this trace.
        return make(nnx.merge(structure, params))(inputs, initial_carry=carry, **call)

    @jax.jit
    def both(*arguments: Any) -> tuple[Tree, Tree]:
        results, pull_back = jax.vjp(run, *arguments)
        return results, pull_back(random_like(results))

    return both(params, inputs, carry)


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
    lengths = jnp.array([6, 1, 4, 2])
    found, expected = (
        results_and_gradients(make, one, inputs, carry, seq_lengths=lengths)
        for make in (partial(LSTM, implementation=implementation, **options), partial(nnx.RNN, **options))
    )
    assert_equal(found, expected, **FLOAT32)


def _drawn_case(seed: int) -> tuple[Any, dict[str, Any], dict[str, Any], Any]:
    """A cell, options of the layer, arguments of the call, and what `LSTM` has besides: all at random.

    Cells, implementations and numbers of batch axes take turns: twelve seeds have all pairs of these.
    """
    rng = np.random.default_rng(seed)

    def maybe() -> bool:
        return bool(rng.integers(2))

    def normal(*shape: int) -> jax.Array:
        return jnp.asarray(rng.standard_normal(shape), jnp.float32)

    inputs, hidden, time = (int(rng.integers(1, most)) for most in (7, 10, 8))
    batch = tuple(int(size) for size in rng.integers(1, 5, size=seed // 4))
    options: dict[str, Any] = {name: maybe() for name in ("time_major", "reverse", "keep_order")}
    options["return_carry"] = rng.random() < 0.7
    dtypes = ({}, {"dtype": jnp.bfloat16}, {"dtype": jnp.bfloat16, "param_dtype": jnp.bfloat16})
    of_cell = dtypes[rng.choice(3, p=(0.5, 0.25, 0.25))]
    cell = a_cell(CELLS[seed % 2], seed, inputs, hidden, **of_cell)
    call = {
        "inputs": normal(*((time, *batch) if options["time_major"] else (*batch, time)), inputs),
        "carry": (normal(*batch, hidden), normal(*batch, hidden)) if rng.random() < 0.7 else None,
        "seq_lengths": jnp.asarray(rng.integers(1, time + 1, size=batch), jnp.int32)
        if rng.random() < 0.6
        else None,
    }
    return cell, options, call, ("scan", "fused", "native")[seed % 3]


def _rnn_of_any_batch(cell: Any, *, time_major: bool, **options: Any) -> Any:
    """`nnx.RNN` as a function that takes lengths of any shape: itself, it finds the carry for one axis."""
    rnn = nnx.RNN(cell, time_major=time_major, **options)

    def run(inputs: Any, *, initial_carry: Any, seq_lengths: Any) -> Tree:
        if seq_lengths is None:
            return rnn(inputs, initial_carry=initial_carry)
        batch = seq_lengths.shape
        time = inputs.shape[0 if time_major else -2]
        features = inputs.shape[-1]
        flat = (time, -1, features) if time_major else (-1, time, features)

        def back(result: Any) -> Any:
            if result.ndim == 2:
                return result.reshape(*batch, -1)
            return result.reshape(*((time, *batch) if time_major else (*batch, time)), -1)

        results = rnn(
            inputs.reshape(flat),
            initial_carry=jax.tree.map(lambda state: state.reshape(-1, state.shape[-1]), initial_carry),
            seq_lengths=seq_lengths.reshape(-1),
        )
        return jax.tree.map(back, results)

    return run


@pytest.mark.parametrize("seed", range(12))
def test_it_is_nnx_rnn_for_any_task(seed: int) -> None:
    cell, options, call, implementation = _drawn_case(seed)
    with jax.numpy_dtype_promotion("standard"):  # as the cell of Flax needs it in bfloat16
        found, expected = (
            results_and_gradients(make, cell, **call)
            for make in (
                partial(LSTM, implementation=implementation, **options),
                partial(_rnn_of_any_batch, **options),
            )
        )
    assert_equal(found, expected, **(BFLOAT16 if cell.dtype else FLOAT32))


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


@each_cell
def test_a_state_that_is_given_needs_no_random_keys(cell: Any) -> None:
    """`nnx.RNN` draws none then; in a loop over a layer from outside it could not."""
    layer = LSTM(a_cell(cell), return_carry=True, rngs=nnx.Rngs(0))
    resets = np.arange(6) == 2

    def step(carry: Any, given: Any) -> Any:
        return layer(given[0][:, None], initial_carry=carry, resets=jnp.full((4, 1), given[1]))

    begin = (jnp.ones((4, 5)), -jnp.ones((4, 5)))
    carry, outputs = jax.lax.scan(step, begin, (jnp.swapaxes(sequences(), 0, 1), resets))
    everywhere = np.broadcast_to(resets, (4, 6))
    expected = layer(sequences(), initial_carry=begin, resets=everywhere)
    assert_equal((carry, jnp.swapaxes(outputs[:, :, 0], 0, 1)), expected, **FLOAT32)


# Flax warns that it will want the initializer elsewhere.
@pytest.mark.filterwarnings("ignore:.*carry_init")
@each_cell
def test_resets_cut_the_sequence(cell: Any) -> None:
    one = a_cell(cell, carry_init=nnx.initializers.constant(0.5))
    rnn, layer = (kind(one, return_carry=True, rngs=nnx.Rngs(0)) for kind in (nnx.RNN, LSTM))
    resets = np.zeros((4, 6), bool)
    resets[:, 2] = True
    rng = np.random.default_rng(7)
    begin, fresh = jnp.asarray(rng.standard_normal((2, 2, 4, 5)), jnp.float32)
    head, tail = sequences()[:, :2], sequences()[:, 2:]
    _, first = rnn(head, initial_carry=tuple(begin))
    for given in ({}, {"reset_carry": tuple(fresh)}):  # without it, what the cell begins with
        carry, second = rnn(tail, initial_carry=given.get("reset_carry"))
        expected = carry, jnp.concatenate([first, second], axis=1)
        found = layer(sequences(), initial_carry=tuple(begin), resets=resets, **given)
        assert_equal(found, expected, **FLOAT32)
        # A reset before the first step, as an agent has them that acts step by step.
        found = layer(tail, initial_carry=tuple(begin), resets=resets[:, 2:], **given)
        assert_equal(found, (carry, second), **FLOAT32)


def _linear(*, inputs: int = 3, outputs: int = 5, **options: Any) -> nnx.Linear:
    structure, state = nnx.split(nnx.Linear(inputs, outputs, rngs=nnx.Rngs(4), **options))
    return nnx.merge(structure, random_like(state))


NO_BIAS = {"use_bias": False, "inputs": 5}
# Layers in place of those of a cell, as `nnx.RNN` computes them, too.
CHANGED: dict[str, tuple[Any, dict[str, dict[str, Any]]]] = {
    "biases of inputs": (nnx.LSTMCell, {"ii": {}, "if_": {}, "io": {}}),
    "one in bfloat16": (nnx.LSTMCell, {"io": {"param_dtype": jnp.bfloat16}}),
    "no biases of the state": (nnx.LSTMCell, {"ii": {}, "hi": NO_BIAS, "ho": NO_BIAS}),
    "both, joined": (nnx.OptimizedLSTMCell, {"dense_i": {"outputs": 20}}),
    "one of inputs, joined": (
        nnx.OptimizedLSTMCell,
        {"dense_i": {"outputs": 20}, "dense_h": {**NO_BIAS, "outputs": 20}},
    ),
    "none, joined": (nnx.OptimizedLSTMCell, {"dense_h": {**NO_BIAS, "outputs": 20}}),
}


@pytest.mark.parametrize("changed", CHANGED)
def test_biases_that_were_added_or_taken_away(changed: str) -> None:
    kind, layers = CHANGED[changed]
    cell = a_cell(kind)
    for name, options in layers.items():
        setattr(cell, name, _linear(**options))
    found, expected = (results_and_gradients(layer, cell, sequences()) for layer in (LSTM, nnx.RNN))
    assert_equal(found, expected, **(BFLOAT16 if changed == "one in bfloat16" else FLOAT32))


# What these warn of is that Flax has other places for them.
@pytest.mark.filterwarnings("ignore:.*keep_rngs", "ignore:.*carry_init")
@pytest.mark.parametrize(
    "options",
    [
        {"dtype": jnp.bfloat16},
        {"dtype": "float32", "param_dtype": np.float32},
        {"dtype": np.dtype("float32"), "kernel_init": nnx.initializers.normal()},
        {"param_dtype": jnp.float16, "recurrent_kernel_init": nnx.initializers.normal(), "dtype": "float16"},
        {"bias_init": nnx.initializers.normal(), "carry_init": nnx.initializers.normal()},
        {"gate_fn": nnx.hard_sigmoid, "activation_fn": nnx.relu},
        {"keep_rngs": True},
        {"kernel_metadata": {"note": 1}, "recurrent_kernel_metadata": {}, "bias_metadata": {"note": 2}},
    ],
    ids=", ".join,
)
@each_cell
def test_every_cell_that_flax_makes(cell: Any, options: dict[str, Any]) -> None:
    one = cell(3, 5, rngs=nnx.Rngs(0), **options)
    with jax.numpy_dtype_promotion("standard"):  # as the cell of Flax needs it in bfloat16
        found, expected = (layer(one, return_carry=True)(sequences()) for layer in (LSTM, nnx.RNN))
    rounds = jnp.dtype(options.get("dtype", "float32")).itemsize == 2
    assert_equal(found, expected, **(BFLOAT16 if rounds else FLOAT32))


def test_other_cells_are_refused() -> None:
    class Subclass(nnx.LSTMCell):
        pass

    for kind in (nnx.GRUCell, Subclass):
        message = rf"^cell: got a {kind.__name__}, expected an nnx.LSTMCell or an nnx.OptimizedLSTMCell"
        with pytest.raises(TypeError, match=message):
            LSTM(kind(3, 5, rngs=nnx.Rngs(0)))
    cell = a_cell(nnx.LSTMCell)
    cell.if_ = nnx.LoRALinear(3, 5, lora_rank=1, use_bias=False, rngs=nnx.Rngs(0))
    with pytest.raises(TypeError, match=r"^cell.if_: got a LoRALinear, expected an nnx.Linear; use nnx.RNN"):
        LSTM(cell)


def _doubled(arrays: Any, *, dtype: Any = None) -> Any:
    return tuple(None if array is None else 2 * array for array in arrays)


@pytest.mark.parametrize(
    ("setting", "value", "words"),
    [
        ("promote_dtype", _doubled, "got _doubled, expected the default of Flax, promote_dtype"),
        ("dot_general", jax.lax.dot, "got dot, expected the default of Flax, dot_general"),
        ("precision", jax.lax.Precision.HIGHEST, "got Precision.HIGHEST, expected the default of Flax, None"),
        ("preferred_element_type", jnp.float32, "got float32, expected the default of Flax, None"),
        ("dtype", jnp.bfloat16, "got bfloat16, expected None, as cell.dtype"),
    ],
)
@pytest.mark.parametrize(("kind", "layer"), [(nnx.LSTMCell, "hi"), (nnx.OptimizedLSTMCell, "dense_i")])
def test_a_layer_with_a_setting_of_its_own_is_refused(
    kind: Any, layer: str, setting: str, value: Any, words: str
) -> None:
    cell = a_cell(kind)
    ours = LSTM(cell)
    setattr(getattr(cell, layer), setting, value)
    message = f"^cell.{layer}.{setting}: {words}; use nnx.RNN for this cell$"
    with pytest.raises(ValueError, match=message):
        LSTM(cell)
    with pytest.raises(ValueError, match=message):  # one that came later
        ours(sequences())


@pytest.mark.parametrize(
    ("layer", "inputs", "outputs", "expected"),
    [("ii", 3, 6, "(3, 5)"), ("hg", 6, 5, "(5, 5)"), ("hg", 5, 6, "(5, 5)")],
)
def test_a_layer_of_another_size_is_refused(layer: str, inputs: int, outputs: int, expected: str) -> None:
    cell = a_cell(nnx.LSTMCell)
    setattr(cell, layer, _linear(inputs=inputs, outputs=outputs))
    message = f"cell.{layer}: got an nnx.Linear({inputs}, {outputs}), expected an nnx.Linear{expected}"
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        LSTM(cell)


@each_cell
def test_a_cell_with_its_own_promotion_is_refused(cell: Any) -> None:
    message = "^cell.promote_dtype: got _doubled, expected the default of Flax, promote_dtype; use nnx.RNN"
    with pytest.raises(ValueError, match=message):
        LSTM(cell(3, 5, promote_dtype=_doubled, rngs=nnx.Rngs(0)))


@each_cell
def test_inputs_of_another_number_of_features_are_refused(cell: Any) -> None:
    with pytest.raises(ValueError, match=r"^inputs: got 4 features, expected 3, as the cell has$"):
        LSTM(a_cell(cell))(jnp.ones((2, 6, 4)))

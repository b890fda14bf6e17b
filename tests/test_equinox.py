"""The layer for Equinox against ``eqx.nn.LSTMCell`` in a scan: results, gradients, training."""

import re
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from lstm_jax.equinox import LSTM
from tests.helpers.references import FLOAT32, Tree, assert_equal, random_like

TIME, BATCH, INPUTS, HIDDEN = 6, 4, 3, 5


class Scanned(eqx.Module):
    """As Equinox's documentation writes it."""

    cell: eqx.nn.LSTMCell

    def __call__(self, inputs: Any, hidden: Any = None) -> Any:
        def step(state: Any, x: Any) -> Any:
            state = self.cell(x, state)
            return state, state[0]

        zeros = jnp.zeros(self.cell.hidden_size)
        return jax.lax.scan(step, (zeros, zeros) if hidden is None else hidden, inputs)


def a_cell(use_bias: bool = True) -> eqx.nn.LSTMCell:
    return eqx.nn.LSTMCell(INPUTS, HIDDEN, use_bias=use_bias, key=jax.random.key(1))


def normal(*shape: int) -> jax.Array:
    return jnp.asarray(np.random.default_rng(5).standard_normal(shape), jnp.float32)


def results_and_gradients(run: Any, *arguments: Any) -> tuple[Tree, Tree]:
    @eqx.filter_jit
    def both(*arguments: Any) -> tuple[Tree, Tree]:
        results, pull_back = eqx.filter_vjp(run, *arguments)
        return results, pull_back(random_like(results))

    return both(*arguments)


@pytest.mark.parametrize("implementation", ["auto", "scan", "fused"])
@pytest.mark.parametrize("use_bias", [True, False])
def test_it_is_the_cell_in_a_scan(use_bias: bool, implementation: str) -> None:
    cell, state = a_cell(use_bias), (normal(HIDDEN), -normal(HIDDEN))

    def one(layer: Any) -> Any:
        # By the cell, so that the gradients are trees of the same kind.
        return lambda cell, x, state: layer(cell)(x, state)

    ours = one(lambda cell: LSTM(cell, implementation))
    expected = results_and_gradients(one(Scanned), cell, normal(TIME, INPUTS), state)
    assert_equal(results_and_gradients(ours, cell, normal(TIME, INPUTS), state), expected, **FLOAT32)


def _one_sequence(
    cell: eqx.nn.LSTMCell, inputs: Any, state: Any, length: Any, *, reverse: bool, keep_order: bool
) -> Any:
    """What the layer does with one sequence and its length, by steps of the cell."""
    steps = jnp.arange(len(inputs))
    # The padding turns round as well, behind the sequence. Taken twice, this order is the first one again.
    order = (length - 1 - steps) % len(inputs) if reverse else steps

    def step(state: Any, x: Any) -> Any:
        state = cell(x, state)
        return state, state

    _, (h, c) = jax.lax.scan(step, state, inputs[order])
    return (h[length - 1], c[length - 1]), h[order] if keep_order else h


class Drawn(NamedTuple):
    """A task for a layer."""

    cell: eqx.nn.LSTMCell
    inputs: jax.Array
    hidden: Any
    lengths: Any
    options: dict[str, bool]
    implementation: str
    mapped: int  # over how many of the batch axes a `jax.vmap` goes; the layer itself takes the others


def _drawn_case(seed: int) -> Drawn:
    """All at random, but implementations and options take turns: twelve seeds have all pairs of these."""
    rng = np.random.default_rng(seed)

    def drawn(*shape: int) -> jax.Array:
        return jnp.asarray(rng.standard_normal(shape), jnp.float32)

    inputs, hidden, time = (int(rng.integers(1, most)) for most in (7, 10, 8))
    batch = tuple(int(size) for size in rng.integers(1, 5, size=seed // 4))
    return Drawn(
        cell=eqx.nn.LSTMCell(inputs, hidden, use_bias=rng.random() < 0.7, key=jax.random.key(seed)),
        inputs=drawn(*batch, time, inputs),
        hidden=(drawn(*batch, hidden), drawn(*batch, hidden)) if rng.random() < 0.7 else None,
        lengths=rng.integers(1, time + 1, size=batch).astype(np.int32) if rng.random() < 0.7 else None,
        options={"reverse": seed % 4 in (1, 3), "keep_order": seed % 4 in (2, 3)},
        implementation=("scan", "fused", "native")[seed % 3],
        mapped=int(rng.integers(len(batch) + 1)),
    )


@pytest.mark.parametrize("seed", range(12))
def test_it_is_the_cell_in_a_scan_for_any_task(seed: int) -> None:
    task = _drawn_case(seed)
    time, batch_axes = task.inputs.shape[-2], task.inputs.ndim - 2

    def mapped(run: Any, axes: int) -> Any:
        for _ in range(axes):
            run = jax.vmap(run)
        return run

    def ours(cell: Any, inputs: Any, hidden: Any) -> Any:
        layer = LSTM(cell, task.implementation)

        def run(x: Any, hidden: Any, lengths: Any) -> Any:
            return layer(x, hidden, seq_lengths=lengths, **task.options)

        return mapped(run, task.mapped)(inputs, hidden, task.lengths)

    def expected(cell: Any, inputs: Any, hidden: Any) -> Any:
        def run(x: Any, hidden: Any, length: Any) -> Any:
            state = (jnp.zeros(cell.hidden_size),) * 2 if hidden is None else hidden
            return _one_sequence(cell, x, state, time if length is None else length, **task.options)

        return mapped(run, batch_axes)(inputs, hidden, task.lengths)

    found, wanted = (
        results_and_gradients(run, task.cell, task.inputs, task.hidden) for run in (ours, expected)
    )
    assert_equal(found, wanted, **FLOAT32)


@pytest.mark.parametrize("implementation", ["auto", "scan", "fused"])
@pytest.mark.parametrize("axes", [(None, 0, None), (None, 0, 0), (0, 0, None), (0, None, 0)], ids=str)
def test_under_vmap(axes: tuple[Any, ...], implementation: str) -> None:
    cell: Any = a_cell()
    if axes[0] == 0:
        cell = eqx.filter_vmap(lambda key: eqx.nn.LSTMCell(INPUTS, HIDDEN, key=key))(
            jax.random.split(jax.random.key(2), BATCH)
        )
    inputs = normal(BATCH, TIME, INPUTS) if axes[1] == 0 else normal(TIME, INPUTS)
    states = [normal(BATCH, HIDDEN) if axes[2] == 0 else normal(HIDDEN) for _ in range(2)]

    def many(layer: Any) -> Any:
        def run(cell: Any, x: Any, h: Any, c: Any) -> Any:
            return eqx.filter_vmap(
                lambda cell, x, h, c: layer(cell)(x, (h, c)),
                in_axes=(eqx.if_array(0) if axes[0] == 0 else None, axes[1], axes[2], axes[2]),
            )(cell, x, h, c)

        return run

    ours = many(lambda cell: LSTM(cell, implementation))
    expected = results_and_gradients(many(Scanned), cell, inputs, states[0], -states[1])
    assert_equal(results_and_gradients(ours, cell, inputs, states[0], -states[1]), expected, **FLOAT32)


def test_gradients_of_each_example() -> None:
    def of_each(layer: Any) -> Any:
        def loss(cell: Any, x: Any) -> Any:
            (h, c), outputs = layer(cell)(x)
            return jnp.sum(h * normal(HIDDEN)) + jnp.sum(c**2) + jnp.sum(outputs * normal(TIME, HIDDEN))

        return eqx.filter_jit(eqx.filter_vmap(eqx.filter_grad(loss), in_axes=(None, 0)))

    arguments = (a_cell(), normal(BATCH, TIME, INPUTS))
    assert_equal(of_each(LSTM)(*arguments), of_each(Scanned)(*arguments), **FLOAT32)


def test_it_trains_as_the_cell_does() -> None:
    class Classifier(eqx.Module):
        lstm: Any
        head: eqx.nn.Linear

        def __call__(self, x: Any) -> Any:
            (h, _), _ = self.lstm(x)
            return self.head(h)

    def losses(layer: Any) -> list[float]:
        model = Classifier(layer(a_cell()), eqx.nn.Linear(HIDDEN, 2, key=jax.random.key(3)))
        optimizer = optax.adam(0.05)
        state = optimizer.init(eqx.filter(model, eqx.is_array))

        @eqx.filter_jit
        def step(model: Any, state: Any, x: Any) -> Any:
            def loss(model: Any) -> Any:
                labels = jnp.arange(BATCH) % 2
                return optax.softmax_cross_entropy_with_integer_labels(jax.vmap(model)(x), labels).mean()

            value, gradients = eqx.filter_value_and_grad(loss)(model)
            updates, state = optimizer.update(gradients, state, eqx.filter(model, eqx.is_array))
            return eqx.apply_updates(model, updates), state, value

        found = []
        for _ in range(5):
            model, state, value = step(model, state, normal(BATCH, TIME, INPUTS))
            found.append(float(value))
        return found

    found, expected = losses(LSTM), losses(Scanned)
    np.testing.assert_allclose(found, expected, rtol=1e-4)
    assert expected[-1] < expected[0]


@pytest.mark.parametrize("implementation", ["fused", "native"])
def test_vmap_in_a_gradient_sums_up_in_the_kernel(implementation: str) -> None:
    """Else each example would have weight gradients of its own, and with 128 of them that is slow."""

    def loss(layer: Any, x: Any) -> Any:
        (h, _), _ = jax.vmap(layer)(x)
        return jnp.sum(h**2)

    jaxpr = jax.make_jaxpr(eqx.filter_grad(loss))(LSTM(a_cell(), implementation), normal(BATCH, TIME, INPUTS))
    of_each = f"[{BATCH},{INPUTS},{HIDDEN}]", f"[{BATCH},{INPUTS + HIDDEN},{4 * HIDDEN}]"
    grouped = f"[1,{BATCH},{INPUTS},{HIDDEN}]"
    assert not any(shape in str(jaxpr) for shape in (*of_each, grouped))


def test_options() -> None:
    cell, x = a_cell(), normal(TIME, INPUTS)
    state, outputs = Scanned(cell)(x[::-1])
    assert_equal(LSTM(cell)(x, reverse=True, keep_order=True), (state, outputs[::-1]), **FLOAT32)
    (h, _), _ = LSTM(cell)(x, seq_lengths=4)
    assert_equal(h, Scanned(cell)(x[:4])[0][0], **FLOAT32)
    assert_equal(LSTM(cell, "scan", remat=3)(x), Scanned(cell)(x), **FLOAT32)


@pytest.mark.parametrize("fresh", [None, (normal(HIDDEN), 0.5 * normal(HIDDEN))], ids=["zeros", "given"])
def test_resets_cut_the_sequence(fresh: Any) -> None:
    cell, x, resets = a_cell(), normal(TIME, INPUTS), np.arange(TIME) == 2
    begin = (-normal(HIDDEN), 2 * normal(HIDDEN))
    _, first = Scanned(cell)(x[:2], begin)
    state, second = Scanned(cell)(x[2:], fresh)
    found = LSTM(cell)(x, begin, resets=resets, reset_hidden=fresh)
    assert_equal(found, (state, jnp.concatenate([first, second])), **FLOAT32)
    found = LSTM(cell)(x[2:], begin, resets=resets[2:], reset_hidden=fresh)
    assert_equal(found, (state, second), **FLOAT32)


def test_other_cells_are_refused() -> None:
    class Doubled(eqx.nn.LSTMCell):
        def __call__(self, input: Any, hidden: Any, *, key: Any = None) -> Any:
            h, c = super().__call__(input, hidden, key=key)
            return 2 * h, c

    for kind in (eqx.nn.GRUCell, Doubled):
        message = f"^cell: got a {kind.__name__}, expected an eqx.nn.LSTMCell, no subclass; use jax.lax.scan"
        with pytest.raises(TypeError, match=message):
            LSTM(kind(3, 5, key=jax.random.key(0)))


@pytest.mark.parametrize(
    ("inputs", "hidden", "message"),
    [
        (normal(TIME, 4), None, "inputs: got 4 features, expected 3, as the cell has"),
        (normal(INPUTS), None, "inputs: got shape (3,), expected an array (*batch, time, inputs)"),
        (
            normal(TIME, INPUTS),
            normal(HIDDEN),
            "hidden: got an array of shape (5,), expected two arrays (h, c) of shape (5,)",
        ),
        (normal(TIME, INPUTS), 0.0, "hidden: got a float, expected two arrays (h, c) of shape (5,)"),
        (
            normal(TIME, INPUTS),
            (normal(4), normal(HIDDEN)),
            "hidden: got h of shape (4,), expected (5,)",
        ),
        (
            normal(BATCH, TIME, INPUTS),
            (normal(BATCH, HIDDEN), normal(HIDDEN)),
            "hidden: got c of shape (5,), expected (4, 5)",
        ),
        (
            normal(TIME, INPUTS),
            (normal(HIDDEN), jnp.zeros(HIDDEN, int)),
            "hidden: got c of dtype int32, expected floating point",
        ),
    ],
)
def test_errors_speak_of_the_arguments_of_the_call(inputs: Any, hidden: Any, message: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        LSTM(a_cell())(inputs, hidden)


def test_a_bias_that_the_cell_ignores() -> None:
    cell = eqx.tree_at(lambda cell: cell.bias, a_cell(use_bias=False), normal(4 * HIDDEN), is_leaf=_is_none)
    assert_equal(LSTM(cell)(normal(TIME, INPUTS)), Scanned(cell)(normal(TIME, INPUTS)), **FLOAT32)


def _is_none(leaf: Any) -> bool:
    return leaf is None

"""A batch that is spread over devices stays so, in results and gradients, on each kind of mesh."""

import functools
import re
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from lstm_jax import LSTM
from lstm_jax.errors import ImplementationError
from lstm_jax.kernels.choice import Work, fastest
from tests.helpers.references import (
    FLOAT32,
    Tree,
    assert_equal,
    each_implementation,
    random_case,
    random_like,
)

CASE = random_case(4, (6,), 3, 5)
LENGTHS = jnp.array([4, 1, 2, 4, 3, 9])
RESETS = np.random.default_rng(0).random((6, 4)) < 0.4
OPTIONS: dict[str, Any] = {"return_carry": True, "reverse": True, "keep_order": True}
GATHERED = re.compile(r"\b(all-gather|all-to-all|collective-permute)\(")


def _loss(layer: LSTM, weights: Tree, params: Tree, inputs: jax.Array, **options: Any) -> jax.Array:
    results = layer.apply({"params": params}, inputs, **OPTIONS, **options)
    return sum((w * r).sum() for w, r in zip(*map(jax.tree.leaves, (weights, results)), strict=True))


def _gradients(layer: LSTM, resets: Any = None) -> Any:
    """The gradients by weights and inputs of a loss in which every result has a weight of its own."""

    def run(params: Tree, inputs: jax.Array, lengths: jax.Array, weights: Tree) -> Tree:
        loss = functools.partial(_loss, layer, weights, seq_lengths=lengths, resets=resets)
        return jax.value_and_grad(loss, argnums=(0, 1))(params, inputs)

    return jax.jit(run)


@functools.cache
def _expected(*, with_resets: bool) -> tuple[Tree, Tree]:
    layer = LSTM(5, "scan", **OPTIONS)
    weights = random_like(layer.apply({"params": CASE.params}, CASE.inputs))
    gradients = _gradients(layer, RESETS if with_resets else None)
    return weights, gradients(CASE.params, CASE.inputs, LENGTHS, weights)


def _on(mesh: Mesh) -> tuple[Tree, ...]:
    """The arguments, with the batch in shards."""
    (states, outputs), rows = _expected(with_resets=False)[0], NamedSharding(mesh, P("data"))
    return (
        jax.device_put(CASE.params, NamedSharding(mesh, P())),
        *jax.device_put((CASE.inputs, LENGTHS), rows),
        jax.device_put((states, outputs), rows),
    )


@pytest.fixture
def explicit() -> Iterator[Mesh]:
    mesh = jax.make_mesh((2,), ("data",))
    with jax.set_mesh(mesh):
        yield mesh


@pytest.mark.parametrize(
    ("implementation", "known"),
    [("scan", True), ("fused", True), ("auto", True), ("fused", False)],
    ids=["scan", "fused", "auto", "fused with in_shardings"],
)
def test_plain_jit(implementation: str, known: bool) -> None:
    """Nothing is gathered; the one sum over devices is that of the gradients by the weights.

    What JAX knows of the shards while tracing, `auto` goes by; what it learns after, it cannot.
    """
    arguments = _on(jax.make_mesh((2,), ("data",), axis_types=(AxisType.Auto,)))
    run = _gradients(LSTM(5, implementation))
    if known:
        program = run.lower(*arguments).compile()
    else:
        shardings = jax.tree.map(lambda leaf: leaf.sharding, arguments)
        shapes = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), arguments)
        program = jax.jit(run, in_shardings=shardings).lower(*shapes).compile()
    assert not GATHERED.search(program.as_text())
    results = program(*arguments)
    assert results[1][1].sharding.spec[0] == "data"
    assert_equal(results, _expected(with_resets=False)[1], **FLOAT32)


@pytest.mark.parametrize("with_resets", [False, True])
@each_implementation
def test_explicit_axes(implementation: str, with_resets: bool, explicit: Mesh) -> None:
    """`native` stays in shards too: here JAX says while tracing what they are."""
    arguments = _on(explicit)
    run = _gradients(LSTM(5, implementation), RESETS if with_resets else None)
    program = run.lower(*arguments).compile()
    assert not GATHERED.search(program.as_text())
    results = program(*arguments)
    assert results[1][1].sharding.spec[0] == "data"
    expected = _expected(with_resets=with_resets)[1]
    assert_equal(jax.device_get(results), jax.device_get(expected), **FLOAT32)


@each_implementation
def test_explicit_axes_of_everything_else(implementation: str, explicit: Mesh) -> None:
    """A state in shards, weights and inputs on axes that are no batch: they are put where they are needed."""
    rows, whole = NamedSharding(explicit, P("data")), NamedSharding(explicit, P())
    layer = LSTM(8, implementation)
    shapes = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=whole),
        random_case(4, (6,), 3, 8),
    )
    in_rows = jax.tree.map(lambda leaf: leaf.update(sharding=rows), shapes)

    resets = jax.ShapeDtypeStruct((6, 4), bool, sharding=whole)

    def traced(*given: Tree) -> tuple[Any, ...]:
        @jax.jit
        def run(params: Tree, inputs: Tree, carry: Tree, resets: Tree = None, fresh: Tree = None) -> Tree:
            options = {"initial_carry": carry, "resets": resets, "reset_carry": fresh}
            return layer.apply({"params": params}, inputs, **options)

        return jax.eval_shape(run, *given).sharding.spec

    assert traced(shapes.params, in_rows.inputs, shapes.carry)[0] == "data"
    assert traced(shapes.params, in_rows.inputs, in_rows.carry)[0] == "data"
    assert traced(shapes.params, shapes.inputs, in_rows.carry)[0] == "data"
    assert traced(shapes.params, shapes.inputs, shapes.carry, resets.update(sharding=rows))[0] == "data"
    assert traced(shapes.params, shapes.inputs, shapes.carry, resets, in_rows.carry)[0] == "data"
    kernels = jax.tree.map(
        lambda leaf: leaf.update(sharding=rows) if leaf.shape == (8, 8) else leaf, shapes.params
    )
    assert traced(kernels, in_rows.inputs, shapes.carry)[0] == "data"


def test_auto_does_not_compute_a_spread_batch_on_every_device() -> None:
    assert fastest(Work(frozenset({"float32"}))) == "native"
    assert fastest(Work(frozenset({"float32"}), spread=True)) == "fused"


@pytest.mark.parametrize("traced", [False, True], ids=["plain", "jit"])
def test_a_vmap_over_an_axis_in_shards(traced: bool, explicit: Mesh) -> None:
    """`fused` leaves it in shards; `native` is refused, for a call of it cannot be shared out."""
    case = random_case(4, (2, 3), 3, 5)
    weights = random_like(jnp.zeros((2, 3, 4, 5)))

    def gradients(name: str, params: Tree, inputs: jax.Array) -> Tree:
        def loss(params: Tree, inputs: jax.Array) -> jax.Array:
            run = jax.vmap(lambda params, x: LSTM(5, name).apply({"params": params}, x), in_axes=(None, 0))
            return (weights * (jax.jit(run) if traced else run)(params, inputs)).sum()

        return jax.jit(jax.value_and_grad(loss, argnums=(0, 1)))(params, inputs)

    arguments = (
        jax.device_put(case.params, NamedSharding(explicit, P())),
        jax.device_put(case.inputs, NamedSharding(explicit, P("data"))),
    )
    found = gradients("fused", *arguments)
    assert found[1][1].sharding.spec[0] == "data"
    assert_equal(found, gradients("scan", *arguments), **FLOAT32)
    with pytest.raises(ImplementationError, match=r"'native', .* got a vmap over an axis in shards"):
        gradients("native", *arguments)

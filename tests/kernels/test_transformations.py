"""The fast implementations inside of JAX's transformations, and what their programs compute.

Their numbers are tested in test_kernels.py.
"""

import functools
import re
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.sharding import PartitionSpec as P

from lstm_jax import LSTM, LSTMClassifier
from lstm_jax.errors import ImplementationError
from tests.helpers.references import (
    FLOAT32,
    HIDDEN,
    LENGTHS,
    Case,
    Tree,
    a_case,
    as_arguments,
    assert_equal,
    each_fast,
    flax_answer,
    forget_compiled,
    random_case,
    random_like,
    results_and_gradients,
)

# --------------------------------------------------------------------------------------------------
# Derivatives that they do not have, told in words
# --------------------------------------------------------------------------------------------------


def _run(implementation: str, case: Case) -> Any:
    layer = LSTM(HIDDEN, implementation)
    return lambda params: layer.apply({"params": params}, case.inputs).sum()


@each_fast
@pytest.mark.parametrize(("compile", "inside"), [(False, True), (True, False)], ids=["inner", "outer"])
def test_forward_mode_names_what_has_it(implementation: str, compile: bool, inside: bool) -> None:
    case = a_case()
    run = _run(implementation, case)
    run = jax.jit(run) if inside else run

    def tangent(params: Tree) -> Tree:
        return jax.jvp(run, (params,), (params,))[1]

    with pytest.raises(ImplementationError, match=f"'{implementation}', .* has no forward-mode .* 'scan'"):
        (jax.jit(tangent) if compile else tangent)(case.params)
    with pytest.raises(ImplementationError, match="use implementation 'scan' for it"):
        jax.jacfwd(run)(case.params)


@each_fast
def test_reverse_mode_of_forward_mode_is_refused_in_the_same_words(implementation: str) -> None:
    case = a_case()
    run = _run(implementation, case)
    with pytest.raises(ImplementationError, match=r"has no forward-mode .* 'scan' for it"):
        jax.grad(lambda params: jax.jvp(run, (params,), (params,))[1])(case.params)


def test_forward_mode_of_the_reference() -> None:
    case = a_case()
    _, tangent = jax.jvp(_run("scan", case), (case.params,), (case.params,))
    gradient = jax.jit(jax.grad(_run("scan", case)))(case.params)
    inner = jax.tree.map(lambda one, other: (one * other).sum(), gradient, case.params)
    np.testing.assert_allclose(tangent, sum(jax.tree.leaves(inner)), rtol=1e-4)


def _curvature(implementation: str, case: Case, outer: Any) -> Any:
    def slope(params: Tree) -> jax.Array:
        gradient = jax.grad(_run(implementation, case))(params)
        return sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(gradient))

    return jax.jit(outer(slope))(case.params)


@pytest.mark.parametrize("outer", [jax.grad, jax.jacfwd], ids=["reverse", "forward"])
def test_second_derivatives(outer: Any) -> None:
    case = a_case()
    expected = _curvature("scan", case, outer)
    assert_equal(_curvature("fused", case, outer), expected, rtol=1e-4, atol=1e-4)  # of values up to 100
    with pytest.raises(ImplementationError, match=r"'native', .* has first derivatives only; use"):
        _curvature("native", case, outer)


@each_fast
def test_a_second_derivative_that_is_not_used_is_not_refused(implementation: str) -> None:
    """First-order meta-learning: the gradient at a point that a gradient led to, which is held fixed."""
    case = a_case()

    def adapted(name: str) -> Any:
        run = _run(name, case)

        def loss(params: Tree) -> jax.Array:
            step = jax.lax.stop_gradient(jax.grad(run)(params))
            return run(jax.tree.map(lambda p, g: p - 0.1 * g, params, step))

        return jax.jit(jax.value_and_grad(loss))(case.params)

    assert_equal(adapted(implementation), adapted("scan"), rtol=1e-4, atol=1e-4)


# --------------------------------------------------------------------------------------------------
# Inside of transformations
# --------------------------------------------------------------------------------------------------


def _kernel_calls(function: Any, *arguments: Any) -> int:
    return jax.jit(function).lower(*arguments).as_text().count("@lstm_jax_")


def _ensemble(size: int) -> Case:
    cases = [random_case(4, (3,), 2, 5) for _ in range(size)]
    return jax.tree.map(lambda *leaves: jnp.stack([leaf * (1 + n) for n, leaf in enumerate(leaves)]), *cases)


@each_fast
@pytest.mark.parametrize("weights", [0, None], ids=["weights of their own", "shared weights"])
@pytest.mark.parametrize("inputs", [0, None], ids=["inputs of their own", "shared inputs"])
def test_vmap_of_results_and_gradients(implementation: str, weights: int | None, inputs: int | None) -> None:
    """As for gradients per example: those by shared weights are one per member all the same."""
    case = _ensemble(3)
    axes = Case(weights, inputs, 0)
    case = Case(*map(functools.partial(_member, 1, only_if=None), case, axes))
    run = functools.partial(results_and_gradients, LSTM(5, implementation, return_carry=True))
    many = jax.vmap(run, in_axes=(axes,))
    actual = jax.jit(many)(case)
    for member in range(3):
        alone = Case(*map(functools.partial(_member, member, only_if=0), case, axes))
        expected = run_scan(alone)
        assert_equal(jax.tree.map(lambda a, member=member: a[member], actual), expected, **FLOAT32)
    if implementation == "native":
        assert _kernel_calls(many, case) == 2  # one forward, one backward


def _member(member: int, part: Tree, axis: int | None, *, only_if: int | None) -> Tree:
    return jax.tree.map(lambda leaf: leaf[member] if axis == only_if else leaf, part)


def run_scan(case: Case) -> Tree:
    return results_and_gradients(LSTM(5, "scan", return_carry=True), case)


@each_fast
def test_vmap_of_vmap(implementation: str) -> None:
    case = random_case(3, (2, 3, 4), 2, 5)
    layer, reference = LSTM(5, implementation), LSTM(5, "scan")

    def one(layer: LSTM, params: Tree, x: jax.Array) -> jax.Array:
        return layer.apply({"params": params}, x[None])[0]

    def loss(layer: LSTM, params: Tree) -> jax.Array:
        run = functools.partial(one, layer, params)
        outputs = jax.vmap(jax.vmap(jax.vmap(run)))(case.inputs)
        return jnp.vdot(outputs, random_like(outputs))

    actual, expected = (
        jax.jit(jax.value_and_grad(functools.partial(loss, x)))(case.params) for x in (layer, reference)
    )
    assert_equal(actual, expected, **FLOAT32)

    stacked = jax.tree.map(lambda a: jnp.stack([jnp.stack([a, a / 2]), jnp.stack([a / 3, -a])]), case.params)
    many = jax.vmap(jax.vmap(lambda params, x: layer.apply({"params": params}, x)), in_axes=(0, None))
    outputs = jax.jit(many)(stacked, case.inputs)
    for i, j in np.ndindex(2, 2):
        member = jax.tree.map(lambda a, i=i, j=j: a[i, j], stacked)
        assert_equal(outputs[i, j], reference.apply({"params": member}, case.inputs[j]), **FLOAT32)


@each_fast
@pytest.mark.parametrize("traced", [jax.jit, jax.checkpoint], ids=["jit", "checkpoint"])
def test_a_vmap_that_is_differentiated_after_it_was_traced(implementation: str, traced: Any) -> None:
    """See `differentiation.py`. Each output has a weight of its own in the loss: misplaced ones show."""
    case = random_case(5, (3, 4), 2, 6)

    def loss(layer: LSTM, wrap: Any, params: Tree, inputs: jax.Array) -> jax.Array:
        run = wrap(jax.vmap(lambda params, x: layer.apply({"params": params}, x), in_axes=(None, 0)))
        outputs = run(params, inputs)
        return jnp.vdot(outputs, random_like(outputs))

    expected, actual = (
        jax.jit(jax.value_and_grad(functools.partial(loss, LSTM(6, name), wrap), (0, 1)))(*case[:2])
        for name, wrap in (("scan", lambda function: function), (implementation, traced))
    )
    assert_equal(actual, expected, **FLOAT32)


@each_fast
@pytest.mark.parametrize("mapped", [False, True], ids=["plain", "vmap"])
def test_a_tangent_that_is_only_transposed_is_not_refused(implementation: str, mapped: bool) -> None:
    """A `custom_jvp` around the layer whose rule is the layer's own, as normalising wrappers have it."""
    case = random_case(3, (2, 3), 2, 5)

    def loss(layer: LSTM, params: Tree) -> jax.Array:
        @jax.custom_jvp
        def run(params: Tree, inputs: jax.Array) -> jax.Array:
            return layer.apply({"params": params}, inputs)

        run.defjvp(lambda primals, tangents: jax.jvp(run.fun, primals, tangents))
        outputs = (
            jax.vmap(run, in_axes=(None, 0))(params, case.inputs) if mapped else run(params, case.inputs)
        )
        return jnp.vdot(outputs, random_like(outputs))

    expected, actual = (
        jax.value_and_grad(functools.partial(loss, LSTM(5, name)))(case.params)
        for name in ("scan", implementation)
    )
    assert_equal(actual, expected, **FLOAT32)


@each_fast
def test_vmap_over_nothing(implementation: str) -> None:
    layer = LSTM(5, implementation)
    case = random_case(3, (2,), 4, 5)
    none = jnp.zeros((0, *case.inputs.shape))
    gradient = jax.vmap(
        jax.grad(lambda params, x: layer.apply({"params": params}, x).sum()), in_axes=(None, 0)
    )
    expected = jax.tree.map(lambda leaf: jnp.zeros((0, *leaf.shape)), case.params)
    assert_equal(gradient(case.params, none), expected)


@each_fast
def test_scan_around_it(implementation: str) -> None:
    """Several optimisation steps in one loop, as an epoch is."""
    case = a_case()

    def train(name: str) -> Tree:
        run = _run(name, case)

        def step(params: Tree, _: None) -> tuple[Tree, jax.Array]:
            loss, gradient = jax.value_and_grad(run)(params)
            return jax.tree.map(lambda p, g: p - 0.1 * g, params, gradient), loss

        return jax.lax.scan(step, case.params, length=4)

    assert_equal(jax.jit(train, static_argnums=0)(implementation), train("scan"), rtol=1e-4, atol=1e-5)


@each_fast
def test_shard_map_over_two_devices(implementation: str) -> None:
    case = random_case(4, (6,), 3, 5)
    layer = LSTM(5, implementation)
    mesh = jax.make_mesh((2,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))

    def loss(params: Tree, inputs: jax.Array) -> jax.Array:
        return (layer.apply({"params": params}, inputs) ** 2).sum()

    @functools.partial(jax.shard_map, mesh=mesh, in_specs=(P(), P("data")), out_specs=P(), check_vma=False)
    def gradient(params: Tree, inputs: jax.Array) -> Tree:
        return jax.lax.psum(jax.value_and_grad(loss)(params, inputs), "data")

    actual = jax.jit(gradient)(case.params, case.inputs)
    assert_equal(actual, jax.value_and_grad(loss)(case.params, case.inputs), rtol=1e-5, atol=1e-4)


@each_fast
def test_a_shard_map_that_tracks_devices_is_refused_and_auto_takes_scan(implementation: str) -> None:
    """Which values vary over the devices is not known of a kernel's results: gradients would be wrong."""
    case = random_case(4, (6,), 3, 5)
    mesh = jax.make_mesh((2,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))

    def run(name: str, inputs: jax.Array, carry: Tree) -> jax.Array:
        return LSTM(5, name).apply({"params": case.params}, inputs, initial_carry=carry)

    def over_devices(name: str) -> jax.Array:
        mapped = jax.shard_map(
            functools.partial(run, name), mesh=mesh, in_specs=(P("data"), P("data")), out_specs=P("data")
        )
        return jax.jit(mapped)(case.inputs, case.carry)

    with pytest.raises(ImplementationError, match="needs check_vma=False; use 'scan' with the check"):
        over_devices(implementation)
    assert_equal(over_devices("auto"), run("scan", case.inputs, case.carry), **FLOAT32)


def test_two_directions_at_once_do_not_wait_for_each_other() -> None:
    """Both share the threads of one pool; kernels that waited for helpers would stop for ever."""
    model = LSTMClassifier(hidden_size=32, num_layers=2, bidirectional=True, implementation="native")
    images = jnp.asarray(np.random.default_rng(0).standard_normal((64, 28, 28)), jnp.float32)
    params = model.init(jax.random.key(0), images)["params"]
    gradient = jax.jit(jax.grad(lambda params: (model.apply({"params": params}, images) ** 2).sum()))
    first = gradient(params)
    for _ in range(20):
        assert_equal(gradient(params), first)  # the same bits every time


@each_fast
def test_the_outputs_are_kept_only_if_wanted(implementation: str) -> None:
    case = a_case()
    options = as_arguments({"seq_lengths": LENGTHS, "reverse": True})
    layer = LSTM(HIDDEN, implementation, return_outputs=False)
    results, gradients = results_and_gradients(layer, case, **options)
    carry, _ = LSTM(HIDDEN, "scan", return_carry=True).apply(
        {"params": case.params}, case.inputs, initial_carry=case.carry, **options
    )
    assert_equal(results, carry, **FLOAT32)
    expected = results_and_gradients(LSTM(HIDDEN, "scan", return_outputs=False), case, **options)
    assert_equal((results, gradients), expected, **FLOAT32)


def test_the_gradient_by_the_inputs_is_computed_only_if_wanted() -> None:
    case = a_case()
    layer = LSTM(HIDDEN, "native")

    def loss(params: Tree, inputs: jax.Array) -> jax.Array:
        return layer.apply({"params": params}, inputs).sum()

    def results_of_backward(argnums: Any) -> int:
        text = jax.jit(jax.grad(loss, argnums)).lower(case.params, case.inputs).as_text()
        return int(re.search(r"%\d+:(\d+) = .*@lstm_jax_backward", text)[1])

    assert results_of_backward(0) == 14
    assert results_of_backward((0, 1)) == 15


def test_fused_reads_back_what_it_saves_on_a_cpu_only() -> None:
    case = a_case()
    gradient = jax.jit(jax.grad(_run("fused", case)))

    def barriers(platform: str) -> int:
        exported = jax.export.export(gradient, platforms=[platform])(case.params)
        return exported.mlir_module().count("stablehlo.optimization_barrier")

    assert barriers("cpu") == 2  # one in each pass
    assert barriers("cuda") == barriers("tpu") == 0


def test_fused_as_other_devices_compute_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lax, "platform_dependent", lambda *arguments, cpu, default: default(*arguments))
    forget_compiled()
    actual = results_and_gradients(LSTM(HIDDEN, "fused", return_carry=True), a_case())
    forget_compiled()
    assert_equal(actual, flax_answer({"return_carry": True}), **FLOAT32)


def test_remat_computes_the_steps_again() -> None:
    case = a_case()
    layer = nn.remat(LSTM)(HIDDEN, "native", return_carry=True)
    actual = results_and_gradients(layer, case)
    assert_equal(actual, flax_answer({"return_carry": True}), **FLOAT32)

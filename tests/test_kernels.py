"""The numbers of the fast implementations, and what they do inside of JAX's transformations.

The judge is Flax's own cell in float64. The options of the layer are tested for all implementations
in test_lstm.py; here are sizes, hard inputs, and what only a kernel can get wrong.
"""

import functools
import re
from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jax import lax
from jax.sharding import PartitionSpec as P
from jax.test_util import check_grads
from references import (
    FLOAT32,
    HIDDEN,
    LENGTHS,
    Case,
    Tree,
    a_case,
    as_arguments,
    assert_equal,
    compiled,
    each_implementation,
    examples,
    flax_answer,
    flax_rnn,
    numpy_lstm,
    random_case,
    random_like,
    results_and_gradients,
)

from lstm_jax import LSTM, LSTMClassifier, lstm
from lstm_jax.errors import ImplementationError

FAST = ["fused", "native"]
each_fast = pytest.mark.parametrize("implementation", FAST)

# --------------------------------------------------------------------------------------------------
# As exact as the reference, by the judgement of float64
# --------------------------------------------------------------------------------------------------

# A fast implementation adds up in another order and has its own exp and tanh: its error may be larger than
# that of the reference by this factor ...
WORSE = 2.0
# ... and by two roundings: of few values, the reference may be right to the last bit by luck.
ROUNDING = 2.0**-23


def _relative_error(actual: Tree, exact: Tree) -> float:
    """Of all leaves as one vector: a single sum may have cancelled to next to nothing."""
    one, other = (
        np.concatenate([np.asarray(leaf, np.float64).ravel() for leaf in jax.tree.leaves(tree)])
        for tree in (actual, exact)
    )
    return float(np.linalg.norm(one - other) / (np.linalg.norm(other) + 1e-30))


def _assert_as_exact_as_scan(implementation: str, case: Case, hidden: int, **options: Any) -> None:
    with jax.enable_x64(True):
        exactly = jax.tree.map(lambda leaf: jnp.asarray(np.asarray(leaf), jnp.float64), case)
        exact = compiled(flax_rnn(hidden, param_dtype=jnp.float64), exactly, **options)
        exact = jax.tree.map(np.asarray, exact)
    reference, actual = (compiled(LSTM(hidden, name), case, **options) for name in ("scan", implementation))
    assert jax.tree.structure(actual) == jax.tree.structure(reference)

    def parts(answer: tuple[Tree, Tree]) -> dict[str, Tree]:
        (carry, outputs), gradients = answer
        return {"carry": carry, "outputs": outputs} | Case(*gradients)._asdict()

    for name, judge in parts(exact).items():
        allowed = WORSE * _relative_error(parts(reference)[name], judge) + ROUNDING
        assert _relative_error(parts(actual)[name], judge) <= allowed, name


@each_fast
@examples(8)
@given(st.data())
def test_any_sizes_as_exact_as_scan(implementation: str, data: st.DataObject) -> None:
    """Sizes around those of vectors, tiles and panels, and the tails between them."""
    sizes = st.integers(1, 9) | st.sampled_from([15, 16, 17, 31, 33, 48, 65, 70, 130])
    time = data.draw(st.integers(1, 9) | st.just(40), "time")
    batch = data.draw(sizes, "batch")
    num_inputs, hidden = data.draw(sizes, "inputs"), data.draw(sizes, "hidden")
    options: dict[str, Any] = {
        name: data.draw(st.booleans(), name) for name in ("time_major", "reverse", "keep_order")
    }
    if data.draw(st.booleans(), "lengths"):
        lengths = data.draw(st.lists(st.integers(0, time), min_size=batch, max_size=batch))
        options["seq_lengths"] = jnp.array(lengths, jnp.int32)
    case = random_case(time, (batch,), num_inputs, hidden, time_major=options["time_major"])
    _assert_as_exact_as_scan(implementation, case, hidden, return_carry=True, **options)


@each_fast
@pytest.mark.parametrize(
    ("time", "batch", "num_inputs", "hidden"),
    [(28, 128, 28, 64), (300, 3, 1, 20), (3, 160, 129, 257)],
    ids=["the tutorial's", "many steps", "several panels and blocks"],
)
def test_sizes_as_exact_as_scan(
    implementation: str, time: int, batch: int, num_inputs: int, hidden: int
) -> None:
    case = random_case(time, (batch,), num_inputs, hidden)
    _assert_as_exact_as_scan(implementation, case, hidden, return_carry=True)


@each_implementation
def test_gradients_by_finite_differences(implementation: str) -> None:
    case = random_case(3, (2,), 2, 3)
    layer = LSTM(3, implementation, return_carry=True)

    def run(*arguments: Tree) -> Tree:
        params, inputs, carry = jax.tree.map(jnp.asarray, arguments)
        return layer.apply({"params": params}, inputs, initial_carry=carry)

    check_grads(run, tuple(case), order=1, modes=["rev"], atol=2e-2, rtol=2e-2)  # float32, steps of 1e-3


# --------------------------------------------------------------------------------------------------
# Hard inputs
# --------------------------------------------------------------------------------------------------


# Large enough for `native` to use tile registers, if there are any, on up to 30 threads.
LARGE = random_case(4, (500,), 20, 70)


def each_size(implementations: Sequence[str]) -> Any:
    """Each implementation with a small case, and `native` with a large one too."""
    values = [(name, a_case()) for name in implementations] + [("native", LARGE)]
    ids = [*implementations, "native, large"]
    return pytest.mark.parametrize(("implementation", "case"), values, ids=ids)


def _layer_of(case: Case, implementation: str) -> LSTM:
    return LSTM(case.carry[0].shape[-1], implementation, return_carry=True)


@each_size(lstm.IMPLEMENTATIONS)
@pytest.mark.parametrize(
    "scale", [0.0, 1e-42, 1e-20, 100.0, 1e30], ids=["zero", "denormal", "tiny", "saturated", "huge"]
)
def test_extreme_inputs(implementation: str, case: Case, scale: float) -> None:
    """Pre-activations of any size give what the equations say, and finite gradients."""
    # Of more terms, as large as 400, that cancel, rounding leaves 1.5e-5, with `scan` too.
    tolerance = FLOAT32 | {"atol": 2e-5} if case is LARGE else FLOAT32
    case = case._replace(inputs=case.inputs * jnp.float32(scale))
    results, gradients = results_and_gradients(_layer_of(case, implementation), case)
    with np.errstate(over="ignore"):  # of exp in the float64 sigmoid, whose 1 / inf is right
        exact = numpy_lstm(case)
    for one, other in zip(jax.tree.leaves(results), jax.tree.leaves(exact), strict=True):
        np.testing.assert_allclose(one, other, **tolerance)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradients))


@each_implementation
@pytest.mark.parametrize("z", [-100.0, -20.0, -1e-3, -1e-30, 0.0, 1e-6, 1e-3, 0.3, 9.0, 100.0])
def test_activations(implementation: str, z: float) -> None:
    """One unit whose four pre-activations are z, from c = 1/2: c and h to some units in the last place.

    The sigmoid of `fused` is half a tanh plus one half: near 0 it is right to the last place of 1/2.
    """
    cell = {
        name + gate: {"kernel": jnp.zeros((1, 1)), **({"bias": jnp.full((1,), z)} if name == "h" else {})}
        for name in "ih"
        for gate in "ifgo"
    }
    case = Case({"cell": cell}, jnp.ones((1, 1, 1)), (jnp.full((1, 1), 0.5), jnp.ones((1, 1))))
    layer = LSTM(1, implementation, return_carry=True)
    results = layer.apply({"params": case.params}, case.inputs, initial_carry=case.carry)
    for one, other in zip(jax.tree.leaves(results), jax.tree.leaves(numpy_lstm(case)), strict=True):
        np.testing.assert_allclose(one, other, rtol=2e-6, atol=1e-7 if implementation == "fused" else 1e-37)


@each_size(lstm.IMPLEMENTATIONS)
def test_nan_in_nan_out(implementation: str, case: Case) -> None:
    """A NaN spoils its own sequence, from its step on, and the gradients of the weights; nothing else."""
    inputs = case.inputs.at[1, 2, 0].set(jnp.nan)
    layer, case = _layer_of(case, implementation), case._replace(inputs=inputs)
    ((c, h), outputs), (d_params, d_inputs, _) = results_and_gradients(layer, case)
    others = np.arange(len(inputs)) != 1
    for state in (c, h):
        assert np.isnan(state[1]).all()
        assert np.isfinite(state[others]).all()
    assert np.isnan(outputs[1, 2:]).all()
    assert np.isfinite(outputs[1, :2]).all()
    assert np.isfinite(outputs[others]).all()
    assert all(np.isnan(leaf).all() for leaf in jax.tree.leaves(d_params))
    assert np.isnan(d_inputs[1]).all()
    assert np.isfinite(d_inputs[others]).all()


@each_size(FAST)
def test_infinite_inputs(implementation: str, case: Case) -> None:
    """They saturate the gates, as in Flax; the kernel's padding lanes, where inf * 0 is NaN, do not leak."""
    case = case._replace(inputs=case.inputs.at[1, 2, 0].set(jnp.inf))
    run = functools.partial(LSTM.apply, initial_carry=case.carry)
    actual, expected = (
        run(_layer_of(case, name), {"params": case.params}, case.inputs) for name in (implementation, "scan")
    )
    assert_equal(actual, expected, **FLOAT32)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(expected))


# --------------------------------------------------------------------------------------------------
# Derivatives that they do not have, told in words
# --------------------------------------------------------------------------------------------------


def _run(implementation: str, case: Case) -> Any:
    layer = LSTM(HIDDEN, implementation)
    return lambda params: layer.apply({"params": params}, case.inputs).sum()


@each_fast
@pytest.mark.parametrize("compile", [False, True], ids=["eager", "jit"])
@pytest.mark.parametrize("inside", [False, True], ids=["outer", "inner"])
def test_forward_mode_names_what_has_it(implementation: str, compile: bool, inside: bool) -> None:
    case = a_case()
    run = _run(implementation, case)
    run = jax.jit(run) if inside else run

    def tangent(params: Tree) -> Tree:
        return jax.jvp(run, (params,), (params,))[1]

    with pytest.raises(ImplementationError, match=f"'{implementation}' has no forward-mode .* 'scan' for it"):
        (jax.jit(tangent) if compile else tangent)(case.params)
    with pytest.raises(ImplementationError, match="use implementation 'scan' for it"):
        jax.jacfwd(run)(case.params)


def test_forward_mode_of_the_reference() -> None:
    case = a_case()
    _, tangent = jax.jvp(_run("scan", case), (case.params,), (case.params,))
    gradient = jax.grad(_run("scan", case))(case.params)
    inner = jax.tree.map(lambda one, other: (one * other).sum(), gradient, case.params)
    np.testing.assert_allclose(tangent, sum(jax.tree.leaves(inner)), rtol=1e-4)


def _curvature(implementation: str, case: Case, outer: Any) -> Any:
    def slope(params: Tree) -> jax.Array:
        gradient = jax.grad(_run(implementation, case))(params)
        return sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(gradient))

    return outer(slope)(case.params)


@pytest.mark.parametrize("outer", [jax.grad, jax.jacfwd], ids=["reverse", "forward"])
def test_second_derivatives(outer: Any) -> None:
    case = a_case()
    expected = _curvature("scan", case, outer)
    assert_equal(_curvature("fused", case, outer), expected, rtol=1e-4, atol=1e-4)  # of values up to 100
    with pytest.raises(ImplementationError, match="'native' has first derivatives only; use implementation"):
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
    actual = many(case)
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
        jax.value_and_grad(functools.partial(loss, x))(case.params) for x in (layer, reference)
    )
    assert_equal(actual, expected, **FLOAT32)

    stacked = jax.tree.map(lambda a: jnp.stack([jnp.stack([a, a / 2]), jnp.stack([a / 3, -a])]), case.params)
    many = jax.vmap(jax.vmap(lambda params, x: layer.apply({"params": params}, x)), in_axes=(0, None))
    outputs = many(stacked, case.inputs)
    for i, j in np.ndindex(2, 2):
        member = jax.tree.map(lambda a, i=i, j=j: a[i, j], stacked)
        assert_equal(outputs[i, j], reference.apply({"params": member}, case.inputs[j]), **FLOAT32)


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
    case = a_case()
    actual, expected = (
        results_and_gradients(LSTM(HIDDEN, name, return_carry=True), case) for name in ("fused", "scan")
    )
    assert_equal(actual, expected, **FLOAT32)


def test_fused_in_float64() -> None:
    with jax.enable_x64(True):
        case = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float64), a_case())
        actual, expected = (
            results_and_gradients(LSTM(HIDDEN, name, return_carry=True), case) for name in ("fused", "scan")
        )
        assert {leaf.dtype.name for leaf in jax.tree.leaves(actual)} == {"float64"}
        assert_equal(actual, expected, rtol=1e-12, atol=1e-12)


def test_remat_computes_the_steps_again() -> None:
    case = a_case()
    layer = nn.remat(LSTM)(HIDDEN, "native", return_carry=True)
    actual = results_and_gradients(layer, case)
    assert_equal(actual, flax_answer({"return_carry": True}), **FLOAT32)

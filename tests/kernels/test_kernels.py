"""The numbers of the fast implementations: sizes, hard inputs, and what only a kernel can get wrong.

The judge is Flax's own cell in float64. The options of the layer are tested for all implementations
in test_lstm.py, JAX's transformations in test_kernel_transformations.py.
"""

import functools
import math
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jax.test_util import check_grads

from lstm_jax import LSTM
from lstm_jax.kernels import fused
from tests.helpers.references import (
    FAST,
    FLOAT32,
    HIDDEN,
    Case,
    Tree,
    a_case,
    assert_equal,
    each_fast,
    examples,
    forget_compiled,
    numpy_answer,
    numpy_lstm,
    random_case,
    results_and_gradients,
)

# --------------------------------------------------------------------------------------------------
# As exact as the reference, by the judgement of float64
# --------------------------------------------------------------------------------------------------

# A fast implementation adds up in another order and has its own exp and tanh: its error may be larger than
# that of the reference by this factor ...
WORSE = 2.0
# ... and by two roundings: of few values, the reference may be right to the last bit by luck.
ROUNDING = 2.0**-23
# A usual size of the numbers of a case; only results that are all smaller are compared with it.
USUAL = 0.03


def _vector(tree: Tree) -> np.ndarray:
    return np.concatenate([np.asarray(leaf, np.float64).ravel() for leaf in jax.tree.leaves(tree)])


def _relative_error(actual: Tree, exact: Tree, usual: float) -> float:
    """Of all leaves as one vector: a single sum may have cancelled to next to nothing.

    Where all of them have, as one state of one sequence can, the error of numbers of a usual size counts.
    """
    one, other = _vector(actual), _vector(exact)
    return float(np.linalg.norm(one - other) / max(np.linalg.norm(other), usual * math.sqrt(other.size)))


@pytest.fixture
def rows(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """As in a process with one device, where the rows of all steps are one axis of `fused`'s last product."""
    forget_compiled()
    monkeypatch.setattr(fused, "_may_be_in_shards", lambda: False)
    yield
    forget_compiled()


def _assert_as_exact_as_scan(
    implementation: str, case: Case, hidden: int, *, worse: float = WORSE, **options: Any
) -> None:
    exact = numpy_answer(case, **options)
    reference, actual = (
        results_and_gradients(LSTM(hidden, name, return_carry=True), case, optimized=True, **options)
        for name in ("scan", implementation)
    )
    assert jax.tree.structure(actual) == jax.tree.structure(reference)

    def parts(answer: tuple[Tree, Tree]) -> dict[str, Tree]:
        (carry, outputs), gradients = answer
        return {"carry": carry, "outputs": outputs} | Case(*gradients)._asdict()

    # The last state has the roundings of all states before it, however small it is itself.
    outputs = _vector(parts(exact)["outputs"])
    usual = {"carry": max(USUAL, np.linalg.norm(outputs) / math.sqrt(outputs.size))}
    for name, judge in parts(exact).items():
        size = usual.get(name, USUAL)
        allowed = worse * _relative_error(parts(reference)[name], judge, size) + ROUNDING
        assert _relative_error(parts(actual)[name], judge, size) <= allowed, name


@pytest.mark.slow
@pytest.mark.usefixtures("rows")
@each_fast
@examples(4)
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
    _assert_as_exact_as_scan(implementation, case, hidden, **options)


@pytest.mark.slow
@pytest.mark.usefixtures("rows")
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
    _assert_as_exact_as_scan(implementation, case, hidden)


def test_fused_beside_other_devices_is_nearly_as_exact() -> None:
    """XLA on a CPU sums a product over two axes term by term, not in blocks: 2.7 times the error."""
    _assert_as_exact_as_scan("fused", random_case(28, (128,), 28, 64), 64, worse=3.5)


@each_fast
def test_gradients_by_finite_differences(implementation: str) -> None:
    case = random_case(3, (2,), 2, 3)
    layer = LSTM(3, implementation, return_carry=True)

    def run(*arguments: Tree) -> Tree:
        params, inputs, carry = jax.tree.map(jnp.asarray, arguments)
        return layer.apply({"params": params}, inputs, initial_carry=carry)

    check_grads(run, tuple(case), order=1, modes=["rev"], atol=2e-2, rtol=2e-2)  # float32, steps of 1e-3


def test_fused_in_float64() -> None:
    with jax.enable_x64(True):
        case = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float64), a_case())
        actual, expected = (
            results_and_gradients(LSTM(HIDDEN, name, return_carry=True), case) for name in ("fused", "scan")
        )
        assert {leaf.dtype.name for leaf in jax.tree.leaves(actual)} == {"float64"}
        assert_equal(actual, expected, rtol=1e-12, atol=1e-12)


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


@each_size(["scan", *FAST])
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


@pytest.mark.parametrize("implementation", ["scan", *FAST])
def test_activations(implementation: str) -> None:
    """One unit whose four pre-activations are z, from c = 1/2: c and h to some units in the last place.

    The sigmoid of `fused` is half a tanh plus one half: near 0 it is right to the last place of 1/2.
    """
    layer = LSTM(1, implementation, return_carry=True)
    run = jax.jit(lambda case: layer.apply({"params": case.params}, case.inputs, initial_carry=case.carry))
    for z in (-100.0, -20.0, -1e-3, -1e-30, 0.0, 1e-6, 1e-3, 0.3, 9.0, 100.0):
        cell = {
            name + gate: {"kernel": jnp.zeros((1, 1)), **({"bias": jnp.full((1,), z)} if name == "h" else {})}
            for name in "ih"
            for gate in "ifgo"
        }
        case = Case({"cell": cell}, jnp.ones((1, 1, 1)), (jnp.full((1, 1), 0.5), jnp.ones((1, 1))))
        for one, other in zip(jax.tree.leaves(run(case)), jax.tree.leaves(numpy_lstm(case)), strict=True):
            atol = 1e-7 if implementation == "fused" else 1e-37
            np.testing.assert_allclose(one, other, rtol=2e-6, atol=atol, err_msg=f"z = {z}")


@each_size(["scan", *FAST])
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

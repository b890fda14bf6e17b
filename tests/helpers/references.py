"""What the LSTM is compared with: its equations in float64 NumPy, and Flax's own ``nn.RNN``."""

import functools
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import HealthCheck, settings

from lstm_jax import kernels
from tests.helpers.compilation import OPTIMIZED

Tree = Any  # nested dicts and tuples of arrays

# Two correct float32 computations of values near 1 differ by the order of their sums: a few units in
# the seventh digit, gathered over a few steps. A wrong one differs in the first or second digit, as
# `test_the_case_would_show_a_bug` makes sure.
FLOAT32 = {"rtol": 1e-5, "atol": 1e-5}
# bfloat16 has 8 significant bits: every rounding costs up to 1/512 of the value, several times a step.
BFLOAT16 = {"rtol": 0.03, "atol": 0.03}


class Case(NamedTuple):
    """A task for an LSTM: its weights, sequences, and the state before the first step."""

    params: Tree
    inputs: jax.Array
    carry: tuple[jax.Array, jax.Array]


def random_case(
    time: int, batch: tuple[int, ...], num_inputs: int, hidden: int, *, time_major: bool = False
) -> Case:
    """All random, the biases and the state too: where a value is zero, a wrong use of it cannot be seen."""
    rng = np.random.default_rng(0)

    def normal(*shape: int) -> jax.Array:
        return jnp.asarray(rng.standard_normal(shape), jnp.float32)

    cell: dict[str, dict[str, jax.Array]] = {}
    for gate in "ifgo":
        cell[f"i{gate}"] = {"kernel": normal(num_inputs, hidden) / max(num_inputs, 1) ** 0.5}
        cell[f"h{gate}"] = {"kernel": normal(hidden, hidden) / hidden**0.5, "bias": normal(hidden)}
    inputs = normal(time, *batch, num_inputs) if time_major else normal(*batch, time, num_inputs)
    return Case({"cell": cell}, inputs, (normal(*batch, hidden), normal(*batch, hidden)))


def numpy_lstm(case: Case, mask: Any = 1.0) -> tuple[tuple[Any, Any], Any]:
    """The equations, one step after the other, in float64: the final state (c, h), and all outputs.

    Of ``case.inputs`` the time axis is the last but one. ``mask`` multiplies h before the recurrent weights.
    """
    weights = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), case.params["cell"])
    inputs = np.asarray(case.inputs, np.float64)
    c, h = (np.asarray(state, np.float64) for state in case.carry)
    outputs = []
    for t in range(inputs.shape[-2]):
        i, f, g, o = _numpy_gates(weights, inputs[..., t, :], mask * h)
        c = f * c + i * g
        h = o * np.tanh(c)
        outputs.append(h)
    return (c, h), np.stack(outputs, axis=-2)


def numpy_answer(
    case: Case,
    *,
    time_major: bool = False,
    reverse: bool = False,
    keep_order: bool = False,
    seq_lengths: Any = None,
) -> tuple[Tree, Tree]:
    """`step_by_step` of a layer with ``return_carry``, by the equations and the chain rule in float64.

    Of one axis of sequences; the options mean what they mean in ``nn.RNN``.
    """
    weights = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), case.params["cell"])
    x, c, h = (np.asarray(part, np.float64) for part in (case.inputs, *case.carry))
    x = x if time_major else np.moveaxis(x, 1, 0)
    time, batch = x.shape[:2]
    every = np.arange(batch)
    lengths = np.full(batch, time) if seq_lengths is None else np.asarray(seq_lengths)
    order = np.tile(np.arange(time)[:, None], batch)
    if reverse:  # the padding turns round as well, behind the sequence
        order = (time - 1 - order + lengths) % time
    x, last = x[order, every], (lengths - 1) % time
    saved, cells, outputs = [], [], []
    for t in range(time):
        i, f, g, o = _numpy_gates(weights, x[t], h)
        saved.append((c, h, i, f, g, o))
        c = f * c + i * g
        h = o * np.tanh(c)
        cells.append(c)
        outputs.append(h)
    cells, outputs = np.stack(cells), np.stack(outputs)
    shown = np.zeros_like(outputs)
    place = order if reverse and keep_order else np.tile(np.arange(time)[:, None], batch)
    shown[place, every] = outputs
    results = (
        (cells[last, every], outputs[last, every]),
        shown if time_major else np.moveaxis(shown, 0, 1),
    )

    (of_c, of_h), of_shown = jax.tree.map(
        lambda leaf: np.asarray(leaf, np.float64), random_like(jax.tree.map(np.float32, results))
    )
    of_outputs = (of_shown if time_major else np.moveaxis(of_shown, 1, 0))[place, every]
    d_weights: Tree = jax.tree.map(np.zeros_like, weights)
    d_x, d_c, d_h = np.zeros_like(x), np.zeros_like(c), np.zeros_like(h)
    for t in reversed(range(time)):
        c, h, i, f, g, o = saved[t]
        ends = (last == t)[:, None]
        d_h = d_h + of_outputs[t] + ends * of_h
        through = np.tanh(cells[t])
        d_c = d_c + ends * of_c + d_h * o * (1 - through**2)
        d_z = {
            "i": d_c * g * i * (1 - i),
            "f": d_c * c * f * (1 - f),
            "g": d_c * i * (1 - g**2),
            "o": d_h * through * o * (1 - o),
        }
        d_c, d_h = d_c * f, 0
        for gate, d in d_z.items():
            d_weights[f"i{gate}"]["kernel"] += x[t].T @ d
            d_weights[f"h{gate}"]["kernel"] += h.T @ d
            d_weights[f"h{gate}"]["bias"] += d.sum(0)
            d_x[t] += d @ weights[f"i{gate}"]["kernel"].T
            d_h = d_h + d @ weights[f"h{gate}"]["kernel"].T
    d_inputs = np.zeros_like(d_x)
    d_inputs[order, every] = d_x
    gradients = Case({"cell": d_weights}, d_inputs if time_major else np.moveaxis(d_inputs, 0, 1), (d_c, d_h))
    return results, tuple(gradients)


def _numpy_gates(weights: Tree, x: Any, h: Any) -> tuple[Any, Any, Any, Any]:
    """The input gate, the forget gate, the candidate and the output gate of a step."""
    i, f, g, o = (
        x @ weights[f"i{gate}"]["kernel"] + h @ weights[f"h{gate}"]["kernel"] + weights[f"h{gate}"]["bias"]
        for gate in "ifgo"
    )
    return _sigmoid(i), _sigmoid(f), np.tanh(g), _sigmoid(o)


def _sigmoid(z: Any) -> Any:
    return 1 / (1 + np.exp(-z))


def flax_rnn(features: int, **attributes: Any) -> nn.RNN:
    """``nn.RNN(nn.LSTMCell(features))`` with the attributes of an `LSTM`, each where Flax has it."""
    of_rnn = {"time_major", "return_carry", "reverse", "keep_order", "unroll", "name"} & attributes.keys()
    rnn = {name: attributes.pop(name) for name in of_rnn}
    # parent=None: the RNN adopts the cell as "cell", even if it is made in the middle of another module.
    return nn.RNN(nn.LSTMCell(features, **attributes, parent=None), **rnn)


def step_by_step(layer: nn.Module, case: Case, **options: Any) -> tuple[Tree, Tree]:
    """What ``layer`` returns, and the gradients by parameters, inputs and initial state.

    They are those of a sum of all results with random weights: of a plain sum, errors of opposite
    sign could cancel, and one that leaves out the state would say nothing about it.

    Not compiled as a whole, every operation becomes a program of its own. That takes ten times as long as
    `results_and_gradients`.
    """

    def run(params: Tree, inputs: jax.Array, carry: Tree) -> Tree:
        return layer.apply({"params": params}, inputs, initial_carry=carry, **options)

    results, pull_back = jax.vjp(run, *case)
    return results, pull_back(random_like(results))


def results_and_gradients(
    layer: nn.Module, case: Case, *, optimized: bool = False, **options: Any
) -> tuple[Tree, Tree]:
    """`step_by_step` as one program, compiled once for the same layer, options and sizes."""
    arrays = {name: option for name, option in options.items() if _holds_an_array(option)}
    others = tuple((name, option) for name, option in options.items() if name not in arrays)
    return _compiled(layer, others, optimized)(case, arrays)


def _holds_an_array(option: Any) -> bool:
    return any(isinstance(leaf, jax.Array | np.ndarray) for leaf in jax.tree.leaves(option))


def forget_compiled() -> None:
    """To be called where a test changes the code of a layer, before and after."""
    _compiled.cache_clear()


@functools.lru_cache(maxsize=64)
def _compiled(layer: nn.Module, options: tuple[tuple[str, Any], ...], optimized: bool) -> Any:
    def run(case: Case, arrays: dict[str, Any]) -> tuple[Tree, Tree]:
        return step_by_step(layer, case, **dict(options), **arrays)

    return jax.jit(run, compiler_options=OPTIMIZED if optimized else None)


def random_like(tree: Tree) -> Tree:
    rng = np.random.default_rng(1)
    return jax.tree.map(lambda leaf: jnp.asarray(rng.standard_normal(leaf.shape), leaf.dtype), tree)


def assert_equal(actual: Tree, expected: Tree, *, rtol: float = 0.0, atol: float = 0.0) -> None:
    """The same names, shapes, dtypes, and values within the tolerance."""
    assert jax.tree.structure(actual) == jax.tree.structure(expected)
    for (path, one), other in zip(jax.tree.leaves_with_path(actual), jax.tree.leaves(expected), strict=True):
        name = jax.tree_util.keystr(path) or "result"
        assert one.shape == other.shape, name
        assert one.dtype == other.dtype, name
        one, other = (np.asarray(array, np.float64) for array in (one, other))
        np.testing.assert_allclose(one, other, rtol=rtol, atol=atol, err_msg=name)


# `auto` is one of the others, see `test_auto_is_one_of_the_others`: that test, and those of any sizes and
# of the initial values, have it in their lists.
# `native-vectors` and `native-tiles` are `native`, but for the kind of products (kernels/test_products.py).
NAMES = [name for name in kernels.IMPLEMENTATIONS if kernels.NATIVE.get(name) is None]
each_implementation = pytest.mark.parametrize("implementation", [name for name in NAMES if name != "auto"])
FAST = ["fused", "native"]
each_fast = pytest.mark.parametrize("implementation", FAST)
# Of what the kernels do not do, they say so; see test_kernel_transformations.py.
each_general_implementation = pytest.mark.parametrize("implementation", ["scan", "unrolled", "auto"])
each_name = pytest.mark.parametrize("implementation", NAMES)


def examples(number: int) -> settings:
    """So many examples of a property, each of which compiles programs."""
    return settings(
        max_examples=number,
        deadline=None,  # most of the time goes into compiling
        derandomize=True,  # the same examples on every machine
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
    )


TIME, BATCH, INPUTS, HIDDEN = 5, 3, 2, 4  # all different, so that no two axes can be taken for each other
LENGTHS = (2, 5, 1)  # padding in one, none in another, and all but one step in the last


def a_case(**options: Any) -> Case:
    return random_case(TIME, (BATCH,), INPUTS, HIDDEN, time_major=bool(options.get("time_major")))


def as_arguments(options: dict[str, Any]) -> dict[str, Any]:
    """The options for a call: those in a parameter list cannot hold arrays, they hold tuples."""
    lengths = options.get("seq_lengths")
    return options if lengths is None else {**options, "seq_lengths": jnp.asarray(lengths, jnp.int32)}


@functools.cache
def _flax_answer(items: tuple[tuple[str, Any], ...]) -> tuple[Tree, Tree]:
    options = as_arguments(dict(items))
    return results_and_gradients(flax_rnn(HIDDEN), a_case(**options), **options)


def flax_answer(options: dict[str, Any]) -> tuple[Tree, Tree]:
    """Results and gradients of ``nn.RNN``, computed once for all implementations."""
    return _flax_answer(tuple(options.items()))

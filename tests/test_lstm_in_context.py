"""The LSTM in bfloat16 and inside of other things (jit, vmap, modules, remat, export); names and errors."""

import doctest
import functools
import os
import pickle
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import equinox as eqx
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx as flax_nnx
from jax.experimental import serialize_executable
from jax.experimental.compilation_cache import compilation_cache

from lstm_jax import LSTM, equinox, functional, kernels, linen, nnx
from lstm_jax.errors import ImplementationError
from tests.helpers.project import PROJECT
from tests.helpers.references import (
    BFLOAT16,
    FLOAT32,
    HIDDEN,
    LENGTHS,
    NAMES,
    TIME,
    Case,
    Tree,
    a_case,
    as_arguments,
    assert_equal,
    each_fast,
    each_implementation,
    flax_answer,
    flax_rnn,
    random_case,
    results_and_gradients,
)

pytestmark = pytest.mark.usefixtures("strict_dtypes")


# --------------------------------------------------------------------------------------------------
# bfloat16
# --------------------------------------------------------------------------------------------------


def _in_bfloat16(param_dtype: Any) -> tuple[Case, dict[str, Any]]:
    case = jax.tree.map(lambda leaf: leaf.astype(param_dtype), a_case())
    attributes = {"dtype": jnp.bfloat16, "param_dtype": param_dtype}
    # Flax's default is orthogonal. JAX refuses that in bfloat16, from 0.12 on even where weights are given.
    return case, {**attributes, "recurrent_kernel_init": nn.initializers.zeros}


@functools.cache
def _flax_answer_in_bfloat16(param_dtype: Any) -> tuple[Tree, Tree]:
    case, attributes = _in_bfloat16(param_dtype)
    options = as_arguments({"seq_lengths": LENGTHS, "return_carry": True})
    # The cell of Flax multiplies gates in bfloat16 with a state in float32.
    with jax.numpy_dtype_promotion("standard"):
        return results_and_gradients(flax_rnn(HIDDEN, **attributes), case, **options)


@pytest.mark.parametrize(
    ("implementation", "param_dtype"),
    [
        ("scan", jnp.float32),
        ("unrolled", jnp.bfloat16),
        ("fused", jnp.float32),
        ("fused", jnp.bfloat16),
        ("native", jnp.float32),
        ("native", jnp.bfloat16),
    ],
)
def test_computation_in_bfloat16(implementation: str, param_dtype: Any) -> None:
    """Results and gradients have the dtypes of nn.RNN's, and the results are near those of float32."""
    options = {"seq_lengths": LENGTHS, "return_carry": True}
    case, attributes = _in_bfloat16(param_dtype)
    expected = _flax_answer_in_bfloat16(param_dtype)
    with jax.numpy_dtype_promotion("standard"):
        layer = LSTM(HIDDEN, implementation, **attributes)
        actual = results_and_gradients(layer, case, **as_arguments(options))
    assert_equal(actual, expected, **BFLOAT16)

    results = jax.tree.map(lambda leaf: leaf.astype(jnp.float32), actual[0])
    exact, _ = flax_answer(options)
    assert_equal(results, exact, **BFLOAT16)
    # ... near, and not equal: the computation is indeed in bfloat16. That of `native` is not at this size.
    if implementation != "native":
        assert np.abs(results[1] - exact[1]).max() > 100 * FLOAT32["atol"]


# --------------------------------------------------------------------------------------------------
# Inside of other things
# --------------------------------------------------------------------------------------------------


@each_fast
def test_jit_with_lengths_as_an_argument(implementation: str) -> None:
    """One program serves all lengths: they are known when it runs, not when it is compiled."""
    case = a_case()
    layer = LSTM(HIDDEN, implementation, return_carry=True, reverse=True)
    compilations = 0

    @jax.jit
    def run(case: Case, lengths: jax.Array) -> tuple[Tree, Tree]:
        nonlocal compilations
        compilations += 1
        return results_and_gradients(layer, case, seq_lengths=lengths)

    for lengths in (LENGTHS, (0, 5, 1)):
        options = {"seq_lengths": lengths, "reverse": True, "return_carry": True}
        assert_equal(run(case, jnp.array(lengths, jnp.int32)), flax_answer(options), **FLOAT32)
    assert compilations == 1


@pytest.mark.parametrize("implementation", ["scan", "auto"])
def test_vmap_over_sequences_and_over_parameters(implementation: str) -> None:
    case = a_case()
    layer = LSTM(HIDDEN, implementation)
    variables = {"params": case.params}
    one_by_one = jax.vmap(lambda x: layer.apply(variables, x))(case.inputs)
    assert_equal(one_by_one, layer.apply(variables, case.inputs), **FLOAT32)

    ensemble = jax.tree.map(lambda leaf: jnp.stack([leaf, leaf / 2]), variables)
    both = jax.vmap(layer.apply, in_axes=(0, None))(ensemble, case.inputs)
    for member in range(2):
        alone = layer.apply(jax.tree.map(lambda leaf, member=member: leaf[member], ensemble), case.inputs)
        assert_equal(both[member], alone, **FLOAT32)


class Compact(nn.Module):
    make: Any

    @nn.compact
    def __call__(self, inputs: jax.Array) -> jax.Array:
        return self.make(HIDDEN, name="layer")(inputs)


class Setup(nn.Module):
    make: Any

    def setup(self) -> None:
        self.layer = self.make(HIDDEN)

    def __call__(self, inputs: jax.Array) -> jax.Array:
        return self.layer(inputs)


@pytest.mark.parametrize(("implementation", "outer"), [("scan", Compact), ("auto", Setup)])
def test_inside_of_another_module(implementation: str, outer: Any) -> None:
    """The initial values depend on the path of names too, so these must be the same."""
    inputs = a_case().inputs
    expected = outer(flax_rnn).init_with_output(jax.random.key(1), inputs)
    make = functools.partial(LSTM, implementation=implementation)
    actual = outer(make).init_with_output(jax.random.key(1), inputs)
    assert set(actual[1]["params"]) == {"layer"}
    assert_equal(actual, expected, **FLOAT32)


@pytest.mark.parametrize("implementation", ["scan", "fused"])  # `native` in kernels/test_transformations.py
def test_remat(implementation: str) -> None:
    """Computing the steps again for the gradient changes neither results nor gradients."""
    layer = nn.remat(LSTM)(HIDDEN, implementation, return_carry=True)
    actual = results_and_gradients(layer, a_case())
    assert_equal(actual, flax_answer({"return_carry": True}), **FLOAT32)


@each_implementation
def test_export(implementation: str) -> None:
    """One program for CPU, GPU and TPU: nothing in it is tied to this machine, the kernel is not in it."""
    case = a_case()
    layer = LSTM(HIDDEN, implementation, return_carry=True)
    run = jax.jit(functools.partial(results_and_gradients, layer))
    exported = jax.export.export(run, platforms=("cpu", "cuda", "tpu"))(case)
    assert exported.platforms == ("cpu", "cuda", "tpu")
    assert "@lstm_jax_" not in exported.mlir_module()  # the kernel's handlers; of a module, the name is there
    assert_equal(exported.call(case), flax_answer({"return_carry": True}), **FLOAT32)


@pytest.mark.parametrize("ensemble", [False, True], ids=["examples", "ensemble"])
def test_export_of_a_vmap(ensemble: bool) -> None:
    """Gradients per example, and of weights of their own: what the kernel has groups and members for."""
    case = random_case(4, (3, 2), 2, HIDDEN)
    axes = Case(None, 0, 0)
    if ensemble:
        params = jax.tree.map(lambda leaf: jnp.stack([leaf, leaf / 2, -leaf]), case.params)
        case, axes = case._replace(params=params), Case(0, 0, 0)
    lengths = jnp.array([4, 2])

    def run(layer: LSTM, case: Case) -> tuple[Tree, Tree]:
        return results_and_gradients(layer, case, seq_lengths=lengths, reverse=True)

    def mapped(implementation: str) -> Any:
        layer = LSTM(HIDDEN, implementation, return_carry=True)
        return jax.jit(jax.vmap(functools.partial(run, layer), in_axes=(axes,)))

    exported = jax.export.export(mapped("native"), platforms=("cpu", "tpu"))(case)
    assert_equal(exported.call(case), mapped("scan")(case), **FLOAT32)


def test_export_of_a_step_of_training_with_dropout() -> None:
    case = a_case()
    layer = LSTM(HIDDEN, "native", return_carry=True, recurrent_dropout_rate=0.5)
    options = {"deterministic": False, "rngs": {"dropout": jax.random.key(2)}}
    run = jax.jit(functools.partial(results_and_gradients, layer, **options))
    assert_equal(jax.export.export(run)(case).call(case), run(case), **FLOAT32)


@pytest.mark.parametrize(
    ("implementation", "sizes"),
    [
        *((name, "batch, time") for name in NAMES),
        *(("unrolled", size) for size in ("batch", "time")),
        *(("fused", size) for size in ("batch", "time")),
    ],
)
def test_export_with_sizes_left_open(implementation: str, sizes: str) -> None:
    """As nn.RNN can; what cannot says so, and `auto` takes one that can."""
    case, lengths = a_case(), jnp.array(LENGTHS)
    layer = LSTM(HIDDEN, implementation, reverse=True, keep_order=True)

    def run(params: Tree, inputs: jax.Array, lengths: jax.Array) -> Tree:
        return layer.apply({"params": params}, inputs, seq_lengths=lengths, return_carry=True)

    names = dict(zip(sizes.split(", "), jax.export.symbolic_shape(sizes), strict=True))
    batch, time = names.get("batch", 3), names.get("time", TIME)
    shapes = (
        jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), case.params),
        jax.ShapeDtypeStruct((batch, time, case.inputs.shape[-1]), jnp.float32),
        jax.ShapeDtypeStruct((batch,), jnp.int32),
    )
    export = jax.export.export(jax.jit(run))
    if implementation == "native" or (implementation == "unrolled" and "time" in names):
        with pytest.raises(ImplementationError, match=f"{implementation}' cannot be used: .* a symbol; use "):
            export(*shapes)
        return
    exported = export(*shapes)
    if implementation == "fused":  # of the others, scan is the reference, and auto is fused
        arguments = (case.params, case.inputs, lengths)
        expected = flax_rnn(HIDDEN, reverse=True, keep_order=True, return_carry=True).apply(
            {"params": case.params}, case.inputs, seq_lengths=lengths
        )
        assert_equal(exported.call(*arguments), expected, **FLOAT32)


def test_parts_of_a_number_of_steps_left_open_are_refused() -> None:
    (time,) = jax.export.symbolic_shape("time")
    shape = jax.ShapeDtypeStruct((3, time, 2), jnp.float32)
    run = functools.partial(LSTM(HIDDEN, remat=2).apply, {"params": a_case().params})
    with pytest.raises(
        ValueError, match=r"^remat: got 2 for a symbolic number of time steps, expected remat=None"
    ):
        jax.export.export(jax.jit(run))(shape)


SERIALISE = """
import pickle, sys, jax, lstm_jax
from jax.experimental import serialize_executable
with open(sys.argv[1], "rb") as file:
    program, arguments = pickle.load(file)
outputs = serialize_executable.deserialize_and_load(*program)(*arguments)
assert "flax" not in sys.modules
print(float(outputs.sum()))
"""


@pytest.fixture
def newly_compiled() -> Iterator[None]:
    """Compile programs anew: JAX cannot serialise one that it has loaded from its cache."""
    jax.config.update("jax_enable_compilation_cache", False)
    compilation_cache.reset_cache()
    yield
    jax.config.update("jax_enable_compilation_cache", True)
    compilation_cache.reset_cache()


@pytest.mark.usefixtures("newly_compiled")
def test_a_serialised_executable_with_the_kernel(tmp_path: Path) -> None:
    """In a new process that has imported the package and nothing of it."""
    case = a_case()
    run = jax.jit(LSTM(HIDDEN, "native").apply)
    arguments = ({"params": jax.device_get(case.params)}, jax.device_get(case.inputs))
    program = run.lower(*arguments).compile()
    file = tmp_path / "program"
    file.write_bytes(pickle.dumps((serialize_executable.serialize(program), arguments)))
    done = subprocess.run(
        [sys.executable, "-c", SERIALISE, str(file)],
        env=os.environ | {"JAX_PLATFORMS": "cpu"},
        cwd=PROJECT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) == pytest.approx(float(run(*arguments).sum()), abs=1e-5)


# --------------------------------------------------------------------------------------------------
# Names, errors, examples
# --------------------------------------------------------------------------------------------------


def test_the_configuration_names_every_implementation() -> None:
    """The command line reads its choices from `kernels`, which must not import JAX to find them."""
    assert ("auto", *functional.IMPLEMENTATIONS) == kernels.IMPLEMENTATIONS


@pytest.mark.parametrize(
    ("layer", "loops"),
    [
        (LSTM(HIDDEN, "unrolled"), []),
        (LSTM(HIDDEN, "scan"), [(TIME, 1)]),
        (LSTM(HIDDEN, "scan", unroll=2), [(TIME, 2)]),
    ],
    ids=["unrolled", "scan", "scan, unroll=2"],
)
def test_the_name_decides_on_the_loop(layer: LSTM, loops: list[tuple[int, int]]) -> None:
    """The numbers are the same for all, so that only the program can tell which one was run."""
    case = a_case()
    program = jax.make_jaxpr(layer.apply)({"params": case.params}, case.inputs)
    found = [step.params for step in program.eqns if step.primitive.name == "scan"]
    assert [(loop["length"], loop["unroll"]) for loop in found] == loops


@pytest.mark.parametrize(
    ("attributes", "message"),
    [
        (
            {"implementation": "cudnn"},
            "implementation: got 'cudnn', expected auto, scan, unrolled, fused, native, native-vectors, "
            "native-tiles",
        ),
        (
            {"implementation": "unrolled", "unroll": 2},
            "implementation 'unrolled' cannot be used: unroll: got 2, expected 1 (or 'scan')",
        ),
    ],
    ids=["implementation", "unroll"],
)
def test_errors_say_what_was_given_and_what_is_expected(attributes: dict[str, Any], message: str) -> None:
    case = a_case()
    with pytest.raises(ValueError, match=f"^{re.escape(message)}") as raised:
        LSTM(HIDDEN, **attributes).apply({"params": case.params}, case.inputs)
    assert str(raised.value) == message


@pytest.mark.parametrize(
    "make",
    [
        lambda name: LSTM(HIDDEN, name),
        lambda name: LSTM(HIDDEN).clone(implementation=name),
        lambda name: nnx.LSTM(flax_nnx.LSTMCell(3, HIDDEN, rngs=flax_nnx.Rngs(0)), implementation=name),
        lambda name: equinox.LSTM(eqx.nn.LSTMCell(3, HIDDEN, key=jax.random.key(0)), name),
    ],
    ids=["Linen", "clone", "NNX", "Equinox"],
)
def test_an_unknown_implementation_is_refused_when_a_layer_is_made(make: Any) -> None:
    message = f"implementation: got 'nativ', expected {', '.join(kernels.IMPLEMENTATIONS)}"
    with pytest.raises(ImplementationError, match=f"^{re.escape(message)}$"):
        make("nativ")
    make("native")


@each_implementation
def test_a_carry_of_another_shape_is_refused(implementation: str) -> None:
    case = a_case()
    wrong = jax.tree.map(jnp.transpose, case.carry)  # as many numbers, in another order
    with pytest.raises(ValueError, match=r"^initial_carry: got c of shape \(4, 3\), expected \(3, 4\)"):
        LSTM(HIDDEN, implementation).apply({"params": case.params}, case.inputs, initial_carry=wrong)


@pytest.mark.parametrize(("module", "examples"), [(functional, 8), (linen, 6), (nnx, 5), (equinox, 7)])
def test_the_examples_in_the_documentation(module: Any, examples: int) -> None:
    assert doctest.testmod(module) == doctest.TestResults(failed=0, attempted=examples)

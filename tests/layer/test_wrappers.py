"""Less memory and long memories, with every implementation."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lstm_jax import LSTM, LSTMClassifier
from lstm_jax.layer.wrappers import chrono_bias
from tests.helpers.references import (
    FLOAT32,
    Tree,
    assert_equal,
    random_case,
    results_and_gradients,
)

TIME, HIDDEN = 6, 4


def case() -> Any:
    return random_case(TIME, (3,), 2, HIDDEN)


# --------------------------------------------------------------------------------------------------
# Parts of the sequence computed again
# --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("implementation", "options"),
    [
        ("scan", {"return_carry": True, "reverse": True}),
        ("unrolled", {"return_outputs": False}),
        ("fused", {"return_outputs": False}),
        ("native", {"return_carry": True, "reverse": True}),
    ],
)
def test_in_parts_results_and_gradients_are_the_same(implementation: str, options: dict) -> None:
    whole, parts = (LSTM(HIDDEN, implementation=implementation, remat=n, **options) for n in (None, 3))
    assert_equal(results_and_gradients(parts, case()), results_and_gradients(whole, case()), **FLOAT32)


@pytest.mark.parametrize("implementation", ["scan", "native"])
def test_in_parts_long_sequences_need_less_memory(implementation: str) -> None:
    long = random_case(784, (16,), 1, HIDDEN)

    def memory(remat: int | None) -> int:
        layer = LSTM(HIDDEN, implementation=implementation, remat=remat, return_outputs=False)

        def loss(params: Tree) -> jax.Array:
            return layer.apply({"params": params}, long.inputs)[1].sum()

        program = jax.jit(jax.grad(loss)).lower(long.params).compile()
        return program.memory_analysis().temp_size_in_bytes

    # 28 states between parts, and one part of 28 steps, instead of 784 steps.
    assert memory(28) < memory(None) / 5


def test_in_parts_a_carry_of_another_dtype_is_taken() -> None:
    one = case()
    half = one._replace(carry=tuple(state.astype(jnp.bfloat16) for state in one.carry))
    with jax.numpy_dtype_promotion("standard"):
        whole, parts = (
            LSTM(HIDDEN, implementation="fused", remat=remat).apply(
                {"params": half.params}, half.inputs, initial_carry=half.carry
            )
            for remat in (None, 3)
        )
    assert_equal(parts, whole, **FLOAT32)


def test_in_parts_what_cannot_be_is_told() -> None:
    layer, (params, inputs, _) = LSTM(HIDDEN, remat=5, return_carry=True), case()
    with pytest.raises(ValueError, match="remat: got 5 for 6 time steps, expected a divisor of them"):
        layer.apply({"params": params}, inputs)
    with pytest.raises(ValueError, match="remat: got seq_lengths for the final state"):
        layer.apply({"params": params}, inputs, seq_lengths=jnp.array([1, 2, 3]))


# --------------------------------------------------------------------------------------------------
# Chrono initialisation
# --------------------------------------------------------------------------------------------------


def test_chrono_biases_are_logarithms_of_uniform_times() -> None:
    times = np.exp(np.asarray(chrono_bias(jax.random.key(0), 100_000, 784), np.float64))
    assert times.min() >= 1
    assert times.max() <= 783 * (1 + 1e-5)  # the rounding of exp(log(783)) in float32
    # Uniform: ten equal parts of the range hold a tenth each, with a standard deviation of 0.001.
    shares = np.histogram(times, bins=10, range=(1, 783.01))[0] / len(times)
    np.testing.assert_allclose(shares, 0.1, atol=0.005)
    for time in (1, 2):
        np.testing.assert_array_equal(chrono_bias(jax.random.key(0), 3, time), np.zeros(3))


def test_chrono_gives_input_gates_the_negative() -> None:
    model = LSTMClassifier(16, num_layers=2, bidirectional=True, forget_bias="chrono", implementation="scan")
    images = jnp.zeros((1, 28, 4))
    variables = jax.jit(model.init)(jax.random.key(0), images)
    cells = [cell["cell"] for name, cell in variables["params"].items() if name.startswith("lstm")]
    biases = [{gate: np.asarray(cell[f"h{gate}"]["bias"]) for gate in "ifgo"} for cell in cells]
    for bias in biases:
        np.testing.assert_array_equal(bias["i"], -bias["f"])
        assert np.all((bias["f"] >= 0) & (bias["f"] <= np.log(27) + 1e-6))
        assert len(set(bias["f"].tolist())) == 16
        for gate in "go":
            np.testing.assert_array_equal(bias[gate], 0)
    assert len({bias["f"].tobytes() for bias in biases}) == 4  # each layer and direction draws its own
    model.apply(variables, images)  # needs no key
    # All other weights start as they do with a number.
    plain = jax.jit(model.clone(forget_bias=1.0).init)(jax.random.key(0), images)["params"]
    jax.tree_util.tree_map_with_path(
        lambda path, a, b: path[-1].key == "bias" or np.testing.assert_array_equal(a, b),
        variables["params"],
        plain,
    )


def test_another_word_for_the_forget_bias_is_refused() -> None:
    with pytest.raises(ValueError, match="forget_bias: got 'chronos', expected a number or 'chrono'"):
        LSTM(HIDDEN, forget_bias="chronos").init(jax.random.key(0), case().inputs)

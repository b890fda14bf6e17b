"""Less memory, dropped weights and long memories, with every implementation."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from references import FLOAT32, Tree, assert_equal, compiled, each_implementation, numpy_lstm, random_case

from lstm_jax import LSTM, LSTMClassifier
from lstm_jax.wrappers import chrono_bias, without_some_weights

TIME, HIDDEN, RATE = 6, 4, 0.4


def case() -> Any:
    return random_case(TIME, (3,), 2, HIDDEN)


# --------------------------------------------------------------------------------------------------
# Parts of the sequence computed again
# --------------------------------------------------------------------------------------------------


@each_implementation
@pytest.mark.parametrize("options", [{"return_carry": True, "reverse": True}, {"return_outputs": False}])
def test_in_parts_results_and_gradients_are_the_same(implementation: str, options: dict) -> None:
    whole, parts = (LSTM(HIDDEN, implementation=implementation, remat=n, **options) for n in (None, 3))
    assert_equal(compiled(parts, case()), compiled(whole, case()), **FLOAT32)


@pytest.mark.parametrize("implementation", ["scan", "fused", "native"])
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
# Dropped recurrent weights
# --------------------------------------------------------------------------------------------------


def kernels(params: Tree) -> np.ndarray:
    return np.stack([params[f"h{gate}"]["kernel"] for gate in "ifgo"])


def large_cell() -> Tree:
    return random_case(1, (1,), 2, 100).params["cell"]


def test_dropped_weights_are_zero_and_the_others_scaled() -> None:
    params = large_cell()
    dropped = without_some_weights(params, jax.random.key(0), RATE)
    before, after = kernels(params), kernels(dropped)
    kept = after != 0
    np.testing.assert_allclose(after[kept], before[kept] / (1 - RATE), rtol=1e-6)
    # 40,000 weights: the share has a standard deviation of 0.0024. The key is fixed: no luck is in it.
    assert abs(1 - kept.mean() - RATE) < 0.01
    assert len({mask.tobytes() for mask in kept}) == 4  # each gate drops its own
    for axis in (1, 2):  # single weights, not whole units
        assert 0 < kept.mean(axis).min() < kept.mean(axis).max() < 1
    # Nothing else is touched.
    for gate in "ifgo":
        np.testing.assert_array_equal(dropped[f"i{gate}"]["kernel"], params[f"i{gate}"]["kernel"])
        np.testing.assert_array_equal(dropped[f"h{gate}"]["bias"], params[f"h{gate}"]["bias"])


def test_a_weight_that_is_not_finite_is_not_hidden() -> None:
    params = {**large_cell()}
    params["hi"] = {**params["hi"], "kernel": jnp.full((100, 100), jnp.nan)}
    dropped = without_some_weights(params, jax.random.key(0), RATE)
    assert np.isnan(dropped["hi"]["kernel"]).all()


@each_implementation
def test_the_same_weights_are_missing_in_all_steps(implementation: str) -> None:
    params, inputs, carry = case()
    layer = LSTM(HIDDEN, implementation=implementation, recurrent_dropout_rate=RATE)
    # The mask shows in the gradient of the outputs by the recurrent weights: it is 0 where they are missing.
    rngs = {"dropout": jax.random.key(3)}

    def outputs(params: Tree) -> jax.Array:
        return layer.apply({"params": params}, inputs, initial_carry=carry, deterministic=False, rngs=rngs)

    actual, pull_back = jax.vjp(outputs, params)
    (gradients,) = pull_back(jnp.asarray(np.random.default_rng(5).standard_normal(actual.shape), jnp.float32))
    cell = jax.tree.map(np.asarray, params["cell"])
    for gate in "ifgo":
        kept = np.asarray(gradients["cell"][f"h{gate}"]["kernel"]) != 0
        assert 0 < kept.mean() < 1
        cell[f"h{gate}"]["kernel"] = cell[f"h{gate}"]["kernel"] * kept / (1 - RATE)
    expected = numpy_lstm(case()._replace(params={"cell": cell}))[1]
    np.testing.assert_allclose(actual, expected, **FLOAT32)
    # At evaluation nothing is missing, and no key is asked for.
    evaluated = layer.apply({"params": params}, inputs, initial_carry=carry)
    np.testing.assert_allclose(evaluated, numpy_lstm(case())[1], **FLOAT32)


def test_layers_and_directions_drop_weights_of_their_own() -> None:
    model = LSTMClassifier(
        5, num_layers=2, bidirectional=True, recurrent_dropout_rate=RATE, implementation="fused"
    )
    images = jnp.asarray(np.random.default_rng(0).random((2, 3, 5)), jnp.float32)
    params = jax.jit(model.init)(jax.random.key(0), images)["params"]
    rngs = {"dropout": jax.random.key(1)}

    def loss(params: Tree) -> jax.Array:
        return (model.apply({"params": params}, images, deterministic=False, rngs=rngs) ** 2).sum()

    gradients = jax.jit(jax.grad(loss))(params)
    masks = [kernels(gradients[name]["cell"]) != 0 for name in params if name.startswith("lstm")]
    assert len({mask.tobytes() for mask in masks}) == 4


# --------------------------------------------------------------------------------------------------
# Chrono initialisation, dropout of the output
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


def test_output_dropout_acts_on_the_features_of_the_dense_layer() -> None:
    model = LSTMClassifier(200, output_dropout_rate=RATE, num_classes=200, implementation="fused")
    images = jnp.asarray(np.random.default_rng(0).random((4, 5, 3)), jnp.float32)
    params = jax.jit(model.init)(jax.random.key(0), images)["params"]
    params["head"] = {"kernel": jnp.eye(200), "bias": jnp.zeros(200)}  # shows the features
    plain = np.asarray(model.apply({"params": params}, images))
    rngs = {"dropout": jax.random.key(1)}
    dropped = np.asarray(model.apply({"params": params}, images, deterministic=False, rngs=rngs))
    kept = dropped != 0
    np.testing.assert_allclose(dropped[kept], plain[kept] / (1 - RATE), rtol=1e-5)
    assert abs(1 - kept.mean() - RATE) < 0.06  # 800 units: a standard deviation of 0.017
    assert len({mask.tobytes() for mask in kept}) == 4  # each example its own
    halves = model.apply(
        {"params": params}, images[2:], deterministic=False, rngs=rngs, example_index=jnp.array([2, 3])
    )
    np.testing.assert_allclose(halves, dropped[2:], **FLOAT32)

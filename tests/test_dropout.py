"""Dropped outputs, recurrent units and recurrent weights: what is missing, where, and how often."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from references import FLOAT32, Tree, each_implementation, numpy_lstm, random_case

from lstm_jax import LSTM, LSTMClassifier
from lstm_jax.dropout import without_some_weights

TIME, HIDDEN, RATE = 6, 4, 0.4


def case() -> Any:
    return random_case(TIME, (3,), 2, HIDDEN)


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
    layer = LSTM(HIDDEN, implementation=implementation, recurrent_weight_dropout_rate=RATE)
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
        5, num_layers=2, bidirectional=True, recurrent_weight_dropout_rate=RATE, implementation="fused"
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
# Outputs
# --------------------------------------------------------------------------------------------------


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

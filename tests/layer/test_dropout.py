"""Dropped outputs, recurrent units and recurrent weights: what is missing, where, and how often."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from lstm_jax import LSTM, LSTMClassifier
from lstm_jax.layer.dropout import recurrent_mask, without_some_weights
from tests.helpers.references import (
    BFLOAT16,
    FLOAT32,
    Case,
    Tree,
    assert_equal,
    numpy_lstm,
    random_case,
    random_like,
    results_and_gradients,
)

TIME, HIDDEN, RATE = 6, 4, 0.4


def case() -> Any:
    return random_case(TIME, (3,), 2, HIDDEN)


# --------------------------------------------------------------------------------------------------
# Recurrent units
# --------------------------------------------------------------------------------------------------

# Several of each size, so that a mask of one for all, or of another layout, is seen.
SHAPES = [(TIME, (3,)), (1, (5,)), (TIME, ()), (7, (2, 3))]
DROPPING: dict[str, Any] = {"deterministic": False, "rngs": {"dropout": jax.random.key(3)}}
# Of `check_grads`, in float32 with steps of 1e-3.
FINITE_DIFFERENCES = {"atol": 2e-2, "rtol": 2e-2}


def dropping(implementation: str, **options: Any) -> LSTM:
    return LSTM(HIDDEN, implementation, recurrent_dropout_rate=RATE, **options)


def shown_mask(layer: LSTM, one: Case) -> np.ndarray:
    """The mask as the layer shows it: where it drops a unit, the gradient by that unit of h_0 is 0."""

    def of_outputs(h: jax.Array) -> jax.Array:
        outputs = layer.apply({"params": one.params}, one.inputs, initial_carry=(one.carry[0], h), **DROPPING)
        return (outputs**2).sum()

    return (np.asarray(jax.jit(jax.grad(of_outputs))(one.carry[1])) != 0) / (1 - RATE)


@pytest.mark.parametrize(("time", "batch"), SHAPES, ids=str)
def test_the_same_units_are_missing_in_all_steps(time: int, batch: tuple[int, ...]) -> None:
    """With Flax's cell; the other implementations are compared with it below."""
    one = random_case(time, batch, 2, HIDDEN)
    layer = dropping("scan", return_carry=True)
    mask = shown_mask(layer.clone(return_carry=False), one)
    assert 0 < mask.mean() < 1 / (1 - RATE)
    carry, outputs = results_and_gradients(layer, one, **DROPPING)[0]
    # The outputs, and the memory c, are whole: they are compared before the mask.
    exact_carry, exact = numpy_lstm(one, mask)
    np.testing.assert_allclose(outputs, exact, **FLOAT32)
    for actual, expected in zip(carry, exact_carry, strict=True):
        np.testing.assert_allclose(actual, expected, **FLOAT32)
    assert np.abs(exact - numpy_lstm(one)[1]).max() > 0.01  # without the mask they would be others


@pytest.mark.parametrize("implementation", ["unrolled", "fused", "native"])
@pytest.mark.parametrize(
    ("shape", "options"),
    [*zip(SHAPES, [{"lengths": True}, {}, {"reverse": True}, {"time_major": True}], strict=True)],
    ids=str,
)
def test_gradients_with_dropped_units(
    implementation: str, shape: tuple[int, tuple[int, ...]], options: dict[str, Any]
) -> None:
    time, batch = shape
    one = random_case(time, batch, 2, HIDDEN, time_major=bool(options.get("time_major")))
    options, call = dict(options), dict(DROPPING)
    if options.pop("lengths", False):
        call["seq_lengths"] = jnp.asarray(np.random.default_rng(2).integers(1, time + 1, batch))
    actual, expected = (
        results_and_gradients(dropping(name, return_carry=True, **options), one, **call)
        for name in (implementation, "scan")
    )
    assert_equal(actual, expected, **FLOAT32)


def test_gradients_with_dropped_units_by_finite_differences() -> None:
    layer = dropping("scan", return_carry=True)

    @jax.jit
    def run(*arguments: Tree) -> Tree:
        params, inputs, carry = jax.tree.map(jnp.asarray, arguments)
        return layer.apply({"params": params}, inputs, initial_carry=carry, **DROPPING)

    check_grads(run, tuple(random_case(3, (2,), 2, HIDDEN)), order=1, modes=["rev"], **FINITE_DIFFERENCES)


def test_second_derivatives_with_dropped_units() -> None:
    params, inputs, carry = case()

    def slope(implementation: str, inputs: jax.Array) -> jax.Array:
        def loss(inputs: jax.Array) -> jax.Array:
            layer = dropping(implementation)
            return (layer.apply({"params": params}, inputs, initial_carry=carry, **DROPPING) ** 2).sum()

        return (jax.grad(loss)(inputs) ** 2).sum()

    actual, expected = (jax.jit(jax.grad(partial(slope, name)))(inputs) for name in ("fused", "scan"))
    assert_equal(actual, expected, **FLOAT32)


@pytest.mark.parametrize("implementation", ["scan", "native"])
def test_dropped_units_of_parts_computed_again(implementation: str) -> None:
    """The mask is that of the whole sequence, and not drawn anew for each part."""
    whole, parts = (
        results_and_gradients(dropping(implementation, remat=n), case(), **DROPPING) for n in (None, 3)
    )
    assert_equal(parts, whole, **FLOAT32)


def test_dropped_units_in_bfloat16() -> None:
    with jax.numpy_dtype_promotion("standard"):  # Flax's cell mixes dtypes
        actual = results_and_gradients(dropping("fused", dtype=jnp.bfloat16), case(), **DROPPING)[0]
    exact = results_and_gradients(dropping("fused"), case(), **DROPPING)[0]
    np.testing.assert_allclose(np.asarray(actual, np.float32), exact, **BFLOAT16)


def test_each_sequence_drops_units_of_its_own() -> None:
    places = jnp.arange(300)
    mask = np.asarray(recurrent_mask(jax.random.key(0), places, 100, RATE, dtype=jnp.float32))
    assert mask.dtype == np.float32
    np.testing.assert_allclose(np.unique(mask), [0, 1 / (1 - RATE)], rtol=1e-6)
    assert len({row.tobytes() for row in mask}) == 300
    # 30,000 units: the mean has a standard deviation of 0.005. The key is fixed: no luck is in it.
    assert abs(mask.mean() - 1) < 0.02
    # Neither a unit nor a sequence is dropped more often: 300 and 100 draws each, within 5 deviations.
    assert np.abs(mask.mean(0) - 1).max() < 5 * np.sqrt(RATE / (1 - RATE) / 300)
    assert np.abs(mask.mean(1) - 1).max() < 5 * np.sqrt(RATE / (1 - RATE) / 100)
    again = recurrent_mask(jax.random.key(1), places, 100, RATE, dtype=jnp.float32)
    assert 0.4 < np.mean(mask == again) < 0.6  # 0.6^2 + 0.4^2 = 0.52: another key, another mask


def test_the_mask_goes_with_the_place_in_the_whole_batch() -> None:
    params, inputs, carry = case()
    layer = dropping("auto")
    whole = layer.apply({"params": params}, inputs, initial_carry=carry, **DROPPING)
    carry = jax.tree.map(lambda state: state[1:], carry)
    share = partial(layer.apply, {"params": params}, inputs[1:], initial_carry=carry, **DROPPING)
    np.testing.assert_allclose(share(example_index=jnp.array([1, 2])), whole[1:], **FLOAT32)
    assert np.abs(share() - whole[1:]).max() > 0.01


def test_no_unit_is_missing_at_evaluation() -> None:
    """No key is asked for."""
    params, inputs, carry = case()
    outputs = dropping("auto").apply({"params": params}, inputs, initial_carry=carry)
    np.testing.assert_allclose(outputs, numpy_lstm(case())[1], **FLOAT32)


def test_places_of_another_shape_are_refused() -> None:
    layer = LSTM(3, recurrent_dropout_rate=0.5, implementation="scan")
    inputs = jnp.zeros((2, 4, 5))
    variables = layer.init(jax.random.key(0), inputs)
    with pytest.raises(ValueError, match=r"^example_index: got shape \(1,\), expected \(2,\)"):
        layer.apply(
            variables,
            inputs,
            deterministic=False,
            example_index=jnp.zeros(1, jnp.int32),
            rngs={"dropout": jax.random.key(1)},
        )


@pytest.mark.parametrize(
    ("over", "implementation"),
    [("keys", "fused"), ("keys", "native"), ("inputs", "native"), ("weights", "native")],
)
def test_vmap_with_dropped_units(over: str, implementation: str) -> None:
    params, inputs, carry = case()
    layer = dropping(implementation)

    def run(params: Tree, inputs: jax.Array, key: jax.Array) -> tuple[Tree, Tree]:
        rngs = {"dropout": key}
        return results_and_gradients(layer, Case(params, inputs, carry), deterministic=False, rngs=rngs)

    keys = jax.random.split(jax.random.key(0), 2)
    many = {
        "keys": (params, inputs, keys),
        "inputs": (params, jnp.stack([inputs, inputs[::-1]]), keys[0]),
        "weights": (jax.tree.map(lambda leaf: jnp.stack([leaf, -leaf]), params), inputs, keys[0]),
    }[over]
    axes = tuple(0 if over == name else None for name in ("weights", "inputs", "keys"))
    together = jax.jit(jax.vmap(run, axes))(*many)
    for k in range(2):
        one = [
            jax.tree.map(lambda leaf, k=k: leaf[k], tree) if axis == 0 else tree
            for tree, axis in zip(many, axes, strict=True)
        ]
        assert_equal(jax.tree.map(lambda leaf, k=k: leaf[k], together), jax.jit(run)(*one), **FLOAT32)


# --------------------------------------------------------------------------------------------------
# Recurrent weights
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


def test_the_same_weights_are_missing_in_all_steps() -> None:
    params, inputs, carry = case()
    layer = LSTM(HIDDEN, recurrent_weight_dropout_rate=RATE)
    # The mask shows in the gradient of the outputs by the recurrent weights: it is 0 where they are missing.
    rngs = {"dropout": jax.random.key(3)}

    def outputs(params: Tree) -> jax.Array:
        return layer.apply({"params": params}, inputs, initial_carry=carry, deterministic=False, rngs=rngs)

    actual, pull_back = jax.vjp(jax.jit(outputs), params)
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


# --------------------------------------------------------------------------------------------------
# Both of them
# --------------------------------------------------------------------------------------------------

each_kind = pytest.mark.parametrize("name", ["recurrent_dropout_rate", "recurrent_weight_dropout_rate"])


@each_kind
def test_layers_and_directions_drop_their_own(name: str) -> None:
    model = LSTMClassifier(20, num_layers=2, bidirectional=True, implementation="fused", **{name: RATE})
    images = jnp.asarray(np.random.default_rng(0).random((1, 3, 5)), jnp.float32)
    params = random_like(jax.eval_shape(model.init, jax.random.key(0), images)["params"])

    def loss(params: Tree) -> jax.Array:
        return (model.apply({"params": params}, images, **DROPPING) ** 2).sum()

    # Of one sequence, a unit that is dropped leaves its row of W_h without a gradient.
    gradients = jax.jit(jax.grad(loss))(params)
    masks = [kernels(cell["cell"]) != 0 for layer, cell in gradients.items() if layer.startswith("lstm")]
    assert len({mask.tobytes() for mask in masks}) == 4
    assert all(0 < mask.mean() < 1 for mask in masks)


@pytest.mark.parametrize("rate", [-0.1, 1.0, 1.5])
@each_kind
def test_a_rate_that_cannot_be_is_refused(name: str, rate: float) -> None:
    params, inputs, _ = case()
    with pytest.raises(ValueError, match=f"dropout rate: got {rate}, expected a number from 0 up to"):
        LSTM(HIDDEN, "scan", **{name: rate}).apply({"params": params}, inputs, **DROPPING)


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

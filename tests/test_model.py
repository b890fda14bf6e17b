"""The classifier is its layers, one after the other, and reads the last output of each direction."""

import doctest
from collections.abc import Callable
from typing import Any

import flax
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lstm_jax import LSTMClassifier, model
from lstm_jax.config import Config
from lstm_jax.layer.dropout import ExampleDropout
from lstm_jax.model import logits_of
from lstm_jax.training import build_model
from tests.helpers.references import BFLOAT16, FLOAT32, Tree, assert_equal, flax_rnn, random_like

pytestmark = pytest.mark.usefixtures("strict_dtypes")

BATCH, ROWS, COLUMNS, HIDDEN, CLASSES = 4, 5, 3, 6, 7  # all different: no axis passes for another
WAYS = ("forward", "backward")
SIZES = {"hidden_size": HIDDEN, "num_classes": CLASSES}

each_depth = pytest.mark.parametrize("num_layers", [1, 2])
each_direction = pytest.mark.parametrize("bidirectional", [False, True], ids=["forward", "both"])


def images(batch: int = BATCH, rows: int = ROWS, columns: int = COLUMNS) -> jax.Array:
    """Random: every row differs from every other, so that it matters which rows have been read."""
    return jnp.asarray(np.random.default_rng(3).random((batch, rows, columns)), jnp.float32)


def shapes_of(classifier: LSTMClassifier, inputs: jax.Array) -> Tree:
    """Names and shapes of the parameters, without computing them."""
    variables = jax.eval_shape(classifier.init, jax.random.key(0), inputs)
    return jax.tree.map(lambda leaf: leaf.shape, variables["params"])


def random_params(classifier: LSTMClassifier, inputs: jax.Array) -> Tree:
    """Random biases too: those that a model starts with are the same for all units."""
    variables = jax.eval_shape(classifier.init, jax.random.key(0), inputs)
    return jax.tree.map(lambda leaf: leaf / 2, random_like(variables["params"]))


# --------------------------------------------------------------------------------------------------
# Parameters
# --------------------------------------------------------------------------------------------------


@each_depth
@each_direction
def test_names_and_shapes_of_the_parameters(num_layers: int, bidirectional: bool) -> None:
    def cell(num_inputs: int) -> Tree:
        of_x = {f"i{gate}": {"kernel": (num_inputs, HIDDEN)} for gate in "ifgo"}
        of_h = {f"h{gate}": {"kernel": (HIDDEN, HIDDEN), "bias": (HIDDEN,)} for gate in "ifgo"}
        return {"cell": {**of_x, **of_h}}

    directions = WAYS if bidirectional else WAYS[:1]
    width = HIDDEN * len(directions)  # of the outputs of a layer
    expected = {"head": {"kernel": (width, CLASSES), "bias": (CLASSES,)}}
    for layer in range(num_layers):
        for direction in directions:
            expected[f"lstm_{layer}_{direction}"] = cell(COLUMNS if layer == 0 else width)
    classifier = LSTMClassifier(num_layers=num_layers, bidirectional=bidirectional, **SIZES)
    assert shapes_of(classifier, images()) == expected


def test_number_of_parameters_of_the_tutorial() -> None:
    """4 gates x (28 x 64 + 64 x 64 + 64), and 64 x 10 + 10 of the dense layer."""
    params = jax.eval_shape(LSTMClassifier().init, jax.random.key(0), images(1, 28, 28))
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) == 24_458


def test_forget_gates_start_at_one() -> None:
    classifier = LSTMClassifier(num_layers=2, bidirectional=True, **SIZES)
    params = classifier.init(jax.random.key(0), images())["params"]
    layers = [params[name]["cell"] for name in params if name.startswith("lstm")]
    assert len(layers) == 4
    for cell in layers:
        biases = {gate: float(cell[f"h{gate}"]["bias"].sum()) for gate in "ifgo"}
        assert biases == {"i": 0.0, "f": HIDDEN, "g": 0.0, "o": 0.0}


# --------------------------------------------------------------------------------------------------
# Logits
# --------------------------------------------------------------------------------------------------


def logits_with_flax(params: Tree, inputs: jax.Array, num_layers: int, bidirectional: bool) -> jax.Array:
    """The classifier once more, of ``nn.RNN``, in terms of the outputs at every row.

    The outputs of both directions are in the order of the rows, so the last one of the backward
    direction stands at row 1.
    """
    for layer in range(num_layers):
        forward = flax_rnn(HIDDEN).apply({"params": params[f"lstm_{layer}_forward"]}, inputs)
        last, outputs = [forward[:, -1]], [forward]
        if bidirectional:
            rnn = flax_rnn(HIDDEN, reverse=True, keep_order=True)
            backward = rnn.apply({"params": params[f"lstm_{layer}_backward"]}, inputs)
            last.append(backward[:, 0])
            outputs.append(backward)
        inputs = jnp.concatenate(outputs, axis=-1)
    features = jnp.concatenate(last, axis=-1)
    return features @ params["head"]["kernel"] + params["head"]["bias"][None]


def logits_and_gradients(
    function: Callable[[Tree, jax.Array], jax.Array], params: Tree
) -> tuple[jax.Array, Tree]:
    def run(params: Tree, inputs: jax.Array) -> tuple[jax.Array, Tree]:
        logits, pull_back = jax.vjp(function, params, inputs)
        return logits, pull_back(random_like(logits))

    return jax.jit(run)(params, images())


@each_depth
@each_direction
def test_logits_and_gradients(num_layers: int, bidirectional: bool) -> None:
    scanned, another = (
        LSTMClassifier(num_layers=num_layers, bidirectional=bidirectional, implementation=name, **SIZES)
        for name in ("scan", "auto")
    )
    params = random_params(scanned, images())
    expected = logits_and_gradients(
        lambda params, inputs: logits_with_flax(params, inputs, num_layers, bidirectional), params
    )
    assert expected[0].shape == (BATCH, CLASSES)
    actual = logits_and_gradients(lambda params, inputs: scanned.apply({"params": params}, inputs), params)
    assert_equal(actual, expected, **FLOAT32)
    logits = another.apply({"params": params}, images())
    assert_equal(logits, expected[0], **FLOAT32)


@pytest.mark.parametrize(("rows", "columns"), [(1, 1), (28, 28), (9, 2)])
def test_any_number_of_rows_and_columns(rows: int, columns: int) -> None:
    classifier = LSTMClassifier(**SIZES)
    inputs = images(2, rows, columns)
    params = random_params(classifier, inputs)
    expected = logits_with_flax(params, inputs, num_layers=1, bidirectional=False)
    assert_equal(classifier.apply({"params": params}, inputs), expected, **FLOAT32)


@each_depth
def test_both_directions_have_read_every_row(num_layers: int) -> None:
    """A known mistake takes the backward output at row 28, where that direction has read one row only.

    Its features then change with row 28, and with no other row.
    """
    classifier = LSTMClassifier(
        HIDDEN, num_classes=2 * HIDDEN, num_layers=num_layers, bidirectional=True, implementation="scan"
    )
    inputs = images(1, rows=28)
    params = random_params(classifier, inputs)
    params["head"] = {"kernel": jnp.eye(2 * HIDDEN), "bias": jnp.zeros(2 * HIDDEN)}  # shows the features

    @jax.jit
    def features(inputs: jax.Array) -> jax.Array:
        return classifier.apply({"params": params}, inputs)[0]

    before = features(inputs)
    for row in (0, 13, 27):
        change = features(inputs.at[:, row].multiply(-100.0)) - before
        forward, backward = np.abs(change[:HIDDEN]).max(), np.abs(change[HIDDEN:]).max()
        assert forward > 0, row
        assert backward > 0, row


def test_examples_do_not_see_each_other() -> None:
    classifier = LSTMClassifier(num_layers=2, bidirectional=True, **SIZES)
    params = random_params(classifier, images())
    whole = classifier.apply({"params": params}, images())
    alone = classifier.apply({"params": params}, images()[2:3])
    assert_equal(alone, whole[2:3], **FLOAT32)


def test_bfloat16() -> None:
    """Only the LSTM computes in bfloat16: parameters and logits, and so the loss, are float32."""
    inputs = images()
    exact = LSTMClassifier(num_layers=2, bidirectional=True, **SIZES)
    rounded = exact.clone(dtype=jnp.bfloat16, implementation="fused")  # `native` may multiply in float32
    params = random_params(exact, inputs)
    # The cell of Flax multiplies gates in bfloat16 with a state in float32.
    with jax.numpy_dtype_promotion("standard"):
        variables = jax.eval_shape(rounded.init, jax.random.key(0), inputs)
        logits = rounded.apply({"params": params}, inputs)
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype("float32")}
    expected = exact.apply({"params": params}, inputs)
    assert_equal(logits, expected, **BFLOAT16)
    # It did compute in bfloat16; `fused` keeps its sums in float32 and is the more exact for it.
    assert np.abs(logits - expected).max() > 30 * FLOAT32["atol"]


# --------------------------------------------------------------------------------------------------
# Dropout
# --------------------------------------------------------------------------------------------------

RATE = 0.3


def dropped(
    inputs: jax.Array, index: jax.Array | None = None, *, key: int = 0, rate: float = RATE
) -> jax.Array:
    index = jnp.arange(len(inputs)) if index is None else index
    return ExampleDropout(rate).apply(
        {}, inputs, index, deterministic=False, rngs={"dropout": jax.random.key(key)}
    )


def test_dropout_keeps_the_mean() -> None:
    count = 100_000
    values = np.asarray(dropped(jnp.full((10, count // 10), 2.0)))
    assert set(np.unique(values)) == {np.float32(0), np.float32(2) / np.float32(1 - RATE)}
    # The share of zeros has this standard deviation; a key has been chosen, so there is no luck in it.
    assert abs((values == 0).mean() - RATE) < 3 * (RATE * (1 - RATE) / count) ** 0.5
    assert abs(values.mean() - 2.0) < 0.02


def test_dropout_gives_each_example_its_own_mask() -> None:
    masks = {tuple(row) for row in np.asarray(dropped(jnp.ones((8, 64))) != 0)}
    assert len(masks) == 8


def test_dropout_masks_steps_and_units_each_by_itself() -> None:
    """Dropping a unit at all steps, or all units of a step, would be another method."""
    kept = np.asarray(dropped(jnp.ones((1, 40, 40))) != 0)[0]
    for axis in (0, 1):
        assert not kept.all(axis).any()
        assert kept.any(axis).all()


def test_dropout_depends_on_the_example_not_on_its_batch() -> None:
    """So one device with all examples, and two with half of them each, train the same model."""
    inputs = images(6)
    whole = dropped(inputs)
    halves = [dropped(inputs[:3], jnp.arange(3)), dropped(inputs[3:], jnp.arange(3, 6))]
    assert_equal(jnp.concatenate(halves), whole)
    order = jnp.array([4, 0, 5, 2, 1, 3])
    assert_equal(dropped(inputs[order], order), whole[order])


def test_dropout_masks_come_from_the_key() -> None:
    assert_equal(dropped(images(), key=1), dropped(images(), key=1))
    assert np.any(dropped(images(), key=1) != dropped(images(), key=2))


@pytest.mark.parametrize(("rate", "deterministic"), [(RATE, True), (0.0, False)])
def test_dropout_that_drops_nothing_needs_no_key(rate: float, deterministic: bool) -> None:
    result = ExampleDropout(rate).apply({}, images(), jnp.arange(BATCH), deterministic=deterministic)
    assert_equal(result, images())


def deep(num_layers: int = 2, rate: float = RATE, *, bidirectional: bool = False) -> LSTMClassifier:
    return LSTMClassifier(
        num_layers=num_layers,
        bidirectional=bidirectional,
        dropout_rate=rate,
        **SIZES,
    )


def train_mode(classifier: LSTMClassifier, inputs: jax.Array, key: int = 0, **options: Any) -> Any:
    params = random_params(classifier, inputs)
    rngs = {"dropout": jax.random.key(key)}
    return classifier.apply({"params": params}, inputs, deterministic=False, rngs=rngs, **options)


def test_model_drops_nothing_unless_told() -> None:
    variables = {"params": random_params(deep(), images())}
    assert_equal(deep().apply(variables, images()), deep(rate=0.0).apply(variables, images()))


def test_model_drops_between_layers_only() -> None:
    """Two masks between three layers, differing from each other; none on the way in or out."""
    classifier = deep(3, bidirectional=True)
    logits, state = train_mode(classifier, images(), capture_intermediates=True)
    calls = {name: call["__call__"][0] for name, call in state["intermediates"].items() if "dropout" in name}
    assert set(calls) == {"dropout_0", "dropout_1"}
    kept = {name: np.asarray(call) != 0 for name, call in calls.items()}
    for mask in kept.values():
        assert mask.shape == (BATCH, ROWS, 2 * HIDDEN)
        assert 0.5 < mask.mean() < 0.9
    assert np.any(kept["dropout_0"] != kept["dropout_1"])
    params = random_params(classifier, images())
    first = flax_rnn(HIDDEN).apply({"params": params["lstm_0_forward"]}, images())
    assert_equal(state["intermediates"]["lstm_0_forward"]["__call__"][0], first, **FLOAT32)
    last = {"head": params["head"], **{f"lstm_0_{way}": params[f"lstm_2_{way}"] for way in WAYS}}
    assert_equal(logits, logits_with_flax(last, calls["dropout_1"], 1, True), **FLOAT32)


def test_model_of_one_layer_drops_nothing() -> None:
    """No key is asked for either."""
    classifier = deep(num_layers=1)
    variables = {"params": random_params(classifier, images())}
    expected = classifier.apply(variables, images())
    assert_equal(classifier.apply(variables, images(), deterministic=False), expected)


def test_model_draws_fresh_masks_from_fresh_keys() -> None:
    once, again, other = (train_mode(deep(), images(), key) for key in (1, 1, 2))
    assert_equal(once, again)
    assert np.abs(once - other).max(axis=-1).min() > 0  # for every example


def test_model_asks_for_a_key() -> None:
    variables = {"params": random_params(deep(), images())}
    with pytest.raises(flax.errors.InvalidRngError, match="dropout"):
        deep().apply(variables, images(), deterministic=False)


def test_model_halves_of_a_batch_are_dropped_like_the_whole() -> None:
    whole = train_mode(deep(), images())
    index = jnp.arange(BATCH)
    halves = [
        train_mode(deep(), images()[half], example_index=index[half]) for half in (slice(2), slice(2, 4))
    ]
    assert_equal(jnp.concatenate(halves), whole, **FLOAT32)
    # Without the indices the second half is dropped like a first one: this is what they are for.
    assert np.abs(train_mode(deep(), images()[2:]) - whole[2:]).max() > 100 * FLOAT32["atol"]


# --------------------------------------------------------------------------------------------------
# Images, configuration, examples
# --------------------------------------------------------------------------------------------------


def grey_levels() -> jax.Array:
    """From 0 to 255, both included."""
    levels = np.linspace(0, 255, BATCH * ROWS * COLUMNS).round().astype(np.uint8)
    return jnp.asarray(levels.reshape(BATCH, ROWS, COLUMNS))


def test_the_model_sees_grey_levels_as_0_to_1() -> None:
    params = random_params(deep(), images())
    inputs = np.asarray(grey_levels()).astype(np.float32) / np.float32(255)
    assert (inputs.min(), inputs.max()) == (0.0, 1.0)
    expected = logits_with_flax(params, jnp.asarray(inputs), num_layers=2, bidirectional=False)
    # Without a key nothing is dropped.
    assert_equal(logits_of(deep(), params, grey_levels()), expected, **FLOAT32)


def test_a_key_switches_dropout_on() -> None:
    params = random_params(deep(), images())
    key, index = jax.random.key(5), jnp.array([3, 1, 2, 0])
    actual = logits_of(deep(), params, grey_levels(), example_index=index, dropout_key=key)
    options = {"example_index": index, "deterministic": False, "rngs": {"dropout": key}}
    expected = deep().apply({"params": params}, grey_levels().astype(jnp.float32) / 255, **options)
    assert_equal(actual, expected, **FLOAT32)
    assert np.abs(actual - logits_of(deep(), params, grey_levels())).max() > 100 * FLOAT32["atol"]


def test_every_option_of_the_configuration_reaches_the_model() -> None:
    config = Config.of(
        hidden_size=12,
        num_layers=3,
        bidirectional=True,
        dropout_rate=0.25,
        forget_bias=0.5,
        implementation="unrolled",
        dtype="bfloat16",
    )
    assert build_model(config.model, num_classes=4) == LSTMClassifier(
        hidden_size=12,
        num_classes=4,
        num_layers=3,
        bidirectional=True,
        dropout_rate=0.25,
        forget_bias=0.5,
        implementation="unrolled",
        dtype=jnp.dtype("bfloat16"),
    )


def test_the_configuration_and_the_model_have_the_same_defaults() -> None:
    assert build_model(Config().model) == LSTMClassifier(dtype=jnp.dtype("float32"))


def test_the_examples_in_the_documentation() -> None:
    assert doctest.testmod(model) == doctest.TestResults(failed=0, attempted=6)

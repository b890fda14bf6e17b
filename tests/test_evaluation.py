"""Evaluation scores every example exactly once, however they fall into batches and on devices."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from lstm_jax import LSTMClassifier, evaluation
from lstm_jax.data.dataset import MemorySplit
from lstm_jax.devices import make_mesh
from lstm_jax.evaluation import Evaluation

MODEL = LSTMClassifier(hidden_size=5)

# float32 logits of up to 10, whose rounding the exponential turns into a relative one.
PROBABILITY_TOLERANCE = 1e-4


@pytest.fixture(scope="module")
def params() -> dict:
    variables = MODEL.init(jax.random.key(1), jnp.zeros((1, 28, 28)))
    # Larger weights than at the start, so that the predictions spread over the classes.
    return jax.tree.map(lambda leaf: 5 * leaf, variables["params"])


def split_of(count: int) -> MemorySplit:
    rng = np.random.default_rng(count)
    images = rng.integers(0, 256, (count, 28, 28), dtype=np.uint8)
    return MemorySplit(images, rng.integers(0, 10, count, dtype=np.int32))


@pytest.mark.parametrize("devices", [1, 2])
@pytest.mark.parametrize(("count", "batch_size"), [(1, 4), (7, 4), (8, 4), (23, 5), (23, 1000)])
def test_every_example_counts_once(
    params: dict, count: int, batch_size: int, devices: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Peers drop the last batch, or weigh a short one like a full one; an odd count shows both.
    monkeypatch.setattr(evaluation, "BATCH_SIZE", batch_size)
    split, mesh = split_of(count), make_mesh(devices=devices, batch_size=devices)
    result = evaluation.evaluate(evaluation.compile_score(MODEL, mesh), params, split, mesh=mesh)

    logits = MODEL.apply({"params": params}, jnp.asarray(split.images, jnp.float32) / 255)
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, split.labels)
    predicted = np.argmax(logits, axis=-1)
    np.testing.assert_allclose(result.loss, np.mean(np.asarray(losses, np.float64)), rtol=1e-5)
    assert result.accuracy == np.mean(predicted == split.labels)
    assert result.confusion.sum() == count
    for true, named in [(0, 0), (3, 5), (9, 1)]:
        assert result.confusion[true, named] == np.sum((split.labels == true) & (predicted == named))


def test_nothing_is_compiled_for_the_last_batch(params: dict, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evaluation, "BATCH_SIZE", 4)
    mesh = make_mesh(devices=1, batch_size=1)
    score = evaluation.compile_score(MODEL, mesh)
    score.clear_cache()
    evaluation.evaluate(score, params, split_of(11), mesh=mesh)
    assert score._cache_size() == 1


@pytest.mark.parametrize("devices", [1, 2])
def test_predictions_are_in_the_order_of_the_split(
    params: dict, devices: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(evaluation, "BATCH_SIZE", 4)
    split, mesh = split_of(11), make_mesh(devices=devices, batch_size=devices)
    result = evaluation.predict(evaluation.compile_predict(MODEL, mesh), params, split, mesh=mesh)

    logits = np.asarray(MODEL.apply({"params": params}, jnp.asarray(split.images, jnp.float32) / 255), float)
    probability = np.exp(logits) / np.sum(np.exp(logits), axis=1, keepdims=True)
    np.testing.assert_allclose(result.probability, probability, rtol=PROBABILITY_TOLERANCE)
    np.testing.assert_array_equal(result.label, split.labels)
    losses = -np.log(probability[np.arange(11), split.labels])
    np.testing.assert_allclose(result.loss, losses, rtol=PROBABILITY_TOLERANCE)


def test_figures_of_a_confusion_matrix() -> None:
    result = Evaluation(0.5, np.array([[3, 1, 0], [0, 0, 0], [2, 0, 2]]))
    assert result.accuracy == 5 / 8
    np.testing.assert_array_equal(result.class_accuracy, [0.75, np.nan, 0.5])

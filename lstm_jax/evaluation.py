"""The score of a model: loss, accuracy and confusion matrix; every example counts exactly once."""

import dataclasses
from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Float, Float32, Int, Int32, UInt8

from lstm_jax import devices
from lstm_jax.config import NUM_CLASSES
from lstm_jax.data.dataset import Split
from lstm_jax.model import LSTMClassifier, Params, logits_of

# Examples per call: large enough for the call itself to cost nothing, small enough for any memory.
BATCH_SIZE = 1000


# How many examples of class i (row) were classified as j (column).
Confusion: TypeAlias = Int[np.ndarray, "classes classes"]


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """The score of a model on a split.

    Attributes:
        loss: mean softmax cross-entropy in nats.
        confusion: how many examples of class i (row) were classified as j (column).
    """

    loss: float
    confusion: Confusion

    @property
    def accuracy(self) -> float:
        """Share of correctly classified examples, from 0 to 1."""
        return float(np.trace(self.confusion) / np.sum(self.confusion))

    @property
    def class_accuracy(self) -> Float[np.ndarray, " classes"]:
        """Accuracy within each class; NaN for a class without examples."""
        totals = np.sum(self.confusion, axis=1)
        return np.divide(np.diag(self.confusion), totals, out=np.full(len(totals), np.nan), where=totals > 0)


class Predictions(NamedTuple):
    """The predictions of a model for each example of a split, in the split's order.

    Attributes:
        loss: softmax cross-entropy in nats.
        probability: of each class.
        label: the true class.
    """

    loss: Float32[np.ndarray, " examples"]
    probability: Float32[np.ndarray, "examples classes"]
    label: Int32[np.ndarray, " examples"]


# Of (params, images, labels), with each example's label last.
Score: TypeAlias = Callable[[Params, Array, Array], tuple[Array, Array, Array]]

# The label of the padding of a last batch.
NO_EXAMPLE = -1


@lru_cache(maxsize=devices.REMEMBERED)
def compile_score(model: LSTMClassifier, mesh: Mesh) -> Score:
    """Make the function (params, images, labels) -> (loss, predicted class, label) of each example.

    The devices share the examples; the number of examples must be a multiple of that of the devices. Every
    device, of every process, gets all results.
    """

    def score(logits: Float32[Array, "batch classes"]) -> Int32[Array, " batch"]:
        return jnp.argmax(logits, axis=-1).astype(jnp.int32)

    return _compile(model, mesh, score)


@lru_cache(maxsize=devices.REMEMBERED)
def compile_predict(model: LSTMClassifier, mesh: Mesh) -> Score:
    """Make the function (params, images, labels) -> (loss, probabilities, label), as `compile_score` does."""
    return _compile(model, mesh, jax.nn.softmax)


def _compile(model: LSTMClassifier, mesh: Mesh, answer: Callable[[Array], Array]) -> Score:
    def score(
        params: Params, images: UInt8[Array, "batch 28 28"], labels: Int32[Array, " batch"]
    ) -> tuple[Float32[Array, " whole"], Array, Int32[Array, " whole"]]:
        logits = logits_of(model, params, images)
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
        whole = jax.lax.all_gather((losses, answer(logits), labels), devices.DATA_AXIS, tiled=True)
        return whole[0], whole[1], whole[2]

    shared = P(devices.DATA_AXIS)
    return devices.over_devices(score, mesh, in_specs=(P(), shared, shared))


def evaluate(
    score: Score, params: Params, split: Split, *, mesh: Mesh, num_classes: int = NUM_CLASSES
) -> Evaluation:
    """Score every example of a split exactly once.

    The host sums up in float64: the result does not depend on how the examples fall into batches.

    Args:
        score: what `compile_score` made.
        params: the model's parameters.
        split: the examples.
        mesh: the devices that ``score`` was made for.
        num_classes: number of classes.
    """
    total_loss, confusion = 0.0, np.zeros((num_classes, num_classes), np.int64)
    for losses, predicted, labels in _scored(score, params, split, mesh):
        total_loss += float(np.sum(losses, dtype=np.float64))
        np.add.at(confusion, (labels, predicted), 1)
    return Evaluation(total_loss / len(split), confusion)


def predict(score: Score, params: Params, split: Split, *, mesh: Mesh) -> Predictions:
    """Predict every example of a split.

    Args:
        score: what `compile_predict` made.
        params: the model's parameters.
        split: the examples.
        mesh: the devices that ``score`` was made for.
    """
    batches = zip(*_scored(score, params, split, mesh), strict=True)
    return Predictions(*(np.concatenate(results) for results in batches))


def _scored(score: Score, params: Params, split: Split, mesh: Mesh) -> Iterator[list[Any]]:
    """Yield the results of every example, batch by batch.

    The last batch is padded to the size of the others, so that nothing is compiled twice; the padding is
    left out of the results. Each process loads its own share.
    """
    batch_size = -(-BATCH_SIZE // mesh.size) * mesh.size
    rows = devices.own_rows(batch_size)
    for own in split.batches(batch_size, rows=rows):
        filled = (_fill(own.image, rows, 0), _fill(own.label, rows, NO_EXAMPLE))
        image, label = (devices.place(mesh, array, P(devices.DATA_AXIS)) for array in filled)
        results = [np.asarray(result) for result in score(params, image, label)]
        real = results[-1] != NO_EXAMPLE
        yield [result[real] for result in results]


def _fill(array: np.ndarray, rows: slice, value: int) -> np.ndarray:
    missing = rows.stop - rows.start - len(array)
    widths = [(0, missing)] + [(0, 0)] * (array.ndim - 1)
    return np.pad(array, widths, constant_values=value) if missing else array

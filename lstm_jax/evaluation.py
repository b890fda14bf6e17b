"""How good a model is: loss, accuracy and confusion matrix, every example scored exactly once."""

import dataclasses
from collections.abc import Callable
from typing import TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Float, Float32, Int, Int32, UInt8

from lstm_jax import runtime
from lstm_jax.data import Split
from lstm_jax.idx import NUM_CLASSES
from lstm_jax.model import LSTMClassifier, Params, logits_of

# Examples per call: large enough for the call itself to cost nothing, small enough for any memory.
BATCH_SIZE = 1000


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """The score of a model on a split.

    Attributes:
        loss: mean softmax cross-entropy in nats.
        confusion: how often class i (row) was named j (column).
    """

    loss: float
    confusion: Int[np.ndarray, "classes classes"]

    @property
    def accuracy(self) -> float:
        """Share of the examples named rightly, from 0 to 1."""
        return float(np.trace(self.confusion) / np.sum(self.confusion))

    @property
    def class_accuracy(self) -> Float[np.ndarray, " classes"]:
        """Accuracy within each class; NaN for a class without examples."""
        totals = np.sum(self.confusion, axis=1)
        return np.divide(np.diag(self.confusion), totals, out=np.full(len(totals), np.nan), where=totals > 0)


Score: TypeAlias = Callable[[Params, Array, Array], tuple[Array, Array, Array]]

# The label of what fills up a last batch.
NO_EXAMPLE = -1


def compile_score(model: LSTMClassifier, mesh: Mesh) -> Score:
    """Make the function (params, images, labels) -> (loss, predicted class, label) of each example.

    The examples are shared out over the devices; the number of them must be a multiple of these. Every
    device, of every process, gets all results.
    """

    def score(
        params: Params, images: UInt8[Array, "batch 28 28"], labels: Int32[Array, " batch"]
    ) -> tuple[Float32[Array, " whole"], Int32[Array, " whole"], Int32[Array, " whole"]]:
        logits = logits_of(model, params, images)
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
        predicted = jnp.argmax(logits, axis=-1).astype(jnp.int32)
        whole = jax.lax.all_gather((losses, predicted, labels), runtime.DATA_AXIS, tiled=True)
        return whole[0], whole[1], whole[2]

    shared = P(runtime.DATA_AXIS)
    return runtime.over_devices(score, mesh, in_specs=(P(), shared, shared))


def evaluate(
    score: Score, params: Params, split: Split, *, mesh: Mesh, num_classes: int = NUM_CLASSES
) -> Evaluation:
    """Score every example of a split exactly once.

    The last batch is filled up to the size of the others, so that nothing is compiled twice, and what
    fills it is left out of the score. Each process loads its own share. Sums are taken in float64 on
    the host: the result does not depend on how the examples fall into batches.

    Args:
        score: what `compile_score` made.
        params: the model's parameters.
        split: the examples.
        mesh: the devices that ``score`` was made for.
        num_classes: number of classes.
    """
    batch_size = -(-BATCH_SIZE // mesh.size) * mesh.size
    rows = runtime.own_rows(batch_size)
    total_loss, confusion = 0.0, np.zeros((num_classes, num_classes), np.int64)
    for own in split.batches(batch_size, rows=rows):
        filled = (_fill(own.image, rows, 0), _fill(own.label, rows, NO_EXAMPLE))
        image, label = (runtime.place(mesh, array, P(runtime.DATA_AXIS)) for array in filled)
        losses, predicted, labels = (np.asarray(result) for result in score(params, image, label))
        real = labels != NO_EXAMPLE
        total_loss += float(np.sum(losses[real], dtype=np.float64))
        np.add.at(confusion, (labels[real], predicted[real]), 1)
    return Evaluation(total_loss / len(split), confusion)


def _fill(array: np.ndarray, rows: slice, value: int) -> np.ndarray:
    missing = rows.stop - rows.start - len(array)
    widths = [(0, missing)] + [(0, 0)] * (array.ndim - 1)
    return np.pad(array, widths, constant_values=value) if missing else array


def as_text(evaluation: Evaluation) -> str:
    """An evaluation as a page of text: loss, accuracy, accuracy per class, confusion matrix."""
    confusion = evaluation.confusion
    width = max(5, len(str(confusion.max())) + 1)
    classes = range(len(confusion))
    lines = [
        f"loss {evaluation.loss:.4f}",
        f"accuracy {evaluation.accuracy:.2%} ({np.trace(confusion):,} of {np.sum(confusion):,})",
        "",
        "accuracy per class",
        *(
            f"{name:3d} {accuracy:8.2%}"
            for name, accuracy in zip(classes, evaluation.class_accuracy, strict=True)
        ),
        "",
        "confusion matrix (row: true class, column: named class)",
        "   " + "".join(f"{name:{width}d}" for name in classes),
        *(f"{name:3d}" + "".join(f"{count:{width}d}" for count in row) for name, row in enumerate(confusion)),
    ]
    return "\n".join(lines)

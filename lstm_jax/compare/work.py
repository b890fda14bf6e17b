"""The work that all frameworks get: initial weights, and batches of real digits in a fixed order."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float32, Int32, UInt8

from lstm_jax.benchmark.size import Size
from lstm_jax.compare.adapter import NUM_CLASSES, Params
from lstm_jax.data.dataset import MemorySplit, Split, epoch_order
from lstm_jax.exchange.layouts import Joined, split_gates

WHITE = np.float32(255)
FORGET_BIAS = 1.0


class Examples(NamedTuple):
    """Images of grey levels 0 to 255, and their classes."""

    images: UInt8[np.ndarray, "examples rows pixels"]
    labels: Int32[np.ndarray, " examples"]

    @classmethod
    def of(cls, split: Split) -> "Examples":
        """The examples of a split that is held in memory."""
        assert isinstance(split, MemorySplit)
        return cls(split.images, split.labels)


class Batches(NamedTuple):
    """Batches with values from 0 to 1, one for each step, and their classes."""

    images: Float32[np.ndarray, "steps batch time inputs"]
    labels: Int32[np.ndarray, "steps batch"]


def initial_params(size: Size, *, seed: int) -> Params:
    """Weights like those that `LSTMClassifier` draws, but drawn by NumPy.

    A kernel of a gate, of shape (n, m), is uniform within +-sqrt(6 / (n + m)) (Glorot & Bengio 2010); the
    biases are zero, but one in the forget gate; the head's kernel is normal with variance 1 / H.
    """
    rng = np.random.Generator(np.random.Philox(key=[seed, 0]))

    def gates(rows: int) -> Float32[np.ndarray, "rows gates"]:
        limit = (6 / (rows + size.hidden)) ** 0.5
        return rng.uniform(-limit, limit, (rows, 4 * size.hidden)).astype(np.float32)

    bias = np.repeat(np.array([0, FORGET_BIAS, 0, 0], np.float32), size.hidden)
    head = rng.standard_normal((size.hidden, NUM_CLASSES)) / size.hidden**0.5
    return {
        "lstm_0_forward": {"cell": split_gates(Joined(gates(size.inputs), gates(size.hidden), bias))},
        "head": {"kernel": head.astype(np.float32), "bias": np.zeros(NUM_CLASSES, np.float32)},
    }


def epoch_batches(
    examples: Examples, size: Size, *, seed: int, first: int, steps: int, steps_per_epoch: int
) -> Batches:
    """Steps of a run, each with digits drawn in its epoch's order; a sequence is a whole digit.

    Args:
        examples: the digits.
        size: how many of them make a batch.
        seed: fixes the order of all epochs.
        first: the number of the first step in the run.
        steps: how many.
        steps_per_epoch: steps of an epoch; digits beyond them are left out of it.
    """
    epochs = range(first // steps_per_epoch, (first + steps - 1) // steps_per_epoch + 1)
    used = steps_per_epoch * size.batch
    orders = np.concatenate([epoch_order(seed, epoch, len(examples.labels))[:used] for epoch in epochs])
    start = (first - epochs[0] * steps_per_epoch) * size.batch
    chosen = orders[start : start + steps * size.batch].reshape(steps, size.batch)
    return Batches(examples.images[chosen] / WHITE, examples.labels[chosen])


def row_batches(examples: Examples, size: Size, *, steps: int) -> Batches:
    """Steps with sequences of any length: the rows of shuffled digits, one digit below the other.

    A sequence of 28 rows is a digit, a shorter one the middle of one (the upper rows are black), a longer one
    has several below each other; its class is that of the first. Where there are not enough digits, they
    come again.
    """
    rows = examples.images.shape[1]
    digits = -(-size.time // rows)  # digits that a sequence needs
    order = epoch_order(0, 0, len(examples.labels))
    numbers = np.resize(order, (steps, size.batch, digits))
    sequences = examples.images[numbers].reshape(steps, size.batch, digits * rows, -1)
    first = max(0, rows - size.time) // 2
    sequences = sequences[:, :, first : first + size.time]
    return Batches(sequences / WHITE, examples.labels[numbers[..., 0]])


def test_batches(examples: Examples, *, batch: int) -> Batches:
    """All examples in their order, in batches of a size that divides their number."""
    images = examples.images.reshape(-1, batch, *examples.images.shape[1:])
    return Batches(images / WHITE, examples.labels.reshape(-1, batch))

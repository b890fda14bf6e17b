"""The work of all frameworks: initial weights, and batches in a fixed order."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float32, Int32, UInt8

from lstm_jax.compare.adapter import NUM_CLASSES
from lstm_jax.compare.size import Size
from lstm_jax.data.dataset import MemorySplit, Split, epoch_order
from lstm_jax.exchange.layouts import Joined, Params, split_gates

WHITE = np.float32(255)


class Digits(NamedTuple):
    """Images of grey levels 0 to 255, and their classes."""

    images: UInt8[np.ndarray, "examples rows pixels"]
    labels: Int32[np.ndarray, " examples"]

    @classmethod
    def of(cls, split: Split) -> "Digits":
        """Return the examples of a split in memory."""
        assert isinstance(split, MemorySplit)
        return cls(split.images, split.labels)


class Batches(NamedTuple):
    """Batches with values from 0 to 1, one for each step, and their classes."""

    images: Float32[np.ndarray, "steps batch time inputs"]
    labels: Int32[np.ndarray, "steps batch"]

    def first(self, *, batch: int | None = None) -> "Batches":
        """Return the first batch only, or its first ``batch`` examples."""
        return Batches(*(array[:1, :batch] for array in self))


def initial_params(size: Size, *, seed: int, remember: bool = False) -> Params:
    """Draw weights from the distributions of `LSTMClassifier`, with NumPy.

    The kernel of a gate, of shape (n, m), is uniform within +-sqrt(6 / (n + m)) (Glorot & Bengio 2010). The
    biases are one in the forget gate, and else zero. The head's kernel is normal with variance 1 / H.

    With ``remember``, biases are log(T) at the forget gates and -log(T) at the input gates, so that cells
    remember for about the length of a sequence (Tallec & Ollivier 2018, arXiv 1804.11188). Otherwise, in long
    sequences, gradients of early steps are denormal numbers, which slow PyTorch down, and are zero for XLA.
    """
    rng = np.random.Generator(np.random.Philox(key=[seed, 0]))

    def gates(rows: int) -> Float32[np.ndarray, "rows gates"]:
        limit = (6 / (rows + size.hidden)) ** 0.5
        return rng.uniform(-limit, limit, (rows, 4 * size.hidden)).astype(np.float32)

    per_gate = [-np.log(size.time), np.log(size.time), 0, 0] if remember else [0, 1, 0, 0]
    bias = np.repeat(np.array(per_gate, np.float32), size.hidden)
    head = rng.standard_normal((size.hidden, NUM_CLASSES)) / size.hidden**0.5
    return {
        "lstm_0_forward": {"cell": split_gates(Joined(gates(size.inputs), gates(size.hidden), bias))},
        "head": {"kernel": head.astype(np.float32), "bias": np.zeros(NUM_CLASSES, np.float32)},
    }


def noise_batches(size: Size, steps: int) -> Batches:
    """Make batches of normal random numbers and random classes, the same every time."""
    rng = np.random.default_rng(0)
    images = rng.standard_normal((steps, *size[1:]), np.float32)
    return Batches(images, rng.integers(0, NUM_CLASSES, (steps, size.batch), np.int32))


def row_batches(digits: Digits, size: Size, steps: int) -> Batches:
    """Make batches of sequences of any length from the rows of shuffled digits.

    A sequence of 28 rows is a digit. A shorter one is the middle of a digit (the upper rows are black). A
    longer one has several digits below each other, and the class of the first. If there are not enough
    digits, they repeat.
    """
    rows = digits.images.shape[1]
    needed = -(-size.time // rows)  # digits that a sequence needs
    order = epoch_order(0, 0, len(digits.labels))
    numbers = np.resize(order, (steps, size.batch, needed))
    sequences = digits.images[numbers].reshape(steps, size.batch, needed * rows, -1)
    first = max(0, rows - size.time) // 2
    sequences = sequences[:, :, first : first + size.time]
    return Batches(sequences / WHITE, digits.labels[numbers[..., 0]])


def epoch_batches(
    digits: Digits, size: Size, *, seed: int, first: int, steps: int, steps_per_epoch: int
) -> Batches:
    """Make the batches of a run from step ``first`` on, of whole digits in the order of each epoch.

    An epoch leaves out the digits beyond ``steps_per_epoch``.
    """
    epochs = range(first // steps_per_epoch, (first + steps - 1) // steps_per_epoch + 1)
    used = steps_per_epoch * size.batch
    orders = np.concatenate([epoch_order(seed, epoch, len(digits.labels))[:used] for epoch in epochs])
    start = (first - epochs[0] * steps_per_epoch) * size.batch
    chosen = orders[start : start + steps * size.batch].reshape(steps, size.batch)
    return Batches(digits.images[chosen] / WHITE, digits.labels[chosen])


def test_batches(digits: Digits, *, batch: int) -> Batches:
    """Make batches of all digits in order; the batch size must divide their number."""
    images = digits.images.reshape(-1, batch, *digits.images.shape[1:])
    return Batches(images / WHITE, digits.labels.reshape(-1, batch))

"""The tasks: what the LSTM sees of an image, pixel by pixel, and the two permutations in use."""

import jax
import numpy as np
import pytest

from lstm_jax import LSTMClassifier
from lstm_jax.config import SEQUENCE_LENGTHS, Config
from lstm_jax.model import as_sequence, permutation
from lstm_jax.training import build_model

ROWS, COLUMNS = 3, 5


def images() -> np.ndarray:
    """Every pixel differs from every other."""
    pixels = np.random.default_rng(0).permutation(2 * ROWS * COLUMNS)
    return pixels.reshape(2, ROWS, COLUMNS).astype(np.float32)


def sequences(task: str, seed: int | str = 92916) -> np.ndarray:
    return np.asarray(as_sequence(jax.numpy.asarray(images()), task, seed))


def test_rows_and_columns() -> None:
    np.testing.assert_array_equal(sequences("rows"), images())
    for t in range(COLUMNS):
        np.testing.assert_array_equal(sequences("columns")[:, t], images()[:, :, t])


def test_pixels_come_row_after_row() -> None:
    actual = sequences("pixels")
    assert actual.shape == (2, ROWS * COLUMNS, 1)
    for row in range(ROWS):
        for column in range(COLUMNS):
            np.testing.assert_array_equal(actual[:, row * COLUMNS + column, 0], images()[:, row, column])


@pytest.mark.parametrize("seed", [92916, 7, "bit-reversal"])
def test_permuted_pixels_come_in_the_order_of_the_permutation(seed: int | str) -> None:
    actual, order = sequences("permuted", seed), permutation(ROWS * COLUMNS, seed)
    for t, pixel in enumerate(order):
        np.testing.assert_array_equal(actual[:, t, 0], images()[:, pixel // COLUMNS, pixel % COLUMNS])
    assert not np.array_equal(actual, sequences("pixels"))


def legacy_permutation(count: int, seed: int) -> list[int]:
    """NumPy's legacy shuffle, from the raw numbers of its Mersenne Twister: Fisher and Yates from the end.

    An index up to ``most`` is a 32-bit number cut down to as many bits as it needs, drawn again if it is
    too large.
    """
    twister = np.random.MT19937()
    twister._legacy_seeding(seed)
    order = list(range(count))
    for most in range(count - 1, 0, -1):
        mask = 2 ** most.bit_length() - 1
        while (index := int(twister.random_raw()) & mask) > most:
            pass
        order[most], order[index] = order[index], order[most]
    return order


def test_the_permutation_is_that_of_numpy_s_random_state() -> None:
    assert permutation(784, 92916).tolist() == legacy_permutation(784, 92916)
    assert permutation(784, 1).tolist() == legacy_permutation(784, 1)
    assert permutation(784, 1).dtype == np.int32


def bit_reversal_by_halving(count: int) -> list[int]:
    """As in the code of S4: put the second half of each column beside the first, again and again."""
    columns = np.arange(2 ** int(np.ceil(np.log2(count))))[:, None]
    while len(columns) > 1:
        half = len(columns) // 2
        columns = np.hstack([columns[:half], columns[half:]])
    return [int(index) for index in columns[0] if index < count]


@pytest.mark.parametrize("count", [2, 7, 8, 784])
def test_bit_reversal(count: int) -> None:
    assert permutation(count, "bit-reversal").tolist() == bit_reversal_by_halving(count)


def test_other_names_are_refused() -> None:
    with pytest.raises(ValueError, match="task: got 'spiral', expected rows, columns, pixels or permuted"):
        sequences("spiral")
    with pytest.raises(ValueError, match="permutation_seed: got 'random', expected a whole number"):
        permutation(4, "random")


@pytest.mark.parametrize("task", SEQUENCE_LENGTHS)
def test_the_classifier_reads_the_sequence_of_its_task(task: str) -> None:
    inputs = jax.numpy.asarray(np.random.default_rng(1).random((2, 28, 28)), np.float32)
    model = LSTMClassifier(hidden_size=3, task=task, implementation="scan")
    variables = model.init(jax.random.key(0), inputs)
    seen = as_sequence(inputs, task, 92916)
    assert seen.shape[1] == SEQUENCE_LENGTHS[task]
    plain = LSTMClassifier(hidden_size=3, implementation="scan")
    np.testing.assert_array_equal(model.apply(variables, inputs), plain.apply(variables, seen))


def test_the_configuration_reaches_the_model() -> None:
    model = build_model(Config.of(task="permuted", permutation_seed="bit-reversal").model)
    assert (model.task, model.permutation_seed) == ("permuted", "bit-reversal")

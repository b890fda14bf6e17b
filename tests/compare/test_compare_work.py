"""What frameworks compute in a comparison: sequences, initial weights, numbers of steps."""

import numpy as np
from lstm_jax.benchmark.size import Size

from lstm_jax.compare import comparison, measuring, work
from lstm_jax.compare.work import Examples, initial_params, row_batches
from tests.helpers.small_comparison import SIZE


def test_sequences_of_any_length_are_rows_of_digits(digits: Examples) -> None:
    order = np.random.Generator(np.random.Philox(key=[0, 0])).permutation(60)
    middle = row_batches(digits, SIZE, steps=2)
    assert middle.images.shape == (2, 4, 5, 28)
    np.testing.assert_array_equal(middle.images[1, 2], digits.images[order[6], 11:16] / np.float32(255))
    assert middle.labels[1, 2] == digits.labels[order[6]]
    # 30 rows: a digit, and two rows of the next one; of 60 digits, 20 steps need them several times.
    longer = row_batches(digits, SIZE._replace(time=30), steps=20)
    first, second = digits.images[order[2]], digits.images[order[3]]
    rows = np.concatenate([first, second[:2]]) / np.float32(255)
    np.testing.assert_array_equal(longer.images[0, 1], rows)
    assert longer.labels[0, 1] == digits.labels[order[2]]
    assert longer.images.dtype == np.float32


def test_initial_weights_are_fixed_by_the_seed_and_have_the_right_size() -> None:
    size = Size(hidden=50, batch=1, time=1, inputs=30)
    cell = initial_params(size, seed=1)["lstm_0_forward"]["cell"]
    limits = {"i": (6 / 80) ** 0.5, "h": (6 / 100) ** 0.5}
    for kind, limit in limits.items():
        for gate in "ifgo":
            kernel = cell[f"{kind}{gate}"]["kernel"]
            assert 0.95 * limit < np.abs(kernel).max() <= limit
            assert abs(kernel.mean()) < 0.05 * limit
    assert [cell[f"h{gate}"]["bias"][0] for gate in "ifgo"] == [0, 1, 0, 0]
    again, other = initial_params(size, seed=1), initial_params(size, seed=2)
    np.testing.assert_array_equal(cell["ii"]["kernel"], again["lstm_0_forward"]["cell"]["ii"]["kernel"])
    assert np.any(cell["ii"]["kernel"] != other["lstm_0_forward"]["cell"]["ii"]["kernel"])


def test_the_test_set_comes_whole_and_in_order(digits: Examples) -> None:
    batches = work.test_batches(digits, batch=20)
    assert batches.images.shape == (3, 20, 28, 28)
    np.testing.assert_array_equal(batches.labels.ravel(), digits.labels)


def test_the_number_of_steps_keeps_the_arithmetic() -> None:
    assert measuring.steps_for(comparison.TUTORIAL, reference=comparison.TUTORIAL, steps=100) == 100
    larger = comparison.TUTORIAL._replace(batch=512)
    assert measuring.steps_for(larger, reference=comparison.TUTORIAL, steps=100) == 25
    assert measuring.steps_for(larger._replace(hidden=512), reference=comparison.TUTORIAL, steps=100) == 2
    # However small, a call takes no more than so many steps.
    assert measuring.steps_for(SIZE, reference=comparison.TUTORIAL, steps=100) == measuring.MOST_STEPS

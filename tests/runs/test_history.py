"""What past epochs decide, against a plain loop over them."""

from typing import Any

import numpy as np
import pytest

from lstm_jax.config import Config
from lstm_jax.runs.history import best_of, epochs_without_better, loss_sums, of_each_seed, steps_to_keep


def histories(seeds: int, epochs: int) -> list[dict[str, Any]]:
    """Random records, with accuracies that are often equal, and epochs of three steps."""
    rng = np.random.default_rng([seeds, epochs])
    accuracies = rng.integers(0, 4, (epochs, seeds)) / 4
    records = []
    for epoch, row in enumerate(accuracies.tolist(), start=1):
        each = [{"validation_accuracy": value, "train_loss": rng.uniform()} for value in row]
        figures = each[0] if seeds == 1 else {"validation_accuracy": float(np.mean(row)), "per_seed": each}
        records.append({"epoch": epoch, "step": 3 * epoch, **figures})
    return records


def best_epochs(accuracies: np.ndarray) -> list[int]:
    """By a loop: of each column the first row that no other exceeds, from 1."""
    best = []
    for column in accuracies.T:
        found = 0
        for row, value in enumerate(column):
            found = row if value > column[found] else found
        best.append(found + 1)
    return best


@pytest.mark.parametrize("seeds", [1, 3])
@pytest.mark.parametrize("epochs", range(1, 9))
def test_the_best_epochs_decide(seeds: int, epochs: int) -> None:
    config, history = Config.of(seeds=seeds), histories(seeds, epochs)
    each = of_each_seed(config, history)
    accuracies = np.array([[record["validation_accuracy"] for record in own] for own in each]).T
    best = best_epochs(accuracies)
    assert [best_of(own)["epoch"] for own in each] == best
    assert epochs_without_better(config, history) == epochs - max(best)
    before = best_epochs(accuracies[:-1]) if epochs > 1 else []
    assert steps_to_keep(config, history) == {3 * epoch for epoch in (*best, *before)}


def test_without_validation_nothing_is_best() -> None:
    history = [{**record, "validation_accuracy": None} for record in histories(1, 3)]
    for records in (history, []):
        assert best_of(records) is None
        assert epochs_without_better(Config.of(train_on_all=True), records) == 0
        assert steps_to_keep(Config.of(train_on_all=True), records) == frozenset()


@pytest.mark.parametrize("seeds", [1, 3])
def test_sums_of_losses_come_back_bit_by_bit(seeds: int) -> None:
    rng = np.random.default_rng(seeds)
    for steps in rng.integers(1, 2000, 200).tolist():
        sums = rng.uniform(0, 500, seeds).astype(np.float32)
        means = [{"train_loss": total / steps} for total in sums.tolist()]
        record = means[0] if seeds == 1 else {"per_seed": means}
        found = np.array(loss_sums(Config.of(seeds=seeds), [record], steps), np.float32)
        np.testing.assert_array_equal(found, sums)

"""A comparison of a second or two: a small size, few steps, and digits that are none."""

from collections.abc import Callable
from typing import Any

import numpy as np
from lstm_jax.benchmark.size import Size
from lstm_jax.compare.options import Compare

from lstm_jax.compare import parity
from lstm_jax.compare.comparison import Effort
from lstm_jax.compare.processes import Process
from lstm_jax.compare.work import Examples, initial_params, row_batches

SIZE = Size(hidden=3, batch=4, time=5, inputs=28)
OPTIONS = Compare(hidden_size=3, batch_size=4, time_steps=5, scaling=False)
EFFORT = Effort(curve_steps=4, steps=3, rounds=3, scaling_steps=2, scaling_rounds=2)

# The fixture `start`: starts a fake framework by its name.
StartProcess = Callable[[str], Process]


def few_digits() -> Examples:
    """Not digits, but as many classes, and every row differs."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (60, 28, 28), np.uint8)
    return Examples(images, rng.integers(0, 10, 60, np.int32))


def check(process: Process, digits: Examples) -> Any:
    """What is found of the parity of a framework that has just been started."""
    params, batches = initial_params(SIZE, seed=0), row_batches(digits, SIZE, steps=4)
    right = parity.verdict(params, batches)
    return parity.compare_training(process, SIZE, params, batches, right)

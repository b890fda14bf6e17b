"""How long a framework takes to learn, in a process of its own for every run."""

import math
from collections.abc import Callable

import numpy as np

from lstm_jax.benchmark.size import Size
from lstm_jax.compare.processes import Process
from lstm_jax.compare.results import Learning
from lstm_jax.compare.work import Batches, Examples, epoch_batches, initial_params, test_batches
from lstm_jax.compare.worker import TRAIN, Sample

# The tutorial's.
RECIPE_RATE = 0.01

# Accuracy is taken so often in an epoch. Of 55,000 images in batches of 128 each part has 143 steps.
PARTS = 3

# Images per call when accuracy is taken; it divides the number of test images.
TEST_BATCH = 1000


def learn(
    start: Callable[[], Process],
    size: Size,
    train: Examples,
    test: Examples,
    *,
    seed: int,
    epochs: int,
    threads: int | None = None,
) -> Learning:
    """Train from the start of a process on, and take the test accuracy after every part of an epoch.

    All parts have the same number of steps, so that nothing is compiled twice; what does not fill them at
    the end of an epoch is left out.

    Args:
        start: starts the framework's process.
        size: of the model and its batches.
        train: the digits to learn.
        test: the digits to know.
        seed: fixes initial weights and order.
        epochs: how many.
        threads: the number that suits the framework best; None if it chooses by itself.

    Raises:
        FrameworkError: if the framework fails.
    """
    steps = steps_of_part(size, train)
    params = initial_params(size, seed=seed)
    tests = test_batches(test, batch=math.gcd(TEST_BATCH, len(test.labels)))
    taken, accuracy = [], []
    with start() as process:
        ready = process.call("build", size, params, RECIPE_RATE) - process.started
        if threads is not None:
            process.call("set_threads", TRAIN, threads)
        process.call("load", "test", *tests)
        for epoch in range(epochs):
            for part in range(PARTS):
                batches = epoch_batches(train, size, seed=seed, epoch=epoch, first=part * steps, steps=steps)
                loading: float = process.call("load", "chunk", *batches)
                sample: Sample = process.call("time_once", "chunk")
                taken.append(loading + sample.seconds)
                accuracy.append(_accuracy(process.call("infer", "test"), tests))
    # The first part has compilation in it; the others, of equal length, say how much.
    usual = float(np.median(taken[1:]))
    first_step_seconds = max(0.0, taken[0] - usual)
    seconds = np.cumsum([taken[0] - first_step_seconds, *taken[1:]])
    return Learning(
        seed=seed,
        start_seconds=ready,
        first_step_seconds=first_step_seconds,
        steps=tuple(steps * (number + 1) for number in range(len(taken))),
        seconds=tuple(map(float, seconds)),
        accuracy=tuple(accuracy),
    )


def steps_of_part(size: Size, train: Examples) -> int:
    """Train steps between two looks at the accuracy."""
    return len(train.labels) // size.batch // PARTS


def _accuracy(logits: np.ndarray, tests: Batches) -> float:
    return float(np.mean(np.argmax(logits, axis=-1) == tests.labels))

"""The time that a framework takes to reach an accuracy, with a process for every run."""

import math
from typing import NamedTuple

import numpy as np

from lstm_jax.compare.adapter import Decay
from lstm_jax.compare.processes import FrameworkError, Start
from lstm_jax.compare.results import Learning
from lstm_jax.compare.size import Size
from lstm_jax.compare.work import Digits, epoch_batches, initial_params, test_batches
from lstm_jax.compare.worker import TRAIN, Sample
from lstm_jax.config import recipe_config

# Evaluations in an epoch. With 55,000 images in batches of 128, each part has 143 steps.
PARTS = 3
# Evaluations in a recipe with a fixed number of steps.
PARTS_OF_RECIPE = 10

# Images per call of an evaluation. It divides the number of test images.
TEST_BATCH = 1000


class Course(NamedTuple):
    """The course of a training run.

    Attributes:
        parts: number of evaluations.
        steps: train steps before each of them. All parts are equal, so that nothing is compiled twice.
        steps_per_epoch: train steps of an epoch.
        learning_rate: learning rate of Adam; the largest one if it decays.
        decay: the schedule of the learning rate and the clipping of gradients.
    """

    parts: int
    steps: int
    steps_per_epoch: int
    learning_rate: float
    decay: Decay | None = None


def course_of(recipe: str, size: Size, train: Digits, *, epochs: int) -> Course | None:
    """Return the course of a run of a recipe; None if there are too few digits for it.

    It has ``epochs`` epochs if the recipe has no number of steps. Steps at the end of an epoch that do not
    fill equal parts are left out.
    """
    config, steps = recipe_config(recipe), len(train.labels) // size.batch
    if config.steps is None:
        part = steps // PARTS
        return Course(epochs * PARTS, part, PARTS * part, config.optimizer.learning_rate) if part else None
    part = config.steps // PARTS_OF_RECIPE
    total = PARTS_OF_RECIPE * part
    decay = Decay(round(config.optimizer.warmup * total), total, config.optimizer.clip_norm or math.inf)
    return Course(PARTS_OF_RECIPE, part, steps, config.optimizer.learning_rate, decay) if steps else None


def learn(
    name: str,
    start: Start,
    size: Size,
    train: Digits,
    test: Digits,
    *,
    seed: int,
    course: Course,
    threads: int | None = None,
) -> Learning:
    """Train in a new process, and evaluate the test accuracy after every part.

    ``threads`` is the number of threads, if the framework does not choose it. If a run fails, its result says
    why.
    """
    tests = test_batches(test, batch=math.gcd(TEST_BATCH, len(test.labels)))
    taken, accuracy = [], []
    try:
        with start(name) as process:
            params = initial_params(size, seed=seed)
            ready = process.call("build", size, params, course.learning_rate, course.decay) - process.started
            if threads is not None:
                process.call("set_threads", TRAIN, threads)
            process.call("load", "test", *tests)
            for part in range(course.parts):
                place = {"first": part * course.steps, "steps": course.steps}
                whole = course.steps_per_epoch
                batches = epoch_batches(train, size, seed=seed, **place, steps_per_epoch=whole)
                loading: float = process.call("load", "many", *batches)
                sample: Sample = process.call("time", TRAIN, False)
                taken.append(loading + sample.seconds * course.steps)
                found = np.argmax(process.call("infer", "test"), axis=-1)
                accuracy.append(float(np.mean(found == tests.labels)))
    except FrameworkError as error:
        return Learning(name, seed, why_not=str(error))
    # The first part includes compilation. The other parts have equal length, so they show how much.
    first_step_seconds = max(0.0, taken[0] - float(np.median(taken[1:])))
    seconds = np.cumsum([taken[0] - first_step_seconds, *taken[1:]])
    steps = [course.steps * number for number in range(1, course.parts + 1)]
    return Learning(name, seed, ready, first_step_seconds, steps, [*map(float, seconds)], accuracy)

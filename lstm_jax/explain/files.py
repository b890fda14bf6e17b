"""All pictures of a run, as files: what ``python -m lstm_jax explain`` writes."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import UInt8

from lstm_jax.config import SEQUENCE_LENGTHS
from lstm_jax.data.dataset import Dataset
from lstm_jax.explain import figures
from lstm_jax.explain.memory import Memory, measure_memory
from lstm_jax.explain.reading import cells_of, read_steps, saliency
from lstm_jax.report import plots
from lstm_jax.report.augmentation_gallery import first_of_each_class, gallery
from lstm_jax.report.drawing import Figure, write
from lstm_jax.report.figures import compute_figures
from lstm_jax.report.files import plots_of
from lstm_jax.runs.run_directory import LEARNING, Record
from lstm_jax.runs.trained import Trained
from lstm_jax.system.files import whole

# The gradients are medians over so many images; more show the same.
MEMORY_IMAGES = 32
MEMORY_TASKS = ("rows", "pixels")  # of 28 steps and of 784


class Digit(NamedTuple):
    """An image to be read, and what to call it."""

    image: UInt8[np.ndarray, "28 28"]
    title: str


def write_explanation(
    trained: Trained,
    dataset: Dataset,
    digit: Digit,
    runs: Mapping[str, Sequence[Sequence[Record]]],
    folder: Path,
) -> Iterator[Path]:
    """Draw all pictures of a run into an existing folder; yield each file when it is there.

    Args:
        trained: the model.
        dataset: its data set.
        digit: the image of the picture of reading.
        runs: the records of each seed of the runs whose learning curves to draw, by name.
        folder: where to.

    Raises:
        ImportError: if matplotlib is not installed.
    """
    for name, figure in _drawn(trained, dataset, digit, runs):
        yield from write(figure, folder, name)
    settings = trained.config.augmentation
    if settings.is_active:
        path = folder / "augmentation.png"
        with whole(path) as file:
            gallery(first_of_each_class(dataset.train), settings, seed=trained.seed).save(file, optimize=True)
        yield path


def _drawn(
    trained: Trained, dataset: Dataset, digit: Digit, runs: Mapping[str, Sequence[Sequence[Record]]]
) -> Iterator[tuple[str, Figure]]:
    """Yield each figure and its name, the quick ones first."""
    model, params = trained.model, trained.params
    found = read_steps(model, params, digit.image[np.newaxis])
    yield "reading", figures.reading(found, task=model.task, title=digit.title)
    if any(records for seeds in runs.values() for records in seeds):
        yield LEARNING, plots.learning_curves(runs)
    yield from plots_of(compute_figures(trained.predictions(dataset.test)), dataset.test).items()
    images = first_of_each_class(dataset.test, dataset.num_classes)
    named = np.argmax(trained.probabilities(images), axis=1).tolist()
    yield "saliency", figures.saliency(images, saliency(model, params, images), named=named)
    yield "weights", figures.recurrent_weights(cells_of(model, params))
    yield "memory", figures.memory(measure_tasks(trained, dataset))


def measure_tasks(trained: Trained, dataset: Dataset) -> list[Memory]:
    """Measure the gradients on a short and on a long task: the trained model's own, and one of the others."""
    images, labels = next(dataset.test.batches(MEMORY_IMAGES))
    own = trained.config.model.task
    tasks = [own if SEQUENCE_LENGTHS[own] == SEQUENCE_LENGTHS[task] else task for task in MEMORY_TASKS]
    return [
        measure_memory(
            images,
            labels,
            task=task,
            hidden_size=trained.config.model.hidden_size,
            trained=(trained.model, trained.params) if task == own else None,
        )
        for task in tasks
    ]

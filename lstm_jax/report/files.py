"""An evaluation as files: evaluation.json, and pictures of what it says, for which matplotlib is needed."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8

from lstm_jax.data.dataset import Split
from lstm_jax.errors import Report, RunDirectoryError, one_line, silent
from lstm_jax.evaluation import Confusion
from lstm_jax.report import plots
from lstm_jax.report.drawing import NO_PICTURES, Figure, write
from lstm_jax.report.figures import Figures, Mistake, as_json
from lstm_jax.runs.run_directory import CONFUSION, LEARNING, Record
from lstm_jax.system.files import write_whole

# Errors in the picture, the most confident ones: nobody looks at more.
MOST_SHOWN = 100


def write_report(
    figures: Figures,
    split: Split,
    folder: Path,
    *,
    about: Mapping[str, Any],
    report: Report = silent,
) -> None:
    """Write evaluation.json and the pictures.

    Args:
        figures: what to write.
        split: the examples that it is about.
        folder: where to; it is made.
        about: what else the JSON says: which model, which examples.
        report: called with a line about what could not be written, and about where the rest is.

    Raises:
        RunDirectoryError: if the folder cannot be made.
    """
    make_folder(folder)
    write_whole(folder / "evaluation.json", json.dumps({**about, **as_json(figures)}, indent=1) + "\n")
    try:
        for name, figure in plots_of(figures, split).items():
            write(figure, folder, name)
    except ImportError:
        report(NO_PICTURES)
    report(f"written to {folder}")


def images_of(mistakes: Sequence[Mistake], split: Split) -> UInt8[np.ndarray, "mistakes 28 28"]:
    """Return the images of mistakes, in their order."""
    order = np.array([mistake.index for mistake in mistakes])
    return next(split.batches(len(order), order=order)).image


def plots_of(figures: Figures, split: Split) -> dict[str, Figure]:
    """Draw the pictures of an evaluation, by name; without mistakes there is no picture of them.

    Raises:
        ImportError: if matplotlib is not installed.
    """
    drawn = {
        CONFUSION: plots.confusion(figures.evaluation.confusion),
        "calibration": plots.calibration(figures),
    }
    if shown := figures.mistakes[:MOST_SHOWN]:
        drawn["mistakes"] = plots.mistakes(shown, images_of(shown, split))
    return drawn


def write_training(
    name: str, seeds: Sequence[Sequence[Record]], confusion: Confusion | None, folder: Path
) -> None:
    """Write the pictures of a training that has ended: its learning curves, and its last confusions.

    Args:
        name: the name of the run.
        seeds: the records of each seed.
        confusion: on the test images, after the last epoch; None if that was evaluated before a stop.
        folder: where to.

    Raises:
        ImportError: if matplotlib is not installed.
    """
    write(plots.learning_curves({name: seeds}), folder, LEARNING)
    if confusion is not None:
        write(plots.confusion(confusion), folder, CONFUSION)


def make_folder(folder: Path) -> Path:
    """Make a folder for results, unless it is there, and return it.

    Raises:
        RunDirectoryError: if it cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunDirectoryError(
            f"--output: got {folder}, expected a folder that can be made: {one_line(error)}"
        ) from error
    return folder

"""An evaluation as files: evaluation.json, and pictures of what it says.

confusion.png and reliability.png need matplotlib; mistakes.png does not.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int, UInt8
from PIL import Image, ImageDraw, ImageFont

from lstm_jax.data.dataset import Split
from lstm_jax.errors import Report, RunDirectoryError, one_line, silent
from lstm_jax.report.figures import Bin, Figures, Mistake, as_json
from lstm_jax.system.files import whole, write_whole
from lstm_jax.system.packages import how_to_install

# Errors in the picture, the most confident ones: nobody looks at more.
MOST_SHOWN = 100
COLUMNS = 10
MAGNIFICATION = 3
GAP = 10
CAPTION_HEIGHT = 30
FONT_SIZE = 12

BLUE, ORANGE, GREY = "#0072B2", "#D55E00", "#dddddd"  # of Okabe & Ito, which the colour-blind tell apart


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
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunDirectoryError(
            f"--output: got {folder}, expected a folder that can be made: {one_line(error)}"
        ) from error
    write_whole(folder / "evaluation.json", json.dumps({**about, **as_json(figures)}, indent=1) + "\n")
    shown = figures.mistakes[:MOST_SHOWN]
    if shown:
        with whole(folder / "mistakes.png") as file:
            draw_mistakes(shown, images_of(shown, split)).save(file, optimize=True)
    try:
        write_plots(figures, folder)
    except ImportError:
        advice = how_to_install("plots")
        report(f"no confusion.png, reliability.png: matplotlib is not installed ({advice})")
    report(f"written to {folder}")


def images_of(mistakes: Sequence[Mistake], split: Split) -> UInt8[np.ndarray, "mistakes 28 28"]:
    """Return the images of mistakes, in their order."""
    order = np.array([mistake.index for mistake in mistakes])
    return next(split.batches(len(order), order=order)).image


def draw_mistakes(mistakes: Sequence[Mistake], images: UInt8[np.ndarray, "mistakes 28 28"]) -> Image.Image:
    """Draw each image with its number, its true and its predicted class, and the probability."""
    width, height = 28 * MAGNIFICATION + GAP, 28 * MAGNIFICATION + CAPTION_HEIGHT + GAP
    rows, columns = -(-len(mistakes) // COLUMNS), min(len(mistakes), COLUMNS)
    picture = Image.new("L", (columns * width + GAP, rows * height + GAP), 255)
    pen, font = ImageDraw.Draw(picture), ImageFont.load_default(FONT_SIZE)
    for number, (mistake, image) in enumerate(zip(mistakes, images, strict=True)):
        left, top = GAP + number % COLUMNS * width, GAP + number // COLUMNS * height
        side = 28 * MAGNIFICATION
        tile = Image.fromarray(255 - image).resize((side, side), Image.Resampling.NEAREST)
        picture.paste(tile, (left, top))
        caption = f"{mistake.index}\n{mistake.true} as {mistake.named}, {mistake.probability:.1%}"
        pen.text((left, top + side), caption, fill=0, font=font, spacing=1)
    return picture


def write_plots(figures: Figures, folder: Path) -> None:
    """Write confusion.png and reliability.png.

    Raises:
        ImportError: if matplotlib is not installed.
    """
    # Figure, not pyplot: it looks for no display and leaves nothing open.
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    with rc_context({"font.size": 11}):
        figure = Figure(figsize=(6.0, 6.0), layout="constrained")
        _draw_confusion(figure.subplots(), figures.evaluation.confusion)
        with whole(folder / "confusion.png") as file:
            figure.savefig(file, dpi=120)
        figure = Figure(figsize=(6.0, 7.0), layout="constrained")
        _draw_calibration(figure.subplots(2, 1, sharex=True, height_ratios=[3, 1]), figures)
        with whole(folder / "reliability.png") as file:
            figure.savefig(file, dpi=120)


def _draw_confusion(ax: Any, confusion: Int[np.ndarray, "classes classes"]) -> None:
    """Draw the counts; only errors are coloured, because correct answers would outshine them."""
    wrong = confusion - np.diag(np.diag(confusion))
    ax.imshow(wrong, cmap="Oranges", vmin=0, vmax=max(1, wrong.max()))
    for (true, named), count in np.ndenumerate(confusion):
        if true == named:
            ax.add_patch(_square(true, named))
        dark = true != named and count > 0.6 * wrong.max()
        ax.text(
            named, true, count or "", ha="center", va="center", color="white" if dark else "black", size=9
        )
    ax.set_xticks(range(len(confusion)))
    ax.set_yticks(range(len(confusion)))
    ax.set_xlabel("predicted class")
    ax.set_ylabel("true class")
    right = int(np.trace(confusion))
    ax.set_title(f"{right:,} of {confusion.sum():,} classified correctly")


def _square(row: int, column: int) -> Any:
    from matplotlib.patches import Rectangle

    return Rectangle((column - 0.5, row - 0.5), 1, 1, color=GREY)


def _draw_calibration(axes: Any, figures: Figures) -> None:
    """Draw accuracy against probability, bin by bin, and the number of examples below."""
    above, below = axes
    bins: list[Bin] = [b for b in figures.bins if b.examples]
    edges, width = [b.above for b in bins], [b.up_to - b.above for b in bins]
    above.bar(edges, [b.accuracy for b in bins], width, align="edge", color=BLUE, edgecolor="white")
    above.plot([b.probability for b in bins], [b.accuracy for b in bins], "o", color="black", markersize=4)
    above.plot([0, 1], [0, 1], "--", color=ORANGE, label="calibrated")
    above.set_ylabel("accuracy")
    above.set_ylim(0, 1.02)
    above.set_title(f"expected calibration error {figures.calibration_error:.2%}")
    above.legend(loc="upper left")
    below.bar(edges, [b.examples for b in bins], width, align="edge", color=GREY, edgecolor="white")
    below.set_yscale("log")
    below.set_ylim(bottom=0.5)  # so that a single image shows
    below.set_ylabel("images")
    below.set_xlabel("probability of the predicted class")
    below.set_xlim(0, 1)

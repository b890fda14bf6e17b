"""Pictures of a training and of an evaluation: learning curves, confusions, calibration, mistakes.

Each function takes data and returns a matplotlib figure; `drawing.write` makes files of it.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Int, UInt8

from lstm_jax.report.drawing import (
    BLUE,
    COLOURS,
    GREY,
    INK,
    ORANGE,
    PALE,
    PAPER,
    Axes,
    Figure,
    logarithmic,
    new_figure,
    plain,
    styled,
)
from lstm_jax.report.figures import Bin, Figures, Mistake
from lstm_jax.runs.run_directory import Record

# Accuracies in % that are worth a tick, evenly spread on the scale of `_stretch_to_100`.
ACCURACY_TICKS = (10, 50, 80, 90, 95, 97, 98, 98.5, 99, 99.3, 99.5, 99.7, 99.8, 99.9, 100)
# What is added to an error in %, so that the scale reaches 100 % too: one image of 10,000.
SMALLEST_ERROR = 0.01

# Of a mistake's tile, in pixels of the image.
SIDE, GAP, CAPTION, BAR = 28, 7, 7, 4
COLUMNS = 10


@styled
def learning_curves(runs: Mapping[str, Sequence[Sequence[Record]]]) -> Figure:
    """Draw loss and accuracy over the epochs.

    A line is the mean of a run's seeds, a band goes from the lowest to the highest of them. The accuracies
    have a scale that is stretched towards 100 %, where the runs differ.

    Args:
        runs: the records of each seed of each run, as in metrics.jsonl, by the name of the run.
    """
    # Of a run whose first epoch has not ended, there is no record yet.
    last = [records[-1] for seeds in runs.values() for records in seeds if records]
    validated = any(record["validation_loss"] is not None for record in last)
    held_out = "validation" if validated else "test"
    shown = ("validation_accuracy", "test_accuracy") if validated else ("test_accuracy",)
    figure = new_figure(4.2 * (1 + len(shown)), 4.2)
    loss, *accuracies = figure.subplots(1, 1 + len(shown))
    for number, (name, seeds) in enumerate(runs.items()):
        colour = COLOURS[number % len(COLOURS)]
        _line(loss, seeds, "train_loss", colour, label=plain(name))
        _line(loss, seeds, f"{held_out}_loss", colour, linestyle="--")
        for ax, key in zip(accuracies, shown, strict=True):
            _line(ax, seeds, key, colour, label=plain(name), scale=100.0)
    logarithmic(loss, "y")
    loss.set(title=f"Loss: training (line), {held_out} (dashed)", ylabel="cross-entropy, nats")
    for ax, key in zip(accuracies, shown, strict=True):
        ax.set_title(key.replace("_", " ").capitalize())
    _stretch_to_100(accuracies)
    for ax in (loss, *accuracies):
        ax.set_xlabel("epoch")
        ax.xaxis.get_major_locator().set_params(integer=True)
        ax.grid(visible=True, color=PALE, linewidth=0.6)
        ax.set_axisbelow(True)
    if len(runs) > 1:
        figure.legend(*loss.get_legend_handles_labels(), loc="outside lower center", ncols=min(len(runs), 4))
    return figure


def _line(
    ax: Axes, seeds: Sequence[Sequence[Record]], key: str, colour: str, *, scale: float = 1.0, **style: Any
) -> None:
    """Draw a figure of the records over the epochs, if the run has it."""
    if not any(seeds) or any(record[key] is None for records in seeds for record in records):
        return
    epochs = [record["epoch"] for record in seeds[0]]
    values = scale * np.array([[record[key] for record in records] for records in seeds])
    marker = {"marker": "o", "markersize": 4} if len(epochs) < 15 else {}
    ax.plot(epochs, values.mean(axis=0), color=colour, linewidth=1.6, **{**marker, **style})
    if len(values) > 1:
        ax.fill_between(epochs, values.min(axis=0), values.max(axis=0), color=colour, alpha=0.2, linewidth=0)


def _stretch_to_100(axes: Sequence[Axes]) -> None:
    """Give panels one axis of accuracy in %, on which an error of half the size is a step further up."""
    lines = [np.asarray(line.get_ydata()) for ax in axes for line in ax.lines if len(line.get_ydata())]
    found = np.concatenate(lines) if lines else np.array([0.0, 100.0])
    worst = 1.3 * (100 - found.min() + SMALLEST_ERROR)
    best = 0.8 * (100 - found.max() + SMALLEST_ERROR)
    functions = (
        lambda accuracy: -np.log(np.maximum(100 + SMALLEST_ERROR - accuracy, 1e-9)),
        lambda place: 100 + SMALLEST_ERROR - np.exp(-place),
    )
    for ax in axes:
        ax.set_yscale("function", functions=functions)
        ax.set_yticks(ACCURACY_TICKS, [f"{tick:g} %" for tick in ACCURACY_TICKS])
        ax.minorticks_off()
        ax.set_ylim(max(0, 100 + SMALLEST_ERROR - worst), 100 + SMALLEST_ERROR - best)


@styled
def confusion(counts: Int[np.ndarray, "classes classes"]) -> Figure:
    """Draw a confusion matrix; only errors are coloured, because correct answers would outshine them.

    Args:
        counts: how many examples of class i (row) were classified as j (column).
    """
    figure = new_figure(6.0, 6.0)
    ax = figure.subplots()
    wrong = counts - np.diag(np.diag(counts))
    ax.imshow(wrong, cmap="Oranges", vmin=0, vmax=max(1, wrong.max()))
    for (true, named), count in np.ndenumerate(counts):
        if true == named:
            ax.add_patch(_square(true, named))
        if not count:
            continue
        colour = "white" if true != named and count > 0.6 * wrong.max() else INK
        ax.text(named, true, count, ha="center", va="center", color=colour, size=9)
    ax.set_xticks(range(len(counts)))
    ax.set_yticks(range(len(counts)))
    ax.set(xlabel="predicted class", ylabel="true class")
    ax.set_title(f"{int(np.trace(counts)):,} of {counts.sum():,} classified correctly")
    return figure


def _square(row: int, column: int) -> Any:
    from matplotlib.patches import Rectangle

    return Rectangle((column - 0.5, row - 0.5), 1, 1, color=PALE)


@styled
def calibration(figures: Figures) -> Figure:
    """Draw accuracy against probability, bin by bin, and the number of examples below."""
    figure = new_figure(6.0, 7.0)
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=[3, 1])
    bins: list[Bin] = [b for b in figures.bins if b.examples]
    edges, width = [b.above for b in bins], [b.up_to - b.above for b in bins]
    above.bar(edges, [b.accuracy for b in bins], width, align="edge", color=BLUE, edgecolor="white")
    above.plot([b.probability for b in bins], [b.accuracy for b in bins], "o", color="black", markersize=4)
    above.plot([0, 1], [0, 1], "--", color=ORANGE, label="calibrated")
    above.set(ylabel="accuracy", ylim=(0, 1.02))
    above.set_title(f"expected calibration error {figures.calibration_error:.2%}")
    above.legend(loc="upper left")
    below.bar(edges, [b.examples for b in bins], width, align="edge", color=PALE, edgecolor=GREY)
    below.set_yscale("log")
    below.set_ylim(bottom=0.5)  # so that a single image shows
    below.set(ylabel="images", xlabel="probability of the predicted class", xlim=(0, 1))
    return figure


@styled
def mistakes(wrong: Sequence[Mistake], images: UInt8[np.ndarray, "mistakes 28 28"]) -> Figure:
    """Draw misclassified digits, each with the probability of its predicted and of its true class.

    Args:
        wrong: at least one mistake.
        images: the image of each.
    """
    columns = min(COLUMNS, len(wrong))
    rows = -(-len(wrong) // columns)
    width, height = SIDE + GAP, CAPTION + SIDE + 2 * (BAR + 1) + GAP
    figure = new_figure(columns * 1.05 + 0.1, rows * height / width * 1.05 + 0.5)
    ax = figure.subplots()
    mosaic: Float[np.ndarray, "height width"] = np.zeros((rows * height, columns * width))
    for number, (mistake, image) in enumerate(zip(wrong, images, strict=True)):
        top, left = number // columns * height, number % columns * width
        mosaic[top + CAPTION : top + CAPTION + SIDE, left : left + SIDE] = image
        # Coordinates are the centres of pixels.
        caption = {"size": 8.5, "va": "bottom", "color": INK}
        ax.text(left - 0.5, top + CAPTION - 1, f"{mistake.true} as {mistake.named}", weight="bold", **caption)
        ax.text(
            left + SIDE - 0.5,
            top + CAPTION - 1,
            mistake.index,
            ha="right",
            **{**caption, "color": GREY, "size": 6.5},
        )
        for place, (digit, probability, colour) in enumerate(
            ((mistake.named, mistake.probability, ORANGE), (mistake.true, mistake.true_probability, BLUE))
        ):
            y = top + CAPTION + SIDE + 1.5 + place * (BAR + 1)
            ax.text(
                left + 1, y + BAR / 2, digit, size=7.5, color=colour, ha="center", va="center", weight="bold"
            )
            ax.barh(y, (SIDE - 4) * probability, BAR, left + 3.5, align="edge", color=colour)
    ax.imshow(mosaic, cmap=PAPER, vmin=0, vmax=255, interpolation="nearest")
    ax.set(xlim=(-1, columns * width - GAP + 0.5), ylim=(rows * height - GAP + 3, -1))
    ax.set_axis_off()
    ax.set_title("True class as predicted class, number of the image; the probability of both", size=10)
    return figure

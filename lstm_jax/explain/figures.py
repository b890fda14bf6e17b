"""Pictures of what an LSTM does: reading a digit, memory, saliency, recurrent weights.

Each function takes data and returns a matplotlib figure; `lstm_jax.report.drawing.write` makes files of it.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, UInt8

from lstm_jax.explain.memory import FORGET_BIASES, PLAIN, TRAINED, Memory
from lstm_jax.explain.reading import BACKWARD, Reading, Steps, decided_at, in_order
from lstm_jax.kernels.gate_order import GATES
from lstm_jax.report.drawing import (
    AROUND_ZERO,
    BLUE,
    COLOURS,
    GATE_MAP,
    GREEN,
    GREY,
    INK,
    ORANGE,
    PALE,
    PAPER,
    SKY,
    Axes,
    Figure,
    new_figure,
    plain,
    styled,
)

# The names of what a step computes, in the order of `Steps`.
GATE_NAMES: Mapping[str, str] = {
    **dict(zip(GATES, ("input gate i", "forget gate f", "candidate g", "output gate o"), strict=True)),
    "cell": "cell c",
    "hidden": "hidden state h",
}
# What a step of a task reads.
STEP_NAMES: Mapping[str, str] = {"rows": "row", "columns": "column", "pixels": "pixel", "permuted": "step"}
# A class whose probability stays below this is drawn in grey.
NOTABLE = 0.2
# Gradients below this share of the last one count as nothing: float32 would lose them in any sum.
LOWEST_SHARE = 1e-16
MEMORY_COLOURS: Mapping[str, str] = dict(
    zip((*PLAIN, *FORGET_BIASES, TRAINED), (INK, GREY, SKY, BLUE, GREEN, ORANGE), strict=True)
)


@styled
def reading(found: Reading, *, task: str = "rows", title: str = "") -> Figure:
    """Draw how a digit is read: time runs downwards, in all panels.

    Above are what the network reads, and the probabilities of the classes after each step. Below are, for
    each layer and direction, the gates, the cell and the hidden state of all units at each step. The units
    are sorted by what is in their cell at the end. A dashed line marks the step since which the answer has
    been the same.

    Args:
        found: the reading of one image, a batch of one.
        task: what a step reads.
        title: what stands above it.
    """
    probability = np.asarray(found.probability)[0]
    sequence = np.asarray(found.sequence)[0]
    time, step = len(sequence), STEP_NAMES[task]
    bands = [
        (_name_of(number, direction, found.layers), 0 if direction == BACKWARD else -1, steps)
        for number, layer in enumerate(found.layers)
        for direction, steps in in_order(layer)
    ]
    heights = [4.0, *[3.0] * len(bands)]
    figure = new_figure(10.0, sum(heights) + (0.4 if title else 0))
    top, *below = np.ravel(figure.subfigures(1 + len(bands), 1, height_ratios=heights))
    if title:
        figure.suptitle(plain(title), x=0.01, ha="left")
    image, curves = top.subplots(1, 2, width_ratios=[1, 1.55])
    side = round(sequence.size**0.5)
    picture = sequence.reshape(side, side)
    image.imshow(picture, cmap=PAPER, vmin=0, vmax=1, aspect="auto", extent=(0, side, time + 0.5, 0.5))
    image.set_box_aspect(1)
    image.set_xticks([])
    image.set_title(f"What the network reads,\n{step} by {step}, from the top")
    _draw_probabilities(curves, probability, step)
    axes = [image, curves]
    for band, (name, last, steps) in zip(below, bands, strict=True):
        of_one = Steps(*(np.asarray(array)[0] for array in steps))
        axes += _draw_steps(band, name, of_one, step, last=last)
    since = decided_at(probability)
    for ax in axes:
        ax.set_ylim(time + 0.5, 0.5)
        ax.set_yticks([1, *(time * quarter // 4 for quarter in range(1, 5))])
        if since:
            ax.axhline(since + 0.5, color=INK, linewidth=1.2, linestyle=(0, (4, 2)))
    return figure


def _name_of(number: int, direction: str, layers: Sequence[Mapping[str, Steps]]) -> str:
    """Return what to call a direction of a layer, if there are several."""
    names = [f"layer {number + 1}"] * (len(layers) > 1) + [direction] * (len(layers[0]) > 1)
    return ", ".join(names)


def _draw_probabilities(ax: Axes, probability: Float[np.ndarray, "time classes"], step: str) -> None:
    """Draw a curve for each class, from the top down, with its name where it is highest."""
    steps = np.arange(1, len(probability) + 1)
    highest = probability.max(axis=0)
    answer, since = int(np.argmax(probability[-1])), decided_at(probability)
    # The answer has the first colour.
    order = sorted(range(len(highest)), key=lambda name: (name != answer, -highest[name]))
    palette = (*COLOURS, INK, GREY)
    for number, name in reversed(list(enumerate(order))):
        curve = probability[:, name]
        if highest[name] < NOTABLE and name != answer:
            ax.plot(curve, steps, color=PALE, linewidth=1)
            continue
        colour = palette[number % len(palette)]
        ax.plot(curve, steps, color=colour, linewidth=2)
        # In the middle of where it is highest, which may be long.
        near = np.flatnonzero(curve >= 0.97 * highest[name])
        places = [int(near[len(near) // 2])]
        end = len(curve) - 1
        if name == answer and end - places[0] > end / 8 and curve[-1] < 0.97 * highest[name]:
            places.append(end)
        for place in places:
            _label_curve(ax, str(name), (float(curve[place]), int(steps[place])), colour)
    ax.set(xlim=(-0.01, 1.1), xlabel="probability", ylabel=step)
    ax.set_xticks([0, 0.25, 0.5, 0.75, 1], ["0", "25 %", "50 %", "75 %", "100 %"])
    ax.grid(visible=True, axis="x", color=PALE, linewidth=0.6)
    told = (
        f"from {step} {since + 1} on (dashed), the answer is {answer}" if since else f"it is always {answer}"
    )
    ax.set_title(f"Probability of each class after each {step};\n{told}")


def _label_curve(ax: Axes, name: str, place: tuple[float, int], colour: str) -> None:
    """Write the name of a curve beside a place on it."""
    from matplotlib.patheffects import withStroke

    ax.annotate(
        name,
        place,
        (5, 0),
        textcoords="offset points",
        color=colour,
        weight="bold",
        size=13,
        va="center",
        path_effects=[withStroke(linewidth=3, foreground="white")],
    )


def _draw_steps(band: Any, name: str, steps: Steps, step: str, *, last: int) -> list[Axes]:
    """Draw the gates, cell and hidden state of one direction of one layer."""
    axes = list(band.subplots(1, len(Steps._fields), sharey=True))
    order = np.argsort(steps.cell[last], kind="stable")
    for ax, field in zip(axes, Steps._fields, strict=True):
        values = getattr(steps, field)[:, order]
        is_gate = field in "ifo"
        # A few cells are far larger than the others.
        limit = 1.0 if field != "cell" else float(np.quantile(np.abs(values), 0.97)) or 1.0
        drawn = ax.imshow(
            values,
            cmap=GATE_MAP if is_gate else AROUND_ZERO,
            vmin=0 if is_gate else -limit,
            vmax=limit,
            aspect="auto",
            interpolation="nearest",
            extent=(0.5, len(order) + 0.5, len(values) + 0.5, 0.5),
        )
        ax.set_title(GATE_NAMES[field], size=10)
        ax.set_xticks([])
        extend = "both" if field == "cell" else "neither"
        ticks = [0, 1] if is_gate else [-limit, 0, limit]
        bar = band.colorbar(drawn, ax=ax, location="bottom", ticks=ticks, aspect=14, pad=0.03, extend=extend)
        bar.ax.set_xticklabels(["shut", "open"] if is_gate else [f"{tick:.2g}" for tick in ticks])
        bar.ax.tick_params(labelsize=8, length=2)
        bar.outline.set_visible(False)
    axes[0].set_ylabel(f"{name}\n{step}" if name else step)
    return axes


@styled
def memory(measured: Sequence[Memory]) -> Figure:
    """Draw how much of the gradient at the last step is left at each step before, a panel for each task.

    A line is the median over the images, a band the middle half of them.
    """
    figure = new_figure(6.2 * len(measured), 4.6)
    for ax, found in zip(np.ravel(figure.subplots(1, len(measured), squeeze=False)), measured, strict=True):
        time = next(iter(found.norms.values())).shape[1]
        steps, ends = np.arange(1, time + 1), {}
        # Of hundreds of steps, some hundred show the same.
        kept = np.arange(time - 1, -1, -max(1, time // 200))[::-1]
        for name, norms in found.norms.items():
            shares = norms / np.maximum(norms[:, -1:], np.finfo(np.float32).tiny)
            low, middle, high = np.quantile(shares, (0.25, 0.5, 0.75), axis=0)[:, kept]
            colour = MEMORY_COLOURS[name]
            ax.plot(
                steps[kept], middle, color=colour, linewidth=1.8, linestyle="--" if name in PLAIN else "-"
            )
            ax.fill_between(steps[kept], low, high, color=colour, alpha=0.18, linewidth=0)
            ends[name] = float(middle[0])
        ax.set_yscale("log")
        ax.set_ylim(bottom=max(ax.get_ylim()[0], LOWEST_SHARE))
        ax.set(xlim=(1 - 0.66 * time, time), xlabel=f"step, of {time}; the loss is after the last")
        ax.set_xticks([1, *(time * quarter // 4 for quarter in range(1, 5))])
        ax.spines["bottom"].set_bounds(1, time)
        ax.spines["left"].set_visible(False)
        ax.spines["right"].set_visible(True)
        ax.yaxis.tick_right()
        ax.grid(visible=True, color=PALE, linewidth=0.6)
        ax.set_axisbelow(True)
        ax.set_title(f"MNIST by {found.task}: {time} steps")
        _label_ends(ax, ends)
    figure.suptitle(
        "How much of the gradient at the last step is left at each step before", x=0.01, ha="left"
    )
    return figure


def _label_ends(ax: Axes, ends: Mapping[str, float]) -> None:
    """Write the name of each curve left of its first step, no two on top of each other."""
    bottom, top = np.log10(ax.get_ylim())
    gap = (top - bottom) * 0.06
    names = sorted(ends, key=lambda name: ends[name])
    places = spread([np.log10(max(ends[name], 10 ** (bottom + gap))) for name in names], gap)
    for name, place in zip(names, places, strict=True):
        share = ends[name]
        told = "nothing" if share < LOWEST_SHARE else f"{share:.2g}" if share >= 1e-3 else f"{share:.0e}"
        ax.annotate(
            f"{name}: {told}",
            (1, 10**place),
            (-5, 0),
            textcoords="offset points",
            ha="right",
            va="center",
            color=MEMORY_COLOURS[name],
            size=9.5,
            bbox={"facecolor": "white", "edgecolor": "none", "pad": 1},
        )


def spread(places: Sequence[float], gap: float) -> list[float]:
    """Move places, in ascending order, as little upwards as keeps them ``gap`` apart."""
    moved: list[float] = []
    for place in places:
        moved.append(max(place, moved[-1] + gap) if moved else place)
    return moved


@styled
def saliency(
    images: UInt8[np.ndarray, "batch 28 28"],
    gradients: Float[np.ndarray, "batch 28 28"],
    *,
    named: Sequence[int],
) -> Figure:
    """Draw which pixels decisions depend on: red where more ink speaks for the answer, blue against it.

    Args:
        images: the images.
        gradients: of the named class's logit by the pixels, see `reading.saliency`.
        named: the class that the model names.
    """
    count = len(images)
    figure = new_figure(1.15 * count + 0.7, 2.5)
    axes = figure.subplots(2, count, squeeze=False)
    drawn: Any = None
    for column, (image, gradient, name) in enumerate(zip(images, gradients, named, strict=True)):
        above, below = axes[:, column]
        above.imshow(image, cmap=PAPER, vmin=0, vmax=255)
        share = gradient / max(float(np.abs(gradient).max()), 1e-30)
        drawn = below.imshow(share, cmap=AROUND_ZERO, vmin=-1, vmax=1)
        below.contour(image, levels=[127], colors=INK, linewidths=0.8)
        above.set_title(f"read as {name}", size=9.5, loc="center")
    for ax in axes.flat:
        ax.set_xticks([])
        ax.set_yticks([])
        for spine in ax.spines.values():
            spine.set(visible=True, color=PALE)
    bar = figure.colorbar(drawn, ax=axes, ticks=[-1, 0, 1], aspect=12, pad=0.01, shrink=0.8)
    bar.ax.set_yticklabels(["ink speaks\nagainst", "", "ink speaks\nfor it"], size=8)
    bar.outline.set_visible(False)
    return figure


@styled
def recurrent_weights(cells: Sequence[Mapping[str, Any]]) -> Figure:
    """Draw the recurrent weight matrix of each gate: what each unit takes from the output of each other.

    Args:
        cells: the parameters of each layer, by direction, see `reading.cells_of`.
    """
    bands = [
        (f"layer {number + 1}, {direction}" if len(cells) > 1 or len(layer) > 1 else "", params)
        for number, layer in enumerate(cells)
        for direction, params in in_order(layer)
    ]
    figure = new_figure(10.4, 2.9 * len(bands) + 0.3)
    axes = figure.subplots(len(bands), len(GATES), squeeze=False)
    for row, (name, params) in zip(axes, bands, strict=True):
        kernels = [np.asarray(params[f"h{gate}"]["kernel"]).T for gate in GATES]
        limit = float(np.quantile(np.abs(kernels), 0.995)) or 1.0
        for ax, gate, kernel in zip(row, GATES, kernels, strict=True):
            drawn = ax.imshow(kernel, cmap=AROUND_ZERO, vmin=-limit, vmax=limit, interpolation="nearest")
            ax.set_title(GATE_NAMES[gate], size=10)
            ax.set_xticks([0, len(kernel) - 1], ["1", str(len(kernel))])
            ax.set_yticks([0, len(kernel) - 1], ["1", str(len(kernel))])
            ax.set_xlabel("from unit", labelpad=-6)
            for spine in ax.spines.values():
                spine.set(visible=True, color=PALE)
        row[0].set_ylabel(f"{name}\nto unit" if name else "to unit", labelpad=-6)
        bar = figure.colorbar(drawn, ax=list(row), extend="both", aspect=18, pad=0.01, shrink=0.85)
        bar.set_label("weight")
        bar.outline.set_visible(False)
    figure.suptitle(
        "Recurrent weights: what each unit's gate takes from the hidden state before", x=0.01, ha="left"
    )
    return figure

"""Results as pictures: bars of speed, curves over sizes, accuracy against time, errors against steps.

Each picture comes with a caption and with the same in words, for those who cannot see it. matplotlib is
imported only when one is drawn, and without pyplot: no display is looked for, and nothing stays open.
"""

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from lstm_jax.compare.results import Learning, Results, Scaling
from lstm_jax.compare.statistics import median, quartiles
from lstm_jax.compare.styles import line_style, style_of
from lstm_jax.compare.tables import (
    AXIS_TITLES,
    TARGETS,
    curve_of,
    fixed_sizes,
    in_order,
    items,
    learners,
    percent,
    scaled,
    three_digits,
    timed,
)

NAMES = ("speed", "scaling", "learning", "parity")
SUFFIXES = ("png", "svg")
DPI = 150
# Text as outlines, so that a picture looks the same everywhere; equal results give equal files.
SETTINGS: Any = {
    "font.size": 10,
    "svg.hashsalt": "lstm_jax",
    "axes.spines.top": False,
    "axes.spines.right": False,
}
GREY = "#666666"
MOST_COLUMNS = 4
# Bars are cut beyond so many times the upper quartile of all.
CUT = 2.5
BESIDE: Any = {"textcoords": "offset points", "va": "center", "fontsize": 9}
# An error of exactly nothing has no place on a logarithmic axis; this is far below float32's rounding.
SMALLEST_ERROR = 1e-9


class Drawing(NamedTuple):
    """What a picture shows.

    Attributes:
        name: of its files, without a suffix.
        caption: what is drawn.
        words: what is seen in it.
        figure: a matplotlib Figure.
    """

    name: str
    caption: str
    words: str
    figure: Any


class Picture(NamedTuple):
    """A drawing as files.

    Attributes:
        name: of its files, without a suffix.
        caption: what is drawn.
        words: what is seen in it.
        inches: its width.
        files: by suffix.
    """

    name: str
    caption: str
    words: str
    inches: float
    files: Mapping[str, bytes]


def pictures(results: Results) -> list[Picture]:
    """The pictures of all that was measured.

    Raises:
        ImportError: if matplotlib is not installed.
    """
    from matplotlib import rc_context

    with rc_context(SETTINGS):
        return [
            Picture(d.name, d.caption, d.words, d.figure.get_figwidth(), _files(d.figure))
            for draw in (_speed, _scaling, _learning, _parity)
            if (d := draw(results))
        ]


def write_pictures(drawn: Sequence[Picture], folder: Path) -> None:
    """Write each picture as PNG and SVG, and remove those of an earlier comparison in the same folder."""
    for name in {*NAMES} - {picture.name for picture in drawn}:
        for suffix in SUFFIXES:
            (folder / f"{name}.{suffix}").unlink(missing_ok=True)
    for picture in drawn:
        for suffix, content in picture.files.items():
            (folder / f"{picture.name}.{suffix}").write_bytes(content)


def _files(figure: Any) -> dict[str, bytes]:
    files = {}
    for suffix in SUFFIXES:
        file = io.BytesIO()
        undated = {"Date": None} if suffix == "svg" else {}
        figure.savefig(file, format=suffix, dpi=DPI, metadata=undated)
        figure.set_layout_engine("none")  # everything has its place now; the second file is the quicker
        files[suffix] = file.getvalue()
    return files


def _figure(width: float, height: float) -> Any:
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


# --------------------------------------------------------------------------------------------------
# Speed
# --------------------------------------------------------------------------------------------------


def _speed(results: Results) -> Drawing | None:
    """Bars: train step, inference and latency side by side, in the same order."""
    found = timed(results)
    panels = {
        "train step, ms": {name: speed.train_seconds for name, speed in found.items()},
        f"inference of {results.batch} {items(results)}, ms": {n: s.infer_seconds for n, s in found.items()},
        f"a single {items(results)[:-1]}, ms": {name: speed.latency_seconds for name, speed in found.items()},
    }
    panels = {title: bars for title, bars in panels.items() if any(bars.values())}
    if not panels:
        return None
    figure = _figure(2.2 + 3.4 * len(panels), 1.0 + 0.34 * len(found))
    axes = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
    for ax, (title, bars) in zip(axes, panels.items(), strict=True):
        _bars(ax, title, bars)
    axes[0].set_yticks(range(len(found)), list(found))
    words = "; ".join(
        f"{title}: {', '.join(f'{name} {three_digits(1e3 * median(s))}' for name, s in bars.items() if s)}"
        for title, bars in panels.items()
    )
    caption = "Medians, and lines between the quartiles; shorter is better. A bar with “cut” is longer."
    return Drawing("speed", caption, f"Bars. {words}.", figure)


def _bars(ax: Any, title: str, bars: dict[str, tuple[float, ...]]) -> None:
    medians = [1e3 * median(seconds) for seconds in bars.values() if seconds]
    # One framework that takes fifty times as long would leave nothing to see of all others.
    longest = min(max(medians), CUT * quartiles(medians).high)
    for place, (name, seconds) in enumerate(bars.items()):
        if not seconds:
            ax.annotate("no training", (0, place), (5, 0), color=GREY, **BESIDE)
            continue
        low, middle, high = (1e3 * value for value in quartiles(seconds))
        colour, text = style_of(name).colour, three_digits(middle)
        if middle > longest:
            ax.barh(place, longest, color=colour, height=0.7)
            ax.annotate("//", (longest, place), (-14, 0), color="white", **{**BESIDE, "fontsize": 13})
            ax.annotate(f"{text} (cut)", (longest, place), (5, 0), **BESIDE)
        else:
            spread = [[middle - low], [high - middle]]
            ax.barh(place, middle, xerr=spread, capsize=3, ecolor=GREY, color=colour, height=0.7)
            ax.annotate(text, (max(high, middle), place), (5, 0), **BESIDE)
    ax.set_xlim(0, 1.3 * longest)
    ax.set_ylim(len(bars) - 0.5, -0.5)  # the first on top
    ax.set_title(title, fontsize=10)
    ax.tick_params(axis="y", length=0)
    ax.grid(visible=True, axis="x", alpha=0.3)
    ax.set_axisbelow(True)


# --------------------------------------------------------------------------------------------------
# Scaling
# --------------------------------------------------------------------------------------------------


def _scaling(results: Results) -> Drawing | None:
    """A panel for each axis, all in double logarithmic scale."""
    curves = [curve for curve in results.scaling if scaled(results, curve)]
    if not curves:
        return None
    figure = _figure(2.4 + 3.6 * len(curves), 4.6)
    axes = figure.subplots(1, len(curves), squeeze=False)[0]
    for ax, curve in zip(axes, curves, strict=True):
        _curves(ax, results, curve)
    axes[0].set_ylabel("train step, ms")
    _legend(figure, axes, in_order(results))
    caption = "Time of a train step against each size, both logarithmic: medians, and quartiles as lines."
    words = "; ".join(_curve_in_words(results, curve) for curve in curves)
    return Drawing("scaling", caption, f"Curves of the milliseconds per train step. {words}.", figure)


def _curves(ax: Any, results: Results, curve: Scaling) -> None:
    from matplotlib.ticker import LogLocator

    for name in scaled(results, curve):
        sizes, samples = curve_of(curve, name)
        low, middle, high = 1e3 * np.asarray([quartiles(seconds) for seconds in samples]).T
        spread = [middle - low, high - middle]
        ax.errorbar(sizes, middle, yerr=spread, fmt="none", ecolor=style_of(name).colour)
        ax.plot(sizes, middle, markersize=5, linewidth=1.3, label=name, **line_style(name))
    ax.set(xscale="log", yscale="log")
    ax.set_title(AXIS_TITLES[curve.axis], fontsize=10, fontweight="bold")
    ax.set_xlabel(f"{AXIS_TITLES[curve.axis]} ({fixed_sizes(results, curve.axis)})", fontsize=8.5)
    sizes = sorted({getattr(point, curve.axis) for point in curve.points})
    ax.set_xticks(sizes, [str(size) for size in sizes])
    # Plain numbers, and more than the powers of ten, of which there may be only one.
    ax.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    ax.yaxis.set_major_formatter("{x:g}")
    ax.minorticks_off()
    ax.grid(visible=True, alpha=0.3)


def _curve_in_words(results: Results, curve: Scaling) -> str:
    told = []
    for name in scaled(results, curve):
        sizes, samples = curve_of(curve, name)
        first, last = (three_digits(1e3 * median(samples[end])) for end in (0, -1))
        told.append(f"{name} from {first} at {sizes[0]} to {last} at {sizes[-1]}")
    return f"Over {AXIS_TITLES[curve.axis]}: {', '.join(told)}"


def _legend(figure: Any, axes: Sequence[Any], order: Sequence[str]) -> None:
    """One legend for all panels, beside them, in the order of tables."""
    handles = {
        label: handle for ax in axes for handle, label in zip(*ax.get_legend_handles_labels(), strict=True)
    }
    names = [*(name for name in order if name in handles), *(name for name in handles if name not in order)]
    figure.legend([handles[name] for name in names], names, loc="outside right upper", fontsize=9)


# --------------------------------------------------------------------------------------------------
# Learning
# --------------------------------------------------------------------------------------------------


def _learning(results: Results) -> Drawing | None:
    """A panel for each framework, in which the others are grey: fifteen curves in one are a tangle."""
    found = learners(results)
    if not found:
        return None
    columns = min(len(found), MOST_COLUMNS)
    rows = -(-len(found) // columns)
    figure = _figure(1.0 + 2.7 * max(columns, 2), 0.8 + 2.1 * rows)
    axes = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
    for ax, name in zip(axes.flat, found, strict=False):
        for other, runs in found.items():
            if other != name:
                _accuracy(ax, runs, color="#CCCCCC", linewidth=0.7, zorder=1)
        _accuracy(ax, found[name], markersize=3, linewidth=1.2, zorder=3, **line_style(name))
        for target in TARGETS:
            ax.axhline(100 * target, color=GREY, linewidth=0.6, linestyle=":", zorder=2)
        ax.set_title(name, fontsize=9.5, fontweight="bold")
        ax.grid(visible=True, alpha=0.2)
    for ax in list(axes.flat)[len(found) :]:
        ax.set_axis_off()
    _accuracy_axes(axes.flat[0], found)
    for place, ax in enumerate(axes.flat):  # a panel above an empty one has to have its numbers itself
        ax.tick_params(axis="x", labelbottom=place < len(found) <= place + columns)
    figure.supxlabel("seconds from the start of the process, without evaluation (logarithmic)", fontsize=10)
    figure.supylabel("test accuracy, %", fontsize=10)
    lines = " and ".join(percent(target) for target in TARGETS)
    caption = (
        f"Test accuracy against time, a line for each seed; in grey the other frameworks; dotted: {lines}. "
        "Further left is faster."
    )
    told = ", ".join(
        f"{name} {100 * median([run.accuracy[-1] for run in runs]):.2f} % after "
        f"{three_digits(median([_from_start(run)[-1] for run in runs]))} s"
        for name, runs in found.items()
    )
    return Drawing("learning", caption, f"Curves of accuracy. At the end: {told}.", figure)


def _from_start(run: Learning) -> list[float]:
    return [run.start_seconds + run.first_step_seconds + seconds for seconds in run.seconds]


def _accuracy(ax: Any, runs: Sequence[Learning], **options: Any) -> None:
    for run in runs:
        ax.plot(_from_start(run), [100 * accuracy for accuracy in run.accuracy], **options)


def _accuracy_axes(ax: Any, found: dict[str, tuple[Learning, ...]]) -> None:
    """Axes that begin where the curves become interesting: most begin far below the targets."""
    from matplotlib.ticker import LogLocator

    values = [100 * accuracy for runs in found.values() for run in runs for accuracy in run.accuracy]
    bottom = min(values) if max(values) < 90 else max(min(values), 90)
    ax.set_ylim(bottom - 0.5, max(*values, 100 * TARGETS[-1]) + 0.5)
    ax.set_xscale("log")
    ax.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    ax.xaxis.set_major_formatter("{x:g}")
    ax.minorticks_off()


# --------------------------------------------------------------------------------------------------
# Parity
# --------------------------------------------------------------------------------------------------


def _parity(results: Results) -> Drawing | None:
    """The error of each loss curve so far: the errors themselves jump up and down by powers of ten."""
    judge = np.asarray(results.judge_losses)
    curves = {
        name: np.asarray(parity.losses)
        for name in in_order(results)
        if (parity := results.frameworks[name].parity) and len(parity.losses) == len(judge) > 0
    }
    if not curves:
        return None
    figure = _figure(8.6, 4.4)
    ax = figure.subplots()
    steps = np.arange(1, len(judge) + 1)
    told = []
    for number, (name, losses) in enumerate(curves.items()):
        with np.errstate(invalid="ignore"):
            errors = np.fmax.accumulate(np.maximum(np.abs(losses / judge - 1), SMALLEST_ERROR))
        label = name if results.frameworks[name].agrees else f"{name} (different)"
        every = max(len(steps) // 8, 1)
        marked = (number % every, every)
        ax.plot(steps, errors, markevery=marked, markersize=5, linewidth=1.3, label=label, **line_style(name))
        told.append(f"{label} {errors[-1]:.1e}")
    allowed = results.tolerances.get("curve")
    if allowed:
        ax.axhline(allowed, color="#B00000", linewidth=1.5, linestyle="--")
        text, last = f"allowed: {allowed:g}", (steps[-1], allowed)
        ax.annotate(text, last, (0, 7), color="#B00000", horizontalalignment="right", **BESIDE)
    ax.set(yscale="log", xlabel="train step", ylabel="largest relative error of the loss so far")
    ax.grid(visible=True, alpha=0.3)
    _legend(figure, [ax], list(curves))
    caption = (
        "How far each loss curve is from that of the float64 judge, from equal weights; lower is closer."
    )
    return Drawing("parity", caption, f"Curves. After {len(judge)} steps: {', '.join(told)}.", figure)

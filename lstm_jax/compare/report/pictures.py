"""The results as pictures: bars of speed, curves over sizes, accuracy against time, errors against steps.

The tables have the same numbers.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from lstm_jax.compare.frameworks import BENCHMARKED, FRAMEWORKS
from lstm_jax.compare.parity import TOLERANCES
from lstm_jax.compare.report.tables import (
    TARGETS,
    curve,
    fixed_sizes,
    in_order,
    items,
    learners,
    percent,
    timed,
)
from lstm_jax.compare.results import MAIN, Comparison, Point
from lstm_jax.compare.size import AXES
from lstm_jax.compare.statistics import median, quartiles
from lstm_jax.compare.worker import INFER, LATENCY, TRAIN
from lstm_jax.report.drawing import GREY, as_files, logarithmic, new_figure, styled

MOST_COLUMNS = 4
# Bars longer than so many times the upper quartile of all are cut.
CUT = 2.5
BESIDE: Any = {"textcoords": "offset points", "va": "center", "fontsize": 9}
# A logarithmic axis cannot show an error of 0; this is far below float32 rounding.
SMALLEST_ERROR = 1e-9


class Picture(NamedTuple):
    """A caption, and the files of a picture by suffix."""

    caption: str
    files: Mapping[str, bytes]

    def write(self, folder: Path, name: str) -> None:
        """Write the picture as PNG and SVG."""
        for suffix, content in self.files.items():
            (folder / f"{name}.{suffix}").write_bytes(content)


def pictures(comparison: Comparison) -> dict[str, Picture]:
    """Draw the pictures of all results, and return them by name.

    Raises:
        ImportError: if matplotlib is not installed.
    """
    return {name: found for name, draw in DRAWN.items() if (found := _picture(draw, comparison)) is not None}


def benchmark_picture(points: Sequence[Point]) -> Picture | None:
    """Draw the time of a train step against the hidden size, a panel for each batch size and sequence length.

    A single hidden size is drawn as bars.

    Raises:
        ImportError: if matplotlib is not installed.
    """
    return _picture(_benchmark, points)


def _picture(draw: Callable[[Any], tuple[Any, str] | None], results: Any) -> Picture | None:
    """Draw a figure and make files of it; return None if there is nothing to draw."""
    if (drawn := styled(draw)(results)) is None:
        return None
    figure, caption = drawn
    return Picture(caption, as_files(figure))


def _panels(count: int, columns: int, *, width: float, height: float) -> tuple[Any, list[Any]]:
    """Make a figure with so many panels, each of a width and height in inches, and hide any spare ones."""
    rows = -(-count // columns)
    figure = new_figure(columns * width + 1.6, rows * height)
    axes = list(figure.subplots(rows, columns, squeeze=False).flat)
    for ax in axes[count:]:
        ax.set_axis_off()
    return figure, axes[:count]


def _line_style(name: str) -> dict[str, Any]:
    colour, marker = {**BENCHMARKED, **FRAMEWORKS}[name].style
    return {"color": colour, "marker": marker, "label": name, "markersize": 5, "linewidth": 1.3}


def _legend(figure: Any, axes: Iterable[Any]) -> None:
    """Draw one legend for all panels, beside them."""
    pairs = [zip(*ax.get_legend_handles_labels(), strict=True) for ax in axes]
    handles = {label: handle for each in pairs for handle, label in each}
    figure.legend(list(handles.values()), list(handles), loc="outside right upper", fontsize=9)


def _benchmark(points: Sequence[Point]) -> tuple[Any, str] | None:
    if not any(point.seconds(TRAIN) for point in points):  # all are for inference only
        return None
    panels: dict[str, list[Point]] = {}
    for point in sorted(points, key=lambda point: (point.size.time, point.size.batch, point.size.hidden)):
        panels.setdefault(f"batch {point.size.batch}, {point.size.time} time steps", []).append(point)
    has_bars = len({point.size.hidden for point in points}) == 1
    columns = min(len({point.size.batch for point in points}), MOST_COLUMNS)
    figure, axes = _panels(len(panels), columns, width=4.6, height=3.8)
    for ax, (title, panel) in zip(axes, panels.items(), strict=True):
        names = list(panel[0].rows)
        if has_bars:
            _bars(ax, f"{title}: train step, ms", panel[0].seconds(TRAIN), names)
            ax.set_yticks(range(len(names)), names)
        else:
            _curves(ax, panel, "hidden", names)
            ax.set(title=title, xlabel="hidden size", ylabel="train step, ms")
    if not has_bars:
        _legend(figure, axes)
    return figure, "Time of a train step."


def _speed(comparison: Comparison) -> tuple[Any, str] | None:
    """Draw bars: train step, inference and latency side by side, in the same order."""
    point = comparison.points[MAIN]
    names, what = list(timed(point)), items(point.size)
    titles = {
        TRAIN: "train step, ms",
        INFER: f"inference of {point.size.batch} {what}, ms",
        LATENCY: f"a single {what[:-1]}, ms",
    }
    bars = {title: found for measure, title in titles.items() if (found := point.seconds(measure))}
    if not bars:
        return None
    figure, axes = _panels(len(bars), len(bars), width=3.4, height=1.0 + 0.34 * len(names))
    for ax, (title, seconds) in zip(axes, bars.items(), strict=True):
        _bars(ax, title, seconds, names)
        ax.set_yticks(range(len(names)), names if ax is axes[0] else [""] * len(names))
    return figure, "Medians, and lines between the quartiles; shorter is better. A bar with “cut” is longer."


def _bars(ax: Any, title: str, bars: Mapping[str, Sequence[float]], names: Sequence[str]) -> None:
    """Draw a bar for each name that has one."""
    medians = [1e3 * median(seconds) for seconds in bars.values()] or [1.0]
    # Cut bars, because one framework that takes fifty times as long would make all others invisible.
    longest = min(max(medians), CUT * quartiles(medians)[2])
    for place, name in enumerate(names):
        if name not in bars:
            ax.annotate("not measured", (0, place), (5, 0), color=GREY, **BESIDE)
            continue
        low, middle, high = (1e3 * value for value in quartiles(bars[name]))
        is_cut, end = middle > longest, min(high, longest)
        spread = None if is_cut else [[middle - low], [high - middle]]
        colour = _line_style(name)["color"]
        ax.barh(place, min(middle, longest), xerr=spread, capsize=3, ecolor=GREY, color=colour, height=0.7)
        ax.annotate(
            f"{middle:.3g}{' (cut)' * is_cut}", (max(end, min(middle, longest)), place), (5, 0), **BESIDE
        )
    ax.set_xlim(0, 1.35 * longest)
    ax.set_ylim(len(names) - 0.5, -0.5)  # the first on top
    ax.set_title(title, fontsize=10)
    ax.tick_params(axis="y", length=0)
    ax.grid(visible=True, axis="x", alpha=0.3)
    ax.set_axisbelow(True)


def _scaling(comparison: Comparison) -> tuple[Any, str] | None:
    """Draw a panel for each axis, all in double logarithmic scale."""
    curves = {axis: points for axis in AXES if (points := curve(comparison, axis))}
    if not curves:
        return None
    figure, axes = _panels(len(curves), len(curves), width=3.6, height=4.6)
    for ax, (axis, points) in zip(axes, curves.items(), strict=True):
        _curves(ax, points, axis, in_order(comparison))
        ax.set_title(AXES[axis], fontsize=10, fontweight="bold")
        ax.set_xlabel(f"{AXES[axis]} ({fixed_sizes(points[0].size, axis)})", fontsize=8.5)
    axes[0].set_ylabel("train step, ms")
    _legend(figure, axes)
    return (
        figure,
        "Time of a train step against each size, both logarithmic: medians, and quartiles as lines.",
    )


def _curves(ax: Any, points: Sequence[Point], axis: str, names: Sequence[str]) -> None:
    """Draw the time of a train step along an axis, a line for each name."""
    for name in names:
        found = {getattr(p.size, axis): p.seconds(TRAIN)[name] for p in points if name in p.seconds(TRAIN)}
        if found:
            low, middle, high = 1e3 * np.asarray([quartiles(seconds) for seconds in found.values()]).T
            spread, style = [middle - low, high - middle], _line_style(name)
            ax.errorbar(list(found), middle, yerr=spread, fmt="none", ecolor=style["color"])
            ax.plot(list(found), middle, **style)
    logarithmic(ax, "x")
    logarithmic(ax, "y")
    sizes = [getattr(point.size, axis) for point in points]
    ax.set_xticks(sizes, [str(size) for size in sizes])
    ax.grid(visible=True, alpha=0.3)


def _learning(comparison: Comparison) -> tuple[Any, str] | None:
    """Draw a panel for each framework, with the others in grey: a dozen coloured curves would be a tangle."""
    found = learners(comparison)
    if not found:
        return None
    lines = {
        name: [(run.seconds_from_start(), [100 * share for share in run.accuracy]) for run in runs]
        for name, runs in found.items()
    }
    columns = min(len(found), MOST_COLUMNS)
    figure, axes = _panels(len(found), columns, width=2.7, height=2.3)
    values = [value for name in lines for _, values in lines[name] for value in values]
    # Start where the curves become interesting: most begin far below the targets.
    bottom = min(values) if max(values) < 90 else max(min(values), 90)
    for place, (ax, name) in enumerate(zip(axes, lines, strict=True)):
        for line in (line for other in lines if other != name for line in lines[other]):
            ax.plot(*line, color="#CCCCCC", linewidth=0.7, zorder=1)
        for line in lines[name]:
            ax.plot(*line, **{**_line_style(name), "markersize": 3, "zorder": 3})
        for target in TARGETS:
            ax.axhline(100 * target, color=GREY, linewidth=0.6, linestyle=":", zorder=2)
        ax.set_title(name, fontsize=9.5, fontweight="bold")
        ax.set_ylim(bottom - 0.5, max(*values, 100 * TARGETS[-1]) + 0.5)
        logarithmic(ax, "x")
        ax.tick_params(labelleft=place % columns == 0, labelbottom=place + columns >= len(found))
        ax.grid(visible=True, alpha=0.2)
    figure.supxlabel("seconds from the start of the process, without evaluation (logarithmic)", fontsize=10)
    figure.supylabel("test accuracy, %", fontsize=10)
    return figure, (
        "Test accuracy against time, a line for each seed; in grey the other frameworks; dotted: "
        f"{' and '.join(percent(target) for target in TARGETS)}. Further left is faster."
    )


def _parity(comparison: Comparison) -> tuple[Any, str] | None:
    """Draw the largest error of each loss curve so far: single errors jump by powers of ten."""
    point = comparison.points[MAIN]
    judge = np.asarray(point.judge_losses, np.float64)
    found = {name: row.parity.losses for name, row in point.rows.items() if row.parity and row.parity.losses}
    if not found:
        return None
    figure, (ax,) = _panels(1, 1, width=7.0, height=4.4)
    steps = np.arange(1, len(judge) + 1)
    for number, (name, losses) in enumerate(found.items()):
        with np.errstate(invalid="ignore"):
            errors = np.abs(np.asarray(losses, np.float64) / judge - 1)
        every = max(len(steps) // 8, 1)
        highest = np.fmax.accumulate(np.maximum(errors, SMALLEST_ERROR))
        ax.plot(steps, highest, markevery=(number % every, every), **_line_style(name))
    ax.axhline(TOLERANCES["curve"], color="#B00000", linewidth=1.5, linestyle="--", label="allowed")
    ax.set(yscale="log", xlabel="train step", ylabel="largest relative error of the loss so far")
    ax.grid(visible=True, alpha=0.3)
    _legend(figure, [ax])
    return (
        figure,
        "How far each loss curve is from that of the float64 judge, from equal weights; lower is closer.",
    )


# The functions that draw each picture, by the name of its files.
DRAWN: Mapping[str, Callable[[Comparison], tuple[Any, str] | None]] = {
    "speed": _speed,
    "parity": _parity,
    "learning": _learning,
    "scaling": _scaling,
}

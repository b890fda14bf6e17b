"""Results as pictures: bars of speed, curves over sizes, accuracy against time, errors against steps.

Each picture comes with a caption and with the same in words, for those who cannot see it. matplotlib is
imported only when one is drawn, and without pyplot: no display is looked for, and nothing stays open.
"""

import io
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from lstm_jax.compare.parity import TOLERANCES
from lstm_jax.compare.report.tables import (
    TARGETS,
    curve,
    fixed_sizes,
    in_order,
    items,
    learners,
    percent,
    three_digits,
    timed,
)
from lstm_jax.compare.results import MAIN, Comparison, Learning, Point
from lstm_jax.compare.size import AXES
from lstm_jax.compare.statistics import median, quartiles
from lstm_jax.compare.worker import INFER, LATENCY, TRAIN

NO_PICTURES = "no pictures: matplotlib is not installed (pip install -r requirements-compare.txt)"
NAMES = ("speed", "scaling", "learning", "parity")
SUFFIXES = ("png", "svg")
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

# Colour and marker of each framework, the same in every picture, whoever else is in it. The hues are Okabe &
# Ito's, which the colour-blind tell apart, one for each family; within a family the shade differs. In a
# picture no two have the same marker, so that nothing hangs on the colour alone.
STYLES: Mapping[str, tuple[str, str]] = {
    "lstm_jax-native": ("#B84A00", "o"),
    "lstm_jax-fused": ("#D55E00", "s"),
    "lstm_jax-unrolled": ("#F5B98C", "v"),
    "flax-rnn": ("#004C7A", "<"),
    "flax-scan": ("#0072B2", ">"),
    "flax-nnx": ("#5AA9DB", "d"),
    "equinox": ("#006B4E", "D"),
    "haiku": ("#2DB98F", "P"),
    "keras-jax": ("#8C3F6F", "8"),
    "keras-tensorflow": ("#CC79A7", "p"),
    "pytorch": ("#000000", "X"),
    "pytorch-compile": ("#666666", "*"),
    "onnxruntime": ("#C79A00", "h"),
    # Those of `benchmark` that have another name there.
    "native": ("#B84A00", "o"),
    "fused": ("#D55E00", "s"),
    "scan": ("#EB8F47", "^"),
    "unrolled": ("#F5B98C", "v"),
    "flax": ("#0072B2", ">"),
    "flax-optimized": ("#004C7A", "<"),
}


class Picture(NamedTuple):
    """A picture.

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

    def write(self, folder: Path) -> None:
        """Write it as PNG and SVG."""
        from matplotlib import rc_context

        with rc_context(SETTINGS):
            for suffix in SUFFIXES:
                file = io.BytesIO()
                undated = {"Date": None} if suffix == "svg" else {}
                self.figure.savefig(file, format=suffix, dpi=150, metadata=undated)
                self.figure.set_layout_engine("none")  # all has its place now; the second file is the quicker
                (folder / f"{self.name}.{suffix}").write_bytes(file.getvalue())


def pictures(comparison: Comparison) -> list[Picture]:
    """The pictures of all that was measured.

    Raises:
        ImportError: if matplotlib is not installed.
    """
    from matplotlib import rc_context

    with rc_context(SETTINGS):
        drawn = [draw(comparison) for draw in (_speed, _scaling, _learning, _parity)]
    return [picture for picture in drawn if picture is not None]


def benchmark_picture(points: Sequence[Point]) -> Picture:
    """The time of a train step against the hidden size, a panel for each batch and number of time steps.

    With a single hidden size, as bars.

    Raises:
        ImportError: if matplotlib is not installed.
    """
    from matplotlib import rc_context

    panels: dict[str, list[Point]] = {}
    for point in sorted(points, key=lambda point: (point.size.time, point.size.batch, point.size.hidden)):
        panels.setdefault(f"batch {point.size.batch}, {point.size.time} time steps", []).append(point)
    hidden = sorted({point.size.hidden for point in points})
    columns = min(len({point.size.batch for point in points}), MOST_COLUMNS)
    with rc_context(SETTINGS):
        figure, axes = _panels(len(panels), columns, width=4.6, height=3.8)
        for ax, (title, panel) in zip(axes, panels.items(), strict=True):
            if len(hidden) == 1:
                _bars(ax, f"{title}: train step, ms", panel[0].seconds(TRAIN), list(panel[0].rows))
                ax.set_yticks(range(len(panel[0].rows)), list(panel[0].rows))
            else:
                _curves(ax, panel, "hidden", list(panel[0].rows))
                ax.set(title=title, xlabel="hidden size", ylabel="train step, ms")
        if len(hidden) > 1:
            _legend(figure, axes)
    return Picture("plot", "Time of a train step.", "", figure)


def _panels(count: int, columns: int, *, width: float, height: float) -> tuple[Any, list[Any]]:
    """A figure with so many panels, each of a width and height in inches; those too many are switched off."""
    from matplotlib.figure import Figure

    rows = -(-count // columns)
    figure = Figure(figsize=(columns * width + 1.6, rows * height), layout="constrained")
    axes = list(figure.subplots(rows, columns, squeeze=False).flat)
    for ax in axes[count:]:
        ax.set_axis_off()
    return figure, axes[:count]


def _line_style(name: str) -> dict[str, Any]:
    colour, marker = STYLES.get(name, ("#999999", "."))  # of one that a later version compares
    return {"color": colour, "marker": marker, "label": name, "markersize": 5, "linewidth": 1.3}


def _legend(figure: Any, axes: Iterable[Any]) -> None:
    """One legend for all panels, beside them."""
    handles = {
        label: handle for ax in axes for handle, label in zip(*ax.get_legend_handles_labels(), strict=True)
    }
    figure.legend(list(handles.values()), list(handles), loc="outside right upper", fontsize=9)


def _plain_numbers(axis: Any) -> None:
    """Plain numbers on a logarithmic axis, and more than powers of ten, of which there may be only one."""
    from matplotlib.ticker import LogLocator

    axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.set_major_formatter("{x:g}")


# --------------------------------------------------------------------------------------------------
# Speed
# --------------------------------------------------------------------------------------------------


def _speed(comparison: Comparison) -> Picture | None:
    """Bars: train step, inference and latency side by side, in the same order."""
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
    told = (
        f"{title}: {', '.join(f'{name} {three_digits(1e3 * median(s))}' for name, s in seconds.items())}"
        for title, seconds in bars.items()
    )
    caption = "Medians, and lines between the quartiles; shorter is better. A bar with “cut” is longer."
    return Picture("speed", caption, f"Bars. {'; '.join(told)}.", figure)


def _bars(ax: Any, title: str, bars: Mapping[str, Sequence[float]], names: Sequence[str]) -> None:
    """A bar for each name that has one."""
    medians = [1e3 * median(seconds) for seconds in bars.values()] or [1.0]
    # One framework that takes fifty times as long would leave nothing to see of all others.
    longest = min(max(medians), CUT * quartiles(medians).high)
    for place, name in enumerate(names):
        if name not in bars:
            ax.annotate("no such", (0, place), (5, 0), color=GREY, **BESIDE)
            continue
        low, middle, high = (1e3 * value for value in quartiles(bars[name]))
        options = {"color": _line_style(name)["color"], "height": 0.7}
        if middle > longest:
            ax.barh(place, longest, **options)
            ax.annotate("//", (longest, place), (-14, 0), color="white", **{**BESIDE, "fontsize": 13})
            ax.annotate(f"{three_digits(middle)} (cut)", (longest, place), (5, 0), **BESIDE)
        else:
            ax.barh(place, middle, xerr=[[middle - low], [high - middle]], capsize=3, ecolor=GREY, **options)
            ax.annotate(three_digits(middle), (max(high, middle), place), (5, 0), **BESIDE)
    ax.set_xlim(0, 1.3 * longest)
    ax.set_ylim(len(names) - 0.5, -0.5)  # the first on top
    ax.set_title(title, fontsize=10)
    ax.tick_params(axis="y", length=0)
    ax.grid(visible=True, axis="x", alpha=0.3)
    ax.set_axisbelow(True)


# --------------------------------------------------------------------------------------------------
# Scaling
# --------------------------------------------------------------------------------------------------


def _scaling(comparison: Comparison) -> Picture | None:
    """A panel for each axis, all in double logarithmic scale."""
    curves = {axis: points for axis in AXES if (points := curve(comparison, axis))}
    if not curves:
        return None
    figure, axes = _panels(len(curves), len(curves), width=3.6, height=4.6)
    told = []
    for ax, (axis, points) in zip(axes, curves.items(), strict=True):
        _curves(ax, points, axis, in_order(comparison))
        ax.set_title(AXES[axis], fontsize=10, fontweight="bold")
        ax.set_xlabel(f"{AXES[axis]} ({fixed_sizes(points[0].size, axis)})", fontsize=8.5)
        ends = [(getattr(point.size, axis), point.seconds(TRAIN)) for point in (points[0], points[-1])]
        told += [
            f"{name} from {three_digits(1e3 * median(found))} at {ends[0][0]} to "
            f"{three_digits(1e3 * median(ends[1][1][name]))} at {ends[1][0]}"
            for name, found in ends[0][1].items()
            if name in ends[1][1]
        ]
    axes[0].set_ylabel("train step, ms")
    _legend(figure, axes)
    caption = "Time of a train step against each size, both logarithmic: medians, and quartiles as lines."
    return Picture(
        "scaling", caption, f"Curves of the milliseconds per train step: {'; '.join(told)}.", figure
    )


def _curves(ax: Any, points: Sequence[Point], axis: str, names: Sequence[str]) -> None:
    """The seconds of a train step along an axis, a line for each name."""
    for name in names:
        found = {getattr(p.size, axis): p.seconds(TRAIN)[name] for p in points if name in p.seconds(TRAIN)}
        if found:
            low, middle, high = 1e3 * np.asarray([quartiles(seconds) for seconds in found.values()]).T
            spread, style = [middle - low, high - middle], _line_style(name)
            ax.errorbar(list(found), middle, yerr=spread, fmt="none", ecolor=style["color"])
            ax.plot(list(found), middle, **style)
    ax.set(xscale="log", yscale="log")
    sizes = [getattr(point.size, axis) for point in points]
    ax.set_xticks(sizes, [str(size) for size in sizes])
    _plain_numbers(ax.yaxis)
    ax.minorticks_off()
    ax.grid(visible=True, alpha=0.3)


# --------------------------------------------------------------------------------------------------
# Learning
# --------------------------------------------------------------------------------------------------


def _learning(comparison: Comparison) -> Picture | None:
    """A panel for each framework, in which the others are grey: a dozen curves in one are a tangle."""
    found = learners(comparison)
    if not found:
        return None
    columns = min(len(found), MOST_COLUMNS)
    figure, axes = _panels(len(found), columns, width=2.7, height=2.3)
    values = [100 * accuracy for runs in found.values() for run in runs for accuracy in run.accuracy]
    # Where the curves become interesting: most begin far below the targets.
    bottom = min(values) if max(values) < 90 else max(min(values), 90)
    ends = [seconds for runs in found.values() for run in runs for seconds in _from_start(run)]
    for place, (ax, (name, runs)) in enumerate(zip(axes, found.items(), strict=True)):
        for run in (run for other, others in found.items() if other != name for run in others):
            _accuracy(ax, run, color="#CCCCCC", linewidth=0.7, zorder=1)
        for run in runs:
            _accuracy(ax, run, **{**_line_style(name), "markersize": 3, "zorder": 3})
        for target in TARGETS:
            ax.axhline(100 * target, color=GREY, linewidth=0.6, linestyle=":", zorder=2)
        ax.set_title(name, fontsize=9.5, fontweight="bold")
        ax.set(xscale="log", xlim=(min(ends) / 1.1, 1.1 * max(ends)))
        ax.set_ylim(bottom - 0.5, max(*values, 100 * TARGETS[-1]) + 0.5)
        _plain_numbers(ax.xaxis)
        ax.minorticks_off()
        ax.tick_params(labelleft=place % columns == 0, labelbottom=place + columns >= len(found))
        ax.grid(visible=True, alpha=0.2)
    figure.supxlabel("seconds from the start of the process, without evaluation (logarithmic)", fontsize=10)
    figure.supylabel("test accuracy, %", fontsize=10)
    caption = (
        "Test accuracy against time, a line for each seed; in grey the other frameworks; dotted: "
        f"{' and '.join(percent(target) for target in TARGETS)}. Further left is faster."
    )
    told = ", ".join(
        f"{name} {100 * median([run.accuracy[-1] for run in runs]):.2f} % after "
        f"{three_digits(median([_from_start(run)[-1] for run in runs]))} s"
        for name, runs in found.items()
    )
    return Picture("learning", caption, f"Curves of accuracy. At the end: {told}.", figure)


def _from_start(run: Learning) -> list[float]:
    return [run.start_seconds + run.first_step_seconds + seconds for seconds in run.seconds]


def _accuracy(ax: Any, run: Learning, **options: Any) -> None:
    ax.plot(_from_start(run), [100 * accuracy for accuracy in run.accuracy], **options)


# --------------------------------------------------------------------------------------------------
# Parity
# --------------------------------------------------------------------------------------------------


def _parity(comparison: Comparison) -> Picture | None:
    """The error of each loss curve so far: the errors themselves jump up and down by powers of ten."""
    point = comparison.points[MAIN]
    judge = np.asarray(point.judge_losses, np.float64)
    curves = {
        name: np.asarray(parity.losses, np.float64)
        for name in in_order(comparison)
        if (parity := point.rows[name].parity) and len(parity.losses) == len(judge) > 0
    }
    if not curves:
        return None
    figure, (ax,) = _panels(1, 1, width=7.0, height=4.4)
    steps, told = np.arange(1, len(judge) + 1), []
    for number, (name, losses) in enumerate(curves.items()):
        with np.errstate(invalid="ignore"):
            errors = np.fmax.accumulate(np.maximum(np.abs(losses / judge - 1), SMALLEST_ERROR))
        every = max(len(steps) // 8, 1)
        ax.plot(steps, errors, markevery=(number % every, every), **_line_style(name))
        told.append(f"{name} {errors[-1]:.1e}")
    allowed: Any = (steps[-1], TOLERANCES["curve"])
    ax.axhline(allowed[1], color="#B00000", linewidth=1.5, linestyle="--")
    ax.annotate(
        f"allowed: {allowed[1]:g}", allowed, (0, 7), color="#B00000", horizontalalignment="right", **BESIDE
    )
    ax.set(yscale="log", xlabel="train step", ylabel="largest relative error of the loss so far")
    ax.grid(visible=True, alpha=0.3)
    _legend(figure, [ax])
    caption = (
        "How far each loss curve is from that of the float64 judge, from equal weights; lower is closer."
    )
    return Picture("parity", caption, f"Curves. After {len(judge)} steps: {', '.join(told)}.", figure)

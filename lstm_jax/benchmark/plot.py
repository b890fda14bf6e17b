"""Results as a picture: the time of a train step against the hidden size."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from lstm_jax.benchmark.options import CANDIDATES
from lstm_jax.benchmark.report import CandidateResult, SizeResult

# Okabe & Ito's colours, which the colour-blind tell apart, and a marker: each candidate keeps its own in
# every picture, whoever else is in it.
STYLES = dict(
    zip(
        CANDIDATES,
        [
            ("#000000", "o"),
            ("#999999", "s"),
            ("#56B4E9", "v"),
            ("#CC79A7", "P"),
            ("#E69F00", "^"),
            ("#D55E00", "D"),
            ("#0072B2", "X"),
        ],
        strict=True,
    )
)
PANEL_INCHES = (4.6, 3.8)
MOST_COLUMNS = 4


def write_plots(results: Sequence[SizeResult], folder: Path) -> None:
    """Write plot.png and plot.svg.

    Raises:
        ImportError: if matplotlib is not installed.
    """
    # Figure and not pyplot: no display is looked for, and nothing stays open.
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    with rc_context({"font.size": 11, "svg.hashsalt": "lstm_jax"}):
        panels = _panels(results)
        columns = min(len({result.size.batch for result in results}), MOST_COLUMNS)
        rows = -(-len(panels) // columns)
        width, height = columns * PANEL_INCHES[0] + 0.6, rows * PANEL_INCHES[1]
        figure = Figure(figsize=(width, height), layout="constrained")
        axes = list(figure.subplots(rows, columns, squeeze=False).flat)
        bars = len({result.size.hidden for result in results}) == 1
        for ax, (title, panel) in zip(axes, panels.items(), strict=False):
            ax.set_title(title, fontsize=11)
            if bars:
                _draw_bars(ax, panel[0])
            else:
                _draw_lines(ax, panel)
        for ax in axes[len(panels) :]:
            ax.set_axis_off()
        if not bars:
            handles = {h.get_label(): h for ax in axes for h in ax.get_legend_handles_labels()[0]}
            labels = [name for name in CANDIDATES if name in handles]
            figure.legend(
                [handles[name] for name in labels], labels, loc="outside upper center", ncols=3 * columns
            )
        for suffix in ("png", "svg"):
            figure.savefig(folder / f"plot.{suffix}", dpi=150)


def _panels(results: Iterable[SizeResult]) -> dict[str, list[SizeResult]]:
    """The results by batch and number of time steps, each panel in order of the hidden size."""
    panels: dict[str, list[SizeResult]] = {}
    for result in sorted(results, key=lambda r: (r.size.time, r.size.batch, r.size.hidden)):
        panels.setdefault(f"batch {result.size.batch}, {result.size.time} time steps", []).append(result)
    return panels


def _draw_lines(ax: Any, panel: Sequence[SizeResult]) -> None:
    """Medians as lines in double logarithmic scale, quartiles as bars."""
    from matplotlib.ticker import LogLocator

    hidden = [result.size.hidden for result in panel]
    for name, (colour, marker) in STYLES.items():
        found = [(r.size.hidden, timing) for r in panel if (timing := _train_step(r.candidate(name)))]
        if not found:
            continue
        quartiles = [[1e3 * seconds for seconds in timing.quartiles] for _, timing in found]
        ax.errorbar(
            [size for size, _ in found],
            [median for _, median, _ in quartiles],
            yerr=[[m - low for low, m, _ in quartiles], [high - m for _, m, high in quartiles]],
            color=colour,
            marker=marker,
            markersize=6,
            capsize=3,
            label=name,
        )
    ax.set(xscale="log", yscale="log", xlabel="hidden size", ylabel="train step, ms")
    ax.set_xticks(hidden, [str(size) for size in hidden])
    # Plain numbers, and more than the powers of ten, of which there may be only one.
    ax.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    ax.yaxis.set_major_formatter("{x:g}")
    ax.minorticks_off()
    ax.grid(visible=True, alpha=0.3)


def _draw_bars(ax: Any, result: SizeResult) -> None:
    """Medians as horizontal bars, the first candidate on top, with their values beside them."""
    found = [(c.name, timing) for c in result.candidates if (timing := _train_step(c))]
    for place, (name, timing) in enumerate(found):
        low, median, high = (1e3 * seconds for seconds in timing.quartiles)
        spread = [[median - low], [high - median]]
        ax.barh(place, median, xerr=spread, capsize=4, ecolor="#666666", color=STYLES[name][0], height=0.7)
        ax.annotate(f"{median:.3g} ms", (high, place), (5, 0), textcoords="offset points", va="center")
    ax.set_yticks(range(len(found)), [name for name, _ in found])
    ax.invert_yaxis()
    ax.margins(x=0.25)
    ax.set_xlim(left=0)
    ax.set_xlabel(f"train step, ms (hidden size {result.size.hidden})")


def _train_step(candidate: CandidateResult | None) -> Any:
    return candidate.train_step if candidate else None

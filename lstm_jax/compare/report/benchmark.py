"""The table and the plot of ``benchmark``."""

from collections.abc import Sequence
from pathlib import Path

from lstm_jax.compare.frameworks import BASELINE
from lstm_jax.compare.report.pictures import benchmark_picture
from lstm_jax.compare.report.tables import (
    MARKS,
    NOTHING,
    first_at,
    marked,
    milliseconds,
    or_nothing,
    peak_of,
    share_of_peak,
)
from lstm_jax.compare.results import About, Point
from lstm_jax.compare.size import train_flop
from lstm_jax.compare.statistics import median, rank
from lstm_jax.compare.worker import CALLED, DISPATCHED, GRADIENT, INFER, TRAIN
from lstm_jax.errors import Report
from lstm_jax.report.drawing import NO_PICTURES
from lstm_jax.report.tables import Table, as_markdown

MEASURES = {
    INFER: "forward",
    CALLED: "called",
    GRADIENT: "gradient",
    TRAIN: "train step",
    DISPATCHED: "dispatched",
}


def heading(about: About) -> str:
    """Return the text above all tables: command, machine, versions and explanations."""
    found = ", ".join(f"{name} {number}" for name, number in about.versions.items())
    return (
        f"`{about.command}`\n\n{about.machine['cpu']}, {about.cores} cores; {found}. Medians of "
        f"{about.rounds} rounds, in which all take turns; in brackets the quartiles. Speed-up, "
        "GFLOP/s and share of the peak are those of the train step. Called: a forward pass in a call of "
        "its own, to the logits in NumPy. Dispatched: train steps called one by one. "
        f"{MARKS}"
    )


def as_text(point: Point, about: About) -> str:
    """Make a table in Markdown of one size, with a row for each implementation."""
    size, peak = point.size, peak_of(point)
    title = f"Hidden size {size.hidden}, batch {size.batch}, {size.time} time steps of {size.inputs} inputs"
    title += f", {about.devices} devices" if about.devices > 1 else ""
    ranks = {measure: rank(point.seconds(measure)) for measure in MEASURES}
    baseline = point.seconds(TRAIN).get(BASELINE)
    rows = []
    for name, row in point.rows.items():
        step, count = row.seconds.get(TRAIN), row.threads.get(TRAIN)
        threads = "" if count is None else f" ({count} thread{'s' * (count > 1)})"
        cells = {
            "implementation": f"{name}{threads}",
            **{
                f"{words}, ms": marked(milliseconds(row.seconds.get(measure)), name, ranks[measure])
                for measure, words in MEASURES.items()
            },
            f"vs {BASELINE}": f"{median(baseline) / median(step):.2f}x" if baseline and step else NOTHING,
            "GFLOP/s": or_nothing(train_flop(size) / median(step) / 1e9 if step else None, "{:.1f}".format),
            "of peak": share_of_peak(point, step),
            "first step, s": or_nothing(row.first_step_seconds, "{:.2f}".format),
            "memory, MB": or_nothing(row.step_memory and row.step_memory / 1e6, "{:.1f}".format),
        }
        rows.append(tuple(cells.values()))
    notes = [first_at({words: ranks[measure] for measure, words in MEASURES.items()})]
    notes += [f"Peak of the matrix product: {peak / 1e9:.0f} GFLOP/s."] if peak else []
    notes += [f"{name}: {row.why_not}" for name, row in point.rows.items() if row.why_not]
    return as_markdown(Table(tuple(cells), rows, notes, title), heading="##")


def write_plot(points: Sequence[Point], folder: Path, *, report: Report) -> None:
    """Write plot.png and plot.svg, or report that matplotlib is missing."""
    try:
        picture = benchmark_picture(points)
    except ImportError:
        report(NO_PICTURES)
    else:
        if picture is not None:
            picture.write(folder, "plot")

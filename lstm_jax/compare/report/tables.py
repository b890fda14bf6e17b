"""The results as tables in Markdown.

The fastest in each column is in bold. Those level with it are marked with ≈: the 95 % interval of their ratio
contains 1. A line below names the first ones. A table without rows says that nothing was measured.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from itertools import product
from statistics import fmean, stdev

from lstm_jax.compare.parity import TOLERANCES
from lstm_jax.compare.results import MAIN, Comparison, Learning, Point, Row
from lstm_jax.compare.size import AXES, Size, train_flop
from lstm_jax.compare.statistics import Ranking, Ratio, median, quartiles, rank, ratio, slope
from lstm_jax.compare.worker import INFER, LATENCY, PEAK_FLOP, TRAIN
from lstm_jax.report.tables import Table

NOTHING = "—"
LEVEL = "≈"
MARKS = (
    f"In bold: the fastest. {LEVEL}: level with it, because the 95 % interval of the ratio of their medians, "
    "by the bootstrap over rounds, contains 1."
)
# Test accuracies to which the time is measured.
TARGETS = (0.97, 0.98)


def decimals(value: float) -> int:
    """Return the number of decimals that give a number three digits, at most three."""
    size = abs(value)
    return 0 if size >= 100 else 1 if size >= 10 else 2 if size >= 1 else 3


def three_digits(value: float) -> str:
    """Format a number with three digits, and with commas if it is large."""
    return f"{value:,.{decimals(value)}f}"


def or_nothing(value: float | None, show: Callable[[float], str] = three_digits) -> str:
    """Format a number, or return a dash for None."""
    return NOTHING if value is None else show(value)


def milliseconds(seconds: Sequence[float] | None, nothing: str = NOTHING) -> str:
    """Format the median of measurements in milliseconds, with their quartiles in brackets."""
    if not seconds:
        return nothing
    low, middle, high = (1e3 * value for value in quartiles(seconds))
    places = decimals(middle)
    spread = f" ({low:,.{places}f}-{high:,.{places}f})" if len(seconds) > 1 else ""
    return f"{middle:,.{places}f}{spread}"


def percent(share: float) -> str:
    """Format a share of 1 as a percentage."""
    return f"{100 * share:g} %"


def in_digits(found: Ratio) -> str:
    """Format a ratio, with its interval in brackets."""
    interval = f" ({found.interval[0]:.2f} to {found.interval[1]:.2f})" if found.interval else ""
    return f"{found.value:.2f}{interval}"


def items(size: Size) -> str:
    """Return the name of the examples: images if they have the shape of a digit, else sequences."""
    return "images" if (size.time, size.inputs) == (28, 28) else "sequences"


def marked(text: str, name: str, ranking: Ranking) -> str:
    """Mark a cell: in bold if it is that of the fastest, with ≈ if it is level with it."""
    if name not in ranking.first:
        return text
    return f"**{text}**" if name == ranking.order[0] else f"{LEVEL} {text}"


def first_at(rankings: Mapping[str, Ranking]) -> str:
    """Return a line that names the first ones in each measure."""
    told = [f"{what}: {f' {LEVEL} '.join(found.first)}" for what, found in rankings.items() if found.first]
    return (
        f"**First** at {'; '.join(told)}." if told else "Too few rounds, or frameworks, to say who is first."
    )


def timed(point: Point) -> dict[str, Row]:
    """Return the timed rows, sorted by the time of a train step; then those for inference only, by theirs."""

    def place(name: str) -> tuple[bool, float]:
        seconds = point.rows[name].seconds
        return not seconds.get(TRAIN), median(seconds.get(TRAIN) or seconds[INFER])

    names = [name for name, row in point.rows.items() if row.seconds]
    return {name: point.rows[name] for name in sorted(names, key=place)}


def in_order(comparison: Comparison) -> list[str]:
    """Return the names of all frameworks in the order of tables: first those that were timed."""
    first = timed(comparison.points[MAIN])
    return [*first, *(name for name in comparison.about.frameworks if name not in first)]


def learners(comparison: Comparison) -> dict[str, list[Learning]]:
    """Return the successful training runs of each framework, in the order of tables."""
    runs = {
        name: [run for run in comparison.runs if run.name == name and run.why_not is None]
        for name in in_order(comparison)
    }
    return {name: found for name, found in runs.items() if found}


def curve(comparison: Comparison, axis: str) -> list[Point]:
    """Return the points along an axis, in the order of their sizes."""
    points = (point for name, point in comparison.points.items() if name.startswith(f"{axis}-"))
    return sorted(points, key=lambda point: int(getattr(point.size, axis)))


def frameworks_table(comparison: Comparison) -> Table:
    """Make the table of the frameworks and of what became of each."""
    rows = []
    for name in in_order(comparison):
        title, versions = comparison.about.frameworks[name]
        why_not = comparison.points[MAIN].rows[name].why_not
        others = [run.why_not for run in comparison.runs if run.name == name]
        others += [point.rows[name].why_not for point in comparison.points.values() if name in point.rows]
        failures = {reason for reason in others if reason}
        told = f"not measured: {why_not}" if why_not else "; ".join(["measured", *sorted(map(str, failures))])
        shown = ", ".join(f"{package} {number}" for package, number in versions.items())
        rows.append((name, title, shown or NOTHING, told))
    return Table(("name", "what it is", "versions", "result"), rows, of_words=True)


def peak_of(point: Point) -> float | None:
    """Return the additions and multiplications per second of the machine's matrix product."""
    return PEAK_FLOP / median(point.peak_seconds) if point.peak_seconds else None


def share_of_peak(point: Point, seconds: Sequence[float] | None) -> str:
    """Divide the operations of a train step by those of the matrix product in the same time."""
    peak = peak_of(point)
    if not seconds or peak is None:
        return NOTHING
    return f"{train_flop(point.size) / median(seconds) / peak:.0%}"


def threads_in_words(threads: Mapping[str, int], *, one: str) -> str:
    """Return the numbers of threads in words: "2 threads", or one for each measure (training has no name)."""
    words = {measure: f"{count} thread{'s' * (count > 1)}" for measure, count in threads.items()}
    if len(set(words.values())) == 1:
        return next(iter(words.values()))
    names = {INFER: "inference ", LATENCY: f"one {one} "}
    return "; ".join(f"{names.get(measure, '')}{chosen}" for measure, chosen in words.items()) or NOTHING


def speed_table(point: Point, runs: Sequence[Learning]) -> Table:
    """Make the table of all times at a size, with a row for each framework, the fastest first.

    Args:
        point: the results at the size.
        runs: the training runs, whose start-ups count, too.
    """
    found, what, batch = timed(point), items(point.size), point.size.batch
    ranks = {measure: rank(point.seconds(measure)) for measure in (TRAIN, INFER, LATENCY)}
    fastest = next(iter(found.values())).seconds.get(TRAIN) if found else None
    rows, cells = [], {}
    for name, row in found.items():
        train, infer, latency = (row.seconds.get(measure) for measure in (TRAIN, INFER, LATENCY))
        processor = row.processor_seconds.get(TRAIN)
        relative = ratio(train, fastest) if train and fastest and train is not fastest else None
        starts = [row.start_seconds, *(r.start_seconds for r in runs if r.name == name and not r.why_not)]
        peak, start = (bytes_ and bytes_ / 1e6 for bytes_ in (row.peak_memory, row.start_memory))
        cells = {
            "framework": name,
            "train step, ms (quartiles)": marked(milliseconds(train, "inference only"), name, ranks[TRAIN]),
            "ratio to the fastest (95 % interval)": in_digits(relative)
            if relative
            else "1"
            if train
            else NOTHING,
            f"training, {what}/s": _rate(batch, train),
            f"inference, {what}/s": marked(_rate(batch, infer), name, ranks[INFER]),
            f"a single {what[:-1]}, ms (quartiles)": marked(milliseconds(latency), name, ranks[LATENCY]),
            "first step, s": or_nothing(row.first_step_seconds),
            "start-up, s": or_nothing(median([seconds for seconds in starts if seconds is not None])),
            "peak memory, MB (of it at start)": f"{or_nothing(peak)} ({or_nothing(start)})",
            "processor time of a train step, ms": or_nothing(1e3 * median(processor) if processor else None),
            "share of peak": share_of_peak(point, train),
            "threads": threads_in_words(row.threads, one=what[:-1]),
        }
        rows.append(tuple(cells.values()))
    titles = {TRAIN: "train step", INFER: "inference", LATENCY: f"a single {what[:-1]}"}
    return Table(tuple(cells), rows, [first_at({titles[measure]: ranks[measure] for measure in titles})])


def _rate(batch: int, seconds: Sequence[float] | None) -> str:
    return or_nothing(batch / median(seconds) if seconds else None)


_PARITY_TITLES = {
    "logits": "logits",
    "loss": "loss",
    "gradients": "gradients",
    "curve": "loss curve",
    "call": "mean loss in one call",
}


def parity_table(point: Point) -> Table:
    """Make the table of the errors of each framework relative to the judge."""
    found = {name: row.parity for name, row in point.rows.items() if row.parity}
    rows = [
        (name, *(or_nothing(parity.errors.get(field), "{:.1e}".format) for field in _PARITY_TITLES), agrees)
        for name, parity in found.items()
        for agrees in ("no" if parity.why_different else "yes",)
    ]
    if rows:
        rows.append(("allowed", *(f"{TOLERANCES[field]:.0e}" for field in _PARITY_TITLES), ""))
    reasons = [f"{name}: {parity.why_different}" for name, parity in found.items() if parity.why_different]
    return Table(("framework", *_PARITY_TITLES.values(), "agrees"), rows, reasons)


def accuracy_table(comparison: Comparison) -> Table:
    """Make the table of the times to an accuracy, and of the accuracy at the end."""
    columns = {
        f"{percent(target)} from {start}, s": (target, start == "process start")
        for target, start in product(TARGETS, ("process start", "first step"))
    }
    rows = []
    for name, runs in learners(comparison).items():
        finals = [100 * run.accuracy[-1] for run in runs]
        spread = f" ± {stdev(finals):.2f}" if len(finals) > 1 else ""
        times = (
            _time_to([run.seconds_to(target, from_start=from_start) for run in runs])
            for target, from_start in columns.values()
        )
        rows.append((name, *times, f"{fmean(finals):.2f}{spread}"))
    epochs = comparison.about.epochs
    last = f"accuracy after {epochs:.3g} epoch{'s' * (epochs != 1)}, %"
    return Table(("framework", *columns, last), rows)


def _time_to(seconds: Sequence[float | None]) -> str:
    """Format the median and range of a time over seeds, or the number of seeds that have it."""
    reached = [found for found in seconds if found is not None]
    if len(reached) < len(seconds):
        return f"{len(reached)} of {len(seconds)} seeds"
    spread = f" ({three_digits(min(reached))} to {three_digits(max(reached))})" if len(reached) > 1 else ""
    return f"{three_digits(median(reached))}{spread}"


def scaling_tables(comparison: Comparison) -> list[Table]:
    """Make a table for each axis with results."""
    return [_scaling_table(comparison, axis) for axis in AXES if curve(comparison, axis)]


def fixed_sizes(size: Size, axis: str) -> str:
    """Return the sizes that are constant along an axis, in words."""
    return ", ".join(f"{title} {getattr(size, other)}" for other, title in AXES.items() if other != axis)


def _scaling_table(comparison: Comparison, axis: str) -> Table:
    points = {getattr(point.size, axis): point for point in curve(comparison, axis)}
    seconds = {size: point.seconds(TRAIN) for size, point in points.items()}
    ranks = {size: rank(found) for size, found in seconds.items()}
    rows = []
    for name in in_order(comparison):
        medians = {size: median(found[name]) for size, found in seconds.items() if name in found}
        cells = (
            marked(or_nothing(1e3 * medians[size] if size in medians else None), name, ranks[size])
            for size in points
        )
        if medians:
            fitted = slope(list(medians), list(medians.values()))
            rows.append((name, *cells, or_nothing(fitted, "{:.2f}".format)))
    firsts = Counter(f" {LEVEL} ".join(ranking.first) for ranking in ranks.values() if ranking.first)
    first = "; ".join(f"{names} at {count} of {len(points)} sizes" for names, count in firsts.items())
    reasons = (
        f"{name} at {size}: {row.why_not}"
        for size, point in points.items()
        for name, row in point.rows.items()
        if row.why_not
    )
    notes = [f"**First**: {first}."] if first else []
    title = f"Scaling over {AXES[axis]} ({fixed_sizes(next(iter(points.values())).size, axis)})"
    return Table((AXES[axis], *map(str, points), "slope"), rows, [*notes, *reasons], title)

"""Results as tables of words in Markdown.

The fastest of what was timed in rounds is in bold; those that are level with it, for the 95 % interval of
their ratio holds 1, are marked with ≈. A line below says who is first at what. Nothing is left out in
silence: a table that was not measured is a table without rows, and its notes say so.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from statistics import fmean, stdev
from typing import NamedTuple

from lstm_jax.compare.parity import TOLERANCES
from lstm_jax.compare.results import MAIN, Comparison, Learning, Point, Row
from lstm_jax.compare.size import AXES, Size, train_flop
from lstm_jax.compare.statistics import Ranking, Ratio, median, quartiles, rank, ratio, slope
from lstm_jax.compare.worker import INFER, LATENCY, PEAK_FLOP, TRAIN

NOTHING = "—"
LEVEL = "≈"
MARKS = (
    f"In bold: the fastest. {LEVEL}: level with it, for the 95 % interval of the ratio of their medians, by "
    "the bootstrap over rounds, holds 1."
)
# Test accuracies that are raced to.
TARGETS = (0.97, 0.98)


class Table(NamedTuple):
    """A table.

    Attributes:
        title: what it is about.
        header: a word or more for each column; the first column names the rows.
        rows: as many cells each.
        notes: sentences that stand below it.
        of_words: whether its cells are words and not numbers.
    """

    title: str
    header: Sequence[str] = ()
    rows: Sequence[Sequence[str]] = ()
    notes: Sequence[str] = ()
    of_words: bool = False


def as_markdown(table: Table, *, heading: str | None = "##") -> str:
    """A table as Markdown, with its title as a heading, unless that is None."""
    parts = [] if heading is None else [f"{heading} {table.title}"]
    if table.rows:
        others = "---" if table.of_words else "---:"
        rows = [table.header, ("---", *[others] * (len(table.header) - 1)), *table.rows]
        parts.append("\n".join(f"| {' | '.join(map(_cell, row))} |" for row in rows))
    return "\n\n".join([*parts, *(" ".join(note.split()) for note in table.notes)]) + "\n"


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def decimals(value: float) -> int:
    """How many decimals give a number three digits; at most three."""
    size = abs(value)
    return 0 if size >= 100 else 1 if size >= 10 else 2 if size >= 1 else 3


def three_digits(value: float) -> str:
    """A number with three digits, and with commas if it is large."""
    return f"{value:,.{decimals(value)}f}"


def or_nothing(value: float | None, show: Callable[[float], str] = three_digits) -> str:
    """A number in words, or a dash."""
    return NOTHING if value is None else show(value)


def milliseconds(seconds: Sequence[float] | None) -> str:
    """The median of measurements in milliseconds, and their quartiles in brackets."""
    if not seconds:
        return NOTHING
    low, middle, high = (1e3 * value for value in quartiles(seconds))
    places = decimals(middle)
    spread = f" ({low:,.{places}f}-{high:,.{places}f})" if len(seconds) > 1 else ""
    return f"{middle:,.{places}f}{spread}"


def percent(share: float) -> str:
    """A share of 1 as a percentage."""
    return f"{100 * share:g} %"


def in_digits(found: Ratio) -> str:
    """A ratio and its interval in brackets."""
    interval = f" ({found.interval[0]:.2f} to {found.interval[1]:.2f})" if found.interval else ""
    return f"{found.value:.2f}{interval}"


def items(size: Size) -> str:
    """What a batch has so many of: images, where a sequence has the shape of one."""
    return "images" if (size.time, size.inputs) == (28, 28) else "sequences"


def marked(text: str, name: str, ranking: Ranking) -> str:
    """A cell, in bold if it is that of the fastest, with a mark if that is level with it."""
    if name not in ranking.first:
        return text
    return f"**{text}**" if name == ranking.order[0] else f"{LEVEL} {text}"


def first_at(rankings: Mapping[str, Ranking]) -> str:
    """A line that says who is first at what."""
    told = [
        f"{what}: {f' {LEVEL} '.join(ranking.first)}" for what, ranking in rankings.items() if ranking.first
    ]
    return (
        f"**First** at {'; '.join(told)}."
        if told
        else "Too few rounds, or too few frameworks, to say who is first."
    )


def timed(point: Point) -> dict[str, Row]:
    """Those that were timed: the fastest train step first, then those that only infer, likewise."""

    def place(name: str) -> tuple[bool, float]:
        seconds = point.rows[name].seconds
        return not seconds.get(TRAIN), median(seconds.get(TRAIN) or seconds[INFER])

    names = [name for name, row in point.rows.items() if row.seconds]
    return {name: point.rows[name] for name in sorted(names, key=place)}


def in_order(comparison: Comparison) -> list[str]:
    """All frameworks in the order of tables: first those that were timed."""
    first = timed(comparison.points[MAIN])
    return [*first, *(name for name in comparison.about.frameworks if name not in first)]


def learners(comparison: Comparison) -> dict[str, list[Learning]]:
    """The runs of those that learned, in the order of tables."""
    runs = {
        name: [run for run in comparison.runs if run.name == name and run.why_not is None]
        for name in in_order(comparison)
    }
    return {name: found for name, found in runs.items() if found}


def curve(comparison: Comparison, axis: str) -> list[Point]:
    """The points along an axis, in the order of their sizes."""
    points = (point for name, point in comparison.points.items() if name.startswith(f"{axis}-"))
    return sorted(points, key=lambda point: int(getattr(point.size, axis)))


def frameworks_table(comparison: Comparison) -> Table:
    """What was compared, and what became of each."""
    rows = []
    for name in in_order(comparison):
        title, versions = comparison.about.frameworks[name]
        why_not = comparison.points[MAIN].rows[name].why_not
        failures = {run.why_not for run in comparison.runs if run.name == name and run.why_not}
        failures |= {
            row.why_not for p in comparison.points.values() if (row := p.rows.get(name)) and row.why_not
        }
        told = f"not measured: {why_not}" if why_not else "; ".join(["measured", *sorted(map(str, failures))])
        shown = ", ".join(f"{package} {number}" for package, number in versions.items())
        rows.append((name, title, shown or NOTHING, told))
    return Table("Frameworks", ("name", "what it is", "versions", "result"), rows, of_words=True)


def peak_of(point: Point) -> float | None:
    """Additions and multiplications in a second of the machine's matrix product."""
    return PEAK_FLOP / median(point.peak_seconds) if point.peak_seconds else None


def share_of_peak(point: Point, seconds: Sequence[float] | None) -> str:
    """The arithmetic of a train step by that of the matrix product in the same time."""
    peak = peak_of(point)
    if not seconds or peak is None:
        return NOTHING
    return f"{train_flop(point.size) / median(seconds) / peak:.0%}"


def threads_in_words(threads: Mapping[str, int], *, one: str) -> str:
    """What was chosen by trial: "2 threads", or what for each measure; that of training has no name."""
    words = {measure: f"{count} thread{'s' * (count > 1)}" for measure, count in threads.items()}
    if len(set(words.values())) == 1:
        return next(iter(words.values()))
    names = {INFER: "inference ", LATENCY: f"one {one} "}
    return "; ".join(f"{names.get(measure, '')}{chosen}" for measure, chosen in words.items()) or NOTHING


def speed_table(comparison: Comparison) -> Table:
    """Everything that was timed at the main size, a row for each framework, the fastest first."""
    point = comparison.points[MAIN]
    found, what = timed(point), items(point.size)
    one, batch = what[:-1], point.size.batch
    if not found:
        return Table("Speed", notes=("Not measured: no framework was timed.",))
    ranks = {measure: rank(point.seconds(measure)) for measure in (TRAIN, INFER, LATENCY)}
    fastest = next(iter(found.values())).seconds.get(TRAIN)
    starts = {
        name: [row.start_seconds, *(run.start_seconds for run in comparison.runs if run.name == name)]
        for name, row in found.items()
    }
    rows = []
    for name, row in found.items():
        train, infer, latency = (row.seconds.get(measure) for measure in (TRAIN, INFER, LATENCY))
        processor = row.processor_seconds.get(TRAIN)
        memory = or_nothing(row.peak_memory and row.peak_memory / 1e6, "{:,.0f}".format)
        if row.start_memory:
            memory += f" ({row.start_memory / 1e6:,.0f})"
        cells = {
            "framework": name,
            "train step, ms (quartiles)": marked(milliseconds(train), name, ranks[TRAIN])
            if train
            else "inference only",
            "ratio to the fastest (95 % interval)": NOTHING
            if not train or not fastest
            else "1"
            if train is fastest
            else in_digits(ratio(train, fastest)),
            f"training, {what}/s": or_nothing(batch / median(train) if train else None),
            f"inference, {what}/s": marked(
                or_nothing(batch / median(infer) if infer else None), name, ranks[INFER]
            ),
            f"a single {one}, ms (quartiles)": marked(milliseconds(latency), name, ranks[LATENCY]),
            "first step, s": or_nothing(row.first_step_seconds),
            "start-up, s": or_nothing(median([seconds for seconds in starts[name] if seconds is not None])),
            "peak memory, MB (of it at start)": memory,
            "processor time of a train step, ms": or_nothing(1e3 * median(processor) if processor else None),
            "share of peak": share_of_peak(point, train),
            "threads": threads_in_words(row.threads, one=one),
        }
        rows.append(tuple(cells.values()))
    titles = {"train step": ranks[TRAIN], "inference": ranks[INFER], f"a single {one}": ranks[LATENCY]}
    return Table("Speed", tuple(cells), rows, (first_at(titles), MARKS, *_speed_notes(comparison, starts)))


def _speed_notes(comparison: Comparison, starts: Mapping[str, Sequence[object]]) -> Sequence[str]:
    about, point = comparison.about, comparison.points[MAIN]
    one, peak = items(point.size)[:-1], peak_of(point)
    counts = sorted({len(each) for each in starts.values()})
    number = " to ".join(map(str, dict.fromkeys((counts[0], counts[-1]))))
    return (
        f"Medians of {about.rounds} round{'s' * (about.rounds > 1)} in which all took turns; in brackets the "
        f"lower and the upper quartile. Training and inference go through batches of {point.size.batch}; “a "
        f"single {one}” is the time from one call with it to its answer.",
        "Start-up: from the start of a process until the framework is imported and the model built; median "
        f"of {number} start{'s' * (counts[-1] > 1)}. First step: the first train step of that model, before "
        "anything else runs in the process: tracing, compiling, running; taken once. JAX and Inductor "
        "(`torch.compile`) take no compiled programs from disk; the C++ kernel of lstm_jax-native is built "
        "beforehand, once for each machine.",
        "Peak memory: the most that the process had while it trained and inferred, when all was compiled, "
        "taken once; in brackets what it had when the model was built. Processor time: of all "
        f"{about.cores} cores together; by the time of the train step, it tells how many of them worked, or "
        "waited awake. Threads: chosen by trial, where the framework does not choose. Share of peak: the "
        "arithmetic of a train step by that of a large float32 matrix product in the same time"
        f"{'' if peak is None else f', {three_digits(peak / 1e9)} GFLOP/s on this machine'}.",
    )


_PARITY_TITLES = {
    "logits": "logits",
    "loss": "loss",
    "gradients": "gradients",
    "curve": "loss curve",
    "call": "mean loss in one call",
}


def parity_table(point: Point) -> Table:
    """How far each framework is from the judge."""
    found = {name: row.parity for name, row in point.rows.items() if row.parity}
    title = "Parity with the float64 judge"
    if not found:
        return Table(title, notes=("Not measured.",))
    rows = [
        (
            name,
            *(or_nothing(parity.errors.get(field), "{:.1e}".format) for field in _PARITY_TITLES),
            "no" if parity.why_different else "yes",
        )
        for name, parity in found.items()
    ]
    rows.append(("allowed", *(f"{TOLERANCES[field]:.0e}" for field in _PARITY_TITLES), ""))
    note = (
        "Largest relative errors, from equal weights and equal batches. Of the first batch: the logits of "
        f"inference, loss and every gradient. Then of the losses of {len(point.judge_losses)} steps one by "
        "one, and of their mean when the same steps are done in one call, as they are timed. The judge "
        "computes the same in float64 NumPy."
    )
    reasons = (f"{name}: {parity.why_different}" for name, parity in found.items() if parity.why_different)
    return Table(title, ("framework", *_PARITY_TITLES.values(), "agrees"), rows, (note, *reasons))


def accuracy_table(comparison: Comparison) -> Table:
    """Time to an accuracy, and the accuracy at the end."""
    found, about = learners(comparison), comparison.about
    if not found:
        return Table("Accuracy", notes=("Not measured in this comparison.",))
    columns = {
        f"{percent(target)} from {start}, s": (target, start == "process start")
        for target in TARGETS
        for start in ("process start", "first step")
    }
    rows = []
    for name, runs in found.items():
        finals = [100 * run.accuracy[-1] for run in runs]
        spread = f" ± {stdev(finals):.2f}" if len(finals) > 1 else ""
        times = (
            _time_to([run.seconds_to(target, from_start=from_start) for run in runs])
            for target, from_start in columns.values()
        )
        rows.append((name, *times, f"{fmean(finals):.2f}{spread}"))
    seeds = sorted({len(runs) for runs in found.values()})
    decays = "" if about.recipe == "tutorial" else " with warm-up, linear decay and clipped gradients"
    note = (
        f"Test accuracy on {about.test_images:,} images; recipe {about.recipe}, Adam at "
        f"{about.learning_rate:g}{decays}, batches of {comparison.points[MAIN].size.batch}; "
        f"{' to '.join(map(str, seeds))} seed{'s' * (seeds[-1] > 1)}, each with the same initial weights and "
        "order of images in all frameworks. Times: median, in brackets the range over seeds; or how many "
        "seeds got there at all. From process start they have import and compilation in them, from the first "
        "step neither; reading and shuffling of data and evaluation are in none. Accuracy at the end: mean ± "
        "standard deviation over seeds."
    )
    last = f"accuracy after {about.epochs:.3g} epoch{'s' * (about.epochs != 1)}, %"
    return Table("Accuracy", ("framework", *columns, last), rows, (note,))


def _time_to(seconds: Sequence[float | None]) -> str:
    """Median and range of a time over seeds; or how many of them have it."""
    reached = [found for found in seconds if found is not None]
    if len(reached) < len(seconds):
        return f"{len(reached)} of {len(seconds)} seeds"
    spread = f" ({three_digits(min(reached))} to {three_digits(max(reached))})" if len(reached) > 1 else ""
    return f"{three_digits(median(reached))}{spread}"


def scaling_tables(comparison: Comparison) -> list[Table]:
    """A table for each axis; one without rows if there is none."""
    tables = [_scaling_table(comparison, axis) for axis in AXES if curve(comparison, axis)]
    return tables or [Table("Scaling", notes=("Not measured in this comparison.",))]


def fixed_sizes(size: Size, axis: str) -> str:
    """The sizes that stay along an axis, in words."""
    return ", ".join(f"{title} {getattr(size, other)}" for other, title in AXES.items() if other != axis)


def _scaling_table(comparison: Comparison, axis: str) -> Table:
    points = curve(comparison, axis)
    sizes = [getattr(point.size, axis) for point in points]
    seconds = [point.seconds(TRAIN) for point in points]
    ranks = [rank(found) for found in seconds]
    rows = []
    for name in in_order(comparison):
        medians = [median(found[name]) if name in found else None for found in seconds]
        there = [(size, each) for size, each in zip(sizes, medians, strict=True) if each is not None]
        if there:
            cells = (
                marked(or_nothing(each and 1e3 * each), name, ranking)
                for each, ranking in zip(medians, ranks, strict=True)
            )
            rows.append((name, *cells, or_nothing(slope(*zip(*there, strict=True)), "{:.2f}".format)))
    firsts = Counter(f" {LEVEL} ".join(ranking.first) for ranking in ranks if ranking.first)
    first = "; ".join(f"{names} at {count} of {len(points)} sizes" for names, count in firsts.items())
    steps = sorted({point.steps for point in points})
    rounds = sorted({len(samples) for found in seconds for samples in found.values()})
    note = (
        f"Milliseconds per train step, medians of {rounds[-1] if rounds else 0} rounds; "
        f"{fixed_sizes(points[0].size, axis)}. Train steps in a timed call: "
        f"{' to '.join(map(str, dict.fromkeys((steps[0], steps[-1]))))}, the fewer the more arithmetic they "
        "have. Slope: of a straight line through a row on double logarithmic axes; at 1, twice the size "
        "takes twice the time."
    )
    reasons = (
        f"{name} at {size}: {row.why_not}"
        for size, point in zip(sizes, points, strict=True)
        for name, row in point.rows.items()
        if row.why_not
    )
    header = (AXES[axis], *map(str, sizes), "slope")
    told = [f"**First**: {first}."] if first else []
    return Table(f"Scaling over {AXES[axis]}", header, rows, (*told, note, *reasons))

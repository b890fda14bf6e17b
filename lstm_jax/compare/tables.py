"""Results as tables: rows of words, which Markdown and HTML are made of.

Nothing is left out in silence: a table that was not measured is a table without rows, and its notes say so.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

from lstm_jax.compare.results import FrameworkResult, Learning, Results, Scaling, Speed
from lstm_jax.compare.statistics import Ratio, mean_and_deviation, median, quartiles, ratio, slope

NOTHING = "—"
# Test accuracies that are raced to.
TARGETS = (0.97, 0.98)
AXIS_TITLES = {"hidden": "hidden size", "batch": "batch size", "time": "time steps"}


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
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    notes: tuple[str, ...] = ()
    of_words: bool = False


def as_markdown(table: Table, *, level: int = 2) -> str:
    """A table as Markdown, with its title as a heading of a level."""
    lines = [f"{'#' * level} {table.title}", ""]
    if table.rows:
        others = "---" if table.of_words else "---:"
        rows = [table.header, ("---", *[others] * (len(table.header) - 1)), *table.rows]
        lines += [f"| {' | '.join(map(_markdown_cell, row))} |" for row in rows]
        lines.append("")
    lines += [f"{' '.join(note.split())}\n" for note in table.notes]
    return "\n".join(lines)


def _markdown_cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


# --------------------------------------------------------------------------------------------------
# Numbers as words
# --------------------------------------------------------------------------------------------------


def decimals(value: float) -> int:
    """How many decimals give a number three digits; at most three."""
    size = abs(value)
    return 0 if size >= 100 else 1 if size >= 10 else 2 if size >= 1 else 3


def three_digits(value: float) -> str:
    """A number with three digits, and with commas if it is large."""
    return f"{value:,.{decimals(value)}f}"


def percent(share: float) -> str:
    """A share of 1 as a percentage."""
    return f"{100 * share:g} %"


def with_spread(samples: Sequence[float], *, factor: float = 1.0) -> str:
    """The median of measurements times a factor, and their quartiles in brackets."""
    low, middle, high = (factor * value for value in quartiles(samples))
    places = decimals(middle)
    spread = f" ({low:,.{places}f}-{high:,.{places}f})" if len(samples) > 1 else ""
    return f"{middle:,.{places}f}{spread}"


def ratio_in_digits(found: Ratio) -> str:
    """A ratio and its interval in brackets."""
    return f"{found.value:.2f}{interval_in_digits(found, ' ({} to {})')}"


def interval_in_digits(found: Ratio, form: str) -> str:
    """The interval of a ratio in a form with two places; nothing if it has none."""
    if found.low is None or found.high is None:
        return ""
    return form.format(f"{found.low:.2f}", f"{found.high:.2f}")


def items(results: Results) -> str:
    """What a batch has so many of: images, where a sequence has the shape of one."""
    return "images" if (results.time, results.inputs) == (28, 28) else "sequences"


def rounds(samples: Iterable[Sequence[float]]) -> str:
    """How many rounds there were, in words."""
    numbers = sorted({len(found) for found in samples if found})
    if not numbers:
        return "no rounds"
    if len(numbers) > 1:
        return f"{numbers[0]} to {numbers[-1]} rounds"
    return f"{numbers[0]} round{'s' * (numbers[0] > 1)}"


def number_of_starts(results: Results, names: Iterable[str]) -> str:
    """How many start-ups the medians are of, in words."""
    numbers = sorted({len(starts(results, name)) for name in names})
    words = " to ".join(map(str, dict.fromkeys((numbers[0], numbers[-1]))))
    return f"{words} start{'s' * (numbers[-1] > 1)}"


def _or_nothing(value: float | None, show: Callable[[float], str] = three_digits) -> str:
    return NOTHING if value is None else show(value)


# --------------------------------------------------------------------------------------------------
# Who was measured
# --------------------------------------------------------------------------------------------------


def timed(results: Results) -> dict[str, Speed]:
    """Those that were timed: the fastest train step first, then those that only infer, likewise."""
    found = {name: speed for name, one in results.frameworks.items() if (speed := one.timed)}

    def place(name: str) -> tuple[bool, float]:
        samples = found[name].train_seconds or found[name].infer_seconds
        return not found[name].train_seconds, median(samples) if samples else float("inf")

    return {name: found[name] for name in sorted(found, key=place)}


def in_order(results: Results) -> list[str]:
    """All frameworks in the order of tables: first those that were timed."""
    first = timed(results)
    return [*first, *(name for name in results.frameworks if name not in first)]


def frameworks_table(results: Results) -> Table:
    """What was compared, and what became of each."""
    rows = tuple(
        (
            name,
            found.title,
            ", ".join(f"{key} {number}" for key, number in found.versions.items()) or NOTHING,
            what_became_of(found),
        )
        for name in in_order(results)
        for found in (results.frameworks[name],)
    )
    return Table("Frameworks", ("name", "what it is", "versions", "result"), rows, of_words=True)


def what_became_of(found: FrameworkResult) -> str:
    """Whether a framework was measured, and if not, why not."""
    if found.parity is not None and found.parity.why_different is not None:
        return f"different: {found.parity.why_different}"
    if found.why_not is not None:
        return f"measured in part: {found.why_not}" if found.timed else f"not measured: {found.why_not}"
    return "measured" if found.timed else "not timed"


# --------------------------------------------------------------------------------------------------
# Speed
# --------------------------------------------------------------------------------------------------


def speed_table(results: Results) -> Table:
    """Everything that was timed at the size asked for, a row for each framework, the fastest first."""
    per_second = f"{items(results)}/s"
    header = (
        "framework",
        "train step, ms (quartiles)",
        "ratio to the fastest (95 % interval)",
        f"training, {per_second}",
        f"inference, {per_second}",
        f"a single {items(results)[:-1]}, ms (quartiles)",
        "first step, s",
        "start-up, s",
        "peak memory, MB (of it at start)",
        "processor time of a train step, ms",
        "share of peak",
        "setting",
    )
    found = timed(results)
    if not found:
        return Table("Speed", header, (), ("Not measured: no framework was timed.",))
    fastest = next(iter(found.values())).train_seconds
    rows = tuple(_speed_row(results, name, speed, fastest) for name, speed in found.items())
    return Table("Speed", header, rows, _speed_notes(results, found))


def _speed_row(results: Results, name: str, speed: Speed, fastest: Sequence[float]) -> tuple[str, ...]:
    train, infer, latency = speed.train_seconds, speed.infer_seconds, speed.latency_seconds
    step = median(train) if train else None
    processor = speed.train_cpu_seconds
    peak = results.peak.flop / median(results.peak.seconds) if results.peak else None
    return (
        name,
        with_spread(train, factor=1e3) if train else "inference only",
        ratio_in_digits(within_run(train, fastest)) if train and train is not fastest else _one(train),
        _or_nothing(results.batch / step if step else None),
        _or_nothing(results.batch / median(infer) if infer else None),
        with_spread(latency, factor=1e3) if latency else NOTHING,
        _or_nothing(speed.first_step_seconds),
        three_digits(median(starts(results, name))),
        _memory(speed),
        _or_nothing(1e3 * median(processor) if processor else None),
        _or_nothing(results.train_flop / step / peak if step and peak else None, "{:.0%}".format),
        settings_in_words(speed.settings, one=items(results)[:-1]),
    )


def settings_in_words(settings: Mapping[str, str], *, one: str) -> str:
    """What was chosen by trial: "2 threads", or what for each measure; that of training has no name."""
    if len(set(settings.values())) == 1:
        return next(iter(settings.values()))
    names = {"infer": "inference ", "latency": f"one {one} "}
    return "; ".join(f"{names.get(what, '')}{chosen}" for what, chosen in settings.items()) or NOTHING


def starts(results: Results, name: str) -> tuple[float, ...]:
    """Seconds of every start-up of a framework that was timed: for speed, and for each run that learned."""
    found = results.frameworks[name]
    of_speed = (found.speed.start_seconds,) if found.speed else ()
    return (*of_speed, *(run.start_seconds for run in found.learning))


def _memory(speed: Speed) -> str:
    peak, at_start = speed.peak_memory, speed.start_memory
    if peak is None:
        return NOTHING
    return f"{peak / 1e6:,.0f}{'' if at_start is None else f' ({at_start / 1e6:,.0f})'}"


def _one(train: Sequence[float]) -> str:
    return "1" if train else NOTHING


def within_run(over: Sequence[float], under: Sequence[float]) -> Ratio:
    """A ratio of medians of one run, by its rounds as long as both have been in all of them."""
    return ratio(over, under, paired=len(over) == len(under))


def _speed_notes(results: Results, found: dict[str, Speed]) -> tuple[str, ...]:
    what = items(results)
    samples = [samples for s in found.values() for samples in (s.train_seconds, s.infer_seconds)]
    peak = ""
    if results.peak:
        gflops = results.peak.flop / median(results.peak.seconds) / 1e9
        peak = (
            " Share of peak: the arithmetic of a train step by that of a large float32 matrix product in the "
            f"same time, {three_digits(gflops)} GFLOP/s on this machine."
        )
    return (
        f"Medians of {rounds(samples)} in which all took turns; in brackets the lower and the upper "
        "quartile. The ratio is that of median train steps; its interval comes from the bootstrap over "
        "rounds, and one that holds 1 means: no difference shown. Training and inference go through batches "
        f"of {results.batch}; “a single {what[:-1]}” is the time from one call with it to its answer.",
        "Start-up: from the start of a process until the framework is imported and the model built; median "
        f"of {number_of_starts(results, found)}. First step: the first train step of that model, before "
        "anything else runs in the process: tracing, compiling, running; taken once. JAX and Inductor "
        "(`torch.compile`) take no compiled programs from disk; the C++ kernel of lstm_jax-native is built "
        "beforehand, once for each machine.",
        "Peak memory: the most that the process had while it trained and inferred, when all was compiled, "
        "taken once; in brackets what it had when the model was built. Processor time: of all "
        f"{results.threads} cores together; by the time of the train step, it tells how many of them worked, "
        f"or waited awake. Setting: what was chosen by trial.{peak}",
    )


# --------------------------------------------------------------------------------------------------
# Parity
# --------------------------------------------------------------------------------------------------

_PARITY_TITLES = {
    "logits": "logits",
    "inference": "inference",
    "loss": "loss",
    "gradients": "gradients",
    "curve": "loss curve",
    "chunk": "mean loss in one call",
}


def parity_table(results: Results) -> Table:
    """How far each framework is from the judge."""
    found = [(name, one.parity) for name, one in results.frameworks.items() if one.parity]
    title = "Parity with the float64 judge"
    header = ("framework", *_PARITY_TITLES.values(), "agrees")
    if not found:
        return Table(title, header, (), ("Not measured.",))
    rows = [
        (
            name,
            *(_or_nothing(getattr(parity, field), "{:.1e}".format) for field in _PARITY_TITLES),
            "yes" if parity.why_different is None else "no",
        )
        for name, parity in found
    ]
    allowed = (_or_nothing(results.tolerances.get(field), "{:.0e}".format) for field in _PARITY_TITLES)
    rows.append(("allowed", *allowed, ""))
    steps = len(results.judge_losses)
    note = (
        "Largest relative errors, from equal weights and equal batches. Of the first batch: logits, those "
        "that the timed call of inference gives, loss and every gradient. Then of the losses of "
        f"{steps} steps one by one, and of their mean when the same steps are done in one call, as they are "
        "timed. The judge computes the same in float64 NumPy."
    )
    reasons = (
        f"{name}: {parity.why_different}" for name, parity in found if parity.why_different is not None
    )
    return Table(title, header, tuple(rows), (note, *reasons))


# --------------------------------------------------------------------------------------------------
# Accuracy
# --------------------------------------------------------------------------------------------------


_STARTS = ("process start", "first step")


def learners(results: Results) -> dict[str, tuple[Learning, ...]]:
    """The runs of those that learned and agree, in the order of tables."""
    return {
        name: results.frameworks[name].learning
        for name in in_order(results)
        if results.frameworks[name].agrees and results.frameworks[name].learning
    }


def accuracy_table(results: Results) -> Table:
    """Time to an accuracy, and the accuracy at the end."""
    found = learners(results)
    if not found:
        return Table("Accuracy", (), (), ("Not measured in this comparison.",))
    header = (
        "framework",
        *(f"{percent(target)} from {start}, s" for target in TARGETS for start in _STARTS),
        f"accuracy after {results.epochs:.3g} epoch{'s' * (results.epochs != 1)}, %",
    )
    rows = tuple((name, *_accuracy_cells(runs)) for name, runs in found.items())
    seeds = sorted({len(runs) for runs in found.values()})
    decays = "" if results.recipe == "tutorial" else " with warm-up, linear decay and clipped gradients"
    note = (
        f"Test accuracy on {results.test_images:,} images; recipe {results.recipe}, Adam at "
        f"{results.learning_rate:g}{decays}, batches of "
        f"{results.batch}; {' to '.join(map(str, seeds))} seed{'s' * (seeds[-1] > 1)}, each with the same "
        "initial weights and order of images in all frameworks. Times: median, in brackets the range over "
        "seeds; or how many seeds got there at all. From process start they have import and compilation in "
        "them, from the first step neither; reading and shuffling of data and evaluation are in none. "
        "Accuracy at the end: mean ± standard deviation over seeds."
    )
    return Table("Accuracy", header, rows, (note,))


def _accuracy_cells(runs: Sequence[Learning]) -> tuple[str, ...]:
    times = [
        time_to(runs, get)
        for target in TARGETS
        for get in (
            lambda run, target=target: run.seconds_from_start_to(target),
            lambda run, target=target: run.seconds_to(target),
        )
    ]
    mean, deviation = mean_and_deviation([100 * run.accuracy[-1] for run in runs])
    return (*times, f"{mean:.2f}{'' if deviation is None else f' ± {deviation:.2f}'}")


def time_to(runs: Sequence[Learning], get: Callable[[Learning], float | None]) -> str:
    """Median and range of a time over seeds; or how many of them have it."""
    seconds = [found for run in runs if (found := get(run)) is not None]
    if len(seconds) < len(runs):
        return f"{len(seconds)} of {len(runs)} seeds"
    spread = f" ({three_digits(min(seconds))} to {three_digits(max(seconds))})" if len(seconds) > 1 else ""
    return f"{three_digits(median(seconds))}{spread}"


# --------------------------------------------------------------------------------------------------
# Scaling
# --------------------------------------------------------------------------------------------------


def scaling_tables(results: Results) -> list[Table]:
    """A table for each axis; one without rows if there is none."""
    if not results.scaling:
        return [Table("Scaling", (), (), ("Not measured in this comparison.",))]
    return [_scaling_table(results, curve) for curve in results.scaling]


def scaled(results: Results, curve: Scaling) -> list[str]:
    """Those that have a time on a curve, in the order of tables."""
    known = {name for point in curve.points for name, samples in point.seconds.items() if samples}
    return [name for name in in_order(results) if name in known and results.frameworks[name].agrees]


def curve_of(curve: Scaling, name: str) -> tuple[list[int], list[tuple[float, ...]]]:
    """The sizes at which a framework was timed, in their order, and its seconds per step there."""
    points = sorted(curve.points, key=lambda point: point.size)
    found = [(getattr(point, curve.axis), point.seconds[name]) for point in points if point.seconds.get(name)]
    return [size for size, _ in found], [samples for _, samples in found]


def fixed_sizes(results: Results, axis: str) -> str:
    """The sizes that stay along an axis, in words."""
    return ", ".join(
        f"{title} {getattr(results, other)}" for other, title in AXIS_TITLES.items() if other != axis
    )


def _scaling_table(results: Results, curve: Scaling) -> Table:
    axis, names = curve.axis, scaled(results, curve)
    sizes = sorted({getattr(point, axis) for point in curve.points})
    rows = []
    for name in names:
        at, samples = curve_of(curve, name)
        medians = dict(zip(at, map(median, samples), strict=True))
        cells = (
            _or_nothing(medians.get(size), lambda seconds: three_digits(1e3 * seconds)) for size in sizes
        )
        rows.append((name, *cells, _or_nothing(slope(at, list(medians.values())), "{:.2f}".format)))
    samples_of_all = [point.seconds.get(name, ()) for point in curve.points for name in names]
    steps = sorted({point.steps for point in curve.points})
    in_a_call = f"{steps[0]} to {steps[-1]}" if len(steps) > 1 else "".join(map(str, steps))
    note = (
        f"Milliseconds per train step, medians of {rounds(samples_of_all)}; {fixed_sizes(results, axis)}. "
        f"Train steps in a timed call: {in_a_call}, the fewer the more arithmetic they have. "
        "Slope: of a straight line through a row on double logarithmic axes; at 1, twice the size takes "
        "twice the time."
    )
    return Table(
        f"Scaling over {AXIS_TITLES[axis]}",
        (AXIS_TITLES[axis], *map(str, sizes), "slope"),
        tuple(rows),
        (note, *_reasons(results, curve)),
    )


def _reasons(results: Results, curve: Scaling) -> list[str]:
    """Why a framework has no time at some sizes: those with the same reason together."""
    sizes: dict[tuple[str, str], list[int]] = {}
    for point in curve.points:
        for name, why in point.why_not.items():
            if name in results.frameworks and results.frameworks[name].agrees:
                sizes.setdefault((name, why), []).append(getattr(point, curve.axis))
    return [f"{name} at {', '.join(map(str, at))}: {why}" for (name, why), at in sizes.items()]

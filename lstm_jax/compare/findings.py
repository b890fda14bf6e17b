"""What the numbers say, in words, and no more than that.

Who is the fastest at something: the one with the smallest median, together with all whose ratio to it has
1 within its 95 % interval: these are level. Where there are too few rounds for an interval, nobody is.
What is measured once, such as memory, or a few times, such as start-up, has no interval; there only a large
difference is named, as such.
"""

from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from enum import Enum
from typing import NamedTuple

from lstm_jax.compare.results import FrameworkResult, Learning, Results, ScalingPoint, Speed
from lstm_jax.compare.statistics import Ratio, mean_and_deviation, median
from lstm_jax.compare.tables import (
    AXIS_TITLES,
    TARGETS,
    interval_in_digits,
    items,
    learners,
    number_of_starts,
    percent,
    starts,
    three_digits,
    timed,
    within_run,
)

OURS = "lstm_jax"
# Of something that has no interval. Start-up and the like differ by 10 or 20 % from run to run.
LARGE = 1.25


class Standing(Enum):
    """Where lstm_jax stands."""

    FIRST = "first"
    LEVEL = "level"
    BEHIND = "behind"
    UNKNOWN = "unknown"


# In this order they are told.
HEADINGS = {
    Standing.FIRST: "Where lstm_jax is the first",
    Standing.LEVEL: "Where lstm_jax is level with another",
    Standing.BEHIND: "Where lstm_jax is not the first",
    Standing.UNKNOWN: "What else was found",
}


class Finding(NamedTuple):
    """One thing that was found.

    Attributes:
        topic: what was measured, in a word or two.
        standing: where lstm_jax stands in it.
        text: what was found, in sentences.
    """

    topic: str
    standing: Standing
    text: str


class Measure(NamedTuple):
    """Something of which less is better.

    Attributes:
        topic: what is measured, in a word or two.
        takes: what is compared, in words that come before a number.
        show: a number with its unit.
    """

    topic: str
    takes: str
    show: Callable[[float], str]


def _milliseconds(seconds: float) -> str:
    return f"{three_digits(1e3 * seconds)} ms"


def _seconds(seconds: float) -> str:
    return f"{three_digits(seconds)} s"


def _megabytes(size: float) -> str:
    return f"{three_digits(size / 1e6)} MB"


def findings(results: Results) -> list[Finding]:
    """Everything that can be said, training first."""
    found = timed(results)
    if not found:
        text = "No framework was timed."
        return [*_agreement(results), Finding("Speed", Standing.UNKNOWN, text)]
    if len(found) == 1:
        text = f"Only {next(iter(found))} was timed: there is nothing to compare it with."
        return [*_agreement(results), Finding("Speed", Standing.UNKNOWN, text)]
    train, *others = _timings(results, found)
    told = [train, *_sizes(results), *others, *_costs(results, found), *_races(results), *_accuracy(results)]
    return [*(finding for finding in told if finding is not None), *_agreement(results)]


def by_heading(found: Sequence[Finding]) -> dict[str, list[Finding]]:
    """Findings under their headings, without those that nothing stands under."""
    groups = {
        heading: [finding for finding in found if finding.standing is standing]
        for standing, heading in HEADINGS.items()
    }
    return {heading: group for heading, group in groups.items() if group}


def is_ours(name: str) -> bool:
    """Whether a framework is one of this package."""
    return name.startswith(OURS)


# --------------------------------------------------------------------------------------------------
# What was measured in rounds
# --------------------------------------------------------------------------------------------------


class Ranking(NamedTuple):
    """Who is the fastest.

    Attributes:
        order: all, by their medians.
        first: the fastest and those that are level with it; empty if there are too few rounds to say.
        ratios: by the fastest.
    """

    order: tuple[str, ...]
    first: tuple[str, ...]
    ratios: Mapping[str, Ratio]

    @property
    def standing(self) -> Standing:
        """Where lstm_jax stands."""
        ours = {is_ours(name) for name in self.first}
        if not ours or len({is_ours(name) for name in self.order}) < 2:
            return Standing.UNKNOWN
        if len(ours) > 1:
            return Standing.LEVEL
        return Standing.FIRST if True in ours else Standing.BEHIND


def rank(samples: Mapping[str, Sequence[float]]) -> Ranking:
    """Compare all with the fastest.

    Args:
        samples: one number per round for each framework, of at least one.
    """
    order = tuple(sorted(samples, key=lambda name: median(samples[name])))
    best = order[0]
    ratios = {name: within_run(samples[name], samples[best]) for name in order[1:]}
    known = all(found.has_interval for found in ratios.values())
    first = (best, *(name for name, found in ratios.items() if not found.above_one)) if known else ()
    return Ranking(order, first, ratios)


def _timings(results: Results, found: Mapping[str, Speed]) -> list[Finding | None]:
    one = items(results)[:-1]
    measures = {
        Measure("Training", "a train step takes", _milliseconds): "train_seconds",
        Measure("Inference", f"a batch of {results.batch} takes", _milliseconds): "infer_seconds",
        Measure("Latency", f"a single {one} takes", _milliseconds): "latency_seconds",
    }
    return [
        _timing(measure, {name: getattr(s, field) for name, s in found.items() if getattr(s, field)})
        for measure, field in measures.items()
    ]


def _timing(measure: Measure, samples: Mapping[str, Sequence[float]]) -> Finding | None:
    if len(samples) < 2:
        return None
    ranking = rank(samples)
    best = ranking.order[0]
    least = f"{measure.takes} {measure.show(median(samples[best]))}"
    if not ranking.first:
        text = (
            f"The smallest median is that of {best}: {least}. There are too few rounds for intervals, so "
            "that no winner is named."
        )
    elif len(ranking.first) > 1:
        ratios = (_ratio_of(name, ranking) for name in ranking.first[1:])
        text = (
            f"{_listed(ranking.first)} are level: with {best} {least}; the difference is within the spread "
            f"({', '.join(ratios)})."
        )
    else:
        text = f"{best} is the fastest: {least}."
    return Finding(measure.topic, ranking.standing, " ".join([text, *_next(ranking)]))


def _next(ranking: Ranking) -> list[str]:
    """The comparison that the first place leaves open: with the other camp."""
    ours = {is_ours(name) for name in ranking.first}
    if len(ours) != 1:
        return []
    leader_is_ours = ours.pop()
    others = [name for name in ranking.order if is_ours(name) != leader_is_ours]
    if others:
        name = others[0]
        who = f"The fastest other framework is {name}: it" if leader_is_ours else f"{name}"
    else:
        later = [name for name in ranking.order if name not in ranking.first]
        if not later:
            return []
        name = later[0]
        who = f"{name} comes next: it"
    return [f"{who} takes {_times(ranking.ratios[name])}."]


def _times(found: Ratio, than: str = "") -> str:
    interval = interval_in_digits(found, " (95 % interval {} to {})")
    return f"{found.value:.2f} times as long{than}{interval}"


def _ratio_of(name: str, ranking: Ranking) -> str:
    found = ranking.ratios[name]
    return f"{name} {found.value:.2f} times as long{interval_in_digits(found, ', {} to {}')}"


def _listed(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


# --------------------------------------------------------------------------------------------------
# Other sizes
# --------------------------------------------------------------------------------------------------


def _sizes(results: Results) -> list[Finding]:
    """Where along the curves lstm_jax is the fastest in training, and where it is not."""
    points = {point.size: point for curve in results.scaling for point in curve.points}
    found = {point.size: (point, rank(at)) for point in points.values() if len(at := _at(results, point)) > 1}
    by_standing: dict[Standing, list[str]] = {standing: [] for standing in Standing}
    for point, ranking in found.values():
        by_standing[ranking.standing].append(_told(results, point, ranking))
    first, level, behind, unknown = (by_standing[standing] for standing in Standing)
    compared = len(found) - len(unknown)
    if not compared:
        text = "Measured, but too few rounds, or nobody else, to say who is the fastest."
        return [Finding("Other sizes", Standing.UNKNOWN, text)] if found else []
    texts = [f"In training, lstm_jax is the fastest at {len(first)} of {compared} sizes."]
    texts += [f"Level with another framework at {'; '.join(level)}."] if level else []
    texts += [f"Not the fastest at {'; '.join(behind)}."] if behind else []
    texts += [f"At {len(unknown)} more, nothing can be said."] if unknown else []
    texts += _missing(points.values())
    standing = Standing.BEHIND if behind else Standing.LEVEL if level else Standing.FIRST
    return [Finding("Other sizes", standing, " ".join(texts))]


def _missing(points: Collection[ScalingPoint]) -> list[str]:
    """Who was not measured at some of the sizes: to be the fastest there says less."""
    failed = Counter(name for point in points for name in point.why_not)
    if not failed:
        return []
    told = _listed([f"{name} at {times}" for name, times in failed.items()])
    return [f"Of these {len(points)} sizes, failed: {told}."]


def _at(results: Results, point: ScalingPoint) -> dict[str, Sequence[float]]:
    """The measurements of a size that count."""
    frameworks = results.frameworks
    return {
        name: samples
        for name, samples in point.seconds.items()
        if samples and name in frameworks and frameworks[name].agrees
    }


def _told(results: Results, point: ScalingPoint, ranking: Ranking) -> str:
    """A size, and how far from the fastest lstm_jax is there."""
    differs = [axis for axis in AXIS_TITLES if getattr(point, axis) != getattr(results, axis)]
    size = ", ".join(f"{AXIS_TITLES[axis]} {getattr(point, axis)}" for axis in differs) or "the usual size"
    best = ranking.order[0]
    ours = next((name for name in ranking.order if is_ours(name)), None)
    if ours is None or ours == best:
        rivals = [name for name in ranking.first if not is_ours(name)]
        return f"{size} ({', '.join(_ratio_of(name, ranking) for name in rivals)})"
    return f"{size} ({ours} takes {_times(ranking.ratios[ours], f' as {best}')})"


# --------------------------------------------------------------------------------------------------
# What was measured once, or a few times
# --------------------------------------------------------------------------------------------------


def _costs(results: Results, found: Mapping[str, Speed]) -> list[Finding | None]:
    once = "Measured once, without an interval"
    several = f"Median of {number_of_starts(results, found)}, without an interval"
    start_up = {name: median(starts(results, name)) for name in found}
    first = {name: s.first_step_seconds for name, s in found.items() if s.first_step_seconds is not None}
    # Of those that train: who only infers has less to do.
    memory = {
        name: s.peak_memory for name, s in found.items() if s.train_seconds and s.peak_memory is not None
    }
    costs = [_cost(Measure("Memory", "the peak is", _megabytes), once, memory)]
    if results.started_at_once == 1:  # else what is measured of one depends on who else was busy
        costs[:0] = [
            _cost(Measure("Start-up", "import and model take", _seconds), several, start_up),
            _cost(Measure("First step", "tracing, compiling and running it take", _seconds), once, first),
        ]
    return costs


def _cost(measure: Measure, how: str, values: Mapping[str, float]) -> Finding | None:
    """The least of lstm_jax beside the least of the others.

    Args:
        measure: what is compared.
        how: how often it was measured.
        values: by framework.
    """
    camps = [[name for name in values if is_ours(name) == ours] for ours in (True, False)]
    if not all(camps):
        return None
    our, other = (min(camp, key=values.__getitem__) for camp in camps)
    shown = {name: f"{measure.show(values[name])} with {name}" for name in (our, other)}
    one = f"{how}: {measure.takes}"
    if values[our] > LARGE * values[other]:
        times = f", {values[our] / values[other]:.1f} times as much" if values[other] > 0 else ""
        text = f"{one} {shown[other]}, the least of all, and {shown[our]}{times}."
        return Finding(measure.topic, Standing.BEHIND, text)
    if values[other] > LARGE * values[our]:
        text = f"{one} {shown[our]}, the least of all; of the others, {shown[other]} is the least."
        return Finding(measure.topic, Standing.FIRST, text)
    text = f"{one} {shown[our]} and {shown[other]}: too close to call without one."
    return Finding(measure.topic, Standing.LEVEL, text)


# --------------------------------------------------------------------------------------------------
# Accuracy
# --------------------------------------------------------------------------------------------------


def _races(results: Results) -> list[Finding]:
    """Who is the first at an accuracy, from the start of the process."""
    found = learners(results)
    if len(found) < 2:
        return []
    return [_race(found, target) for target in TARGETS]


def _race(found: Mapping[str, Sequence[Learning]], target: float) -> Finding:
    """A winner is named only if its slowest seed is before the fastest of each of the other camp."""
    times = {}
    for name, runs in found.items():
        seconds = [s for run in runs if (s := run.seconds_from_start_to(target)) is not None]
        if len(seconds) == len(runs):
            times[name] = seconds
    topic = f"Time to {percent(target)}"
    if len({is_ours(name) for name in times}) < 2:
        who = _listed(list(times)) if times else "no framework"
        return Finding(topic, Standing.UNKNOWN, f"Reached with every seed by {who}.")
    order = sorted(times, key=lambda name: median(times[name]))
    best = order[0]
    rivals = [name for name in order if is_ours(name) != is_ours(best)]
    shown = (
        f"From the start of the process, {best} needs {_range(times[best])}, and {rivals[0]}, the first of "
        f"the {'others' if is_ours(best) else 'rows of lstm_jax'}, {_range(times[rivals[0]])}"
    )
    standing = Standing.LEVEL
    if min(len(times[best]), len(times[rivals[0]])) < 2:
        text, standing = f"{shown}; one seed names no winner.", Standing.UNKNOWN
    elif max(times[best]) >= min(min(times[name]) for name in rivals):
        text = f"{shown}; the seeds overlap: no difference shown."
    else:
        standing = Standing.FIRST if is_ours(best) else Standing.BEHIND
        text = f"{shown}; no seed of any of them is as fast as its slowest."
    if late := [name for name in found if name not in times]:
        text += f" Not with every seed: {', '.join(late)}."
    return Finding(topic, standing, text)


def _range(seconds: Sequence[float]) -> str:
    return f"{three_digits(median(seconds))} s ({three_digits(min(seconds))} to {three_digits(max(seconds))})"


def _accuracy(results: Results) -> list[Finding]:
    """Whether the frameworks differ in what they learn by more than seeds do."""
    found = learners(results)
    finals = {name: [100 * run.accuracy[-1] for run in runs] for name, runs in found.items()}
    if len(finals) < 2:
        return []
    means = {name: mean_and_deviation(values)[0] for name, values in finals.items()}
    low, high = min(means, key=means.__getitem__), max(means, key=means.__getitem__)
    text = f"The mean accuracies lie between {means[low]:.2f} % ({low}) and {means[high]:.2f} % ({high})."
    spread = max(max(values) - min(values) for values in finals.values())
    if spread:
        text += f" The seeds of one framework are up to {spread:.2f} points apart"
        apart = means[high] - means[low] > spread
        text += "." if apart else ", so that this shows no difference between frameworks."
    return [Finding("Accuracy", Standing.UNKNOWN, text)]


# --------------------------------------------------------------------------------------------------
# Agreement with the judge
# --------------------------------------------------------------------------------------------------


def _agreement(results: Results) -> list[Finding]:
    compared = {name: one for name, one in results.frameworks.items() if one.parity}
    absent = [name for name in results.frameworks if name not in compared]
    if not compared:
        return []
    differ = [name for name, one in compared.items() if not one.agrees]
    texts = [f"Of {len(compared)} compared with the float64 judge, {len(compared) - len(differ)} agree."]
    curves = {name: curve for name, one in compared.items() if (curve := _curve(one)) is not None}
    if curves:
        worst = max(curves, key=curves.__getitem__)
        texts.append(
            f"The losses over the first {len(results.judge_losses)} steps differ from its by "
            f"at most {curves[worst]:.1e}, relatively ({worst})."
        )
    texts += [f"Different, and therefore not timed: {_listed(differ)}."] if differ else []
    texts += [f"Not compared: {_listed(absent)}, see the table of frameworks."] if absent else []
    return [Finding("Agreement", Standing.UNKNOWN, " ".join(texts))]


def _curve(found: FrameworkResult) -> float | None:
    return found.parity.curve if found.agrees and found.parity else None

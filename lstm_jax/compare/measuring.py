"""Rounds of timing, in which all frameworks take turns, so that what slows the machine down meets all alike.

The clock runs inside of each process, around nothing but the framework's own call; the others wait in
silence meanwhile.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from types import MappingProxyType
from typing import NamedTuple, TypeAlias

from lstm_jax.benchmark.size import Size, train_flop
from lstm_jax.benchmark.timing import turn
from lstm_jax.compare.adapter import Params
from lstm_jax.compare.processes import FrameworkError, Process
from lstm_jax.compare.results import ScalingPoint, Speed
from lstm_jax.compare.work import Batches
from lstm_jax.compare.worker import INFER, LATENCY, LATENCY_CALLS, TRAIN, Memory, Sample

# So small that the weights stay what they are however many steps are timed: a model that has learnt its
# batches by heart has vanishing gradients, and denormal numbers are slow.
TIMING_RATE = 1e-8

# In a call, however little arithmetic a step has: what a step costs besides does not shrink with it, and some
# frameworks would take ten times as long as others, and the curves over small sizes an hour.
MOST_STEPS = 200

# What each measure is taken on.
BATCHES: Mapping[str, str] = MappingProxyType({TRAIN: "chunk", INFER: "chunk", LATENCY: "single"})

# A framework's name, and what is measured of it.
Key: TypeAlias = tuple[str, str]

Report = Callable[[str], None]


class Start(NamedTuple):
    """What is known of a framework after its first step."""

    start_seconds: float
    start_memory: int | None
    first_step_seconds: float | None


def start(process: Process, size: Size, params: Params, batches: Batches, *, trains: bool) -> Start:
    """Build a model in a fresh process, and take its first step.

    Raises:
        FrameworkError: if it cannot.
    """
    ready: float = process.call("build", size, params, TIMING_RATE)
    memory: Memory = process.call("memory")
    seconds = None
    if trains:
        process.call("load", "first", *_first(batches))
        seconds = process.call("time_once", "first").seconds
    return Start(ready - process.started, memory.now, seconds)


def warm_up(process: Process, size: Size, params: Params, batches: Batches, *, trains: bool) -> None:
    """Build a model of a size, load the batches as "chunk", and let it do once what will be timed.

    Raises:
        FrameworkError: if it cannot.
    """
    process.call("build", size, params, TIMING_RATE)
    process.call("load", "first", *_first(batches))
    process.call("load", "chunk", *batches)
    if trains:
        for name in ("first", "chunk"):  # the first is what settles a measurement
            process.call("train", name)


def warm_up_inference(process: Process, batches: Batches) -> None:
    """The same for inference, of a model that is built; a single image is loaded as "single".

    Raises:
        FrameworkError: if it cannot.
    """
    process.call("load", "single", *(array[:1, :1] for array in batches))
    for name in ("first", "chunk", "single"):
        process.call("infer", name)


def choose_threads(process: Process, measures: Iterable[str]) -> dict[str, int]:
    """Find by trial the best number of threads for each measure, where the framework does not choose itself.

    Raises:
        FrameworkError: if it cannot do it.
    """
    counts = {measure: process.call("tune", measure, BATCHES[measure]) for measure in measures}
    return {measure: count for measure, count in counts.items() if count is not None}


def _first(batches: Batches) -> Batches:
    return Batches(*(array[:1] for array in batches))


def take_rounds(
    measures: Mapping[Key, Callable[[], Sample]],
    *,
    rounds: int,
    failed: Callable[[str, str], None],
    report: Report = lambda text: None,
) -> dict[Key, list[Sample]]:
    """Take every measurement once in each round.

    Args:
        measures: what takes a measurement, by the framework's name and what is measured.
        rounds: how many.
        failed: is told the name of a framework that fails, and why; all that is known of it is left out.
        report: told of each round.
    """
    samples: dict[Key, list[Sample]] = {key: [] for key in measures}
    for index in range(rounds):
        report(f"  round {index + 1} of {rounds}")
        for key in turn(list(measures), index, rounds):
            if key not in samples:
                continue
            try:
                samples[key].append(measures[key]())
            except FrameworkError as error:
                samples = {other: found for other, found in samples.items() if other[0] != key[0]}
                failed(key[0], str(error))
    return samples


def timed(process: Process, *, trains: bool) -> dict[str, Callable[[], Sample]]:
    """What is timed of a framework that has been prepared."""
    return {
        measure: partial(process.call, "time", measure, BATCHES[measure]) for measure in measures_of(trains)
    }


def measures_of(trains: bool) -> tuple[str, ...]:
    """What is measured of a framework, whether it trains or not."""
    return (*((TRAIN,) if trains else ()), INFER, LATENCY)


def speed_of(
    start: Start,
    memory: Memory,
    found: Mapping[str, Sequence[Sample]],
    *,
    steps: int,
    threads: Mapping[str, int],
) -> Speed:
    """Put the measurements of a framework together, each per step."""
    training = found.get(TRAIN, ())
    return Speed(
        start_seconds=start.start_seconds,
        first_step_seconds=start.first_step_seconds,
        settings={name: f"{count} thread{'s' * (count > 1)}" for name, count in threads.items()},
        train_seconds=tuple(sample.seconds / steps for sample in training),
        train_cpu_seconds=tuple(sample.cpu_seconds / steps for sample in training),
        infer_seconds=tuple(sample.seconds / steps for sample in found[INFER]),
        latency_seconds=tuple(sample.seconds / LATENCY_CALLS for sample in found[LATENCY]),
        start_memory=start.start_memory,
        peak_memory=memory.peak,
    )


def steps_for(size: Size, *, reference: Size, steps: int) -> int:
    """How many steps take as much arithmetic as ``steps`` of a reference size; from two to `MOST_STEPS`.

    So that what a call costs besides its steps weighs alike at all sizes.
    """
    return max(2, min(MOST_STEPS, round(steps * train_flop(reference) / train_flop(size))))


def scaling_point(
    processes: Mapping[str, Process],
    size: Size,
    params: Params,
    batches: Batches,
    *,
    rounds: int,
    report: Report,
) -> ScalingPoint:
    """Time train steps at one size.

    Args:
        processes: of the frameworks that are to be timed, by name.
        size: the size.
        params: initial weights of this size.
        batches: a measurement trains on these.
        rounds: measurements of each framework.
        report: told of those that fail.
    """
    why_not: dict[str, str] = {}

    def failed(name: str, why: str) -> None:
        why_not[name] = why
        report(f"  {name} {why}")

    ready = {}
    for name, process in processes.items():
        try:
            warm_up(process, size, params, batches, trains=True)
            choose_threads(process, (TRAIN,))
        except FrameworkError as error:
            failed(name, str(error))
        else:
            ready[name] = process
    measures = {(name, TRAIN): timed(process, trains=True)[TRAIN] for name, process in ready.items()}
    samples = take_rounds(measures, rounds=rounds, failed=failed)
    steps = len(batches.labels)
    seconds = {name: tuple(s.seconds / steps for s in found) for (name, _), found in samples.items()}
    return ScalingPoint(*size, steps=steps, seconds=seconds, why_not=why_not)

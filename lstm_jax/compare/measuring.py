"""Rounds of timing, in which all frameworks take turns, so that what slows the machine down meets all alike.

The clock runs inside of each process, around nothing but the framework's own call; the others wait in
silence meanwhile.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, TypeAlias

from lstm_jax.benchmark.size import Size, train_flop
from lstm_jax.benchmark.timing import turn
from lstm_jax.compare.adapter import Params
from lstm_jax.compare.processes import FrameworkError, Process
from lstm_jax.compare.results import ScalingPoint, Speed
from lstm_jax.compare.work import Batches
from lstm_jax.compare.worker import Memory, Sample

# So small that the weights stay what they are however many steps are timed: a model that has learnt its
# batches by heart has vanishing gradients, and denormal numbers are slow.
LEARNING_RATE = 1e-8

# Calls with a single image per measurement.
LATENCY_CALLS = 50

# What is measured of a framework.
TRAIN, INFER, LATENCY = "train", "infer", "latency"

# A framework's name, and what is measured of it.
Key: TypeAlias = tuple[str, str]

Report = Callable[[str], None]


class Built(NamedTuple):
    """What is known of a framework before the rounds of timing."""

    start_seconds: float
    start_memory: int | None
    first_step_seconds: float | None
    setting: str | None


def prepare(process: Process, size: Size, params: Params, batches: Batches, *, trains: bool) -> float | None:
    """Build a model of a size, take its first step, load the batches as "chunk", and warm up.

    Returns:
        The seconds of the first step; None if it does not train.

    Raises:
        FrameworkError: if it cannot.
    """
    process.call("build", size, params, LEARNING_RATE)
    process.call("load", "first", *(array[:1] for array in batches))
    process.call("load", "chunk", *batches)
    if not trains:
        return None
    first: Sample = process.call("time_training", "first")
    process.call("train", "chunk")
    return first.seconds


def prepare_inference(process: Process, batches: Batches) -> None:
    """Load a single image as "single", and warm up inference."""
    process.call("load", "single", *(array[:1, :1] for array in batches))
    for name in ("chunk", "single"):
        process.call("infer", name)


def take_rounds(
    measures: Mapping[Key, Callable[[], Sample]], *, rounds: int, failed: Callable[[str, str], None]
) -> dict[Key, list[Sample]]:
    """Take every measurement once in each round.

    Args:
        measures: what takes a measurement, by the framework's name and what is measured.
        rounds: how many.
        failed: is told the name of a framework that fails, and why; all that is known of it is left out.
    """
    samples: dict[Key, list[Sample]] = {key: [] for key in measures}
    for index in range(rounds):
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
    inference = {
        INFER: lambda: process.call("time_inference", "chunk", 1),
        LATENCY: lambda: process.call("time_inference", "single", LATENCY_CALLS),
    }
    return {TRAIN: lambda: process.call("time_training", "chunk"), **inference} if trains else inference


def speed_of(built: Built, memory: Memory, found: Mapping[str, Sequence[Sample]], *, steps: int) -> Speed:
    """Put the measurements of a framework together, each per step."""
    training = found.get(TRAIN, ())
    return Speed(
        start_seconds=built.start_seconds,
        first_step_seconds=built.first_step_seconds,
        setting=built.setting,
        train_seconds=tuple(sample.seconds / steps for sample in training),
        train_cpu_seconds=tuple(sample.cpu_seconds / steps for sample in training),
        infer_seconds=tuple(sample.seconds / steps for sample in found[INFER]),
        latency_seconds=tuple(sample.seconds / LATENCY_CALLS for sample in found[LATENCY]),
        start_memory=built.start_memory,
        peak_memory=memory.peak,
    )


def steps_for(size: Size, *, reference: Size, steps: int) -> int:
    """How many steps take as much arithmetic as ``steps`` of a reference size; at least two."""
    return max(2, min(steps, round(steps * train_flop(reference) / train_flop(size))))


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
            prepare(process, size, params, batches, trains=True)
        except FrameworkError as error:
            failed(name, str(error))
        else:
            ready[name] = process
    measures = {(name, TRAIN): timed(process, trains=True)[TRAIN] for name, process in ready.items()}
    samples = take_rounds(measures, rounds=rounds, failed=failed)
    steps = len(batches.labels)
    seconds = {name: tuple(s.seconds / steps for s in found) for (name, _), found in samples.items()}
    return ScalingPoint(*size, seconds=seconds, why_not=why_not)

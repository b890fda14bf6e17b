"""What a comparison found, with every single measurement: written to and read from results.json."""

import dataclasses
import json
import math
import types
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lstm_jax.benchmark.size import Size
from lstm_jax.errors import ResultsError, one_line

# Of the file; a file of another format is refused.
FORMAT = 1

# Along which sizes are scaled.
AXES = ("hidden", "batch", "time")


@dataclasses.dataclass(frozen=True)
class Parity:
    """How far a framework is from the float64 judge. All errors are relative, see `parity.py`.

    Attributes:
        logits: largest error of a logit of the first batch by the largest logit.
        loss: error of its loss.
        gradients: largest error of an element of a gradient by the largest element of the same parameter.
        losses: the losses of the first steps; empty if it does not train.
        curve: largest error of one of these losses.
        chunk: the same after all these steps in one call, as they are timed: the error of their mean loss.
        inference: largest error of the logits that the timed inference call gives for the first batch.
        why_different: what is beyond its tolerance, in words; None if nothing is.
    """

    logits: float
    loss: float | None = None
    gradients: float | None = None
    losses: tuple[float, ...] = ()
    curve: float | None = None
    chunk: float | None = None
    inference: float | None = None
    why_different: str | None = None


@dataclasses.dataclass(frozen=True)
class Speed:
    """What was measured of a framework at the size asked for. One number per round, unless said.

    Attributes:
        start_seconds: from the start of the process until the framework is imported and the model built;
            taken once.
        first_step_seconds: the first train step of that model: tracing, compiling, running. Taken once,
            before anything else runs in the process; None if it does not train.
        settings: by what is measured ("train", "infer", "latency") what was chosen for it by trial
            ("2 threads"); empty if it chooses itself.
        train_seconds: seconds per train step.
        train_cpu_seconds: seconds of all processor cores together per train step.
        infer_seconds: seconds per batch of inference.
        latency_seconds: seconds for a single image.
        start_memory: bytes of memory that the process has when the model is built.
        peak_memory: the most bytes of memory that it had while it trained and inferred.
    """

    start_seconds: float
    first_step_seconds: float | None
    settings: Mapping[str, str]
    train_seconds: tuple[float, ...]
    train_cpu_seconds: tuple[float, ...]
    infer_seconds: tuple[float, ...]
    latency_seconds: tuple[float, ...]
    start_memory: int | None
    peak_memory: int | None


@dataclasses.dataclass(frozen=True)
class Learning:
    """One run of a framework with one seed.

    Attributes:
        seed: fixes initial weights and order of the images.
        start_seconds: from the start of the process until the framework is imported and the model built.
        first_step_seconds: what the first part took beyond a usual one of as many steps: compilation.
        steps: after how many train steps the accuracy was taken.
        seconds: how long these steps took, without ``first_step_seconds``, evaluation, and the reading and
            shuffling of data.
        accuracy: test accuracy, from 0 to 1, on all test images.
    """

    seed: int
    start_seconds: float
    first_step_seconds: float
    steps: tuple[int, ...]
    seconds: tuple[float, ...]
    accuracy: tuple[float, ...]

    def seconds_to(self, accuracy: float) -> float | None:
        """Seconds of training until a test accuracy was first reached; None if it was not."""
        reached = (s for s, found in zip(self.seconds, self.accuracy, strict=True) if found >= accuracy)
        return next(reached, None)

    def seconds_from_start_to(self, accuracy: float) -> float | None:
        """The same from the start of the process."""
        seconds = self.seconds_to(accuracy)
        return None if seconds is None else self.start_seconds + self.first_step_seconds + seconds


@dataclasses.dataclass(frozen=True)
class FrameworkResult:
    """All that is known of one framework.

    Attributes:
        title: what it is, in words.
        versions: of the packages behind it.
        why_not: why it was not measured, or not to the end (missing, failed, different); else None.
        parity: how far it is from the judge; None if it did not get so far.
        speed: None if it was not timed.
        learning: a run for each seed; empty if it did not learn.
    """

    title: str
    versions: Mapping[str, str]
    why_not: str | None = None
    parity: Parity | None = None
    speed: Speed | None = None
    learning: tuple[Learning, ...] = ()

    @property
    def agrees(self) -> bool:
        """Whether it has shown that it computes what the judge does."""
        return self.parity is not None and self.parity.why_different is None

    @property
    def timed(self) -> Speed | None:
        """What may be told of its speed: nothing, unless it agrees."""
        return self.speed if self.agrees else None


@dataclasses.dataclass(frozen=True)
class Peak:
    """The machine's matrix product, measured in the same rounds.

    Attributes:
        flop: additions and multiplications of one product.
        seconds: seconds per product, one number per round.
    """

    flop: int
    seconds: tuple[float, ...]


@dataclasses.dataclass(frozen=True)
class ScalingPoint:
    """Train steps at one size.

    Attributes:
        hidden, batch, time, inputs: the size.
        steps: train steps in one timed call.
        seconds: by framework: seconds per train step, one number per round.
        why_not: by framework: why there are none.
    """

    hidden: int
    batch: int
    time: int
    inputs: int
    steps: int
    seconds: Mapping[str, tuple[float, ...]]
    why_not: Mapping[str, str]

    @property
    def size(self) -> Size:
        """H, B, T, D."""
        return Size(self.hidden, self.batch, self.time, self.inputs)


@dataclasses.dataclass(frozen=True)
class Scaling:
    """Train steps along one of `AXES`; the other sizes stay."""

    axis: str
    points: tuple[ScalingPoint, ...]


@dataclasses.dataclass(frozen=True)
class Results:
    """A whole comparison.

    Attributes:
        command: a command line that asks for the same.
        date: when it began, ISO 8601 with the time zone.
        machine: processor, cores, system, settings from outside.
        versions: of Python and of this package.
        hidden, batch, time, inputs: the size at which all is measured but the scaling.
        threads: how many processor cores each framework could use.
        steps_per_call: train steps in one timed call; 0 if nothing was timed.
        test_images: images that test accuracy is taken on.
        train_flop: additions and multiplications of the matrix products of a train step.
        forward_flop: the same of an inference step.
        judge_losses: the losses of the first steps in float64.
        tolerances: by name of a field of `Parity`.
        frameworks: by name, in the order of tables.
        peak: the machine's matrix product; None if nothing was timed.
        scaling: curves; empty if they were not asked for.
        recipe: of the runs that learn.
        learning_rate: theirs, the largest if it decays.
        started_at_once: how many frameworks were started at the same time.
        epochs: how many epochs these have, which may be a fraction.
        source: SHA-256 of this package's code; empty in results of before it was noted.
        notes: what a reader must know besides, each a sentence.
    """

    command: str
    date: str
    machine: Mapping[str, Any]
    versions: Mapping[str, str]
    hidden: int
    batch: int
    time: int
    inputs: int
    threads: int
    steps_per_call: int
    test_images: int
    train_flop: int
    forward_flop: int
    judge_losses: tuple[float, ...]
    tolerances: Mapping[str, float]
    frameworks: Mapping[str, FrameworkResult]
    peak: Peak | None = None
    scaling: tuple[Scaling, ...] = ()
    recipe: str = "tutorial"
    learning_rate: float = 0.0
    started_at_once: int = 1
    epochs: float = 0
    source: str = ""
    notes: tuple[str, ...] = ()

    @property
    def size(self) -> Size:
        """H, B, T, D."""
        return Size(self.hidden, self.batch, self.time, self.inputs)

    @property
    def day(self) -> str:
        """When it began, to the minute, for people."""
        return self.date[:16].replace("T", " ")

    def with_framework(self, name: str, **changes: Any) -> "Results":
        """The same with something more known of one framework."""
        changed = dataclasses.replace(self.frameworks[name], **changes)
        return dataclasses.replace(self, frameworks={**self.frameworks, name: changed})


# --------------------------------------------------------------------------------------------------
# JSON
# --------------------------------------------------------------------------------------------------

# JSON has no such numbers; a framework that computes nonsense has.
NOT_FINITE = ("nan", "inf", "-inf")
# What is divided by, or drawn on a logarithmic axis.
POSITIVE = {
    *("train_seconds", "infer_seconds", "latency_seconds", "flop", "seconds"),
    *("hidden", "batch", "time", "steps"),
}


def as_json(results: Results) -> str:
    """Results as the text of results.json."""
    return json.dumps({"format": FORMAT, **_plain(results)}, indent=1, allow_nan=False) + "\n"


def read_results(path: Path) -> Results:
    """Read a results.json.

    Raises:
        ResultsError: if it cannot be read, or is not the result of a comparison.
    """
    try:
        values = json.loads(path.read_text())
    except (OSError, ValueError, RecursionError) as error:
        raise ResultsError(
            f"{path}: cannot be read ({one_line(error)}); expected the results.json of a comparison"
        ) from error
    if not isinstance(values, dict) or values.get("format") != FORMAT:
        found = values.get("format") if isinstance(values, dict) else None
        raise ResultsError(
            f"{path}: got format {found!r}, expected {FORMAT}, the results.json of a comparison"
        )
    del values["format"]
    try:
        results: Results = _read(Results, values, "results")
    except ValueError as error:
        raise ResultsError(f"{path}: not the results.json of a comparison ({one_line(error)})") from error
    return results


def _plain(value: Any) -> Any:
    """Dataclasses, mappings and tuples as what JSON has."""
    if dataclasses.is_dataclass(value):
        return {field.name: _plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): _plain(found) for key, found in value.items()}
    if isinstance(value, tuple | list):
        return [_plain(found) for found in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def _read(kind: Any, value: Any, where: str) -> Any:
    """The inverse of `_plain`: a value as the annotation of its field wants it.

    Args:
        kind: a dataclass, Mapping[str, ...], tuple[..., ...], a type or None, int, float, str or Any.
        value: what JSON has.
        where: the names of the fields on the way there, for the message.

    Raises:
        ValueError: if it is something else.
    """
    if kind is Any:
        return value
    if dataclasses.is_dataclass(kind):
        return _read_dataclass(kind, value, where)
    if isinstance(kind, types.UnionType):
        (inner,) = (member for member in kind.__args__ if member is not types.NoneType)
        return None if value is None else _read(inner, value, where)
    origin, members = typing.get_origin(kind), typing.get_args(kind)
    if origin is tuple and isinstance(value, list):
        return tuple(_read(members[0], found, where) for found in value)
    if origin is Mapping and isinstance(value, dict):
        return {key: _read(members[1], found, f"{where}.{key}") for key, found in value.items()}
    if kind is str and isinstance(value, str):
        return value
    if kind is float and value in NOT_FINITE:
        return float(value)
    if kind in (int, float) and isinstance(value, int | kind) and not isinstance(value, bool):
        return kind(value)
    raise ValueError(f"{where}: got {value!r:.40}, expected {getattr(kind, '__name__', kind)}")


def _read_dataclass(kind: Any, values: Any, where: str) -> Any:
    if not isinstance(values, dict):
        raise ValueError(f"{where}: got {values!r:.40}, expected an object")
    fields = {field.name: field for field in dataclasses.fields(kind)}
    if unknown := sorted(set(values) - set(fields)):
        raise ValueError(f"{where}: unknown {', '.join(unknown)}")
    required = [name for name, field in fields.items() if field.default is dataclasses.MISSING]
    if missing := [name for name in required if name not in values]:
        raise ValueError(f"{where}: lacks {', '.join(missing)}")
    kinds = typing.get_type_hints(kind)
    read = {name: _read(kinds[name], value, f"{where}.{name}") for name, value in values.items()}
    found = kind(**read)
    if problem := _problem(found):
        raise ValueError(f"{where}.{problem}")
    return found


def _problem(found: Any) -> str | None:
    """What would make no sense in a table or a picture, though its type is right."""
    if isinstance(found, Learning):
        lengths = {len(found.steps), len(found.seconds), len(found.accuracy)}
        if len(lengths) > 1 or 0 in lengths:
            return "accuracy: expected as many as steps and seconds, and at least one"
        return None
    if isinstance(found, Scaling) and found.axis not in AXES:
        return f"axis: got {found.axis!r:.40}, expected one of {', '.join(AXES)}"
    for name in POSITIVE & set(vars(found)):
        if not all(number > 0 for number in _numbers(getattr(found, name))):
            return f"{name}: expected numbers above 0"
    return None


def _numbers(value: Any) -> list[float]:
    """All numbers of a field of measurements."""
    if isinstance(value, Mapping):
        return [number for numbers in value.values() for number in numbers]
    return list(value) if isinstance(value, tuple) else [value]

"""The results. Each part of a comparison is one JSON file, and all of them together are results.json."""

import dataclasses
import json
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from lstm_jax.compare.size import Size
from lstm_jax.errors import ResultsError, one_line
from lstm_jax.system.files import write_whole

Part = TypeVar("Part", "Point", "Learning", "About")
Seconds = Mapping[str, Sequence[float]]  # name of a measure -> seconds for a batch, one number per round

# The name of the point at the main size, which has all measures.
MAIN = "main"


@dataclasses.dataclass(frozen=True)
class Parity:
    """The errors of a framework, relative to the float64 judge.

    Attributes:
        errors: relative errors, by the names in `parity.TOLERANCES`; None where one is not finite.
        losses: the losses of the first steps; empty if it does not train.
        why_different: the errors beyond their tolerances, in words; None if there are none.
    """

    errors: Mapping[str, float | None]
    losses: Sequence[float] = ()
    why_different: str | None = None


@dataclasses.dataclass(frozen=True)
class Row:
    """The results of a framework at one size.

    Attributes:
        why_not: why it was not measured, or not to the end (missing, failed, different); else None.
        parity: None if it was not compared.
        start_seconds: from the start of the process until the framework is imported and the model built.
        first_step_seconds: tracing, compiling and running a train step before anything else runs in the
            process; None if it does not train.
        start_memory, peak_memory: bytes of memory of the process when the model is built, and the most while
            it was timed.
        step_memory: bytes that XLA plans for a train step.
        threads: the number of threads chosen by trial, by measure; empty if the framework chooses it.
        seconds, processor_seconds: seconds of the wall clock, and of all processor cores together.
    """

    why_not: str | None = None
    parity: Parity | None = None
    start_seconds: float | None = None
    first_step_seconds: float | None = None
    start_memory: int | None = None
    peak_memory: int | None = None
    step_memory: int | None = None
    threads: Mapping[str, int] = dataclasses.field(default_factory=dict)
    seconds: Seconds = dataclasses.field(default_factory=dict)
    processor_seconds: Seconds = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Point:
    """The results of frameworks that took turns at one size.

    Attributes:
        size: H, B, T, D.
        steps: batches in a timed call.
        rows: the results by name, in the order of tables.
        judge_losses: the losses of the first steps in float64; empty if there was no judge.
        peak_seconds: seconds of the matrix product (`worker.PEAK_FLOP`), one number per round.
    """

    size: Size
    steps: int
    rows: Mapping[str, Row]
    judge_losses: Sequence[float] = ()
    peak_seconds: Sequence[float] = ()

    def seconds(self, measure: str) -> dict[str, Sequence[float]]:
        """Return the seconds of a measure by name, for the frameworks that have it."""
        return {name: row.seconds[measure] for name, row in self.rows.items() if row.seconds.get(measure)}


@dataclasses.dataclass(frozen=True)
class Learning:
    """One run of a framework with one seed, which determines initial weights and order of the images.

    Attributes:
        start_seconds: from the start of the process until the framework is imported and the model built.
        first_step_seconds: the extra time of the first part, which includes compilation.
        steps: number of train steps before each evaluation.
        seconds: time of these steps, without ``first_step_seconds``, evaluation, and the reading and
            shuffling of data.
        accuracy: test accuracy, from 0 to 1, on all test images.
        why_not: why it failed; else None.
    """

    name: str
    seed: int
    start_seconds: float = 0.0
    first_step_seconds: float = 0.0
    steps: Sequence[int] = ()
    seconds: Sequence[float] = ()
    accuracy: Sequence[float] = ()
    why_not: str | None = None

    def seconds_from_start(self) -> list[float]:
        """Return the seconds from the start of the process to each evaluation."""
        return [self.start_seconds + self.first_step_seconds + seconds for seconds in self.seconds]

    def seconds_to(self, accuracy: float, *, from_start: bool = False) -> float | None:
        """Return the seconds until a test accuracy was first reached; None if it was not."""
        seconds = self.seconds_from_start() if from_start else self.seconds
        reached = (s for s, found in zip(seconds, self.accuracy, strict=True) if found >= accuracy)
        return next(reached, None)


@dataclasses.dataclass(frozen=True)
class About:
    """The options, frameworks and machine of a comparison.

    Attributes:
        command: the command line for the same comparison.
        date: the date and time of its start, in ISO 8601 with the time zone.
        machine: processor, cores, system, and environment variables.
        versions: versions of Python, of this package, and of numerical packages.
        frameworks: title and versions of packages by name, in the order of tables.
        cores: number of processor cores that each framework could use.
        rounds: number of rounds of timing.
        devices: number of devices that share each batch in JAX.
        notes: sentences that readers must know.
        test_images: number of test images.
        recipe, learning_rate, epochs: those of the training runs; 0 epochs if there are none.
    """

    command: str
    date: str
    machine: Mapping[str, Any]
    versions: Mapping[str, str]
    frameworks: Mapping[str, tuple[str, Mapping[str, str]]]
    cores: int
    rounds: int
    devices: int = 1
    notes: Sequence[str] = ()
    test_images: int = 0
    recipe: str = "tutorial"
    learning_rate: float = 0.0
    epochs: float = 0.0


@dataclasses.dataclass(frozen=True)
class Comparison:
    """All parts: the point `MAIN` and those along each axis (of a benchmark, one per size), and all runs."""

    about: About
    points: Mapping[str, Point]
    runs: Sequence[Learning] = ()

    def as_json(self) -> str:
        """Return the text of results.json, with every single measurement."""
        return _text(self)


def kept(path: Path, kind: type[Part], make: Callable[[], Part]) -> Part:
    """Read a part of a comparison if its file exists; else make it and write it.

    Raises:
        ResultsError: if the file cannot be read.
    """
    if path.exists():
        return _read(path, kind)
    part = make()
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, _text(part))
    return part


def gathered(folder: Path) -> Comparison:
    """Read all parts that `kept` has written to a folder.

    Raises:
        ResultsError: if one of them cannot be read.
    """
    paths = {path.stem: path for path in sorted(folder.glob("*.json")) if path.stem != "about"}
    runs = [_read(path, Learning) for name, path in paths.items() if name.startswith("learning")]
    points = {name: _read(path, Point) for name, path in paths.items() if not name.startswith("learning")}
    return Comparison(_read(folder / "about.json", About), points, runs)


def _read(path: Path, kind: type[Part]) -> Part:
    """Read a part from a file with the text of `_text`."""
    try:
        values = json.loads(path.read_text())
        if kind is Point:
            rows = values["rows"].items()
            values["size"] = Size(**values["size"])
            values["rows"] = {
                n: Row(**{**r, "parity": r["parity"] and Parity(**r["parity"])}) for n, r in rows
            }
        return kind(**values)
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise ResultsError(
            f"{path}: got no part of a comparison ({one_line(error)}); remove the file, or give --overwrite"
        ) from error


def _text(part: Any) -> str:
    return json.dumps(_plain(dataclasses.asdict(part)), indent=1, allow_nan=False) + "\n"


def _plain(value: Any) -> Any:
    """Convert a value to JSON types; numbers that are not finite, from a wrong framework, become None."""
    if isinstance(value, Size):
        return value._asdict()
    if isinstance(value, Mapping):
        return {key: _plain(each) for key, each in value.items()}
    if isinstance(value, tuple | list):
        return [_plain(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value

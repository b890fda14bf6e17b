"""What was measured. Each part of a comparison is one JSON file, and all of them together results.json."""

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

# The name of the point that has everything that is asked of one size.
MAIN = "main"


@dataclasses.dataclass(frozen=True)
class Parity:
    """How far a framework is from the float64 judge. All errors are relative, see `parity.py`.

    Attributes:
        errors: by name of a field of `parity.TOLERANCES`; None where it is not finite.
        losses: the losses of the first steps; empty if it does not train.
        why_different: what is beyond its tolerance, in words; None if nothing is.
    """

    errors: Mapping[str, float | None]
    losses: Sequence[float] = ()
    why_different: str | None = None


@dataclasses.dataclass(frozen=True)
class Row:
    """What was measured of a framework at one size.

    Attributes:
        why_not: why it was not measured, or not to the end (missing, failed, different); else None.
        parity: how far it is from the judge; None if it was not compared.
        start_seconds: from the start of the process until the framework is imported and the model built.
        first_step_seconds: the first train step: tracing, compiling, running; before anything else runs in
            the process. None if it does not train.
        start_memory: bytes of memory that the process has when the model is built.
        peak_memory: the most that it had while it was timed.
        step_memory: bytes that XLA plans for a train step; None if the framework cannot tell.
        threads: by measure, the number of threads that was chosen by trial; empty if it chooses itself.
        seconds: by measure, seconds for a batch, one number per round.
        processor_seconds: the same of all processor cores together.
    """

    why_not: str | None = None
    parity: Parity | None = None
    start_seconds: float | None = None
    first_step_seconds: float | None = None
    start_memory: int | None = None
    peak_memory: int | None = None
    step_memory: int | None = None
    threads: Mapping[str, int] = dataclasses.field(default_factory=dict)
    seconds: Mapping[str, Sequence[float]] = dataclasses.field(default_factory=dict)
    processor_seconds: Mapping[str, Sequence[float]] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Point:
    """Frameworks that took turns at one size.

    Attributes:
        size: H, B, T, D.
        steps: batches in a timed call.
        rows: by name, in the order of tables.
        judge_losses: the losses of the first steps in float64; empty if there was no judge.
        peak_seconds: seconds of a matrix product of the machine (`worker.PEAK_FLOP`), one number per round.
    """

    size: Size
    steps: int
    rows: Mapping[str, Row]
    judge_losses: Sequence[float] = ()
    peak_seconds: Sequence[float] = ()

    def seconds(self, measure: str) -> dict[str, Sequence[float]]:
        """The seconds for a batch of those that have them, by name."""
        return {name: row.seconds[measure] for name, row in self.rows.items() if row.seconds.get(measure)}


@dataclasses.dataclass(frozen=True)
class Learning:
    """One run of a framework with one seed.

    Attributes:
        name: of the framework.
        seed: fixes initial weights and order of the images.
        start_seconds: from the start of the process until the framework is imported and the model built.
        first_step_seconds: what the first part took beyond a usual one of as many steps: compilation.
        steps: after how many train steps the accuracy was taken.
        seconds: how long these steps took, without ``first_step_seconds``, evaluation, and the reading and
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

    def seconds_to(self, accuracy: float, *, from_start: bool = False) -> float | None:
        """Seconds of training until a test accuracy was first reached; None if it was not.

        Args:
            accuracy: from 0 to 1.
            from_start: count from the start of the process.
        """
        before = self.start_seconds + self.first_step_seconds if from_start else 0.0
        pairs = zip(self.seconds, self.accuracy, strict=True)
        return next((before + seconds for seconds, found in pairs if found >= accuracy), None)


@dataclasses.dataclass(frozen=True)
class About:
    """What was asked for, of whom, on what machine.

    Attributes:
        command: a command line that asks for the same.
        date: when it began, ISO 8601 with the time zone.
        machine: processor, cores, system, settings from outside.
        versions: of Python, of this package, and of what computes.
        frameworks: by name, in the order of tables: what it is, and the versions of its packages.
        cores: how many processor cores each framework could use.
        notes: what a reader must know besides, each a sentence.
        test_images: images that test accuracy is taken on.
        recipe, learning_rate, epochs: of the runs that learn; these have no epochs if there are none.
        rounds: how often each was timed.
        devices: how many share each batch in JAX.
    """

    command: str
    date: str
    machine: Mapping[str, Any]
    versions: Mapping[str, str]
    frameworks: Mapping[str, tuple[str, Mapping[str, str]]]
    cores: int
    notes: Sequence[str] = ()
    test_images: int = 0
    recipe: str = "tutorial"
    learning_rate: float = 0.0
    epochs: float = 0.0
    rounds: int = 0
    devices: int = 1

    @property
    def day(self) -> str:
        """When it began, to the minute, for people."""
        return self.date[:16].replace("T", " ")


@dataclasses.dataclass(frozen=True)
class Comparison:
    """All parts.

    Attributes:
        about: what was asked for.
        points: by name: `MAIN`, and those along an axis; of a benchmark, one for each size.
        runs: those that learned.
    """

    about: About
    points: Mapping[str, Point]
    runs: Sequence[Learning] = ()

    def as_json(self) -> str:
        """The text of results.json, with every single measurement."""
        return _text(dataclasses.asdict(self))


def kept(path: Path, kind: type[Part], make: Callable[[], Part]) -> Part:
    """A part of a comparison: read, if it is there; else made, and written.

    Raises:
        ResultsError: if it is there and cannot be read.
    """
    if path.exists():
        return _read_part(path, kind)
    part = make()
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, _text(dataclasses.asdict(part)))
    return part


def gathered(folder: Path) -> Comparison:
    """All parts that `kept` has written to a folder, each under the name of its file.

    Raises:
        ResultsError: if one of them cannot be read, or "about.json" is not there.
    """
    points, runs = {}, []
    about = _read_part(folder / "about.json", About)
    for path in sorted(folder.glob("*.json")):
        if path.name.startswith("learning"):
            runs.append(_read_part(path, Learning))
        elif path.name != "about.json":
            points[path.stem] = _read_part(path, Point)
    return Comparison(about, points, tuple(runs))


class _Reading:
    """Turns what goes wrong while a file is read into an error that names it. A context manager."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        if isinstance(error, OSError | ValueError | KeyError | TypeError | AttributeError | RecursionError):
            raise ResultsError(
                f"{self._path}: got what is no part of a comparison ({one_line(error)}); remove it, or give "
                "--overwrite"
            ) from error


def _read(path: Path) -> dict[str, Any]:
    with _Reading(path):
        values = json.loads(path.read_text())
        if not isinstance(values, dict):
            raise TypeError("expected an object")
        return values


def _read_part(path: Path, kind: type[Part]) -> Part:
    values = _read(path)
    with _Reading(path):
        return _made(kind, values)


def _made(kind: type[Part], values: dict[str, Any]) -> Part:
    """The inverse of `dataclasses.asdict`."""
    if kind is Point:
        rows = {
            name: Row(**{**row, "parity": row["parity"] and Parity(**row["parity"])})
            for name, row in values["rows"].items()
        }
        values = {**values, "size": Size(**values["size"]), "rows": rows}
    return kind(**values)


def _text(values: Any) -> str:
    return json.dumps(_finite(values), indent=1, allow_nan=False) + "\n"


def _finite(value: Any) -> Any:
    """The same with None for numbers that JSON has not: a framework that computes nonsense has them."""
    if isinstance(value, Size):
        return value._asdict()
    if isinstance(value, Mapping):
        return {key: _finite(each) for key, each in value.items()}
    if isinstance(value, tuple | list):
        return [_finite(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value

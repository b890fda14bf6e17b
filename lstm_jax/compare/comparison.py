"""The command ``compare``: parity and speed at one size, curves over sizes, time to an accuracy.

Its parts are independent: the main size, each size of a curve, each training run. Each part is written to the
folder as soon as it is measured, and an existing part is not measured again. All frameworks take turns within
a part, except that a training run is of one framework.
"""

import dataclasses
import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from itertools import product
from pathlib import Path

from filelock import FileLock, Timeout

from lstm_jax.compare.frameworks import NATIVE, Framework
from lstm_jax.compare.learning import Course, course_of, learn
from lstm_jax.compare.machine import machine, now, versions
from lstm_jax.compare.measuring import PEAK, PEAK_PRODUCT, Effort, Measurement
from lstm_jax.compare.processes import Process
from lstm_jax.compare.report.document import write_comparison
from lstm_jax.compare.results import MAIN, About, Comparison, Learning, Point, gathered, kept
from lstm_jax.compare.size import AXES, Size
from lstm_jax.compare.work import Digits, initial_params, row_batches
from lstm_jax.compare.worker import INFER, LATENCY, TRAIN
from lstm_jax.data.dataset import load_dataset
from lstm_jax.errors import ConfigError, Report
from lstm_jax.kernels.build import why_not_available
from lstm_jax.system.signals import StopSignals

# The sizes of the curves; the main size is added to them.
CURVES: Mapping[str, tuple[int, ...]] = {
    "hidden": (16, 32, 64, 128, 256, 512),
    "batch": (8, 32, 128, 512, 2048),
    "time": (7, 28, 112, 392, 784),
}
CURVE_STEPS, CURVE_ROUNDS = 50, 5


@dataclasses.dataclass(frozen=True)
class ComparisonPlan:
    """The options of a comparison.

    Attributes:
        command: the command line for the same comparison.
        folder: the folder of results.json, the pictures and the page.
        frameworks: the frameworks to compare, by name, in the order of tables.
        size: the main size.
        cores: the processor cores that each framework may use.
        steps: train steps in a timed call, and losses to compare with those of the judge.
        rounds: number of rounds of timing.
        recipe: the recipe of the training runs; its schedule also holds for the compared losses.
        epochs: epochs of the training runs, if the recipe has no number of steps; 0 for no runs.
        seeds: number of training runs of each framework.
        scaling: whether to measure curves over sizes.
        quick: whether this is a quick look.
        overwrite: whether to replace a comparison in the folder.
    """

    command: str
    folder: Path
    frameworks: Mapping[str, Framework]
    size: Size
    cores: Sequence[int]
    steps: int = 100
    rounds: int = 15
    recipe: str = "tutorial"
    epochs: int = 5
    seeds: int = 3
    scaling: bool = True
    quick: bool = False
    overwrite: bool = False


def run(plan: ComparisonPlan, *, data_dir: Path | None, report: Report) -> None:
    """Compare, write results.json, the pictures and the page, and print the document.

    If it is stopped early, it reports the measurements so far, and the same command continues.

    Raises:
        UserError: before any measurement, if the comparison is not possible.
        KeyboardInterrupt: if it was stopped.
    """
    plan.folder.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(plan.folder / ".lock", timeout=0):
            dataset = load_dataset("mnist", data_dir=data_dir, report=report)
            parts = Parts(plan, Digits.of(dataset.train), Digits.of(dataset.test), report=report)
            # Signals are held back while the report is written, so that a second Ctrl-C does not lose it.
            with StopSignals() as signals:
                try:
                    with signals.at_once():
                        parts.measure()
                except KeyboardInterrupt:
                    report("stopped; the measurements so far are reported, and the same command goes on")
                    raise
                finally:
                    print(write_comparison(parts.gathered(), plan.folder, report=report))
    except Timeout as error:
        raise ConfigError(
            f"--output: another comparison is running in {plan.folder}; wait for it, or name another"
        ) from error


class Parts:
    """The parts of a comparison in its folder, with the digits for training and for the test.

    Raises:
        ConfigError: if the folder has a comparison of something else, or none of the frameworks can be
            compared.
    """

    def __init__(self, plan: ComparisonPlan, train: Digits, test: Digits, *, report: Report) -> None:
        self._plan, self._train, self._test, self._report = plan, train, test, report
        self._folder, self._logs = plan.folder / "parts", plan.folder / "logs"
        # Also needed without training runs: the compared losses have its decay.
        self._course = course_of(plan.recipe, plan.size, train, epochs=plan.epochs)
        self._is_a_digit = plan.size.time == train.images.shape[1]
        reasons = {name: each.why_not(time=plan.size.time) for name, each in plan.frameworks.items()}
        if all(reasons.values()):
            told = "; ".join(f"{name}: {reason}" for name, reason in reasons.items())
            raise ConfigError(f"--frameworks: none of the given ones can be compared; {told}")
        self._begin()

    def _begin(self) -> None:
        """Write the options to the folder, or check that the comparison in it has the same ones."""
        folder, file = self._plan.folder, self._folder / "about.json"
        if self._plan.overwrite and self._folder.exists():
            shutil.rmtree(self._folder)
        if file.exists():
            self._report(f"the comparison in {folder} goes on; --overwrite starts again")
        elif (folder / "results.json").exists() and not self._plan.overwrite:
            raise ConfigError(
                f"--output: {folder} has a results.json of something else; name another folder, or give "
                "--overwrite"
            )
        about = self._about()
        if differences := list(_differences(kept(file, About, lambda: about), about)):
            raise ConfigError(
                f"--output: {folder} has a comparison of something else ({'; '.join(differences[:3])}); name "
                "another folder, or give --overwrite"
            )

    def _about(self) -> About:
        plan, course = self._plan, self._learnt()
        return About(
            command=plan.command,
            date=now(),
            machine=machine(),
            versions=versions(),
            frameworks={name: (each.title, each.versions()) for name, each in plan.frameworks.items()},
            cores=len(plan.cores),
            rounds=plan.rounds,
            notes=tuple(self._notes()),
            test_images=len(self._test.labels),
            recipe=plan.recipe,
            learning_rate=course.learning_rate if course else 0.0,
            epochs=course.parts * course.steps / course.steps_per_epoch if course else 0.0,
        )

    def _notes(self) -> Iterator[str]:
        plan = self._plan
        if plan.quick:
            yield "A quick look: few rounds, few frameworks, no curves over sizes, no accuracy."
        slow = [name for name, framework in plan.frameworks.items() if framework.slow_to_compile]
        if slow and plan.scaling:
            yield f"Not in the curves over sizes, because they take long to compile: {', '.join(slow)}."
        if plan.epochs and not self._is_a_digit:
            yield f"No accuracy: only at {self._train.images.shape[1]} time steps a sequence is a digit."
        yield from dict.fromkeys(each.note for each in plan.frameworks.values() if each.note)

    def _learnt(self) -> Course | None:
        """Return the course of the training runs; None if there are none."""
        return self._course if self._is_a_digit and self._plan.epochs else None

    def gathered(self) -> Comparison:
        """Read all parts that have been measured."""
        return gathered(self._folder)

    def measure(self) -> None:
        """Measure the parts that are missing."""
        plan = self._plan
        if NATIVE in plan.frameworks.values():
            why_not_available()  # builds the kernel now, so that no first step includes that
        self._logs.mkdir(parents=True, exist_ok=True)
        decay = self._course and self._course.decay
        effort = Effort((TRAIN, INFER, LATENCY), plan.steps, plan.rounds, decay=decay)
        measure = partial(self._point, plan.size, plan.frameworks, effort)
        main = kept(self._folder / f"{MAIN}.json", Point, measure)
        agree = {name: plan.frameworks[name] for name, row in main.rows.items() if row.why_not is None}
        if plan.scaling:
            scaled = {name: f for name, f in agree.items() if f.trains and not f.slow_to_compile}
            effort = Effort((TRAIN,), CURVE_STEPS, min(plan.rounds, CURVE_ROUNDS), parity=False, peak=False)
            for axis in AXES:
                for value in sorted({*CURVES[axis], getattr(plan.size, axis)}):
                    size = plan.size._replace(**{axis: value})
                    file = self._folder / f"{axis}-{value}.json"
                    kept(file, Point, partial(self._point, size, scaled, effort))
        if (course := self._learnt()) is not None:
            self._learn(course, main, [name for name, framework in agree.items() if framework.trains])

    def _point(self, size: Size, frameworks: Mapping[str, Framework], effort: Effort) -> Point:
        self._report(f"hidden {size.hidden}, batch {size.batch}, {size.time} time steps")
        params, batches = initial_params(size, seed=0), partial(row_batches, self._train, size)
        return Measurement(size, params, batches, frameworks, effort, self._start, self._report).point()

    def _learn(self, course: Course, main: Point, names: Sequence[str]) -> None:
        """Train all frameworks, seed after seed, so that drift of the machine affects them alike."""
        failed = set[str]()
        for seed, name in product(range(self._plan.seeds), names):
            if name not in failed:
                threads = main.rows[name].threads.get(TRAIN)
                run = partial(self._run, name, seed, course, threads)
                if kept(self._folder / f"learning-{seed}-{name}.json", Learning, run).why_not is not None:
                    failed.add(name)

    def _run(self, name: str, seed: int, course: Course, threads: int | None) -> Learning:
        self._report(f"seed {seed}: {name} learns")
        size, digits = self._plan.size, (self._train, self._test)
        return learn(name, self._start, size, *digits, seed=seed, course=course, threads=threads)

    def _start(self, name: str) -> Process:
        framework = PEAK_PRODUCT if name == PEAK else self._plan.frameworks[name]
        return Process(framework, cores=self._plan.cores, log=self._logs / f"{name}.log")


def _differences(before: About, now: About) -> Iterator[str]:
    """Yield the differences between the options, machines and versions of two comparisons, in words."""
    for field in ("command", "machine", "versions", "frameworks"):
        # Converted to JSON and back, because tuples are lists in a file.
        old, new = (json.loads(json.dumps({field: getattr(about, field)})) for about in (before, now))
        old, new = (each[field] if isinstance(each[field], dict) else each for each in (old, new))
        for key in dict.fromkeys((*old, *new)):
            if old.get(key) != new.get(key):
                yield f"{key}: {old.get(key)!s:.200} there, {new.get(key)!s:.200} now"

"""The command ``compare``: parity and speed at one size, curves over sizes, time to an accuracy.

Its parts are whole by themselves: the main size, each size of a curve, each run that learns. Each is written
to the folder as soon as it is measured; what is there already is not measured again. Within a part all
frameworks take turns, or have one turn each.
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
from lstm_jax.compare.measuring import PEAK, PEAK_PRODUCT, Effort, Measurement, Tell
from lstm_jax.compare.processes import Process
from lstm_jax.compare.report.document import write_comparison
from lstm_jax.compare.results import MAIN, About, Comparison, Learning, Point, gathered, kept
from lstm_jax.compare.size import AXES, Size
from lstm_jax.compare.work import Digits, initial_params, row_batches
from lstm_jax.compare.worker import INFER, LATENCY, TRAIN
from lstm_jax.data.dataset import load_dataset
from lstm_jax.errors import ConfigError
from lstm_jax.kernels.build import why_not_available
from lstm_jax.system.signals import StopSignals

# The other sizes of the curves; that of the comparison joins them.
CURVES: Mapping[str, tuple[int, ...]] = {
    "hidden": (16, 32, 64, 128, 256, 512),
    "batch": (8, 32, 128, 512, 2048),
    "time": (7, 28, 112, 392, 784),
}
CURVE_STEPS, CURVE_ROUNDS = 50, 5


@dataclasses.dataclass(frozen=True)
class ComparisonPlan:
    """What is asked for.

    Attributes:
        command: a command line that asks for the same.
        folder: where results.json, the pictures and the page go.
        frameworks: those to compare, by name, in the order of tables.
        size: at which all is compared.
        cores: the processor cores that each framework may use.
        steps: train steps in a timed call, and losses that are compared with the judge's.
        rounds: of timing.
        recipe: what learns, and whose decay the losses have that are compared.
        epochs: of the runs that learn, where the recipe has no number of steps; 0 for no runs.
        seeds: of these runs.
        scaling: whether there are curves over sizes.
        quick: whether this is a first look.
        overwrite: whether to begin anew in the place of a comparison that is in the folder.
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


def run(plan: ComparisonPlan, *, data_dir: Path | None, tell: Tell) -> None:
    """Compare, write results.json, the pictures and the page, and print the document.

    If it is stopped before its end, what is measured so far is reported, and the same command goes on.

    Raises:
        UserError: before anything is measured, if it cannot be done.
        KeyboardInterrupt: if it was stopped.
    """
    plan.folder.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(plan.folder / ".lock", timeout=0):
            dataset = load_dataset("mnist", data_dir=data_dir, report=tell)
            parts = Parts(plan, Digits.of(dataset.train), Digits.of(dataset.test), tell=tell)
            # Signals are held back while the report is written: Ctrl-C twice in haste does not cost it.
            with StopSignals() as signals:
                try:
                    with signals.at_once():
                        parts.measure()
                except KeyboardInterrupt:
                    tell("stopped; what is measured is reported, and the same command goes on")
                    raise
                finally:
                    print(write_comparison(parts.gathered(), plan.folder, tell=tell))
    except Timeout as error:
        raise ConfigError(
            f"--output: another comparison is running in {plan.folder}; wait for it, or name another"
        ) from error


class Parts:
    """The parts of a comparison, in its folder: digits to learn, digits to know.

    Raises:
        ConfigError: if the folder has a comparison of something else, or none of the frameworks can be
            compared.
    """

    def __init__(self, plan: ComparisonPlan, train: Digits, test: Digits, *, tell: Tell) -> None:
        self._plan, self._train, self._test, self._tell = plan, train, test, tell
        self._folder, self._logs = plan.folder / "parts", plan.folder / "logs"
        # What is learnt, if anything is; the losses that are compared have its decay in any case.
        self._course = course_of(plan.recipe, plan.size, train, epochs=plan.epochs)
        self._is_a_digit = plan.size.time == train.images.shape[1]
        reasons = {name: each.why_not(time=plan.size.time) for name, each in plan.frameworks.items()}
        if all(reasons.values()):
            told = "; ".join(f"{name}: {reason}" for name, reason in reasons.items())
            raise ConfigError(f"--frameworks: none of those asked for can be compared; {told}")
        self._begin()

    def _begin(self) -> None:
        """Note what is asked for, or find that the same was asked for in this folder."""
        folder, file = self._plan.folder, self._folder / "about.json"
        if self._plan.overwrite and self._folder.exists():
            shutil.rmtree(self._folder)
        if file.exists():
            self._tell(f"the comparison in {folder} goes on; --overwrite begins anew")
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
            yield f"Left out of the curves over sizes, for they compile for long: {', '.join(slow)}."
        if plan.epochs and not self._is_a_digit:
            yield f"No accuracy: only at {self._train.images.shape[1]} time steps a sequence is a digit."
        yield from dict.fromkeys(each.note for each in plan.frameworks.values() if each.note)

    def _learnt(self) -> Course | None:
        """What is learnt; None if nothing is."""
        return self._course if self._is_a_digit and self._plan.epochs else None

    def gathered(self) -> Comparison:
        """All that is measured."""
        return gathered(self._folder)

    def measure(self) -> None:
        """Measure what is not there yet."""
        plan = self._plan
        if NATIVE in plan.frameworks.values():
            why_not_available()  # builds the kernel, once for all times: that is not part of a first step
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
        self._tell(f"hidden {size.hidden}, batch {size.batch}, {size.time} time steps")
        params, batches = initial_params(size, seed=0), partial(row_batches, self._train, size)
        return Measurement(size, params, batches, frameworks, effort, self._start, self._tell).point()

    def _learn(self, course: Course, main: Point, names: Sequence[str]) -> None:
        """Runs seed after seed, so that a change of the machine does not fall on one framework."""
        failed = set[str]()
        for seed, name in product(range(self._plan.seeds), names):
            if name not in failed:
                threads = main.rows[name].threads.get(TRAIN)
                run = partial(self._run, name, seed, course, threads)
                if kept(self._folder / f"learning-{seed}-{name}.json", Learning, run).why_not is not None:
                    failed.add(name)

    def _run(self, name: str, seed: int, course: Course, threads: int | None) -> Learning:
        self._tell(f"seed {seed}: {name} learns")
        size, digits = self._plan.size, (self._train, self._test)
        return learn(name, self._start, size, *digits, seed=seed, course=course, threads=threads)

    def _start(self, name: str) -> Process:
        framework = PEAK_PRODUCT if name == PEAK else self._plan.frameworks[name]
        return Process(framework, cores=self._plan.cores, log=self._logs / f"{name}.log")


def _differences(before: About, now: About) -> Iterator[str]:
    """What makes two comparisons different ones, in words."""
    for field in ("command", "machine", "versions", "frameworks"):
        # As they are in a file, where tuples are lists.
        old, new = (json.loads(json.dumps({field: getattr(about, field)})) for about in (before, now))
        old, new = (each[field] if isinstance(each[field], dict) else each for each in (old, new))
        for key in dict.fromkeys((*old, *new)):
            if old.get(key) != new.get(key):
                yield f"{key}: {old.get(key)!s:.200} there, {new.get(key)!s:.200} now"

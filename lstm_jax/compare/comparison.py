"""A whole comparison in its order: parity, speed, curves over sizes, learning; saved as soon as found."""

import contextlib
import dataclasses
import datetime
import sys
import tempfile
from collections.abc import Callable, Mapping
from importlib.metadata import packages_distributions, version
from pathlib import Path

from lstm_jax.benchmark import report as benchmark_report
from lstm_jax.benchmark.jax_lstm import peak_flop
from lstm_jax.benchmark.size import Size, forward_flop, train_flop
from lstm_jax.compare import measuring, parity
from lstm_jax.compare.frameworks import FRAMEWORKS, Framework
from lstm_jax.compare.learning import LEARNING_RATE, learn
from lstm_jax.compare.options import INPUTS, Compare
from lstm_jax.compare.processes import FrameworkError, Process
from lstm_jax.compare.report import as_text, write_report
from lstm_jax.compare.results import (
    FrameworkResult,
    Parity,
    Peak,
    Results,
    Scaling,
    Speed,
    as_json,
    read_results,
)
from lstm_jax.compare.work import Examples, initial_params, row_batches
from lstm_jax.compare.worker import Sample
from lstm_jax.data import load_dataset
from lstm_jax.errors import ConfigError
from lstm_jax.files import write_whole
from lstm_jax.kernels.build import why_not_available

# The size by which the number of steps of a measurement is chosen, so that all sizes take about as long.
TUTORIAL = Size(hidden=64, batch=128, time=28, inputs=INPUTS)

# The other sizes of the curves; that of the comparison joins them.
AXES: Mapping[str, tuple[int, ...]] = {
    "hidden": (16, 32, 64, 128, 256, 512),
    "batch": (8, 32, 128, 512, 2048),
    "time": (7, 28, 112, 392, 784),
}

# The process that measures the machine's matrix product, among those of the frameworks.
PEAK = "peak of the machine"
PEAK_STEPS = 10


@dataclasses.dataclass(frozen=True)
class Effort:
    """How much is measured.

    Attributes:
        curve_steps: losses that are compared with the judge's.
        steps: train steps in a measurement, at the tutorial's size.
        rounds: measurements of each framework.
        scaling_steps, scaling_rounds: the same for the curves over sizes.
    """

    curve_steps: int = 100
    steps: int = 100
    rounds: int = 15
    scaling_steps: int = 30
    scaling_rounds: int = 5

    @classmethod
    def of(cls, options: Compare) -> "Effort":
        """What the options ask for."""
        if options.quick:
            return cls(curve_steps=10, steps=10, rounds=min(options.repeats, 5))
        return cls(rounds=options.repeats, scaling_rounds=min(options.repeats, 5))


Report = Callable[[str], None]
Save = Callable[[Results], None]


def run(options: Compare) -> int:
    """Compare, write results.json, the pictures and the page, and print the tables.

    Raises:
        UserError: before anything is measured, if it cannot be done.
    """
    against = None if options.against is None else read_results(options.against)
    options.output.mkdir(parents=True, exist_ok=True)
    dataset = load_dataset("mnist", data_dir=options.data_dir, report=note)

    def save(results: Results) -> None:
        write_whole(options.output / "results.json", as_json(results))

    chosen = {name: FRAMEWORKS[name] for name in options.names()}
    results = compare(
        options, chosen, Examples.of(dataset.train), Examples.of(dataset.test), save=save, report=note
    )
    write_report(results, options.output, against=against)
    print(as_text(results, against))
    note(f"written to {options.output}: results.json, report.html, pictures")
    return 0


def compare(
    options: Compare,
    frameworks: Mapping[str, Framework],
    train: Examples,
    test: Examples,
    *,
    save: Save,
    report: Report,
    effort: Effort | None = None,
) -> Results:
    """Do all that the options ask for.

    Args:
        options: what is asked for.
        frameworks: those to compare, by name.
        train: digits to learn.
        test: digits to know.
        save: called with what is known so far, after each part.
        report: called with a line about what happens.
        effort: how much to measure; default: what the options say.

    Raises:
        ConfigError: if none of the frameworks is installed.
    """
    effort = effort or Effort.of(options)
    results = _before(options, frameworks)
    there = {name: f for name, f in frameworks.items() if results.frameworks[name].why_not is None}
    for name, result in results.frameworks.items():
        if result.why_not is not None:
            report(f"{name}: {result.why_not}")
    if not there:
        raise ConfigError(
            "--frameworks: none of those asked for is installed; pip install -r requirements-compare.txt"
        )
    if any(framework.adapter == "ours:Native" for framework in there.values()):
        why_not_available()  # builds the kernel, once for all times: that is not part of a first step
    log = Path(tempfile.mkstemp(prefix="lstm_jax_compare_", suffix=".log")[1])
    try:
        session = _Session(options, effort, there, train, test, save=save, report=report, log=log)
        results = session.timings(results)
        return session.learnings(results)
    finally:
        log.unlink(missing_ok=True)


class _Session:
    """What all parts of a comparison share."""

    def __init__(
        self,
        options: Compare,
        effort: Effort,
        frameworks: Mapping[str, Framework],
        train: Examples,
        test: Examples,
        *,
        save: Save,
        report: Report,
        log: Path,
    ) -> None:
        self._options, self._effort, self._frameworks = options, effort, frameworks
        self._train, self._test = train, test
        self._save, self._report, self._log = save, report, log
        self._size = options.size()

    def start(self, name: str) -> Process:
        """A new process of a framework."""
        return Process(self._frameworks[name], cores=self._options.cores(), log=self._log)

    def timings(self, results: Results) -> Results:
        """Parity, speed and curves, for which all processes live side by side."""
        with contextlib.ExitStack() as stack:
            results, processes, built = self._parity(results, stack)
            self._save(results)
            results = self._speed(results, processes, built, stack)
            self._save(results)
            if self._options.scaling and not self._options.quick:
                results = self._scaling(results, processes)
        return results

    def _parity(
        self, results: Results, stack: contextlib.ExitStack
    ) -> tuple[Results, dict[str, Process], dict[str, measuring.Built]]:
        params = initial_params(self._size, seed=0)
        batches = row_batches(self._train, self._size, steps=self._effort.curve_steps)
        self._report(f"the judge computes {self._effort.curve_steps} steps in float64")
        right = parity.verdict(params, batches)
        results = dataclasses.replace(results, judge_losses=right.losses)
        processes, built = {}, {}
        for number, (name, framework) in enumerate(self._frameworks.items(), 1):
            self._report(f"{number} of {len(self._frameworks)}: {name} starts, and computes the same steps")
            process = stack.enter_context(self.start(name))
            check = parity.compare_training if framework.trains else parity.compare_inference
            try:
                ready: float = process.call("build", self._size, params, measuring.LEARNING_RATE)
                memory = process.call("memory").now
                found: Parity = check(process, self._size, params, batches, right)
            except FrameworkError as error:
                results = self._failed(results, name, str(error))
                process.close()
                continue
            results = results.with_framework(name, parity=found)
            if found.why_different is not None:
                results = self._failed(results, name, f"different: {found.why_different}")
                process.close()
                continue
            processes[name] = process
            built[name] = measuring.Built(ready - process.started, memory, None, None)
        return results, processes, built

    def _speed(
        self,
        results: Results,
        processes: dict[str, Process],
        built: dict[str, measuring.Built],
        stack: contextlib.ExitStack,
    ) -> Results:
        params = initial_params(self._size, seed=0)
        steps = measuring.steps_for(self._size, reference=TUTORIAL, steps=self._effort.steps)
        batches = row_batches(self._train, self._size, steps=steps)
        measures: dict[measuring.Key, Callable[[], Sample]] = {}

        def failed(name: str, why: str) -> None:
            nonlocal results
            results = self._failed(results, name, why)
            processes.pop(name).close()

        for name, process in list(processes.items()):
            self._report(f"{name} takes its first step, and warms up")
            trains = self._frameworks[name].trains
            try:
                first = measuring.prepare(process, self._size, params, batches, trains=trains)
                measuring.prepare_inference(process, batches)
                setting = process.call("tune", "chunk")
            except FrameworkError as error:
                failed(name, str(error))
                continue
            built[name] = built[name]._replace(first_step_seconds=first, setting=setting)
            for what, measure in measuring.timed(process, trains=trains).items():
                measures[name, what] = measure
        machine = Process(Framework("", ""), cores=self._options.cores(), log=self._log)
        stack.enter_context(machine)
        machine.call("time_peak", PEAK_STEPS)
        measures[PEAK, ""] = lambda: machine.call("time_peak", PEAK_STEPS)
        # Of one kind after the other, so that equal work stands side by side.
        order = {what: place for place, what in enumerate((measuring.TRAIN, measuring.INFER))}
        measures = dict(sorted(measures.items(), key=lambda item: order.get(item[0][1], len(order))))
        self._report(f"{self._effort.rounds} rounds of timing: {', '.join(processes)}")
        samples = measuring.take_rounds(measures, rounds=self._effort.rounds, failed=failed)
        for name, process in processes.items():
            found = {what: taken for (other, what), taken in samples.items() if other == name}
            memory = process.call("memory")
            speed: Speed = measuring.speed_of(built[name], memory, found, steps=steps)
            results = results.with_framework(name, speed=speed)
        peak = Peak(peak_flop(), tuple(sample.seconds / PEAK_STEPS for sample in samples[PEAK, ""]))
        return dataclasses.replace(results, peak=peak)

    def _scaling(self, results: Results, processes: Mapping[str, Process]) -> Results:
        base = self._size
        timed = {
            name: process
            for name, process in processes.items()
            if self._frameworks[name].trains and not self._frameworks[name].slow_to_compile
        }
        for axis, values in AXES.items():
            points = []
            for value in sorted({*values, getattr(base, axis)}):
                size = base._replace(**{axis: value})
                self._report(f"{axis} {value}: {', '.join(timed)}")
                steps = measuring.steps_for(size, reference=TUTORIAL, steps=self._effort.scaling_steps)
                points.append(
                    measuring.scaling_point(
                        timed,
                        size,
                        initial_params(size, seed=0),
                        row_batches(self._train, size, steps=steps),
                        rounds=self._effort.scaling_rounds,
                        report=self._report,
                    )
                )
                known = tuple(curve for curve in results.scaling if curve.axis != axis)
                results = dataclasses.replace(results, scaling=(*known, Scaling(axis, tuple(points))))
                self._save(results)
        return results

    def learnings(self, results: Results) -> Results:
        """Runs with several seeds, one process at a time."""
        epochs = self._epochs()
        results = dataclasses.replace(results, epochs=epochs, learning_rate=LEARNING_RATE)
        right = [
            name
            for name, framework in self._frameworks.items()
            if framework.trains and results.frameworks[name].why_not is None
        ]
        # Seed after seed, so that a change of the machine does not fall on one framework.
        for seed in range(self._options.seeds if epochs else 0):
            for name in right:
                if results.frameworks[name].why_not is not None:
                    continue
                self._report(f"seed {seed}: {name} learns for {epochs} epochs")
                try:
                    found = learn(
                        lambda name=name: self.start(name),  # type: ignore[misc]  # mypy does not infer it
                        self._size,
                        self._train,
                        self._test,
                        seed=seed,
                        epochs=epochs,
                    )
                except FrameworkError as error:
                    results = self._failed(results, name, str(error))
                else:
                    learning = (*results.frameworks[name].learning, found)
                    results = results.with_framework(name, learning=learning)
                self._save(results)
        self._save(results)
        return results

    def _epochs(self) -> int:
        is_a_digit = self._size.time == self._train.images.shape[1]
        return 0 if self._options.quick or not is_a_digit else self._options.epochs

    def _failed(self, results: Results, name: str, why: str) -> Results:
        self._report(f"  {name} {why}")
        return results.with_framework(name, why_not=why)


def _before(options: Compare, frameworks: Mapping[str, Framework]) -> Results:
    """The results before anything is measured: what is asked for, of whom, on what machine."""
    size = options.size()
    distributions = packages_distributions()
    return Results(
        command=options.command(),
        date=datetime.datetime.now().astimezone().isoformat(timespec="seconds"),
        machine=benchmark_report.machine(),
        versions=benchmark_report.versions(),
        **size._asdict(),
        threads=len(options.cores()),
        train_flop=train_flop(size),
        forward_flop=forward_flop(size),
        judge_losses=(),
        tolerances=parity.TOLERANCES,
        frameworks={
            name: FrameworkResult(
                framework.title,
                {dist: version(dist) for name in framework.packages for dist in distributions.get(name, ())},
                why_not=_why_not(framework, size, quick=options.quick),
            )
            for name, framework in frameworks.items()
        },
        notes=_notes(options, frameworks),
    )


def _why_not(framework: Framework, size: Size, *, quick: bool) -> str | None:
    """Why a framework is not even started; None if it is."""
    if missing := framework.missing():
        return f"not installed: pip install {' '.join(missing)}"
    if quick and framework.slow_to_compile:
        return "left out of a quick comparison: it compiles for long"
    if framework.longest is not None and size.time > framework.longest:
        return f"left out above {framework.longest} time steps: it compiles for too long"
    return None


def _notes(options: Compare, frameworks: Mapping[str, Framework]) -> tuple[str, ...]:
    notes = []
    if options.quick:
        notes.append("A quick look: few rounds, no curves over sizes, no accuracy.")
    slow = [name for name, framework in frameworks.items() if framework.slow_to_compile]
    if slow and options.scaling and not options.quick:
        notes.append(f"Left out of the curves over sizes, for they compile for long: {', '.join(slow)}.")
    if options.epochs and options.time_steps != INPUTS and not options.quick:
        notes.append(f"No accuracy: only at {INPUTS} time steps a sequence is a digit.")
    return tuple(notes)


def note(text: str) -> None:
    """Tell how far we are: standard output is for results."""
    print(text, file=sys.stderr, flush=True)

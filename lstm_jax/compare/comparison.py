"""A whole comparison in its order: parity, speed, curves over sizes, learning.

It is saved after each framework's parity, after the rounds of timing, after each size of a curve, and after
each run that learns.
"""

import contextlib
import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path

from lstm_jax.benchmark.jax_lstm import peak_flop
from lstm_jax.benchmark.size import Size
from lstm_jax.compare import continuing, measuring, parity
from lstm_jax.compare.beginning import beginning, source_digest
from lstm_jax.compare.frameworks import Framework
from lstm_jax.compare.learning import course_of, learn
from lstm_jax.compare.options import INPUTS, Compare
from lstm_jax.compare.processes import FrameworkError, Process, seconds_to_build, several_at_once
from lstm_jax.compare.results import Parity, Peak, Results, Scaling
from lstm_jax.compare.work import Examples, initial_params, row_batches
from lstm_jax.compare.worker import INFER, TRAIN, Memory, Sample
from lstm_jax.errors import ConfigError
from lstm_jax.kernels.build import why_not_available

# The size by which the number of steps of a measurement is chosen, so that all sizes take about as long.
TUTORIAL = Size(hidden=64, batch=128, time=28, inputs=INPUTS)

# The other sizes of the curves; that of the comparison joins them.
CURVES: Mapping[str, tuple[int, ...]] = {
    "hidden": (16, 32, 64, 128, 256, 512),
    "batch": (8, 32, 128, 512, 2048),
    "time": (7, 28, 112, 392, 784),
}

# In a quick comparison, so many frameworks get ready at the same time; the rounds of timing are the same.
AT_ONCE = 2

# The process that measures the machine's matrix product, among those of the frameworks.
PEAK = "peak of the machine"
PEAK_STEPS = 10
NO_FRAMEWORK = Framework("", "")
MACHINE = "machine"


@dataclasses.dataclass(frozen=True)
class Effort:
    """How much is measured.

    Attributes:
        curve_steps: losses that are compared with the judge's.
        steps: train steps in a measurement, at the tutorial's size.
        rounds: measurements of each framework.
        scaling_steps, scaling_rounds: the same for the curves over sizes.
        at_once: how many frameworks start, compute what the judge does, and warm up at the same time.
    """

    curve_steps: int = 100
    steps: int = 100
    rounds: int = 15
    scaling_steps: int = 50
    scaling_rounds: int = 5
    at_once: int = 1

    @classmethod
    def of(cls, options: Compare) -> "Effort":
        """What the options ask for."""
        if options.quick:
            at_once = min(AT_ONCE, len(options.cores()))
            # As many steps for both: what was compiled for the one serves the other.
            return cls(curve_steps=20, steps=20, rounds=min(options.repeats, 5), at_once=at_once)
        return cls(rounds=options.repeats, scaling_rounds=min(options.repeats, 5))


Report = Callable[[str], None]
Save = Callable[[Results], None]


def compare(
    options: Compare,
    frameworks: Mapping[str, Framework],
    train: Examples,
    test: Examples,
    *,
    logs: Path,
    save: Save,
    report: Report,
    effort: Effort | None = None,
    earlier: Results | None = None,
) -> Results:
    """Do all that the options ask for.

    Args:
        options: what is asked for.
        frameworks: those to compare, by name.
        train: digits to learn.
        test: digits to know.
        logs: a folder for what the frameworks print; of those that fail, it is kept.
        save: called with what is known so far, after each part.
        report: called with a line about what happens.
        effort: how much to measure; default: what the options say.
        earlier: what is known already, of a comparison that was stopped.

    Raises:
        ConfigError: if none of the frameworks is installed.
    """
    effort = effort or Effort.of(options)
    known = earlier if earlier is not None and continuing.is_timed(earlier) else None
    results = known or beginning(options, frameworks, test)
    there = {name: f for name, f in frameworks.items() if results.frameworks[name].why_not is None}
    found = "" if known is None else " (found before, and not tried again)"
    why_not = [
        f"{name}: {r.why_not}{found}" for name, r in results.frameworks.items() if r.why_not is not None
    ]
    for line in why_not:
        report(line)
    if not there and known is None:
        raise ConfigError(f"--frameworks: none of those asked for can be compared; {'; '.join(why_not)}")
    if any(framework.adapter == "ours:Native" for framework in there.values()):
        why_not_available()  # builds the kernel, once for all times: that is not part of a first step
        if not options.quick and known is None and (seconds := seconds_to_build()) is not None:
            built = f"The C++ kernel of lstm_jax was there before; to build it anew takes {seconds:.1f} s."
            results = dataclasses.replace(results, notes=(*results.notes, built))
    logs.mkdir(parents=True, exist_ok=True)
    session = _Session(
        options, effort, there, train, test, save=save, report=report, logs=logs, source=results.source
    )
    results = session.learnings(session.timings(results))
    failed = {name for name, framework in results.frameworks.items() if framework.why_not is not None}
    failed |= {name for curve in results.scaling for point in curve.points for name in point.why_not}
    for name in {MACHINE, *there} - failed:
        (logs / f"{name}.log").unlink(missing_ok=True)
    with contextlib.suppress(OSError):  # those of frameworks that failed are in it
        logs.rmdir()
    return results


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
        logs: Path,
        source: str,
    ) -> None:
        self._options, self._effort, self._frameworks = options, effort, frameworks
        self._train, self._test = train, test
        self._save, self._report, self._logs = save, report, logs
        self._size = options.size()
        self._source = source
        # What is learnt, if anything is; parity has the recipe's decay in any case.
        course = course_of(options.recipe, self._size, train, epochs=options.epochs)
        is_a_digit = self._size.time == train.images.shape[1]
        self._decay = None if course is None else course.decay
        self._course = course if is_a_digit and options.epochs and not options.quick else None
        # By framework and measure, where they do not choose by themselves.
        self._threads: dict[str, dict[str, int]] = {}

    def start(self, name: str) -> Process:
        """A new process of a framework.

        Raises:
            ConfigError: if the code that it would take has been changed since the comparison began.
        """
        if source_digest() != self._source:
            raise ConfigError(
                "the code of lstm_jax was changed while it was measured; --overwrite begins anew with it"
            )
        return Process(self._frameworks[name], cores=self._options.cores(), log=self._logs / f"{name}.log")

    def timings(self, results: Results) -> Results:
        """Parity, speed and curves, for which all processes live side by side."""
        with contextlib.ExitStack() as stack:
            processes = {}
            if continuing.is_timed(results):
                left = len(self._sizes_left(results)) + len(self._runs_left(results))
                self._report(f"{left or 'no'} sizes and runs are left to measure")
                if left:
                    results = continuing.going_on(results)
                self._threads = {
                    name: {TRAIN: count} for name, count in continuing.threads_for_training(results).items()
                }
                if self._sizes_left(results):
                    processes = {name: stack.enter_context(self.start(name)) for name in self._scaled()}
            else:
                results, processes, starts = self._parity(results, stack)
                self._save(results)
                results = self._speed(results, processes, starts, stack)
                self._save(results)
            if self._sizes_left(results):
                results = self._scaling(results, processes, stack)
        return results

    def _scaled(self) -> list[str]:
        """The frameworks that curves over sizes are made of."""
        return [name for name, each in self._frameworks.items() if each.trains and not each.slow_to_compile]

    def _sizes_left(self, results: Results) -> list[tuple[str, int]]:
        """The sizes of the curves that are not known yet: the axis, and the size along it."""
        if not self._options.scaling or self._options.quick:
            return []
        return [
            (axis, value)
            for axis, values in CURVES.items()
            for value in sorted({*values, getattr(self._size, axis)})
            if not continuing.has_point(results, axis, value)
        ]

    def _parity(
        self, results: Results, stack: contextlib.ExitStack
    ) -> tuple[Results, dict[str, Process], dict[str, measuring.Start]]:
        params = initial_params(self._size, seed=0)
        most = measuring.steps_for(self._size, reference=TUTORIAL, steps=self._effort.curve_steps)
        steps = min(self._effort.curve_steps, most)  # a larger model shows after fewer steps what it does
        batches = row_batches(self._train, self._size, steps=steps)
        self._report(f"the judge computes {steps} steps in float64")
        decay = self._decay
        if decay is not None:  # all of it within these steps
            decay = decay._replace(warmup=steps // 10, total=steps + 1)
        right = parity.verdict(params, batches, decay=decay)
        results = dataclasses.replace(
            results, judge_losses=right.losses, started_at_once=self._effort.at_once
        )
        processes, starts = dict[str, Process](), {}

        def begin(name: str) -> Callable[[], tuple[measuring.Start, Parity]]:
            self._report(f"{name} starts, and computes the same steps")
            process = processes[name] = stack.enter_context(self.start(name))
            trains = self._frameworks[name].trains
            check = parity.compare_training if trains else parity.compare_inference

            def work() -> tuple[measuring.Start, Parity]:
                start = measuring.start(process, self._size, params, batches, trains=trains)
                return start, check(process, self._size, params, batches, right)

            return work

        for name, future in several_at_once(self._frameworks, begin, most=self._effort.at_once):
            try:
                starts[name], found = future.result()
            except FrameworkError as error:
                results = self._failed(results, name, str(error))
                processes.pop(name).close(at_once=True)
                continue
            results = results.with_framework(name, parity=found)
            self._save(results)
            if found.why_different is not None:
                results = self._failed(results, name, f"different: {found.why_different}")
                processes.pop(name).close()
        return results, processes, starts

    def _speed(
        self,
        results: Results,
        processes: dict[str, Process],
        starts: Mapping[str, measuring.Start],
        stack: contextlib.ExitStack,
    ) -> Results:
        params = initial_params(self._size, seed=0)
        steps = measuring.steps_for(self._size, reference=TUTORIAL, steps=self._effort.steps)
        batches = row_batches(self._train, self._size, steps=steps)
        measures: dict[measuring.Key, Callable[[], Sample]] = {}

        def failed(name: str, why: str) -> None:
            nonlocal results
            if name == PEAK:
                self._report(f"  {PEAK}: {why}")
                return
            results = self._failed(results, name, why)
            processes.pop(name).close(at_once=True)

        def begin(name: str) -> Callable[[], None]:
            self._report(f"{name} warms up")
            process, trains = processes[name], self._frameworks[name].trains

            def work() -> None:
                measuring.warm_up(process, self._size, params, batches, trains=trains)
                measuring.warm_up_inference(process, batches)
                process.call("forget_memory")  # all is compiled, whose memory is no user's concern

            return work

        for name, future in several_at_once(list(processes), begin, most=self._effort.at_once):
            try:
                future.result()
            except FrameworkError as error:
                failed(name, str(error))
        for name, process in list(processes.items()):
            trains = self._frameworks[name].trains
            try:
                self._threads[name] = measuring.choose_threads(process, measuring.measures_of(trains))
            except FrameworkError as error:
                failed(name, str(error))
                continue
            for what, measure in measuring.timed(process, trains=trains).items():
                measures[name, what] = measure
        machine = stack.enter_context(
            Process(NO_FRAMEWORK, cores=self._options.cores(), log=self._logs / f"{MACHINE}.log")
        )
        try:
            machine.call("time_peak", 1)  # compiles it, in nobody's time
        except FrameworkError as error:
            failed(PEAK, str(error))
        else:
            measures[PEAK, ""] = lambda: machine.call("time_peak", PEAK_STEPS)
        # Of one kind after the other, so that equal work stands side by side.
        order = {what: place for place, what in enumerate((TRAIN, INFER))}
        measures = dict(sorted(measures.items(), key=lambda item: order.get(item[0][1], len(order))))
        self._report(f"{self._effort.rounds} rounds of timing: {', '.join(processes)}")
        samples = measuring.take_rounds(
            measures, rounds=self._effort.rounds, failed=failed, report=self._report
        )
        for name, process in list(processes.items()):
            found = {what: taken for (other, what), taken in samples.items() if other == name}
            try:
                memory: Memory = process.call("memory")
            except FrameworkError as error:
                failed(name, str(error))
                continue
            speed = measuring.speed_of(starts[name], memory, found, steps=steps, threads=self._threads[name])
            results = results.with_framework(name, speed=speed)
        peak = None
        if (PEAK, "") in samples:
            peak = Peak(peak_flop(), tuple(sample.seconds / PEAK_STEPS for sample in samples[PEAK, ""]))
        return dataclasses.replace(results, peak=peak, steps_per_call=steps)

    def _scaling(
        self, results: Results, processes: Mapping[str, Process], stack: contextlib.ExitStack
    ) -> Results:
        base = self._size
        timed = {name: processes[name] for name in self._scaled() if name in processes}
        for axis, value in self._sizes_left(results):
            size = base._replace(**{axis: value})
            self._report(f"{axis} {value}: {', '.join(timed)}")
            steps = measuring.steps_for(size, reference=TUTORIAL, steps=self._effort.scaling_steps)
            point = measuring.scaling_point(
                timed,
                size,
                initial_params(size, seed=0),
                row_batches(self._train, size, steps=steps),
                rounds=self._effort.scaling_rounds,
                report=self._report,
            )
            for name in point.why_not:  # it may have died of this size alone
                timed[name].close(at_once=True)
                timed[name] = stack.enter_context(self.start(name))
            curves = {curve.axis: curve.points for curve in results.scaling}
            curves[axis] = (*curves.get(axis, ()), point)
            results = dataclasses.replace(
                results, scaling=tuple(Scaling(name, points) for name, points in curves.items())
            )
            self._save(results)
        return results

    def learnings(self, results: Results) -> Results:
        """Runs with several seeds, one process at a time."""
        course = self._course
        if course is None:
            return results
        rounds = course.parts * course.steps / course.steps_per_epoch
        results = dataclasses.replace(
            results, epochs=rounds, recipe=self._options.recipe, learning_rate=course.learning_rate
        )
        for seed, name in self._runs_left(results):
            if results.frameworks[name].why_not is not None:  # it failed with another seed
                continue
            self._report(f"seed {seed}: {name} learns for {rounds:.3g} epochs")
            try:
                found = learn(
                    lambda name=name: self.start(name),  # type: ignore[misc]  # mypy does not infer it
                    self._size,
                    self._train,
                    self._test,
                    seed=seed,
                    course=course,
                    threads=self._threads.get(name, {}).get(TRAIN),
                )
            except FrameworkError as error:
                results = self._failed(results, name, str(error))
            else:
                learning = (*results.frameworks[name].learning, found)
                results = results.with_framework(name, learning=learning)
            self._save(results)
        self._save(results)
        return results

    def _runs_left(self, results: Results) -> list[tuple[int, str]]:
        """The runs that are not known yet, of those that compute what the judge does: seed and framework.

        Seed after seed, so that a change of the machine does not fall on one framework.
        """
        return [
            (seed, name)
            for seed in range(self._options.seeds if self._course else 0)
            for name, framework in self._frameworks.items()
            if framework.trains
            and results.frameworks[name].why_not is None
            and not continuing.has_learnt(results, name, seed)
        ]

    def _failed(self, results: Results, name: str, why: str) -> Results:
        self._report(f"  {name} {why}")
        return results.with_framework(name, why_not=why)

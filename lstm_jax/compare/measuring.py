"""The measurement of frameworks at one size: parity first, then rounds of timing in which all take turns.

So a disturbance of the machine affects all alike. Each process has its own clock, around only the calls of
its framework. The other processes are idle meanwhile.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from typing import TypeVar

from lstm_jax.compare.adapter import Decay
from lstm_jax.compare.frameworks import Framework
from lstm_jax.compare.parity import Verdict, parity_of, verdict
from lstm_jax.compare.processes import FrameworkError, Process, Start
from lstm_jax.compare.results import Point, Row
from lstm_jax.compare.size import Size, train_flop
from lstm_jax.compare.work import Batches, noise_batches
from lstm_jax.compare.worker import INFER, TRAIN, Memory, Sample
from lstm_jax.errors import Report
from lstm_jax.exchange.layouts import Params

Key = TypeVar("Key")
# So small that the weights hardly change, however many steps are timed. A model that has memorised its
# batches has vanishing gradients, and arithmetic with denormal numbers is slow.
TIMING_RATE = 1e-8

# The most steps in a call. Without this limit, the curves over small sizes would take an hour, because a
# small step still has its fixed cost, which differs tenfold between frameworks.
MOST_STEPS = 200
# The size that determines the number of steps in a call, so that all sizes take about the same time.
TUTORIAL = Size(hidden=64, batch=128, time=28, inputs=28)

# A large matrix product, which takes turns with the frameworks and shows the peak of the machine.
PEAK = "peak of the machine"
PEAK_PRODUCT = Framework("matrix product", "lstm_jax.compare.worker:MatrixProduct", ("", ""))
PEAK_STEPS = 3


@dataclasses.dataclass(frozen=True)
class Effort:
    """The extent of the measurements at a size.

    Attributes:
        measures: names in `worker.MEASURES`.
        steps: batches in a timed call, at the tutorial's size.
        rounds: measurements of each framework.
        seconds: the shortest time of a measurement; calls are repeated to fill it.
        parity: whether results, and the losses of the steps, are compared with those of the judge.
        peak: whether the matrix product is measured, too.
        decay: schedule of the learning rate while losses are compared, if the recipe has one.
        devices: number of devices that share each batch in JAX.
    """

    measures: Sequence[str]
    steps: int
    rounds: int
    seconds: float = 0.0
    parity: bool = True
    peak: bool = True
    decay: Decay | None = None
    devices: int = 1


def steps_for(size: Size, *, steps: int) -> int:
    """Return the number of steps with as much arithmetic as ``steps`` of `TUTORIAL`, from 2 to `MOST_STEPS`.

    So the fixed cost of a call has the same weight at all sizes.
    """
    return max(2, min(MOST_STEPS, round(steps * train_flop(TUTORIAL) / train_flop(size))))


def turn(keys: Sequence[Key], index: int, rounds: int) -> list[Key]:
    """Return the order in round ``index``: each starts at another place, and every second one is reversed.

    Rotation alone would give each framework the same neighbours in all rounds.
    """
    first = index * len(keys) // rounds
    order = [*keys[first:], *keys[:first]]
    return order[::-1] if index % 2 else order


@dataclasses.dataclass
class Measurement:
    """A measurement of frameworks at one size. If one fails, its row has the reason, and the others go on.

    Attributes:
        size: H, B, T, D.
        params: the weights at the start.
        batches: returns the batches of so many steps.
        frameworks: the frameworks by name; those that cannot be started fail.
        effort: the extent of the measurements.
        start: starts the process of a framework by its name; for `PEAK`, that of `PEAK_PRODUCT`.
        report: called with a line about the progress.
    """

    size: Size
    params: Params
    batches: Callable[[int], Batches]
    frameworks: Mapping[str, Framework]
    effort: Effort
    start: Start
    report: Report

    def point(self) -> Point:
        """Take all measurements, and return the results."""
        self._rows = dict.fromkeys(self.frameworks, Row())
        self._processes: dict[str, Process] = {}
        # Samples by measure and framework.
        self._samples: dict[tuple[str, str], list[Sample]] = {}
        with ExitStack() as stack:
            return self._point(stack)

    def _point(self, stack: ExitStack) -> Point:
        effort, right = self.effort, None
        steps = steps_for(self.size, steps=effort.steps)
        batches = self.batches(steps)
        decay = effort.decay and effort.decay._replace(warmup=steps // 10, total=steps + 1)
        if effort.parity:
            self.report(f"the judge computes {steps} steps in float64")
            right = verdict(self.params, batches, decay=decay)
        for name in self.frameworks:
            self.report(f"{name} gets ready")
            self._attempt(name, partial(self._get_ready, name, batches, right, decay, stack))
        if effort.peak and self._processes:
            self._attempt(PEAK, partial(self._start_peak, stack))
        self._take_rounds()
        for name in self.frameworks.keys() & self._processes.keys():
            self._attempt(name, partial(self._finish, name))
        peak = tuple(sample.seconds for sample in self._samples.get((INFER, PEAK), ()))
        return Point(self.size, steps, self._rows, right.losses if right else (), peak)

    def _attempt(self, name: str, action: Callable[[], None]) -> None:
        """Do something with a framework. If it fails, end its process and discard its times."""
        try:
            action()
        except FrameworkError as error:
            self.report(f"  {name}: {error}")
            if name in self._processes:
                self._processes.pop(name).close(at_once=True)
            self._samples = {key: found for key, found in self._samples.items() if key[1] != name}
            if name in self._rows:
                self._rows[name] = dataclasses.replace(self._rows[name], why_not=str(error), seconds={})

    def _get_ready(
        self, name: str, batches: Batches, right: Verdict | None, decay: Decay | None, stack: ExitStack
    ) -> None:
        effort, framework = self.effort, self.frameworks[name]
        if (reason := framework.why_not(time=self.size.time)) is not None:
            raise FrameworkError(reason)
        process = self._processes[name] = stack.enter_context(self.start(name))
        build = ("build", self.size, self.params, TIMING_RATE, None, effort.devices)
        row = Row(start_seconds=process.call(*build) - process.started)
        memory: Memory = process.call("memory")
        if framework.trains:
            process.call("load", "many", *batches.first())
            first_step: Sample = process.call("time", TRAIN, False)
            row = dataclasses.replace(row, first_step_seconds=first_step.seconds)
        if right is not None:
            parity = parity_of(
                process,
                self.size,
                self.params,
                batches,
                right,
                framework.trains,
                decay,
                effort.devices,
                framework.tolerance,
            )
            row = self._rows[name] = dataclasses.replace(row, parity=parity)
            if parity.why_different is not None:
                raise FrameworkError(f"different: {parity.why_different}")
        process.call(*build)
        for loaded, of in {"first": batches.first(), "many": batches}.items():
            process.call("load", loaded, *of)
        if effort.devices == 1:  # a single example cannot be shared
            process.call("load", "single", *batches.first(batch=1))
        threads: dict[str, int | None] = process.call("prepare", effort.measures, effort.seconds)
        self._rows[name] = dataclasses.replace(
            row,
            start_memory=memory.now,
            step_memory=process.call("step_memory"),
            threads={measure: count for measure, count in threads.items() if count is not None},
        )
        process.call("forget_memory")  # the memory of compilers does not count
        self._samples |= {(measure, name): [] for measure in threads}

    def _start_peak(self, stack: ExitStack) -> None:
        process = self._processes[PEAK] = stack.enter_context(self.start(PEAK))
        process.call("build", self.size, {}, 0.0)
        for loaded, steps in (("first", 1), ("many", PEAK_STEPS)):
            process.call("load", loaded, *noise_batches(Size(1, 1, 1, 1), steps=steps))
        process.call("prepare", (INFER,), self.effort.seconds)
        self._samples[INFER, PEAK] = []

    def _take_rounds(self) -> None:
        """Take every measurement once in each round, grouped by measure."""
        order = {measure: place for place, measure in enumerate(self.effort.measures)}
        keys = sorted(self._samples, key=lambda key: (key[1] == PEAK, order.get(key[0], 0)))
        for index in range(self.effort.rounds if keys else 0):
            self.report(f"round {index + 1} of {self.effort.rounds}: {', '.join(self._processes)}")
            for key in turn(keys, index, self.effort.rounds):
                if key in self._samples:
                    self._attempt(key[1], partial(self._take, *key))

    def _take(self, measure: str, name: str) -> None:
        self._samples[measure, name].append(self._processes[name].call("time", measure))

    def _finish(self, name: str) -> None:
        memory: Memory = self._processes[name].call("memory")
        found = {measure: taken for (measure, other), taken in self._samples.items() if other == name}
        self._rows[name] = dataclasses.replace(
            self._rows[name],
            peak_memory=memory.peak,
            seconds={measure: [each.seconds for each in taken] for measure, taken in found.items()},
            processor_seconds={m: [each.processor_seconds for each in taken] for m, taken in found.items()},
        )

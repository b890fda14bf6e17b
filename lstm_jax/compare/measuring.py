"""Measuring frameworks at one size: parity first, then rounds of timing in which all take turns.

So what slows the machine down meets all alike. The clock runs inside of each process, around nothing but the
framework's own calls; the others wait in silence meanwhile.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from typing import NamedTuple, TypeVar

from lstm_jax.compare.adapter import Decay
from lstm_jax.compare.frameworks import Framework
from lstm_jax.compare.parity import Verdict, parity_of, verdict
from lstm_jax.compare.processes import FrameworkError, Process, Start
from lstm_jax.compare.results import Point, Row
from lstm_jax.compare.size import Size, train_flop
from lstm_jax.compare.work import Batches, noise_batches
from lstm_jax.compare.worker import INFER, Memory, Sample
from lstm_jax.exchange.layouts import Params

Key = TypeVar("Key")

# So small that the weights stay what they are however many steps are timed: a model that has learnt its
# batches by heart has vanishing gradients, and denormal numbers are slow.
TIMING_RATE = 1e-8

# In a call, however little arithmetic a step has: what a step costs besides does not shrink with it, and some
# frameworks would take ten times as long as others, and the curves over small sizes an hour.
MOST_STEPS = 200
# The size by which the number of steps of a call is chosen, so that all sizes take about as long.
TUTORIAL = Size(hidden=64, batch=128, time=28, inputs=28)

# The machine's matrix product, which takes turns with the frameworks.
PEAK = "peak of the machine"
PEAK_PRODUCT = Framework("matrix product", "lstm_jax.compare.worker:MatrixProduct")
PEAK_STEPS = 10

Tell = Callable[[str], None]


class Work(NamedTuple):
    """What frameworks compute.

    Attributes:
        size: H, B, T, D.
        params: the weights at the start.
        batches: so many steps of it.
    """

    size: Size
    params: Params
    batches: Callable[[int], Batches]


@dataclasses.dataclass(frozen=True)
class Effort:
    """How much is measured at a size.

    Attributes:
        measures: names in `worker.MEASURES`.
        steps: batches in a timed call, at the tutorial's size.
        rounds: measurements of each framework.
        seconds: the shortest time of a measurement; it is filled with calls, at least one.
        parity_steps: losses that are compared with the judge's; 0 if that was done at another size.
        peak: whether the machine's matrix product is measured too.
        decay: of the learning rate while losses are compared, where the recipe has one.
        devices: how many share each batch in JAX.
    """

    measures: Sequence[str]
    steps: int
    rounds: int
    seconds: float = 0.0
    parity_steps: int = 0
    peak: bool = False
    decay: Decay | None = None
    devices: int = 1


def steps_for(size: Size, *, steps: int) -> int:
    """How many steps take as much arithmetic as ``steps`` of `TUTORIAL`; from two to `MOST_STEPS`.

    So that what a call costs besides its steps weighs alike at all sizes.
    """
    return max(2, min(MOST_STEPS, round(steps * train_flop(TUTORIAL) / train_flop(size))))


def turn(keys: Sequence[Key], index: int, rounds: int) -> list[Key]:
    """The order of round ``index``: each begins elsewhere, and every other one runs backwards.

    Rotation alone would give everybody the same neighbour in all rounds.
    """
    first = index * len(keys) // rounds
    order = [*keys[first:], *keys[:first]]
    return order[::-1] if index % 2 else order


def measure(
    work: Work, frameworks: Mapping[str, Framework], effort: Effort, *, start: Start, tell: Tell
) -> Point:
    """Measure frameworks at one size. One that fails has the reason in its row; the others go on.

    Args:
        work: what they compute.
        frameworks: by name, those that can be started.
        effort: how much is measured.
        start: starts the process of a framework by its name; of `PEAK`, that of `PEAK_PRODUCT`.
        tell: is called with a line about what happens.
    """
    with ExitStack() as stack:
        return _Measurement(work, frameworks, effort, stack, start, tell).point()


class _Measurement:
    """The state of `measure`: processes, and what is known of each."""

    def __init__(
        self,
        work: Work,
        frameworks: Mapping[str, Framework],
        effort: Effort,
        stack: ExitStack,
        start: Start,
        tell: Tell,
    ) -> None:
        self._work, self._frameworks, self._effort = work, frameworks, effort
        self._stack, self._start, self._tell = stack, start, tell
        self._rows = dict.fromkeys(frameworks, Row())
        self._processes: dict[str, Process] = {}
        # What is timed, by measure and framework: the same measures stand side by side.
        self._samples: dict[tuple[str, str], list[Sample]] = {}

    def point(self) -> Point:
        work, effort = self._work, self._effort
        steps = steps_for(work.size, steps=effort.steps)
        right, compared = None, None
        if effort.parity_steps:
            # A larger model shows after fewer steps what it does.
            compared = work.batches(min(effort.parity_steps, steps_for(work.size, steps=effort.parity_steps)))
            self._tell(f"the judge computes {len(compared.labels)} steps in float64")
            right = verdict(work.params, compared, decay=self._decay(len(compared.labels)))
        batches = work.batches(steps)
        for name in self._frameworks:
            self._tell(f"{name} gets ready")
            self._attempt(name, partial(self._get_ready, name, batches, right, compared))
        if effort.peak and self._processes:
            self._attempt(PEAK, self._start_peak)
        self._rounds()
        for name in list(self._processes):
            if name != PEAK:
                self._attempt(name, partial(self._finish, name))
        return Point(
            work.size,
            steps,
            self._rows,
            right.losses if right else (),
            tuple(sample.seconds for sample in self._samples.get((INFER, PEAK), ())),
        )

    def _attempt(self, name: str, action: Callable[[], None]) -> None:
        """Do something with a framework; if it fails, end it, and let nothing be told of its speed."""
        try:
            action()
        except FrameworkError as error:
            self._tell(f"  {name}: {error}")
            if name in self._processes:
                self._processes.pop(name).close(at_once=True)
            self._samples = {key: found for key, found in self._samples.items() if key[1] != name}
            if name in self._rows:
                self._update(name, why_not=str(error))

    def _update(self, name: str, **changes: object) -> None:
        self._rows[name] = dataclasses.replace(self._rows[name], **changes)  # type: ignore[arg-type]

    def _decay(self, steps: int) -> Decay | None:
        """The recipe's decay, all of it within the steps that are compared."""
        decay = self._effort.decay
        return decay and decay._replace(warmup=steps // 10, total=steps + 1)

    def _get_ready(
        self, name: str, batches: Batches, right: Verdict | None, compared: Batches | None
    ) -> None:
        size, params, _ = self._work
        trains, effort = self._frameworks[name].trains, self._effort
        process = self._processes[name] = self._stack.enter_context(self._start(name))
        build = ("build", size, params, TIMING_RATE, None, effort.devices)
        started = process.call(*build) - process.started
        memory: Memory = process.call("memory")
        self._update(name, start_seconds=started, start_memory=memory.now)
        if trains:
            process.call("load", "many", *batches.first())
            first_step: Sample = process.call("time", "train", False)
            self._update(name, first_step_seconds=first_step.seconds)
        if right is not None and compared is not None:
            decay = self._decay(len(compared.labels))
            parity = parity_of(
                process, size, params, compared, right, trains=trains, decay=decay, devices=effort.devices
            )
            self._update(name, parity=parity)
            if parity.why_different is not None:
                raise FrameworkError(f"different: {parity.why_different}")
        process.call(*build)
        process.call("load", "first", *batches.first())
        process.call("load", "many", *batches)
        process.call("load", "single", *batches.first(batch=1)) if effort.devices == 1 else None
        threads: dict[str, int | None] = process.call("prepare", effort.measures, effort.seconds)
        chosen = {measure: count for measure, count in threads.items() if count is not None}
        self._update(name, threads=chosen, step_memory=process.call("step_memory"))
        process.call("forget_memory")  # what compilers had is no user's concern
        self._samples |= {(measure, name): [] for measure in threads}

    def _start_peak(self) -> None:
        process = self._processes[PEAK] = self._stack.enter_context(self._start(PEAK))
        process.call("build", self._work.size, {}, 0.0)
        for loaded, steps in (("first", 1), ("many", PEAK_STEPS)):
            process.call("load", loaded, *noise_batches(Size(1, 1, 1, 1), steps=steps))
        process.call("prepare", (INFER,), self._effort.seconds)
        self._samples[INFER, PEAK] = []

    def _rounds(self) -> None:
        order = {measure: place for place, measure in enumerate(self._effort.measures)}
        keys = sorted(self._samples, key=lambda key: (key[1] == PEAK, order.get(key[0], 0)))
        if keys:
            self._tell(f"{self._effort.rounds} rounds of timing: {', '.join(self._processes)}")
        for index in range(self._effort.rounds if keys else 0):
            self._tell(f"  round {index + 1} of {self._effort.rounds}")
            for key in turn(keys, index, self._effort.rounds):
                if key in self._samples:
                    self._attempt(key[1], partial(self._take, key))

    def _take(self, key: tuple[str, str]) -> None:
        measure, name = key
        self._samples[key].append(self._processes[name].call("time", measure))

    def _finish(self, name: str) -> None:
        memory: Memory = self._processes[name].call("memory")
        samples = {measure: found for (measure, other), found in self._samples.items() if other == name}
        self._update(
            name,
            peak_memory=memory.peak,
            seconds={measure: [each.seconds for each in found] for measure, found in samples.items()},
            processor_seconds={
                measure: [each.processor_seconds for each in found] for measure, found in samples.items()
            },
        )

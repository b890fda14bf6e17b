"""How the time of a run grows with its devices: ``python -m lstm_jax.cluster.scaling``.

The terms are measured on this machine, on one CPU device of each process: a training step of several sizes of
its share of the batch, an evaluation, and the mean of gradients between two processes. From them a model says
how long an epoch takes on more devices:

    step      = a + b * share                                  a line through the measured steps
    mean      = 2 (D - 1) * latency + 2 (D - 1) / D * bytes / bandwidth          a ring of D devices
    epoch     = steps * (step + mean) + evaluation / D

Two processes on one machine share its cores and its memory, and have no network between them: for another
machine, give the latency and the bandwidth of its network.
"""

import contextlib
import dataclasses
import json
import math
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, NamedTuple

import jax
import numpy as np
from jax.sharding import PartitionSpec as P

from lstm_jax import devices
from lstm_jax.cluster import joining
from lstm_jax.cluster.options import VARIABLES, ClusterOptions
from lstm_jax.cluster.watch import LOOPBACK, free_port
from lstm_jax.commands import command_line
from lstm_jax.config import Config
from lstm_jax.data.dataset import Split, load_dataset
from lstm_jax.errors import ClusterError
from lstm_jax.evaluation import compile_score, evaluate
from lstm_jax.options import check, number, whole_number
from lstm_jax.report.tables import Table, as_markdown
from lstm_jax.runs import processes
from lstm_jax.system.signals import StopSignals
from lstm_jax.training import RESIDENT_SPEC, Method, Resident, compile_train_epoch, init_state_on

PROG = "python -m lstm_jax.cluster.scaling"
# Examples of a step on one device; the first is the tutorial's batch.
SHARES = (128, 64, 32, 16, 8)
# Bytes of a mean: one that is all latency, the gradients of the tutorial's model, one that is all width.
SIZES = (64, 97_832, 8_000_000)
DEVICES = tuple(2**k for k in range(11))
_WORKERS = 2


class Terms(NamedTuple):
    """What was measured, or is assumed, in seconds and bytes.

    Attributes:
        overhead: of a step, whatever its share.
        example: of a step, for each example of the share.
        evaluation: of all validation and test images, on one device.
        latency: from one device to the next in a ring.
        bandwidth: bytes per second from one device to the next.
        size: bytes of the gradients.
    """

    overhead: float
    example: float
    evaluation: float
    latency: float
    bandwidth: float
    size: int

    def step(self, share: float) -> float:
        """Return the seconds of a step without the mean."""
        return self.overhead + self.example * share

    def mean(self, count: int) -> float:
        """Return the seconds of the mean over so many devices."""
        return 2 * (count - 1) * self.latency + 2 * (count - 1) / count * self.size / self.bandwidth

    def epoch(self, count: int, *, batch: int, examples: int) -> float:
        """Return the seconds of an epoch, with its evaluation, on so many devices."""
        steps = examples // batch
        return steps * (self.step(batch / count) + self.mean(count)) + self.evaluation / count


_POSSIBLE = number("a number above 0 and below a million", lambda x: 0 < x < 1e6)


@dataclasses.dataclass(frozen=True)
class Scaling:
    """Measure a step, an evaluation and the mean of gradients, and print how an epoch scales with devices."""

    rounds: Annotated[int, whole_number(1, 10**6)] = 9
    """Number of measurements of each term; the median counts."""
    seconds: Annotated[float, _POSSIBLE] = 0.3
    """Shortest time of one measurement, in seconds."""
    latency: Annotated[float, _POSSIBLE] = 20.0
    """Of another network: microseconds from one device to the next."""
    bandwidth: Annotated[float, _POSSIBLE] = 10.0
    """Of another network: gigabits per second from one device to the next."""

    def __post_init__(self) -> None:
        """Refuse impossible values."""
        check(self)

    def run(self) -> int:
        """Print the tables; as one of the two processes that compute a mean, print its seconds."""
        with StopSignals() as stop:
            member = joining.process_of(ClusterOptions())
            if member is None:
                self._print(*self._measured(), between_processes(self))
                return 0
            with joining.joined(
                member,
                stop=stop,
                last_word=lambda error: command_line.last_word(error, prog=PROG),
                tell=lambda text: command_line.complain(PROG, text),
                before_end=lambda: None,
            ):
                jax.config.update("jax_num_cpu_devices", 1)
                means = {str(size): self.time_of(mean_program(size)) for size in SIZES}
                if member.number == 0:
                    print(json.dumps(means))
        return 0

    def time_of(self, run: Callable[[int], None]) -> float:
        """Return the median of the seconds that a program takes for each of so many repetitions."""
        run(1)
        began = time.perf_counter()
        run(10)
        trial = (time.perf_counter() - began) / 10
        # The processes of a mean must repeat it equally often.
        count = processes.largest(max(1, math.ceil(self.seconds / max(trial, 1e-9))))
        samples = []
        for _ in range(self.rounds):
            began = time.perf_counter()
            run(count)
            samples.append((time.perf_counter() - began) / count)
        return float(np.median(samples))

    def _measured(self) -> tuple[Mapping[int, float], float]:
        devices.start(devices=1)
        dataset = load_dataset("mnist")
        steps = {share: self.time_of(step_program(dataset.train, share)) for share in SHARES}
        return steps, self.time_of(evaluation_program([dataset.validation, dataset.test]))

    def _print(self, steps: Mapping[int, float], evaluation: float, means: Mapping[int, float]) -> None:
        example, overhead = np.polyfit(list(steps), list(steps.values()), 1)
        smallest, size, largest = SIZES
        here = Terms(
            overhead=max(0.0, float(overhead)),
            example=float(example),
            evaluation=evaluation,
            latency=means[smallest] / 2,
            bandwidth=largest / max(means[largest] - means[smallest], 1e-9),
            size=size,
        )
        there = here._replace(latency=1e-6 * self.latency, bandwidth=1e9 / 8 * self.bandwidth)
        print(measured_table(steps, evaluation, means))
        print(model_table("this machine", here))
        print(model_table(f"a network of {self.latency:g} µs and {self.bandwidth:g} Gbit/s", there))


def step_program(images: Split, share: int) -> Callable[[int], None]:
    """Compile the tutorial's steps for batches of ``share`` images on one device; return what takes them."""
    config = Config.of(batch_size=share, devices=1)
    most = 2**14
    method = Method.of(config.model, config.optimizer, config.augmentation, total_steps=most)
    mesh = devices.make_mesh(devices=1, batch_size=share)
    epoch = compile_train_epoch(method, mesh, data_spec=RESIDENT_SPEC)
    (image, label) = next(images.batches(len(images)))
    order = np.random.default_rng(0).integers(0, len(images), (most, share), np.int32)
    arrays = zip((image, label.astype(np.int32), order), RESIDENT_SPEC, strict=True)
    data = Resident(*(devices.place(mesh, array, spec) for array, spec in arrays))
    state = init_state_on(mesh, method, config.seed)

    def run(steps: int) -> None:
        nonlocal state  # each call consumes it
        for start in range(0, steps, most):
            stop = min(most, steps - start)
            state = epoch(state, data, np.int32(0), np.int32(stop), np.uint32(config.seed))
        jax.block_until_ready(state)

    return run


def evaluation_program(splits: Sequence[Split]) -> Callable[[int], None]:
    """Compile the evaluation of the tutorial's model on one device; return what repeats it."""
    config = Config.of(devices=1)
    mesh = devices.make_mesh(devices=1, batch_size=config.batch_size)
    method = Method.of(config.model, config.optimizer, config.augmentation, total_steps=1)
    params = init_state_on(mesh, method, config.seed).params
    score = compile_score(method.model, mesh)

    def run(times: int) -> None:
        for _ in range(times):
            for split in splits:
                evaluate(score, params, split, mesh=mesh)

    return run


def mean_program(size: int) -> Callable[[int], None]:
    """Compile the mean of ``size`` bytes over one device of each process; return what repeats it."""
    mesh = devices.make_mesh(devices=1, batch_size=jax.process_count())

    def repeat(times: jax.Array, values: jax.Array) -> jax.Array:
        return jax.lax.fori_loop(0, times, lambda _, mean: devices.mean_over_devices(mean), values)

    compiled = devices.over_devices(repeat, mesh, in_specs=(P(), P()))
    values = devices.place(mesh, np.ones(size // 4, np.float32), P())

    def run(times: int) -> None:
        jax.block_until_ready(compiled(devices.place(mesh, np.int32(times), P()), values))

    return run


def between_processes(options: Scaling) -> dict[int, float]:
    """Measure the mean between two processes on this machine; return its seconds by bytes.

    Raises:
        ClusterError: if they fail.
    """
    address = f"{LOOPBACK}:{free_port()}"
    words = [sys.executable, "-m", "lstm_jax.cluster.scaling"]
    words += ["--rounds", str(options.rounds), "--seconds", str(options.seconds)]
    with contextlib.ExitStack() as running:
        workers = []
        for index in range(_WORKERS):
            named = zip(VARIABLES.values(), (address, str(_WORKERS), str(index)), strict=True)
            worker = subprocess.Popen(
                words, env={**os.environ, **dict(named)}, stdout=subprocess.PIPE, text=True
            )
            workers.append(running.enter_context(worker))
        outputs = [worker.communicate()[0] for worker in workers]
    if any(worker.returncode for worker in workers):
        raise ClusterError("the two processes that compute a mean have failed; their message says why")
    return {int(size): seconds for size, seconds in json.loads(outputs[0].splitlines()[-1]).items()}


def measured_table(steps: Mapping[int, float], evaluation: float, means: Mapping[int, float]) -> str:
    """Make a Markdown table of what was measured."""
    rows = [(f"step, {share} images on one device", seconds) for share, seconds in steps.items()]
    rows.append(("evaluation, 15,000 images on one device", evaluation))
    rows += [(f"mean of {size:,} bytes, {_WORKERS} processes", seconds) for size, seconds in means.items()]
    return as_markdown(Table(("term", "measured, ms"), [(name, f"{1e3 * s:.3g}") for name, s in rows]))


def model_table(where: str, terms: Terms, *, batch: int = Config.batch_size, examples: int = 55_000) -> str:
    """Make a Markdown table by the model: an epoch of one batch shared out, and the speed of a batch each."""
    rows = []
    alone = terms.epoch(1, batch=batch, examples=examples)
    one_speed = batch / terms.step(batch)
    for count in DEVICES:
        cells = ["—"] * 4
        if count <= batch:
            epoch = terms.epoch(count, batch=batch, examples=examples)
            step, mean = 1e3 * terms.step(batch / count), 1e3 * terms.mean(count)
            cells = [f"{step:.2f}", f"{mean:.2f}", f"{epoch:.2f}", f"{alone / epoch:.2f}x"]
        speed = batch * count / (terms.step(batch) + terms.mean(count))
        cells += [f"{speed:,.0f}", f"{speed / one_speed:.1f}x"]
        rows.append([f"{count:,}", *cells])
    shared = [count for count in DEVICES if count <= batch]
    best = min(shared, key=lambda count: terms.epoch(count, batch=batch, examples=examples))
    of_epoch, of_each = ("step, ms", "mean, ms", "epoch, s", "speed-up"), f"images/s with {batch} on each"
    note = f"An epoch of batches of {batch} is the shortest on {best} devices; more make it longer."
    table = as_markdown(Table(("devices", *of_epoch, of_each, "speed-up"), rows, notes=(note,)))
    return f"On {where}:\n\n{table}"


if __name__ == "__main__":
    command_line.run(lambda: command_line.parse(Scaling, sys.argv[1:], prog=PROG).run(), prog=PROG)

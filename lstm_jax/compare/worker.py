"""The process of one adapter.

`processes.py` starts it, and sends it the methods of `Worker` to call through a pipe. The results go back the
same way. JAX is not imported here, so that the threads, memory and start-up of a process are those of its
framework alone.
"""

import importlib
import math
import os
import time
import traceback
from collections.abc import Sequence
from contextlib import suppress
from multiprocessing.connection import Connection
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np

from lstm_jax.compare.adapter import Decay
from lstm_jax.compare.size import Size
from lstm_jax.exchange.layouts import Params
from lstm_jax.system.cores import fastest, thread_counts, usable_cores

# Before a measurement, the same calls are made untimed for so long. Another process was timed before: its
# data fill the caches, and its threads may still spin, but for a shorter time than this.
SETTLE_SECONDS = 0.05

# Calls in a trial of a number of threads, of a single batch each.
TRIAL_CALLS = 10

# The side of the square matrices whose product shows the machine's peak, and the operations of one product.
PEAK_SIDE = 2048
PEAK_FLOP = 2 * PEAK_SIDE**3

# Tags of an answer.
DONE, FAILED = "done", "failed"


class Measure(NamedTuple):
    """A measure: timed calls of a method of the adapter.

    Attributes:
        method: name of the method.
        batches: name of the batches for timed calls.
        settles: name of the batches for untimed calls before.
        calls: the least number of calls in a measurement.
    """

    method: str
    batches: str = "many"
    settles: str = "first"
    calls: int = 1


TRAIN, INFER, LATENCY, GRADIENT, DISPATCHED = "train", "infer", "latency", "gradient", "dispatched"
CALLED = "called"
MEASURES = MappingProxyType(
    {
        TRAIN: Measure("train"),
        INFER: Measure("infer"),
        CALLED: Measure("infer", batches="first"),
        LATENCY: Measure("infer", batches="single", settles="single", calls=200),
        GRADIENT: Measure("gradients"),
        DISPATCHED: Measure("dispatch"),
    }
)


class Sample(NamedTuple):
    """One measurement: seconds per batch, and seconds of all processor cores together per batch."""

    seconds: float
    processor_seconds: float


class Memory(NamedTuple):
    """Bytes of memory of this process, now and at most; None where the system does not tell."""

    now: int | None
    peak: int | None


class Worker:
    """The methods that can be called in the process. Batches are loaded under a name for later calls.

    Args:
        adapter: "module:Class"; it is imported by the first `build`.
    """

    def __init__(self, adapter: str) -> None:
        self._spec = adapter
        self._adapter: Any = None
        self._batches: dict[str, Any] = {}
        self._steps: dict[str, int] = {}
        self._threads: dict[str, int] = {}
        self._calls = {name: measure.calls for name, measure in MEASURES.items()}

    def build(
        self, size: Size, params: Params, learning_rate: float, decay: Decay | None = None, devices: int = 1
    ) -> float:
        """Build a new model and optimizer, and return the time when they were ready."""
        module, name = self._spec.split(":")
        module = module if "." in module else f"lstm_jax.compare.adapters.{module}"
        self._batches.clear()
        self._adapter = None  # frees its memory
        adapter = getattr(importlib.import_module(module), name)
        self._adapter = adapter(size, params, learning_rate=learning_rate, decay=decay)
        if devices > 1:
            if not hasattr(self._adapter, "share"):
                raise RuntimeError("it is compared on one device only")
            self._adapter.share(devices)
        return time.time()

    def load(self, name: str, images: Any, labels: Any) -> float:
        """Load batches, arrays as in `adapter.Adapter.load`, under a name, and return the seconds it took."""
        start = time.perf_counter()
        self._batches.pop(name, None)
        self._batches[name] = self._adapter.load(images, labels)
        self._steps[name] = len(labels)
        return time.perf_counter() - start

    def train(self, name: str) -> float:
        """Train on loaded batches, and return the mean of the losses."""
        return float(self._adapter.train(self._batches[name]))

    def losses(self, images: Any, labels: Any) -> list[float]:
        """Take train steps in separate calls, and return their losses."""
        parts = (slice(i, i + 1) for i in range(len(images)))
        return [float(self._adapter.train(self._adapter.load(images[part], labels[part]))) for part in parts]

    def gradients(self, name: str) -> tuple[float, Params]:
        """Compute mean loss and mean gradients of loaded batches."""
        loss, gradients = self._adapter.gradients(self._batches[name])
        return float(loss), self._adapter.exchanged(gradients)

    def infer(self, name: str) -> np.ndarray:
        """Compute the logits of loaded batches: steps, batch, classes."""
        return np.asarray(self._adapter.infer(self._batches[name]))

    def prepare(self, measures: Sequence[str], seconds: float) -> dict[str, int | None]:
        """Make all calls once that will be timed, and choose the number of threads and calls.

        Args:
            measures: names in `MEASURES`.
            seconds: the shortest time of a measurement; calls are repeated to fill it.

        Returns:
            For each measure that the adapter has, the fastest number of threads, found by trial as a user
            would; None if the framework distributes its work by itself.
        """
        there = [name for name in measures if hasattr(self._adapter, MEASURES[name].method)]
        return {name: self._prepare(name, seconds) for name in there}

    def _prepare(self, name: str, seconds: float) -> int | None:
        measure, counts = MEASURES[name], thread_counts(len(usable_cores()))
        self._call(measure.method, measure.settles)
        self._call(measure.method, measure.batches)
        if self._adapter.set_threads(counts[-1]):

            def run(count: int) -> None:
                self._adapter.set_threads(count)
                for _ in range(max(TRIAL_CALLS, measure.calls)):
                    self._call(measure.method, measure.settles)

            self._threads[name] = fastest(run, counts, clock=time.perf_counter)
        if seconds:
            call = self.time(name).seconds * self._steps[measure.batches]
            self._calls[name] = max(measure.calls, math.ceil(seconds / max(call, 1e-9)))
        return self._threads.get(name)

    def set_threads(self, name: str, count: int) -> None:
        """Set the number of threads of a measure, which was found in another process."""
        self._threads[name] = count

    def time(self, name: str, settle: bool = True) -> Sample:
        """Take a measurement, by name in `MEASURES`, after untimed calls if ``settle``."""
        measure = MEASURES[name]
        if name in self._threads:
            self._adapter.set_threads(self._threads[name])
        end = time.perf_counter() + SETTLE_SECONDS
        while settle and time.perf_counter() < end:
            self._call(measure.method, measure.settles)
        # The processor time includes that of all threads.
        processor, start = time.process_time(), time.perf_counter()
        for _ in range(self._calls[name]):
            self._call(measure.method, measure.batches)
        seconds, processor = time.perf_counter() - start, time.process_time() - processor
        batches = self._calls[name] * self._steps[measure.batches]
        return Sample(seconds / batches, processor / batches)

    def _call(self, method: str, batches: str) -> None:
        getattr(self._adapter, method)(self._batches[batches])

    def step_memory(self) -> int | None:
        """Return the bytes that a dispatched train step needs; None if the framework does not tell."""
        return self._adapter.step_memory() if hasattr(self._adapter, "step_memory") else None

    def memory(self) -> Memory:
        """Return the memory of this process."""
        return Memory(_status("VmRSS"), _status("VmHWM"))

    def forget_memory(self) -> None:
        """Reset the peak memory to the present memory, where the system can."""
        with suppress(OSError):
            Path("/proc/self/clear_refs").write_text("5")


class MatrixProduct:
    """A large float32 matrix product in JAX, in place of an adapter, to find the machine's peak."""

    def __init__(self, size: Size, params: Params, *, learning_rate: float, decay: Decay | None) -> None:
        import jax
        import jax.numpy as jnp

        matrices = np.random.default_rng(0).standard_normal((2, PEAK_SIDE, PEAK_SIDE), np.float32)
        self._left, self._right = (jnp.asarray(matrix / PEAK_SIDE**0.5) for matrix in matrices)
        self._product = jax.jit(jnp.matmul)

    def load(self, images: Any, labels: Any) -> int:
        """Return the number of products, in place of batches."""
        return len(labels)

    def infer(self, steps: int) -> None:
        """Compute so many products. Each needs the one before, so that they cannot overlap."""
        result = self._left
        for _ in range(steps):
            result = self._product(result, self._right)
        result.block_until_ready()

    def set_threads(self, count: int) -> bool:
        """Return False: JAX distributes the work by itself."""
        return False


def _status(field: str) -> int | None:
    """Return bytes of memory, by the name of the field in ``/proc/self/status`` of Linux.

    Not `resource.getrusage`, where the peak of a process starts from that of its parent.
    """
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{field}:"))
    except (OSError, StopIteration):  # not Linux
        return None


def main(adapter: str, cores: str, descriptor: str) -> None:
    """Answer calls until the pipe is closed: (method, arguments) -> (tag, result).

    Args:
        adapter: "module:Class".
        cores: the processor cores to use, as "0,1"; all if empty.
        descriptor: file descriptor of the pipe.
    """
    if cores:
        os.sched_setaffinity(0, [int(core) for core in cores.split(",")])
    worker, pipe = Worker(adapter), Connection(int(descriptor))
    with suppress(EOFError):
        while True:
            method, arguments = pipe.recv()
            try:
                answer = (DONE, getattr(worker, method)(*arguments))
            except Exception as error:  # any error is reported, and other frameworks go on
                traceback.print_exc()
                answer = (FAILED, f"{type(error).__name__}: {error}")
            pipe.send(answer)

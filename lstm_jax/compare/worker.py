"""A process with one adapter, which does what it is told.

`processes.py` starts it and sends it, over a pipe, which method of `Worker` to call; the results go back the
same way. Nothing of JAX is imported here, so that each framework has its process for itself: its threads, its
memory and its start.
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

# Before a measurement, so long the same is done untimed: what was timed before, in another process, has left
# its data in the caches, and perhaps threads that still spin. They do so for less.
SETTLE_SECONDS = 0.05

# In a trial of a number of threads, there are so many calls, of a single batch each.
TRIAL_CALLS = 10

# The side of the square matrices whose product gives the machine's peak, and the arithmetic of one product.
PEAK_SIDE = 2048
PEAK_FLOP = 2 * PEAK_SIDE**3

# Tags of an answer.
DONE, FAILED = "done", "failed"


class Measure(NamedTuple):
    """What is timed: calls of a method of the adapter.

    Attributes:
        method: its name.
        batches: the name of what it is given.
        settles: the name of what it is given untimed before.
        calls: how many there are in a measurement, at least.
    """

    method: str
    batches: str = "many"
    settles: str = "first"
    calls: int = 1


TRAIN, INFER, LATENCY, GRADIENT, DISPATCHED = "train", "infer", "latency", "gradient", "dispatched"
MEASURES = MappingProxyType(
    {
        TRAIN: Measure("train"),
        INFER: Measure("infer"),
        LATENCY: Measure("infer", batches="single", settles="single", calls=200),
        GRADIENT: Measure("gradients"),
        DISPATCHED: Measure("dispatch"),
    }
)


class Sample(NamedTuple):
    """One measurement, for each batch: seconds, and seconds of all processor cores together."""

    seconds: float
    processor_seconds: float


class Memory(NamedTuple):
    """Bytes of memory of this process: now, and the most it had; None where the system does not say."""

    now: int | None
    peak: int | None


class Worker:
    """What can be asked of the process. Batches are loaded under a name, and then asked for by it.

    Args:
        adapter: "module:Class"; it is imported when it is first built.
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
        """Make the model anew, with an optimizer at its start; returns the time of day when it was ready."""
        module, name = self._spec.split(":")
        module = module if "." in module else f"lstm_jax.compare.adapters.{module}"
        self._batches.clear()
        self._adapter = None  # its memory can be used again
        adapter = getattr(importlib.import_module(module), name)
        self._adapter = adapter(size, params, learning_rate=learning_rate, decay=decay)
        if devices > 1:
            if not hasattr(self._adapter, "share"):
                raise RuntimeError("it is compared on one device only")
            self._adapter.share(devices)
        return time.time()

    def load(self, name: str, images: Any, labels: Any) -> float:
        """Give the adapter batches, arrays as in `adapter.Adapter.load`; returns the seconds it took."""
        start = time.perf_counter()
        self._batches.pop(name, None)
        self._batches[name] = self._adapter.load(images, labels)
        self._steps[name] = len(labels)
        return time.perf_counter() - start

    def train(self, name: str) -> float:
        """Train on loaded batches; returns the mean of the losses."""
        return float(self._adapter.train(self._batches[name]))

    def losses(self, images: Any, labels: Any) -> list[float]:
        """Take train steps one by one, each a call of its own; returns their losses."""
        parts = (slice(i, i + 1) for i in range(len(images)))
        return [float(self._adapter.train(self._adapter.load(images[part], labels[part]))) for part in parts]

    def gradients(self, name: str) -> tuple[float, Params]:
        """Mean loss and mean gradients of loaded batches."""
        loss, gradients = self._adapter.gradients(self._batches[name])
        return float(loss), self._adapter.exchanged(gradients)

    def infer(self, name: str) -> np.ndarray:
        """The logits of loaded batches: steps, batch, classes."""
        return np.asarray(self._adapter.infer(self._batches[name]))

    def prepare(self, measures: Sequence[str], seconds: float) -> dict[str, int | None]:
        """Do everything once that will be timed, and choose how.

        Args:
            measures: names in `MEASURES`.
            seconds: the shortest time of a measurement, which is filled with calls.

        Returns:
            For each measure that the adapter has, with how many threads it is the fastest, found by trial
            as a user would; None if the framework shares out its work by itself.
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
        """Measure with a number of threads that was found in another process."""
        self._threads[name] = count

    def time(self, name: str, settle: bool = True) -> Sample:
        """Take a measurement, by name in `MEASURES`, after the same was done untimed to ``settle``."""
        measure = MEASURES[name]
        if name in self._threads:
            self._adapter.set_threads(self._threads[name])
        end = time.perf_counter() + SETTLE_SECONDS
        while settle and time.perf_counter() < end:
            self._call(measure.method, measure.settles)
        # The processor's time has that of threads of all kinds in it.
        processor, start = time.process_time(), time.perf_counter()
        for _ in range(self._calls[name]):
            self._call(measure.method, measure.batches)
        seconds, processor = time.perf_counter() - start, time.process_time() - processor
        batches = self._calls[name] * self._steps[measure.batches]
        return Sample(seconds / batches, processor / batches)

    def _call(self, method: str, batches: str) -> None:
        getattr(self._adapter, method)(self._batches[batches])

    def step_memory(self) -> int | None:
        """Bytes that a dispatched train step needs, where the framework can tell."""
        return self._adapter.step_memory() if hasattr(self._adapter, "step_memory") else None

    def memory(self) -> Memory:
        """The memory of this process."""
        return Memory(_status("VmRSS"), _status("VmHWM"))

    def forget_memory(self) -> None:
        """Let the most memory be counted anew from what it is now, where the system can."""
        with suppress(OSError):
            Path("/proc/self/clear_refs").write_text("5")


class MatrixProduct:
    """In the place of an adapter: a large float32 matrix product with all that JAX finds on the machine."""

    def __init__(self, size: Size, params: Params, *, learning_rate: float, decay: Decay | None) -> None:
        import jax
        import jax.numpy as jnp

        matrices = np.random.default_rng(0).standard_normal((2, PEAK_SIDE, PEAK_SIDE), np.float32)
        self._left, self._right = (jnp.asarray(matrix / PEAK_SIDE**0.5) for matrix in matrices)
        self._product = jax.jit(jnp.matmul)

    def load(self, images: Any, labels: Any) -> int:
        """The number of products in place of batches."""
        return len(labels)

    def infer(self, steps: int) -> None:
        """Take so many products. Each needs the one before, so that they cannot overlap."""
        result = self._left
        for _ in range(steps):
            result = self._product(result, self._right)
        result.block_until_ready()

    def set_threads(self, count: int) -> bool:
        """No: JAX shares out the work by itself."""
        return False


def _status(field: str) -> int | None:
    """Bytes of memory, by the name of the field in Linux's ``/proc/self/status``.

    Not `resource.getrusage`: a process begins with what the one that started it has had at most.
    """
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{field}:"))
    except (OSError, StopIteration):  # not Linux
        return None


def main(adapter: str, cores: str, descriptor: str) -> None:
    """Do what is asked until there is nothing more: (method, arguments) -> (tag, result).

    Args:
        adapter: "module:Class".
        cores: the processor cores to use, as "0,1"; all, if it is empty.
        descriptor: of the pipe.
    """
    if cores:
        os.sched_setaffinity(0, [int(core) for core in cores.split(",")])
    worker, pipe = Worker(adapter), Connection(int(descriptor))
    with suppress(EOFError):
        while True:
            method, arguments = pipe.recv()
            try:
                answer = (DONE, getattr(worker, method)(*arguments))
            except Exception as error:  # whatever it is, it is told, and the others go on
                traceback.print_exc()
                answer = (FAILED, f"{type(error).__name__}: {error}")
            pipe.send(answer)

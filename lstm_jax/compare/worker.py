"""A process with one adapter, which does what it is told.

`lstm_jax.compare.processes` starts it and tells it, over its standard input, which method of `Worker` to
call; answers go out by its standard output. Nothing of JAX is imported here, so that each framework has its
process for itself: its threads, its memory and its start.
"""

import importlib
import os
import pickle
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np
from jaxtyping import Float32, Int32

from lstm_jax.benchmark.size import Size
from lstm_jax.benchmark.timing import Run
from lstm_jax.compare.adapter import Adapter, Decay, Gradient, Params
from lstm_jax.system.cores import fastest, thread_counts, usable_cores

# What is measured.
TRAIN, INFER, LATENCY = "train", "infer", "latency"

# Calls with a single image in a measurement of LATENCY.
LATENCY_CALLS = 200

# Before a measurement, so long the same is done untimed. Threads that have nothing to do spin for less.
SETTLE_SECONDS = 0.05

# Tags of an answer.
DONE, FAILED = "done", "failed"

Images = Float32[np.ndarray, "steps batch time inputs"]
Labels = Int32[np.ndarray, "steps batch"]


class Sample(NamedTuple):
    """One measurement: seconds, and seconds of all processor cores together."""

    seconds: float
    cpu_seconds: float


class Memory(NamedTuple):
    """Bytes of memory of this process: now, and the most it had; None where the system does not say."""

    now: int | None
    peak: int | None


class Worker:
    """What can be asked of the process. Batches are loaded under a name, and then asked for by it."""

    def __init__(self, adapter: str) -> None:
        """Remember the adapter, "module:Class"; it is imported when it is first built."""
        self._spec = adapter
        self._adapter: Adapter | None = None
        self._batches: dict[str, Any] = {}
        self._threads: dict[str, int] = {}
        self._peak: Run | None = None

    def build(self, size: Size, params: Params, learning_rate: float, decay: Decay | None = None) -> float:
        """Make the model anew, with an optimizer at its start; returns the time of day when it was ready."""
        module, name = self._spec.split(":")
        module = module if "." in module else f"lstm_jax.compare.adapters.{module}"
        self._batches.clear()
        self._adapter = None  # its memory can be used again
        self._adapter = getattr(importlib.import_module(module), name)(
            size, params, learning_rate=learning_rate, **({} if decay is None else {"decay": decay})
        )
        return time.time()

    def load(self, name: str, images: Images, labels: Labels) -> float:
        """Give the adapter batches; returns the seconds it took."""
        start = time.perf_counter()
        self._batches.pop(name, None)
        self._batches[name] = self._built().load(images, labels)
        return time.perf_counter() - start

    def gradient(
        self, images: Float32[np.ndarray, "batch time inputs"], labels: Int32[np.ndarray, " batch"]
    ) -> Gradient:
        """Logits, loss and gradients of one batch."""
        return self._built().gradient(images, labels)

    def losses(self, images: Images, labels: Labels) -> list[float]:
        """Take train steps one by one, each a call of its own; returns their losses."""
        adapter = self._built()
        return [
            float(adapter.train(adapter.load(images[i : i + 1], labels[i : i + 1])))
            for i in range(len(images))
        ]

    def train(self, name: str) -> float:
        """Train on loaded batches; returns the mean of the losses."""
        return float(self._built().train(self._batches[name]))

    def infer(self, name: str) -> Float32[np.ndarray, "steps batch classes"]:
        """The logits of loaded batches."""
        return np.asarray(self._built().infer(self._batches[name]))

    def params(self) -> Params:
        """The parameters as they are now."""
        return self._built().params()

    def tune(self, measure: str, name: str) -> int | None:
        """Find by trial with how many threads something is the fastest, as a user would; that trains.

        Args:
            measure: TRAIN, INFER or LATENCY; whenever this is timed, it will be with that number.
            name: of loaded batches.

        Returns:
            The number; None if the framework shares out its work by itself.
        """
        adapter, counts = self._built(), thread_counts(len(usable_cores()))
        if not adapter.set_threads(counts[-1]):
            return None
        work = self._work(measure, name)

        def run(count: int) -> None:
            adapter.set_threads(count)
            work()

        self._threads[measure] = fastest(run, counts, clock=time.perf_counter)
        return self._threads[measure]

    def set_threads(self, measure: str, count: int) -> None:
        """Use a number of threads that was found in another process."""
        self._threads[measure] = count

    def time(self, measure: str, name: str) -> Sample:
        """Train on loaded batches or compute their logits, timed.

        What was timed before, in another process, has left its data in the caches, and perhaps threads that
        still spin: for a short while the same is done untimed.

        Args:
            measure: TRAIN, INFER or LATENCY.
            name: of the batches; "first", if it is loaded, is for the untimed calls, but not of LATENCY,
                of which each call is short.

        Returns:
            The time; of LATENCY, that of `LATENCY_CALLS` calls.
        """
        if measure in self._threads:
            self._built().set_threads(self._threads[measure])
        adapter, end = self._built(), time.perf_counter() + SETTLE_SECONDS
        few = self._batches["first" if measure != LATENCY and "first" in self._batches else name]
        while time.perf_counter() < end:
            adapter.train(few) if measure == TRAIN else adapter.infer(few)
        return _timed(self._work(measure, name))

    def time_once(self, name: str) -> Sample:
        """Train on loaded batches, timed, and on nothing before."""
        if TRAIN in self._threads:
            self._built().set_threads(self._threads[TRAIN])
        return _timed(self._work(TRAIN, name))

    def _work(self, measure: str, name: str) -> Callable[[], object]:
        adapter, batches = self._built(), self._batches[name]
        if measure == TRAIN:
            return lambda: adapter.train(batches)
        if measure == INFER:
            return lambda: adapter.infer(batches)
        return lambda: [adapter.infer(batches) for _ in range(LATENCY_CALLS)]

    def time_peak(self, steps: int) -> Sample:
        """Take steps of the machine's matrix product, timed. For a process without a framework."""
        if self._peak is None:
            from lstm_jax.benchmark.jax_lstm import peak_run

            self._peak = peak_run()
            self._peak(1)
        run = self._peak
        return _timed(lambda: run(steps))

    def memory(self) -> Memory:
        """The memory of this process."""
        return Memory(_status("VmRSS"), _status("VmHWM"))

    def forget_memory(self) -> None:
        """Let the most memory be counted anew from what it is now, where the system can."""
        with suppress(OSError):
            Path("/proc/self/clear_refs").write_text("5")

    def _built(self) -> Adapter:
        if self._adapter is None:
            raise RuntimeError("build comes first")
        return self._adapter


def _timed(work: Callable[[], object]) -> Sample:
    # Threads of all kinds count towards the time of the process.
    cpu, start = time.process_time(), time.perf_counter()
    work()
    seconds = time.perf_counter() - start
    return Sample(seconds, time.process_time() - cpu)


def _status(field: str) -> int | None:
    """Bytes of memory, by the name of the field in Linux's ``/proc/self/status``.

    Not `resource.getrusage`: a process begins with what the one that started it has had at most.
    """
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{field}:"))
    except (OSError, StopIteration):  # not Linux
        return None


def serve(worker: Worker, requests: IO[bytes], answers: IO[bytes]) -> None:
    """Do what is asked until there is nothing more: (method, arguments) -> (tag, result).

    What comes in is unpickled: both ends are processes of one command.
    """
    while True:
        try:
            method, arguments = pickle.load(requests)
        except EOFError:
            return
        try:
            answer = (DONE, getattr(worker, method)(*arguments))
        except Exception as error:  # whatever it is, it is told, and the others go on
            traceback.print_exc()
            answer = (FAILED, f"{type(error).__name__}: {error}")
        pickle.dump(answer, answers, pickle.HIGHEST_PROTOCOL)
        answers.flush()


def main(adapter: str, cores: str) -> None:
    """Run with so many processor cores, given as "0,1"; an empty string means all."""
    if cores:
        os.sched_setaffinity(0, [int(core) for core in cores.split(",")])
    # What frameworks print must not get among the answers: it goes where errors go.
    requests, answers = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(2, 1)
    serve(Worker(adapter), requests, answers)

"""The command ``benchmark``: Flax's layers, the implementations of this package and PyTorch, size after size.

It measures with the same workers and in the same turns as ``compare``, on sequences of random numbers, and
each size by itself. It begins anew every time.
"""

import dataclasses
import tempfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

from lstm_jax.compare.frameworks import IMPLEMENTATIONS, NATIVE
from lstm_jax.compare.machine import machine, now, versions
from lstm_jax.compare.measuring import PEAK, PEAK_PRODUCT, Effort, Measurement, Tell
from lstm_jax.compare.processes import Process
from lstm_jax.compare.report.benchmark import as_text, heading, write_plot
from lstm_jax.compare.results import About, Comparison, Point, Row
from lstm_jax.compare.size import Size
from lstm_jax.compare.work import Batches, initial_params, noise_batches
from lstm_jax.compare.worker import DISPATCHED, GRADIENT, INFER, TRAIN
from lstm_jax.kernels.build import why_not_available
from lstm_jax.system.cores import usable_cores
from lstm_jax.system.files import write_whole

# In a timed call, and losses that are compared with the judge's, at the tutorial's size.
STEPS = 100


class Request(NamedTuple):
    """What is asked for.

    Attributes:
        command: a command line that asks for the same.
        names: of implementations, in the order of tables.
        sizes: each is measured by itself.
        devices: how many share each batch in JAX.
        rounds: of timing.
        seconds: the shortest time of a measurement.
        folder: where results.json and the plot go.
    """

    command: str
    names: Sequence[str]
    sizes: Sequence[Size]
    devices: int
    rounds: int
    seconds: float
    folder: Path


def run(request: Request, *, tell: Tell) -> None:
    """Measure all sizes: tables go to standard output, notes to ``tell``, the rest to files."""
    request.folder.mkdir(parents=True, exist_ok=True)
    if NATIVE in map(IMPLEMENTATIONS.get, request.names):
        why_not_available()  # builds the kernel, once for all times: that is not part of a first step
    about = About(
        request.command,
        now(),
        machine(),
        versions(),
        {name: (IMPLEMENTATIONS[name].title, {}) for name in request.names},
        cores=len(usable_cores()),
        rounds=request.rounds,
        devices=request.devices,
    )
    print(heading(about))
    points: dict[str, Point] = {}
    for size in request.sizes:
        name = f"hidden {size.hidden}, batch {size.batch}, {size.time} time steps"
        tell(f"{name}, {len(points) + 1} of {len(request.sizes)}")
        points[name] = measure_size(request, size, tell=tell)
        print(f"\n{as_text(points[name], about)}", flush=True)
        # After every size, so that nothing is lost when the rest is interrupted.
        write_whole(request.folder / "results.json", Comparison(about, points).as_json())
    write_plot(list(points.values()), request.folder, tell=tell)
    tell(f"written to {request.folder}")


def measure_size(request: Request, size: Size, *, tell: Tell) -> Point:
    """Measure all implementations at one size."""
    reasons = {name: IMPLEMENTATIONS[name].why_not(time=size.time) for name in request.names}
    there = {name: IMPLEMENTATIONS[name] for name, reason in reasons.items() if reason is None}
    measures, devices = (INFER, GRADIENT, TRAIN, DISPATCHED), request.devices
    effort = Effort(measures, STEPS, request.rounds, request.seconds, devices=devices)
    params, batches = initial_params(size, seed=0, remember=True), partial(_batches, size)
    with tempfile.TemporaryDirectory() as logs:

        def start(name: str) -> Process:
            # JAX computes on what it finds; a CPU shows several devices.
            environment = {"JAX_NUM_CPU_DEVICES": str(1 if name == PEAK else devices)}
            framework = PEAK_PRODUCT if name == PEAK else there[name]
            return Process(framework, cores=usable_cores(), log=Path(logs, name), environment=environment)

        point = Measurement(size, params, batches, there, effort, start, tell).point()
    rows = {name: point.rows.get(name) or Row(why_not=reasons[name]) for name in request.names}
    return dataclasses.replace(point, rows=rows)


def _batches(size: Size, steps: int) -> Batches:
    return noise_batches(size, steps=steps)

"""The command ``benchmark``: Flax's layers, the implementations of this package and PyTorch, size after size.

It measures with the same workers and in the same turns as ``compare``, on sequences of random numbers, and
each size by itself. It begins anew every time.
"""

import tempfile
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

from lstm_jax.compare.frameworks import NATIVE, Framework
from lstm_jax.compare.machine import machine, now, versions
from lstm_jax.compare.measuring import PEAK, PEAK_PRODUCT, Effort, Measurement, Tell
from lstm_jax.compare.processes import Process
from lstm_jax.compare.report.benchmark import as_text, heading, write_plot
from lstm_jax.compare.results import About, Comparison, Point
from lstm_jax.compare.size import Size
from lstm_jax.compare.work import initial_params, noise_batches
from lstm_jax.compare.worker import DISPATCHED, GRADIENT, INFER, TRAIN
from lstm_jax.kernels.build import why_not_available
from lstm_jax.system.cores import usable_cores
from lstm_jax.system.files import write_whole

# In a timed call, and losses that are compared with the judge's, at the tutorial's size.
STEPS = 100


def run(
    command: str,
    frameworks: Mapping[str, Framework],
    sizes: Sequence[Size],
    *,
    rounds: int,
    seconds: float,
    devices: int,
    folder: Path,
    tell: Tell,
) -> None:
    """Measure all sizes: tables go to standard output, notes to ``tell``, the rest to files.

    Args:
        command: a command line that asks for the same.
        frameworks: by name, in the order of tables.
        sizes: each is measured by itself.
        rounds: of timing.
        seconds: the shortest time of a measurement.
        devices: how many share each batch in JAX.
        folder: where results.json and the plot go.
        tell: is called with a line about what happens.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if NATIVE in frameworks.values():
        why_not_available()  # builds the kernel, once for all times: that is not part of a first step
    titles = {name: (each.title, each.versions()) for name, each in frameworks.items()}
    cores = len(usable_cores())
    about = About(command, now(), machine(), versions(), titles, cores, rounds=rounds, devices=devices)
    effort = Effort((INFER, GRADIENT, TRAIN, DISPATCHED), STEPS, rounds, seconds, devices=devices)
    print(heading(about))
    points: dict[str, Point] = {}
    for size in sizes:
        name = f"hidden {size.hidden}, batch {size.batch}, {size.time} time steps"
        tell(f"{name}, {len(points) + 1} of {len(sizes)}")
        points[name] = measure_size(size, frameworks, effort, tell=tell)
        print(f"\n{as_text(points[name], about)}", flush=True)
        # After every size, so that nothing is lost when the rest is interrupted.
        write_whole(folder / "results.json", Comparison(about, points).as_json())
    write_plot(list(points.values()), folder, tell=tell)
    tell(f"written to {folder}")


def measure_size(size: Size, frameworks: Mapping[str, Framework], effort: Effort, *, tell: Tell) -> Point:
    """Measure all implementations at one size."""
    params, batches = initial_params(size, seed=0, remember=True), partial(noise_batches, size)
    with tempfile.TemporaryDirectory() as logs:

        def start(name: str) -> Process:
            # JAX computes on what it finds; a CPU shows several devices.
            environment = {"JAX_NUM_CPU_DEVICES": str(1 if name == PEAK else effort.devices)}
            framework = PEAK_PRODUCT if name == PEAK else frameworks[name]
            return Process(framework, cores=usable_cores(), log=Path(logs, name), environment=environment)

        return Measurement(size, params, batches, frameworks, effort, start, tell).point()

"""The command ``benchmark``: Flax's layers, the implementations of this package and PyTorch, size after size.

It uses the same workers and turns as ``compare``, on sequences of random numbers. Each size is measured by
itself, and every call starts from the beginning.
"""

import tempfile
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

from lstm_jax.compare.frameworks import NATIVE, Framework
from lstm_jax.compare.machine import machine, now, versions
from lstm_jax.compare.measuring import PEAK, PEAK_PRODUCT, Effort, Measurement
from lstm_jax.compare.processes import Process
from lstm_jax.compare.report.benchmark import as_text, heading, write_plot
from lstm_jax.compare.results import About, Comparison, Point
from lstm_jax.compare.size import Size
from lstm_jax.compare.work import initial_params, noise_batches
from lstm_jax.compare.worker import CALLED, DISPATCHED, GRADIENT, INFER, TRAIN
from lstm_jax.errors import ConfigError, Report
from lstm_jax.kernels.build import why_not_available
from lstm_jax.system.cores import usable_cores
from lstm_jax.system.files import write_whole

# Steps in a timed call, and losses to compare with those of the judge, at the tutorial's size.
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
    report: Report,
) -> None:
    """Measure all sizes: print tables, pass messages to ``report``, and write the results to files.

    Args:
        command: the command line for the same benchmark.
        frameworks: the frameworks by name, in the order of tables.
        sizes: the sizes to measure.
        rounds: number of rounds of timing.
        seconds: the shortest time of a measurement.
        devices: number of devices that share each batch in JAX.
        folder: the folder of results.json and the plot.
        report: called with a line about the progress.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if NATIVE in frameworks.values():
        why_not_available()  # builds the kernel now, so that no first step includes that
    titles = {name: (each.title, each.versions()) for name, each in frameworks.items()}
    cores = len(usable_cores())
    about = About(command, now(), machine(), versions(), titles, cores, rounds=rounds, devices=devices)
    effort = Effort((INFER, CALLED, GRADIENT, TRAIN, DISPATCHED), STEPS, rounds, seconds, devices=devices)
    print(heading(about))
    points: dict[str, Point] = {}
    for size in sizes:
        name = f"hidden {size.hidden}, batch {size.batch}, {size.time} time steps"
        report(f"{name}, {len(points) + 1} of {len(sizes)}")
        points[name] = measure_size(size, frameworks, effort, report=report)
        print(f"\n{as_text(points[name], about)}", flush=True)
        # Write after every size, so that an interruption loses nothing.
        write_whole(folder / "results.json", Comparison(about, points).as_json())
    _refuse_if_nothing_was_measured(points)
    write_plot(list(points.values()), folder, report=report)
    report(f"written to {folder}")


def _refuse_if_nothing_was_measured(points: Mapping[str, Point]) -> None:
    rows = [pair for point in points.values() for pair in point.rows.items()]
    if all(row.why_not for _, row in rows):
        told = "; ".join(dict.fromkeys(f"{name}: {row.why_not}" for name, row in rows))
        raise ConfigError(f"--implementations: none of the given ones could be measured; {told}")


def measure_size(size: Size, frameworks: Mapping[str, Framework], effort: Effort, *, report: Report) -> Point:
    """Measure all implementations at one size."""
    params, batches = initial_params(size, seed=0, remember=True), partial(noise_batches, size)
    with tempfile.TemporaryDirectory() as logs:

        def start(name: str) -> Process:
            # JAX chooses the platform. On a CPU, this sets the number of devices.
            environment = {"JAX_NUM_CPU_DEVICES": str(1 if name == PEAK else effort.devices)}
            framework = PEAK_PRODUCT if name == PEAK else frameworks[name]
            return Process(framework, cores=usable_cores(), log=Path(logs, name), environment=environment)

        return Measurement(size, params, batches, frameworks, effort, start, report).point()

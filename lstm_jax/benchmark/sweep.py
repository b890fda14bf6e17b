"""From options to results: size after size, each written and printed as soon as it is there."""

import gc
import json
import sys
import time
from collections.abc import Callable, Sequence

import jax
from jax.sharding import Mesh

from lstm_jax import devices
from lstm_jax.benchmark import jax_lstm, torch_lstm
from lstm_jax.benchmark.options import Benchmark
from lstm_jax.benchmark.plot import write_plots
from lstm_jax.benchmark.report import BASELINE, CandidateResult, SizeResult, as_json, heading, table
from lstm_jax.benchmark.size import Size
from lstm_jax.benchmark.timing import Clock, Run, take_turns
from lstm_jax.benchmark.work import (
    MEASURES,
    TINY_SIZE,
    TOLERANCE,
    CannotRunError,
    Prepared,
    Task,
    difference,
    make_task,
)
from lstm_jax.system.files import write_whole

PEAK = ("peak", "product")

Prepare = Callable[[str, Task], Prepared]


def run(options: Benchmark) -> None:
    """Measure all sizes: tables go to standard output, notes to standard error, the rest to files."""
    devices.start(devices=options.devices)
    # Compilation is timed: no program may come from the cache.
    jax.config.update("jax_enable_compilation_cache", False)
    sizes = options.sizes()
    meshes = {s.batch: devices.make_mesh(devices=options.devices, batch_size=s.batch) for s in sizes}
    options.output.mkdir(parents=True, exist_ok=True)
    # What JAX does once in a process is nobody's first step.
    jax_lstm.prepare(BASELINE, make_task(TINY_SIZE), devices.make_mesh(devices=1, batch_size=1))
    results: list[SizeResult] = []
    print(heading(options))
    for number, size in enumerate(sizes, 1):
        note(f"{number} of {len(sizes)}: hidden {size.hidden}, batch {size.batch}, {size.time} time steps")
        prepare = _prepare_on(meshes[size.batch], options)
        results.append(measure(options, size, prepare, peak=jax_lstm.peak_run()))
        print(f"\n{table(results[-1], devices=options.devices)}", flush=True)
        # After every size, so that nothing is lost when the rest is interrupted.
        write_whole(options.output / "results.json", json.dumps(as_json(options, results), indent=1) + "\n")
        # Programs keep memory, and the next size needs it.
        gc.collect()
        jax.clear_caches()
    try:
        write_plots(results, options.output)
    except ImportError:
        note("no plot: matplotlib is not installed (pip install -r requirements-compare.txt)")
    note(f"written to {options.output}")


def measure(
    options: Benchmark, size: Size, prepare: Prepare, *, peak: Run, clock: Clock = time.perf_counter
) -> SizeResult:
    """Prepare the candidates of one size, compare their answers, time those that are right.

    Args:
        options: who is to be timed, for how long.
        size: the size.
        prepare: makes a candidate ready; raises `CannotRunError`.
        peak: takes steps of the machine's matrix product.
        clock: seconds since any moment.
    """
    task = make_task(size)
    prepared: dict[str, Prepared] = {}
    refusals: dict[str, str] = {}
    # The baseline goes first and always: the others' answers are compared with its own.
    for name in dict.fromkeys((BASELINE, *options.candidates())):
        note(f"  preparing {name}")
        try:
            prepared[name] = prepare(name, task)
        except CannotRunError as error:
            refusals[name] = f"cannot run: {error}"
            note(f"  {name} {refusals[name]}")
    reference = next(iter(prepared), "")
    differences = {
        name: difference(candidate.answer, prepared[reference].answer) for name, candidate in prepared.items()
    }
    for name, largest in differences.items():
        if largest > TOLERANCE:
            refusals[name] = (
                f"differs: its answer is off by {largest:.1e} from that of {reference}, more than {TOLERANCE}"
            )
            note(f"  {name} {refusals[name]}")
    timed = [name for name in options.candidates() if name not in refusals]
    note(f"  timing {', '.join(timed)}")
    runs = _runs([prepared[name] for name in timed]) | {PEAK: peak}
    timings = take_turns(runs, rounds=options.rounds, seconds=options.seconds, clock=clock)

    def result(name: str) -> CandidateResult:
        own = {measure: timing for (candidate, measure), timing in timings.items() if candidate == name}
        ready = prepared.get(name)
        return CandidateResult(
            name,
            why_not_timed=refusals.get(name),
            difference=differences.get(name),
            first_step_seconds=ready.first_step_seconds if ready else None,
            memory=ready.memory if ready else None,
            threads=ready.threads if ready else None,
            timings=own or None,
        )

    candidates = tuple(result(name) for name in options.candidates())
    return SizeResult(size, reference, timings[PEAK], jax_lstm.peak_flop(), candidates)


def _runs(prepared: Sequence[Prepared]) -> dict[tuple[str, str], Run]:
    """What is timed, by candidate and measure; the same measures stand side by side."""
    return {
        (candidate.name, measure): candidate.runs[measure]
        for measure in MEASURES
        for candidate in prepared
        if measure in candidate.runs
    }


def _prepare_on(mesh: Mesh, options: Benchmark) -> Prepare:
    def prepare(name: str, task: Task) -> Prepared:
        if name == "pytorch":
            return torch_lstm.prepare(task, devices=options.devices, seconds=options.seconds)
        return jax_lstm.prepare(name, task, mesh)

    return prepare


def note(text: str) -> None:
    """Tell how far we are: standard output is for results."""
    print(text, file=sys.stderr, flush=True)

"""Results: what was measured, on what, as JSON and as a table in Markdown."""

import os
import platform
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from lstm_jax.benchmark.options import Benchmark
from lstm_jax.benchmark.size import Size, forward_flop, train_flop
from lstm_jax.benchmark.timing import Timing
from lstm_jax.benchmark.work import MEASURES
from lstm_jax.system.cores import usable_cores
from lstm_jax.version import __version__

BASELINE = "flax"
PACKAGES = ("jax", "jaxlib", "flax", "optax", "numpy", "torch")
# What changes speed from outside of the program.
ENVIRONMENT = ("XLA_FLAGS", "OMP_NUM_THREADS", "MKL_NUM_THREADS", "JAX_PLATFORMS")


@dataclass(frozen=True)
class CandidateResult:
    """What is known of one candidate at one size.

    Attributes:
        name: its name.
        why_not_timed: why there are no timings; None if there are.
        difference: how far its answer is from the reference's, see `work.difference`; None if it had none.
        first_step_seconds: tracing, compiling and running a first train step.
        memory: bytes that the train step needs on each device.
        threads: the number of threads that was chosen for it.
        timings: by name of `work.MEASURES`.
    """

    name: str
    why_not_timed: str | None = None
    difference: float | None = None
    first_step_seconds: float | None = None
    memory: int | None = None
    threads: int | None = None
    timings: dict[str, Timing] | None = None

    @property
    def train_step(self) -> Timing | None:
        """The timing of the train step."""
        return self.timings["train step"] if self.timings else None


@dataclass(frozen=True)
class SizeResult:
    """What was measured at one size; the peak is that of a product which takes ``peak_flop``."""

    size: Size
    reference: str
    peak: Timing
    peak_flop: int
    candidates: tuple[CandidateResult, ...]

    def candidate(self, name: str) -> CandidateResult | None:
        """The result of one candidate, if it was asked for."""
        return next((candidate for candidate in self.candidates if candidate.name == name), None)

    @property
    def peak_gflops(self) -> float:
        """GFLOP/s of the machine's matrix product, by the median."""
        return self.peak_flop / self.peak.median / 1e9


# --------------------------------------------------------------------------------------------------
# JSON
# --------------------------------------------------------------------------------------------------


def as_json(options: Benchmark, results: Sequence[SizeResult]) -> dict[str, Any]:
    """Everything that was measured, with every single measurement, and what it was measured on."""
    return {
        "command": options.command(),
        "machine": machine(),
        "versions": versions(),
        "devices": options.devices,
        "sizes": [_size_as_json(result) for result in results],
    }


def _size_as_json(result: SizeResult) -> dict[str, Any]:
    return {
        "hidden_size": result.size.hidden,
        "batch_size": result.size.batch,
        "time_steps": result.size.time,
        "inputs": result.size.inputs,
        "flop": {"forward": forward_flop(result.size), "train_step": train_flop(result.size)},
        "reference": result.reference,
        "peak": {
            "gflops": result.peak_gflops,
            "flop_per_step": result.peak_flop,
            **_timing_as_json(result.peak),
        },
        "candidates": {candidate.name: _candidate_as_json(candidate) for candidate in result.candidates},
    }


def _candidate_as_json(candidate: CandidateResult) -> dict[str, Any]:
    return {
        "why_not_timed": candidate.why_not_timed,
        "difference_from_reference": candidate.difference,
        "first_step_seconds": candidate.first_step_seconds,
        "memory_bytes_per_device": candidate.memory,
        "threads": candidate.threads,
        "timings": {name: _timing_as_json(timing) for name, timing in (candidate.timings or {}).items()},
    }


def _timing_as_json(timing: Timing) -> dict[str, Any]:
    low, median, high = timing.quartiles
    return {
        "n": len(timing.seconds),
        "steps_per_measurement": timing.steps,
        "seconds_per_step": list(timing.seconds),
        "median": median,
        "lower_quartile": low,
        "upper_quartile": high,
    }


def machine() -> dict[str, Any]:
    """The processor, how many cores of it we may use, the operating system, and settings from outside."""
    return {
        "cpu": cpu_model(),
        "cores": len(usable_cores()),
        "system": platform.platform(),
        "environment": {name: os.environ[name] for name in ENVIRONMENT if name in os.environ},
    }


def cpu_model() -> str:
    """The processor's name."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):  # not Linux, or not a processor that says its name there
        return platform.processor() or platform.machine()


def versions() -> dict[str, str]:
    """The versions of Python, of this package and of those that are measured, if installed."""
    found = {"python": platform.python_version(), "lstm_jax": __version__}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


# --------------------------------------------------------------------------------------------------
# The table
# --------------------------------------------------------------------------------------------------

HEADER = (
    "implementation",
    *(f"{measure}, ms" for measure in MEASURES),
    f"vs {BASELINE}",
    "GFLOP/s",
    "of peak",
    "first step, s",
    "memory, MB",
)
NOTHING = "—"


def heading(options: Benchmark) -> str:
    """What holds for all tables."""
    found = ", ".join(f"{name} {number}" for name, number in versions().items())
    return (
        f"`{options.command()}`\n\n{cpu_model()}, {len(usable_cores())} cores; {found}. "
        f"Medians of {options.rounds} rounds, in which all take turns; in brackets the interquartile range. "
        "Speed-up, GFLOP/s and share of the peak are those of the train step."
    )


def table(result: SizeResult, *, devices: int) -> str:
    """One size as a table in Markdown, a row for each candidate."""
    size = result.size
    title = (
        f"**hidden size {size.hidden}, batch {size.batch}, {size.time} time steps of {size.inputs} inputs**"
        f"{f', {devices} devices' if devices > 1 else ''}; peak of the matrix product "
        f"{result.peak_gflops:.0f} GFLOP/s"
    )
    rows = [HEADER, ("---", *["---:"] * (len(HEADER) - 1))]
    rows += [_row(candidate, result) for candidate in result.candidates]
    lines = [f"| {' | '.join(row)} |" for row in rows]
    lines += [
        f"\n{candidate.name}: {candidate.why_not_timed}"
        for candidate in result.candidates
        if candidate.why_not_timed is not None
    ]
    return "\n".join([title, "", *lines])


def _row(candidate: CandidateResult, result: SizeResult) -> tuple[str, ...]:
    step, timings = candidate.train_step, candidate.timings or {}
    if step is None:
        told = "cannot run" if candidate.difference is None else "differs"
        return (candidate.name, told, *[NOTHING] * (len(HEADER) - 2))
    baseline = result.candidate(BASELINE)
    reference = baseline.train_step if baseline else None
    gflops = train_flop(result.size) / step.median / 1e9
    threads = candidate.threads
    return (
        candidate.name if threads is None else f"{candidate.name} ({threads} thread{'s' * (threads > 1)})",
        *(_milliseconds(timings.get(measure)) for measure in MEASURES),
        f"{reference.median / step.median:.2f}x" if reference else NOTHING,
        f"{gflops:.1f}",
        f"{gflops / result.peak_gflops:.0%}",
        NOTHING if candidate.first_step_seconds is None else f"{candidate.first_step_seconds:.2f}",
        NOTHING if candidate.memory is None else f"{candidate.memory / 1e6:.1f}",
    )


def _milliseconds(timing: Timing | None) -> str:
    """Median and interquartile range with three digits of the median."""
    if timing is None:
        return NOTHING
    low, median, high = (1e3 * seconds for seconds in timing.quartiles)
    decimals = 3 if median < 1 else 2 if median < 10 else 1 if median < 100 else 0
    return f"{median:.{decimals}f} ({high - low:.{decimals}f})"

"""The results of a comparison before anything is measured: what is asked for, of whom, on what machine."""

import datetime
import hashlib
from collections.abc import Mapping
from importlib.metadata import packages_distributions, version
from pathlib import Path

import lstm_jax
from lstm_jax.benchmark import report as benchmark_report
from lstm_jax.benchmark.size import Size, forward_flop, train_flop
from lstm_jax.compare import parity
from lstm_jax.compare.frameworks import Framework
from lstm_jax.compare.options import INPUTS, Compare
from lstm_jax.compare.results import FrameworkResult, Results
from lstm_jax.compare.work import Examples


def beginning(options: Compare, frameworks: Mapping[str, Framework], test: Examples) -> Results:
    """What is known at the start.

    Args:
        options: what is asked for.
        frameworks: those to compare, by name; what is missing of them is said in ``why_not``.
        test: digits to know.
    """
    size = options.size()
    distributions = packages_distributions()
    return Results(
        command=options.command(),
        date=datetime.datetime.now().astimezone().isoformat(timespec="seconds"),
        machine=benchmark_report.machine(),
        versions=benchmark_report.versions(),
        **size._asdict(),
        threads=len(options.cores()),
        train_flop=train_flop(size),
        forward_flop=forward_flop(size),
        judge_losses=(),
        steps_per_call=0,
        test_images=len(test.labels),
        tolerances=parity.TOLERANCES,
        frameworks={
            name: FrameworkResult(
                framework.title,
                {dist: version(dist) for name in framework.packages for dist in distributions.get(name, ())},
                why_not=_why_not(framework, size, shorten=options.quick and options.frameworks is None),
            )
            for name, framework in frameworks.items()
        },
        source=source_digest(),
        notes=_notes(options, frameworks),
    )


def source_digest(folder: Path | None = None) -> str:
    """SHA-256 of all code, Python and C++, in a folder, by default that of this package.

    What was measured with other code is another thing.
    """
    folder = folder or Path(lstm_jax.__file__).parent
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        if path.suffix in (".py", ".cc", ".h"):
            digest.update(f"{path.relative_to(folder).as_posix()}\0".encode())
            digest.update(path.read_bytes() + b"\0")
    return digest.hexdigest()


def _why_not(framework: Framework, size: Size, *, shorten: bool) -> str | None:
    """Why a framework is not even started; None if it is.

    ``shorten`` leaves out what a quick comparison can do without: it does not where frameworks are named.
    """
    if missing := framework.missing():
        return f"not installed: pip install {' '.join(missing)}"
    if shorten and (why_not := framework.why_not_quick()) is not None:
        return f"left out of a quick comparison: {why_not}"
    if framework.longest is not None and size.time > framework.longest:
        return f"left out above {framework.longest} time steps: it compiles for too long"
    return None


def _notes(options: Compare, frameworks: Mapping[str, Framework]) -> tuple[str, ...]:
    notes = []
    if options.quick:
        notes.append(
            "A quick look: few rounds, no curves over sizes, no accuracy. Where there were two cores, two "
            "frameworks at a time got ready, and made each other's start-up and first step longer."
        )
    slow = [name for name, framework in frameworks.items() if framework.slow_to_compile]
    if slow and options.scaling and not options.quick:
        notes.append(f"Left out of the curves over sizes, for they compile for long: {', '.join(slow)}.")
    if options.epochs and options.time_steps != INPUTS and not options.quick:
        notes.append(f"No accuracy: only at {INPUTS} time steps a sequence is a digit.")
    found = [framework.note for framework in frameworks.values() if framework.note]
    return (*notes, *dict.fromkeys(found))

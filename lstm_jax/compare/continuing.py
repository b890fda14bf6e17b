"""Going on with a comparison that was stopped: what of it is there, and whether it may be gone on with.

Its parts are whole by themselves: parity and speed, each size of the curves, each run that learns. In each
of them all frameworks take turns, or have one turn each; so parts that were measured at different times
belong together as long as machine, packages, options and this package's own code are the same.
"""

import dataclasses
import datetime
import shlex
from collections.abc import Mapping
from pathlib import Path

from lstm_jax.compare.results import Results, read_results
from lstm_jax.compare.worker import TRAIN
from lstm_jax.errors import ConfigError

STOPPED = "Stopped before its end: what came later is not measured."


def earlier_part(file: Path, asked: Results) -> Results:
    """What an earlier comparison in this folder found, for one that asks for the same to go on with.

    Args:
        file: its results.json.
        asked: the results of the new one, before anything is measured.

    Raises:
        ResultsError: if the file cannot be read.
        ConfigError: if it asks for something else, or was measured elsewhere.
    """
    found = read_results(file)
    for what, of in {
        "options": lambda results: _options(results.command),
        "machine": lambda results: results.machine,
        "versions": _versions,
        "code of lstm_jax": lambda results: {"SHA-256": results.source[:12]},
    }.items():
        before, now = of(found), of(asked)
        if before != now:
            raise ConfigError(
                f"--output: {file} is of a comparison with other {what} (it has {_difference(before, now)}); "
                "name another folder, or give --overwrite"
            )
    return found


def going_on(earlier: Results) -> Results:
    """The earlier results as the beginning of the whole, with a note that says so."""
    now = datetime.datetime.now().astimezone().isoformat(timespec="minutes").replace("T", " ")
    notes = (*(note for note in earlier.notes if note != STOPPED), f"Stopped, and continued on {now[:16]}.")
    return dataclasses.replace(earlier, notes=notes)


def is_timed(results: Results) -> bool:
    """Whether parity and speed are known."""
    return results.steps_per_call > 0


def has_point(results: Results, axis: str, value: int) -> bool:
    """Whether a size of a curve is known."""
    return any(
        getattr(point, axis) == value
        for curve in results.scaling
        if curve.axis == axis
        for point in curve.points
    )


def has_learnt(results: Results, name: str, seed: int) -> bool:
    """Whether a run that learns is known."""
    return any(run.seed == seed for run in results.frameworks[name].learning)


def threads_for_training(results: Results) -> dict[str, int]:
    """The numbers of threads that were chosen by trial."""
    return {
        name: int(framework.speed.settings[TRAIN].split()[0])
        for name, framework in results.frameworks.items()
        if framework.speed is not None and TRAIN in framework.speed.settings
    }


def _versions(results: Results) -> dict[str, str]:
    """The version of every package behind the results."""
    versions = dict(results.versions)
    for framework in results.frameworks.values():
        versions.update(framework.versions)
    return versions


def _options(command: str) -> dict[str, str]:
    """The options of a command line, each with its value; a flag has an empty one."""
    options, name = dict[str, str](), ""
    for word in shlex.split(command):
        if word.startswith("--"):
            name = word
            options[name] = ""
        elif name:
            options[name] = word
    return options


def _difference(before: Mapping[str, object], now: Mapping[str, object]) -> str:
    """What differs, in a few words."""
    keys = [key for key in {**before, **now} if before.get(key) != now.get(key)]
    return "; ".join(f"{key} {_shown(before, key)}, now {_shown(now, key)}" for key in keys[:3])


def _shown(values: Mapping[str, object], key: str) -> str:
    return f"{values[key]!s:.60}" if key in values else "absent"

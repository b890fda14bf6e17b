"""Going on with a comparison that was stopped: what of it is there, and whether it may be gone on with.

Its parts are whole by themselves: parity and speed, each size of the curves, each run that learns. In each
of them all frameworks take turns, or have one turn each; so parts that were measured at different times
belong together as long as machine, packages and options are the same.
"""

import dataclasses
import datetime
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
    for what, before, now in (
        ("options", found.command, asked.command),
        ("machine", found.machine, asked.machine),
        (
            "versions",
            {"lstm_jax": found.versions, **_versions(found)},
            {"lstm_jax": asked.versions, **_versions(asked)},
        ),
    ):
        if before != now:
            raise ConfigError(
                f"--output: {file} is of a comparison with other {what} (got {_difference(before, now)}); "
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


def _versions(results: Results) -> dict[str, Mapping[str, str]]:
    return {name: framework.versions for name, framework in results.frameworks.items()}


def _difference(before: object, now: object) -> str:
    """What differs, in a few words."""
    if isinstance(before, Mapping) and isinstance(now, Mapping):
        keys = [key for key in {**before, **now} if before.get(key) != now.get(key)]
        return "; ".join(f"{key}: {before.get(key)!r:.60} and now {now.get(key)!r:.60}" for key in keys[:3])
    return f"{before!r:.200}, and now {now!r:.200}"

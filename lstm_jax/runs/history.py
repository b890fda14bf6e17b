"""Decisions from the records of past epochs: the best epoch, early stopping, the end of the run.

A record is the line of an epoch in ``metrics.jsonl``. The decisions depend on the records alone, so a run
that was stopped and continued decides like one that was never stopped.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lstm_jax.config import Config
from lstm_jax.errors import CheckpointError, one_line, printable
from lstm_jax.runs.run_directory import Record, read_config, read_metrics


@dataclasses.dataclass(frozen=True)
class Notes:
    """The figures that are saved beside the state. Training does not depend on them.

    Attributes:
        history: the records of the epochs so far.
        epoch_seconds: time spent in training steps since the start of the epoch.
        train_seconds: time spent in training steps since the start of the run.
        wall_seconds: time spent in `train` since the start of the run.
        devices: number of devices.
        processes: number of processes.
        threads: number of threads of the C++ kernel in each process; 0 if it is not known, or not used.
        implementation: name of the implementation that computes the LSTM.
    """

    history: tuple[Record, ...] = ()
    epoch_seconds: float = 0.0
    train_seconds: float = 0.0
    wall_seconds: float = 0.0
    devices: int = 1
    processes: int = 1
    threads: int = 0
    implementation: str = "scan"  # the default of old versions, which did not save it

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> "Notes":
        """Make the notes from the JSON object that was saved.

        Raises:
            CheckpointError: if the object has other fields.
        """
        try:
            return cls(**{**values, "history": tuple(values["history"])})
        except (KeyError, TypeError) as error:
            raise CheckpointError(
                f"a saved state has notes that are not those of a run ({printable(one_line(error))}); was it "
                "written by a newer version of lstm_jax?"
            ) from error


def of_each_seed(config: Config, history: Sequence[Record]) -> list[list[Record]]:
    """Return the records of each seed, which have its own figures in place of the means."""
    if config.seeds == 1:
        return [list(history)]
    return [[{**record, **record["per_seed"][index]} for record in history] for index in range(config.seeds)]


def records_of(run_dir: Path) -> list[list[Record]]:
    """Read the records of each seed of the run in a folder.

    Raises:
        RunDirectoryError: if the folder is not a run directory, or its metrics are damaged.
    """
    return of_each_seed(read_config(run_dir), read_metrics(run_dir))


def best_of(history: Sequence[Record]) -> Record | None:
    """Return the record of one seed's epoch of highest validation accuracy, the first of equals.

    It is None if no epoch has ended, or there is no validation split.
    """
    validated = [record for record in history if record["validation_accuracy"] is not None]
    return max(validated, key=lambda record: record["validation_accuracy"], default=None)


def steps_to_keep(config: Config, history: Sequence[Record]) -> frozenset[int]:
    """Return the steps of the states to keep beside the newest: that after the best epoch of each seed.

    The best epoch as it was one epoch ago is included. The run needs its state if the newest one is damaged,
    or if the last epoch ended early and is continued.
    """
    return frozenset(
        best["step"]
        for known in (history, history[:-1])
        for own in of_each_seed(config, known)
        if (best := best_of(own)) is not None
    )


def epochs_without_better(config: Config, history: Sequence[Record]) -> int:
    """Count the epochs since the best on validation; of many seeds, since the latest of their best epochs.

    The count is 0 without a validation split.
    """
    steps = [best["step"] for own in of_each_seed(config, history) if (best := best_of(own)) is not None]
    return sum(record["step"] > max(steps) for record in history) if steps else 0


def has_lost_patience(config: Config, history: Sequence[Record]) -> bool:
    """Return whether at least ``patience`` epochs have ended since the best one."""
    return config.patience is not None and epochs_without_better(config, history) >= config.patience


def has_full_length(config: Config, history: Sequence[Record]) -> bool:
    """Return whether the records reach the last step that the options ask for."""
    if not history:
        return False
    return bool(
        history[-1]["step"] == config.steps
        if config.steps is not None
        else history[-1]["epoch"] >= config.epochs
    )


def has_ended(config: Config, history: Sequence[Record], step: int) -> bool:
    """Return whether a run has ended at a step, with the record of its end.

    It has not if the step is within an epoch, or if a change of ``steps`` has made it the end of one: then
    the evaluation is still to come.
    """
    if not history or history[-1]["step"] != step:
        return False
    return has_full_length(config, history) or has_lost_patience(config, history)


def loss_sums(config: Config, history: Sequence[Record], steps: int) -> list[float]:
    """Compute the sum of the training losses over the last epoch, for each seed, from the recorded mean.

    A float32 sum comes back exactly, because its mean in float64 keeps all of its bits.

    Args:
        config: the options.
        history: the records of at least one epoch.
        steps: number of steps of the epoch.
    """
    return [own[-1]["train_loss"] * steps for own in of_each_seed(config, history)]

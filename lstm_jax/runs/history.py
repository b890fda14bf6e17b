"""What the records of past epochs decide: which epochs were the best, when to stop early, how to go on.

A record is what ``metrics.jsonl`` has of an epoch. All of it follows from the records alone, so that a run
that was stopped and continued decides as one that was not.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from lstm_jax.config import Config
from lstm_jax.errors import CheckpointError, one_line, printable
from lstm_jax.runs.run_directory import Record


@dataclasses.dataclass(frozen=True)
class Notes:
    """What is saved beside the state: figures that nothing is computed from.

    Attributes:
        history: the records of the epochs so far.
        epoch_seconds: time spent in training steps since the start of the epoch.
        train_seconds: time spent in training steps since the start of the run.
        wall_seconds: time spent in `train` since the start of the run.
        devices: number of devices.
        implementation: the one that computes the LSTM.
    """

    history: tuple[Record, ...] = ()
    epoch_seconds: float = 0.0
    train_seconds: float = 0.0
    wall_seconds: float = 0.0
    devices: int = 1
    implementation: str = "scan"  # of runs that do not say: there was no other default

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> "Notes":
        """The notes that were saved as a JSON object.

        Raises:
            CheckpointError: if they are none of a run.
        """
        try:
            return cls(**{**values, "history": tuple(values["history"])})
        except (KeyError, TypeError) as error:
            raise CheckpointError(
                f"a saved state has notes that are none of a run ({printable(one_line(error))}); was it "
                "written by a newer version of lstm_jax?"
            ) from error


def of_each_seed(config: Config, history: Sequence[Record]) -> list[list[Record]]:
    """The records as each seed of the run has them: its own figures in the place of the means."""
    if config.seeds == 1:
        return [list(history)]
    return [[{**record, **record["per_seed"][index]} for record in history] for index in range(config.seeds)]


def best_of(history: Sequence[Record]) -> Record | None:
    """The record of the best epoch on validation of one seed, the first of equals.

    None if no epoch has ended, or nothing is left to validate on.
    """
    validated = [record for record in history if record["validation_accuracy"] is not None]
    return max(validated, key=lambda record: record["validation_accuracy"], default=None)


def steps_to_keep(config: Config, history: Sequence[Record]) -> frozenset[int]:
    """The steps whose states are to be kept beside the newest: of every seed, that after its best epoch.

    Also what was the best one epoch ago: there the run goes on if its newest state is damaged, or if its last
    epoch was cut short and becomes longer.
    """
    return frozenset(
        best["step"]
        for known in (history, history[:-1])
        for own in of_each_seed(config, known)
        if (best := best_of(own)) is not None
    )


def epochs_without_better(config: Config, history: Sequence[Record]) -> int:
    """How many epochs have ended since the best on validation; of many seeds, since the last one's best.

    0 without a validation split.
    """
    steps = [best["step"] for own in of_each_seed(config, history) if (best := best_of(own)) is not None]
    return sum(record["step"] > max(steps) for record in history) if steps else 0


def has_lost_patience(config: Config, history: Sequence[Record]) -> bool:
    """Whether as many epochs as ``patience`` says have ended without a better one."""
    return config.patience is not None and epochs_without_better(config, history) >= config.patience


def has_full_length(config: Config, history: Sequence[Record]) -> bool:
    """Whether the last record is that of the last step that the options ask for."""
    if not history:
        return False
    return bool(
        history[-1]["step"] == config.steps
        if config.steps is not None
        else history[-1]["epoch"] >= config.epochs
    )


def has_ended(config: Config, history: Sequence[Record], step: int) -> bool:
    """Whether a run that has come to a step is at its end, and the record of its end is there.

    It is not within an epoch, nor where an epoch has come to end for a change of ``steps``: that is still to
    be evaluated.
    """
    if not history or history[-1]["step"] != step:
        return False
    return has_full_length(config, history) or has_lost_patience(config, history)


def loss_sums(config: Config, history: Sequence[Record], steps: int) -> list[float]:
    """The sum of the training losses of each seed over the last epoch, of which the records have the mean.

    Of float32 sums, exactly these: a mean in float64 keeps all of their bits.

    Args:
        config: the options.
        history: the records; of an epoch at least.
        steps: how many the epoch had.
    """
    return [own[-1]["train_loss"] * steps for own in of_each_seed(config, history)]

"""The figures of a run: its records, its summary, and its lines on the terminal."""

import json
import platform
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean, stdev

import flax
import jax
import jaxlib
import optax
from jax.sharding import Mesh

from lstm_jax import __version__
from lstm_jax.config import Config
from lstm_jax.data.dataset import Dataset
from lstm_jax.model import Params
from lstm_jax.runs.checkpoint import digest
from lstm_jax.runs.console import Console
from lstm_jax.runs.history import Notes, best_of, has_full_length, of_each_seed
from lstm_jax.runs.run_directory import Record
from lstm_jax.runs.seeds import in_words
from lstm_jax.runs.spread import spread_of
from lstm_jax.training import TrainState


def over_seeds(config: Config, figures: Sequence[Record]) -> Record:
    """Combine the figures of each seed: one seed's as they are; of many, means, a spread, and each seed's."""
    if config.seeds == 1:
        return figures[0]
    return {
        **{key: _mean([each[key] for each in figures]) for key in figures[0]},
        "test_accuracy_standard_deviation": stdev(each["test_accuracy"] for each in figures),
        "per_seed": _with_seeds(config, figures),
    }


def summarise(config: Config, state: TrainState, notes: Notes, mesh: Mesh) -> Record:
    """Make the contents of ``summary.json`` for a run that has ended.

    Without a validation split there is no best epoch, and its figures are None. With many seeds, the
    accuracies are means; the spread and the accuracies of each seed are added. Each seed has its own best
    epoch, so that of the run is None.
    """
    return {
        **_outcome(config, notes.history),
        "parameter_count": count_parameters(config, state.params),
        "parameters_sha256": digest(state.evaluated_params),
        "train_seconds": notes.train_seconds,
        "epochs": notes.history[-1]["epoch"],
        "steps": state.steps_taken,
        "stopped_early": not has_full_length(config, notes.history),
        "implementation": notes.implementation,
        "wall_seconds": notes.wall_seconds,
        "device": describe_devices(mesh),
        "versions": {
            "lstm_jax": __version__,
            "python": platform.python_version(),
            **{package.__name__: package.__version__ for package in (jax, jaxlib, flax, optax)},
        },
    }


# Fields about the process that wrote a summary, which cannot be computed from the last state.
_OF_THE_PROCESS = ("wall_seconds", "device", "versions")
# Fields that the summary of one seed does not have.
_OF_MANY_SEEDS = ("statistics", "per_seed")


def mend(found: Record, right: Record) -> tuple[Record, list[str]]:
    """Correct a summary to match the last state, and list the fields that were missing or wrong.

    Fields that a user has added stay.

    Args:
        found: the contents of summary.json.
        right: the summary that would be written now.
    """
    facts = {key: value for key, value in right.items() if key not in _OF_THE_PROCESS}
    wrong = [key for key, value in facts.items() if json.dumps(found.get(key)) != json.dumps(value)]
    wrong += [key for key in _OF_MANY_SEEDS if key in found and key not in facts]
    if isinstance(found.get("wall_seconds"), bool) or not isinstance(found.get("wall_seconds"), int | float):
        wrong.append("wall_seconds")
    kept = {key: value for key, value in found.items() if key not in wrong}
    return {**right, **kept, **facts}, wrong


def _outcome(config: Config, history: Sequence[Record]) -> Record:
    """Return the final and best accuracies of a run."""
    each = [_outcome_of_one(own) for own in of_each_seed(config, history)]
    if config.seeds == 1:
        return each[0]
    means = {key: _mean([one[key] for one in each]) for key in each[0] if key != "best_validation_epoch"}
    return {
        **means,
        "best_validation_epoch": None,
        "statistics": {
            key: spread_of([one[key] for one in each]).as_json()
            for key, mean in means.items()
            if mean is not None
        },
        "per_seed": _with_seeds(config, each),
    }


def _outcome_of_one(history: Sequence[Record]) -> Record:
    last = history[-1]
    best = best_of(history) or {}
    return {
        "test_accuracy": last["test_accuracy"],
        "best_validation_test_accuracy": best.get("test_accuracy"),
        "best_validation_epoch": best.get("epoch"),
        "validation_accuracy": last["validation_accuracy"],
        "best_validation_accuracy": best.get("validation_accuracy"),
    }


def _mean(values: Sequence[float | None]) -> float | None:
    """Compute the mean of values; None if all of them are None."""
    known = [value for value in values if value is not None]
    return fmean(known) if known else None


def _with_seeds(config: Config, records: Sequence[Record]) -> list[Record]:
    return [{"seed": seed, **record} for seed, record in zip(config.all_seeds, records, strict=True)]


def count_parameters(config: Config, params: Params) -> int:
    """Count the trained values of a model; of many seeds, those of each."""
    return sum(leaf.size for leaf in jax.tree.leaves(params)) // config.seeds


def describe_devices(mesh: Mesh) -> str:
    """Return the number and kind of the devices, such as ``2 x cpu`` or ``4 x TPU v5 lite``."""
    return f"{mesh.size} x {mesh.devices.flat[0].device_kind}"


def tell_start(
    console: Console, config: Config, dataset: Dataset, state: TrainState, mesh: Mesh, implementation: str
) -> None:
    """Print the data, the model and the devices at the start of a run."""
    parts = {"training": dataset.train, "validation": dataset.validation, "test": dataset.test}
    sizes = ", ".join(f"{len(split):,} {part}" for part, split in parts.items() if len(split))
    console.message(f"{dataset.name}: {sizes} images")
    console.message(
        f"LSTM: {count_parameters(config, state.params):,} parameters, implementation {implementation}, "
        f"{config.model.dtype}, on {describe_devices(mesh)}"
    )
    if config.seeds > 1:
        console.message(f"{in_words(config)} at once; figures are means, +- is the standard deviation")
    if state.steps_taken:
        console.message(f"Continuing after step {state.steps_taken}")
    scored = "validation and test" if len(dataset.validation) else "test"
    console.message(f"Each epoch: mean training loss, accuracy on {scored} images, speed")


def tell_end(console: Console, summary: Record, path: Path) -> None:
    """Print the run directory and the result at the end of a run."""
    console.message(f"Run directory: {path}")
    for line in result_in_words(summary):
        console.message(line)


def result_in_words(summary: Record) -> list[str]:
    """Return the result of a run in lines of text.

    Raises:
        KeyError, TypeError, ValueError: if ``summary`` is not the summary of a run.
    """
    lines = [
        f"Execution time {summary['wall_seconds']:.1f} s, {summary['train_seconds']:.1f} s of it training"
    ]
    if summary.get("stopped_early"):  # old summaries do not have it
        told = "validation accuracy has not improved for --patience epochs"
        lines.append(f"Stopped after epoch {summary['epochs']}: {told}")
    return lines + (_result_of_many(summary) if "per_seed" in summary else [_result_of_one(summary)])


def _result_of_one(summary: Record) -> str:
    told = f"Test accuracy {summary['test_accuracy']:.2%} after epoch {summary['epochs']}"
    if summary["best_validation_epoch"] is not None:
        told += (
            f"; {summary['best_validation_test_accuracy']:.2%} after epoch "
            f"{summary['best_validation_epoch']}, the best on validation"
        )
    return told


def _result_of_many(summary: Record) -> list[str]:
    lines = []
    for each in summary["per_seed"]:
        best = ""
        if each["best_validation_epoch"] is not None:
            best = (
                f"; {each['best_validation_test_accuracy']:.2%} after epoch "
                f"{each['best_validation_epoch']}, its best on validation"
            )
        lines.append(f"seed {each['seed']}: test accuracy {each['test_accuracy']:.2%}{best}")
    lines.append(f"{_spread_in_words(summary, 'test_accuracy')}, after epoch {summary['epochs']}")
    if summary["best_validation_test_accuracy"] is not None:
        of_best = _spread_in_words(summary, "best_validation_test_accuracy")
        lines.append(f"{of_best}, each after its best epoch on validation")
    return lines


def _spread_in_words(summary: Record, key: str) -> str:
    found, seeds = summary["statistics"][key], len(summary["per_seed"])
    low, high = found["interval"]
    return (
        f"Test accuracy {found['mean']:.2%} +- {100 * found['standard_deviation']:.2f} (mean and standard "
        f"deviation of {seeds} seeds), {found['confidence']:.0%} interval of the mean {low:.2%} to {high:.2%}"
    )

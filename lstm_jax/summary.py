"""What is said of a run: the notes beside its state, its summary, the lines on the screen."""

import dataclasses
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import flax
import jax
import jaxlib
import optax
from jax.sharding import Mesh

from lstm_jax.checkpoint import digest
from lstm_jax.config import Config
from lstm_jax.console import Console
from lstm_jax.data import Dataset
from lstm_jax.model import Params
from lstm_jax.run_directory import Record
from lstm_jax.training import TrainState
from lstm_jax.version import __version__


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
        """The notes that were saved as a JSON object."""
        return cls(**{**values, "history": tuple(values["history"])})


def summarise(state: TrainState, notes: Notes, mesh: Mesh) -> Record:
    """What ``summary.json`` says of a run that has come to its end.

    Without a validation split nothing can choose a best epoch, and what is said of it is None.
    """
    last = notes.history[-1]
    validated = [record for record in notes.history if record["validation_accuracy"] is not None]
    # The first of equals.
    best = max(validated, key=lambda record: record["validation_accuracy"], default=dict[str, Any]())
    return {
        "test_accuracy": last["test_accuracy"],
        "best_validation_test_accuracy": best.get("test_accuracy"),
        "best_validation_epoch": best.get("epoch"),
        "validation_accuracy": last["validation_accuracy"],
        "best_validation_accuracy": best.get("validation_accuracy"),
        "parameter_count": count_parameters(state.params),
        "parameters_sha256": digest(state.evaluated_params),
        "wall_seconds": notes.wall_seconds,
        "train_seconds": notes.train_seconds,
        "epochs": last["epoch"],
        "steps": int(state.step),
        "device": describe_devices(mesh),
        "implementation": notes.implementation,
        "versions": {
            "lstm_jax": __version__,
            "python": platform.python_version(),
            **{package.__name__: package.__version__ for package in (jax, jaxlib, flax, optax)},
        },
    }


def count_parameters(params: Params) -> int:
    """Number of trained values."""
    return sum(leaf.size for leaf in jax.tree.leaves(params))


def describe_devices(mesh: Mesh) -> str:
    """For instance ``2 x cpu`` or ``4 x TPU v5 lite``."""
    return f"{mesh.size} x {mesh.devices.flat[0].device_kind}"


def tell_start(
    console: Console, config: Config, dataset: Dataset, state: TrainState, mesh: Mesh, implementation: str
) -> None:
    """Say what is going to be trained on what."""
    parts = {"training": dataset.train, "validation": dataset.validation, "test": dataset.test}
    sizes = ", ".join(f"{len(split):,} {part}" for part, split in parts.items() if len(split))
    console.message(f"{dataset.name}: {sizes} images")
    console.message(
        f"LSTM: {count_parameters(state.params):,} parameters, implementation {implementation}, "
        f"{config.dtype}, on {describe_devices(mesh)}"
    )
    if int(state.step):
        console.message(f"Continuing after step {int(state.step)}")
    scored = "validation and test" if len(dataset.validation) else "test"
    console.message(f"Each epoch: cost (mean training loss), accuracy on {scored} images, speed")


def tell_end(console: Console, summary: Record, path: Path) -> None:
    """Say what came out of it, and where it is."""
    told = f"Test accuracy {summary['test_accuracy']:.2%} after epoch {summary['epochs']}"
    if summary["best_validation_epoch"] is not None:
        told += (
            f"; {summary['best_validation_test_accuracy']:.2%} after epoch "
            f"{summary['best_validation_epoch']}, the best on validation"
        )
    console.message(told)
    console.message(
        f"Execution time {summary['wall_seconds']:.1f} s, {summary['train_seconds']:.1f} s of it training"
    )
    console.message(f"Run directory: {path}")

"""A trained model, read from its run directory, for evaluation, prediction and use from Python."""

import dataclasses
import functools
from pathlib import Path

import jax
import numpy as np
from jaxtyping import Float32, UInt8

from lstm_jax import devices
from lstm_jax.config import Config
from lstm_jax.data.dataset import Split
from lstm_jax.errors import CheckpointError, ConfigError, Report, silent
from lstm_jax.evaluation import BATCH_SIZE, Predictions, compile_predict, predict
from lstm_jax.model import LSTMClassifier, Params
from lstm_jax.predictor import Predictor
from lstm_jax.runs import processes
from lstm_jax.runs.checkpoint import Checkpoints, Restored
from lstm_jax.runs.history import Notes, best_of, of_each_seed
from lstm_jax.runs.run_directory import CHECKPOINTS, read_config
from lstm_jax.runs.seeds import in_words, member, seed_of
from lstm_jax.training import Method, TrainState, build_model, state_like


@dataclasses.dataclass(frozen=True)
class Trained:
    """A model and its parameters.

    Attributes:
        config: the options of its training.
        model: the classifier.
        params: its parameters; their moving average, if it was trained with one.
        step: number of training steps taken.
        seed: the seed of its run. Imported weights were trained with another seed, which is unknown.
    """

    config: Config
    model: LSTMClassifier
    params: Params
    step: int
    seed: int

    def probabilities(self, images: UInt8[np.ndarray, "batch 28 28"]) -> Float32[np.ndarray, "batch classes"]:
        """Compute the probability of each class for images of grey levels, white (255) on black."""
        return self.predictor(images)

    @functools.cached_property
    def predictor(self) -> Predictor:
        """The model compiled with its weights inside, for one image at a time, or some; made once."""
        return Predictor(self.model, self.params)

    def predictions(self, split: Split) -> Predictions:
        """Predict every example of a split, on all devices."""
        mesh = devices.make_mesh(devices=None, batch_size=BATCH_SIZE)
        # They were read to one device; here there may be several.
        params = jax.device_put(self.params, devices.replicated(mesh))
        return predict(compile_predict(self.model, mesh), params, split, mesh=mesh)


def load_trained(
    run_dir: str | Path,
    *,
    seed: int | None = None,
    best: bool = False,
    report: Report = silent,
) -> Trained:
    """Read the model of a run from its newest undamaged state, without any change to the folder.

    Args:
        run_dir: a folder that `train` wrote, of a finished or an unfinished run.
        seed: the seed of the model, in a run of many; by default the first.
        best: read the state after the seed's best epoch on validation instead.
        report: called with a line about every state that is damaged or of another run, about the seed if
            there are many, and about the best epoch.

    Raises:
        RunDirectoryError: if the folder is not a run directory.
        ConfigError: if the run has no such seed, or, for ``best``, no validation images.
        CheckpointError: if no state has been saved, all are damaged, or the state after the best epoch is
            not kept.
    """
    config = read_config(Path(run_dir))
    seed = config.seed if seed is None else seed
    if seed not in config.all_seeds:
        there = "one" if config.seeds > 1 else "the only one"
        holds = f"{run_dir}, which holds {in_words(config)}"
        raise ConfigError(f"--seed: got {seed}, expected {there} of {holds}")
    restored = load_state(run_dir, report=report)
    if config.seeds > 1:
        report(f"{run_dir} holds {in_words(config)}; this is seed {seed} (--seed names another)")
    if best:
        restored = _best(run_dir, config, config.all_seeds.index(seed), restored, report)
    params = member(config, restored.state.evaluated_params, config.all_seeds.index(seed))
    # The implementation is chosen for this machine, which may not be the one that trained the model.
    model = build_model(dataclasses.replace(config.model, implementation="auto"))
    return Trained(config, model, params, restored.step, seed)


def _best(
    run_dir: str | Path,
    config: Config,
    index: int,
    newest: Restored[TrainState],
    report: Report,
) -> Restored[TrainState]:
    """Read the state after the best epoch of seed number ``index``, from 0."""
    if config.data.train_on_all:
        raise ConfigError(f"--best: got a run with --train-on-all in {run_dir}, expected one with validation")
    record = best_of(of_each_seed(config, Notes.from_json(newest.notes).history)[index])
    if record is None:
        raise CheckpointError(f"{run_dir}: no epoch has ended yet; train for one first")
    report(f"{run_dir}: epoch {record['epoch']}, the best on validation so far")
    return (
        newest if record["step"] == newest.step else load_state(run_dir, step=record["step"], report=report)
    )


def load_state(
    run_dir: str | Path, *, step: int | None = None, report: Report = silent
) -> Restored[TrainState]:
    """Read all of the newest undamaged state of a run: parameters, optimizer, counters, notes.

    Many seeds have one state, whose arrays have a leading axis of seeds.

    Args:
        run_dir: a folder that `train` wrote.
        step: read the state of this step instead of the newest.
        report: called with a line about every state that is damaged or of another run.

    Raises:
        RunDirectoryError: if the folder is not a run directory.
        CheckpointError: if no state has been saved, all are damaged, or the state of ``step`` is missing.
    """
    run_dir = Path(run_dir)
    # Only the names and shapes of the state are needed here. So `scan` will do, which needs no native kernel,
    # and the number of steps does not matter.
    config = read_config(run_dir)
    model = dataclasses.replace(config.model, implementation="scan")
    method = Method.of(model, config.optimizer, config.augmentation, total_steps=1)
    on_one_device = devices.replicated(devices.make_mesh(devices=1, batch_size=processes.process_count()))
    like = state_like(method, seed_of(config), on_one_device)
    with Checkpoints(
        run_dir / CHECKPOINTS, report=report, read_only=True, options=config.identity()
    ) as checkpoints:
        restored = checkpoints.restore(like, step=step)
    if restored is None and step is not None:
        raise CheckpointError(
            f"{run_dir}: got no undamaged state of step {step}, expected the one after the best epoch; it "
            "was damaged, or not kept by an older version: use the newest, without --best"
        )
    if restored is None:
        raise CheckpointError(f"{run_dir}: no state has been saved yet; train for an epoch first")
    return restored

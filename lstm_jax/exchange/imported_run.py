"""A run directory that begins with imported weights, at step 0.

`python -m lstm_jax evaluate`, `predict` and `export` read it like any other, and ``train.py`` with the same
options continues the training.
"""

import dataclasses
import json
import math
import shlex

import jax
import jax.numpy as jnp

from lstm_jax import devices
from lstm_jax.config import IMAGE_SHAPE, NUM_CLASSES, SEQUENCE_LENGTHS, Config
from lstm_jax.errors import ExchangeError, Report
from lstm_jax.exchange.layouts import Architecture, Params
from lstm_jax.kernels.choice import Work, choose
from lstm_jax.options import flag
from lstm_jax.runs.checkpoint import Checkpoints
from lstm_jax.runs.history import Notes
from lstm_jax.runs.run_directory import CHECKPOINTS, CONFIG
from lstm_jax.system.files import whole, write_whole
from lstm_jax.training import Method, init_state


def config_for(architecture: Architecture, options: Config) -> Config:
    """Return ``options`` with the sizes of this architecture.

    Raises:
        ExchangeError: if the model has another number of inputs than the task of the options, or does not
            have 10 classes.
        ConfigError: if it is larger than the model of a run may be.
    """
    inputs = math.prod(IMAGE_SHAPE) // SEQUENCE_LENGTHS[options.model.task]
    for what, got, expected in (
        (f"inputs at each time step for --task {options.model.task}", architecture.inputs, inputs),
        ("classes", architecture.num_classes, NUM_CLASSES),
    ):
        if got != expected:
            raise ExchangeError(
                f"got a model of {got} {what}, expected {expected}: a run is about images of 28 rows of 28 "
                "pixels in 10 classes (from Python, lstm_jax.exchange.formats.read_weights reads any size)"
            )
    return options.with_options(
        hidden_size=architecture.hidden_size,
        num_layers=architecture.num_layers,
        bidirectional=architecture.bidirectional,
    )


def begin_run(params: Params, config: Config, *, report: Report) -> None:
    """Write a run directory with these parameters, at step 0. It appears only when it is complete.

    Args:
        params: the parameters.
        config: the options of the run, with ``run_dir`` and with the architecture of ``params``.
        report: called with a line about each problem.

    Raises:
        CheckpointError: if it cannot be written.
    """
    # Only names and shapes are needed: `scan` works everywhere, and the number of steps does not matter.
    model = dataclasses.replace(config.model, implementation="scan")
    method = Method.of(model, config.optimizer, config.augmentation, total_steps=1)
    fresh = init_state(method, config.seed)
    params = jax.tree.map(lambda old, new: jnp.asarray(new, old.dtype), fresh.params, params)
    state = fresh._replace(params=params, opt_state=method.optimizer.init(params))
    # As if it had been trained here, so that train.py reports no change of devices or implementation.
    notes = Notes(
        devices=devices.make_mesh(devices=config.devices, batch_size=config.batch_size).size,
        implementation=choose(config.model.implementation, Work.of_run(config.model.dtype)),
    )
    with whole(config.run_directory()) as folder:
        folder.mkdir()
        states = folder / CHECKPOINTS
        with Checkpoints(states, report=report, options=config.identity()) as checkpoints:
            checkpoints.save(0, state, dataclasses.asdict(notes))
        write_whole(folder / CONFIG, json.dumps(config.to_dict(), indent=2) + "\n")


def training_command(config: Config) -> str:
    """Return the command that continues a run: its folder, and the options that differ from the defaults."""
    words = ["python", "-m", "lstm_jax", "train", "--run-dir", str(config.run_directory())]
    for key, value in config.unusual().items():
        words += [flag(key)] if value is True else [flag(key), str(value)]
    return shlex.join(words)

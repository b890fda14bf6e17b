"""The seeds of a run: one, or many that are trained at once.

A run of one seed has a number as seed, and a `TrainState`. A run of many has an array of seeds, and one state
whose arrays have a leading axis of seeds. Its part k equals the state of a run of that seed alone, up to
float32 rounding. The compiled programs are in `training.py`; here is the code on the host.
"""

from collections.abc import Iterator
from typing import TypeVar

import jax
import numpy as np

from lstm_jax.config import Config
from lstm_jax.model import Params
from lstm_jax.training import NEVER, RunSeed, TrainState

Tree = TypeVar("Tree")


def seed_of(config: Config) -> RunSeed:
    """Return the seed of a run: a number, or an array of many. Other code tells the two cases apart by this.

    One seed is not an array of one, so that its program is that of a plain run, bit for bit.
    """
    return np.uint32(config.seed) if config.seeds == 1 else np.array(config.all_seeds, np.uint32)


def members(config: Config, tree: Tree) -> Iterator[tuple[int, Tree]]:
    """Yield each seed of a run, and its part of a tree of the run's arrays."""
    if config.seeds > 1:
        # Index on the host: on a device, JAX would compile a program for each seed and shape.
        tree = jax.tree.map(np.asarray, tree)
    for index, seed in enumerate(config.all_seeds):
        yield seed, member(config, tree, index)


def member(config: Config, tree: Tree, index: int) -> Tree:
    """Return the part of seed number ``index``, from 0, of a tree of a run's arrays."""
    return tree if config.seeds == 1 else jax.tree.map(lambda leaf: np.asarray(leaf)[index], tree)


def first_nonfinite_loss(config: Config, state: TrainState) -> tuple[int, int] | None:
    """Return the first step whose loss was not finite, and its seed; None if there is none."""
    steps = np.ravel(state.nonfinite_step).tolist()
    bad = [(step, seed) for step, seed in zip(steps, config.all_seeds, strict=True) if step != NEVER]
    return min(bad, default=None)


def seed_with_nonfinite(config: Config, params: Params) -> int | None:
    """Return the first seed with a parameter that is not finite; None if there is none."""
    leaves = [np.asarray(leaf).reshape(config.seeds, -1) for leaf in jax.tree.leaves(params)]
    finite = np.all([np.all(np.isfinite(leaf), axis=1) for leaf in leaves], axis=0)
    return next(
        (seed for seed, is_finite in zip(config.all_seeds, finite, strict=True) if not is_finite), None
    )


def in_words(config: Config) -> str:
    """Return the seeds in words: ``seed 3``, or ``5 seeds (0 to 4)``."""
    if config.seeds == 1:
        return f"seed {config.seed}"
    return f"{config.seeds} seeds ({config.seed} to {config.all_seeds[-1]})"

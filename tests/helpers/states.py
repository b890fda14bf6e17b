"""Saved states as training has them."""

from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import optax

from lstm_jax.runs.checkpoint import Checkpoints, digest

NOTES = {"history": [{"epoch": 1, "train_loss": 0.1 + 0.2}], "devices": 1}


def state_of(seed: int) -> Any:
    """A state as training has it: nested dictionaries, optax's tuples, several dtypes."""
    rng = np.random.default_rng(seed)
    params = {"cell": {"ii": jnp.asarray(rng.normal(size=(5, 3)), jnp.float32)}, "b": jnp.float32(seed)}
    return {"params": params, "opt": optax.adam(0.1).init(params), "step": jnp.int32(seed)}


def same(a: Any, b: Any) -> bool:
    return digest(a) == digest(b)


def saved(directory: Path, steps: int, report: list[str] | None = None) -> Checkpoints:
    checkpoints = Checkpoints(directory, report=(report if report is not None else []).append)
    for step in range(1, steps + 1):
        checkpoints.save(step, state_of(step), {**NOTES, "step": step})
    return checkpoints

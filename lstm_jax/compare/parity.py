"""Whether a framework computes what the float64 judge does. Only then its time says something.

From the same weights and batches, these are compared: logits, loss and every gradient of the first batch; its
logits once more in inference; the losses of the first steps, taken one by one; and the mean loss of the same
steps in one call, which is how they are timed.
"""

from typing import Any, NamedTuple

import jax
import numpy as np

from lstm_jax.benchmark.size import Size
from lstm_jax.compare import judge
from lstm_jax.compare.adapter import Decay, Gradient, Params
from lstm_jax.compare.processes import Process
from lstm_jax.compare.results import Parity
from lstm_jax.compare.work import Batches

# A tenth of the tutorial's. At 0.01 training is chaotic: if the judge itself begins from weights that are off
# by float32 rounding, its loss is off by 2 % a hundred steps later, and nothing could be told from that; at
# 0.001 it is off by less than a millionth.
PARITY_RATE = 0.001

# Largest relative errors, by name of a field of `Parity`. Float32 has 7 digits; sums over 28 steps and 128
# examples in another order leave 5 of them. A swapped gate or a forgotten transpose is off in the first.
FIRST_STEP = {"logits": 1e-4, "inference": 1e-4, "loss": 1e-5, "gradients": 1e-3}
# Adam divides by the size of the gradient, so that the rounding of the smallest gradients reaches the
# weights, and grows from step to step.
LATER_STEPS = {"curve": 1e-3, "chunk": 1e-3}
TOLERANCES = {**FIRST_STEP, **LATER_STEPS}


class Verdict(NamedTuple):
    """What is right.

    Attributes:
        first: logits, loss and gradients of the first batch.
        losses: of all steps.
        decay: of the learning rate in them, where the recipe has one.
    """

    first: Gradient
    losses: tuple[float, ...]
    decay: Decay | None = None


def verdict(params: Params, batches: Batches, *, decay: Decay | None = None) -> Verdict:
    """Let the judge compute."""
    losses, _ = judge.train(params, *batches, learning_rate=PARITY_RATE, decay=decay)
    first = judge.gradient(params, batches.images[0], batches.labels[0])
    return Verdict(first, tuple(map(float, losses)), decay)


def compare_training(
    process: Process, size: Size, params: Params, batches: Batches, right: Verdict
) -> Parity:
    """Let a framework that trains do the same, and compare.

    Raises:
        FrameworkError: if it cannot.
    """
    process.call("build", size, params, PARITY_RATE, right.decay)
    found: Gradient = process.call("gradient", batches.images[0], batches.labels[0])
    inferred = _inferred(process, batches)
    losses: list[float] = process.call("losses", *batches)
    process.call("build", size, params, PARITY_RATE, right.decay)
    process.call("load", "chunk", *batches)
    mean: float = process.call("train", "chunk")
    errors: dict[str, Any] = {
        "logits": _error(found.logits, right.first.logits),
        "inference": _error(inferred, right.first.logits),
        "loss": _error(found.loss, right.first.loss),
        "gradients": _tree_error(found.gradients, right.first.gradients),
        "curve": max(map(_error, losses, right.losses)),
        "chunk": _error(mean, np.mean(right.losses)),
    }
    return Parity(**errors, losses=tuple(losses), why_different=why_different(errors))


def compare_inference(
    process: Process, size: Size, params: Params, batches: Batches, right: Verdict
) -> Parity:
    """Let a framework that does not train compute the logits of the first batch, and compare.

    Raises:
        FrameworkError: if it cannot.
    """
    process.call("build", size, params, PARITY_RATE)
    error = _error(_inferred(process, batches), right.first.logits)
    errors: dict[str, Any] = {"logits": error, "inference": error}
    return Parity(**errors, why_different=why_different(errors))


def _inferred(process: Process, batches: Batches) -> Any:
    """The logits of the first batch, as inference is timed."""
    process.call("load", "first", *(array[:1] for array in batches))
    return process.call("infer", "first")[0]


def why_different(errors: dict[str, float]) -> str | None:
    """The errors that are beyond their tolerances, in words; None if there are none."""
    beyond = [
        f"{name} off by {error:.1e}, more than {TOLERANCES[name]:g}"
        for name, error in errors.items()
        if not error <= TOLERANCES[name]  # NaN is beyond
    ]
    return "; ".join(beyond) or None


def _tree_error(found: Params, right: Params) -> float:
    """The largest of the errors of the parameters, each relative to its own largest element.

    Infinite if they are not the same parameters.
    """
    errors = jax.tree.map(_error, found, right) if _same_names(found, right) else float("inf")
    return float(max(jax.tree.leaves(errors)))


def _same_names(found: Params, right: Params) -> bool:
    names: list[Any] = [[path for path, _ in jax.tree.leaves_with_path(tree)] for tree in (found, right)]
    return bool(names[0] == names[1])


def _error(found: Any, right: Any) -> float:
    """The largest difference of two elements by the largest element; infinite if one is not finite."""
    found, right = np.asarray(found, np.float64), np.asarray(right, np.float64)
    if found.shape != right.shape:
        return float("inf")
    scale = np.max(np.abs(right)) or 1.0  # where all is zero, the error itself
    error = float(np.max(np.abs(found - right)) / scale)
    return error if np.isfinite(error) else float("inf")

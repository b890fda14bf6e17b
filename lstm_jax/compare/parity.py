"""The comparison of a framework with the float64 judge. Only the time of equal results means anything.

From the same weights and batches, these are compared: the logits of inference, loss and every gradient of the
first batch; the losses of all steps, taken one by one; and the mean loss of the same steps in one call, as in
the timing.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Float64

from lstm_jax.compare import judge
from lstm_jax.compare.adapter import Decay
from lstm_jax.compare.processes import Process
from lstm_jax.compare.results import Parity
from lstm_jax.compare.size import Size
from lstm_jax.compare.work import Batches
from lstm_jax.exchange.layouts import Params

# A tenth of the tutorial's learning rate. At 0.01 training is chaotic: if the weights of the judge itself are
# rounded to float32 at the start, its loss is off by 2 % a hundred steps later, too much for a comparison. At
# 0.001 it is off by less than a millionth.
PARITY_RATE = 0.001

# The largest allowed relative errors. Float32 has 7 digits, and sums over 28 steps and 128 examples in
# another order leave 5 of them. A swapped gate or a missing transpose changes the first digit. Adam divides
# by the size of the gradient, so the rounding of small gradients reaches the weights, and grows step by step.
TOLERANCES: Mapping[str, float] = MappingProxyType(
    {"logits": 1e-4, "loss": 1e-5, "gradients": 1e-3, "curve": 1e-3, "call": 1e-3}
)


class Verdict(NamedTuple):
    """The right results: logits, loss and gradients of the first batch, and the losses of all steps."""

    logits: Float64[np.ndarray, "batch classes"]
    loss: float
    gradients: Params
    losses: tuple[float, ...]


def verdict(params: Params, batches: Batches, *, decay: Decay | None = None) -> Verdict:
    """Compute the right results with the judge."""
    losses, _ = judge.train(params, *batches, learning_rate=PARITY_RATE, decay=decay)
    first = batches.images[0], batches.labels[0]
    return Verdict(judge.logits(params, first[0]), *judge.gradient(params, *first), tuple(map(float, losses)))


def parity_of(
    process: Process,
    size: Size,
    params: Params,
    batches: Batches,
    right: Verdict,
    trains: bool = True,
    decay: Decay | None = None,
    devices: int = 1,
    tolerance: float = 1.0,
) -> Parity:
    """Compute the same with a framework, and compare; its errors may be ``tolerance`` times `TOLERANCES`.

    Raises:
        FrameworkError: if the framework fails.
    """
    build = ("build", size, params, PARITY_RATE, decay, devices)
    process.call(*build)
    process.call("load", "first", *batches.first())
    errors = {"logits": error_of(process.call("infer", "first")[0], right.logits)}
    losses: list[float] = []
    if trains:
        loss, gradients = process.call("gradients", "first")
        errors |= {"loss": error_of(loss, right.loss), "gradients": tree_error(gradients, right.gradients)}
        losses = process.call("losses", *batches)
        errors["curve"] = max(map(error_of, losses, right.losses))
        process.call(*build)
        process.call("load", "many", *batches)
        errors["call"] = error_of(process.call("train", "many"), np.mean(right.losses))
    beyond = [
        f"{name} off by {error:.1e}, more than {tolerance * TOLERANCES[name]:g}"
        for name, error in errors.items()
        if error > tolerance * TOLERANCES[name]
    ]
    return Parity(errors, losses, "; ".join(beyond) or None)


def tree_error(found: Params, right: Params) -> float:
    """Compute the largest error of the parameters, each relative to its own largest element.

    It is infinite if they are not the same parameters.
    """
    paths = [[path for path, _ in jax.tree.leaves_with_path(tree)] for tree in (found, right)]
    if paths[0] != paths[1]:
        return float("inf")
    return max(map(error_of, jax.tree.leaves(found), jax.tree.leaves(right)))


def error_of(found: Any, right: Any) -> float:
    """Compute the largest difference relative to the largest element; infinite if it is not finite."""
    found, right = np.asarray(found, np.float64), np.asarray(right, np.float64)
    if found.shape != right.shape:
        return float("inf")
    scale = np.max(np.abs(right)) or 1.0  # the absolute error if all elements are zero
    error = float(np.max(np.abs(found - right)) / scale)
    return error if np.isfinite(error) else float("inf")

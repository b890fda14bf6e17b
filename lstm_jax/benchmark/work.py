"""The task that all candidates get, and whether their answers agree.

The task: sequences of random numbers (B, T, D); the last output of an LSTM with H hidden units goes through
a dense layer to 10 logits; softmax cross-entropy with random labels; Adam. Three things are timed:

    forward      the logits; the weights are the same in every step, as when a model scores many batches
    gradient     the loss and its gradients by all parameters, forward pass included
    train step   the gradient, and Adam's update of the parameters

all of them many steps at a time in one compiled program, as `lstm_jax.training` runs an epoch, and

    dispatched   the train step once more, as a program of one step that Python calls again and again
"""

from collections.abc import Mapping
from typing import Any, NamedTuple, TypeAlias

import jax
import numpy as np
from jaxtyping import Float32, Int32

from lstm_jax.benchmark.size import Size
from lstm_jax.benchmark.timing import Run
from lstm_jax.kernels.gates import GATES

MEASURES = ("forward", "gradient", "train step", "dispatched")

NUM_CLASSES = 10
# Two batches take turns: were there only one, the compiler could compute once, before the loop over the
# steps, whatever depends on the inputs alone.
NUM_BATCHES = 2
# So small that the numbers stay those of the start however many steps are timed: a model that has learnt
# its batches by heart has vanishing gradients, and denormal numbers are slow.
LEARNING_RATE = 1e-8

# Float32 sums of other order differ in the sixth digit or so; a wrong gate differs in the first.
TOLERANCE = 1e-3

TINY_SIZE = Size(hidden=2, batch=2, time=2, inputs=2)

Params: TypeAlias = Any  # {"cell": as in nn.RNN(nn.LSTMCell(H)), "head": {"kernel", "bias"}}


class CannotRunError(Exception):
    """A candidate that cannot run here or at this size; the message says why."""


class Task(NamedTuple):
    """What each candidate computes with.

    Attributes:
        size: H, B, T, D.
        params: the parameters at the start.
        inputs: the batches that take turns.
        labels: their classes.
    """

    size: Size
    params: Params
    inputs: Float32[np.ndarray, "batches batch time inputs"]
    labels: Int32[np.ndarray, "batches batch"]


class Answer(NamedTuple):
    """What a candidate computes in its first step, for comparison.

    Attributes:
        largest: the largest logit of each device's share of the batch, their mean.
        loss: the mean loss.
        gradients: the gradients by the parameters, like `Task.params`.
    """

    largest: float
    loss: float
    gradients: Params


class Prepared(NamedTuple):
    """A candidate that is ready to be timed.

    Attributes:
        name: its name.
        first_step_seconds: time from nothing to the end of a first train step: tracing, compiling, running.
        memory: bytes that the train step needs on each device, as the compiler plans it; None if unknown.
        threads: the number of threads that was chosen for it; None if it chooses itself.
        answer: of the first step.
        runs: what is timed, by name of `MEASURES`.
    """

    name: str
    first_step_seconds: float
    memory: int | None
    threads: int | None
    answer: Answer
    runs: Mapping[str, Run]


def make_task(size: Size) -> Task:
    """The task of a size: random, but the same every time.

    The biases are random too: where a value is zero, its wrong use cannot be seen. Those of the forget gates
    are around log(time), those of the input gates around -log(time), so that the cells remember about as long
    as the sequences are (Tallec & Ollivier 2018, arXiv 1804.11188). With gates around one half, gradients by
    steps long past are denormal numbers, which slow PyTorch down, and which XLA takes for zeros.
    """
    rng = np.random.default_rng(0)

    def normal(*shape: int, scale: float = 1.0) -> np.ndarray:
        return rng.standard_normal(shape, np.float32) * np.float32(scale)

    # All alike, not spread as by `chrono_bias`: short memories would bring the denormal numbers back.
    memory = {"i": -np.log(size.time), "f": np.log(size.time)}
    cell = {}
    for gate in GATES:
        cell[f"i{gate}"] = {"kernel": normal(size.inputs, size.hidden, scale=size.inputs**-0.5)}
        cell[f"h{gate}"] = {
            "kernel": normal(size.hidden, size.hidden, scale=size.hidden**-0.5),
            "bias": normal(size.hidden, scale=0.1) + np.float32(memory.get(gate, 0)),
        }
    head = {
        "kernel": normal(size.hidden, NUM_CLASSES, scale=size.hidden**-0.5),
        "bias": normal(NUM_CLASSES, scale=0.1),
    }
    inputs = normal(NUM_BATCHES, size.batch, size.time, size.inputs)
    labels = rng.integers(0, NUM_CLASSES, (NUM_BATCHES, size.batch), np.int32)
    return Task(size, {"cell": cell, "head": head}, inputs, labels)


def difference(answer: Answer, reference: Answer) -> float:
    """How far two answers are apart: the largest of all relative errors; infinite if one is not finite.

    Of a gradient, it is the largest error of an element by the largest element of the same parameter.
    """
    errors = [
        np.max(np.abs(np.asarray(one, np.float64) - other)) / np.max(np.abs(np.asarray(other, np.float64)))
        for one, other in zip(jax.tree.leaves(answer), jax.tree.leaves(reference), strict=True)
    ]
    largest = float(np.max(errors))  # NaN if one is
    return largest if np.isfinite(largest) else float("inf")

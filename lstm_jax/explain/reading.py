r"""Reading an image, step by step: all that a trained LSTM computes on the way to its answer.

At each step, each layer computes the equations in `lstm_jax/functional.py`:

    z_t = W_x x_t + W_h h_{t-1} + b             z = (z_i, z_f, z_g, z_o)
    c_t = sigmoid(z_f) * c_{t-1} + sigmoid(z_i) * tanh(z_g)
    h_t = sigmoid(z_o) * tanh(c_t)

The layers of the package keep only what the next step and the gradient need. Here all of it is kept, for one
sequence at a time, as the equations have it. Everything is computed in float32.

After each step one can ask for an answer. It is the one to the steps so far: what the model says of the
sequence that ends there. For a model that reads in one direction, these are the logits of h_t. In a
bidirectional model the backward direction begins at the end, which is another one after each step; so it
reads the steps so far anew.
"""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import NamedTuple, TypeAlias, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Float32, Int, UInt8

from lstm_jax.kernels.interface import CellParameters, by_kind
from lstm_jax.model import HEAD, LSTMClassifier, Params, as_sequence, logits_of

FORWARD, BACKWARD = "forward", "backward"
T = TypeVar("T")


class Steps(NamedTuple):
    """What one direction of a layer computes at each step; index t is the step that reads place t.

    The backward direction begins at the last place.

    Attributes:
        i: the input gate, from 0 to 1: how much of the candidate is written.
        f: the forget gate, from 0 to 1: how much of the cell stays.
        g: the candidate, from -1 to 1: what may be written.
        o: the output gate, from 0 to 1: how much of the cell shows.
        cell: c, the memory.
        hidden: h, the output, from -1 to 1.
    """

    i: Float[Array, "*batch time hidden"]
    f: Float[Array, "*batch time hidden"]
    g: Float[Array, "*batch time hidden"]
    o: Float[Array, "*batch time hidden"]
    cell: Float[Array, "*batch time hidden"]
    hidden: Float[Array, "*batch time hidden"]


# The parameters of each layer, by direction; and what each layer computes, by direction.
Cells: TypeAlias = Sequence[Mapping[str, CellParameters]]
Layers: TypeAlias = Sequence[Mapping[str, Steps]]


class Reading(NamedTuple):
    """What a model computes while it reads images.

    Attributes:
        sequence: what it reads, from 0 to 1: the images as the task has them, see `model.as_sequence`.
        layers: what each layer computes, from the lowest, by direction: ``forward``, ``backward``.
        probability: of each class, after each step.
        logits: of each class, after the last step.
    """

    sequence: Float32[Array, "batch time features"]
    layers: Layers
    probability: Float32[Array, "batch time classes"]
    logits: Float32[Array, "batch classes"]

    def of(self, index: int) -> "Reading":
        """Return the reading of one image of the batch, as a batch of one, in host memory."""
        return jax.tree.map(lambda array: np.asarray(array)[index : index + 1], self)


def read_steps(
    model: LSTMClassifier,
    params: Params,
    images: UInt8[Array | np.ndarray, "batch rows columns"]
    | Float32[Array | np.ndarray, "batch rows columns"],
) -> Reading:
    """Read images and keep all that is computed on the way.

    Args:
        model: the classifier, of any task, number of layers and directions.
        params: its parameters.
        images: grey levels from 0 to 255, white ink on black.
    """
    return _read(model, params, jnp.asarray(images))


@partial(jax.jit, static_argnums=0)
def _read(model: LSTMClassifier, params: Params, images: Array) -> Reading:
    sequence = as_sequence(images.astype(jnp.float32) / 255.0, model.task, model.permutation_seed)
    cells, head = cells_of(model, params), params[HEAD]
    layers = jax.vmap(partial(run_layers, cells))(sequence)
    if model.bidirectional:
        # One prefix after the other: all at once would take memory for the square of the time steps.
        lengths = jnp.arange(1, sequence.shape[1] + 1)
        prefixes = jax.vmap(
            lambda one: jax.lax.map(lambda length: _answer(cells, head, one, length), lengths)
        )
        logits = prefixes(sequence)
    else:
        logits = jax.vmap(jax.vmap(partial(dense, head)))(layers[-1][FORWARD].hidden)
    return Reading(sequence, layers, jax.nn.softmax(logits), logits[:, -1])


def cells_of(model: LSTMClassifier, params: Params) -> list[dict[str, CellParameters]]:
    """Return the parameters of each layer, by direction."""
    directions = (FORWARD, BACKWARD) if model.bidirectional else (FORWARD,)
    return [
        {
            # Those of one seed of many are NumPy's.
            direction: jax.tree.map(jnp.asarray, params[f"lstm_{layer}_{direction}"]["cell"])
            for direction in directions
        }
        for layer in range(model.num_layers)
    ]


def in_order(layer: Mapping[str, T]) -> list[tuple[str, T]]:
    """Return the directions of a layer in the order in which it joins them: JAX sorts the keys."""
    return [(direction, layer[direction]) for direction in (FORWARD, BACKWARD) if direction in layer]


def run_layers(
    cells: Cells,
    sequence: Float[Array, "time features"],
    length: Int[Array, ""] | int | None = None,
    *,
    nudge: Float[Array, "time hidden"] | None = None,
) -> list[dict[str, Steps]]:
    """Run all layers over one sequence.

    Args:
        cells: the parameters of each layer, by direction.
        sequence: what the lowest layer reads.
        length: read only so many steps; None reads all.
        nudge: what is added to each h of the last layer's forward direction, see `lstm_steps`.
    """
    layers, inputs = [], sequence
    for number, layer in enumerate(cells):
        nudges = {FORWARD: nudge} if number == len(cells) - 1 else {}
        steps = {
            direction: lstm_steps(
                params, inputs, reverse=direction == BACKWARD, length=length, nudge=nudges.get(direction)
            )
            for direction, params in in_order(layer)
        }
        layers.append(steps)
        inputs = jnp.concatenate([each.hidden for each in steps.values()], axis=-1)
    return layers


def lstm_steps(
    params: CellParameters,
    inputs: Float[Array, "time inputs"],
    *,
    reverse: bool = False,
    length: Int[Array, ""] | int | None = None,
    nudge: Float[Array, "time hidden"] | None = None,
) -> Steps:
    """Run one LSTM over one sequence, and keep everything.

    Args:
        params: the parameters of an `nn.LSTMCell`.
        inputs: the sequence.
        reverse: whether to begin at its end.
        length: read only so many steps, from the first; the rest leaves the state at zero. None reads all.
        nudge: what is added to h after each step, before anything reads it. The gradient by a nudge of zeros
            is the gradient by h.
    """
    of_inputs, of_state, biases = by_kind(params)
    time, hidden = len(inputs), len(biases[0])
    if nudge is None:
        nudge = jnp.zeros((time, hidden), inputs.dtype)

    def step(
        carry: tuple[Array, Array], of_step: tuple[Array, Array, Array]
    ) -> tuple[tuple[Array, Array], Steps]:
        c, h = carry
        x, nudge, is_read = of_step
        z = [x @ w_x + h @ w_h + b for w_x, w_h, b in zip(of_inputs, of_state, biases, strict=True)]
        i, f, g, o = jax.nn.sigmoid(z[0]), jax.nn.sigmoid(z[1]), jnp.tanh(z[2]), jax.nn.sigmoid(z[3])
        c = jnp.where(is_read, f * c + i * g, 0.0)
        h = jnp.where(is_read, o * jnp.tanh(c) + nudge, 0.0)
        return (c, h), Steps(i, f, g, o, c, h)

    nothing = jnp.zeros(hidden, inputs.dtype)
    is_read = jnp.arange(time) < (time if length is None else length)
    _, steps = jax.lax.scan(step, (nothing, nothing), (inputs, nudge, is_read), reverse=reverse)
    return steps


def last_features(layers: Layers, length: Int[Array, ""] | int) -> Float[Array, " features"]:
    """Return what the dense layer reads: the last h of each direction; backward, it is at the first place."""
    ends = {FORWARD: length - 1, BACKWARD: 0}
    return jnp.concatenate([steps.hidden[ends[direction]] for direction, steps in in_order(layers[-1])])


def dense(head: Mapping[str, Array], features: Float[Array, " features"]) -> Float[Array, " classes"]:
    """Compute the logits."""
    return features @ head["kernel"] + head["bias"]


def _answer(
    cells: Cells, head: Mapping[str, Array], sequence: Float[Array, "time features"], length: Int[Array, ""]
) -> Float[Array, " classes"]:
    """Compute the logits of the first steps of a sequence."""
    return dense(head, last_features(run_layers(cells, sequence, length), length))


def decided_at(probability: Float[np.ndarray, "time classes"]) -> int:
    """Return the step, from 0, since which the class that is named at the end has been the most probable."""
    named = np.argmax(probability, axis=1)
    others = np.flatnonzero(named != named[-1])
    return int(others[-1]) + 1 if len(others) else 0


def saliency(
    model: LSTMClassifier,
    params: Params,
    images: UInt8[Array | np.ndarray, "batch rows columns"]
    | Float32[Array | np.ndarray, "batch rows columns"],
) -> Float32[np.ndarray, "batch rows columns"]:
    """Compute which pixels a decision depends on: the gradient of the named class's logit by the pixels.

    It says by how much the logit would rise if a pixel, from 0 (black) to 1 (white ink), became brighter
    (Simonyan, Vedaldi & Zisserman 2013, https://arxiv.org/abs/1312.6034).

    Args:
        model: the classifier.
        params: its parameters.
        images: grey levels from 0 to 255, white ink on black.

    Returns:
        The gradient, in the layout of the images, whatever the task.
    """
    return np.asarray(_saliency(model, params, jnp.asarray(images, jnp.float32)))


@partial(jax.jit, static_argnums=0)
def _saliency(model: LSTMClassifier, params: Params, images: Array) -> Array:
    named = jnp.argmax(logits_of(model, params, images), axis=-1)

    def of_named(pixels: Array) -> Array:
        logits = logits_of(model, params, pixels * 255.0)
        return jnp.sum(jnp.take_along_axis(logits, named[:, None], axis=1))

    return jax.grad(of_named)(images / 255.0)

r"""How far back the gradient reaches, measured: the vanishing gradient of a plain RNN, and the LSTM's.

Training changes what a network does at step t only as far as the loss at the end depends on it. That is the
gradient of the loss by the hidden state h_t. In a plain RNN

    h_t = tanh(W_x x_t + W_h h_{t-1} + b)

each step back multiplies it by W_h and by tanh', which is at most 1. So it shrinks, or grows, by the same
factor again and again, and after many steps it has vanished or exploded unless the weights are just so
(Hochreiter 1991; Bengio, Simard & Frasconi 1994). In an LSTM it also flows along the cell, where a step back
multiplies it by the forget gate alone. How open that gate is at the start depends on its bias: 0 leaves half
of the gradient after one step, 1 leaves 73 %, and ``chrono`` (Tallec & Ollivier 2018, see
`wrappers.chrono_bias`) opens the gates for the length of the sequence.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax.typing import Initializer
from jaxtyping import Array, Float, Float32, Int32, UInt8

from lstm_jax.config import NUM_CLASSES, SEQUENCE_LENGTHS
from lstm_jax.explain.reading import FORWARD, cells_of, dense, last_features, run_layers
from lstm_jax.model import HEAD, KERNEL_INIT, LSTMClassifier, Params, as_sequence


def pytorch_uniform(key: Array, shape: Sequence[int], dtype: Any = jnp.float32) -> Array:
    """Draw weights (.., hidden) uniformly within 1 / sqrt(hidden), as `torch.nn.RNN` does."""
    return jax.random.uniform(key, shape, dtype, -1.0, 1.0) / shape[-1] ** 0.5


# The models that are compared before any training, by the words for their forget bias.
FORGET_BIASES: Mapping[str, float | str] = {
    "LSTM, forget bias 0": 0.0,
    "LSTM, forget bias 1": 1.0,
    "LSTM, chrono": "chrono",
}
# A plain RNN keeps as much of the gradient as its weights let it: with Glorot's, a step changes the length of
# a vector little, with PyTorch's, uniform within 1 / sqrt(hidden), it makes it about 0.58 times as long.
PLAIN: Mapping[str, Initializer] = {
    "plain RNN, Glorot's weights": KERNEL_INIT,
    "plain RNN, PyTorch's weights": pytorch_uniform,
}
TRAINED = "this run, trained"


class Memory(NamedTuple):
    """The gradients of one task.

    Attributes:
        task: what a step reads.
        norms: by the name of the model: the norm of the gradient of an image's loss by h_t, for each image
            and step; for models as they are before training, under each of several initial weights.
    """

    task: str
    norms: Mapping[str, Float32[np.ndarray, "batch time"]]


def measure_memory(
    images: UInt8[np.ndarray, "batch rows columns"],
    labels: Int32[np.ndarray, " batch"],
    *,
    task: str,
    hidden_size: int,
    seeds: Sequence[int] = range(4),
    trained: tuple[LSTMClassifier, Params] | None = None,
) -> Memory:
    """Measure the gradients of plain RNNs and of LSTMs as they are before training, on real images.

    The LSTMs have the classifier's initial weights: Glorot's, and a dense layer on the last h. All biases but
    those that are named are zeros.

    Args:
        images: grey levels from 0 to 255.
        labels: their classes.
        task: what a step reads, see `model.as_sequence`.
        hidden_size: hidden units of each.
        seeds: of the initial weights.
        trained: a trained model and its parameters, to be measured as well; it reads images as its own task
            has them.
    """
    norms: dict[str, Any] = {name: [] for name in (*PLAIN, *FORGET_BIASES)}
    for key in map(jax.random.key, seeds):
        for name, kernel_init in PLAIN.items():
            plain = init_plain_rnn(key, task, hidden_size, kernel_init)
            norms[name].append(hidden_gradients_of_plain_rnn(plain, images, labels, task))
        for name, bias in FORGET_BIASES.items():
            model = LSTMClassifier(hidden_size, task=task, forget_bias=bias, implementation="scan")
            params = model.init(key, jnp.zeros((1, *images.shape[1:])))["params"]
            norms[name].append(hidden_gradients(model, params, images, labels))
    if trained is not None:
        norms[TRAINED] = [hidden_gradients(*trained, images, labels)]
    return Memory(task, {name: np.concatenate(found) for name, found in norms.items()})


def hidden_gradients(
    model: LSTMClassifier,
    params: Params,
    images: UInt8[np.ndarray, "batch rows columns"],
    labels: Int32[np.ndarray, " batch"],
) -> Float32[np.ndarray, "batch time"]:
    """Compute the norm of the gradient of each image's loss by the hidden state after each step.

    It is the hidden state of the last layer, in the forward direction. The gradient is the total one: all
    that h_t does through later steps counts, and c_t is held fixed.
    """
    sequence = _as_sequence(images, model.task, model.permutation_seed)
    return np.asarray(_lstm_norms(cells_of(model, params), params[HEAD], sequence, labels))


@jax.jit
def _lstm_norms(cells: Any, head: Any, sequences: Array, labels: Array) -> Array:
    def loss(nudge: Array, sequence: Array, label: Array) -> Array:
        layers = run_layers(cells, sequence, nudge=nudge)
        logits = dense(head, last_features(layers, len(sequence)))
        return optax.softmax_cross_entropy_with_integer_labels(logits, label)

    hidden = cells[-1][FORWARD]["hi"]["bias"].shape[0]
    nudge = jnp.zeros((sequences.shape[1], hidden))
    gradients = jax.vmap(jax.grad(loss), in_axes=(None, 0, 0))(nudge, sequences, labels)
    return jnp.linalg.norm(gradients, axis=-1)


class PlainRNN(NamedTuple):
    """The parameters of a plain RNN with a dense layer on its last hidden state."""

    of_inputs: Float[Array, "inputs hidden"]
    of_state: Float[Array, "hidden hidden"]
    bias: Float[Array, " hidden"]
    head: Mapping[str, Array]


def init_plain_rnn(
    key: Array,
    task: str,
    hidden_size: int,
    kernel_init: Initializer = KERNEL_INIT,
    num_classes: int = NUM_CLASSES,
) -> PlainRNN:
    """Draw the initial weights of a plain RNN; its dense layer is the classifier's, its biases are 0."""
    keys = jax.random.split(key, 3)
    features = 28 * 28 // SEQUENCE_LENGTHS[task]
    return PlainRNN(
        kernel_init(keys[0], (features, hidden_size), jnp.float32),
        kernel_init(keys[1], (hidden_size, hidden_size), jnp.float32),
        jnp.zeros(hidden_size),
        {
            "kernel": jax.nn.initializers.lecun_normal()(keys[2], (hidden_size, num_classes), jnp.float32),
            "bias": jnp.zeros(num_classes),
        },
    )


def hidden_gradients_of_plain_rnn(
    params: PlainRNN,
    images: UInt8[np.ndarray, "batch rows columns"],
    labels: Int32[np.ndarray, " batch"],
    task: str,
) -> Float32[np.ndarray, "batch time"]:
    """Compute the norm of the gradient of each image's loss by the hidden state after each step."""
    return np.asarray(
        _plain_norms(params, _as_sequence(images, task, LSTMClassifier.permutation_seed), labels)
    )


@jax.jit
def _plain_norms(params: PlainRNN, sequences: Array, labels: Array) -> Array:
    def loss(nudge: Array, sequence: Array, label: Array) -> Array:
        def step(h: Array, of_step: tuple[Array, Array]) -> tuple[Array, None]:
            x, nudge = of_step
            return jnp.tanh(x @ params.of_inputs + h @ params.of_state + params.bias) + nudge, None

        h, _ = jax.lax.scan(step, jnp.zeros_like(params.bias), (sequence, nudge))
        return optax.softmax_cross_entropy_with_integer_labels(dense(params.head, h), label)

    nudge = jnp.zeros((sequences.shape[1], len(params.bias)))
    gradients = jax.vmap(jax.grad(loss), in_axes=(None, 0, 0))(nudge, sequences, labels)
    return jnp.linalg.norm(gradients, axis=-1)


def _as_sequence(images: np.ndarray, task: str, permutation_seed: int | str) -> Array:
    return as_sequence(jnp.asarray(images, jnp.float32) / 255.0, task, permutation_seed)

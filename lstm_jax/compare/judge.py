"""The judge: the same classifier in float64 NumPy, with its gradient derived by hand, as the reference.

It uses no automatic differentiation and no code of any framework, so it cannot have the same mistakes. The
tests check it by finite differences. `lstm_jax.functional` has the equations of the forward pass in the same
letters.

**Forward**, from c_0 = h_0 = 0, for t = 1 ... T, with rows as vectors:

    z_t = x_t W_x + h_{t-1} W_h + b             z = (z_i, z_f, z_g, z_o)
    i = sigmoid(z_i)   f = sigmoid(z_f)   g = tanh(z_g)   o = sigmoid(z_o)
    c_t = f * c_{t-1} + i * g
    h_t = o * tanh(c_t)
    y = h_T V + a                               the head, one logit per class
    L = mean over the batch of  log(sum_k exp(y_k)) - y_label

**Backward**, where dv is the derivative of L with respect to v. The chain rule goes through the same lines
from the last to the first (backpropagation through time, Werbos 1990, https://doi.org/10.1109/5.58337):

    dy = (softmax(y) - one_hot(label)) / B
    dV = h_T' dy    da = sum dy    dh_T = dy V'    dc_T = 0

and for t = T ... 1, with sigmoid' = s (1 - s) and tanh' = 1 - tanh^2:

    dc_t   += dh_t * o * (1 - tanh(c_t)^2)      c_t reaches L through h_t, and through c_{t+1}
    dz_i    = dc_t * g       * i (1 - i)
    dz_f    = dc_t * c_{t-1} * f (1 - f)
    dz_g    = dc_t * i       * (1 - g^2)
    dz_o    = dh_t * tanh(c_t) * o (1 - o)
    dc_{t-1} = dc_t * f
    dh_{t-1} = dz_t W_h'

    dW_x = sum_t x_t' dz_t    dW_h = sum_t h_{t-1}' dz_t    db = sum_t dz_t

**Adam** (Kingma & Ba 2015, https://arxiv.org/abs/1412.6980, Algorithm 1), for step n = 1, 2, ... and each
parameter p with gradient d; m and v begin at zero:

    m = b1 m + (1 - b1) d            m^ = m / (1 - b1^n)
    v = b2 v + (1 - b2) d^2          v^ = v / (1 - b2^n)
    p = p - rate * m^ / (sqrt(v^) + epsilon)

(Keras adds epsilon to the root before the bias correction, the "epsilon hat" of that paper. The two differ
where a gradient is hardly larger than epsilon.)
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Float64, Int

from lstm_jax.compare.adapter import Decay
from lstm_jax.exchange.layouts import Joined, Params, join_gates, split_gates

B1, B2, EPSILON = 0.9, 0.999, 1e-8


class JoinedWeights(NamedTuple):
    """W_x, W_h, b, V and a, the gates side by side. Gradients and Adam's averages have the same form."""

    input_kernel: Float64[np.ndarray, "inputs gates"]
    recurrent_kernel: Float64[np.ndarray, "hidden gates"]
    bias: Float64[np.ndarray, " gates"]
    head_kernel: Float64[np.ndarray, "hidden classes"]
    head_bias: Float64[np.ndarray, " classes"]


class States(NamedTuple):
    """The values that the backward pass needs: i, f, g, o of steps 1 to T; c and h of steps 0 to T."""

    gates: Float64[np.ndarray, "time 4 batch hidden"]
    c: Float64[np.ndarray, "time_and_start batch hidden"]
    h: Float64[np.ndarray, "time_and_start batch hidden"]


def weights_of(params: Params) -> JoinedWeights:
    """Convert the parameters of an `LSTMClassifier` to float64."""
    head = params["head"]
    arrays = (*join_gates(params["lstm_0_forward"]["cell"]), head["kernel"], head["bias"])
    return JoinedWeights(*(np.asarray(array, np.float64) for array in arrays))


def params_of(weights: JoinedWeights) -> Params:
    """Convert weights or gradients to the layout of parameters, in float64: the inverse of `weights_of`."""
    cell = split_gates(Joined(*weights[:3]))
    head = {"kernel": weights.head_kernel, "bias": weights.head_bias}
    return {"lstm_0_forward": {"cell": cell}, "head": head}


def logits_and_states(
    weights: JoinedWeights, images: Float[np.ndarray, "batch time inputs"]
) -> tuple[Float64[np.ndarray, "batch classes"], States]:
    """Compute the forward pass, line by line as above."""
    batch, time, _ = images.shape
    hidden = len(weights.recurrent_kernel)
    gates = np.empty((time, 4, batch, hidden))
    c, h = np.zeros((2, time + 1, batch, hidden))
    for t in range(time):  # c[t] and h[t] are the state before this step, c[t + 1] and h[t + 1] after it
        x = images[:, t].astype(np.float64)
        z = x @ weights.input_kernel + h[t] @ weights.recurrent_kernel + weights.bias
        z_i, z_f, z_g, z_o = np.split(z, 4, axis=1)
        i, f, g, o = _sigmoid(z_i), _sigmoid(z_f), np.tanh(z_g), _sigmoid(z_o)
        gates[t] = i, f, g, o
        c[t + 1] = f * c[t] + i * g
        h[t + 1] = o * np.tanh(c[t + 1])
    return h[-1] @ weights.head_kernel + weights.head_bias, States(gates, c, h)


def cross_entropy(
    logits: Float64[np.ndarray, "batch classes"], labels: Int[np.ndarray, " batch"]
) -> tuple[float, Float64[np.ndarray, "batch classes"]]:
    """Compute the mean loss L, and its derivative with respect to the logits, dy."""
    rows = np.arange(len(labels))
    # Subtract the largest logit, so that the exponentials cannot overflow. The result stays the same.
    shifted = logits - logits.max(axis=1, keepdims=True)
    exponentials = np.exp(shifted)
    sums = exponentials.sum(axis=1, keepdims=True)
    loss = np.mean(np.log(sums[:, 0]) - shifted[rows, labels])
    d_logits = exponentials / sums
    d_logits[rows, labels] -= 1
    return float(loss), d_logits / len(labels)


def backward(
    weights: JoinedWeights,
    images: Float[np.ndarray, "batch time inputs"],
    states: States,
    d_logits: Float64[np.ndarray, "batch classes"],
) -> JoinedWeights:
    """Compute the backward pass, line by line as above: the gradient of the loss for all weights."""
    gates, c, h = states
    d_input_kernel, d_recurrent_kernel, d_bias = (np.zeros_like(array) for array in weights[:3])
    d_h = d_logits @ weights.head_kernel.T
    d_c = np.zeros_like(d_h)
    for t in reversed(range(len(gates))):
        i, f, g, o = gates[t]
        tanh_c = np.tanh(c[t + 1])
        d_c = d_c + d_h * o * (1 - tanh_c**2)
        d_z = np.concatenate(
            [
                d_c * g * i * (1 - i),
                d_c * c[t] * f * (1 - f),
                d_c * i * (1 - g**2),
                d_h * tanh_c * o * (1 - o),
            ],
            axis=1,
        )
        d_input_kernel += images[:, t].astype(np.float64).T @ d_z
        d_recurrent_kernel += h[t].T @ d_z
        d_bias += d_z.sum(axis=0)
        d_c = d_c * f
        d_h = d_z @ weights.recurrent_kernel.T
    return JoinedWeights(d_input_kernel, d_recurrent_kernel, d_bias, h[-1].T @ d_logits, d_logits.sum(axis=0))


def loss_and_gradient(
    weights: JoinedWeights, images: Float[np.ndarray, "batch time inputs"], labels: Int[np.ndarray, " batch"]
) -> tuple[Float64[np.ndarray, "batch classes"], float, JoinedWeights]:
    """Compute logits, loss and gradient of one batch."""
    logits, states = logits_and_states(weights, images)
    loss, d_logits = cross_entropy(logits, labels)
    return logits, loss, backward(weights, images, states, d_logits)


class AdamState(NamedTuple):
    """The number of steps taken, and the running means of the gradients and of their squares."""

    step: int
    m: JoinedWeights
    v: JoinedWeights

    @classmethod
    def start(cls, weights: JoinedWeights) -> "AdamState":
        """Make the state before the first step."""
        zeros = JoinedWeights(*(np.zeros_like(array) for array in weights))
        return cls(0, zeros, zeros)


def adam_step(
    weights: JoinedWeights, d_weights: JoinedWeights, state: AdamState, *, learning_rate: float
) -> tuple[JoinedWeights, AdamState]:
    """Take one step of Adam, line by line as above."""
    step = state.step + 1
    m = JoinedWeights(*(B1 * m + (1 - B1) * d for m, d in zip(state.m, d_weights, strict=True)))
    v = JoinedWeights(*(B2 * v + (1 - B2) * d**2 for v, d in zip(state.v, d_weights, strict=True)))
    updated = (
        p - learning_rate * (m / (1 - B1**step)) / (np.sqrt(v / (1 - B2**step)) + EPSILON)
        for p, m, v in zip(weights, m, v, strict=True)
    )
    return JoinedWeights(*updated), AdamState(step, m, v)


def logits(
    params: Params, images: Float[np.ndarray, "batch time inputs"]
) -> Float64[np.ndarray, "batch classes"]:
    """Compute the logits of a batch."""
    return logits_and_states(weights_of(params), images)[0]


def gradient(
    params: Params, images: Float[np.ndarray, "batch time inputs"], labels: Int[np.ndarray, " batch"]
) -> tuple[float, Params]:
    """Compute loss and gradients of a batch."""
    _, loss, d_weights = loss_and_gradient(weights_of(params), images, labels)
    return loss, params_of(d_weights)


def train(
    params: Params,
    images: Float[np.ndarray, "steps batch time inputs"],
    labels: Int[np.ndarray, "steps batch"],
    *,
    learning_rate: float,
    decay: Decay | None = None,
) -> tuple[Float64[np.ndarray, " steps"], Params]:
    """Take a train step with each of the batches.

    Args:
        params: the parameters at the start.
        images: the batches, in their order.
        labels: their classes.
        learning_rate: learning rate of Adam; the largest one if it decays.
        decay: the schedule of the learning rate and the clipping of gradients.

    Returns:
        The loss of each batch before its step, and the parameters after the last step.
    """
    weights = weights_of(params)
    optimizer = AdamState.start(weights)
    losses = []
    for step, (batch, classes) in enumerate(zip(images, labels, strict=True)):
        _, loss, d_weights = loss_and_gradient(weights, batch, classes)
        rate = learning_rate
        if decay is not None:
            d_weights, rate = clipped(d_weights, decay.clip_norm), learning_rate * decay.share(step)
        weights, optimizer = adam_step(weights, d_weights, optimizer, learning_rate=rate)
        losses.append(loss)
    return np.array(losses), params_of(weights)


def clipped(d_weights: JoinedWeights, most: float) -> JoinedWeights:
    """Scale gradients so that their global norm is at most ``most``."""
    norm = np.sqrt(sum(np.sum(d**2) for d in d_weights))
    return d_weights if norm <= most else JoinedWeights(*(d * (most / norm) for d in d_weights))


def _sigmoid(z: Float64[np.ndarray, "batch hidden"]) -> Float64[np.ndarray, "batch hidden"]:
    return (1 + np.tanh(z / 2)) / 2  # 1 / (1 + exp(-z)), but exp cannot overflow

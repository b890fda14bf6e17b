"""The whole tutorial on one page: an LSTM reads an MNIST image row by row and names the digit.

    python examples/mnist_lstm.py

It computes what ``python train.py --implementation scan`` computes, bit by bit.
"""

import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.nn import sigmoid, tanh

sys.path.insert(0, ".")  # finds the package in a checkout, where it is not installed
from lstm_jax import LSTMClassifier, load_dataset

SEED, EPOCHS, BATCH, HIDDEN = 0, 10, 128, 64
optimizer = optax.adam(learning_rate=0.01)


def cell(weights, carry, x):
    """One step of an LSTM: read x (B, 28), update the memory c and the output h, both (B, 64)."""
    c, h = carry
    z_i, z_f, z_g, z_o = (
        x @ weights[f"i{gate}"]["kernel"] + (h @ weights[f"h{gate}"]["kernel"] + weights[f"h{gate}"]["bias"])
        for gate in "ifgo"  # input gate, forget gate, candidate, output gate
    )
    c = sigmoid(z_f) * c + sigmoid(z_i) * tanh(z_g)  # keep some of the memory, write some of the candidate
    h = sigmoid(z_o) * tanh(c)  # show some of the memory
    return (c, h), h


def logits(params, images):
    """Score ten digits for each image: (B, 28, 28) of grey levels 0 to 255 in, (B, 10) out."""
    rows = jnp.moveaxis(images.astype(jnp.float32) / 255, 1, 0)  # 28 rows of (B, 28), read from the top
    nothing_read = jnp.zeros((len(images), HIDDEN))
    weights = params["lstm_0_forward"]["cell"]
    (_, h), _ = jax.lax.scan(lambda carry, x: cell(weights, carry, x), (nothing_read, nothing_read), rows)
    return h @ params["head"]["kernel"] + params["head"]["bias"]  # the last h has seen all rows


def loss(params, images, labels):
    """Compute the mean cross-entropy between the softmax of the logits and the true digits."""
    return jnp.mean(optax.softmax_cross_entropy_with_integer_labels(logits(params, images), labels))


def train_step(state, batch):
    """Take one step down the gradient. A pure function: the new state comes back, nothing is changed."""
    params, opt_state = state
    value, gradients = jax.value_and_grad(loss)(params, *batch)
    updates, opt_state = optimizer.update(gradients, opt_state)
    return (optax.apply_updates(params, updates), opt_state), value


@jax.jit
def train_epoch(state, batches):
    """Take a step for each batch, in one compiled loop."""
    return jax.lax.scan(train_step, state, batches)


@jax.jit
def accuracy(params, images, labels):
    """Compute the share of the images whose digit has the largest logit."""
    return jnp.mean(jnp.argmax(logits(params, images), axis=1) == labels)


def batches(split, epoch):
    """Shuffle a split: images (steps, B, 28, 28) and labels (steps, B), in an order of (seed, epoch)."""
    order = np.random.Generator(np.random.Philox(key=[SEED, epoch])).permutation(len(split))
    order = order[: len(split) // BATCH * BATCH].reshape(-1, BATCH)
    return split.images[order], split.labels[order]


def initial_state():
    """Draw the initial weights, and let Adam begin."""
    key, _ = jax.random.split(jax.random.key(SEED))
    params = LSTMClassifier(HIDDEN).init(key, jnp.zeros((1, 28, 28)))["params"]
    return params, optimizer.init(params)


def main():
    """Train, and print the loss and the accuracy of each epoch."""
    mnist, state = load_dataset("mnist"), initial_state()
    for epoch in range(EPOCHS):
        state, losses = train_epoch(state, batches(mnist.train, epoch))
        score = accuracy(state[0], mnist.test.images, mnist.test.labels)
        print(f"epoch {epoch + 1:2}/{EPOCHS}  loss {jnp.mean(losses):.4f}  test accuracy {score:.2%}")


if __name__ == "__main__":
    main()

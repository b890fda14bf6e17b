"""What all adapters written in JAX share: everything but the model.

Frameworks in JAX differ in how a model is written. How it is trained is up to their users, and they all can
do what is the fastest in JAX: a train step as a pure function, a `jax.lax.scan` of it over the batches, so
that Python does nothing between two steps, compiled by one `jax.jit` that may reuse the memory of the state
it is given; Adam by optax, which all of these frameworks name in their documentation.

So this loop is the same for all of them, and what is compared is their LSTM. Its functions are compiled once
in a process for each model, shape of batches and decay: the learning rate is an argument of the program.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float32, Int32

from lstm_jax.compare.adapter import Adapter, Decay, Gradient, Params

Tree: TypeAlias = Any  # parameters as a framework has them: a pytree of float32 arrays
Images: TypeAlias = Float32[Array, "batch time inputs"]
Labels: TypeAlias = Int32[Array, " batch"]
Logits: TypeAlias = Float32[Array, "batch classes"]


class Model(NamedTuple):
    """A framework's classifier, as pure functions of its parameters.

    Programs are compiled for a model: adapters make one for a size, and keep it.

    Attributes:
        logits: (its parameters, images) -> logits.
        to_own: from the parameters as they are exchanged to its own; NumPy arrays to NumPy arrays.
        to_params: the inverse.
        to_gradients: the same for gradients, where it is not the same.
    """

    logits: Callable[[Tree, Images], Logits]
    to_own: Callable[[Params], Tree]
    to_params: Callable[[Tree], Params]
    to_gradients: Callable[[Tree], Params] | None = None


class State(NamedTuple):
    """What a train step reads and writes."""

    own: Tree
    opt_state: optax.OptState


class Batch(NamedTuple):
    """One batch, or several along another axis in front."""

    images: Float32[Array, "*steps batch time inputs"]
    labels: Int32[Array, "*steps batch"]


def adam(learning_rate: float | Array, decay: Decay | None) -> optax.GradientTransformation:
    """The optimizer."""
    if decay is None:
        return optax.adam(learning_rate)
    clip = optax.clip_by_global_norm(decay.clip_norm)
    return optax.chain(clip, optax.adam(lambda step: learning_rate * jnp.minimum(*decay.lines(step))))


def loss_and_logits(own: Tree, batch: Batch, *, model: Model) -> tuple[Float32[Array, ""], Logits]:
    """The mean softmax cross-entropy of a batch, and its logits."""
    logits = model.logits(own, batch.images)
    return optax.softmax_cross_entropy_with_integer_labels(logits, batch.labels).mean(), logits


def loss_and_gradients(
    own: Tree, batch: Batch, *, model: Model
) -> tuple[tuple[Float32[Array, ""], Logits], Tree]:
    """What `loss_and_logits` gives, and the gradients of the loss by the parameters."""
    return jax.value_and_grad(partial(loss_and_logits, batch=batch, model=model), has_aux=True)(own)


def train_step(
    state: State, batch: Batch, *, model: Model, optimizer: optax.GradientTransformation
) -> tuple[State, Float32[Array, ""]]:
    """One train step; returns the state after it and the loss before it."""
    (loss, _), gradients = loss_and_gradients(state.own, batch, model=model)
    updates, opt_state = optimizer.update(gradients, state.opt_state, state.own)
    return State(optax.apply_updates(state.own, updates), opt_state), loss


@partial(jax.jit, static_argnames=("model", "decay"), donate_argnames="state")
def train_steps(
    state: State, batches: Batch, learning_rate: float | Array, *, model: Model, decay: Decay | None
) -> tuple[State, Float32[Array, ""]]:
    """A train step with each of the batches; returns the state after the last and the mean loss."""
    step = partial(train_step, model=model, optimizer=adam(learning_rate, decay))
    state, losses = jax.lax.scan(step, state, batches)
    return state, losses.mean()


@partial(jax.jit, static_argnames="model")
def infer_steps(own: Tree, batches: Batch, *, model: Model) -> Float32[Array, "steps batch classes"]:
    """The logits of each of the batches."""
    return jax.lax.map(partial(model.logits, own), batches.images)


# A program of its own; a train step has the same inside of its program.
_jitted_gradients = jax.jit(loss_and_gradients, static_argnames="model")


class InJax(Adapter):
    """An adapter (see there) of a model in JAX."""

    def __init__(
        self, model: Model, params: Params, *, learning_rate: float, decay: Decay | None = None
    ) -> None:
        """Begin with these parameters.

        Args:
            model: the classifier in its framework.
            params: the parameters, as they are exchanged.
            learning_rate: of Adam, the largest if it decays.
            decay: how it does, and how gradients are clipped.
        """
        # A copy: the train step will overwrite it.
        own = jax.tree.map(partial(jnp.array, dtype=jnp.float32), model.to_own(params))
        self._model = model
        self._state = State(own, adam(learning_rate, decay).init(own))
        self._train = partial(train_steps, learning_rate=learning_rate, model=model, decay=decay)

    def load(
        self,
        images: Float32[np.ndarray, "steps batch time inputs"],
        labels: Int32[np.ndarray, "steps batch"],
    ) -> Batch:
        """The batches on the device."""
        return jax.block_until_ready(Batch(jnp.array(images), jnp.array(labels)))

    def train(self, batches: Batch) -> float:
        """Take a train step with each of the batches; returns their mean loss."""
        self._state, loss = self._train(self._state, batches)
        jax.block_until_ready(self._state)
        return float(loss)

    def infer(self, batches: Batch) -> Float32[np.ndarray, "steps batch classes"]:
        """The logits of all batches."""
        return np.asarray(infer_steps(self._state.own, batches, model=self._model))

    def gradient(
        self, images: Float32[np.ndarray, "batch time inputs"], labels: Int32[np.ndarray, " batch"]
    ) -> Gradient:
        """Logits, loss and gradients of one batch."""
        batch = Batch(jnp.array(images), jnp.array(labels))
        (loss, logits), gradients = _jitted_gradients(self._state.own, batch, model=self._model)
        to_gradients = self._model.to_gradients or self._model.to_params
        return Gradient(np.asarray(logits), float(loss), to_gradients(_on_host(gradients)))

    def params(self) -> Params:
        """The parameters as they are now."""
        return self._model.to_params(_on_host(self._state.own))

    def set_threads(self, count: int) -> bool:
        """No: JAX shares out its work among the processor's cores by itself."""
        return False


def _on_host(tree: Tree) -> Tree:
    """The arrays in NumPy: copies, since on a CPU NumPy could look into memory that the next step reuses."""
    return jax.tree.map(np.array, tree)

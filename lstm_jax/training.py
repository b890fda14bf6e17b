"""One step of training, an epoch of them in one program, as pure functions.

    train_step(state, batch) -> (state, loss)
    train_epoch(state, data, start, stop) -> state       the same step, in a compiled loop

Both are written for one device's share of the batch; `runtime.over_devices` runs them on all devices
of the mesh. The loop over epochs, with its files and messages, is in `loop.py`.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Float32, Int32, UInt8

from lstm_jax.config import Config
from lstm_jax.model import LSTMClassifier, Params, logits_of
from lstm_jax.runtime import DATA_AXIS, mean_over_devices, over_devices, replicated

# What `TrainState.nonfinite_step` holds while all losses are finite.
NEVER = -1


class TrainState(NamedTuple):
    """All that a training step reads and writes. Random keys are not in it: they follow from the step.

    Attributes:
        step: training steps taken.
        params: the model's parameters.
        opt_state: the optimizer's state.
        loss_sum: sum of the losses since the start of the epoch.
        nonfinite_step: the first step, counted from 1, whose loss was not finite; else `NEVER`.
    """

    step: Int32[Array, ""]
    params: Params
    opt_state: optax.OptState
    loss_sum: Float32[Array, ""]
    nonfinite_step: Int32[Array, ""]


# Images of grey levels 0 to 255, and their classes.
DeviceBatch: TypeAlias = tuple[UInt8[Array, "batch 28 28"], Int32[Array, " batch"]]


class Resident(NamedTuple):
    """A data set on the device, and which examples make up which step."""

    image: UInt8[Array, "examples 28 28"]
    label: Int32[Array, " examples"]
    order: Int32[Array, "steps batch"]

    def batch(self, index: Int32[Array, ""]) -> DeviceBatch:
        """The batch of step ``index``."""
        chosen = self.order[index]
        return self.image[chosen], self.label[chosen]


class Block(NamedTuple):
    """The batches of some steps, read from disk."""

    image: UInt8[Array, "steps batch 28 28"]
    label: Int32[Array, "steps batch"]

    def batch(self, index: Int32[Array, ""]) -> DeviceBatch:
        """The batch of step ``index``."""
        return self.image[index], self.label[index]


# How the fields of each kind of data lie on the mesh: trees of their shape, but of partitions.
DataSpec: TypeAlias = Any
RESIDENT_SPEC: DataSpec = Resident._make([P(), P(), P(None, DATA_AXIS)])
BLOCK_SPEC: DataSpec = Block._make([P(None, DATA_AXIS), P(None, DATA_AXIS)])

TrainStep: TypeAlias = Callable[[TrainState, DeviceBatch], tuple[TrainState, Array]]
TrainEpoch: TypeAlias = Callable[[TrainState, Any, Any, Any], TrainState]


def build_optimizer(config: Config) -> optax.GradientTransformation:
    """Adam (Kingma & Ba 2015, https://arxiv.org/abs/1412.6980) as the configuration has it."""
    return optax.adam(config.learning_rate)


def keys_of(seed: int) -> tuple[Array, Array]:
    """The random keys of a run: for the initial parameters, and for what each step draws."""
    init_key, step_key = jax.random.split(jax.random.key(seed))
    return init_key, step_key


def init_state(model: LSTMClassifier, optimizer: optax.GradientTransformation, *, seed: int) -> TrainState:
    """The state before the first step."""
    params = model.init(keys_of(seed)[0], jnp.zeros((1, 28, 28)))["params"]
    return TrainState(
        step=jnp.int32(0),
        params=params,
        opt_state=optimizer.init(params),
        loss_sum=jnp.float32(0),
        nonfinite_step=jnp.int32(NEVER),
    )


def init_state_on(
    mesh: Mesh, model: LSTMClassifier, optimizer: optax.GradientTransformation, *, seed: int
) -> TrainState:
    """The state before the first step, the same on every device of the mesh."""
    return jax.jit(partial(init_state, model, optimizer, seed=seed), out_shardings=replicated(mesh))()


def train_step(
    state: TrainState,
    batch: DeviceBatch,
    *,
    model: LSTMClassifier,
    optimizer: optax.GradientTransformation,
    seed: int,
) -> tuple[TrainState, Float32[Array, ""]]:
    """Take one step down the gradient of the mean softmax cross-entropy of a batch.

    Runs on each device with its share of the batch; losses and gradients are averaged over the axis
    ``data``, so that all devices take the same step.

    Args:
        state: the state before the step.
        batch: this device's share of the batch.
        model: the classifier.
        optimizer: turns gradients into updates.
        seed: the run's seed; dropout follows from it, the step and the example's place in the batch.

    Returns:
        The state after the step, and the mean loss over the whole batch before it.
    """
    image, label = batch
    share = len(label)
    dropout_key = jax.random.fold_in(keys_of(seed)[1], state.step)
    example_index = jax.lax.axis_index(DATA_AXIS) * share + jnp.arange(share)

    def loss_of(params: Params) -> Float32[Array, ""]:
        logits = logits_of(model, params, image, example_index=example_index, dropout_key=dropout_key)
        return jnp.mean(optax.softmax_cross_entropy_with_integer_labels(logits, label))

    # One mean of loss and gradients together, after the backward pass: see `over_devices`.
    loss, gradients = mean_over_devices(jax.value_and_grad(loss_of)(state.params))
    updates, opt_state = optimizer.update(gradients, state.opt_state, state.params)
    step = state.step + 1
    is_first_nonfinite = ~jnp.isfinite(loss) & (state.nonfinite_step == NEVER)
    return TrainState(
        step=step,
        params=optax.apply_updates(state.params, updates),
        opt_state=opt_state,
        loss_sum=state.loss_sum + loss,
        nonfinite_step=jnp.where(is_first_nonfinite, step, state.nonfinite_step),
    ), loss


def train_epoch(
    state: TrainState,
    data: Resident | Block,
    start: Int32[Array, ""],
    stop: Int32[Array, ""],
    *,
    step: TrainStep,
) -> TrainState:
    """Take the steps ``start`` up to, not including, ``stop`` of the steps that ``data`` holds.

    The bounds are values, not constants of the program: one program serves any part of an epoch, so
    that a run that was stopped and continued anywhere computes the same bits as one that was not.

    Args:
        state: the state before the first of these steps.
        data: the batches.
        start: index of the first step in ``data``.
        stop: index after the last step.
        step: the training step.
    """
    return jax.lax.fori_loop(start, stop, lambda i, state: step(state, data.batch(i))[0], state)


def compile_train_step(
    model: LSTMClassifier, optimizer: optax.GradientTransformation, *, seed: int, mesh: Mesh
) -> TrainStep:
    """The jitted `train_step`; it consumes the state it is given."""
    step = partial(train_step, model=model, optimizer=optimizer, seed=seed)
    return over_devices(step, mesh, in_specs=(P(), (P(DATA_AXIS), P(DATA_AXIS))), donate=0)


def compile_train_epoch(
    model: LSTMClassifier,
    optimizer: optax.GradientTransformation,
    *,
    seed: int,
    mesh: Mesh,
    data_spec: DataSpec,
) -> TrainEpoch:
    """The jitted `train_epoch` for one kind of data; it consumes the state it is given.

    Args:
        model: the classifier.
        optimizer: turns gradients into updates.
        seed: the run's seed.
        mesh: the devices.
        data_spec: `RESIDENT_SPEC` or `BLOCK_SPEC`.
    """
    step = partial(train_step, model=model, optimizer=optimizer, seed=seed)
    epoch = partial(train_epoch, step=step)
    return over_devices(epoch, mesh, in_specs=(P(), data_spec, P(), P()), donate=0)

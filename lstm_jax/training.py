"""One step of training, and an epoch of steps in one program, as pure functions.

    train_step(state, batch, seed) -> (state, loss)
    train_epoch(state, data, start, stop, seed) -> state       the same step, in a compiled loop

All arguments are values, the seed too. So one program serves every seed, and `jax.vmap` over states, orders
and seeds trains many at once (`MANY_SEEDS_SPEC`). What is trained, and how, is a `Method`.

Both functions compute one device's share of the batch; `devices.over_devices` runs them on all devices of
the mesh. The loop over epochs, with its files and messages, is in `runs/loop.py`.
"""

import dataclasses
from collections.abc import Callable
from functools import lru_cache, partial
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Float32, Int32, Key, UInt8, UInt32

from lstm_jax.augmentation import augment
from lstm_jax.config import NUM_CLASSES, Augmentation, ModelOptions, OptimizerOptions
from lstm_jax.devices import DATA_AXIS, REMEMBERED, mean_over_devices, over_devices, replicated
from lstm_jax.model import LSTMClassifier, Params, logits_of
from lstm_jax.optimizer import averaged, build_optimizer

# What `TrainState.nonfinite_step` holds while all losses are finite.
NEVER = -1
# Folded into the key of a step, this gives the key of augmentation; dropout uses the key itself.
_AUGMENTATION = 1

# A seed: a number, or an array within a compiled program.
Seed: TypeAlias = int | np.uint32 | UInt32[Array, ""]
# The seed of a run, or those of many that are trained at once.
RunSeed: TypeAlias = int | np.uint32 | UInt32[np.ndarray, " seeds"]


class TrainState(NamedTuple):
    """All that a training step reads and writes. It holds no random keys: they follow from the step.

    In a run of many seeds, every array has an axis of seeds before its own.

    Attributes:
        step: training steps taken.
        params: the model's parameters.
        opt_state: the optimizer's state.
        loss_sum: sum of the losses since the start of the epoch.
        nonfinite_step: the first step, counted from 1, with a loss that is not finite; else `NEVER`.
    """

    step: Int32[Array, ""]
    params: Params
    opt_state: optax.OptState
    loss_sum: Float32[Array, ""]
    nonfinite_step: Int32[Array, ""]

    @property
    def evaluated_params(self) -> Params:
        """The parameters to evaluate and to use: their moving average, if the optimizer keeps one."""
        average = averaged(self.opt_state)
        return self.params if average is None else average

    @property
    def steps_taken(self) -> int:
        """``step``, as a number on the host; many seeds take their steps together."""
        return int(np.asarray(self.step).flat[0])


@dataclasses.dataclass(frozen=True, kw_only=True)
class Method:
    """What is trained, and how: all of a training step but its values.

    Attributes:
        model: the classifier.
        optimizer: turns gradients into updates.
        label_smoothing: share of the target that is spread evenly over all classes.
        augmentation: how the images of a step are changed at random.
    """

    model: LSTMClassifier
    optimizer: optax.GradientTransformation
    label_smoothing: float = 0.0
    augmentation: Augmentation = dataclasses.field(default_factory=Augmentation)

    @classmethod
    def of(
        cls,
        model: ModelOptions,
        optimizer: OptimizerOptions,
        augmentation: Augmentation,
        *,
        total_steps: int,
    ) -> "Method":
        """Return the method that the options describe, for a run of ``total_steps`` steps.

        Options whose steps are the same have the same method.
        """
        return _method(model, optimizer, augmentation, total_steps if optimizer.spans_the_run else 1)


@lru_cache(maxsize=REMEMBERED)
def _method(
    model: ModelOptions, optimizer: OptimizerOptions, augmentation: Augmentation, total_steps: int
) -> Method:
    return Method(
        model=build_model(model),
        optimizer=build_optimizer(optimizer, total_steps=total_steps),
        label_smoothing=optimizer.label_smoothing,
        augmentation=augmentation,
    )


def build_model(options: ModelOptions, num_classes: int = NUM_CLASSES) -> LSTMClassifier:
    """Make the classifier that the options describe: its attributes have their names."""
    return LSTMClassifier(**{**vars(options), "dtype": jnp.dtype(options.dtype)}, num_classes=num_classes)


# Images of grey levels 0 to 255, and their classes.
DeviceBatch: TypeAlias = tuple[UInt8[Array, "batch 28 28"], Int32[Array, " batch"]]


class Resident(NamedTuple):
    """A data set on the device, and the examples of each step.

    `data.dataset.epoch_order` shuffles the examples, `runs.feed` cuts their order into batches, and a step
    takes the images of its batch here.

    Many seeds share the images and labels. Each has an ``order`` of its own: (seeds, steps, batch).
    """

    image: UInt8[Array, "examples 28 28"]
    label: Int32[Array, " examples"]
    order: Int32[Array, "steps batch"]

    def batch(self, index: Int32[Array, ""]) -> DeviceBatch:
        """Return the batch of step ``index``."""
        chosen = self.order[index]
        return self.image[chosen], self.label[chosen]


class Block(NamedTuple):
    """The batches of some steps, read from disk."""

    image: UInt8[Array, "steps batch 28 28"]
    label: Int32[Array, "steps batch"]

    def batch(self, index: Int32[Array, ""]) -> DeviceBatch:
        """Return the batch of step ``index``."""
        return self.image[index], self.label[index]


# How the fields of each kind of data lie on the mesh: trees of their shape, but of partitions.
DataSpec: TypeAlias = Any
RESIDENT_SPEC: DataSpec = Resident._make([P(), P(), P(None, DATA_AXIS)])
BLOCK_SPEC: DataSpec = Block._make([P(None, DATA_AXIS), P(None, DATA_AXIS)])
MANY_SEEDS_SPEC: DataSpec = Resident._make([P(), P(), P(None, None, DATA_AXIS)])
# Which arguments of `train_epoch` have an axis of seeds then: state, order, seed.
_MANY_SEEDS_AXES = (0, Resident._make([None, None, 0]), None, None, 0)

TrainStep: TypeAlias = Callable[[TrainState, DeviceBatch, Seed], tuple[TrainState, Array]]
TrainEpoch: TypeAlias = Callable[[TrainState, Any, Any, Any, Seed | RunSeed], TrainState]


def keys_of(seed: Seed) -> tuple[Key[Array, ""], Key[Array, ""]]:
    """Make the random keys of a run: for the initial parameters, and for what each step draws."""
    init_key, step_key = jax.random.split(jax.random.key(seed))
    return init_key, step_key


def init_state(method: Method, seed: Seed) -> TrainState:
    """Make the state before the first step."""
    params = method.model.init(keys_of(seed)[0], jnp.zeros((1, 28, 28)))["params"]
    return TrainState(
        step=jnp.int32(0),
        params=params,
        opt_state=method.optimizer.init(params),
        loss_sum=jnp.float32(0),
        nonfinite_step=jnp.int32(NEVER),
    )


def init_run(method: Method, seed: Seed | UInt32[Array, " seeds"]) -> TrainState:
    """Make the state of a run before its first step: `init_state` of its seed, or of many, stacked."""
    init = partial(init_state, method)
    return jax.vmap(init)(seed) if np.ndim(seed) else init(seed)


def init_state_on(mesh: Mesh, method: Method, seed: RunSeed) -> TrainState:
    """Make the state of a run before its first step, the same on every device of the mesh."""
    return _compile_init(method, mesh)(np.asarray(seed, np.uint32))


@lru_cache(maxsize=REMEMBERED)
def _compile_init(method: Method, mesh: Mesh) -> Callable[[np.ndarray], TrainState]:
    return jax.jit(partial(init_run, method), out_shardings=replicated(mesh))


def state_like(method: Method, seed: RunSeed, sharding: NamedSharding) -> TrainState:
    """Return the state of a run with shapes, dtypes and a sharding in place of arrays."""
    shapes = _state_shapes(method, np.shape(seed))
    return jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
        shapes,
    )


@lru_cache(maxsize=REMEMBERED)
def _state_shapes(method: Method, seeds: tuple[int, ...]) -> TrainState:
    return jax.eval_shape(partial(init_run, method), jax.ShapeDtypeStruct(seeds, np.uint32))


def loss_of(
    logits: Float32[Array, "batch classes"], label: Int32[Array, " batch"], label_smoothing: float
) -> Float32[Array, ""]:
    """Compute the mean softmax cross-entropy of a batch.

    Args:
        logits: of each class.
        label: the true classes.
        label_smoothing: share of the target that is spread evenly over all classes (Szegedy et al. 2016,
            arXiv 1512.00567, section 7).
    """
    if not label_smoothing:
        return jnp.mean(optax.softmax_cross_entropy_with_integer_labels(logits, label))
    targets = optax.smooth_labels(jax.nn.one_hot(label, logits.shape[-1]), label_smoothing)
    return jnp.mean(optax.softmax_cross_entropy(logits, targets))


def train_step(
    state: TrainState, batch: DeviceBatch, seed: Seed, *, method: Method
) -> tuple[TrainState, Float32[Array, ""]]:
    """Take one step down the gradient of the loss of a batch.

    This runs on each device with its share of the batch. Losses and gradients are averaged over the axis
    ``data``, so that all devices take the same step.

    Args:
        state: the state before the step.
        batch: this device's share of the batch.
        seed: the run's seed. Dropout and augmentation follow from it, from the step and from the example's
            place in the batch.
        method: what is trained, and how.

    Returns:
        The state after the step, and the mean loss over the whole batch before it.
    """
    image, label = batch
    share = len(label)
    key = jax.random.fold_in(keys_of(seed)[1], state.step)
    example_index = jax.lax.axis_index(DATA_AXIS) * share + jnp.arange(share)
    inputs: Array = image
    if method.augmentation.is_active:
        augment_key = jax.random.fold_in(key, _AUGMENTATION)
        inputs = augment(augment_key, image, example_index, method.augmentation)

    def loss_at(params: Params) -> Float32[Array, ""]:
        logits = logits_of(method.model, params, inputs, example_index=example_index, dropout_key=key)
        return loss_of(logits, label, method.label_smoothing)

    # One mean of loss and gradients together, after the backward pass: see `over_devices`.
    loss, gradients = mean_over_devices(jax.value_and_grad(loss_at)(state.params))
    updates, opt_state = method.optimizer.update(gradients, state.opt_state, state.params)
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
    seed: Seed,
    *,
    method: Method,
) -> TrainState:
    """Take the steps from ``start`` up to, not including, ``stop`` of those that ``data`` holds.

    The bounds are values, not constants of the program. So one program serves any part of an epoch, and a
    run that was stopped and continued anywhere computes the same bits as one that was not.

    Args:
        state: the state before the first of these steps.
        data: the batches.
        start: index of the first step in ``data``.
        stop: index after the last step.
        seed: the run's seed.
        method: what is trained, and how.
    """

    def body(index: Array, state: TrainState) -> TrainState:
        return train_step(state, data.batch(index), seed, method=method)[0]

    return jax.lax.fori_loop(start, stop, body, state)


@lru_cache(maxsize=REMEMBERED)
def compile_train_step(method: Method, mesh: Mesh) -> TrainStep:
    """Compile `train_step` for loops of one's own; it consumes the state it is given."""
    step = partial(train_step, method=method)
    return over_devices(step, mesh, in_specs=(P(), (P(DATA_AXIS), P(DATA_AXIS)), P()), donate=0)


@lru_cache(maxsize=REMEMBERED)
def compile_train_epoch(method: Method, mesh: Mesh, *, data_spec: DataSpec) -> TrainEpoch:
    """Compile `train_epoch` for one kind of data; it consumes the state it is given.

    Args:
        method: what is trained, and how.
        mesh: the devices.
        data_spec: `RESIDENT_SPEC` or `BLOCK_SPEC`; `MANY_SEEDS_SPEC` for states, orders and seeds with an
            axis of seeds before their own.
    """
    epoch: Callable[..., TrainState] = partial(train_epoch, method=method)
    if data_spec == MANY_SEEDS_SPEC:
        # Inside the devices' program: each device has its share of every seed's batch.
        epoch = jax.vmap(epoch, in_axes=_MANY_SEEDS_AXES)
    return over_devices(epoch, mesh, in_specs=(P(), data_spec, P(), P(), P()), donate=0)

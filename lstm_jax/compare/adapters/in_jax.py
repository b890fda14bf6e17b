"""The shared part of all adapters in JAX: everything but the model.

Frameworks in JAX differ in how a model is written. The training loop is up to the user, and all of them allow
the fastest one in JAX: a train step as a pure function, and a `jax.lax.scan` of it over the batches, so that
Python does nothing between two steps, in one `jax.jit` that may reuse the memory of its input state. Adam
comes from optax, which all of these frameworks name in their documentation. So this loop is the same for all
of them, and only their LSTMs are compared.
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, ClassVar, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Float32, Int32

from lstm_jax.compare.adapter import Decay, Trainer
from lstm_jax.compare.size import Size
from lstm_jax.devices import DATA_AXIS, make_mesh, mean_over_devices, place, replicated
from lstm_jax.errors import ImplementationError
from lstm_jax.exchange.layouts import Params
from lstm_jax.kernels import NATIVE, products
from lstm_jax.kernels.build import why_not_available

Tree: TypeAlias = Any  # the parameters of a framework: a pytree of float32 arrays
Images: TypeAlias = Float32[Array, "batch time inputs"]
Logits: TypeAlias = Float32[Array, "batch classes"]
Loss: TypeAlias = Float32[Array, ""]

# The most programs to queue on several CPU devices before we wait for them. JAX queues up to 32 for a device;
# beyond that, devices in a collective can wait for each other for ever (jaxlib 0.10.2).
MOST_WAITING = 16

# The placement on several devices of equal values, of a batch, and of many batches.
SAME, EACH, ALL = P(), P(DATA_AXIS), P(None, DATA_AXIS)


class Model(NamedTuple):
    """A framework's classifier, made once for each size (`functools.cache`) so that it is compiled once.

    Attributes:
        logits: (its parameters, images) -> logits.
        to_own: converts exchanged parameters to those of the framework, in JAX. It only moves and renames
            values, or adds constants, so its transpose converts gradients back.
    """

    logits: Callable[[Tree, Images], Logits]
    to_own: Callable[[Params], Tree]


class LearningState(NamedTuple):
    """The state that a train step reads and writes."""

    own: Tree
    opt_state: optax.OptState


class OnDevice(NamedTuple):
    """One batch, or several along a leading axis."""

    images: Float32[Array, "*steps batch time inputs"]
    labels: Int32[Array, "*steps batch"]


class Loaded(NamedTuple):
    """Batches on the device, in one array, and also one by one once they are dispatched."""

    all: OnDevice
    each: list[OnDevice]


class Programs(NamedTuple):
    """Compiled functions of a model: a train step, and training, inference and gradients of many batches."""

    step: Any
    train: Any
    infer: Any
    gradients: Any


def joined(cell: Mapping[str, Any], gates: str) -> tuple[Array, Array, Array]:
    """Return input kernel (D, 4H), recurrent kernel (H, 4H) and bias (4H,) of a cell, gates in this order."""
    of_inputs, of_state = (
        jnp.concatenate([cell[f"{kind}{gate}"]["kernel"] for gate in gates], axis=1) for kind in "ih"
    )
    return of_inputs, of_state, jnp.concatenate([cell[f"h{gate}"]["bias"] for gate in gates])


def adam(learning_rate: float | Array, decay: Decay | None) -> optax.GradientTransformation:
    """Make the optimizer."""
    if decay is None:
        return optax.adam(learning_rate)
    clip = optax.clip_by_global_norm(decay.clip_norm)
    return optax.chain(clip, optax.adam(lambda step: learning_rate * jnp.minimum(*decay.lines(step))))


@functools.cache
def programs(model: Model, decay: Decay | None, devices: int) -> Programs:
    """Compile all programs of a model; several devices share each batch."""

    def loss_of(own: Tree, batch: OnDevice) -> Loss:
        logits = model.logits(own, batch.images)
        return optax.softmax_cross_entropy_with_integer_labels(logits, batch.labels).mean()

    def loss_and_gradients(own: Tree, batch: OnDevice) -> tuple[Loss, Tree]:
        found = jax.value_and_grad(loss_of)(own, batch)
        return found if devices == 1 else mean_over_devices(found)

    # The learning rate is an argument, so that one program serves all rates.
    def step(state: LearningState, batch: OnDevice, learning_rate: Array) -> tuple[LearningState, Loss]:
        loss, gradients = loss_and_gradients(state.own, batch)
        updates, opt_state = adam(learning_rate, decay).update(gradients, state.opt_state, state.own)
        return LearningState(optax.apply_updates(state.own, updates), opt_state), loss

    def train(state: LearningState, batches: OnDevice, learning_rate: Array) -> tuple[LearningState, Loss]:
        state, losses = jax.lax.scan(partial(step, learning_rate=learning_rate), state, batches)
        return state, losses.mean()

    def infer(own: Tree, images: Float32[Array, "steps batch time inputs"]) -> Array:
        return jax.lax.map(partial(model.logits, own), images)

    def gradients(own: Tree, batches: OnDevice) -> tuple[Loss, Tree]:
        def add(total: Any, batch: OnDevice) -> tuple[Any, None]:
            return jax.tree.map(jnp.add, total, loss_and_gradients(own, batch)), None

        zeros = jnp.float32(0), jax.tree.map(jnp.zeros_like, own)
        total, _ = jax.lax.scan(add, zeros, batches)
        return jax.tree.map(lambda each: each / len(batches.labels), total)

    def jit(function: Callable[..., Any], in_specs: Any, out_specs: Any = SAME, **options: Any) -> Any:
        if devices > 1:
            mesh = make_mesh(devices=devices, batch_size=devices)
            specs = {"in_specs": in_specs, "out_specs": out_specs}
            function = jax.shard_map(function, mesh=mesh, **specs, check_vma=False)
        return jax.jit(function, **options)

    return Programs(
        step=jit(step, (SAME, EACH, SAME), donate_argnums=0),
        train=jit(train, (SAME, ALL, SAME), donate_argnums=0),
        infer=jit(infer, (SAME, ALL), ALL),
        gradients=jit(gradients, (SAME, ALL)),
    )


class InJax(Trainer):
    """An adapter of a model in JAX, see `lstm_jax.compare.adapter`."""

    model: ClassVar[Callable[[Size], Model]]  # makes the model of a size; each framework has its own

    def __init__(
        self, size: Size, params: Params, *, learning_rate: float, decay: Decay | None = None
    ) -> None:
        self._model = type(self).model(size)
        self._params, self._decay, self._learning_rate = params, decay, np.float32(learning_rate)
        # A copy: the train step will overwrite it.
        own = jax.tree.map(partial(jnp.array, dtype=jnp.float32), self._model.to_own(params))
        self._state = LearningState(own, adam(learning_rate, decay).init(own))
        self._step: Any = None
        self.share(1)

    def share(self, devices: int) -> None:
        """Let so many devices share each batch from now on."""
        self._devices = devices
        self._programs = programs(self._model, self._decay, devices)
        if devices > 1:
            self._mesh = make_mesh(devices=devices, batch_size=devices)
            self._state = jax.device_put(self._state, replicated(self._mesh))

    def load(
        self,
        images: Float32[np.ndarray, "steps batch time inputs"],
        labels: Int32[np.ndarray, "steps batch"],
    ) -> Loaded:
        """Put the batches on the device."""
        return Loaded(self._put((images, labels), ALL), [])

    def _put(self, arrays: Sequence[np.ndarray], spec: P) -> OnDevice:
        if self._devices == 1:
            return jax.block_until_ready(OnDevice(*map(jnp.array, arrays)))
        return jax.block_until_ready(OnDevice(*(place(self._mesh, array, spec) for array in arrays)))

    def train(self, batches: Loaded) -> float:
        """Take a train step with each of the batches, all in one program."""
        self._state, loss = self._programs.train(self._state, batches.all, self._learning_rate)
        jax.block_until_ready(self._state)
        return float(loss)

    def dispatch(self, batches: Loaded) -> None:
        """Do the same with a program of one step, which Python calls for each batch."""
        if not batches.each:
            pairs = zip(*map(np.array, batches.all), strict=True)
            batches.each.extend(self._put(pair, EACH) for pair in pairs)
            first = self._state, batches.each[0], self._learning_rate
            self._step = self._step or self._programs.step.lower(*first).compile()
        must_wait = self._devices > 1 and jax.default_backend() == "cpu"
        for index, batch in enumerate(batches.each):
            self._state, _ = self._step(self._state, batch, self._learning_rate)
            if must_wait and (index + 1) % MOST_WAITING == 0:
                jax.block_until_ready(self._state)
        jax.block_until_ready(self._state)

    def step_memory(self) -> int | None:
        """Return the bytes that XLA plans for the dispatched step per device, without scratch of kernels."""
        plan = self._step and self._step.memory_analysis()
        if plan is None:
            return None
        reused = plan.alias_size_in_bytes  # results that take the memory of consumed arguments
        return int(plan.temp_size_in_bytes + plan.argument_size_in_bytes + plan.output_size_in_bytes - reused)

    def infer(self, batches: Loaded) -> Float32[np.ndarray, "steps batch classes"]:
        """Compute the logits of all batches."""
        return np.asarray(self._programs.infer(self._state.own, batches.all.images))

    def gradients(self, batches: Loaded) -> tuple[float, Tree]:
        """Compute mean loss and mean gradients of the batches, all in one program."""
        loss, gradients = jax.block_until_ready(self._programs.gradients(self._state.own, batches.all))
        return float(loss), gradients

    def exchanged(self, gradients: Tree) -> Params:
        """Convert gradients to the layout of the parameters."""
        _, transpose = jax.vjp(self._model.to_own, self._params)
        return jax.tree.map(np.asarray, transpose(gradients)[0])


class InKernel(InJax):
    """An adapter of a model that computes with this package's C++ kernel."""

    implementation: ClassVar[str] = "native"

    def __init__(
        self, size: Size, params: Params, *, learning_rate: float, decay: Decay | None = None
    ) -> None:
        if (reason := why_not_available() or products.why_not(NATIVE[self.implementation])) is not None:
            raise ImplementationError(f"implementation {self.implementation!r} cannot be used: {reason}")
        super().__init__(size, params, learning_rate=learning_rate, decay=decay)

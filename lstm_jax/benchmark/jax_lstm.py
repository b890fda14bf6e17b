"""The candidates in JAX: Flax's layers, and `lstm_jax.LSTM` by implementation.

Each at its best: the last output is taken from the final state, so that nobody keeps outputs that are not
needed; for Flax's layers that is somewhat faster than ``outputs[:, -1]``.
"""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Float32, Int32

from lstm_jax.benchmark.timing import Clock, Run
from lstm_jax.benchmark.work import LEARNING_RATE, NUM_BATCHES, Answer, CannotRunError, Params, Prepared, Task
from lstm_jax.devices import DATA_AXIS, mean_over_devices, over_devices, place, replicated
from lstm_jax.errors import ImplementationError, one_line
from lstm_jax.kernels.build import why_not_available
from lstm_jax.lstm import LSTM

# What keeps the compiler from dropping work must not change a number: this is far below the last digit of
# any parameter, and far above the denormal numbers.
TINY = 1e-20

# Programs that several CPU devices are given before one waits for them. JAX lets 32 wait for such a device;
# with more, devices that meet in a collective can wait for each other for ever. With jaxlib 0.10.2 and a
# larger number here, `python -m lstm_jax benchmark --devices 2` shows it.
MOST_WAITING = 16

# The side of the square matrices whose product gives the machine's peak.
PEAK_SIDE = 2048

Batch: TypeAlias = tuple[Float32[Array, "batch time inputs"], Int32[Array, " batch"]]
Batches: TypeAlias = tuple[Float32[Array, "batches batch time inputs"], Int32[Array, "batches batch"]]


class State(NamedTuple):
    """What a train step reads and writes."""

    params: Params
    opt_state: optax.OptState
    loss: Float32[Array, ""]


class Programs:
    """The compiled programs of one candidate, not run yet.

    Attributes:
        step: (state, batch) -> state; it consumes the state.
        forward, gradient, train: many steps, see the methods of these names.
    """

    def __init__(self, name: str, hidden: int, mesh: Mesh) -> None:
        self._layer = _layer(name, hidden)
        self._optimizer = optax.adam(LEARNING_RATE)
        batches = (P(None, DATA_AXIS), P(None, DATA_AXIS))
        self.step = over_devices(self._step, mesh, (P(), (P(DATA_AXIS), P(DATA_AXIS))), donate=0)
        self.forward = over_devices(self._forward, mesh, (P(), batches, P()))
        self.gradient = over_devices(self._gradient, mesh, (P(), batches, P()))
        self.train = over_devices(self._train, mesh, (P(), batches, P()))

    def init(self, params: Params) -> State:
        """The state before the first step."""
        return State(params, self._optimizer.init(params), jnp.float32(0))

    def _logits(
        self, params: Params, inputs: Float32[Array, "batch time inputs"]
    ) -> Float32[Array, "batch classes"]:
        _, h = self._layer({"cell": params["cell"]}, inputs)
        return h @ params["head"]["kernel"] + params["head"]["bias"][None]

    def _loss_and_gradients(self, params: Params, batch: Batch) -> tuple[Float32[Array, ""], Params]:
        def loss_of(params: Params) -> Float32[Array, ""]:
            logits = self._logits(params, batch[0])
            return jnp.mean(optax.softmax_cross_entropy_with_integer_labels(logits, batch[1]))

        return mean_over_devices(jax.value_and_grad(loss_of)(params))

    def _step(self, state: State, batch: Batch) -> State:
        loss, gradients = self._loss_and_gradients(state.params, batch)
        updates, opt_state = self._optimizer.update(gradients, state.opt_state, state.params)
        return State(optax.apply_updates(state.params, updates), opt_state, loss)

    def _forward(self, params: Params, batches: Batches, steps: Int32[Array, ""]) -> Float32[Array, ""]:
        """The sum of the steps' largest logits: it takes all logits to know it."""

        def step(index: Any, total: Array) -> Array:
            return total + jnp.max(self._logits(params, _batch(batches, index)[0]))

        return mean_over_devices(jax.lax.fori_loop(0, steps, step, jnp.float32(0)))

    def _gradient(
        self, params: Params, batches: Batches, steps: Int32[Array, ""]
    ) -> tuple[Params, Float32[Array, ""], Params]:
        """Parameters that have hardly changed, and loss and gradients of the last step."""

        def step(index: Any, carry: tuple[Params, Array, Params]) -> tuple[Params, Array, Params]:
            params = carry[0]
            loss, gradients = self._loss_and_gradients(params, _batch(batches, index))
            return jax.tree.map(lambda p, g: p + TINY * g, params, gradients), loss, gradients

        zeros = jax.tree.map(jnp.zeros_like, params)
        return jax.lax.fori_loop(0, steps, step, (params, jnp.float32(0), zeros))

    def _train(self, state: State, batches: Batches, steps: Int32[Array, ""]) -> State:
        """The state after the steps."""
        return jax.lax.fori_loop(0, steps, lambda i, state: self._step(state, _batch(batches, i)), state)


def _batch(batches: Batches, index: Any) -> Batch:
    inputs, labels = (jax.lax.dynamic_index_in_dim(a, index % NUM_BATCHES, keepdims=False) for a in batches)
    return inputs, labels


def _layer(name: str, hidden: int) -> Callable[..., Any]:
    """The function (parameters, inputs) -> final state (c, h)."""
    if name.startswith("flax"):
        cell = nn.LSTMCell(hidden) if name == "flax" else nn.OptimizedLSTMCell(hidden)
        rnn = nn.RNN(cell, return_carry=True)
        return lambda params, inputs: rnn.apply({"params": params}, inputs)[0]
    layer = LSTM(hidden, implementation=name, return_outputs=False)
    return lambda params, inputs: layer.apply({"params": params}, inputs)


def prepare(name: str, task: Task, mesh: Mesh, *, clock: Clock = time.perf_counter) -> Prepared:
    """Compile a candidate, and take its first steps.

    Raises:
        CannotRunError: if it cannot run here, or needs more memory than there is.
    """
    if name == "native" and (reason := why_not_available()) is not None:  # builds the kernel, if need be
        raise CannotRunError(reason)
    try:
        return _prepare(Programs(name, task.size.hidden, mesh), name, task, mesh, clock)
    except (ImplementationError, jax.errors.JaxRuntimeError) as error:
        raise CannotRunError(one_line(error)) from error


def _prepare(programs: Programs, name: str, task: Task, mesh: Mesh, clock: Clock) -> Prepared:
    params = jax.device_put(task.params, replicated(mesh))
    sharded: Batches = tuple(place(mesh, array, P(None, DATA_AXIS)) for array in (task.inputs, task.labels))  # type: ignore[assignment]  # a pair, which mypy does not see
    single = [
        tuple(place(mesh, array[i], P(DATA_AXIS)) for array in (task.inputs, task.labels))
        for i in range(NUM_BATCHES)
    ]

    def new_state() -> State:
        # A copy: the step consumes it.
        return jax.device_put(jax.tree.map(jnp.copy, programs.init(params)), replicated(mesh))

    state = jax.block_until_ready(new_state())
    start = clock()
    # `over_devices` promises no more than a function; it is a jitted one.
    step = programs.step.lower(state, single[0]).compile()  # type: ignore[attr-defined]  # see above
    memory = memory_of(step)
    if memory is not None and (free := free_memory()) is not None and memory * mesh.size > free:
        raise CannotRunError(f"it needs {memory * mesh.size / 1e9:.1f} GB, and {free / 1e9:.1f} GB are free")
    state = jax.block_until_ready(step(state, single[0]))
    first_step_seconds = clock() - start

    must_wait = mesh.size > 1 and mesh.devices.flat[0].platform == "cpu"

    def dispatched(steps: int) -> None:
        nonlocal state
        for index in range(steps):
            state = step(state, single[index % NUM_BATCHES])
            if must_wait and (index + 1) % MOST_WAITING == 0:
                jax.block_until_ready(state)
        jax.block_until_ready(state)

    def at_once(program: Callable[..., Any], start: Any) -> Run:
        return lambda steps: jax.block_until_ready(program(start, sharded, np.int32(steps)))

    runs: dict[str, Run] = {
        "forward": at_once(programs.forward, params),
        "gradient": at_once(programs.gradient, params),
        "train step": at_once(programs.train, new_state()),
        "dispatched": dispatched,
    }
    # The very programs that are timed give the answer.
    _, loss, gradients = programs.gradient(params, sharded, np.int32(1))
    largest = programs.forward(params, sharded, np.int32(1))
    answer = Answer(float(largest), float(loss), jax.tree.map(np.asarray, gradients))
    return Prepared(name, first_step_seconds, memory, None, answer, runs)


def memory_of(step: Any) -> int | None:
    """Bytes that a compiled program needs on each device: arguments, results and what lies between.

    A kernel's own scratch space is not among them.
    """
    plan = step.memory_analysis()
    if plan is None:
        return None
    reused = plan.alias_size_in_bytes  # results in the place of consumed arguments
    return int(plan.temp_size_in_bytes + plan.argument_size_in_bytes + plan.output_size_in_bytes - reused)


def free_memory() -> int | None:
    """Bytes that a program can still take on a CPU's machine; None if unknown, or another device computes."""
    if jax.default_backend() != "cpu":
        return None
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))
    except (OSError, StopIteration):  # not Linux
        return None


def peak_run() -> Run:
    """Steps of a square float32 matrix product, with all that the machine has."""
    rng = np.random.default_rng(0)
    left, right = jnp.asarray(rng.standard_normal((2, PEAK_SIDE, PEAK_SIDE), np.float32) / PEAK_SIDE**0.5)
    product = jax.jit(jnp.matmul)

    def run(steps: int) -> None:
        result = left
        for _ in range(steps):  # each needs the one before, so that they cannot overlap
            result = product(result, right)
        jax.block_until_ready(result)

    return run


def peak_flop() -> int:
    """Additions and multiplications of a step of `peak_run`."""
    return 2 * PEAK_SIDE**3

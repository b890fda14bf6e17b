"""Where the program runs: devices, their mesh, arrays on them, and the cache of compiled programs.

One mesh axis, ``data``: the parameters are on every device, each batch is shared out. Everything here
works for one process with several devices and for several processes (`jax.distributed.initialize`
called beforehand) alike.
"""

import hashlib
import json
import logging
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.flatten_util import ravel_pytree
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from lstm_jax.errors import ConfigError, UserError, one_line
from lstm_jax.system.caches import cache_dir, processor, why_not_private

DATA_AXIS = "data"

Tree = TypeVar("Tree")
T = TypeVar("T")


def start(*, devices: int | None) -> None:
    """Prepare JAX for a command: make CPU devices, and keep compiled programs between runs.

    Must be called before JAX computes anything. A second start then loads the compiled train step
    instead of compiling it again.

    Args:
        devices: how many devices the CPU is to show, if the CPU is what JAX runs on.

    Raises:
        ConfigError: if JAX finds no device.
    """
    if devices is not None:
        jax.config.update("jax_num_cpu_devices", devices)
    # A user who sets JAX_COMPILATION_CACHE_DIR has another place for it, and answers for who can write there.
    if "JAX_COMPILATION_CACHE_DIR" not in os.environ and (cache := compilation_cache_dir()) is not None:
        if (reason := why_not_private(cache)) is not None:
            logging.getLogger("lstm_jax").warning("lstm_jax: compiled programs are not kept: %s", reason)
            return
        jax.config.update("jax_compilation_cache_dir", str(cache))
        # Without these two JAX keeps only what took over a second to compile, which is nothing of ours.
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
        jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
    local_devices()


def local_devices() -> list[jax.Device]:
    """The devices of this process.

    Raises:
        ConfigError: if JAX finds none; anything else that asks for devices would say it in a traceback.
    """
    try:
        return jax.local_devices()
    except (RuntimeError, AssertionError) as error:  # as JAX says that there is no such device
        asked = f"JAX_PLATFORMS is {os.environ.get('JAX_PLATFORMS', 'unset')} ({one_line(error)})"
        raise ConfigError(
            f"JAX finds no device to run on: {asked}; name a platform that is here (JAX_PLATFORMS=cpu always "
            "is), or install JAX for that one"
        ) from error


def compilation_cache_dir() -> Path | None:
    """The folder of compiled programs: one per kind of processor, since they hold machine code.

    None if the user has no home directory.
    """
    base = cache_dir()
    return base and base / "xla" / hashlib.sha256(processor().encode()).hexdigest()[:12]


def make_mesh(*, devices: int | None, batch_size: int) -> Mesh:
    """The mesh of devices that share each batch.

    Args:
        devices: how many devices of each process to use; None means as many as can share the batch.
        batch_size: examples per step; every device gets the same number of them.

    Raises:
        ConfigError: if there are fewer devices, or the batch cannot be shared evenly.
    """
    local, processes = local_devices(), jax.process_count()
    if devices is None:
        fitting = (n for n in range(len(local), 0, -1) if batch_size % (n * processes) == 0)
        devices = next(fitting, 1)
    if devices > len(local):
        raise ConfigError(
            f"--devices: got {devices}, expected at most {len(local)} ({local[0].platform} devices of this "
            "process; JAX_NUM_CPU_DEVICES in the environment sets how many a CPU shows)"
        )
    if batch_size % (devices * processes):
        raise ConfigError(
            f"--batch-size: got {batch_size}, expected a multiple of {devices * processes}, "
            "the number of devices that share it"
        )
    chosen = [device for process in range(processes) for device in jax.local_devices(process)[:devices]]
    return Mesh(np.array(chosen), (DATA_AXIS,))


def replicated(mesh: Mesh) -> NamedSharding:
    """The placement of arrays that every device holds whole."""
    return NamedSharding(mesh, P())


def place(mesh: Mesh, array: np.ndarray | np.generic, spec: P) -> jax.Array:
    """Put a process's own share of a host array on the devices.

    Args:
        mesh: the devices.
        array: the array; along the axis that ``spec`` names ``data``, this process's part only.
        spec: which axis is shared out.
    """
    return jax.make_array_from_process_local_data(NamedSharding(mesh, spec), np.asarray(array))


def over_devices(
    function: Callable[..., Any], mesh: Mesh, in_specs: Any, *, donate: int | tuple[int, ...] = ()
) -> Callable[..., Any]:
    """Compile a function of each device's share of the data, with results that are the same on all.

    `shard_map` and not `jit` of a sharded batch: on CPU the latter leaves an all-reduce inside the
    backward loop of the LSTM, one per time step, and is ten times slower.

    The check of varying axes is off because it would do the same: the gradient of replicated
    parameters by sharded data then gets its sum where the parameters are used, within the loop.

    Args:
        function: of one device's share of its arguments.
        mesh: the devices.
        in_specs: how each argument lies on the mesh.
        donate: which arguments the compiled function may consume.
    """
    return jax.jit(
        jax.shard_map(function, mesh=mesh, in_specs=in_specs, out_specs=P(), check_vma=False),
        donate_argnums=donate,
    )


def mean_over_devices(tree: Tree) -> Tree:
    """The mean of floats over the axis ``data``, all of them in one array.

    On a CPU every array is a meeting of its own: one for each gradient of the tutorial's model took over a
    millisecond of every step (docs/SPEED.md). XLA would keep even the meeting of a single device.
    """
    if jax.lax.axis_size(DATA_AXIS) == 1:
        return tree
    flat, as_tree = ravel_pytree(tree)
    return as_tree(jax.lax.pmean(flat, DATA_AXIS))


def own_rows(batch_size: int) -> slice:
    """The rows of each batch that this process loads: an even share, in the order of the processes."""
    share = batch_size // jax.process_count()
    return slice(jax.process_index() * share, (jax.process_index() + 1) * share)


def is_leader() -> bool:
    """Whether this process is the one that writes files and talks to the user."""
    return jax.process_index() == 0


def agree(values: Mapping[str, Any]) -> None:
    """Refuse to go on unless every process was given the same.

    Processes of different options would each compute something else, and share the mean of it. To be called
    before anything else that processes do together.

    Args:
        values: JSON values, by the name that the user knows each by.

    Raises:
        ConfigError: in every process, naming the values that differ, or if JAX finds no device.
    """
    counts = [len(jax.local_devices(process)) for process in range(process_count())]
    if len(set(counts)) > 1:
        _refuse_differences("number of devices", counts)
    said = [json.loads(text) for text in _from_all(json.dumps(values))]
    for name in dict.fromkeys(name for each in said for name in each):
        _refuse_differences(name, [each.get(name) for each in said])


def process_count() -> int:
    """How many processes there are; where JAX finds no device, the error that says so."""
    local_devices()
    return jax.process_count()


def _refuse_differences(name: str, found: list[Any]) -> None:
    for process, value in enumerate(found):
        if value != found[0]:
            raise ConfigError(
                f"{name}: got {found[0]} in process 0, {value} in process {process}, expected the same in "
                "all processes of a run"
            )


def _from_all(text: str) -> list[str]:
    """What each process says, in their order; text without NUL."""
    if jax.process_count() == 1:
        return [text]
    own = np.frombuffer(text.encode(), np.uint8)
    padded = np.pad(own, (0, largest(len(own)) - len(own)))
    return [bytes(row).rstrip(b"\0").decode() for row in multihost_utils.process_allgather(padded)]


def together(action: Callable[[], T]) -> T:
    """Do something in every process, or fail in every one: nobody waits for a process that is gone.

    Raises:
        UserError: where the action failed in another process only.
    """
    if jax.process_count() == 1:
        return action()
    failure: BaseException | None = None
    results: list[T] = []
    try:
        results.append(action())
    except BaseException as error:
        failure = error
    if failed := largest(0 if failure is None else jax.process_index() + 1):
        raise failure or UserError(f"process {failed - 1} could not begin; its message says why")
    return results[0]


def leader_first(action: Callable[[], T]) -> T:
    """Do something in the leader, then in the other processes, which find what the leader has made.

    Raises:
        UserError: as `together`.
    """
    made = together(lambda: [action()] if is_leader() else [])
    return together(lambda: made[0] if made else action())


def from_leader(value: int) -> int:
    """The leader's value, in every process: loops that meet in a collective must take equal steps."""
    if jax.process_count() == 1:
        return value
    return int(multihost_utils.broadcast_one_to_all(np.int64(value)))


def largest(value: int) -> int:
    """The largest value of any process: a signal that one of them got stops them all."""
    if jax.process_count() == 1:
        return value
    return int(np.max(multihost_utils.process_allgather(np.int64(value))))

"""Where the program runs: devices, their mesh, arrays on them, and the cache of compiled programs.

One mesh axis, ``data``: the parameters are on every device, each batch is shared out. Everything here
works for one process with several devices and for several processes (`jax.distributed.initialize`
called beforehand) alike.
"""

import hashlib
import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import jax
import numpy as np
from jax.flatten_util import ravel_pytree
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from lstm_jax.errors import ConfigError, one_line
from lstm_jax.system.caches import cache_dir, processor, why_not_private

DATA_AXIS = "data"
# Whoever trains or scores the same again in one process, from another seed or for longer, compiles nothing
# again: so many methods and programs are remembered.
REMEMBERED = 16
# Up to so many devices, each gets the gradients of all, which are few bytes; of more, only their mean.
IN_ORDER = 8

Tree = TypeVar("Tree")
T = TypeVar("T")


def start(*, devices: int | None) -> None:
    """Prepare JAX for a command: make CPU devices, and keep compiled programs between runs.

    Call it before JAX computes anything. A second start then loads the compiled train step from disk.

    Args:
        devices: number of devices that the CPU shows, if JAX runs on the CPU.

    Raises:
        ConfigError: if JAX finds no device.
    """
    if devices is not None:
        jax.config.update("jax_num_cpu_devices", devices)
    # A user who sets JAX_COMPILATION_CACHE_DIR has another place, and is responsible for who can write there.
    if "JAX_COMPILATION_CACHE_DIR" not in os.environ and (cache := compilation_cache_dir()) is not None:
        if (reason := why_not_private(cache)) is not None:
            logging.getLogger("lstm_jax").warning("lstm_jax: compiled programs are not kept: %s", reason)
            return
        jax.config.update("jax_compilation_cache_dir", str(cache))
        # Without these two, JAX keeps only what took over a second to compile; our programs take less.
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
        jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
    local_devices()


def local_devices() -> list[jax.Device]:
    """Return the devices of this process.

    Raises:
        ConfigError: if JAX finds none. JAX itself would say it in a traceback.
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
    """Return the folder of compiled programs: one per kind of processor, since they hold machine code.

    It is None if the user has no home directory.
    """
    base = cache_dir()
    return base and base / "xla" / hashlib.sha256(processor().encode()).hexdigest()[:12]


def make_mesh(*, devices: int | None, batch_size: int) -> Mesh:
    """Make the mesh of devices that share each batch.

    Args:
        devices: number of devices of each process to use; None means as many as can share the batch.
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
    """Return the placement of arrays that every device holds whole."""
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

    This is `shard_map`, not `jit` of a sharded batch. On a CPU the latter leaves an all-reduce inside the
    backward loop of the LSTM, one per time step, and is ten times slower. The check of varying axes is off
    because it would do the same: with it, the gradients of replicated parameters are summed up where the
    parameters are used, within the loop.

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
    """Compute the mean of floats over the axis ``data``, all of them in one array.

    On a CPU every array is a meeting of the devices of its own: one for each gradient of the tutorial's model
    takes over a millisecond of every step (docs/notes.md). XLA keeps even the meeting of a single device.
    """
    if jax.lax.axis_size(DATA_AXIS) == 1:
        return tree
    flat, as_tree = ravel_pytree(tree)
    return as_tree(jax.lax.platform_dependent(flat, cpu=_mean_in_order, default=_mean))


def order_is_known(mesh: Mesh) -> bool:
    """Return whether `mean_over_devices` adds up in an order that does not depend on the processes."""
    return mesh.size <= 2 or (mesh.devices.flat[0].platform == "cpu" and mesh.size <= IN_ORDER)


def _mean(flat: jax.Array) -> jax.Array:
    return jax.lax.pmean(flat, DATA_AXIS)


def _mean_in_order(flat: jax.Array) -> jax.Array:
    """Compute the mean in the order of the devices, if they are few.

    XLA's own mean adds up in one order within a process, and gloo in another between processes: three or more
    numbers have another sum then. Here the bits depend on the number of devices alone, so that a run may go
    on in more or fewer processes. Of two, any order is the same.
    """
    count = jax.lax.axis_size(DATA_AXIS)
    if not 2 < count <= IN_ORDER:
        return _mean(flat)
    return jax.lax.all_gather(flat, DATA_AXIS).sum(axis=0) / count


def own_rows(batch_size: int) -> slice:
    """Return the rows of each batch that this process loads: an even share, in the order of processes."""
    share = batch_size // jax.process_count()
    return slice(jax.process_index() * share, (jax.process_index() + 1) * share)

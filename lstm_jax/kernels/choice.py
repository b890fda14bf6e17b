"""The choice of an implementation: what each can do, and which one `auto` takes, by measurement."""

import functools
import logging
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import flax.linen as nn
import jax
from jaxtyping import Array, Float

from lstm_jax.errors import ImplementationError
from lstm_jax.kernels import IMPLEMENTATIONS, NATIVE, products
from lstm_jax.kernels.build import must_be_built, why_not_available
from lstm_jax.kernels.interface import Carry, CellParameters, computed_dtype, has_usual_activations
from lstm_jax.system.versions import varies


class Work(NamedTuple):
    """The task for which to choose an implementation.

    Attributes:
        dtypes: names of the dtypes of computation, parameters and state.
        usual_activations: whether the gates are sigmoids and the other activation is tanh.
        unroll: number of steps to write out in one turn of the loop.
        tracks_devices: whether this is inside a `shard_map` that checks which values vary over devices.
        symbolic_time: whether the number of time steps is a symbol, as `jax.export` allows.
        symbolic: whether any size of the inputs is a symbol.
        spread: whether the inputs are on several devices that share the work as XLA decides.
    """

    dtypes: frozenset[str]
    usual_activations: bool = True
    unroll: int = 1
    tracks_devices: bool = False
    symbolic_time: bool = False
    symbolic: bool = False
    spread: bool = False

    @classmethod
    def of(
        cls,
        cell: nn.LSTMCell,
        params: CellParameters,
        inputs: Float[Array, "time *batch inputs"],
        carry: Carry,
        *,
        others: Any = (),
        unroll: int = 1,
    ) -> "Work":
        """Describe the task of a layer; ``others`` are its further arrays, whose dtype does not matter."""
        leaves = jax.tree.leaves((params, carry))
        given = (jax.dtypes.canonicalize_dtype(leaf.dtype) for leaf in leaves)
        return cls(
            dtypes=frozenset(dtype.name for dtype in (computed_dtype(cell, params, inputs, carry), *given)),
            usual_activations=has_usual_activations(cell),
            unroll=unroll,
            tracks_devices=any(varies(leaf) for leaf in jax.tree.leaves((inputs, leaves, others))),
            symbolic_time=not isinstance(inputs.shape[0], int),
            symbolic=not all(isinstance(size, int) for size in inputs.shape),
            spread=_is_spread(inputs),
        )

    @classmethod
    def of_run(cls, dtype: str) -> "Work":
        """Describe the task of the layers of a run that computes in ``dtype``."""
        return cls(dtypes=frozenset({dtype, "float32"}))


def _is_spread(array: Array) -> bool:
    """Return whether an array is on a mesh of several devices, with axes that XLA takes care of."""
    mesh = jax.typeof(array).sharding.mesh
    sizes = dict(zip(mesh.axis_names, mesh.axis_sizes, strict=True))
    kinds = dict(zip(mesh.axis_names, mesh.axis_types, strict=True))
    return any(size > 1 and kinds[name] == jax.sharding.AxisType.Auto for name, size in sizes.items())


def check_implementation(name: Any) -> None:
    """Refuse what is no name of an implementation; whether it can do a task is up to `choose`.

    Raises:
        ImplementationError: with what was given.
    """
    if not isinstance(name, str) or name not in IMPLEMENTATIONS:
        raise ImplementationError(f"implementation: got {name!r}, expected {', '.join(IMPLEMENTATIONS)}")


def choose(name: str, task: Work) -> str:
    """Return the implementation that ``name`` stands for; ``auto`` is the fastest that works here.

    Raises:
        ImplementationError: if there is no implementation of that name, or it cannot do the task here.
    """
    check_implementation(name)
    if name == "auto":
        return fastest(task)
    reason = why_not(name, task) or (why_no_kernel(name) if name in NATIVE else None)
    if reason is not None:
        raise ImplementationError(f"implementation {name!r} cannot be used: {reason}")
    return name


def will_build(name: str, task: Work) -> bool:
    """Return whether `choose` will take some seconds, because the native kernel is not built yet."""
    return name in ("auto", *NATIVE) and why_not("native", task) is None and must_be_built()


def why_no_kernel(name: str) -> str | None:
    """Build the kernel if need be, and return why it, or its kind of products, cannot be had; else None."""
    return why_not_available() or products.why_not(NATIVE[name])


def why_not(name: str, task: Work) -> str | None:
    """Return why an implementation cannot do a task, apart from the kernel's availability; else None."""
    if task.unroll != 1 and name != "scan":
        return f"unroll: got {task.unroll}, expected 1 (or 'scan')"
    if name == "unrolled" and task.symbolic_time:
        return "it writes out every time step, and their number is a symbol; use 'scan' or 'fused'"
    if name in ("fused", *NATIVE) and not task.usual_activations:
        return "it computes sigmoid gates and tanh; use 'scan' for another gate_fn or activation_fn"
    if name in ("fused", *NATIVE) and task.tracks_devices:
        return "inside of shard_map it needs check_vma=False; use 'scan' with the check"
    if name in NATIVE:
        if platform() != "cpu":
            return f"it runs on a CPU, and JAX computes on {platform()}; use 'fused' or 'auto'"
        if others := task.dtypes - {"float32", "bfloat16"}:
            told = ", ".join(sorted(others))
            return f"it computes in float32 or bfloat16, not {told}; use 'fused' or 'auto'"
        if task.symbolic:
            return "it needs sizes that are numbers, and one of them is a symbol; use 'fused' or 'auto'"
    return None


def platform() -> str:
    """Return the platform that JAX computes on unless an array says otherwise: cpu, gpu or tpu."""
    device = jax.config.values["jax_default_device"]
    return str(getattr(device, "platform", device) or jax.default_backend())


# The fastest first. On a CPU, in float32, `native` is the fastest at each of 21 sizes: 32 to 512 hidden
# units, batches of 32 to 512, 28 or 784 steps (docs/speed.md has the commands and figures). `fused` is the
# next, or equal to Flax's cells. So the table needs no sizes. So it is in bfloat16, measured with 64, 128
# and 512 units (docs/notes.md). `native` computes no other dtypes. On GPU and TPU nothing is measured yet:
# `fused` has the fewest and largest products.
FASTEST_FIRST: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "cpu": ("native", "fused", "scan"),
        "gpu": ("fused", "scan"),
        "tpu": ("fused", "scan"),
    }
)


def fastest(task: Work) -> str:
    """Return what `auto` stands for: the first of `FASTEST_FIRST` that can do the task here."""
    for name in FASTEST_FIRST.get(platform(), ("fused", "scan")):
        # With `native`, each device would compute all of a batch in shards.
        if why_not(name, task) is not None or (name == "native" and task.spread):
            continue
        if name == "native" and (reason := why_not_available()) is not None:
            _tell_once(reason)
            continue
        return name
    return "scan"


@functools.cache
def _tell_once(reason: str) -> None:
    logging.getLogger("lstm_jax").warning(
        "lstm_jax: the native kernel cannot be used: %s; 'fused' is used instead", reason
    )

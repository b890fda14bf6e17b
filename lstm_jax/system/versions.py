"""What differs between versions of JAX and Flax, and what of them can change because it is private.

Nothing else in the package asks for a version. Each function says which versions do what; the oldest are in
requirements-oldest.txt.
"""

import contextlib
from collections.abc import Sequence
from typing import Any

import jax
from flax.linen import module as linen
from jax import Array


def varies(array: Array) -> bool:
    """Return whether JAX tracks over which devices of a `shard_map` a value varies.

    The set of mesh axes is the attribute ``vma`` of a type before JAX 0.10.2, and ``mat.varying`` since.
    """
    kind = jax.typeof(array)
    return bool(getattr(kind, "vma", None) or getattr(getattr(kind, "mat", None), "varying", None))


def is_exported(lowering_context: Any) -> bool:
    """Return whether a program is lowered for `jax.export`, which other machines may run.

    Of ``LoweringRuleContext``, JAX promises no attributes. JAX 0.10 to 0.12 have this one; without it, an
    exported program would hold calls of the native kernel, which JAX refuses when it exports.
    """
    return getattr(lowering_context.module_context.lowering_parameters, "for_export", False)


def not_tabulated() -> contextlib.AbstractContextManager[None]:
    """Keep the modules that are called inside out of `nn.Module.tabulate`, which is about those with weights.

    It would list their calls under paths that do not exist, and cannot count their FLOPs. Flax promises no
    such thing. Flax 0.12 has this one; without it, only the table is wrong.
    """
    own_list: Any = getattr(linen, "_tabulate_context", contextlib.nullcontext)
    return own_list()


def detected_cluster(
    coordinator_address: str | None, num_processes: int | None, process_id: int | None, timeout: int
) -> tuple[str | None, int | None, int | None, Sequence[int] | None]:
    """Return these, and the devices of this process, with what JAX detects of a cluster in place of None.

    `jax.distributed.initialize` does this itself, but the processes have to be connected before it. JAX 0.10
    to 0.12 have this function, which is private.
    """
    from jax._src.clusters import ClusterEnv

    return ClusterEnv.auto_detect_unset_distributed_params(
        coordinator_address, num_processes, process_id, None, None, timeout
    )

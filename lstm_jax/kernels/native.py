"""The LSTM as a C++ kernel for CPUs, called through XLA's foreign function interface.

`cpp/` holds its source, `build.py` compiles and loads it, `calls.py` calls it. This file has its gradient and
its rules for `vmap`.

A call works on one or more LSTMs of equal sizes ("members") at once. The rows of a batch may come in groups
with weight gradients of their own. So `vmap` needs no loop: over sequences that share their weights it makes
one larger batch, over weights it makes members.
"""

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.custom_batching import custom_vmap
from jaxtyping import Array, Float, Float32, Int32

from lstm_jax.errors import ImplementationError
from lstm_jax.kernels import build, calls
from lstm_jax.kernels.differentiation import custom_gradient, first_order_only
from lstm_jax.kernels.fused import fused
from lstm_jax.kernels.interface import Carry, CellParameters, by_kind, last_step

build.load_if_built()  # for programs that imported JAX after this package


class Weights(NamedTuple):
    """The kernel of x, the kernel of h and the bias of each gate i, f, g, o."""

    x: list[Float32[Array, "members inputs hidden"]]
    h: list[Float32[Array, "members hidden hidden"]]
    bias: list[Float32[Array, "members hidden"]]


def native(
    cell: nn.LSTMCell,
    params: CellParameters,
    inputs: Float[Array, "time *batch inputs"],
    carry: Carry,
    lengths: Int32[Array, "*batch"] | None,
    *,
    keep_outputs: bool,
    mask: Float[Array, "*batch hidden"] | None = None,
) -> tuple[Carry, Float[Array, "time *batch hidden"] | None]:
    """Run the LSTM; see `interface.Implementation`.

    Raises:
        ImplementationError: if the kernel cannot be built here, or in forward-mode differentiation.
    """
    if (reason := build.why_not_available()) is not None:
        raise ImplementationError(f"implementation 'native' cannot be used: {reason}")
    time, *batch = inputs.shape[:-1]
    if not math.prod(inputs.shape) * cell.features:
        # The kernel needs at least one of everything.
        return fused(cell, params, inputs, carry, lengths, keep_outputs=keep_outputs, mask=mask)
    weights = Weights(
        *([jnp.asarray(leaf, jnp.float32)[None] for leaf in leaves] for leaves in by_kind(params))
    )
    x = inputs.astype(jnp.float32).reshape(1, time, -1, inputs.shape[-1])
    c0, h0 = (jnp.asarray(state, jnp.float32).reshape(1, -1, cell.features) for state in carry)
    last = last_step(lengths, time, tuple(batch)).reshape(1, -1)
    if mask is not None:
        mask = mask.astype(jnp.float32).reshape(1, -1, cell.features)
    c, h, *outputs = _run(keep_outputs, weights, x, c0, h0, last, mask)
    shape = (*batch, cell.features)
    return (c.reshape(shape), h.reshape(shape)), outputs[0].reshape(time, *shape) if keep_outputs else None


# --------------------------------------------------------------------------------------------------
# The gradient
# --------------------------------------------------------------------------------------------------


def _primal(
    keep_outputs: bool,
    weights: Weights,
    x: Float32[Array, "members time batch inputs"],
    c0: Float32[Array, "members batch hidden"],
    h0: Float32[Array, "members batch hidden"],
    last: Int32[Array, "members batch"],
    mask: Float32[Array, "members batch hidden"] | None,
) -> list[Array]:
    """Compute the final c and h, and with ``keep_outputs`` all outputs."""
    rows = (x, c0, h0, last, *_given(mask))
    return _call_forward(3 if keep_outputs else 2, len(rows))(*rows, *jax.tree.leaves(weights))


def _given(mask: Array | None) -> tuple[Array, ...]:
    return () if mask is None else (mask,)


def _forward(
    keep_outputs: bool,
    weights: Weights,
    x: Array,
    c0: Array,
    h0: Array,
    last: Array,
    mask: Array | None,
    *,
    perturbed: tuple[bool, ...],
) -> tuple[list[Array], Any]:
    """Compute what `_primal` does, and what the backward pass needs."""
    rows = (x, c0, h0, last, *_given(mask))
    forward = first_order_only(_call_forward(5, len(rows)), implementation="native")
    c, h, outputs, *saved = forward(*rows, *jax.tree.leaves(weights))
    residuals = (weights, (x, c0, h0, last, outputs, *saved), mask)
    return [c, h, outputs][: 3 if keep_outputs else 2], residuals


def _backward(
    keep_outputs: bool, residuals: Any, gradients: Any, *, perturbed: tuple[bool, ...]
) -> tuple[Weights, Array | None, Array, Array, None, None]:
    """Compute the gradients by weights, inputs and carry; lengths and mask have none."""
    weights, rows, mask = residuals
    wants_dx = perturbed[1]
    state = rows[1]
    dc, dh = (jnp.zeros_like(state) if d is None else d for d in gradients[:2])
    rows = (*rows, dc, dh, *_given(mask))
    if keep_outputs and gradients[2] is not None:
        rows = (*rows, gradients[2])
    call = _call_backward(wants_dx, 1, len(rows), mask is not None)
    dc0, dh0, *rest = first_order_only(call, implementation="native")(*rows, *jax.tree.leaves(weights))
    by_gate = [leaf[:, 0] for leaf in rest[:12]]  # of the one group
    d_weights = Weights(by_gate[:4], by_gate[4:8], by_gate[8:])
    return d_weights, rest[12] if wants_dx else None, dc0, dh0, None, None


_run = custom_gradient(_primal, _forward, _backward, statics=1, implementation="native")

# --------------------------------------------------------------------------------------------------
# The calls, and their rules for vmap
# --------------------------------------------------------------------------------------------------


@functools.cache
def _call_forward(num_results: int, num_rows: int) -> Callable[..., list[Array]]:
    """Make `calls.forward` of ``num_rows`` arrays of rows and the 12 weights, with its rule for `vmap`."""

    @custom_vmap
    def call(*arguments: Array) -> list[Array]:
        return calls.forward(arguments[:num_rows], arguments[num_rows:], num_results)

    @call.def_vmap
    def rule(size: int, batched: list[bool], *arguments: Array) -> tuple[list[Array], list[bool]]:
        _refuse_shards(batched, arguments)
        if not size:
            return _nothing(call, batched, arguments)
        if any(batched[num_rows:]):
            return _as_members(call, size, batched, arguments)
        rows = [_into_batch(a, b, size) for a, b in zip(arguments[:num_rows], batched, strict=False)]
        results = [_out_of_batch(result, size) for result in call(*rows, *arguments[num_rows:])]
        return results, [True] * len(results)

    return call


@functools.cache
def _call_backward(wants_dx: bool, groups: int, num_rows: int, masked: bool) -> Callable[..., list[Array]]:
    """Make `calls.backward` of ``num_rows`` arrays of rows and the 12 weights, with its rule for `vmap`."""

    @custom_vmap
    def call(*arguments: Array) -> list[Array]:
        rows, weights = arguments[:num_rows], arguments[num_rows:]
        return calls.backward(rows, weights, groups=groups, masked=masked, wants_dx=wants_dx)

    @call.def_vmap
    def rule(size: int, batched: list[bool], *arguments: Array) -> tuple[list[Array], list[bool]]:
        _refuse_shards(batched, arguments)
        if not size:
            return _nothing(call, batched, arguments)
        if any(batched[num_rows:]):
            return _as_members(call, size, batched, arguments)
        rows = [_into_batch(a, b, size) for a, b in zip(arguments[:num_rows], batched, strict=False)]
        grouped = _call_backward(wants_dx, size * groups, num_rows, masked)
        dc0, dh0, *rest = grouped(*rows, *arguments[num_rows:])
        by_group = [
            jnp.moveaxis(leaf.reshape(leaf.shape[0], size, groups, *leaf.shape[2:]), 1, 0)
            for leaf in rest[:12]
        ]
        results = [_out_of_batch(state, size) for state in (dc0, dh0)]
        results += [*by_group, *(_out_of_batch(dx, size) for dx in rest[12:])]
        return results, [True] * len(results)

    return call


def _refuse_shards(batched: list[bool], arguments: tuple[Array, ...]) -> None:
    """Refuse a mapped axis in shards: neither XLA nor, inside `vmap`, `shard_map` can share a call."""
    for argument, is_batched in zip(arguments, batched, strict=True):
        if is_batched and jax.typeof(argument).sharding.spec[0] is not None:
            raise ImplementationError(
                "implementation 'native', which 'auto' can stand for, got a vmap over an axis in shards, "
                "expected one whole on each device; use implementation 'fused'"
            )


def _nothing(
    call: Callable[..., list[Array]], batched: list[bool], arguments: tuple[Array, ...]
) -> tuple[list[Array], list[bool]]:
    """Return the results of a `vmap` over an axis of size 0."""
    one = [
        jax.ShapeDtypeStruct(a.shape[1:] if is_batched else a.shape, a.dtype)
        for a, is_batched in zip(arguments, batched, strict=True)
    ]
    results = [jnp.zeros((0, *result.shape), result.dtype) for result in jax.eval_shape(call, *one)]
    return results, [True] * len(results)


def _as_members(
    call: Callable[..., list[Array]], size: int, batched: list[bool], arguments: tuple[Array, ...]
) -> tuple[list[Array], list[bool]]:
    """Make one call for mapped weights: each becomes a member, with its own share of the rows."""
    merged = [_into_members(a, is_batched, size) for a, is_batched in zip(arguments, batched, strict=True)]
    results = [_out_of_members(result, size) for result in call(*merged)]
    return results, [True] * len(results)


def _into_members(array: Array, is_batched: bool, size: int) -> Array:
    """Reshape (size, members, ...) to (size * members, ...); repeat what is not batched."""
    if not is_batched:
        array = jnp.broadcast_to(array, (size, *array.shape))
    return array.reshape(-1, *array.shape[2:])


def _out_of_members(array: Array, size: int) -> Array:
    return array.reshape(size, -1, *array.shape[1:])


def _into_batch(array: Array, is_batched: bool, size: int) -> Array:
    """Reshape (size, members, [time,] batch, ...) to (members, [time,] size * batch, ...)."""
    if not is_batched:
        array = jnp.broadcast_to(array, (size, *array.shape))
    axis = _batch_axis(array.ndim - 1)
    array = jnp.moveaxis(array, 0, axis)
    return array.reshape(*array.shape[:axis], -1, *array.shape[axis + 2 :])


def _out_of_batch(array: Array, size: int) -> Array:
    axis = _batch_axis(array.ndim)
    array = array.reshape(*array.shape[:axis], size, -1, *array.shape[axis + 1 :])
    return jnp.moveaxis(array, axis, 0)


def _batch_axis(ndim: int) -> int:
    """Return the axis of the batch: 2 in (members, time, batch, features), 1 in (members, batch, ...)."""
    return 2 if ndim == 4 else 1

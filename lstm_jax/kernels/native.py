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
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.custom_batching import custom_vmap
from jaxtyping import Array

from lstm_jax.errors import ImplementationError
from lstm_jax.kernels import build, calls
from lstm_jax.kernels.calls import NUM_WEIGHTS, OF_MEMBERS, Backward, Forward, Way, WeightsByGate
from lstm_jax.kernels.differentiation import (
    Rows,
    custom_gradient,
    first_order_only,
    into_rows,
    out_of_rows,
)
from lstm_jax.kernels.fused import fused
from lstm_jax.kernels.interface import Arguments, Results, by_kind, computed_dtype, last_step

build.load_if_built()  # for programs that imported JAX after this package


def native(
    cell: nn.LSTMCell, arguments: Arguments, *, keep_outputs: bool, products: str | None = None
) -> Results:
    """Run the LSTM; see `interface.Implementation`.

    The kernel computes in float32. Where `nn.LSTMCell` multiplies in bfloat16, the factors of products are
    rounded to that if this is faster here. Results and gradients have the dtypes of that cell. ``products``
    is the kind of products, see `products.py`; None is the faster one here.

    Raises:
        ImplementationError: if the kernel cannot be built here, or in forward-mode differentiation.
    """
    if (reason := build.why_not_available()) is not None:
        raise ImplementationError(f"implementation 'native' cannot be used: {reason}")
    params, inputs, carry, lengths, mask, resets, reset_carry = arguments
    time, *batch = inputs.shape[:-1]
    if not math.prod(inputs.shape) * cell.features:
        # The kernel needs at least one of everything.
        return fused(cell, arguments, keep_outputs=keep_outputs)
    weights = WeightsByGate(
        *([jnp.asarray(leaf, jnp.float32)[None] for leaf in leaves] for leaves in by_kind(params))
    )
    way = Way(computed_dtype(cell, params, inputs, carry) == jnp.bfloat16, products)
    x = inputs.astype(jnp.float32).reshape(1, time, -1, inputs.shape[-1])
    (c0, h0), reset = jax.tree.map(
        lambda state: jnp.asarray(state, jnp.float32).reshape(1, -1, cell.features), (carry, reset_carry)
    )
    last = last_step(lengths, time, tuple(batch)).reshape(1, -1)
    if mask is not None:
        mask = mask.astype(jnp.float32).reshape(1, -1, cell.features)
    if resets is not None:
        resets = resets.reshape(1, time, -1, 1)
    c, h, *outputs = _run(way, keep_outputs, Forward(x, c0, h0, last, weights, mask, resets, reset))
    shape, (c_dtype, h_dtype) = (*batch, cell.features), (state.dtype for state in carry)
    return (
        (c.reshape(shape).astype(c_dtype), h.reshape(shape).astype(h_dtype)),
        outputs[0].reshape(time, *shape).astype(h_dtype) if keep_outputs else None,
    )


# --------------------------------------------------------------------------------------------------
# The gradient
# --------------------------------------------------------------------------------------------------


def _primal(way: Way, keep_outputs: bool, operands: Forward) -> list[Array]:
    """Compute the final c and h, and with ``keep_outputs`` all outputs."""
    return _call_forward(way, 3 if keep_outputs else 2)(operands)


def _forward(way: Way, keep_outputs: bool, operands: Forward, *, perturbed: Any) -> tuple[list[Array], Any]:
    """Compute what `_primal` does, and what the backward pass needs."""
    forward = first_order_only(_call_forward(way, 5), implementation="native")
    c, h, outputs, *saved = forward(operands)
    return [c, h, outputs][: 3 if keep_outputs else 2], (operands, outputs, *saved)


def _backward(
    way: Way, keep_outputs: bool, residuals: Any, gradients: Any, *, perturbed: Any
) -> tuple[Array | None, Array, Array, None, WeightsByGate, None, None, list[Array] | None]:
    """Compute the gradients by inputs, states and weights; lengths, mask and resets have none."""
    (x, c0, h0, last, weights, mask, resets, reset), outputs, cells, gates = residuals
    dc, dh, *d_outputs = gradients
    dc, dh = (jnp.zeros_like(c0) if d is None else d for d in (dc, dh))
    operands = Backward(
        x=x,
        c0=c0,
        h0=h0,
        last=last,
        outputs=outputs,
        cells=cells,
        gates=gates,
        dc=dc,
        dh=dh,
        kernels=(weights.x, weights.h),
        mask=mask,
        resets=resets,
        reset=reset,
        d_outputs=d_outputs[0] if keep_outputs else None,
        biases=weights.bias,
    )
    call = first_order_only(_call_backward(way, perturbed.x, 1), implementation="native")
    dc0, dh0, *rest = call(operands)
    by_gate, others = [leaf[:, 0] for leaf in rest[:NUM_WEIGHTS]], rest[NUM_WEIGHTS:]  # of the one group
    d_weights = WeightsByGate(by_gate[:4], by_gate[4:8], by_gate[8:])
    dx = others.pop(0) if perturbed.x else None
    return dx, dc0, dh0, None, d_weights, None, None, others or None


_ROWS = (2, 1, 1, 1, -1, 1, 2, 1)  # of `Forward`
_run = custom_gradient(
    _primal,
    _forward,
    _backward,
    statics=2,
    rows=Rows(arguments=_ROWS, residuals=(_ROWS, 2, 2, 2), results=(1, 1, 2)),
    implementation="native",
)

# --------------------------------------------------------------------------------------------------
# The calls, and their rules for vmap
# --------------------------------------------------------------------------------------------------


@functools.cache
def _call_forward(way: Way, num_results: int) -> Callable[[Forward], list[Array]]:
    """Make `calls.forward` with its rule for `vmap`."""

    @custom_vmap
    def call(operands: Forward) -> list[Array]:
        return calls.forward(operands, num_results, way=way)

    def as_batch(size: int, operands: Forward) -> list[Array]:
        return [_out_of_batch(result, size) for result in call(operands)]

    call.def_vmap(functools.partial(_mapped, call, as_batch))
    return call


@functools.cache
def _call_backward(way: Way, wants_dx: bool, groups: int) -> Callable[[Backward], list[Array]]:
    """Make `calls.backward` with its rule for `vmap`."""

    @custom_vmap
    def call(operands: Backward) -> list[Array]:
        return calls.backward(operands, groups=groups, wants_dx=wants_dx, way=way)

    def as_batch(size: int, operands: Backward) -> list[Array]:
        dc0, dh0, *rest = _call_backward(way, wants_dx, size * groups)(operands)
        by_group = [
            jnp.moveaxis(leaf.reshape(leaf.shape[0], size, groups, *leaf.shape[2:]), 1, 0)
            for leaf in rest[:NUM_WEIGHTS]
        ]
        states = [_out_of_batch(state, size) for state in (dc0, dh0)]
        return [*states, *by_group, *(_out_of_batch(other, size) for other in rest[NUM_WEIGHTS:])]

    call.def_vmap(functools.partial(_mapped, call, as_batch))
    return call


def _mapped(
    call: Callable[..., list[Array]],
    as_batch: Callable[[int, Any], list[Array]],
    size: int,
    of_each: list[Any],
    operands: Any,
) -> tuple[list[Array], list[bool]]:
    """Apply the rule of a call for `vmap`: mapped weights become members, mapped rows one larger batch.

    Args:
        call: the call.
        as_batch: makes it for a batch of ``size`` times as many rows, and takes the results apart again.
        size: that of the mapped axis.
        of_each: for the one argument of the call, which of its arrays are mapped.
        operands: the argument.
    """
    (batched,) = of_each
    _refuse_shards(batched, operands)
    if not size:
        return _nothing(call, batched, operands)
    if _has_mapped_weights(batched):
        return _as_members(call, size, batched, operands)
    results = as_batch(size, _rows_into_batch(batched, operands, size))
    return results, [True] * len(results)


def _has_mapped_weights(batched: Any) -> bool:
    return any(
        any(jax.tree.leaves(of_field)) for name, of_field in batched._asdict().items() if name in OF_MEMBERS
    )


def _refuse_shards(batched: Any, operands: Any) -> None:
    """Refuse a mapped axis in shards: neither XLA nor, inside `vmap`, `shard_map` can share a call."""
    for operand, is_batched in zip(jax.tree.leaves(operands), jax.tree.leaves(batched), strict=True):
        if is_batched and jax.typeof(operand).sharding.spec[0] is not None:
            raise ImplementationError(
                "implementation 'native', which 'auto' can stand for, got a vmap over an axis in shards, "
                "expected one whole on each device; use implementation 'fused'"
            )


def _nothing(call: Callable[..., list[Array]], batched: Any, operands: Any) -> tuple[list[Array], list[bool]]:
    """Return the results of a `vmap` over an axis of size 0."""
    one = jax.tree.map(
        lambda a, is_batched: jax.ShapeDtypeStruct(a.shape[1:] if is_batched else a.shape, a.dtype),
        operands,
        batched,
    )
    results = [jnp.zeros((0, *result.shape), result.dtype) for result in jax.eval_shape(call, one)]
    return results, [True] * len(results)


def _as_members(
    call: Callable[..., list[Array]], size: int, batched: Any, operands: Any
) -> tuple[list[Array], list[bool]]:
    """Make one call for mapped weights: each becomes a member, with its own share of the rows."""
    merged = jax.tree.map(functools.partial(_into_members, size=size), operands, batched)
    results = [_out_of_members(result, size) for result in call(merged)]
    return results, [True] * len(results)


def _rows_into_batch(batched: Any, operands: Any, size: int) -> Any:
    """Make one larger batch of mapped rows; the weights are the same for all."""
    into_batch = functools.partial(_into_batch, size=size)
    parts = {
        name: part if name in OF_MEMBERS else jax.tree.map(into_batch, part, getattr(batched, name))
        for name, part in operands._asdict().items()
    }
    return type(operands)(**parts)


def _into_members(array: Array, is_batched: bool, size: int) -> Array:
    """Reshape (size, members, ...) to (size * members, ...); repeat what is not batched."""
    if not is_batched:
        array = jnp.broadcast_to(array, (size, *array.shape))
    return array.reshape(-1, *array.shape[2:])


def _out_of_members(array: Array, size: int) -> Array:
    return array.reshape(size, -1, *array.shape[1:])


def _into_batch(array: Array, is_batched: bool, size: int) -> Array:
    """Reshape (size, members, [time,] batch, ...) to (members, [time,] size * batch, ...)."""
    mapped_axis = 0 if is_batched else None
    return into_rows(array, mapped_axis, _batch_axis(array.ndim - is_batched), size=size)


def _out_of_batch(array: Array, size: int) -> Array:
    return out_of_rows(array, _batch_axis(array.ndim), size=size)


def _batch_axis(ndim: int) -> int:
    """Return the axis of the batch: 2 in (members, time, batch, features), 1 in (members, batch, ...)."""
    return 2 if ndim == 4 else 1

"""The LSTM in pure JAX with a gradient of its own: any device, any size, any dtype.

Four things make it faster than a loop over cells that JAX differentiates:

- One product before the loop projects the inputs of all steps; the loop computes only h_{t-1} W_h.
- The loop of the backward pass computes only dz_t, dh_{t-1} and dc_{t-1}. The gradients of the weights are
  one product over all rows of all steps after the loop. JAX alone would add up one in every step.
- The loops save the gates and the state before each step, each once, in buffers that they write into. What
  `lax.scan` collects, XLA on a CPU first sets to zero, once for each of its outputs.
- On a CPU a step reads back from these buffers what it has saved. XLA computes a value that is only written
  there straight into its place. A value with another use it computes on the side and copies. The
  `optimization_barrier` keeps XLA from seeing that the value read is the value written.

`cpp/backward.h` has the equations of the gradients.
"""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple, TypeAlias

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int32

from lstm_jax.kernels.differentiation import Rows, custom_gradient
from lstm_jax.kernels.interface import (
    Arguments,
    Carry,
    Results,
    after_reset,
    as_number,
    by_kind,
    computed_dtype,
    last_step,
    masked,
    promoted,
)

Gates: TypeAlias = tuple[Array, Array, Array, Array]


class JoinedWeights(NamedTuple):
    """The weights of all gates side by side, in the order i, f, g, o."""

    x: Float[Array, "inputs gates"]
    h: Float[Array, "hidden gates"]
    bias: Float[Array, " gates"]


class Flat(NamedTuple):
    """The arguments of an implementation with one axis of sequences, and all gates side by side.

    Attributes:
        weights: of all gates.
        inputs: the sequences, time first.
        carry: the state (c, h) before the first step.
        last: the step after which each sequence's carry is taken; None is the last of all.
        mask: what h is multiplied by on its way to W_h; None changes nothing.
        resets: before which steps a new sequence begins; None is nowhere.
        reset_carry: the state (c, h) that such a sequence begins with; it comes with ``resets``.
    """

    weights: JoinedWeights
    inputs: Float[Array, "time batch inputs"]
    carry: Carry
    last: Int32[Array, " batch"] | None
    mask: Float[Array, "batch hidden"] | None
    resets: Bool[Array, "time batch"] | None
    reset_carry: Carry | None


class Saved(NamedTuple):
    """The results of the forward pass that the backward pass needs.

    Attributes:
        before: the gates i, f, g, o of each step, and c before it.
        h_before: h before each step.
        scratch: an array of the size of all dz whose content is not needed.
    """

    before: Float[Array, "time 5 batch hidden"]
    h_before: Float[Array, "time batch hidden"]
    scratch: Float[Array, "time batch gates"]


def fused(cell: nn.LSTMCell, arguments: Arguments, *, keep_outputs: bool) -> Results:
    """Run the LSTM; see `interface.Implementation`.

    Products are in the dtype of `nn.LSTMCell`; sums, the state and the gradients are in at least float32.

    Raises:
        ImplementationError: in forward-mode differentiation.
    """
    params, inputs, carry, lengths, mask, resets, reset_carry = arguments
    time, *batch = inputs.shape[:-1]
    dtype = computed_dtype(cell, params, inputs, carry)
    c_dtype, h_dtype = (state.dtype for state in carry)
    if isinstance(time, int) and not time:
        return carry, jnp.zeros((0, *carry[1].shape), h_dtype) if keep_outputs else None

    weights = JoinedWeights(*(jnp.concatenate(leaves, axis=-1) for leaves in by_kind(params)))
    size = math.prod(batch)
    flat_carry, flat_reset = jax.tree.map(
        lambda state: state.reshape(size, cell.features), (carry, reset_carry)
    )
    last = None if lengths is None else last_step(lengths, time, tuple(batch)).reshape(size)
    if mask is not None:
        mask = mask.astype(_sum_dtype(dtype)).reshape(size, cell.features)
    if resets is not None:
        resets = resets.reshape(time, size)
    x = inputs.reshape(time, size, inputs.shape[-1])
    flat = Flat(weights, x, flat_carry, last, mask, resets, flat_reset)
    (c, h), outputs = steps(dtype, keep_outputs, flat)
    shape = (*batch, cell.features)
    return (
        (c.reshape(shape).astype(c_dtype), h.reshape(shape).astype(h_dtype)),
        None if outputs is None else outputs.reshape(time, *shape).astype(h_dtype),
    )


def _primal(dtype: Any, keep_outputs: bool, flat: Flat) -> tuple[Carry, Array | None]:
    """Run all steps with products in ``dtype``; the results are in the dtype of the sums.

    Here each gate has products of its own. With a common product, XLA on a CPU computes the activations again
    for each of their uses, unless they are saved.
    """
    weights, inputs, carry, last, mask, resets, reset_carry = flat
    exact = _sum_dtype(dtype)
    by_gate = [
        JoinedWeights(*parts)
        for parts in zip(*(jnp.split(leaf, 4, axis=-1) for leaf in weights), strict=True)
    ]
    recurrent = [gate.h.astype(dtype) for gate in by_gate]
    biases = [gate.bias.astype(exact)[None] for gate in by_gate]
    keep_all = keep_outputs or last is not None

    start, reset_start = _start(dtype, carry), _start(dtype, reset_carry)

    def body(
        carry: Carry, of_step: tuple[list[Array], Array | None]
    ) -> tuple[Carry, tuple[Array | None, Array | None]]:
        projected, reset = of_step
        carry = after_reset(reset, reset_start, carry)
        h_seen = masked(carry[1], mask)
        z = [
            x + _product(h_seen, kernel, dtype) + b
            for x, kernel, b in zip(projected, recurrent, biases, strict=True)
        ]
        c, h = _state(_gates(z), carry[0])
        return (c, h), (c if last is not None else None, h if keep_all else None)

    projected = [_projected(dtype, gate.x, inputs) for gate in by_gate]
    end, (c, h) = lax.scan(body, start, (projected, resets))
    if last is not None and c is not None and h is not None:
        end = (_at(last, c), _at(last, h))
    return end, h if keep_outputs else None


def _sum_dtype(dtype: Any) -> Any:
    return promoted(dtype, jnp.float32)


def _start(dtype: Any, carry: Any) -> Any:
    """Return the state, if there is one, in the dtype of the sums."""
    return jax.tree.map(lambda state: state.astype(_sum_dtype(dtype)), carry)


def _product(
    left: Array, right: Array, dtype: Any, axes: tuple[tuple[int, ...], tuple[int, ...]] = ((1,), (0,))
) -> Array:
    """Multiply in ``dtype``, and sum up in at least float32, over ``axes`` of left and right."""
    return lax.dot_general(
        left.astype(dtype), right.astype(dtype), (axes, ((), ())), preferred_element_type=_sum_dtype(dtype)
    )


def _projected(
    dtype: Any, kernel: Float[Array, "inputs gates"], inputs: Float[Array, "time batch inputs"]
) -> Float[Array, "time batch gates"]:
    """Compute x_t W_x of all steps."""
    return _product(inputs, kernel, dtype, axes=((2,), (0,)))


def _gates(z: Sequence[Float[Array, "batch hidden"]]) -> Gates:
    """Compute the gates i, f, g, o from their pre-activations."""
    return _sigmoid(z[0]), _sigmoid(z[1]), jnp.tanh(z[2]), _sigmoid(z[3])


def _state(gates: Gates, c: Float[Array, "*any hidden"]) -> Carry:
    """Compute the state after a step from its gates and c before it."""
    i, f, g, o = gates
    c = f * c + i * g
    return c, o * jnp.tanh(c)


def _sigmoid(x: Array) -> Array:
    """Compute `jax.nn.sigmoid` in a form that XLA computes faster on a CPU.

    Its rounding error is that of one half: a sigmoid below 1e-7 becomes 0.
    """
    return 0.5 * jnp.tanh(0.5 * x) + 0.5


def _save(
    before: Float[Array, "time 5 batch hidden"], t: Array, gates: Gates, c: Float[Array, "batch hidden"]
) -> tuple[Array, Gates]:
    """Save the gates of a step and c before it; return the buffer, and the gates to continue with."""
    for place, value in enumerate((*gates, c)):
        before = lax.dynamic_update_slice(before, value[None, None], (t, place, 0, 0))

    def read_back(before: Array, gates: Gates) -> tuple[Array, Gates]:
        before = lax.optimization_barrier(before)
        i, f, g, o = (before[t, place] for place in range(4))
        return before, (i, f, g, o)

    return lax.platform_dependent(before, gates, cpu=read_back, default=lambda *same: same)


def _save_dz(
    all_dz: Float[Array, "time batch gates"], t: Array, dz: Gates
) -> tuple[Array, Float[Array, "batch gates"]]:
    """Save dz of a step; return the buffer, and dz of all gates side by side."""

    def read_back(all_dz: Array, *dz: Array) -> tuple[Array, Array]:
        for place, value in enumerate(dz):
            all_dz = lax.dynamic_update_slice(all_dz, value[None], (t, 0, place * value.shape[-1]))
        all_dz = lax.optimization_barrier(all_dz)
        return all_dz, all_dz[t]

    def at_once(all_dz: Array, *dz: Array) -> tuple[Array, Array]:
        whole = jnp.concatenate(dz, axis=-1)
        return lax.dynamic_update_index_in_dim(all_dz, whole, t, 0), whole

    return lax.platform_dependent(all_dz, *dz, cpu=read_back, default=at_once)


def _at(last: Int32[Array, " batch"], history: Float[Array, "time batch hidden"]) -> Array:
    return jnp.take_along_axis(history, last[None, :, None], axis=0)[0]


def _forward(
    dtype: Any, keep_outputs: bool, flat: Flat, *, perturbed: Any
) -> tuple[tuple[Carry, Array | None], Any]:
    """Compute what `_primal` does, and what the backward pass needs."""
    weights, inputs, carry, last, mask, resets, reset_carry = flat
    start, reset_start = _start(dtype, carry), _start(dtype, reset_carry)
    projected = _projected(dtype, weights.x, inputs)
    recurrent, bias = weights.h.astype(dtype), weights.bias.astype(projected.dtype)[None]

    def body(t: Array, state: tuple[Carry, Array, Array]) -> tuple[Carry, Array, Array]:
        (c, h), before, h_before = state
        c, h = after_reset(None if resets is None else resets[t], reset_start, (c, h))
        z = projected[t] + _product(masked(h, mask), recurrent, dtype) + bias
        before, gates = _save(before, t, _gates(jnp.split(z, 4, axis=-1)), c)
        return _state(gates, c), before, lax.dynamic_update_index_in_dim(h_before, h, t, 0)

    time = inputs.shape[0]
    shape = (time, *start[0].shape)
    before = jnp.zeros((shape[0], 5, *shape[1:]), projected.dtype)
    end, before, h_before = lax.fori_loop(
        0, as_number(time), body, (start, before, jnp.zeros(shape, projected.dtype))
    )
    cells: Array | None = None
    if resets is not None:  # the state before a step is not always the one after the step before
        i, f, g, o, c_before = (before[:, place] for place in range(5))
        cells, outputs = _state((i, f, g, o), c_before)
    else:
        outputs = jnp.concatenate([h_before[1:], end[1][None]])
        cells = None if last is None else jnp.concatenate([before[1:, 4], end[0][None]])
    if last is not None and cells is not None:
        end = (_at(last, cells), _at(last, outputs))
    return (end, outputs if keep_outputs else None), (flat, Saved(before, h_before, projected))


def _backward(
    dtype: Any, keep_outputs: bool, residuals: tuple[Flat, Saved], gradients: Any, *, perturbed: Any
) -> tuple[JoinedWeights, Array | None, Carry, None, None, None, Carry | None]:
    """Compute the gradients by weights, inputs and states; lengths, mask and resets have none."""
    (weights, inputs, carry, last, mask, resets, reset_carry), saved = residuals
    (dc_last, dh_last), d_outputs = gradients
    time, batch, num_inputs = inputs.shape
    zeros = jnp.zeros_like(saved.h_before[0])
    dc_last, dh_last = (zeros if d is None else d for d in (dc_last, dh_last))
    transposed = weights.h.T.astype(dtype)

    def body(
        steps_after: Array, state: tuple[Array, Array, Array, Carry | None]
    ) -> tuple[Array, Array, Array, Carry | None]:
        dc, dh, all_dz, of_reset = state
        t = as_number(time) - 1 - steps_after
        i, f, g, o, c_before = (saved.before[t, place] for place in range(5))
        if d_outputs is not None:
            dh = dh + d_outputs[t]
        if last is not None:
            is_last = (last == t)[:, None]
            dc, dh = dc + jnp.where(is_last, dc_last, zeros), dh + jnp.where(is_last, dh_last, zeros)
        tanh_c = jnp.tanh(f * c_before + i * g)
        dc = dc + dh * o * (1 - tanh_c * tanh_c)
        dz_by_gate = (
            dc * g * (i * (1 - i)),
            dc * c_before * (f * (1 - f)),
            dc * i * (1 - g * g),
            dh * tanh_c * (o * (1 - o)),
        )
        all_dz, dz = _save_dz(all_dz, t, dz_by_gate)
        dc, dh = dc * f, masked(_product(dz, transposed, dtype), mask)
        if resets is not None and of_reset is not None:  # this is the gradient by `reset_carry`, then
            reset = resets[t][:, None]
            of_step = (jnp.where(reset, d, zeros) for d in (dc, dh))
            of_reset = jax.tree.map(jnp.add, of_reset, tuple(of_step))
            dc, dh = (jnp.where(reset, zeros, d) for d in (dc, dh))
        return dc, dh, all_dz, of_reset

    end = (zeros, zeros) if last is not None else (dc_last, dh_last)
    of_reset = None if resets is None else (zeros, zeros)
    dc0, dh0, dz, of_reset = lax.fori_loop(
        0, as_number(time), body, (*end, saved.scratch, of_reset)
    )  # the loop overwrites every step of the scratch array

    both = jnp.concatenate([inputs.astype(dz.dtype), masked(saved.h_before, mask)], axis=-1)
    if _may_be_in_shards():
        d_kernels, d_bias = _product(both, dz, dtype, axes=((0, 1), (0, 1))), dz.sum((0, 1))
    else:
        # Two-dimensional operands: for a product over two axes, XLA on a CPU makes transposed copies.
        rows, d_rows = (array.reshape(time * batch, array.shape[-1]) for array in (both, dz))
        d_kernels, d_bias = _product(rows, d_rows, dtype, axes=((0,), (0,))), d_rows.sum(0)
    d_weights = JoinedWeights(d_kernels[:num_inputs], d_kernels[num_inputs:], d_bias)
    dx = _product(dz, weights.x, dtype, axes=((2,), (1,))).astype(inputs.dtype) if perturbed.inputs else None
    d_weights = jax.tree.map(lambda d, weight: d.astype(weight.dtype), d_weights, weights)
    d_carry, d_reset = jax.tree.map(
        lambda d, state: d.astype(state.dtype), ((dc0, dh0), of_reset), (carry, reset_carry)
    )
    return d_weights, dx, d_carry, None, None, None, d_reset


def _may_be_in_shards() -> bool:
    """Return whether XLA may spread the batch over devices; it would gather rows of (time * batch)."""
    return jax.device_count() > 1 and not jax.sharding.get_abstract_mesh().manual_axes


_ROWS = (-1, 1, 0, 0, 0, 1, 0)  # of `Flat`
_SAVED_ROWS = (2, 1, 1)  # before, h_before, scratch
steps = custom_gradient(
    _primal,
    _forward,
    _backward,
    statics=2,
    rows=Rows(arguments=_ROWS, residuals=(_ROWS, _SAVED_ROWS), results=(0, 1)),
    implementation="fused",
)

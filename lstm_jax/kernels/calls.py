"""The two calls of the C++ kernel as operations of JAX: forward and backward pass.

In a program for this machine they are calls through XLA's foreign function interface. In a program for others
(`jax.export`, or lowered for another platform) they are the steps of `fused`, which compute the same.

The first axis of arrays counts members, which are LSTMs of equal sizes with weights of their own: x (members,
time, batch, inputs), outputs (members, time, batch, hidden), states (members, batch, hidden).
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.core import ShapedArray
from jax.extend.core import Primitive
from jax.interpreters import mlir

from lstm_jax.kernels.fused import Weights, steps

PADDING = 16  # kPadding in cpp/lstm.h


def forward(rows: Sequence[Array], weights: Sequence[Array], num_results: int) -> list[Array]:
    """Run the forward pass.

    Args:
        rows: x, c0, h0, last, and the mask if there is one.
        weights: the kernels of x of the four gates, the kernels of h, the biases.
        num_results: 2 for the final c and h, 3 with the outputs, 5 with what the backward pass needs.
    """
    members, time, batch, _ = rows[0].shape
    hidden = rows[2].shape[-1]
    padded = -(-hidden // PADDING) * PADDING
    state, row = (members, batch, hidden), (members, time, batch)
    shapes = [state, state, (*row, hidden), (*row, padded), (*row, 4 * padded)]
    return _call(
        "lstm_jax_forward", shapes[:num_results], (*rows[:4], *weights, *rows[4:]), unseen=0, attributes=()
    )


def backward(
    rows: Sequence[Array], weights: Sequence[Array], *, groups: int, masked: bool, wants_dx: bool
) -> list[Array]:
    """Run the backward pass: dc0, dh0, the gradients by the 12 weights (members, groups, ...), and dx.

    Args:
        rows: x, c0, h0, last, outputs, cells, gates, dc, dh; the mask if there is one (``masked``); the
            gradients of the outputs if there are any.
        weights: those of the forward pass.
        groups: number of groups of equal size in the batch; each has gradients of its own.
        masked: whether there is a mask.
        wants_dx: whether to compute dx, the gradient by x.
    """
    x, _, h0, *_ = rows
    inputs, hidden = x.shape[-1], h0.shape[-1]
    by_weights = [(inputs, hidden)] * 4 + [(hidden, hidden)] * 4 + [(hidden,)] * 4
    shapes = [h0.shape] * 2 + [(len(x), groups, *shape) for shape in by_weights]
    if wants_dx:
        shapes.append(x.shape)
    # The kernel does not need the biases: it has saved the gates.
    operands = (*rows[:9], *weights[:8], *rows[9:], *weights[8:])
    attributes = (("groups", groups), ("masked", masked))
    return _call("lstm_jax_backward", shapes, operands, unseen=4, attributes=attributes)


# --------------------------------------------------------------------------------------------------
# The same in JAX. The order of what the kernel saves for its backward pass differs between kinds of
# processors. So it is not used here, but computed again.
# --------------------------------------------------------------------------------------------------


def _forward_in_jax(
    *operands: Array, shapes: Sequence[tuple[int, ...]], attributes: dict[str, Any]
) -> list[Array]:
    x, c0, h0, last, *rest = operands
    weights, mask = rest[:12], rest[12:]
    run: Callable[..., Any] = functools.partial(_member, keep_outputs=len(shapes) > 2)
    (c, h), outputs = jax.vmap(run)(weights, x, (c0, h0), last, mask)
    private = [jnp.zeros(shape, jnp.float32) for shape in shapes[3:]]
    return [c, h, *([] if outputs is None else [outputs]), *private]


def _backward_in_jax(
    *operands: Array, shapes: Sequence[tuple[int, ...]], attributes: dict[str, Any]
) -> list[Array]:
    x, c0, h0, last, outputs, _, _, dc, dh, *rest = operands
    kernels, rest, biases = rest[:8], rest[8:-4], rest[-4:]
    mask = [rest.pop(0)] if attributes["masked"] else []
    d_outputs = rest[0] if rest else jnp.zeros_like(outputs)
    groups = attributes["groups"]

    def member(weights: list[Array], sequences: Any, states: Any) -> Any:
        (x, d_outputs), (carry, last, mask, d_carry) = sequences, states
        run: Callable[..., Any] = functools.partial(_member, keep_outputs=True)
        _, pull_back = jax.vjp(lambda *primals: run(*primals, last, mask), weights, x, carry)
        return pull_back((d_carry, d_outputs))

    def grouped(weights: list[Array], sequences: Any, states: Any) -> Any:
        by_group = functools.partial(_in_groups, groups=groups)
        sequences = jax.tree.map(functools.partial(by_group, axis=1), sequences)
        states = jax.tree.map(functools.partial(by_group, axis=0), states)
        d_weights, dx, d_carry = jax.vmap(member, (None, 0, 0), (0, 1, 0))(weights, sequences, states)
        states = [state.reshape(-1, state.shape[-1]) for state in d_carry]
        return [*states, *d_weights, dx.reshape(len(dx), -1, dx.shape[-1])]

    sequences, states = (x, d_outputs), ((c0, h0), last, mask, (dc, dh))
    return jax.vmap(grouped)([*kernels, *biases], sequences, states)[: len(shapes)]


def _in_groups(array: Array, *, groups: int, axis: int) -> Array:
    """Split the rows of a batch on ``axis`` into groups, and put the groups first."""
    return jnp.moveaxis(array.reshape(*array.shape[:axis], groups, -1, *array.shape[axis + 1 :]), axis, 0)


def _member(
    weights: Sequence[Array], x: Array, carry: Any, last: Array, mask: Sequence[Array], *, keep_outputs: bool
) -> Any:
    together = (jnp.concatenate(weights[place : place + 4], axis=-1) for place in (0, 4, 8))
    return steps(jnp.float32, keep_outputs, Weights(*together), x, carry, last, mask[0] if mask else None)


# --------------------------------------------------------------------------------------------------
# The operation
# --------------------------------------------------------------------------------------------------

_IN_JAX: dict[str, Callable[..., list[Array]]] = {
    "lstm_jax_forward": _forward_in_jax,
    "lstm_jax_backward": _backward_in_jax,
}


def _call(
    target: str,
    shapes: Sequence[tuple[int, ...]],
    operands: Sequence[Array],
    *,
    unseen: int,
    attributes: tuple[tuple[str, Any], ...],
) -> list[Array]:
    return _call_p.bind(*operands, target=target, shapes=tuple(shapes), unseen=unseen, attributes=attributes)


def _as_kernel(
    *operands: Array, target: str, shapes: Any, unseen: int, attributes: tuple[tuple[str, Any], ...]
) -> list[Array]:
    results = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]
    seen = operands[: len(operands) - unseen]
    return list(jax.ffi.ffi_call(target, results)(*seen, **dict(attributes)))


def _in_jax(
    *operands: Array, target: str, shapes: Any, unseen: int, attributes: tuple[tuple[str, Any], ...]
) -> list[Array]:
    return _IN_JAX[target](*operands, shapes=shapes, attributes=dict(attributes))


def _lower_on_cpu(context: Any, *operands: Any, **parameters: Any) -> Any:
    exported = getattr(context.module_context.lowering_parameters, "for_export", False)
    function = _in_jax if exported else _as_kernel
    return mlir.lower_fun(function, multiple_results=True)(context, *operands, **parameters)


@functools.cache
def _compiled(**parameters: Any) -> Callable[..., list[Array]]:
    return jax.jit(functools.partial(_call_p.bind, **parameters))


_call_p = Primitive("lstm_jax_kernel")
_call_p.multiple_results = True
_call_p.def_impl(lambda *operands, **parameters: _compiled(**parameters)(*operands))
_call_p.def_abstract_eval(lambda *_, shapes, **__: [ShapedArray(shape, jnp.float32) for shape in shapes])
mlir.register_lowering(_call_p, _lower_on_cpu, platform="cpu")
mlir.register_lowering(_call_p, mlir.lower_fun(_in_jax, multiple_results=True))

"""The two calls of the C++ kernel as operations of JAX: forward and backward pass.

In a program for this machine they are calls through XLA's foreign function interface. In a program for others
(`jax.export`, or lowered for another platform) they are the steps of `fused`, which compute the same.

The first axis of arrays counts members, which are LSTMs of equal sizes with weights of their own: x (members,
time, batch, inputs), outputs (members, time, batch, hidden), states (members, batch, hidden).
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
from jax import Array
from jax.core import ShapedArray
from jax.extend.core import Primitive
from jax.interpreters import mlir
from jaxtyping import Bool, Float32, Int32

from lstm_jax.kernels import fused, products
from lstm_jax.system.versions import is_exported

PADDING = 16  # kPadding in cpp/lstm.h
NUM_WEIGHTS = 12  # arrays of `WeightsByGate`

States: TypeAlias = tuple[Float32[Array, "members batch hidden"], Float32[Array, "members batch hidden"]]


class WeightsByGate(NamedTuple):
    """The kernel of x, the kernel of h and the bias of each gate i, f, g, o."""

    x: list[Float32[Array, "members inputs hidden"]]
    h: list[Float32[Array, "members hidden hidden"]]
    bias: list[Float32[Array, "members hidden"]]


class Forward(NamedTuple):
    """The operands of the forward pass, in the order of cpp/handlers.cc.

    Attributes:
        x: the sequences.
        c0, h0: the state before the first step.
        last: the step after which each sequence's state is taken.
        weights: those of all members.
        mask: what h is multiplied by on its way to W_h; None changes nothing.
        resets: before which steps a new sequence begins; None is nowhere.
        reset: the state (c, h) that such a sequence begins with; it comes with ``resets``.
    """

    x: Float32[Array, "members time batch inputs"]
    c0: Float32[Array, "members batch hidden"]
    h0: Float32[Array, "members batch hidden"]
    last: Int32[Array, "members batch"]
    weights: WeightsByGate
    mask: Float32[Array, "members batch hidden"] | None
    resets: Bool[Array, "members time batch 1"] | None
    reset: States | None


class Backward(NamedTuple):
    """The operands of the backward pass, in the order of cpp/handlers.cc.

    Attributes:
        x, c0, h0, last: operands of the forward pass.
        outputs, cells, gates: its results.
        dc, dh: the gradients by the final state.
        kernels: the kernels of x and of h of each gate.
        mask, resets, reset: operands of the forward pass.
        d_outputs: the gradients by the outputs; None where they are zero.
        biases: of each gate; the kernel does not need them, as it has saved the gates.
    """

    x: Float32[Array, "members time batch inputs"]
    c0: Float32[Array, "members batch hidden"]
    h0: Float32[Array, "members batch hidden"]
    last: Int32[Array, "members batch"]
    outputs: Float32[Array, "members time batch hidden"]
    cells: Float32[Array, "members time batch padded"]
    gates: Float32[Array, "members time batch padded4"]
    dc: Float32[Array, "members batch hidden"]
    dh: Float32[Array, "members batch hidden"]
    kernels: tuple[list[Array], list[Array]]
    mask: Float32[Array, "members batch hidden"] | None
    resets: Bool[Array, "members time batch 1"] | None
    reset: States | None
    d_outputs: Float32[Array, "members time batch hidden"] | None
    biases: list[Array]


Operands = Forward | Backward


class Way(NamedTuple):
    """How the kernel multiplies.

    Attributes:
        bfloat16: whether the factors of products may be rounded to bfloat16, where that is faster.
        products: the kind of products (`products.KINDS`); None is the faster one here.
    """

    bfloat16: bool = False
    products: str | None = None


# The fields of `Operands` that hold no rows of a batch.
OF_MEMBERS = ("weights", "kernels", "biases")


def forward(operands: Forward, num_results: int, *, way: Way) -> list[Array]:
    """Run the forward pass.

    Args:
        operands: weights, sequences and states.
        num_results: 2 for the final c and h, 3 with the outputs, 5 with what the backward pass needs.
        way: how to multiply.
    """
    members, time, batch, _ = operands.x.shape
    hidden = operands.h0.shape[-1]
    padded = -(-hidden // PADDING) * PADDING
    state, row = (members, batch, hidden), (members, time, batch)
    shapes = [state, state, (*row, hidden), (*row, padded), (*row, 4 * padded)]
    attributes = (*way._asdict().items(), *_present(operands))
    return _call("lstm_jax_forward", shapes[:num_results], operands, unseen=0, attributes=attributes)


def backward(operands: Backward, *, groups: int, wants_dx: bool, way: Way) -> list[Array]:
    """Run the backward pass.

    The gradients are those by c0, by h0, by the 12 weights (members, groups, ...), and by x and ``reset``.

    Args:
        operands: weights, sequences, states and gradients.
        groups: number of groups of equal size in the batch; each has gradients of its own.
        wants_dx: whether to compute dx, the gradient by x.
        way: how to multiply.
    """
    x, h0 = operands.x, operands.h0
    inputs, hidden = x.shape[-1], h0.shape[-1]
    by_weights = [(inputs, hidden)] * 4 + [(hidden, hidden)] * 4 + [(hidden,)] * 4
    shapes = [h0.shape] * 2 + [(len(x), groups, *shape) for shape in by_weights]
    if wants_dx:
        shapes.append(x.shape)
    if operands.reset is not None:
        shapes += [h0.shape] * 2
    attributes = (("groups", groups), *way._asdict().items(), *_present(operands))
    unseen = len(operands.biases)
    return _call("lstm_jax_backward", shapes, operands, unseen=unseen, attributes=attributes)


def _present(operands: Operands) -> tuple[tuple[str, bool], ...]:
    """Say which of the operands that may be missing are there."""
    return (("masked", operands.mask is not None), ("with_resets", operands.resets is not None))


# --------------------------------------------------------------------------------------------------
# The same in JAX. The order of what the kernel saves for its backward pass differs between kinds of
# processors. So it is not used here, but computed again.
# --------------------------------------------------------------------------------------------------


def _forward_in_jax(
    operands: Forward, *, shapes: Sequence[tuple[int, ...]], attributes: dict[str, Any]
) -> list[Array]:
    run: Callable[..., Any] = functools.partial(_member, attributes["bfloat16"], len(shapes) > 2)
    carry = (operands.c0, operands.h0)
    rest = (operands.last, operands.mask, operands.resets, operands.reset)
    (c, h), outputs = jax.vmap(run)(operands.weights, operands.x, carry, *rest)
    private = [jnp.zeros(shape, jnp.float32) for shape in shapes[3:]]
    return [c, h, *([] if outputs is None else [outputs]), *private]


def _backward_in_jax(
    operands: Backward, *, shapes: Sequence[tuple[int, ...]], attributes: dict[str, Any]
) -> list[Array]:
    d_outputs = jnp.zeros_like(operands.outputs) if operands.d_outputs is None else operands.d_outputs
    groups = attributes["groups"]
    by_reset = 0 if operands.reset is None else 2
    wants_dx = len(shapes) > NUM_WEIGHTS + 2 + by_reset

    def member(weights: WeightsByGate, sequences: Any, states: Any) -> Any:
        (x, d_outputs, resets), (carry, reset, last, mask, d_carry) = sequences, states

        def run(weights: WeightsByGate, x: Array, carry: Any, reset: Any) -> Any:
            return _member(attributes["bfloat16"], True, weights, x, carry, last, mask, resets, reset)

        _, pull_back = jax.vjp(run, weights, x, carry, reset)
        return pull_back((d_carry, d_outputs))

    def grouped(weights: WeightsByGate, sequences: Any, states: Any) -> Any:
        by_group = functools.partial(_in_groups, groups=groups)
        sequences = jax.tree.map(functools.partial(by_group, axis=1), sequences)
        states = jax.tree.map(functools.partial(by_group, axis=0), states)
        d_weights, dx, *d_states = jax.vmap(member, (None, 0, 0), (0, 1, 0, 0))(weights, sequences, states)
        d_carry, d_reset = jax.tree.map(lambda state: state.reshape(-1, state.shape[-1]), d_states)
        by_x = [dx.reshape(len(dx), -1, dx.shape[-1])] if wants_dx else []
        return [*d_carry, *jax.tree.leaves(d_weights), *by_x, *jax.tree.leaves(d_reset)]

    sequences = (operands.x, d_outputs, operands.resets)
    carry, d_carry = (operands.c0, operands.h0), (operands.dc, operands.dh)
    states = (carry, operands.reset, operands.last, operands.mask, d_carry)
    weights = WeightsByGate(*operands.kernels, operands.biases)
    return jax.vmap(grouped)(weights, sequences, states)


def _in_groups(array: Array, *, groups: int, axis: int) -> Array:
    """Split the rows of a batch on ``axis`` into groups, and put the groups first."""
    return jnp.moveaxis(array.reshape(*array.shape[:axis], groups, -1, *array.shape[axis + 1 :]), axis, 0)


def _member(
    bfloat16: bool,
    keep_outputs: bool,
    weights: WeightsByGate,
    x: Array,
    carry: Any,
    last: Array,
    mask: Array | None,
    resets: Array | None,
    reset: Any,
) -> Any:
    resets = None if resets is None else resets[..., 0]
    together = fused.JoinedWeights(*(jnp.concatenate(by_gate, axis=-1) for by_gate in weights))
    dtype = jnp.bfloat16 if bfloat16 else jnp.float32
    return fused.steps(dtype, keep_outputs, fused.Flat(together, x, carry, last, mask, resets, reset))


# --------------------------------------------------------------------------------------------------
# The operation
# --------------------------------------------------------------------------------------------------

# The results of a forward pass: the state, and the outputs. Any others are for the backward pass.
_SEEN_RESULTS = 3

_IN_JAX: dict[str, Callable[..., list[Array]]] = {
    "lstm_jax_forward": _forward_in_jax,
    "lstm_jax_backward": _backward_in_jax,
}


def _call(
    target: str,
    shapes: Sequence[tuple[int, ...]],
    operands: Operands,
    *,
    unseen: int,
    attributes: tuple[tuple[str, Any], ...],
) -> list[Array]:
    leaves, structure = jax.tree.flatten(operands)
    parameters = {"target": target, "shapes": tuple(shapes), "structure": structure}
    return _call_p.bind(*leaves, **parameters, unseen=unseen, attributes=attributes)


def _as_kernel(
    *leaves: Array,
    target: str,
    shapes: Any,
    structure: Any,
    unseen: int,
    attributes: tuple[tuple[str, Any], ...],
) -> list[Array]:
    """Call the kernel, which does not see the last ``unseen`` arrays."""
    results = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]
    seen, given = leaves[: len(leaves) - unseen], dict(attributes)
    (members, time, batch, inputs), hidden = leaves[0].shape, leaves[2].shape[-1]  # of x, of h0
    task = products.Task(members, time, batch, inputs, hidden, given["bfloat16"], products.most_threads())
    kind = given["products"] or products.choose(task)
    is_for_backward = target == "lstm_jax_backward" or len(shapes) > _SEEN_RESULTS
    threads = 1 if task.is_for_one_thread() and not is_for_backward else task.threads
    given |= {"products": products.CODES[kind], "most_threads": threads}
    return list(jax.ffi.ffi_call(target, results)(*seen, **given))


def _in_jax(
    *leaves: Array,
    target: str,
    shapes: Any,
    structure: Any,
    unseen: int,
    attributes: tuple[tuple[str, Any], ...],
) -> list[Array]:
    operands = jax.tree.unflatten(structure, leaves)
    return _IN_JAX[target](operands, shapes=shapes, attributes=dict(attributes))


def _lower_on_cpu(context: Any, *operands: Any, **parameters: Any) -> Any:
    function = _in_jax if is_exported(context) else _as_kernel
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

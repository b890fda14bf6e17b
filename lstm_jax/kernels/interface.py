"""The interface of an implementation of the LSTM: arguments and results.

Sequences have time first: (T, *B, D) in, (T, *B, H) out, where T counts the time steps, B the
sequences, D the inputs and H the hidden units.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol, TypeAlias, runtime_checkable

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int32

from lstm_jax.kernels.gate_order import GATES

Carry: TypeAlias = tuple[Float[Array, "*batch hidden"], Float[Array, "*batch hidden"]]
CellParameters: TypeAlias = Mapping[str, Mapping[str, Array]]
# The length of an axis: a number, or a symbol that `jax.export` leaves open.
AxisSize: TypeAlias = Any


class Arguments(NamedTuple):
    """What an implementation computes with.

    Attributes:
        params: the weights, as `nn.LSTMCell` names them.
        inputs: the sequences, time first.
        carry: the state (c, h) before the first step, in the dtypes that it has after each.
        lengths: the number of steps after which to take the carry, from 0 to all; None means all. As in
            `nn.RNN`, a length of 0 takes the last step of all.
        mask: what h_{t-1} is multiplied by on its way to W_h, the same in all steps (see
            `dropout.recurrent_mask`); None changes nothing. It is taken as constant in differentiation.
        resets: before which steps a new sequence begins; None is nowhere.
        reset_carry: the state (c, h) that such a sequence begins with; it comes with ``resets``.
    """

    params: CellParameters
    inputs: Float[Array, "time *batch inputs"]
    carry: Carry
    lengths: Int32[Array, "*batch"] | None = None
    mask: Float[Array, "*batch hidden"] | None = None
    resets: Bool[Array, "time *batch"] | None = None
    reset_carry: Carry | None = None


# The carry after the last step, and the outputs of all steps, the padding included; None if not wanted.
Results: TypeAlias = tuple[Carry, Float[Array, "time *batch hidden"] | None]


@runtime_checkable  # so that type checkers at run time accept it as a hint
class Implementation(Protocol):
    """A function that runs an LSTM over sequences."""

    def __call__(self, cell: nn.LSTMCell, arguments: Arguments, *, keep_outputs: bool) -> Results:
        """Run the LSTM.

        Args:
            cell: the hyperparameters; it holds no weights.
            arguments: the weights, sequences and states.
            keep_outputs: whether the outputs are wanted.
        """


def masked(h: Float[Array, "*any hidden"], mask: Float[Array, "*batch hidden"] | None) -> Array:
    """Apply a mask to h: (*batch, hidden) of one step, or (time, *batch, hidden) of all."""
    return h if mask is None else h * jnp.broadcast_to(mask.astype(h.dtype), h.shape)


def after_reset(reset: Bool[Array, "*batch"] | None, reset_carry: Carry | None, carry: Carry) -> Carry:
    """Return the state before a step: ``reset_carry`` where a new sequence begins."""
    if reset is None or reset_carry is None:
        return carry
    c, h = (
        jnp.where(reset[..., None], first, state) for first, state in zip(reset_carry, carry, strict=True)
    )
    return c, h


def by_kind(params: CellParameters) -> tuple[list[Array], list[Array], list[Array]]:
    """Return the kernels of x, the kernels of h and the biases, each in the order of the gates."""
    return (
        [params[f"i{gate}"]["kernel"] for gate in GATES],
        [params[f"h{gate}"]["kernel"] for gate in GATES],
        [params[f"h{gate}"]["bias"] for gate in GATES],
    )


def from_kinds(
    of_inputs: Sequence[Array], of_state: Sequence[Array], biases: Sequence[Array]
) -> CellParameters:
    """Return the parameters of kernels of x, kernels of h and biases, each in the order of the gates."""
    params: dict[str, Mapping[str, Array]] = {}
    for gate, x_kernel, h_kernel, bias in zip(GATES, of_inputs, of_state, biases, strict=True):
        params |= {f"i{gate}": {"kernel": x_kernel}, f"h{gate}": {"kernel": h_kernel, "bias": bias}}
    return params


def last_step(
    lengths: Int32[Array, "*batch"] | None, time: AxisSize, batch: tuple[AxisSize, ...]
) -> Int32[Array, "*batch"]:
    """Return the index of the step after which each sequence's final carry is taken."""
    if lengths is None:
        return jnp.full(batch, as_number(time) - 1, jnp.int32)
    return (lengths - 1) % as_number(time)  # a length of 0 gives the last step


def as_number(size: AxisSize) -> int | Int32[Array, ""]:
    """Return the length of an axis as a number to calculate with."""
    return size if isinstance(size, int) else jnp.asarray(size, jnp.int32)


def has_usual_activations(cell: nn.LSTMCell) -> bool:
    """Return whether the gates are sigmoids and the other activation is tanh, as the kernels have them."""
    return cell.gate_fn in (nn.sigmoid, jax.nn.sigmoid) and cell.activation_fn in (nn.tanh, jnp.tanh)


def computed_dtype(
    cell: nn.LSTMCell, params: CellParameters, inputs: Float[Array, "time *batch inputs"], carry: Carry
) -> jnp.dtype:
    """Return the dtype in which `nn.LSTMCell` multiplies."""
    return jnp.dtype(cell.dtype) if cell.dtype else promoted(inputs, carry[1], *jax.tree.leaves(params))


def promoted(*arrays_or_dtypes: Any) -> jnp.dtype:
    """Return the dtype of arithmetic with these in Flax, whose cells mix states and gates of two dtypes."""
    with jax.numpy_dtype_promotion("standard"):
        return jnp.dtype(jnp.result_type(*arrays_or_dtypes))

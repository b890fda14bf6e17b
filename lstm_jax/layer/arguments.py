"""The arguments of a call: accepted in every form that has one meaning, else refused in words.

This is done once, before an implementation is chosen, so that all implementations treat them alike.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int32

from lstm_jax.kernels.gate_order import GATES
from lstm_jax.kernels.interface import AxisSize, Carry, CellParameters, as_number, computed_dtype, promoted


def check_features(features: Any) -> None:
    """Refuse what is not a number of hidden units.

    Raises:
        ValueError: with what was given.
    """
    if isinstance(features, nn.Module):
        kind = type(features).__name__
        raise ValueError(f"features: got a module {kind}, expected a number of hidden units")
    if isinstance(features, bool) or not isinstance(features, int | np.integer) or features < 1:
        raise ValueError(f"features: got {features!r}, expected a whole number of hidden units, 1 or more")


def check_inputs(
    inputs: Any, layouts: str = "(*batch, time, inputs), or (time, *batch, inputs) with time_major"
) -> None:
    """Refuse what is not an array of sequences; ``layouts`` says which ones the caller takes.

    Raises:
        ValueError: with what was given.
    """
    expected = f"expected an array {layouts}"
    if not isinstance(inputs, jax.Array | np.ndarray):
        raise ValueError(f"inputs: got a {type(inputs).__name__}, {expected}")
    if inputs.ndim < 2:
        raise ValueError(f"inputs: got shape {inputs.shape}, {expected}")


def as_carry(
    given: Any,
    shape: tuple[AxisSize, ...],
    *,
    argument: str = "initial_carry",
    parts: tuple[str, str] = ("c", "h"),
) -> Carry:
    """Return the state, from a tuple, a list or one array of both parts.

    Args:
        given: two arrays, or one array whose first axis has size 2.
        shape: the shape of each, (*batch, features).
        argument: what the user calls it.
        parts: what the two arrays are, in the order in which they are given and returned.

    Raises:
        ValueError: if it is something else.
    """
    try:
        first, second = (jnp.asarray(state) for state in given)
    except (TypeError, ValueError) as error:
        expected = f"expected two arrays ({', '.join(parts)}) of shape {shape}"
        raise ValueError(f"{argument}: got {_described(given)}, {expected}") from error
    for name, state in zip(parts, (first, second), strict=True):
        if state.shape != shape:
            raise ValueError(f"{argument}: got {name} of shape {state.shape}, expected {shape}")
        if not jnp.issubdtype(state.dtype, jnp.floating):
            raise ValueError(f"{argument}: got {name} of dtype {state.dtype}, expected floating point")
    return first, second


def in_dtypes_of_steps(
    cell: nn.LSTMCell, params: CellParameters, inputs: Float[Array, "time *batch inputs"], carry: Carry
) -> Carry:
    """Return the state in the dtypes that a step returns, so that a step does not change them."""
    dtype = promoted(computed_dtype(cell, params, inputs, carry), carry[0])
    c, h = (state.astype(dtype) for state in carry)
    return c, h


def as_lengths(given: Any, time: AxisSize, batch: Sequence[AxisSize]) -> Int32[Array, "*batch"] | None:
    """Return the lengths of the sequences, from 0 to ``time``.

    Args:
        given: integers of the shape of the batch: an array, a list, a number; None is no lengths.
        time: the number of time steps; a larger length counts as this one.
        batch: the shape of the batch.

    Raises:
        ValueError: if they are something else.
    """
    if given is None:
        return None
    lengths = _as_array("seq_lengths", given, "integers")
    if not jnp.issubdtype(lengths.dtype, jnp.integer):
        raise ValueError(f"seq_lengths: got dtype {lengths.dtype}, expected integers")
    if lengths.shape != tuple(batch):
        raise ValueError(f"seq_lengths: got shape {lengths.shape}, expected {tuple(batch)}, as the batch")
    return jnp.clip(lengths.astype(jnp.int32), 0, as_number(time))


def as_cell_parameters(given: Any, num_inputs: int) -> CellParameters:
    """Return the parameters of an `nn.LSTMCell`, checked.

    Args:
        given: a tree as `functional.lstm` describes it.
        num_inputs: the number of features of the inputs.

    Raises:
        ValueError: if it is something else.
    """
    expected = "expected the tree of an nn.LSTMCell, {'ii': {'kernel'}, 'hi': {'kernel', 'bias'}, ...}"
    if not isinstance(given, Mapping):
        raise ValueError(f"params: got {_described(given)}, {expected}")
    for name in ("params", "cell"):
        if name in given:
            raise ValueError(f"params: got a tree with {name!r} in it, {expected}; use params[{name!r}]")
    if set(given) != {f"{kind}{gate}" for kind in "ih" for gate in GATES}:
        raise ValueError(f"params: got {', '.join(map(repr, sorted(map(str, given))))}, {expected}")
    for name, leaves in given.items():
        names = {"kernel"} if name[0] == "i" else {"kernel", "bias"}
        if not isinstance(leaves, Mapping) or set(leaves) != names:
            got = sorted(leaves) if isinstance(leaves, Mapping) else _described(leaves)
            raise ValueError(f"params[{name!r}]: got {got}, expected {sorted(names)}")
    hidden = np.shape(given["hi"]["bias"])[-1:] or (1,)
    of_inputs = {np.shape(given[f"i{gate}"]["kernel"]) for gate in GATES}
    # If all four take another number of features, it is the inputs that do not fit.
    if len(of_inputs) == 1 and (shape := of_inputs.pop())[1:] == hidden and shape[0] != num_inputs:
        raise ValueError(f"inputs: got {num_inputs} features, expected {shape[0]}, as the cell has")
    for name, leaves in given.items():
        rows = (num_inputs,) if name[0] == "i" else hidden
        for leaf, shape in (("kernel", (*rows, *hidden)), ("bias", hidden)):
            if leaf in leaves and np.shape(leaves[leaf]) != shape:
                got = np.shape(leaves[leaf])
                raise ValueError(f"params[{name!r}][{leaf!r}]: got shape {got}, expected {shape}")
    return given


def as_resets(
    given: Any, time: AxisSize, batch: Sequence[AxisSize], time_axis: int
) -> Bool[Array, "time *batch"] | None:
    """Return where the state is reset, time first.

    Args:
        given: booleans in the layout of the inputs, without their features; None is nowhere.
        time: the number of time steps.
        batch: the shape of the batch.
        time_axis: the place of the time steps in ``given``.

    Raises:
        ValueError: if they are something else.
    """
    if given is None:
        return None
    resets = _as_array("resets", given, "booleans")
    shape = (*batch[:time_axis], time, *batch[time_axis:])
    if resets.dtype != jnp.bool_:
        raise ValueError(f"resets: got dtype {resets.dtype}, expected booleans")
    if resets.shape != shape:
        raise ValueError(f"resets: got shape {resets.shape}, expected {shape}, as the inputs")
    return jnp.moveaxis(resets, time_axis, 0)


def as_reset_carry(given: Any, carry: Carry, resets: Array | None) -> Carry | None:
    """Return the state that new sequences begin with, in the dtypes of the initial one; None without resets.

    Args:
        given: the state, in a form that `as_carry` takes; None is zeros.
        carry: the initial one.
        resets: where new sequences begin; None is nowhere.

    Raises:
        ValueError: if it is something else, also where no sequence begins.
    """
    states = None if given is None else as_carry(given, carry[0].shape, argument="reset_carry")
    if resets is None:
        return None
    if states is None:
        states = jnp.zeros_like(carry[0]), jnp.zeros_like(carry[1])
    c, h = (state.astype(like.dtype) for state, like in zip(states, carry, strict=True))
    return c, h


def resets_in_reverse(
    resets: Bool[Array, "time *batch"], lengths: Int32[Array, "*batch"] | None
) -> Bool[Array, "time *batch"]:
    """Return where to reset the state, in the order of the inputs, if sequences are read from their end.

    Forward, a piece begins at its first step; in reverse at its last, the one before the next piece. No piece
    begins in the padding behind ``lengths``.
    """
    if lengths is not None:
        resets &= _is_step(resets, lengths)
    return jnp.concatenate([resets[1:], jnp.zeros_like(resets[:1])])


def without_spoilt_padding(
    inputs: Float[Array, "time *batch inputs"], lengths: Int32[Array, "*batch"]
) -> Float[Array, "time *batch inputs"]:
    """Replace padding that is not finite by zeros.

    The gradient of an output that a loss does not use is zero, and zero times NaN is NaN: a NaN in the
    padding would reach the gradients of all weights. Very large numbers count as infinite, because products
    with them may be. Other padding stays as it is, and its outputs are those of `nn.RNN`.

    Args:
        inputs: sequences with their padding at the end.
        lengths: number of steps of each that are not padding.
    """
    if not jnp.issubdtype(inputs.dtype, jnp.floating):
        return inputs
    too_large = jnp.asarray(float(jnp.finfo(inputs.dtype).max) ** 0.5, inputs.dtype)
    stays = _is_step(inputs, lengths)[..., None] | (jnp.abs(inputs) < too_large)
    return jnp.where(stays, inputs, jnp.zeros_like(inputs))


def _is_step(of_steps: Array, lengths: Int32[Array, "*batch"]) -> Bool[Array, "time *batch"]:
    """Return which steps are not padding, of an array that has time first."""
    time = of_steps.shape[0]
    return jnp.arange(time, dtype=jnp.int32).reshape(time, *(1 for _ in lengths.shape)) < lengths[None]


def _as_array(name: str, given: Any, expected: str) -> Array:
    try:
        return jnp.asarray(given)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{name}: got {_described(given)}, expected {expected}") from error


def _described(given: Any) -> str:
    shape = getattr(given, "shape", None)
    if shape is not None:
        return f"an array of shape {shape}"
    if isinstance(given, Sequence) and not isinstance(given, str):
        return f"a {type(given).__name__} of {len(given)}"
    return f"a {type(given).__name__}"

r"""The LSTM as a function: equations, reference implementations, choice of implementation.

One step reads the input x_t and the state (c_{t-1}, h_{t-1}) and writes (c_t, h_t)
(Hochreiter & Schmidhuber 1997, https://doi.org/10.1162/neco.1997.9.8.1735, with the forget gate of
Gers, Schmidhuber & Cummins 2000, https://doi.org/10.1162/089976600300015015):

    z_t = W_x x_t + W_h h_{t-1} + b             z = (z_i, z_f, z_g, z_o)
    c_t = sigmoid(z_f) * c_{t-1} + sigmoid(z_i) * tanh(z_g)
    h_t = sigmoid(z_o) * tanh(c_t)

The forget gate f says how much of the memory c stays, the input gate i how much of the candidate g is
written to it, the output gate o how much of it shows in the output h. ``*`` is element by element.

Conventions: gate order i, f, g, o; the state ("carry") is (c, h), as in Flax (PyTorch and Equinox
have (h, c)); one bias per gate (PyTorch has two). The parameters are those of
``nn.LSTMCell(features)``, by name and shape:

    params = {"ii": {"kernel"}, "hi": {"kernel", "bias"}, ...}                gates i, f, g, o

Implementations have time first: (T, *B, D) in, (T, *B, H) out, where T counts the time steps, B the
sequences, D the inputs and H the hidden units.

`lstm` is what the layers call: `linen.py` for Flax Linen, `nnx.py` for Flax NNX, `equinox.py` for Equinox.
"""

from collections.abc import Callable, Mapping
from functools import partial
from types import MappingProxyType
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from flax.linen import initializers
from flax.linen.recurrent import flip_sequences
from flax.typing import Dtype
from jaxtyping import Array, Float, Int32

from lstm_jax.kernels import NATIVE
from lstm_jax.kernels.choice import Work, choose
from lstm_jax.kernels.fused import fused
from lstm_jax.kernels.interface import (
    Arguments,
    Carry,
    Implementation,
    Results,
    after_reset,
    last_step,
    masked,
)
from lstm_jax.kernels.native import native
from lstm_jax.layer.arguments import (
    as_carry,
    as_cell_parameters,
    as_lengths,
    as_reset_carry,
    as_resets,
    check_inputs,
    in_dtypes_of_steps,
    resets_in_reverse,
    without_spoilt_padding,
)
from lstm_jax.layer.wrappers import in_parts, in_shards
from lstm_jax.system.versions import not_tabulated

# --------------------------------------------------------------------------------------------------
# The reference implementations. CONTRIBUTING.md says how to add one.
# --------------------------------------------------------------------------------------------------


def scan(cell: nn.LSTMCell, arguments: Arguments, *, keep_outputs: bool, unroll: int = 1) -> Results:
    """Run `nn.scan` over `nn.LSTMCell`: one step after the other in a compiled loop; the reference.

    It stays for ever as the oracle that the fast implementations are tested against, and is
    TensorFlow's ``dynamic_rnn``. See `interface.Implementation`; ``unroll`` says how many steps to write out
    in one turn of the loop.
    """
    params, inputs, initial, lengths, mask, resets, reset_carry = arguments

    def step(
        cell: nn.LSTMCell, carry: Carry, of_step: tuple[Array, Array | None]
    ) -> tuple[Carry, tuple[Array | None, Array | None]]:
        x, reset = of_step
        carry = after_reset(reset, reset_carry, carry)
        # Flax's cell computes the gates. `compare/judge.py` has the same in NumPy, `kernels/fused.py`
        # and, with all gates kept, `explain/reading.py` in JAX.
        (c, h), output = cell((carry[0], masked(carry[1], mask)), x)
        # Histories are large: they are kept only if they are needed.
        return (c, h), (
            None if lengths is None else c,
            output if keep_outputs or lengths is not None else None,
        )

    def loop(
        cell: nn.LSTMCell, carry: Carry, of_steps: tuple[Array, Array | None]
    ) -> tuple[Carry, tuple[Array | None, Array | None]]:
        scanned = nn.scan(step, variable_broadcast="params", split_rngs={"params": False}, unroll=unroll)
        return scanned(cell, carry, of_steps)

    with not_tabulated():
        carry, (cells, outputs) = nn.apply(loop, cell)({"params": params}, initial, (inputs, resets))
    if lengths is not None and cells is not None and outputs is not None:
        carry = _carry_after(lengths, cells, outputs)
    return carry, outputs if keep_outputs else None


def unrolled(cell: nn.LSTMCell, arguments: Arguments, *, keep_outputs: bool) -> Results:
    """Run the static RNN: the loop runs while tracing, so that every step stands in the program by itself.

    TensorFlow's ``unstack`` and ``static_rnn``. The compiler sees all steps at once, and takes time in
    proportion to their number. See `interface.Implementation`.
    """
    params, inputs, carry, lengths, mask, resets, reset_carry = arguments
    if not len(inputs):  # there is no step that would show the dtype of the outputs
        return carry, jnp.zeros((0, *carry[1].shape), carry[1].dtype) if keep_outputs else None
    step: Callable[..., Any] = partial(cell.apply, {"params": params})
    cells, outputs = [], []
    with not_tabulated():
        for t, x in enumerate(inputs):
            carry = after_reset(None if resets is None else resets[t], reset_carry, carry)
            carry, output = step((carry[0], masked(carry[1], mask)), x)
            cells.append(carry[0])
            outputs.append(output)
    if lengths is not None:
        carry = _carry_after(lengths, jnp.stack(cells), jnp.stack(outputs))
    return carry, jnp.stack(outputs) if keep_outputs else None


def _carry_after(
    lengths: Int32[Array, "*batch"],
    cells: Float[Array, "time *batch hidden"],
    outputs: Float[Array, "time *batch hidden"],
) -> Carry:
    """Return the state after ``lengths`` steps."""
    last = last_step(lengths, cells.shape[0], cells.shape[1:-1])[None, ..., None]
    c, h = (jnp.take_along_axis(history, last, axis=0)[0] for history in (cells, outputs))
    return c, h


IMPLEMENTATIONS: Mapping[str, Implementation] = MappingProxyType(
    {
        "scan": scan,
        "unrolled": unrolled,
        "fused": fused,
        **{name: partial(native, products=kind) for name, kind in NATIVE.items()},
    }
)

# --------------------------------------------------------------------------------------------------
# The LSTM of a call
# --------------------------------------------------------------------------------------------------


def lstm(
    params: Any,
    inputs: Float[Array | np.ndarray, "*batch_and_time inputs"],
    initial_carry: Any = None,
    *,
    seq_lengths: Any = None,
    resets: Any = None,
    reset_carry: Any = None,
    reverse: bool = False,
    keep_order: bool = False,
    time_major: bool = False,
    return_carry: bool = True,
    return_outputs: bool = True,
    implementation: str = "auto",
    unroll: int = 1,
    remat: int | None = None,
    recurrent_mask: Float[Array, "*batch hidden"] | None = None,
    gate_fn: Callable[..., Any] = nn.sigmoid,
    activation_fn: Callable[..., Any] = nn.tanh,
    dtype: Dtype | None = None,
) -> tuple[Any, Any]:
    """Run an LSTM over sequences: a pure function of its parameters.

    Example::

        >>> import jax, jax.numpy as jnp
        >>> import flax.linen as nn
        >>> from lstm_jax import lstm
        >>> images = jnp.ones((128, 28, 28))  # (batch, time, features)
        >>> layer = nn.RNN(nn.LSTMCell(64))
        >>> params = layer.init(jax.random.key(0), images)["params"]["cell"]
        >>> (c, h), outputs = lstm(params, images)
        >>> c.shape, h.shape, outputs.shape
        ((128, 64), (128, 64), (128, 28, 64))

    Long sequences may come in pieces, or step by step, in the order of time: with the state after a piece as
    the ``initial_carry`` of the next one, the results are those of the whole, also with ``resets``.

    Args:
        params: the parameters of an `nn.LSTMCell`: ``{"ii": {"kernel"}, "hi": {"kernel", "bias"}, ...}`` for
            the gates i, f, g, o; kernels are (inputs, hidden) and (hidden, hidden), biases (hidden,).
        inputs: (*batch, time, inputs), or (time, *batch, inputs) if ``time_major``.
        initial_carry: the state (c, h) before the first step, each (*batch, hidden), as a tuple, a list or
            one array of both; None is zeros.
        seq_lengths: the length of each sequence, integers (*batch), from 1 to time; what follows is padding.
            ``reverse`` leaves padding at the end. Its outputs are computed, not zeroed; where it is not
            finite (NaN, say), they are those of zeros. The final state is the one after the last valid step.
            A length beyond the end is that of the whole sequence.
        resets: booleans in the layout of ``inputs``, (*batch, time) or (time, *batch); True where a new
            sequence begins. Before that step, be it the first of the call, the state is ``reset_carry``, and
            gradients end there, as if the sequence were cut. The pieces are the same with ``reverse``, each
            read from its end; then the last one begins with ``initial_carry``.
        reset_carry: the state (c, h) that a new sequence begins with, in the form of ``initial_carry``; None
            is zeros.
        reverse: whether to process the sequence from its end.
        keep_order: whether to return the outputs of a reversed sequence in the order of the inputs.
        time_major: whether inputs and outputs are (time, *batch, features), not (*batch, time, features).
        return_carry: whether the final state is wanted.
        return_outputs: whether the outputs are wanted; without them, none of the steps before the last are
            stored.
        implementation: ``auto`` (the fastest that works here), ``scan``, ``unrolled``, ``fused`` or
            ``native``; the numbers are the same up to float32 rounding. `auto`, `fused` and `native` have
            reverse-mode derivatives only; `native` has first derivatives only. ``native-vectors`` and
            ``native-tiles`` are `native` with one kind of products, see `products.py`.
        unroll: number of steps that `scan` writes out in one turn of its loop.
        remat: number of parts to cut the time steps into, to save memory in the backward pass, see
            `wrappers.in_parts`; None saves all that the backward pass needs.
        recurrent_mask: what h_{t-1} is multiplied by on its way to W_h in all steps, see
            `dropout.recurrent_mask`. It is taken as constant in differentiation.
        gate_fn: activation of the gates i, f, o.
        activation_fn: activation of the candidate g and of the memory c on its way out.
        dtype: dtype of the computation (default: from inputs, state and parameters).

    Returns:
        The final state (c, h) and the outputs h_t of all steps, in the layout of ``inputs``; None for what is
        not wanted.

    Raises:
        ValueError: for parameters, inputs, a state, lengths or resets of another kind or shape; for an
            unknown implementation, or one that cannot compute this here; for ``unroll`` with an
            implementation that has no loop; for a ``remat`` that does not divide the time steps, or that
            comes with lengths for the final state.
    """
    check_inputs(inputs)
    time_axis = 0 if time_major else inputs.ndim - 2
    inputs = jnp.moveaxis(inputs, time_axis, 0)  # (T, *B, D) from here on
    time, *batch = inputs.shape[:-1]
    params = as_cell_parameters(params, inputs.shape[-1])
    features = params["hi"]["kernel"].shape[0]
    lengths = as_lengths(seq_lengths, time, batch)
    resets = as_resets(resets, time, batch, time_axis)
    cell = nn.LSTMCell(
        features,
        gate_fn=gate_fn,
        activation_fn=activation_fn,
        dtype=dtype,
        # Called with weights, Flax asks the initializers for shapes alone. These have no QR to trace.
        kernel_init=initializers.zeros,
        recurrent_kernel_init=initializers.zeros,
        parent=None,  # a set of hyperparameters, not a submodule with weights of its own
    )
    if initial_carry is None:
        initial_carry = (jnp.zeros((*batch, features), params["hi"]["kernel"].dtype),) * 2
    carry = as_carry(initial_carry, (*batch, features))
    carry = in_dtypes_of_steps(cell, params, inputs, carry)
    reset_carry = as_reset_carry(reset_carry, carry, resets)
    others = (recurrent_mask, resets, reset_carry)
    task = Work.of(cell, params, inputs, carry, others=others, unroll=unroll)
    run = _implementation(choose(implementation, task), unroll, remat)

    def run_in_order(arguments: Arguments) -> Results:
        inputs, lengths, resets = arguments.inputs, arguments.lengths, arguments.resets
        flip = partial(flip_sequences, seq_lengths=lengths, num_batch_dims=inputs.ndim - 2, time_major=True)
        if reverse:
            inputs = flip(inputs)
            resets = None if resets is None else flip(resets_in_reverse(resets, lengths)[..., None])[..., 0]
        if lengths is not None:
            inputs = without_spoilt_padding(inputs, lengths)
        # With no steps there is only the first state.
        last = lengths if return_carry and time != 0 else None
        arguments = arguments._replace(inputs=inputs, lengths=last, resets=resets)
        carry, outputs = run(cell, arguments, keep_outputs=return_outputs)
        return carry, flip(outputs) if outputs is not None and reverse and keep_order else outputs

    arguments = Arguments(params, inputs, carry, lengths, recurrent_mask, resets, reset_carry)
    carry, outputs = in_shards(run_in_order)(arguments)
    return (
        carry if return_carry else None,
        None if outputs is None else jnp.moveaxis(outputs, 0, time_axis),
    )


def as_rnn_returns(carry: Any, outputs: Any, *, return_carry: bool) -> Any:
    """Return the results of `lstm` as Flax's ``RNN`` does; without outputs, the carry."""
    if outputs is None:
        return carry
    return (carry, outputs) if return_carry else outputs


def _implementation(name: str, unroll: int, remat: int | None) -> Implementation:
    whole = partial(scan, unroll=unroll) if unroll != 1 else IMPLEMENTATIONS[name]
    return whole if remat is None else in_parts(whole, remat)

r"""The LSTM layer: equations, reference implementation, choice of implementation.

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
``nn.RNN(nn.LSTMCell(features))``, by name and shape:

    params = {"cell": {"ii": {"kernel"}, "hi": {"kernel", "bias"}, ...}}      gates i, f, g, o

Inside this file sequences have time first: (T, *B, D) in, (T, *B, H) out, where T counts the time
steps, B the sequences, D the inputs and H the hidden units.
"""

import math
from collections.abc import Callable, Mapping
from functools import partial
from types import MappingProxyType
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.linen import initializers
from flax.linen.recurrent import flip_sequences
from flax.typing import Dtype, Initializer
from jaxtyping import Array, Float, Int, Key

from lstm_jax.dropout import recurrent_mask, without_some_weights
from lstm_jax.gates import GATES
from lstm_jax.kernels.choice import Task, choose
from lstm_jax.kernels.fused import fused
from lstm_jax.kernels.interface import Carry, CellParameters, Implementation, last_step, masked
from lstm_jax.kernels.native import native
from lstm_jax.wrappers import chrono_bias, in_parts

# --------------------------------------------------------------------------------------------------
# The reference implementations. To add one, write a function as `Implementation` has it, name it in
# IMPLEMENTATIONS below and in `lstm_jax.config.ImplementationName`, and say in `kernels/choice.py` where
# it is the fastest.
# --------------------------------------------------------------------------------------------------


def scan(
    cell: nn.LSTMCell,
    params: CellParameters,
    inputs: Float[Array, "time *batch inputs"],
    carry: Carry,
    lengths: Int[Array, "*batch"] | None,
    *,
    keep_outputs: bool,
    mask: Float[Array, "*batch hidden"] | None = None,
    unroll: int = 1,
) -> tuple[Carry, Float[Array, "time *batch hidden"] | None]:
    """The reference: `nn.scan` over `nn.LSTMCell`, one step after the other in a compiled loop.

    It stays for ever as the oracle that the fast implementations are tested against, and is
    TensorFlow's ``dynamic_rnn``.

    Args:
        cell: the hyperparameters.
        params: the weights of the cell.
        inputs: the sequences, time first.
        carry: the state (c, h) before the first step.
        lengths: the number of steps after which to take the carry; None means all.
        keep_outputs: whether the outputs are wanted.
        mask: what h is multiplied by on its way to the next step; None changes nothing.
        unroll: how many steps to write out in one turn of the loop.

    Returns:
        The carry, and the outputs of all steps or None.
    """

    def step(cell: nn.LSTMCell, carry: Carry, x: Array) -> tuple[Carry, tuple[Array | None, Array | None]]:
        (c, h), output = cell((carry[0], masked(carry[1], mask)), x)
        # Histories are kept only if they are needed: they are large.
        return (c, h), (
            None if lengths is None else c,
            output if keep_outputs or lengths is not None else None,
        )

    def loop(
        cell: nn.LSTMCell, carry: Carry, inputs: Array
    ) -> tuple[Carry, tuple[Array | None, Array | None]]:
        scanned = nn.scan(step, variable_broadcast="params", split_rngs={"params": False}, unroll=unroll)
        return scanned(cell, carry, inputs)

    carry, (cells, outputs) = nn.apply(loop, cell)({"params": params}, carry, inputs)
    if lengths is not None and cells is not None and outputs is not None:
        carry = _carry_after(lengths, cells, outputs)
    return carry, outputs if keep_outputs else None


def unrolled(
    cell: nn.LSTMCell,
    params: CellParameters,
    inputs: Float[Array, "time *batch inputs"],
    carry: Carry,
    lengths: Int[Array, "*batch"] | None,
    *,
    keep_outputs: bool,
    mask: Float[Array, "*batch hidden"] | None = None,
) -> tuple[Carry, Float[Array, "time *batch hidden"] | None]:
    """The static RNN: the loop runs while tracing, so that every step stands in the program by itself.

    TensorFlow's ``unstack`` and ``static_rnn``. The compiler sees all steps at once, and takes time in
    proportion to their number.

    Args:
        cell: the hyperparameters.
        params: the weights of the cell.
        inputs: the sequences, time first.
        carry: the state (c, h) before the first step.
        lengths: the number of steps after which to take the carry; None means all.
        keep_outputs: whether the outputs are wanted.
        mask: what h is multiplied by on its way to the next step; None changes nothing.

    Returns:
        The carry, and the outputs of all steps or None.
    """
    if not len(inputs):  # no step to learn the dtype of the outputs from
        return carry, jnp.zeros((0, *carry[1].shape), carry[1].dtype) if keep_outputs else None
    step: Callable[..., Any] = partial(cell.apply, {"params": params})
    cells, outputs = [], []
    for x in inputs:
        carry, output = step((carry[0], masked(carry[1], mask)), x)
        cells.append(carry[0])
        outputs.append(output)
    if lengths is not None:
        carry = _carry_after(lengths, jnp.stack(cells), jnp.stack(outputs))
    return carry, jnp.stack(outputs) if keep_outputs else None


def _carry_after(
    lengths: Int[Array, "*batch"],
    cells: Float[Array, "time *batch hidden"],
    outputs: Float[Array, "time *batch hidden"],
) -> Carry:
    """The state after ``lengths`` steps."""
    last = last_step(lengths, len(cells), cells.shape[1:-1])[None, ..., None]
    c, h = (jnp.take_along_axis(history, last, axis=0)[0] for history in (cells, outputs))
    return c, h


IMPLEMENTATIONS: Mapping[str, Implementation] = MappingProxyType(
    {"scan": scan, "unrolled": unrolled, "fused": fused, "native": native}
)

# --------------------------------------------------------------------------------------------------
# The layer
# --------------------------------------------------------------------------------------------------


class LSTM(nn.Module):
    """A drop-in for ``nn.RNN(nn.LSTMCell(features), ...)``: same parameters, same options, same numbers.

    The parameters are under ``cell``, as `nn.RNN` has them by itself and in a parent's ``setup``. In a
    parent's ``@nn.compact`` method Flax makes the cell a child of that parent, as ``LSTMCell_0``.

    Example::

        >>> import jax, jax.numpy as jnp
        >>> from lstm_jax import LSTM
        >>> images = jnp.ones((128, 28, 28))  # (batch, time, features)
        >>> layer = LSTM(64)
        >>> variables = layer.init(jax.random.key(0), images)
        >>> layer.apply(variables, images).shape
        (128, 28, 64)

    Attributes:
        features: number of hidden units H.
        implementation: how to compute it: ``auto`` (the fastest that works here), ``scan``,
            ``unrolled``, ``fused`` or ``native``; the numbers are the same up to float32 rounding. Of
            `auto`, `fused` and `native` there are reverse-mode derivatives only, of `native` first
            ones; what is exported (`jax.export`) or lowered for another platform than that of this
            process should name ``fused`` or ``scan``.
        forget_bias: initial value of the forget gate's bias, added to ``bias_init`` there. The default
            is Flax's 0; 1 is what Gers et al. (2000) and Jozefowicz et al. (2015) advise. ``chrono``
            draws it for the length of the sequence, see `wrappers.chrono_bias`, and gives the input gate
            the negative of it.
        time_major: whether inputs and outputs are (time, *batch, features), not (*batch, time, features).
        return_carry: whether to return ``(carry, outputs)``, not only the outputs.
        return_outputs: False returns the carry alone, and the outputs of the steps before the last are
            not stored. `nn.RNN` has no such option.
        reverse: whether to process the sequence from its end.
        keep_order: whether the outputs of a reversed sequence are put back in the order of the inputs.
        unroll: how many steps `scan` writes out in one turn of its loop.
        remat: into how many parts to cut the time steps, to save memory in the backward pass, see
            `wrappers.in_parts`; None saves all that the backward pass needs.
        recurrent_dropout_rate: share of the hidden units of h_{t-1} that is dropped while training, of each
            sequence the same in all steps, see `dropout.recurrent_mask`.
        recurrent_weight_dropout_rate: share of the recurrent weights that is dropped while training, see
            `dropout.without_some_weights`.
        gate_fn: activation of the gates i, f, o.
        activation_fn: activation of the candidate g and of the memory c on its way out.
        kernel_init: initializer of the input kernels.
        recurrent_kernel_init: initializer of the recurrent kernels.
        bias_init: initializer of the biases.
        dtype: dtype of the computation (default: from inputs and parameters).
        param_dtype: dtype of the parameters and of the initial carry.
        carry_init: initializer of the carry.
    """

    features: int
    implementation: str = "auto"
    forget_bias: float | str = 0.0
    time_major: bool = False
    return_carry: bool = False
    return_outputs: bool = True
    reverse: bool = False
    keep_order: bool = False
    unroll: int = 1
    remat: int | None = None
    recurrent_dropout_rate: float = 0.0
    recurrent_weight_dropout_rate: float = 0.0
    gate_fn: Callable[..., Any] = nn.sigmoid
    activation_fn: Callable[..., Any] = nn.tanh
    kernel_init: Initializer = initializers.lecun_normal()
    recurrent_kernel_init: Initializer = initializers.orthogonal()
    bias_init: Initializer = initializers.zeros_init()
    dtype: Dtype | None = None
    param_dtype: Dtype = jnp.float32
    carry_init: Initializer = initializers.zeros_init()

    @nn.compact
    def __call__(
        self,
        inputs: Float[Array, "*batch_and_time inputs"],
        *,
        initial_carry: Carry | None = None,
        init_key: Key[Array, ""] | None = None,
        seq_lengths: Int[Array, "*batch"] | None = None,
        return_carry: bool | None = None,
        time_major: bool | None = None,
        reverse: bool | None = None,
        keep_order: bool | None = None,
        deterministic: bool = True,
        example_index: Int[Array, "*batch"] | None = None,
    ) -> (
        Float[Array, "*batch_and_time hidden"] | tuple[Carry, Float[Array, "*batch_and_time hidden"]] | Carry
    ):
        """Apply the LSTM to sequences.

        Args:
            inputs: (*batch, time, inputs), or (time, *batch, inputs) if ``time_major``.
            initial_carry: the state (c, h) before the first step, each (*batch, features); by default
                what ``carry_init`` gives (zeros).
            init_key: the key for ``carry_init``; by default ``jax.random.key(0)``.
            seq_lengths: the length of each sequence, from 1 to time; what follows is padding. It is
                left at the end by ``reverse``, and its outputs are computed all the same, not zeroed.
                The returned carry is the one after the last valid step.
            return_carry: overrides the attribute.
            time_major: overrides the attribute.
            reverse: overrides the attribute.
            keep_order: overrides the attribute.
            deterministic: False switches dropout on; it needs the random key ``dropout``.
            example_index: the place of each sequence in the whole batch, which its recurrent dropout
                depends on; None if this is the whole batch.

        Returns:
            The outputs h_t of all steps, in the layout of ``inputs``; with ``return_carry`` the pair of
            the final state (c, h) and these outputs; with ``return_outputs=False`` the final state.

        Raises:
            ValueError: for an unknown implementation, one that cannot compute this or not on this
                machine, ``unroll`` with one that has no loop, ``remat`` that does not divide the time
                steps or with lengths for the final state, and a carry of another shape.
        """
        return_carry = self.return_carry if return_carry is None else return_carry
        time_major = self.time_major if time_major is None else time_major
        reverse = self.reverse if reverse is None else reverse
        keep_order = self.keep_order if keep_order is None else keep_order
        time_axis = 0 if time_major else inputs.ndim - 2

        flip = partial(
            flip_sequences, seq_lengths=seq_lengths, num_batch_dims=inputs.ndim - 2, time_major=True
        )
        inputs = jnp.moveaxis(inputs, time_axis, 0)  # (T, *B, D) from here on
        if reverse:
            inputs = flip(inputs)

        cell = self._cell()
        if initial_carry is None:
            init_key = jax.random.key(0) if init_key is None else init_key
            initial_carry = cell.initialize_carry(init_key, inputs.shape[1:])
        expected = (*inputs.shape[1:-1], self.features)
        for state, array in zip(("c", "h"), initial_carry, strict=True):
            if array.shape != expected:
                raise ValueError(f"initial_carry: got {state} of shape {array.shape}, expected {expected}")
        params = self._parameters(time=len(inputs), num_inputs=inputs.shape[-1])
        mask = None
        if self.recurrent_dropout_rate and not deterministic:
            if example_index is None:
                example_index = jnp.arange(math.prod(expected[:-1])).reshape(expected[:-1])
            key, rate = self.make_rng("dropout"), self.recurrent_dropout_rate
            if example_index.shape != expected[:-1]:
                raise ValueError(f"example_index: got shape {example_index.shape}, expected {expected[:-1]}")
            mask = recurrent_mask(key, example_index, self.features, rate, dtype=initial_carry[1].dtype)
        if self.recurrent_weight_dropout_rate and not deterministic:
            key, rate = self.make_rng("dropout"), self.recurrent_weight_dropout_rate
            params = without_some_weights(params, key, rate)
        lengths = seq_lengths if return_carry or not self.return_outputs else None
        implementation = self._implementation(
            Task.of(cell, params, inputs, initial_carry, mask=mask, unroll=self.unroll)
        )
        carry, outputs = implementation(
            cell, params, inputs, initial_carry, lengths, keep_outputs=self.return_outputs, mask=mask
        )
        if outputs is None:
            return carry
        if reverse and keep_order:
            outputs = flip(outputs)
        outputs = jnp.moveaxis(outputs, 0, time_axis)
        return (carry, outputs) if return_carry else outputs

    def _cell(self) -> nn.LSTMCell:
        return nn.LSTMCell(
            self.features,
            gate_fn=self.gate_fn,
            activation_fn=self.activation_fn,
            dtype=self.dtype,
            param_dtype=self.param_dtype,
            carry_init=self.carry_init,
            parent=None,  # a bag of hyperparameters, not a submodule with weights of its own
        )

    def _parameters(self, time: int, num_inputs: int) -> CellParameters:
        declare = _CellParameters(
            self.features,
            self.forget_bias,
            time,
            kernel_init=self.kernel_init,
            recurrent_kernel_init=self.recurrent_kernel_init,
            bias_init=self.bias_init,
            param_dtype=self.param_dtype,
            name="cell",
        )
        return declare(num_inputs)

    def _implementation(self, task: Task) -> Implementation:
        name = choose(self.implementation, task)
        whole = partial(scan, unroll=self.unroll) if self.unroll != 1 else IMPLEMENTATIONS[name]
        return whole if self.remat is None else in_parts(whole, self.remat)


class _CellParameters(nn.Module):
    """The parameters of an `nn.LSTMCell`, declared under its names, with its initial values."""

    features: int
    forget_bias: float | str
    time: int
    kernel_init: Initializer
    recurrent_kernel_init: Initializer
    bias_init: Initializer
    param_dtype: Dtype

    @nn.compact
    def __call__(self, num_inputs: int) -> CellParameters:
        params: dict[str, Mapping[str, Array]] = {}
        shifts = self._bias_shifts()
        for gate in GATES:
            bias_init = _shifted(self.bias_init, shifts[gate]) if gate in shifts else self.bias_init
            shapes_and_inits: dict[str, dict[str, tuple[tuple[int, ...], Initializer]]] = {
                f"i{gate}": {"kernel": ((num_inputs, self.features), self.kernel_init)},
                f"h{gate}": {
                    "kernel": ((self.features, self.features), self.recurrent_kernel_init),
                    "bias": ((self.features,), bias_init),
                },
            }
            for name, dense in shapes_and_inits.items():
                params[name] = _DenseParameters(dense, self.param_dtype, name=name)()
        return params

    def _bias_shifts(self) -> dict[str, float | Array]:
        """What is added to the initial biases of some gates."""
        if not isinstance(self.forget_bias, str):
            return {"f": self.forget_bias}
        if self.forget_bias != "chrono":
            raise ValueError(f"forget_bias: got {self.forget_bias!r}, expected a number or 'chrono'")
        if not self.is_initializing():
            return {}  # the biases are there already
        bias = chrono_bias(self.make_rng("params"), self.features, self.time)
        return {"f": bias, "i": -bias}


class _DenseParameters(nn.Module):
    """The parameters of an `nn.Dense`, without its computation: {name: (shape, initializer)}."""

    shapes_and_inits: Mapping[str, tuple[tuple[int, ...], Initializer]]
    param_dtype: Dtype

    @nn.compact
    def __call__(self) -> Mapping[str, Array]:
        return {
            name: self.param(name, init, shape, self.param_dtype)
            for name, (shape, init) in self.shapes_and_inits.items()
        }


def _shifted(init: Initializer, by: float | Array) -> Initializer:
    """The initializer ``init``, plus ``by``."""
    return lambda key, shape, dtype: init(key, shape, dtype) + jnp.asarray(by, dtype)

r"""The LSTM layer: equations, reference implementations, choice of implementation.

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
import numpy as np
from flax.linen import initializers
from flax.linen.recurrent import flip_sequences
from flax.typing import Dtype, Initializer
from jaxtyping import Array, Float, Int, Int32, Key

from lstm_jax.dropout import recurrent_mask, without_some_weights
from lstm_jax.kernels.choice import Work, choose
from lstm_jax.kernels.fused import fused
from lstm_jax.kernels.gate_order import GATES
from lstm_jax.kernels.interface import (
    Arguments,
    AxisSize,
    Carry,
    CellParameters,
    Implementation,
    Results,
    last_step,
    masked,
)
from lstm_jax.kernels.native import native
from lstm_jax.layer.arguments import (
    as_carry,
    as_lengths,
    check_features,
    check_inputs,
    in_dtypes_of_steps,
    without_spoilt_padding,
)
from lstm_jax.layer.parameters import LSTMCellParameters, orthogonal
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
    params, inputs, carry, lengths, mask = arguments

    def step(cell: nn.LSTMCell, carry: Carry, x: Array) -> tuple[Carry, tuple[Array | None, Array | None]]:
        # Flax's cell computes the gates. `compare/judge.py` has the same in NumPy, `kernels/fused.py` in JAX.
        (c, h), output = cell((carry[0], masked(carry[1], mask)), x)
        # Histories are large: they are kept only if they are needed.
        return (c, h), (
            None if lengths is None else c,
            output if keep_outputs or lengths is not None else None,
        )

    def loop(
        cell: nn.LSTMCell, carry: Carry, inputs: Array
    ) -> tuple[Carry, tuple[Array | None, Array | None]]:
        scanned = nn.scan(step, variable_broadcast="params", split_rngs={"params": False}, unroll=unroll)
        return scanned(cell, carry, inputs)

    with not_tabulated():
        carry, (cells, outputs) = nn.apply(loop, cell)({"params": params}, carry, inputs)
    if lengths is not None and cells is not None and outputs is not None:
        carry = _carry_after(lengths, cells, outputs)
    return carry, outputs if keep_outputs else None


def unrolled(cell: nn.LSTMCell, arguments: Arguments, *, keep_outputs: bool) -> Results:
    """Run the static RNN: the loop runs while tracing, so that every step stands in the program by itself.

    TensorFlow's ``unstack`` and ``static_rnn``. The compiler sees all steps at once, and takes time in
    proportion to their number. See `interface.Implementation`.
    """
    params, inputs, carry, lengths, mask = arguments
    if not len(inputs):  # there is no step that would show the dtype of the outputs
        return carry, jnp.zeros((0, *carry[1].shape), carry[1].dtype) if keep_outputs else None
    step: Callable[..., Any] = partial(cell.apply, {"params": params})
    cells, outputs = [], []
    with not_tabulated():
        for x in inputs:
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
            ``unrolled``, ``fused`` or ``native``; the numbers are the same up to float32 rounding.
            `auto`, `fused` and `native` have reverse-mode derivatives only; `native` has first
            derivatives only. Where the layer is `native`, `jax.export` and lowering for another platform
            than a CPU give `fused`.
        forget_bias: initial value of the forget gate's bias, added to ``bias_init`` there. The default
            is Flax's 0; Gers et al. (2000) and Jozefowicz et al. (2015) advise 1. ``chrono`` draws it for
            the length of the sequence, and gives the input gate its negative, see `wrappers.chrono_bias`.
        time_major: whether inputs and outputs are (time, *batch, features), not (*batch, time, features).
        return_carry: whether to return ``(carry, outputs)``, not only the outputs.
        return_outputs: False returns the carry alone, and stores no outputs of the steps before the last.
            `nn.RNN` has no such option.
        reverse: whether to process the sequence from its end.
        keep_order: whether to return the outputs of a reversed sequence in the order of the inputs.
        unroll: number of steps that `scan` writes out in one turn of its loop.
        remat: number of parts to cut the time steps into, to save memory in the backward pass, see
            `wrappers.in_parts`; None saves all that the backward pass needs.
        recurrent_dropout_rate: share of the hidden units of h_{t-1} that is dropped while training; a
            sequence drops the same units in all steps, see `dropout.recurrent_mask`.
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
    recurrent_kernel_init: Initializer = orthogonal
    bias_init: Initializer = initializers.zeros_init()
    dtype: Dtype | None = None
    param_dtype: Dtype = jnp.float32
    carry_init: Initializer = initializers.zeros_init()

    def __post_init__(self) -> None:
        check_features(self.features)
        super().__post_init__()

    @nn.compact
    def __call__(
        self,
        inputs: Float[Array | np.ndarray, "*batch_and_time inputs"],
        *,
        initial_carry: Any = None,
        init_key: Key[Array, ""] | None = None,
        seq_lengths: Any = None,
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
            initial_carry: the state (c, h) before the first step, each (*batch, features), as a tuple, a
                list or one array of both; the default is what ``carry_init`` gives (zeros).
            init_key: the key for ``carry_init``; the default is ``jax.random.key(0)``.
            seq_lengths: the length of each sequence, integers (*batch), from 1 to time; what follows is
                padding. ``reverse`` leaves padding at the end. Its outputs are computed, not zeroed; where
                it is not finite (NaN, say), they are those of zeros. The returned carry is the one after
                the last valid step. A length beyond the end is that of the whole sequence.
            return_carry: overrides the attribute.
            time_major: overrides the attribute.
            reverse: overrides the attribute.
            keep_order: overrides the attribute.
            deterministic: False switches dropout on; it needs the random key ``dropout``.
            example_index: the place of each sequence in the whole batch, which determines its recurrent
                dropout; None if this is the whole batch.

        Returns:
            The outputs h_t of all steps, in the layout of ``inputs``; with ``return_carry`` the pair of
            the final state (c, h) and these outputs; with ``return_outputs=False`` the final state.

        Raises:
            ValueError: for an unknown implementation, or one that cannot compute this here; for ``unroll``
                with an implementation that has no loop; for a ``remat`` that does not divide the time
                steps, or with lengths for the final state; for inputs, a carry or lengths of another kind
                or shape.
        """
        return_carry = self.return_carry if return_carry is None else return_carry
        time_major = self.time_major if time_major is None else time_major
        reverse = self.reverse if reverse is None else reverse
        keep_order = self.keep_order if keep_order is None else keep_order
        check_inputs(inputs)
        time_axis = 0 if time_major else inputs.ndim - 2

        inputs = jnp.moveaxis(inputs, time_axis, 0)  # (T, *B, D) from here on
        time, *batch = inputs.shape[:-1]
        lengths = as_lengths(seq_lengths, time, batch)

        cell = self._cell()
        if initial_carry is None:
            init_key = jax.random.key(0) if init_key is None else init_key
            initial_carry = cell.initialize_carry(init_key, inputs.shape[1:])
        carry = as_carry(initial_carry, (*batch, self.features))
        params = self._parameters(time, num_inputs=inputs.shape[-1])
        carry = in_dtypes_of_steps(cell, params, inputs, carry)
        mask = None
        if self.recurrent_dropout_rate and not deterministic:
            if example_index is None:
                example_index = jnp.arange(math.prod(batch)).reshape(batch)
            key, rate = self.make_rng("dropout"), self.recurrent_dropout_rate
            if example_index.shape != tuple(batch):
                raise ValueError(f"example_index: got shape {example_index.shape}, expected {tuple(batch)}")
            mask = recurrent_mask(key, example_index, self.features, rate, dtype=carry[1].dtype)
        if self.recurrent_weight_dropout_rate and not deterministic:
            key, rate = self.make_rng("dropout"), self.recurrent_weight_dropout_rate
            params = without_some_weights(params, key, rate)
        task = Work.of(cell, params, inputs, carry, mask=mask, unroll=self.unroll)
        implementation = self._implementation(task)
        wants_carry = return_carry or not self.return_outputs

        def run(arguments: Arguments) -> Results:
            inputs, lengths = arguments.inputs, arguments.lengths
            flip = partial(
                flip_sequences, seq_lengths=lengths, num_batch_dims=inputs.ndim - 2, time_major=True
            )
            if reverse:
                inputs = flip(inputs)
            if lengths is not None:
                inputs = without_spoilt_padding(inputs, lengths)
            # With no steps there is only the first state.
            last = lengths if wants_carry and time != 0 else None
            arguments = arguments._replace(inputs=inputs, lengths=last)
            carry, outputs = implementation(cell, arguments, keep_outputs=self.return_outputs)
            return carry, flip(outputs) if outputs is not None and reverse and keep_order else outputs

        carry, outputs = in_shards(run)(Arguments(params, inputs, carry, lengths, mask))
        if outputs is None:
            return carry
        outputs = jnp.moveaxis(outputs, 0, time_axis)
        return (carry, outputs) if return_carry else outputs

    @nn.nowrap
    def _cell(self) -> nn.LSTMCell:
        return nn.LSTMCell(
            self.features,
            gate_fn=self.gate_fn,
            activation_fn=self.activation_fn,
            dtype=self.dtype,
            param_dtype=self.param_dtype,
            # Called with weights, Flax asks the initializers for shapes alone. These have no QR to trace.
            kernel_init=initializers.zeros,
            recurrent_kernel_init=initializers.zeros,
            carry_init=self.carry_init,
            parent=None,  # a set of hyperparameters, not a submodule with weights of its own
        )

    @nn.nowrap
    def _parameters(self, time: AxisSize, num_inputs: int) -> CellParameters:
        declared = LSTMCellParameters(
            self.features,
            num_inputs,
            self.forget_bias,
            time,
            kernel_init=self.kernel_init,
            recurrent_kernel_init=self.recurrent_kernel_init,
            bias_init=self.bias_init,
            param_dtype=self.param_dtype,
            name="cell",
        )
        return {name: getattr(declared, name).arrays for gate in GATES for name in (f"i{gate}", f"h{gate}")}

    @nn.nowrap
    def _implementation(self, task: Work) -> Implementation:
        name = choose(self.implementation, task)
        whole = partial(scan, unroll=self.unroll) if self.unroll != 1 else IMPLEMENTATIONS[name]
        return whole if self.remat is None else in_parts(whole, self.remat)

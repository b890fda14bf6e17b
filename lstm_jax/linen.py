"""The LSTM layer for Flax Linen. Its equations, and the function that it calls, are in `functional.py`."""

import math
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax.linen import initializers
from flax.typing import Dtype, Initializer
from jaxtyping import Array, Float, Int, Key

from lstm_jax.functional import as_rnn_returns, lstm
from lstm_jax.kernels.choice import check_implementation
from lstm_jax.kernels.gate_order import GATES
from lstm_jax.kernels.interface import AxisSize, Carry, CellParameters, promoted
from lstm_jax.layer.arguments import as_carry, check_features, check_inputs
from lstm_jax.layer.dropout import recurrent_mask, without_some_weights
from lstm_jax.layer.parameters import LSTMCellParameters, orthogonal


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
        check_implementation(self.implementation)
        super().__post_init__()

    @nn.compact
    def __call__(
        self,
        inputs: Float[Array | np.ndarray, "*batch_and_time inputs"],
        *,
        initial_carry: Any = None,
        init_key: Key[Array, ""] | None = None,
        seq_lengths: Any = None,
        resets: Any = None,
        reset_carry: Any = None,
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
            resets: booleans in the layout of ``inputs``, (*batch, time) or (time, *batch); True where a new
                sequence begins. Before that step the state is ``reset_carry``, and gradients end there, see
                `functional.lstm`.
            reset_carry: the state (c, h) that a new sequence begins with, in the form of ``initial_carry``;
                the default is what ``carry_init`` gives (zeros).
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
                steps, or that comes with lengths for the final state; for inputs, a carry, lengths or resets
                of another kind or shape.
        """
        return_carry = self.return_carry if return_carry is None else return_carry
        time_major = self.time_major if time_major is None else time_major
        check_inputs(inputs)
        time_axis = 0 if time_major else inputs.ndim - 2
        batch = (*inputs.shape[:time_axis], *inputs.shape[time_axis + 1 : -1])
        if initial_carry is None or (resets is not None and reset_carry is None):
            init_key = jax.random.key(0) if init_key is None else init_key
            begin = self._initial_carry(init_key, (*batch, inputs.shape[-1]))
            initial_carry = begin if initial_carry is None else initial_carry
            reset_carry = begin if reset_carry is None else reset_carry
        params = self._parameters(inputs.shape[time_axis], num_inputs=inputs.shape[-1])
        mask = None
        if self.recurrent_dropout_rate and not deterministic:
            carry = as_carry(initial_carry, (*batch, self.features))
            widest = (inputs, *jax.tree.leaves((params, carry)), *([self.dtype] if self.dtype else []))
            mask = self._recurrent_mask(example_index, batch, promoted(*widest))
        if self.recurrent_weight_dropout_rate and not deterministic:
            params = without_some_weights(
                params, self.make_rng("dropout"), self.recurrent_weight_dropout_rate
            )
        carry, outputs = lstm(
            params,
            inputs,
            initial_carry,
            seq_lengths=seq_lengths,
            resets=resets,
            reset_carry=reset_carry,
            reverse=self.reverse if reverse is None else reverse,
            keep_order=self.keep_order if keep_order is None else keep_order,
            time_major=time_major,
            return_carry=return_carry or not self.return_outputs,
            return_outputs=self.return_outputs,
            implementation=self.implementation,
            unroll=self.unroll,
            remat=self.remat,
            recurrent_mask=mask,
            gate_fn=self.gate_fn,
            activation_fn=self.activation_fn,
            dtype=self.dtype,
        )
        return as_rnn_returns(carry, outputs, return_carry=return_carry)

    @nn.nowrap
    def _initial_carry(self, key: Array, shape: tuple[AxisSize, ...]) -> Carry:
        """Return what ``carry_init`` gives for inputs (*batch, inputs), as `nn.LSTMCell` does."""
        cell = nn.LSTMCell(
            self.features, param_dtype=self.param_dtype, carry_init=self.carry_init, parent=None
        )
        return cell.initialize_carry(key, shape)

    @nn.nowrap
    def _recurrent_mask(
        self, example_index: Int[Array, "*batch"] | None, batch: tuple[AxisSize, ...], dtype: Any
    ) -> Float[Array, "*batch hidden"]:
        if example_index is None:
            example_index = jnp.arange(math.prod(batch)).reshape(batch)
        if example_index.shape != batch:
            raise ValueError(f"example_index: got shape {example_index.shape}, expected {batch}")
        key, rate = self.make_rng("dropout"), self.recurrent_dropout_rate
        return recurrent_mask(key, example_index, self.features, rate, dtype=dtype)

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

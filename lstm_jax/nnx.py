"""The LSTM layer for Flax NNX: the cells of NNX, computed by `functional.lstm`."""

import inspect
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from lstm_jax.functional import as_rnn_returns, lstm
from lstm_jax.kernels.choice import check_implementation
from lstm_jax.kernels.gate_order import GATES
from lstm_jax.kernels.interface import Carry, CellParameters, from_kinds, promoted
from lstm_jax.layer.arguments import check_inputs


class LSTM(nnx.RNN):
    """A drop-in for ``nnx.RNN(cell, ...)`` with an LSTM cell: same state, same options, same numbers.

    Example::

        >>> import jax.numpy as jnp
        >>> from flax import nnx
        >>> from lstm_jax.nnx import LSTM
        >>> layer = LSTM(nnx.LSTMCell(28, 64, rngs=nnx.Rngs(0)))
        >>> layer(jnp.ones((128, 28, 28))).shape  # (batch, time, features)
        (128, 28, 64)

    The cell holds the weights, as in `nnx.RNN`. So the state of the one is a state of the other, and a
    checkpoint, too.
    """

    def __init__(
        self,
        cell: Any,
        *,
        implementation: str = "auto",
        remat: int | None = None,
        return_outputs: bool = True,
        **options: Any,
    ) -> None:
        """Make a layer of a cell.

        Args:
            cell: an `nnx.LSTMCell` or an `nnx.OptimizedLSTMCell`, with sizes, activations and dtypes.
            implementation: how to compute it: ``auto`` (the fastest that works here), ``scan``,
                ``unrolled``, ``fused`` or ``native``, see `functional.lstm`.
            remat: number of parts to cut the time steps into, to save memory in the backward pass; None
                saves all that the backward pass needs.
            return_outputs: False returns the carry alone, and stores no outputs of the steps before the last.
            options: those of `nnx.RNN`: ``time_major``, ``return_carry``, ``reverse``, ``keep_order``,
                ``unroll``, ``rngs``. (``state_axes`` and ``broadcast_rngs`` are about states that these cells
                do not have.)

        Raises:
            TypeError: if the cell is another one.
            ValueError: if it has a setting that only `nnx.RNN` computes with, such as a ``promote_dtype``;
                for an unknown implementation.
        """
        _check_cell(cell)
        check_implementation(implementation)
        super().__init__(cell, **options)
        self.implementation = implementation
        self.remat = remat
        self.return_outputs = return_outputs

    def __call__(
        self,
        inputs: Float[Array | np.ndarray, "*batch_and_time inputs"],
        *,
        initial_carry: Any = None,
        seq_lengths: Any = None,
        resets: Any = None,
        reset_carry: Any = None,
        return_carry: bool | None = None,
        time_major: bool | None = None,
        reverse: bool | None = None,
        keep_order: bool | None = None,
        rngs: nnx.Rngs | nnx.RngStream | None = None,
    ) -> (
        Float[Array, "*batch_and_time hidden"] | tuple[Carry, Float[Array, "*batch_and_time hidden"]] | Carry
    ):
        """Apply the LSTM to sequences.

        Args:
            inputs: (*batch, time, inputs), or (time, *batch, inputs) if ``time_major``.
            initial_carry: the state (c, h) before the first step, each (*batch, hidden); the default is what
                the cell gives (zeros).
            seq_lengths: the length of each sequence, integers (*batch), see `functional.lstm`.
            resets: booleans in the layout of ``inputs``; True where a new sequence begins, see
                `functional.lstm`. `nnx.RNN` has no such argument.
            reset_carry: the state (c, h) that a new sequence begins with; the default is what the cell gives
                (zeros). A ``carry_init`` that draws at random draws another one in each call.
            return_carry: overrides the option of the layer.
            time_major: overrides the option of the layer.
            reverse: overrides the option of the layer.
            keep_order: overrides the option of the layer.
            rngs: random keys for the initial carry.

        Returns:
            The outputs h_t of all steps, in the layout of ``inputs``; with ``return_carry`` the pair of
            the final state (c, h) and these outputs; with ``return_outputs=False`` the final state.

        Raises:
            TypeError: if the cell has become another one.
            ValueError: as `functional.lstm` does; for a setting of the cell that came later.
        """
        return_carry = self.return_carry if return_carry is None else return_carry
        time_major = self.time_major if time_major is None else time_major
        cell: Any = self.cell  # one of two kinds, see `_check_cell`
        check_inputs(inputs)
        begins_anew = resets is not None and reset_carry is None and cell.carry_init is not None
        if initial_carry is None or begins_anew:
            rngs = self.rngs if rngs is None else rngs
            time_axis = 0 if time_major else inputs.ndim - 2
            shape = (*inputs.shape[:time_axis], *inputs.shape[time_axis + 1 :])
            stream = rngs.carry.fork() if isinstance(rngs, nnx.Rngs) else rngs  # as `nnx.RNN` does
            begin = cell.initialize_carry(shape, stream)
            initial_carry = begin if initial_carry is None else initial_carry
            reset_carry = begin if reset_carry is None else reset_carry
        carry, outputs = lstm(
            _parameters(cell),
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
            gate_fn=cell.gate_fn,
            activation_fn=cell.activation_fn,
            dtype=cell.dtype,
        )
        return as_rnn_returns(carry, outputs, return_carry=return_carry)


# What an `nnx.Linear` can compute with, and `functional.lstm` only as Flax's cells have it by default.
_DEFAULTS = {
    name: parameter.default
    for name, parameter in inspect.signature(nnx.Linear.__init__).parameters.items()
    if name in ("precision", "dot_general", "promote_dtype", "preferred_element_type")
}
_INPUT_LAYERS = tuple(f"i{gate}_" if gate == "f" else f"i{gate}" for gate in GATES)  # `if` is Python's
_STATE_LAYERS = tuple(f"h{gate}" for gate in GATES)
_OF_STATE = ("dense_h", *_STATE_LAYERS)


def _parameters(cell: Any) -> CellParameters:
    """Return the weights of a cell, as `nn.LSTMCell` of Linen names them; it may have been changed.

    Raises:
        TypeError, ValueError: as `_check_cell` does.
    """
    _check_cell(cell)
    if type(cell) is nnx.OptimizedLSTMCell:
        joined = cell.dense_i.kernel[...], cell.dense_h.kernel[...], _bias(cell.dense_i, cell.dense_h)
        of_inputs, of_state, biases = (jnp.split(array, len(GATES), axis=-1) for array in joined)
    else:
        input_layers = [getattr(cell, name) for name in _INPUT_LAYERS]
        state_layers = [getattr(cell, name) for name in _STATE_LAYERS]
        of_inputs = [layer.kernel[...] for layer in input_layers]
        of_state = [layer.kernel[...] for layer in state_layers]
        biases = [_bias(*layers) for layers in zip(input_layers, state_layers, strict=True)]
    return from_kinds(of_inputs, of_state, biases)


def _bias(input_layer: nnx.Linear, state_layer: nnx.Linear) -> Float[Array, " outputs"]:
    """Return what two layers add to the sum of their products: both biases, or one, or zeros.

    Flax's cells have one, in the layer of the state. Layers that a user puts in their place may differ.
    """
    biases = [layer.bias[...] for layer in (input_layer, state_layer) if layer.bias is not None]
    if not biases:
        kernel = state_layer.kernel[...]
        return jnp.zeros(kernel.shape[-1:], kernel.dtype)
    if len(biases) == 1:
        return biases[0]
    dtype = promoted(*biases)
    return biases[0].astype(dtype) + biases[1].astype(dtype)


def _check_cell(cell: Any) -> None:
    """Refuse another cell, and one with a layer that is another, or that computes in its own way.

    Raises:
        TypeError: if it is not a cell of an LSTM, or one of its layers is no `nnx.Linear` any more but one
            with adapters, say.
        ValueError: if it, or one of its layers, has a setting that `functional.lstm` does not compute with.
    """
    names: tuple[str, ...]
    if type(cell) is nnx.OptimizedLSTMCell:
        names, outputs = ("dense_i", "dense_h"), len(GATES) * cell.hidden_features
    elif type(cell) is nnx.LSTMCell:
        names, outputs = (*_INPUT_LAYERS, *_STATE_LAYERS), cell.hidden_features
    else:
        kind = type(cell).__name__
        raise TypeError(f"cell: got a {kind}, expected an nnx.LSTMCell or an nnx.OptimizedLSTMCell")
    _check_settings("cell", cell)
    for name in names:
        layer = getattr(cell, name)
        if type(layer) is not nnx.Linear:
            kind = type(layer).__name__
            raise TypeError(f"cell.{name}: got a {kind}, expected an nnx.Linear; use nnx.RNN for this cell")
        found = layer.in_features, layer.out_features
        expected = cell.hidden_features if name in _OF_STATE else layer.in_features, outputs
        if found != expected:
            raise ValueError(f"cell.{name}: got an nnx.Linear{found}, expected an nnx.Linear{expected}")
        _check_settings(f"cell.{name}", layer)
        dtype, of_cell = (_dtype_in_words(part.dtype) for part in (layer, cell))
        if dtype != of_cell:
            raise ValueError(
                f"cell.{name}.dtype: got {dtype}, expected {of_cell}, as cell.dtype; "
                "use nnx.RNN for this cell"
            )


def _check_settings(path: str, part: Any) -> None:
    """Refuse a cell, or a layer of it, with a setting that is not Flax's default."""
    for name, default in _DEFAULTS.items():
        found = getattr(part, name, default)
        if found is not default:
            raise ValueError(
                f"{path}.{name}: got {_in_words(found)}, expected the default of Flax, {_in_words(default)}; "
                "use nnx.RNN for this cell"
            )


def _dtype_in_words(dtype: Any) -> str:
    return "None" if dtype is None else jnp.dtype(dtype).name


def _in_words(setting: Any) -> str:
    """Return the name of a function or a type, and what else there is as Python writes it, on one line."""
    return getattr(setting, "__qualname__", None) or " ".join(repr(setting).split())

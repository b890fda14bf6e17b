"""The LSTM layer for Equinox: the cell of Equinox, computed by `functional.lstm`."""

from functools import partial
from typing import Any, TypeAlias

import jax.numpy as jnp
from jaxtyping import Array, Float

from lstm_jax.functional import lstm
from lstm_jax.kernels.choice import check_implementation
from lstm_jax.kernels.gate_order import GATES
from lstm_jax.kernels.interface import AxisSize, Carry, CellParameters, from_kinds
from lstm_jax.layer.arguments import as_carry, check_inputs
from lstm_jax.system.packages import what_is_missing

try:
    import equinox as eqx
except ModuleNotFoundError as error:
    raise ImportError(f"lstm_jax.equinox: {what_is_missing(error, 'equinox')}") from error

State: TypeAlias = tuple[Float[Array, "*batch hidden"], Float[Array, "*batch hidden"]]


class LSTM(eqx.Module):
    """An `eqx.nn.LSTMCell` over a sequence, in place of a `jax.lax.scan` over its steps.

    Example::

        >>> import equinox as eqx, jax, jax.numpy as jnp
        >>> from lstm_jax.equinox import LSTM
        >>> layer = LSTM(eqx.nn.LSTMCell(28, 64, key=jax.random.key(0)))
        >>> (h, c), outputs = layer(jnp.ones((28, 28)))  # (time, features)
        >>> outputs.shape
        (28, 64)
        >>> (h, c), outputs = jax.vmap(layer)(jnp.ones((128, 28, 28)))  # (batch, time, features)
        >>> h.shape
        (128, 64)

    A `jax.vmap` over sequences is computed as one batch. The state is (h, c), as Equinox has it.

    Attributes:
        cell: an `eqx.nn.LSTMCell`, which holds the weights.
        implementation: how to compute it: ``auto`` (the fastest that works here), ``scan``, ``unrolled``,
            ``fused`` or ``native``, see `functional.lstm`.
        remat: number of parts to cut the time steps into, to save memory in the backward pass; None saves
            all that the backward pass needs.
    """

    cell: Any
    implementation: str = eqx.field(static=True, default="auto")
    remat: int | None = eqx.field(static=True, default=None)

    def __check_init__(self) -> None:
        """Refuse another cell, and an unknown implementation.

        Raises:
            TypeError: if the cell is another one.
            ValueError: for an unknown implementation.
        """
        # A subclass may compute something else.
        if type(self.cell) is not eqx.nn.LSTMCell:
            raise TypeError(
                f"cell: got a {type(self.cell).__name__}, expected an eqx.nn.LSTMCell, no subclass; "
                "use jax.lax.scan over the steps of this cell"
            )
        check_implementation(self.implementation)

    def __call__(
        self,
        inputs: Float[Array, "*batch_and_time inputs"],
        hidden: Any = None,
        *,
        seq_lengths: Any = None,
        resets: Any = None,
        reset_hidden: Any = None,
        reverse: bool = False,
        keep_order: bool = False,
        key: Any = None,
    ) -> tuple[State, Float[Array, "*batch time hidden"]]:
        """Apply the LSTM to a sequence.

        Args:
            inputs: (time, inputs); there may be axes of a batch before them.
            hidden: the state (h, c) before the first step, each (*batch, hidden); None is zeros.
            seq_lengths: the length of each sequence, integers (*batch), see `functional.lstm`.
            resets: booleans (*batch, time); True where a new sequence begins, see `functional.lstm`.
            reset_hidden: the state (h, c) that a new sequence begins with; None is zeros.
            reverse: whether to process the sequence from its end.
            keep_order: whether to return the outputs of a reversed sequence in the order of the inputs.
            key: ignored, as the cell does.

        Returns:
            The final state (h, c), and the outputs h_t of all steps.

        Raises:
            ValueError: as `functional.lstm` does.
        """
        check_inputs(inputs, layouts="(*batch, time, inputs)")
        shape = (*inputs.shape[:-2], self.cell.hidden_size)
        (c, h), outputs = lstm(
            _parameters(self.cell),
            inputs,
            _as_carry("hidden", hidden, shape),
            seq_lengths=seq_lengths,
            resets=resets,
            reset_carry=_as_carry("reset_hidden", reset_hidden, shape),
            reverse=reverse,
            keep_order=keep_order,
            implementation=self.implementation,
            remat=self.remat,
        )
        return (h, c), outputs


def _as_carry(argument: str, state: Any, shape: tuple[AxisSize, ...]) -> Carry | None:
    """Return the state (c, h) of a state (h, c), each of a shape; None stays None."""
    if state is None:
        return None
    h, c = as_carry(state, shape, argument=argument, parts=("h", "c"))
    return c, h


def _parameters(cell: eqx.nn.LSTMCell) -> CellParameters:
    """Return the weights of a cell, as `nn.LSTMCell` of Flax names them; it has the gates i, f, g, o, too."""
    bias = cell.bias if cell.use_bias else None  # without use_bias, the cell ignores one that it has
    if bias is None:
        bias = jnp.zeros(len(cell.weight_hh), cell.weight_hh.dtype)
    by_gate = partial(jnp.split, indices_or_sections=len(GATES), axis=-1)
    return from_kinds(by_gate(cell.weight_ih.T), by_gate(cell.weight_hh.T), by_gate(bias))

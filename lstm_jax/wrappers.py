"""What works with every implementation of the LSTM: less memory, long memories."""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Float32, Int, Key

from lstm_jax.kernels.interface import Carry, CellParameters, Implementation


def in_parts(implementation: Implementation, parts: int) -> Implementation:
    """An implementation that saves less for the backward pass (Chen et al. 2016, arXiv 1604.06174).

    The sequence is cut into parts of equal length, and of each part only the state before it is kept.
    What the backward pass needs of the steps inside is computed again, part by part: one more forward
    pass, for memory in proportion to ``parts + time / parts`` and not to ``time``.

    Args:
        implementation: what computes a part.
        parts: how many; the number of time steps must be a multiple of it.

    Raises:
        ValueError: when it is called with another number of steps, or with lengths of sequences: the
            state after a step inside of a part is not at hand.
    """

    def run(
        cell: nn.LSTMCell,
        params: CellParameters,
        inputs: Float[Array, "time *batch inputs"],
        carry: Carry,
        lengths: Int[Array, "*batch"] | None,
        *,
        keep_outputs: bool,
        mask: Float[Array, "*batch hidden"] | None = None,
    ) -> tuple[Carry, Float[Array, "time *batch hidden"] | None]:
        if lengths is not None:
            raise ValueError("remat: got seq_lengths for the final state, expected remat=None with them")
        if len(inputs) % parts:
            raise ValueError(f"remat: got {parts} for {len(inputs)} time steps, expected a divisor of them")

        def part(carry: Carry, inputs: Array) -> tuple[Carry, Array | None]:
            return implementation(cell, params, inputs, carry, None, keep_outputs=keep_outputs, mask=mask)

        cut = inputs.reshape(parts, -1, *inputs.shape[1:])
        # In the dtypes that the steps give it, so that it is the same before and after each part.
        like = jax.eval_shape(part, carry, cut[0])[0]
        carry = jax.tree.map(lambda state, after: state.astype(after.dtype), carry, like)
        # Within a scan nothing could undo the second computation: no barriers are needed.
        carry, outputs = jax.lax.scan(jax.checkpoint(part, prevent_cse=False), carry, cut)
        return carry, None if outputs is None else outputs.reshape(-1, *outputs.shape[2:])

    return run


def chrono_bias(key: Key[Array, ""], features: int, time: int) -> Float32[Array, " features"]:
    """Biases of the forget gates by chrono initialisation (Tallec & Ollivier 2018, arXiv 1804.11188).

    A forget gate of sigmoid(b) forgets within about 1 + exp(b) steps. log(U(1, T - 1)) for each unit
    makes memories of all lengths up to that of the sequence; the bias of the input gate is the negative.

    Args:
        key: what they are drawn from.
        features: number of hidden units.
        time: the number T of time steps.
    """
    # Of one or two steps there is nothing to draw: log(U(1, 1)) is 0.
    longest = max(time - 1, 1)
    return jnp.log(jax.random.uniform(key, (features,), minval=1.0, maxval=longest))

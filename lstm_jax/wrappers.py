"""What works with every implementation of the LSTM: less memory, dropped weights, long memories."""

from collections.abc import Mapping

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Float32, Int, Key

from lstm_jax.gates import GATES
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
    ) -> tuple[Carry, Float[Array, "time *batch hidden"] | None]:
        if lengths is not None:
            raise ValueError("remat: got seq_lengths for the final state, expected remat=None with them")
        if len(inputs) % parts:
            raise ValueError(f"remat: got {parts} for {len(inputs)} time steps, expected a divisor of them")

        def part(carry: Carry, inputs: Array) -> tuple[Carry, Array | None]:
            return implementation(cell, params, inputs, carry, None, keep_outputs=keep_outputs)

        cut = inputs.reshape(parts, -1, *inputs.shape[1:])
        # In the dtypes that the steps give it, so that it is the same before and after each part.
        like = jax.eval_shape(part, carry, cut[0])[0]
        carry = jax.tree.map(lambda state, after: state.astype(after.dtype), carry, like)
        # Within a scan nothing could undo the second computation: no barriers are needed.
        carry, outputs = jax.lax.scan(jax.checkpoint(part, prevent_cse=False), carry, cut)
        return carry, None if outputs is None else outputs.reshape(-1, *outputs.shape[2:])

    return run


def without_some_weights(
    params: CellParameters, key: Key[Array, ""], rate: float
) -> dict[str, Mapping[str, Array]]:
    """The parameters of a cell with some of the recurrent weights W_h set to zero, and the others scaled up.

    This is the recurrent dropout of AWD-LSTM (Merity, Keskar & Socher 2017, arXiv 1708.02182): since it
    changes the weights and not the steps, the same weights are missing in all steps of a sequence, as
    variational dropout asks for (Gal & Ghahramani 2016, arXiv 1512.05287), the memory c is left alone,
    and every implementation can do it at the cost of a mask of the size of W_h. The sequences of
    one call share the mask.

    Args:
        params: the weights, as `nn.LSTMCell` names them.
        key: what the mask is drawn from.
        rate: the probability of dropping a weight.
    """
    dropped = dict(params)
    for gate, gate_key in zip(GATES, jax.random.split(key, len(GATES)), strict=True):
        weights = params[f"h{gate}"]
        kernel = weights["kernel"]
        kept = jax.random.bernoulli(gate_key, 1 - rate, kernel.shape)
        dropped[f"h{gate}"] = {**weights, "kernel": jnp.where(kept, kernel / (1 - rate), 0 * kernel)}
    return dropped


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

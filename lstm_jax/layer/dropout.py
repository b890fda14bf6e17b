"""Dropout while training: of outputs, of units of the state on the way to the next step, of weights.

Evaluation drops nothing. What is kept is scaled by 1 / (1 - rate), so that expectations stay
(Srivastava et al. 2014).
"""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key

from lstm_jax.kernels.gate_order import GATES
from lstm_jax.kernels.interface import CellParameters, promoted


def kept_units(
    key: Key[Array, ""], example_index: Int[Array, " batch"], shape: tuple[int, ...], rate: float
) -> Bool[Array, "batch *features"]:
    """Draw which units of each example are kept: True with a probability of 1 - rate.

    The mask of an example depends on the key and on the example's place in the whole batch. So two devices
    with half a batch each drop the same units as one device with all of it.

    Args:
        key: the random key of the masks.
        example_index: the place of each example in the whole batch.
        shape: that of one example.
        rate: the probability of dropping a unit.
    """
    share = _kept_share(rate)
    return jax.vmap(lambda index: jax.random.bernoulli(jax.random.fold_in(key, index), share, shape))(
        example_index
    )


class ExampleDropout(nn.Module):
    """Dropout with a key for each example, see `kept_units`; `nn.Dropout` has one for all.

    Attributes:
        rate: the probability of dropping a unit.
    """

    rate: float

    @nn.compact
    def __call__(
        self,
        inputs: Float[Array, "batch *features"],
        example_index: Int[Array, " batch"],
        *,
        deterministic: bool,
    ) -> Float[Array, "batch *features"]:
        """Drop units of ``inputs`` and scale the others by 1 / (1 - rate)."""
        if deterministic or self.rate == 0.0:
            return inputs
        kept = kept_units(self.make_rng("dropout"), example_index, inputs.shape[1:], self.rate)
        return jnp.where(kept, inputs / _kept_share(self.rate), jnp.zeros_like(inputs))


def recurrent_mask(
    key: Key[Array, ""], example_index: Int[Array, "*batch"], features: int, rate: float, *, dtype: Any
) -> Float[Array, "*batch hidden"]:
    """Draw the mask m of variational recurrent dropout (Gal & Ghahramani 2016, arXiv 1512.05287).

        z_t = W_x x_t + W_h (m * h_{t-1}) + b            m in {0, 1 / (1 - rate)}

    A new mask in each step would wipe out what h carries from step to step. So each sequence has one mask
    for all of its steps. All four gates share it (the paper's "tied weights"), and with it one product with
    W_h; four masks would need four products. The output h_t and the memory c are not masked.

    Args:
        key: the random key of the masks.
        example_index: the place of each sequence in the whole batch, see `kept_units`.
        features: the number of hidden units.
        rate: the probability of dropping a unit.
        dtype: that of the state. The mask has at least float32; a product with it may round it further.
    """
    kept = kept_units(key, example_index.reshape(-1), (features,), rate)
    mask = kept.reshape(*example_index.shape, features).astype(promoted(dtype, jnp.float32))
    return mask / _kept_share(rate)


def without_some_weights(
    params: CellParameters, key: Key[Array, ""], rate: float
) -> dict[str, Mapping[str, Array]]:
    """Set some of the recurrent weights W_h of a cell to zero, and scale the others up.

    This is the weight drop of AWD-LSTM (Merity, Keskar & Socher 2017, arXiv 1708.02182), DropConnect on
    W_h. It changes the weights, not the steps. So the same weights are missing in all steps of a sequence,
    the memory c is left alone, and every implementation can do it at the cost of a mask of the size of W_h.
    The sequences of one call share the mask.

    Args:
        params: the weights, as `nn.LSTMCell` names them.
        key: the random key of the mask.
        rate: the probability of dropping a weight.
    """
    share = _kept_share(rate)
    dropped = dict(params)
    for gate, gate_key in zip(GATES, jax.random.split(key, len(GATES)), strict=True):
        weights = params[f"h{gate}"]
        kernel = weights["kernel"]
        kept = jax.random.bernoulli(gate_key, share, kernel.shape)
        dropped[f"h{gate}"] = {**weights, "kernel": jnp.where(kept, kernel / share, 0 * kernel)}
    return dropped


def _kept_share(rate: float) -> float:
    """Return the probability of keeping something."""
    if not 0 <= rate < 1:
        raise ValueError(f"dropout rate: got {rate!r}, expected a number from 0 up to, not including, 1")
    return 1.0 - rate

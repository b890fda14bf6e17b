"""What works with every implementation of the LSTM: less memory, shares of a batch, long memories."""

from collections.abc import Callable
from typing import Any, TypeVar

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec
from jaxtyping import Array, Float, Float32, Int32, Key

from lstm_jax.kernels.interface import Carry, CellParameters, Implementation

Results = TypeVar("Results")


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
        lengths: Int32[Array, "*batch"] | None,
        *,
        keep_outputs: bool,
        mask: Float[Array, "*batch hidden"] | None = None,
    ) -> tuple[Carry, Float[Array, "time *batch hidden"] | None]:
        if lengths is not None:
            raise ValueError("remat: got seq_lengths for the final state, expected remat=None with them")
        time = inputs.shape[0]
        if not isinstance(time, int):
            raise ValueError(f"remat: got {parts} for a symbolic number of time steps, expected remat=None")
        if time % parts:
            raise ValueError(f"remat: got {parts} for {time} time steps, expected a divisor of them")

        def part(carry: Carry, inputs: Array) -> tuple[Carry, Array | None]:
            return implementation(cell, params, inputs, carry, None, keep_outputs=keep_outputs, mask=mask)

        cut = inputs.reshape(parts, -1, *inputs.shape[1:])
        # Within a scan nothing could undo the second computation: no barriers are needed.
        carry, outputs = jax.lax.scan(jax.checkpoint(part, prevent_cse=False), carry, cut)
        return carry, None if outputs is None else outputs.reshape(-1, *outputs.shape[2:])

    return run


def in_shards(run: Callable[..., Results]) -> Callable[..., Results]:
    """A run of a layer of which each device does its share, where JAX knows while tracing how it is shared.

    That is so on a mesh with explicit axes, which is what `jax.make_mesh` makes. Of a batch in shards, each
    device then runs its own, and the weights are gathered; otherwise nothing is changed.

    Args:
        run: from weights, inputs (time, *batch, features), and (*batch, ...) state, lengths and mask to a
            state (*batch, ...) and outputs (time, *batch, ...). Lengths, mask and outputs may be None.
    """

    def sharded(params: CellParameters, inputs: Array, carry: Carry, *rest: Array | None) -> Results:
        sharding, batch = jax.typeof(inputs).sharding, _explicit_axes(inputs)[1:-1]
        if not any(batch):
            sharding, batch = jax.typeof(carry[0]).sharding, _explicit_axes(carry[0])[:-1]
        if not any(batch):
            return run(params, inputs, carry, *rest)
        mesh = sharding.mesh
        rows, steps = PartitionSpec(*batch), PartitionSpec(None, *batch)
        specs = (PartitionSpec(), steps, rows, rows, rows)
        arguments = (params, inputs, carry, *rest)
        # check_vma=False: which values vary over the devices is not known of a kernel's results.
        mapped = jax.shard_map(run, mesh=mesh, in_specs=specs, out_specs=(rows, steps), check_vma=False)
        placed = (
            jax.tree.map(
                lambda leaf, spec=spec: jax.sharding.reshard(leaf, NamedSharding(mesh, spec)), argument
            )
            for argument, spec in zip(arguments, specs, strict=True)
        )
        return mapped(*placed)

    return sharded


def _explicit_axes(array: Array) -> tuple[Any, ...]:
    """For each axis of an array, the explicit mesh axes that it is spread over, or None."""
    return tuple(jax.typeof(array).sharding.spec)


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

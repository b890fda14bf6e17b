"""Functions around every implementation of the LSTM: less memory, shares of a batch, long memories."""

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
    """Make an implementation that saves less for the backward pass (Chen et al. 2016, arXiv 1604.06174).

    It cuts the sequence into parts of equal length, and keeps only the state before each part. The backward
    pass computes again, part by part, what it needs of the steps inside. That is one more forward pass, for
    memory in proportion to ``parts + time / parts`` in place of ``time``.

    Args:
        implementation: computes a part.
        parts: number of parts; it must divide the number of time steps.

    Raises:
        ValueError: in a call with another number of steps, or with lengths of sequences: the state after a
            step inside a part is not kept.
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
        # No barriers are needed: within a scan, XLA cannot undo the second computation.
        carry, outputs = jax.lax.scan(jax.checkpoint(part, prevent_cse=False), carry, cut)
        return carry, None if outputs is None else outputs.reshape(-1, *outputs.shape[2:])

    return run


def in_shards(run: Callable[..., Results]) -> Callable[..., Results]:
    """Let each device run its share of a batch, where JAX knows while tracing how the batch is shared.

    That is so on a mesh with explicit axes, which is what `jax.make_mesh` makes. Each device then runs its
    own shard, and the weights are gathered. Otherwise nothing changes.

    Args:
        run: a function of weights, inputs (time, *batch, features), and state, lengths and mask (*batch,
            ...). It returns a state (*batch, ...) and outputs (time, *batch, ...). Lengths, mask and outputs
            may be None.
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
        # check_vma=False: JAX does not know which results of a kernel vary over the devices.
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
    """Return the explicit mesh axes that each axis of an array is spread over, or None."""
    return tuple(jax.typeof(array).sharding.spec)


def chrono_bias(key: Key[Array, ""], features: int, time: int) -> Float32[Array, " features"]:
    """Draw biases of the forget gates by chrono initialisation (Tallec & Ollivier 2018, arXiv 1804.11188).

    A forget gate of sigmoid(b) forgets within about 1 + exp(b) steps. b = log(U(1, T - 1)) for each unit
    gives memories of all lengths up to that of the sequence. The bias of the input gate is the negative.

    Args:
        key: the random key.
        features: number of hidden units.
        time: the number T of time steps.
    """
    # With one or two steps there is nothing to draw: log(U(1, 1)) is 0.
    longest = max(time - 1, 1)
    return jnp.log(jax.random.uniform(key, (features,), minval=1.0, maxval=longest))

"""Functions around every implementation of the LSTM: less memory, shares of a batch, long memories."""

from collections.abc import Callable, Iterator
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec
from jaxtyping import Array, Float32, Key

from lstm_jax.kernels.interface import Arguments, Carry, Implementation, Results


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

    def run(cell: nn.LSTMCell, arguments: Arguments, *, keep_outputs: bool) -> Results:
        inputs, lengths = arguments.inputs, arguments.lengths
        if lengths is not None:
            raise ValueError("remat: got seq_lengths for the final state, expected remat=None with them")
        time = inputs.shape[0]
        if not isinstance(time, int):
            raise ValueError(f"remat: got {parts} for a symbolic number of time steps, expected remat=None")
        if time % parts:
            raise ValueError(f"remat: got {parts} for {time} time steps, expected a divisor of them")

        def part(carry: Carry, of_steps: tuple[Array, Array | None]) -> tuple[Carry, Array | None]:
            inputs, resets = of_steps
            of_part = arguments._replace(inputs=inputs, carry=carry, resets=resets)
            return implementation(cell, of_part, keep_outputs=keep_outputs)

        cut = jax.tree.map(
            lambda steps: steps.reshape(parts, -1, *steps.shape[1:]), (inputs, arguments.resets)
        )
        # No barriers are needed: within a scan, XLA cannot undo the second computation.
        carry, outputs = jax.lax.scan(jax.checkpoint(part, prevent_cse=False), arguments.carry, cut)
        return carry, None if outputs is None else outputs.reshape(-1, *outputs.shape[2:])

    return run


def in_shards(run: Callable[[Arguments], Results]) -> Callable[[Arguments], Results]:
    """Return a run of a layer of which each device does its share, where JAX knows how a batch is shared.

    That is so on a mesh with explicit axes, which is what `jax.make_mesh` makes. Of a batch in shards, each
    device then runs its own, and the weights are gathered; otherwise nothing is changed.
    """

    def sharded(arguments: Arguments) -> Results:
        shared = next(_batches_in_shards(arguments), None)
        if shared is None:
            return run(arguments)
        mesh, batch = shared
        rows, steps = PartitionSpec(*batch), PartitionSpec(None, *batch)
        specs: Any = Arguments._make([PartitionSpec(), steps, rows, rows, rows, steps, rows])
        # check_vma=False: which values vary over the devices is not known of a kernel's results.
        mapped = jax.shard_map(run, mesh=mesh, in_specs=(specs,), out_specs=(rows, steps), check_vma=False)
        placed = (
            jax.tree.map(lambda leaf, spec=spec: jax.sharding.reshard(leaf, NamedSharding(mesh, spec)), part)
            for part, spec in zip(arguments, specs, strict=True)
        )
        return mapped(Arguments(*placed))

    return sharded


def _batches_in_shards(arguments: Arguments) -> Iterator[tuple[Any, tuple[Any, ...]]]:
    """Yield the mesh, and the explicit axes of it for each axis of a batch, of each argument in shards."""
    num_axes = arguments.inputs.ndim - 2
    in_order = (
        (arguments.inputs, 1),
        (arguments.carry, 0),
        (arguments.resets, 1),
        (arguments.reset_carry, 0),
    )
    for argument, first in in_order:
        for array in jax.tree.leaves(argument):
            sharding = jax.typeof(array).sharding
            axes = tuple(sharding.spec)[first : first + num_axes]
            if any(axes):
                yield sharding.mesh, axes


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

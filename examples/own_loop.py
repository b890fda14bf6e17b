"""What a step costs in a training loop of one's own: a jitted call a step, next to all steps in one program.

    python examples/own_loop.py

trains the tutorial's LSTM on random images in each of the ways below, in turns, and prints the median time of
a step. docs/speed.md says what the differences come from.
"""

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax.training.train_state import TrainState
from jaxtyping import Array, Float, Int

sys.path.insert(0, ".")  # finds the package in a checkout, where it is not installed
from lstm_jax import LSTMClassifier

BATCH, STEPS, IN_ONE_CALL, ROUNDS = 128, 50, 10, 15
MODEL = LSTMClassifier(hidden_size=64)

State, Part = Any, Any
Way = Callable[[State, Part], tuple[State, Any]]
Batches = tuple[Float[Array, "*steps batch 28 28"], Int[Array, "*steps batch"]]


def new_state(optimizer: optax.GradientTransformation) -> TrainState:
    """Make the parameters and the optimizer's state, as every program in Flax does."""
    params = MODEL.init(jax.random.key(0), jnp.zeros((1, 28, 28)))["params"]
    return TrainState.create(apply_fn=MODEL.apply, params=params, tx=optimizer)


def step(state: TrainState, batch: Batches) -> tuple[TrainState, Float[Array, ""]]:
    """Take a step of training; return the new state and the loss."""
    images, labels = batch

    def loss_of(params: Any) -> Float[Array, ""]:
        logits = state.apply_fn({"params": params}, images)
        return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()

    loss, gradients = jax.value_and_grad(loss_of)(state.params)
    return state.apply_gradients(grads=gradients), loss


def steps(state: TrainState, batches: Batches) -> tuple[TrainState, Float[Array, " steps"]]:
    """Take a step with each of some batches, in one program."""
    return jax.lax.scan(step, state, batches)


def seconds_of(
    call: Callable[[Any, Any], tuple[Any, Any]], state: Any, parts: list[Any]
) -> tuple[Any, float]:
    """Call a function with each part, one after the other; return the last state and the time of all."""
    start = time.perf_counter()
    for part in parts:
        state, _ = call(state, part)
    jax.block_until_ready(state)
    return state, time.perf_counter() - start


def main() -> None:
    """Measure all ways, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument(
        "--rounds", type=int, default=ROUNDS, help="measurements of each way (default: %(default)s)"
    )
    rounds = parser.parse_args().rounds
    of_images, of_labels = jax.random.split(jax.random.key(1))
    batches = (
        jax.random.uniform(of_images, (STEPS, BATCH, 28, 28)),
        jax.random.randint(of_labels, (STEPS, BATCH), 0, 10),
    )
    one_by_one = [jax.tree.map(lambda array, i=i: array[i], batches) for i in range(STEPS)]
    in_tens = [
        jax.tree.map(lambda array, i=i: array[i : i + IN_ONE_CALL], batches)
        for i in range(0, STEPS, IN_ONE_CALL)
    ]
    # So low a rate hardly changes the weights: a model that has learned its batches has gradients near zero.
    adam = optax.adam(1e-8)
    consuming = partial(jax.jit, donate_argnums=0)
    # As many arrays as the state has, and next to no arithmetic: this is JAX's own part.
    arrays = [jnp.zeros((64, 64)) for _ in jax.tree.leaves(new_state(adam))]

    ways: dict[str, tuple[Way, State, list[Part]]] = {
        "all steps in one program": (consuming(steps), new_state(adam), [batches]),
        f"{IN_ONE_CALL} steps a call": (consuming(steps), new_state(adam), in_tens),
        "a call a step": (jax.jit(step), new_state(adam), one_by_one),
        "a call a step, which consumes its state": (consuming(step), new_state(adam), one_by_one),
        "the same with optax.flatten": (consuming(step), new_state(optax.flatten(adam)), one_by_one),
        f"{len(arrays)} arrays, nothing else": (
            consuming(lambda state, _: ([array + 1e-8 for array in state], 0)),
            arrays,
            one_by_one,
        ),
    }
    states = {
        name: seconds_of(call, state, parts)[0] for name, (call, state, parts) in ways.items()
    }  # compiles
    taken: dict[str, list[float]] = {name: [] for name in ways}
    for index in range(rounds):
        for name in list(ways)[:: 1 if index % 2 else -1]:
            call, _, parts = ways[name]
            states[name], seconds = seconds_of(call, states[name], parts)
            taken[name].append(1000 * seconds / STEPS)
    first = next(iter(ways))
    print(f"{'':42} ms a step  times the first, median of {rounds} rounds")
    for name, milliseconds in taken.items():
        ratios = [one / other for one, other in zip(milliseconds, taken[first], strict=True)]
        print(f"{name:42} {statistics.median(milliseconds):9.2f}  {statistics.median(ratios):.2f}")


if __name__ == "__main__":
    main()

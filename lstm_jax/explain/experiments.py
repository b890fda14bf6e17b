"""What the tutorial measures. `tutorial.py` has the command; each function here returns a JSON object.

    batch_sizes           the same epochs in batches of 16 to 1024 images
    static_and_dynamic    compile time and run time of `unrolled` and `scan`, by the number of steps
    both_directions       where the backward direction is read: at its last step, and at its first
    seeds                 the tutorial's run, from ten seeds
    first_digit           what a model says of the first image after an epoch

Times are of the machine at hand, and another program beside them moves them. So the tutorial compares them
within one experiment only.
"""

import math
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeAlias

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Float32, Int32

from lstm_jax.compare.statistics import median
from lstm_jax.config import NUM_CLASSES, Config
from lstm_jax.data.dataset import Dataset, epoch_order, load_dataset
from lstm_jax.functional import lstm
from lstm_jax.linen import LSTM
from lstm_jax.model import KERNEL_INIT, logits_of
from lstm_jax.runs.history import of_each_seed
from lstm_jax.runs.loop import train
from lstm_jax.runs.run_directory import Record
from lstm_jax.training import build_model, loss_of

Measured: TypeAlias = dict[str, Any]

BATCH_SIZES = (16, 32, 64, 128, 256, 512, 1024)
TIME_STEPS = (7, 14, 28, 56)
PIXELS = 28
# The tutorial's run is the one without options.
TUTORIAL = Config()
HIDDEN, BATCH, LEARNING_RATE = (
    TUTORIAL.model.hidden_size,
    TUTORIAL.batch_size,
    TUTORIAL.optimizer.learning_rate,
)
# What is kept of an epoch's record.
KEPT = ("epoch", "train_loss", "validation_loss", "validation_accuracy", "test_accuracy")


def batch_sizes(*, sizes: Sequence[int] = BATCH_SIZES, epochs: int = 5, seeds: int = 3) -> Measured:
    """Train in batches of each size: at one learning rate, and at one that grows with the batch.

    The second is the tutorial's rate times the root of the batch's size over 128, a common rule for Adam.
    """
    measured = []
    for size in sizes:
        scaled = LEARNING_RATE * math.sqrt(size / BATCH)
        fixed = [_history(batch_size=size, epochs=epochs, seed=seed) for seed in range(seeds)]
        other = [
            _history(batch_size=size, epochs=epochs, seed=seed, learning_rate=scaled) for seed in range(seeds)
        ]
        measured.append(
            {
                "batch_size": size,
                "steps_per_epoch": fixed[0][0]["step"],
                "epoch_seconds": median([record["train_seconds"] for run in fixed for record in run]),
                "test_accuracy": [[record["test_accuracy"] for record in run] for run in fixed],
                "scaled_learning_rate": scaled,
                "scaled_test_accuracy": [[record["test_accuracy"] for record in run] for run in other],
            }
        )
    return {"epochs": epochs, "seeds": seeds, "learning_rate": LEARNING_RATE, "sizes": measured}


def static_and_dynamic(*, time_steps: Sequence[int] = TIME_STEPS, rounds: int = 5) -> Measured:
    """Compile the gradient of an LSTM as a static and as a dynamic RNN, and run it, in turns."""
    measured = []
    for steps in time_steps:
        programs = {name: _gradient_program(name, steps) for name in ("unrolled", "scan")}
        # The first round warms up.
        samples = [{name: _timed(run) for name, (run, _) in programs.items()} for _ in range(rounds + 1)][1:]
        measured.append(
            {
                "time_steps": steps,
                **{
                    name: {**about, "run_ms": 1e3 * median([sample[name] for sample in samples])}
                    for name, (_, about) in programs.items()
                },
            }
        )
    return {"batch_size": BATCH, "hidden_size": HIDDEN, "rounds": rounds, "lengths": measured}


# Which directions there are, and whether the backward one is misread.
DIRECTIONS: Mapping[str, tuple[tuple[str, ...], bool]] = MappingProxyType(
    {
        "forward": (("forward",), False),
        "both": (("forward", "backward"), False),
        "both, misread": (("forward", "backward"), True),
        "backward": (("backward",), False),
        "backward, misread": (("backward",), True),
    }
)


class LastOutputs(nn.Module):
    """A classifier that reads outputs aligned with the rows, as tutorials of bidirectional LSTMs do.

    `LSTMClassifier` takes the final state of each direction, and cannot make the mistake.

    Attributes:
        directions: ``forward``, ``backward`` or both.
        misread: whether the backward direction is read at index -1, where it has seen one row only.
    """

    directions: tuple[str, ...]
    misread: bool

    @nn.compact
    def __call__(self, images: Float[Array, "batch rows columns"]) -> Float32[Array, "batch classes"]:
        """Compute the logits of a batch of images with values from 0 to 1."""
        read = []
        for direction in self.directions:
            backward = direction == "backward"
            outputs: Any = LSTM(
                HIDDEN,
                reverse=backward,
                keep_order=True,  # outputs[:, t] belongs to row t, in both directions
                forget_bias=TUTORIAL.model.forget_bias,
                kernel_init=KERNEL_INIT,
                recurrent_kernel_init=KERNEL_INIT,
                name=direction,
            )(images)
            read.append(outputs[:, 0 if backward and not self.misread else -1])
        return nn.Dense(NUM_CLASSES)(jnp.concatenate(read, axis=-1))


def both_directions(*, epochs: int = 5, seeds: int = 3, images: int | None = None) -> Measured:
    """Train classifiers that read the backward direction rightly and wrongly, and none of it."""
    mnist = load_dataset("mnist")
    return {
        "epochs": epochs,
        "seeds": seeds,
        "test_accuracy": {
            name: [_accuracy_of(LastOutputs(*how), mnist, epochs, seed, images) for seed in range(seeds)]
            for name, how in DIRECTIONS.items()
        },
    }


def seeds(*, count: int = 10, epochs: int = 10) -> Measured:
    """Train the tutorial's model from many seeds, in one program."""
    config = {"seeds": count, "epochs": epochs}
    each = of_each_seed(Config.of(**config), _history(**config))
    return {**config, "records": [[{name: record[name] for name in KEPT} for record in run] for run in each]}


def first_digit() -> Measured:
    """Ask a model after one epoch what the first training image is."""
    with tempfile.TemporaryDirectory() as folder:
        params = train(Config.of(run_dir=Path(folder) / "run", epochs=1)).params
    image = next(load_dataset("mnist").train.batches(1)).image
    probability = jax.nn.softmax(logits_of(build_model(TUTORIAL.model), params, jnp.asarray(image)))
    return {"probabilities": [round(float(share), 4) for share in probability[0]]}


EXPERIMENTS: Mapping[str, Callable[[], Measured]] = MappingProxyType(
    {each.__name__: each for each in (batch_sizes, static_and_dynamic, both_directions, seeds, first_digit)}
)


def _history(**options: Any) -> Sequence[Record]:
    """Train with these options, in a folder that is removed, and return the record of each epoch."""
    with tempfile.TemporaryDirectory() as folder:
        return train(Config.of(run_dir=Path(folder) / "run", **options)).history


def _gradient_program(implementation: str, steps: int) -> tuple[Callable[[], Any], Measured]:
    """Compile the gradient of an LSTM; return a call of it, and its lines and the seconds that it took."""
    key, of_inputs = jax.random.split(jax.random.key(0))
    inputs = jax.random.normal(of_inputs, (BATCH, steps, PIXELS))
    params = nn.RNN(nn.LSTMCell(HIDDEN)).init(key, inputs[:1, :1])["params"]["cell"]

    def loss(params: Any, inputs: Float[Array, "batch time features"]) -> Float[Array, ""]:
        (_, h), _ = lstm(params, inputs, return_outputs=False, implementation=implementation)
        return jnp.mean(jnp.square(h))

    start = time.perf_counter()
    lowered = jax.jit(jax.grad(loss)).lower(params, inputs)
    compiled = lowered.compile()
    seconds = time.perf_counter() - start
    about = {"lines": len(lowered.as_text().splitlines()), "compile_seconds": seconds}
    return lambda: jax.block_until_ready(compiled(params, inputs)), about


def _timed(run: Callable[[], Any], *, seconds: float = 0.2) -> float:
    """Return the seconds of one call, the mean over calls that fill ``seconds``."""
    start, calls = time.perf_counter(), 0
    while (passed := time.perf_counter() - start) < seconds or not calls:
        run()
        calls += 1
    return passed / calls


def _accuracy_of(model: nn.Module, mnist: Dataset, epochs: int, seed: int, images: int | None) -> float:
    """Train a classifier as the tutorial does, and return its accuracy on the test images.

    Args:
        model: from images to logits.
        mnist: the data.
        epochs: how often to read the training images.
        seed: of the weights and of the order of the images.
        images: how many of the training images to use; None is all.
    """
    optimizer = optax.adam(LEARNING_RATE)

    def logits(params: Any, image: Array) -> Any:
        return model.apply({"params": params}, image.astype(jnp.float32) / 255)

    def step(state: Any, batch: tuple[Array, Array]) -> tuple[Any, None]:
        params, opt_state = state
        gradients = jax.grad(lambda params: loss_of(logits(params, batch[0]), batch[1], 0.0))(params)
        updates, opt_state = optimizer.update(gradients, opt_state)
        return (optax.apply_updates(params, updates), opt_state), None

    @jax.jit
    def epoch(state: Any, image: Array, label: Array, order: Int32[Array, "steps batch"]) -> Any:
        return jax.lax.scan(lambda state, chosen: step(state, (image[chosen], label[chosen])), state, order)[
            0
        ]

    count = images or len(mnist.train)
    image, label = map(jnp.asarray, next(mnist.train.batches(count)))
    params = model.init(jax.random.key(seed), jnp.zeros((1, PIXELS, PIXELS)))["params"]
    state = (params, optimizer.init(params))
    for index in range(epochs):
        order = epoch_order(seed, index, count)
        state = epoch(state, image, label, order[: count // BATCH * BATCH].reshape(-1, BATCH))
    right, score = 0, jax.jit(logits)
    for batch in mnist.test.batches(1000):
        right += int(np.sum(np.argmax(score(state[0], batch.image), axis=-1) == batch.label))
    return right / len(mnist.test)

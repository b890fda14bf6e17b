"""The time that augmentation adds to a training step: ``python -m lstm_jax.compare.augmentation_cost``.

The steps are those of training, in the loop of an epoch, on MNIST. Noise would soon train the LSTM to
saturate, and its gradients would become denormal numbers, which are slow. Steps without and with augmentation
take turns, first by the wall clock and then by the processor time of this process. Processor time says more
on a shared machine, because it counts work on all cores, and no waiting.
"""

import dataclasses
import math
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated

import jax
import numpy as np

from lstm_jax import devices
from lstm_jax.commands import command_line
from lstm_jax.compare.measuring import turn
from lstm_jax.compare.statistics import quartiles
from lstm_jax.config import Augmentation, Config, recipe_config
from lstm_jax.data.dataset import Split, load_dataset
from lstm_jax.options import check, number
from lstm_jax.training import RESIDENT_SPEC, Method, Resident, compile_train_epoch, init_state_on

PROG = "python -m lstm_jax.compare.augmentation_cost"

STEPS = 2**16  # the most steps of one call
TRIAL_STEPS = 10  # steps of a trial, which shows how long a step takes

_POSSIBLE = number("a number above 0 and below a million", lambda x: 0 < x < 1e6)


@dataclasses.dataclass(frozen=True)
class AugmentationCost:
    """Time training steps of LSTM-64 without and with the augmentation of the recipe accurate."""

    rounds: Annotated[int, _POSSIBLE] = 15
    """Number of measurements of each variant; the variants take turns."""
    seconds: Annotated[float, _POSSIBLE] = 0.3
    """Shortest time of one measurement, in seconds."""

    def __post_init__(self) -> None:
        """Refuse impossible values."""
        check(self)

    def run(self) -> int:
        """Print the table."""
        devices.start(devices=None)
        images = load_dataset("mnist").train
        runs = {name: prepare(images, augmentation) for name, augmentation in variants().items()}
        for title, clock in (("wall clock", time.perf_counter), ("processor time", time.process_time)):
            print(as_text(title, take_turns(runs, rounds=self.rounds, seconds=self.seconds, clock=clock)))
        return 0


def variants() -> Mapping[str, Augmentation]:
    """Return the timed variants: no augmentation, that of a recipe, and that without elastic distortion."""
    everything = recipe_config("accurate").augmentation
    return {"none": Augmentation(), "affine": dataclasses.replace(everything, elastic=0.0), "all": everything}


def prepare(images: Split, augmentation: Augmentation) -> Callable[[int], None]:
    """Compile an epoch of the tutorial with this augmentation, and return a function that takes steps."""
    config = Config()
    method = Method.of(config.model, config.optimizer, augmentation, total_steps=STEPS)
    mesh = devices.make_mesh(devices=1, batch_size=config.batch_size)
    epoch = compile_train_epoch(method, mesh, data_spec=RESIDENT_SPEC)
    (image, label) = next(images.batches(len(images)))
    order = np.random.default_rng(0).integers(0, len(images), (STEPS, config.batch_size), np.int32)
    arrays = zip((image, label.astype(np.int32), order), RESIDENT_SPEC, strict=True)
    data = Resident(*(devices.place(mesh, array, spec) for array, spec in arrays))
    state = init_state_on(mesh, method, config.seed)

    def run(steps: int) -> None:
        nonlocal state  # each call consumes it
        state = epoch(state, data, np.int32(0), np.int32(steps), np.uint32(config.seed))
        jax.block_until_ready(state)

    return run


def take_turns(
    runs: Mapping[str, Callable[[int], None]], *, rounds: int, seconds: float, clock: Callable[[], float]
) -> dict[str, list[float]]:
    """Measure the seconds per step of every run, once in each round, over ``seconds`` by the ``clock``."""

    def timed(name: str, steps: int) -> float:
        runs[name](math.ceil(steps / 10))  # untimed, to fill the caches with the data of this run
        start = clock()
        runs[name](steps)
        return (clock() - start) / steps

    trials = {name: timed(name, TRIAL_STEPS) for name in runs}
    steps = {name: min(STEPS, math.ceil(seconds / max(trial, 1e-9))) for name, trial in trials.items()}
    samples: dict[str, list[float]] = {name: [] for name in runs}
    for index in range(rounds):
        for name in turn(list(runs), index, rounds):
            samples[name].append(timed(name, steps[name]))
    return samples


def as_text(title: str, samples: Mapping[str, Sequence[float]]) -> str:
    """Make a Markdown table of milliseconds per step, their interquartile range, and the added time."""
    lines = [f"| augmentation | {title}, ms per step | added |", "|---|---:|---:|"]
    for name, seconds in samples.items():
        low, median, high = quartiles(seconds)
        added = median / quartiles(samples["none"])[1] - 1
        lines.append(f"| {name} | {1e3 * median:.2f} ({1e3 * (high - low):.2f}) | {added:+.0%} |")
    return "\n".join([*lines, ""])


if __name__ == "__main__":
    command_line.run(lambda: command_line.parse(AugmentationCost, sys.argv[1:], prog=PROG).run(), prog=PROG)

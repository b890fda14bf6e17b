"""A comparison that never took place: random numbers of realistic size, the same every time."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
from lstm_jax.benchmark.size import Size, forward_flop, train_flop
from lstm_jax.compare.tables import Table

from lstm_jax.compare.frameworks import FRAMEWORKS
from lstm_jax.compare.results import (
    FrameworkResult,
    Learning,
    Parity,
    Peak,
    Results,
    Scaling,
    ScalingPoint,
    Speed,
)

SIZE = Size(hidden=64, batch=128, time=28, inputs=28)
# Milliseconds of a train step, a batch of inference and a single image; seconds of start-up and first step;
# megabytes.
COSTS = {
    "lstm_jax-native": (2.46, 0.92, 0.21, 1.9, 0.59, 390),
    "lstm_jax-fused": (6.1, 2.0, 0.35, 1.9, 1.1, 410),
    "lstm_jax-scan": (9.9, 2.5, 0.33, 1.9, 1.3, 420),
    "lstm_jax-unrolled": (7.4, 2.2, 0.28, 1.9, 14.0, 700),
    "flax-rnn": (9.3, 2.6, 0.36, 1.8, 1.3, 415),
    "flax-scan": (10.7, 2.7, 0.37, 1.8, 1.3, 420),
    "flax-nnx": (9.4, 2.5, 0.39, 1.9, 1.6, 430),
    "equinox": (11.8, 2.6, 0.34, 1.1, 1.2, 380),
    "haiku": (10.9, 2.5, 0.35, 1.2, 1.2, 385),
    "keras-jax": (8.9, 2.4, 1.1, 3.2, 1.9, 520),
    "keras-tensorflow": (12.9, 5.1, 21.0, 6.8, 3.1, 910),
    "keras-tensorflow-xla": (11.2, 3.0, 2.2, 6.9, 5.2, 960),
    "pytorch": (5.4, 1.8, 0.55, 2.3, 0.04, 350),
    "pytorch-compile": (6.6, 2.2, 0.48, 2.4, 44.0, 610),
    "onnxruntime": (None, 1.1, 0.08, 0.3, None, 120),
}
# What is chosen by trial for PyTorch.
THREADS = {"train": "2 threads", "infer": "1 thread", "latency": "1 thread"}
STEPS = 100
TOLERANCES = {
    "logits": 1e-4,
    "inference": 1e-4,
    "loss": 1e-5,
    "gradients": 1e-3,
    "curve": 1e-3,
    "chunk": 1e-3,
}
VERSIONS = {"jax": "0.10.2", "numpy": "2.3.5"}


def samples(
    rng: np.random.Generator, value: float, rounds: int, *, spread: float = 0.04
) -> tuple[float, ...]:
    """Measurements around a value: never much below it, sometimes far above."""
    return tuple(map(float, value * (1 + rng.gamma(2.0, spread / 2, rounds))))


def speed_of(rng: np.random.Generator, costs: Sequence[float | None], rounds: int) -> Speed:
    train, infer, latency, start, first, memory = costs
    assert infer is not None
    assert latency is not None
    assert start is not None
    assert memory is not None
    seconds = samples(rng, train / 1e3, rounds) if train else ()
    return Speed(
        start_seconds=start,
        first_step_seconds=first,
        settings=THREADS if first == 0.04 else {},
        train_seconds=seconds,
        train_cpu_seconds=tuple(1.7 * value for value in seconds),
        infer_seconds=samples(rng, infer / 1e3, rounds),
        latency_seconds=samples(rng, latency / 1e3, rounds, spread=0.1),
        start_memory=int(0.6e6 * memory),
        peak_memory=int(1e6 * memory),
    )


def losses_of(judge: Sequence[float], rng: np.random.Generator, error: float) -> tuple[float, ...]:
    """The judge's losses with an error that grows from step to step, as rounding does."""
    growing = error * np.geomspace(1e-3, 1, len(judge)) * rng.standard_normal(len(judge))
    return tuple(float(loss) for loss in np.asarray(judge) * (1 + growing))


def parity_of(judge: Sequence[float], rng: np.random.Generator, error: float, *, trains: bool) -> Parity:
    if not trains:
        return Parity(logits=2e-7, inference=2e-7)
    losses = losses_of(judge, rng, error)
    curve = max(abs(one / other - 1) for one, other in zip(losses, judge, strict=True))
    return Parity(2e-7, 1e-7, 3e-6, losses, curve, curve / 3, inference=4e-7)


def learning_of(rng: np.random.Generator, costs: Sequence[float | None], seed: int, epochs: int) -> Learning:
    train, _, _, start, first, _ = costs
    assert train is not None
    assert start is not None
    assert first is not None
    steps = tuple(143 * (part + 1) for part in range(3 * epochs))
    seconds = np.cumsum(samples(rng, 143 * train / 1e3, len(steps)))
    accuracy = 0.984 - 0.2 * np.asarray(steps) ** -1.0 * 143 * 0.5 + 0.002 * rng.standard_normal(len(steps))
    return Learning(seed, start, first, steps, tuple(map(float, seconds)), tuple(map(float, accuracy)))


def scaling_of(rng: np.random.Generator, names: Sequence[str], rounds: int) -> tuple[Scaling, ...]:
    axes = {"hidden": (32, 64, 128, 256, 512), "batch": (8, 32, 128, 512), "time": (7, 28, 112, 784)}
    return tuple(
        Scaling(axis, tuple(_point(rng, SIZE._replace(**{axis: value}), names, rounds) for value in values))
        for axis, values in axes.items()
    )


def _point(rng: np.random.Generator, size: Size, names: Sequence[str], rounds: int) -> ScalingPoint:
    seconds, why_not = {}, {}
    work = train_flop(size) / train_flop(SIZE)
    for name in names:
        base = COSTS[name][0]
        longest = FRAMEWORKS[name].longest
        if base is None:
            continue
        if longest and size.time > longest:
            why_not[name] = f"takes minutes to compile beyond {longest} time steps"
            continue
        # PyTorch's kernels gain with size: somebody else is faster at the largest.
        power = 0.75 if name == "pytorch" else 0.95
        seconds[name] = samples(rng, 1e-3 * (base - 0.4) * work**power + 0.4e-3, rounds)
    steps = max(2, round(30 / work))
    return ScalingPoint(*size, steps, seconds=seconds, why_not=why_not)


def example_results(
    names: Sequence[str] = tuple(COSTS),
    *,
    rounds: int = 15,
    seeds: int = 3,
    epochs: int = 5,
    scaling: bool = True,
    faster: float = 1.0,
    seed: int = 0,
) -> Results:
    """A whole comparison, or a part of one.

    Args:
        names: the frameworks.
        rounds: measurements of each.
        seeds: runs that learn; 0 for none.
        epochs: of these.
        scaling: whether there are curves.
        faster: how many times as fast lstm_jax-native is as it would be.
        seed: of the random numbers.
    """
    rng = np.random.default_rng(seed)
    judge = tuple(map(float, 2.3 * np.exp(-np.arange(STEPS) / 40) + 0.3 + 0.05 * rng.random(STEPS)))
    costs: dict[str, Any] = dict(COSTS)
    native = costs["lstm_jax-native"]
    costs["lstm_jax-native"] = (native[0] / faster, *native[1:])
    frameworks = {}
    for name in names:
        trains = FRAMEWORKS[name].trains
        frameworks[name] = FrameworkResult(
            title=FRAMEWORKS[name].title,
            versions={"jax": "0.10.2"} if name.startswith("lstm_jax") else {"numpy": "2.3.5"},
            parity=parity_of(judge, rng, 10 ** rng.uniform(-6, -4.3), trains=trains),
            speed=speed_of(rng, costs[name], rounds),
            learning=tuple(learning_of(rng, costs[name], seed, epochs) for seed in range(seeds * trains)),
        )
    return Results(
        command="python -m lstm_jax compare --hidden-size 64 --batch-size 128 --time-steps 28",
        date="2026-01-31T12:00:00+00:00",
        machine={"cpu": "A processor of 2.1 GHz", "cores": 2, "system": "Linux", "environment": {}},
        versions={"python": "3.11.2", "lstm_jax": "0.1.0"},
        **SIZE._asdict(),
        threads=2,
        steps_per_call=STEPS,
        train_flop=train_flop(SIZE),
        forward_flop=forward_flop(SIZE),
        judge_losses=judge,
        tolerances=TOLERANCES,
        frameworks=frameworks,
        peak=Peak(2 * 2048**3, samples(rng, 2 * 2048**3 / 280e9, rounds)),
        scaling=scaling_of(rng, names, max(rounds // 2, 1)) if scaling else (),
        learning_rate=0.01,
        epochs=float(epochs if seeds else 0),
        test_images=10_000,
        notes=("The processor's clock was not fixed.",),
    )


def with_troubles(results: Results) -> Results:
    """The same, but that one framework is missing, one has failed and one computes something else."""
    frameworks = dict(results.frameworks)
    for name, why in [("haiku", "not installed: pip install dm-haiku"), ("keras-jax", "ended by signal 9")]:
        frameworks[name] = FrameworkResult(FRAMEWORKS[name].title, {}, why_not=why)
    equinox = frameworks["equinox"]
    rng = np.random.default_rng(0)
    losses = losses_of(results.judge_losses, rng, 0.3)
    why = "gradients: relative error 1.2e-01, allowed 1e-03"
    wrong = Parity(3e-7, 1e-7, 0.12, losses, 0.3, 0.1, 3e-7, why)
    frameworks["equinox"] = dataclasses.replace(equinox, parity=wrong, why_not=why)
    return dataclasses.replace(results, frameworks=frameworks)


def with_speed(results: Results, name: str, **changes: Any) -> Results:
    """The same with other measurements of one framework."""
    speed = results.frameworks[name].speed
    assert speed is not None
    return results.with_framework(name, speed=dataclasses.replace(speed, **changes))


def rows_of(table: Table) -> dict[str, dict[str, str]]:
    """The cells of a table by the name of the row and the title of the column."""
    return {row[0]: dict(zip(table.header, row, strict=True)) for row in table.rows}


# Comparisons of which something is missing.
PAIR = ("lstm_jax-native", "pytorch")
PARTS: dict[str, Results] = {
    "quick": example_results(PAIR, rounds=5, seeds=0, scaling=False),
    "one framework": example_results(PAIR[:1], seeds=1),
    "none of ours": example_results(PAIR[1:], seeds=1),
    "one round": example_results(PAIR, rounds=1, seeds=1, epochs=1),
    "inference alone": example_results(("onnxruntime",), seeds=0),
    "another size": dataclasses.replace(example_results(PAIR, seeds=0, scaling=False), time=112),
    "troubles": with_troubles(example_results(rounds=5, seeds=2, epochs=1)),
    "nothing": dataclasses.replace(
        example_results(PAIR, seeds=0, scaling=False),
        frameworks={"haiku": FrameworkResult("Haiku", {}, why_not="not installed: pip install dm-haiku")},
        judge_losses=(),
        peak=None,
    ),
}

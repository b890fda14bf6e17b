"""Schedules, clipping, optimizers and averaged weights, each against its definition by hand in float64."""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from lstm_jax.config import Config
from lstm_jax.optimizer import average_weight, averaged, build_optimizer, learning_rate_schedule
from lstm_jax.training import build_model, loss_of

# float32 against float64, over a few steps of 0.1 to 0.25: Adam's 1 - 0.999^t loses digits, 2e-6 was seen.
# Muon makes much of rounding in tiny singular values, which these small random matrices do not have.
ROUNDING = {"rtol": 2e-5, "atol": 1e-5}
PEAK, STEPS = 0.5, 40

Tree = Any


def rates(steps: int = STEPS, **options: Any) -> list[float]:
    schedule = learning_rate_schedule(Config.of(learning_rate=PEAK, **options).optimizer, total_steps=steps)
    return [float(schedule(step)) for step in range(steps)] if callable(schedule) else [schedule] * steps


def falling(kind: str, share: float, j: int, decay: int) -> float:
    final = PEAK * share
    if kind == "linear":
        return PEAK + (final - PEAK) * j / decay
    return final + (PEAK - final) * (1 + math.cos(math.pi * j / decay)) / 2


@pytest.mark.parametrize("kind", ["linear", "cosine"])
@pytest.mark.parametrize("warmup", [0.0, 0.2])
@pytest.mark.parametrize("share", [0.0, 0.1])
def test_schedules(kind: str, warmup: float, share: float) -> None:
    rising = round(warmup * STEPS)
    expected = [PEAK * (k + 1) / (rising + 1) for k in range(rising)]
    expected += [falling(kind, share, j, STEPS - rising) for j in range(STEPS - rising)]
    actual = rates(schedule=kind, warmup=warmup, final_learning_rate_share=share)
    np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-7)
    assert min(actual) > 0
    assert np.argmax(actual) == rising


def test_a_constant_rate_with_and_without_warmup() -> None:
    assert rates() == [PEAK] * STEPS
    rising = [PEAK * (k + 1) / 5 for k in range(4)]
    np.testing.assert_allclose(rates(warmup=0.1), rising + [PEAK] * 36, rtol=1e-6)


@pytest.mark.parametrize("steps", [1, 2, 3])
def test_the_shortest_runs_have_a_schedule_too(steps: int) -> None:
    for kind in ("linear", "cosine", "constant"):
        assert all(0 < rate <= PEAK for rate in rates(steps, schedule=kind, warmup=0.4))


def random_tree(seed: int, scale: float = 1.0) -> Tree:
    rng = np.random.default_rng(seed)
    return {
        "head": {"kernel": rng.standard_normal((3, 2)) * scale, "bias": rng.standard_normal(2) * scale},
        "cell": {
            "ii": {"kernel": rng.standard_normal((1, 3)) * scale},
            "if": {"kernel": rng.standard_normal((4, 3)) * scale},
            "hi": {"kernel": rng.standard_normal((3, 3)) * scale, "bias": rng.standard_normal(3)},
        },
    }


def run(config: Config, steps: int, scale: float = 1.0) -> tuple[list[Tree], Any]:
    """The parameters after each step down random gradients, and the last state."""
    optimizer = build_optimizer(config.optimizer, total_steps=steps)
    params = jax.tree.map(jnp.float32, random_tree(0))
    state, history = optimizer.init(params), []
    update = jax.jit(optimizer.update)
    for step in range(steps):
        gradients = jax.tree.map(jnp.float32, random_tree(step + 1, scale))
        updates, state = update(gradients, state, params)
        params = optax.apply_updates(params, updates)
        history.append(params)
    return history, state


def adam_by_hand(
    config: Config,
    steps: int,
    scale: float,
    change: Callable[[Tree], Tree],
    decay: Callable[[str], float],
    *,
    nesterov: bool = False,
) -> Tree:
    """Adam's equations on gradients that ``change`` has had, with decoupled decay by name of the leaf."""
    params = random_tree(0)
    m, v = (jax.tree.map(np.zeros_like, params) for _ in range(2))
    rate = learning_rate_schedule(config.optimizer, total_steps=steps)
    for t in range(1, steps + 1):
        eta = float(rate(t - 1)) if callable(rate) else rate
        gradients = change(random_tree(t, scale))
        m = jax.tree.map(lambda m, g: 0.9 * m + 0.1 * g, m, gradients)
        v = jax.tree.map(lambda v, g: 0.999 * v + 0.001 * g**2, v, gradients)

        def step(path: Any, p: Any, m: Any, v: Any, g: Any, t: int = t, eta: float = eta) -> Any:
            mean = m / (1 - 0.9**t)
            if nesterov:
                mean = 0.9 * m / (1 - 0.9 ** (t + 1)) + 0.1 * g / (1 - 0.9**t)
            direction = mean / (np.sqrt(v / (1 - 0.999**t)) + 1e-8)
            return p - eta * (direction + decay(path[-1].key) * p)

        params = jax.tree_util.tree_map_with_path(step, params, m, v, gradients)
    return params


def assert_close(actual: Tree, expected: Tree) -> None:
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, **ROUNDING), actual, expected)


def no_decay(name: str) -> float:
    return 0.0


def test_the_default_is_adam_with_the_given_rate() -> None:
    config = Config.of(learning_rate=0.25)
    assert_close(run(config, 4)[0][-1], adam_by_hand(config, 4, 1.0, lambda g: g, no_decay))


def test_the_schedule_is_that_of_the_steps_taken() -> None:
    config = Config.of(learning_rate=0.25, schedule="cosine", warmup=0.3)
    assert_close(run(config, 7)[0][-1], adam_by_hand(config, 7, 1.0, lambda g: g, no_decay))


def test_adamw_shrinks_kernels_and_leaves_biases_alone() -> None:
    config = Config.of(learning_rate=0.1, optimizer="adamw", weight_decay=0.3)
    expected = adam_by_hand(config, 4, 1.0, lambda g: g, lambda name: 0.3 if name == "kernel" else 0.0)
    assert_close(run(config, 4)[0][-1], expected)


def muon_by_hand(config: Config, steps: int) -> Tree:
    """Muon's equations for the kernels of the cell: averages, Nesterov's look ahead, Newton and Schulz."""
    params = random_tree(0)["cell"]
    m = jax.tree.map(np.zeros_like, params)
    rate = learning_rate_schedule(config.optimizer, total_steps=steps)
    for t in range(1, steps + 1):
        gradients = random_tree(t)["cell"]
        m = jax.tree.map(lambda m, g: 0.95 * m + 0.05 * g, m, gradients)
        eta = float(rate(t - 1)) if callable(rate) else rate
        for gate in params:
            ahead = 0.95 * m[gate]["kernel"] / (1 - 0.95 ** (t + 1))
            ahead += 0.05 * gradients[gate]["kernel"] / (1 - 0.95**t)
            u, s, v = np.linalg.svd(ahead, full_matrices=False)
            # What the iteration does to the singular values, which it leaves in their places.
            s /= np.linalg.norm(s)
            for _ in range(5):
                s = 3.4445 * s - 4.775 * s**3 + 2.0315 * s**5
            size = 0.2 * math.sqrt(max(ahead.shape))
            decay = eta * config.optimizer.weight_decay * params[gate]["kernel"]
            params[gate]["kernel"] = params[gate]["kernel"] - eta * size * (u * s) @ v - decay
    return {gate: leaves["kernel"] for gate, leaves in params.items()}


@pytest.mark.parametrize("weight_decay", [0.0, 0.3])
def test_muon_turns_kernels_of_the_cell_and_leaves_the_rest_to_nadam(weight_decay: float) -> None:
    """Nothing else decays."""
    config = Config.of(
        learning_rate=0.1, optimizer="muon", schedule="linear", warmup=0.3, weight_decay=weight_decay
    )
    actual = run(config, 5)[0][-1]
    assert_close({gate: leaves["kernel"] for gate, leaves in actual["cell"].items()}, muon_by_hand(config, 5))
    nadam = adam_by_hand(config, 5, 1.0, lambda g: g, no_decay, nesterov=True)
    assert_close(actual["head"], nadam["head"])
    assert_close(actual["cell"]["hi"]["bias"], nadam["cell"]["hi"]["bias"])


@pytest.mark.parametrize("size", [(1, 5), (28, 64), (64, 64)])
def test_an_update_by_muon_has_its_size(size: tuple[int, int]) -> None:
    gradient = np.random.default_rng(0).standard_normal(size).astype(np.float32)
    params = {"cell": {"hi": {"kernel": jnp.zeros(size)}}}
    optimizer = build_optimizer(Config.of(learning_rate=1.0, optimizer="muon").optimizer, total_steps=1)
    updates, _ = optimizer.update(
        {"cell": {"hi": {"kernel": jnp.asarray(gradient)}}}, optimizer.init(params), params
    )
    # Five iterations bring singular values to somewhere between 0.68 and 1.13, but for a few tiny ones.
    assert 0.2 * 0.68 < float(jnp.sqrt(jnp.mean(updates["cell"]["hi"]["kernel"] ** 2))) < 0.2 * 1.13


def test_muon_is_for_the_kernels_of_all_lstms() -> None:
    model = build_model(Config.of(hidden_size=3, num_layers=2, bidirectional=True).model)
    params = model.init(jax.random.key(0), jnp.zeros((1, 28, 28)))["params"]
    state: Any = build_optimizer(Config.of(optimizer="muon").optimizer, total_steps=1).init(params)
    momentum = state.inner_states["muon"].inner_state[0].mu
    found = {jax.tree_util.keystr(path) for path, _ in jax.tree_util.tree_leaves_with_path(momentum)}
    paths = (jax.tree_util.keystr(path) for path, _ in jax.tree_util.tree_leaves_with_path(params))
    assert found == {path for path in paths if path.startswith("['lstm") and path.endswith("['kernel']")}
    assert len(found) == 4 * 8  # LSTMs with kernels of x and of h for four gates


@pytest.mark.parametrize("scale", [1.0, 0.01], ids=["above", "below"])
def test_gradients_are_clipped_by_their_global_norm(scale: float) -> None:
    config = Config.of(learning_rate=0.1, clip_norm=0.7)

    def clipped(gradients: Tree) -> Tree:
        norm = math.sqrt(sum(float(np.sum(leaf**2)) for leaf in jax.tree.leaves(gradients)))
        assert (norm > 0.7) or scale < 1
        return jax.tree.map(lambda leaf: leaf * min(1.0, 0.7 / norm), gradients)

    assert_close(run(config, 4, scale)[0][-1], adam_by_hand(config, 4, scale, clipped, no_decay))


@pytest.mark.parametrize("decay", [0.5, 0.9999])
def test_the_average_is_that_of_all_parameters_so_far(decay: float) -> None:
    history, state = run(Config.of(learning_rate=0.1, ema_decay=decay, clip_norm=1.0), 6)
    # The definition as a plain weighted mean: the newest weighs 1, the one before it `decay`, ...
    weights = np.array([decay**age for age in range(5, -1, -1)])
    expected = jax.tree.map(
        lambda *leaves: np.tensordot(weights / weights.sum(), np.stack(leaves).astype(np.float64), 1),
        *history,
    )
    assert_close(averaged(state), expected)
    # The steps themselves are as without it.
    plain, plain_state = run(Config.of(learning_rate=0.1, clip_norm=1.0), 6)
    jax.tree.map(np.testing.assert_array_equal, history[-1], plain[-1])
    assert averaged(plain_state) is None


def test_before_the_first_step_the_average_is_the_parameters() -> None:
    params = jax.tree.map(jnp.float32, random_tree(0))
    state = build_optimizer(Config.of(ema_decay=0.99).optimizer, total_steps=1).init(params)
    jax.tree.map(np.testing.assert_array_equal, averaged(state), params)


@pytest.mark.parametrize("decay", [0.9, 0.99999])
@pytest.mark.parametrize("steps", [1, 2, 1000, 10**7])
def test_the_weight_of_the_newest_parameters(decay: float, steps: int) -> None:
    expected = (1 - decay) / (1 - decay**steps)
    np.testing.assert_allclose(average_weight(decay, jnp.int32(steps)), expected, rtol=1e-6)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_the_loss(smoothing: float) -> None:
    rng = np.random.default_rng(0)
    logits, label = rng.standard_normal((6, 10)) * 3, rng.integers(0, 10, 6)
    log_probabilities = logits - np.log(np.sum(np.exp(logits), axis=1, keepdims=True))
    targets = np.full((6, 10), smoothing / 10)
    targets[np.arange(6), label] += 1 - smoothing
    expected = -np.mean(np.sum(targets * log_probabilities, axis=1))
    actual = loss_of(jnp.float32(logits), jnp.int32(label), smoothing)
    np.testing.assert_allclose(actual, expected, rtol=1e-6)

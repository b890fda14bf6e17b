"""One step and an epoch of steps: against hand-written optimisation, on one device and on two."""

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from lstm_jax import LSTMClassifier, runtime, training
from lstm_jax.config import Config
from lstm_jax.data import MemorySplit
from lstm_jax.feed import make_feed

MODEL = LSTMClassifier(hidden_size=7)
OPTIMIZER = optax.adam(0.01)
# Where two programs are compared up to rounding: Adam divides by the size of the gradient and makes much
# of rounding where that is near 0.
DESCENT = optax.sgd(0.1)

# Two float32 programs that do the same sums in another order, over 6 steps: 4e-6 was seen.
STEP_TOLERANCE = {"rtol": 1e-4, "atol": 1e-6}


def examples(count: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Random images and labels: every row of every image differs, so a wrong order would show."""
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (count, 28, 28), dtype=np.uint8), rng.integers(0, 10, count, dtype=np.int32)


def mesh_of(devices: int) -> Mesh:
    return runtime.make_mesh(devices=devices, batch_size=devices)


def initial(mesh: Mesh, model: LSTMClassifier = MODEL, seed: int = 0) -> training.TrainState:
    return training.init_state_on(mesh, model, OPTIMIZER, seed=seed)


def on_devices(mesh: Mesh, image: np.ndarray, label: np.ndarray) -> training.DeviceBatch:
    place = partial(runtime.place, mesh, spec=P(runtime.DATA_AXIS))
    return place(image), place(label)


def assert_same_bits(a: object, b: object) -> None:
    jax.tree.map(np.testing.assert_array_equal, a, b)


def test_a_step_is_adam_on_the_mean_cross_entropy() -> None:
    # The reference is written with Flax's own layers and Adam's equations in float64.
    mesh = mesh_of(1)
    state = initial(mesh)
    before = jax.tree.map(np.asarray, state.params)
    image, label = examples(6)

    def loss_of(params: dict) -> jax.Array:
        hidden = nn.RNN(nn.LSTMCell(7)).apply(
            {"params": params["lstm_0_forward"]}, image.astype(np.float32) / 255
        )
        logits = nn.Dense(10).apply({"params": params["head"]}, hidden[:, -1])
        return -jnp.mean(jax.nn.log_softmax(logits)[jnp.arange(6), label])

    loss, gradients = jax.value_and_grad(loss_of)(before)
    state, step_loss = training.compile_train_step(MODEL, OPTIMIZER, seed=0, mesh=mesh)(
        state, on_devices(mesh, image, label)
    )
    np.testing.assert_allclose(step_loss, loss, rtol=1e-6)
    np.testing.assert_allclose(state.loss_sum, loss, rtol=1e-6)

    def adam(p: np.ndarray, g: np.ndarray) -> np.ndarray:
        # First step of Adam: the bias corrections make m = g and v = g^2.
        p, g = np.asarray(p, np.float64), np.asarray(g, np.float64)
        return p - 0.01 * g / (np.abs(g) + 1e-8)

    # Only where the gradient is far enough from 0 does its sign not hang on rounding.
    for path, gradient in jax.tree_util.tree_leaves_with_path(gradients):
        sure = np.abs(gradient) > 1e-6
        old, new = (jax.tree_util.tree_leaves_with_path(tree) for tree in (before, state.params))
        old, new = dict(old)[path], np.asarray(dict(new)[path])
        np.testing.assert_allclose(new[sure], adam(old, gradient)[sure], rtol=1e-4, atol=1e-6)


def test_one_step_changes_every_parameter_and_counts_itself() -> None:
    mesh = mesh_of(1)
    state = initial(mesh)
    before = jax.tree.map(np.array, state.params)
    step = training.compile_train_step(MODEL, OPTIMIZER, seed=0, mesh=mesh)
    state, _ = step(state, on_devices(mesh, *examples(8)))
    for path, change in jax.tree_util.tree_leaves_with_path(
        jax.tree.map(lambda a, b: np.abs(a - b), before, state.params)
    ):
        assert np.all(change > 0), jax.tree_util.keystr(path)
    assert int(state.step) == 1
    assert int(state.nonfinite_step) == training.NEVER


def test_the_step_compiles_once() -> None:
    mesh = mesh_of(1)
    step = training.compile_train_step(MODEL, OPTIMIZER, seed=0, mesh=mesh)
    state = initial(mesh)
    for seed in range(3):
        state, _ = step(state, on_devices(mesh, *examples(8, seed)))
    assert step._cache_size() == 1


@pytest.fixture(scope="module")
def split() -> MemorySplit:
    return MemorySplit(*examples(50))


def run_epoch(
    split: MemorySplit,
    mesh: Mesh,
    bounds: list[int],
    model: LSTMClassifier = MODEL,
    optimizer: optax.GradientTransformation = OPTIMIZER,
) -> training.TrainState:
    """An epoch of 6 batches of 8, cut into programs at ``bounds``."""
    feed = make_feed(split, mesh, batch_size=8, seed=3)
    epoch = training.compile_train_epoch(model, optimizer, seed=3, mesh=mesh, data_spec=feed.spec)
    state = training.init_state_on(mesh, model, optimizer, seed=0)
    feed.begin(0, 0)
    for start, stop in zip([0, *bounds], [*bounds, 6], strict=True):
        state = epoch(state, *feed.take(start, stop))
    assert epoch._cache_size() == 1
    return jax.tree.map(np.asarray, state)


def test_an_epoch_is_its_steps_in_order(split: MemorySplit) -> None:
    mesh = mesh_of(1)
    step = training.compile_train_step(MODEL, DESCENT, seed=3, mesh=mesh)
    feed = make_feed(split, mesh, batch_size=8, seed=3)
    feed.begin(0, 0)
    order = np.asarray(feed.take(0, 6)[0].order)
    assert sorted(set(order.ravel())) == sorted(order.ravel())  # no example twice
    state, losses = training.init_state_on(mesh, MODEL, DESCENT, seed=0), []
    for chosen in order:
        state, loss = step(state, on_devices(mesh, split.images[chosen], split.labels[chosen]))
        losses.append(float(loss))
    whole = run_epoch(split, mesh, [], optimizer=DESCENT)
    np.testing.assert_allclose(whole.loss_sum, np.sum(losses), rtol=1e-5)
    jax.tree.map(partial(np.testing.assert_allclose, **STEP_TOLERANCE), whole.params, state.params)


@pytest.mark.parametrize("bounds", [[1], [0, 3], [1, 2, 3, 4, 5], [5]])
def test_an_epoch_in_parts_is_the_same_bits(split: MemorySplit, bounds: list[int]) -> None:
    assert_same_bits(run_epoch(split, mesh_of(1), bounds), run_epoch(split, mesh_of(1), []))


@pytest.mark.parametrize(
    "model", [MODEL, LSTMClassifier(hidden_size=5, num_layers=2, bidirectional=True, dropout_rate=0.5)]
)
def test_two_devices_agree_with_one(split: MemorySplit, model: LSTMClassifier) -> None:
    # With dropout too: the mask of an example must not depend on the device it is on.
    one, two = (run_epoch(split, mesh_of(devices), [2], model, DESCENT) for devices in (1, 2))
    np.testing.assert_allclose(two.loss_sum, one.loss_sum, rtol=1e-5)
    jax.tree.map(partial(np.testing.assert_allclose, **STEP_TOLERANCE), two.params, one.params)


def test_dropout_changes_with_step_and_seed(split: MemorySplit) -> None:
    model = LSTMClassifier(hidden_size=5, num_layers=2, dropout_rate=0.5)
    mesh = mesh_of(1)
    batch = on_devices(mesh, *examples(8))
    losses = set()
    for seed, taken in [(0, 0), (0, 1), (1, 0)]:
        step = training.compile_train_step(model, OPTIMIZER, seed=seed, mesh=mesh)
        state = initial(mesh, model)  # the same parameters each time
        state = state._replace(step=runtime.place(mesh, np.int32(taken), P()))
        losses.add(float(step(state, batch)[1]))
    assert len(losses) == 3


def test_the_first_loss_that_is_not_finite_is_remembered(split: MemorySplit) -> None:
    mesh = mesh_of(1)
    feed = make_feed(split, mesh, batch_size=8, seed=3)
    wild = optax.sgd(float("inf"))  # so that the second step starts from infinite parameters
    epoch = training.compile_train_epoch(MODEL, wild, seed=3, mesh=mesh, data_spec=feed.spec)
    state = training.init_state_on(mesh, MODEL, wild, seed=0)
    feed.begin(0, 0)
    state = epoch(state, *feed.take(0, 1))
    assert int(state.nonfinite_step) == training.NEVER
    state = epoch(state, *feed.take(1, 6))
    assert int(state.nonfinite_step) == 2


def compiled_text(mesh: Mesh) -> str:
    feed = make_feed(MemorySplit(*examples(50)), mesh, batch_size=8, seed=0)
    feed.begin(0, 0)
    epoch = training.compile_train_epoch(MODEL, OPTIMIZER, seed=0, mesh=mesh, data_spec=feed.spec)
    return epoch.lower(initial(mesh), *feed.take(0, 1)).compile().as_text()


def test_one_all_reduce_per_step() -> None:
    # One that is left in the backward loop costs a meeting of all devices at each of the 28 rows.
    assert compiled_text(mesh_of(2)).count(" all-reduce(") == 1
    assert compiled_text(mesh_of(1)).count(" all-reduce(") == 0


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("implementation", ["scan", "unrolled", "fused"])
def test_the_train_step_lowers_for_cpu_gpu_and_tpu(implementation: str, dtype: str) -> None:
    mesh = mesh_of(1)
    model = LSTMClassifier(hidden_size=8, implementation=implementation, dtype=jnp.dtype(dtype))
    step = training.compile_train_step(model, OPTIMIZER, seed=0, mesh=mesh)
    batch = on_devices(mesh, *examples(4))
    exported = jax.export.export(step, platforms=["cpu", "cuda", "tpu"])(initial(mesh, model), batch)
    assert exported.platforms == ("cpu", "cuda", "tpu")


def test_the_optimizer_is_adam_with_the_given_rate() -> None:
    gradient = {"w": jnp.array([3.0, -0.5])}
    optimizer = training.build_optimizer(Config(learning_rate=0.25))
    updates, _ = optimizer.update(gradient, optimizer.init(gradient), gradient)
    np.testing.assert_allclose(updates["w"], [-0.25, 0.25], rtol=1e-5)

"""One step and an epoch of steps: against hand-written optimisation, on one device and on two."""

import dataclasses
import re
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from lstm_jax import LSTMClassifier, training
from lstm_jax.config import Augmentation, Config, ModelOptions, OptimizerOptions
from lstm_jax.data.dataset import MemorySplit
from lstm_jax.devices import DATA_AXIS, make_mesh, place
from lstm_jax.optimizer import muon
from lstm_jax.runs.feed import make_feed
from lstm_jax.training import Method

METHOD = Method(model=LSTMClassifier(hidden_size=7), optimizer=optax.adam(0.01))
SEED = np.uint32(3)
# Where two programs are compared up to rounding: Adam divides by the size of the gradient and makes much
# of rounding where that is near 0.
DESCENT = dataclasses.replace(METHOD, optimizer=optax.sgd(0.1))

# Two float32 programs that do the same sums in another order, over 6 steps: 4e-6 was seen.
STEP_TOLERANCE = {"rtol": 1e-4, "atol": 1e-6}
# With augmentation, where a pixel is read is a product too, rounded otherwise for another number of images:
# 1e-3 grey levels of these random images, and 4e-6 in the parameters, were seen. Those of another seed
# differ by 0.1 and more.
RANDOM_TOLERANCE = {"rtol": 1e-4, "atol": 2e-5}


def examples(count: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Random images and labels: every row of every image differs, so a wrong order would show."""
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (count, 28, 28), dtype=np.uint8), rng.integers(0, 10, count, dtype=np.int32)


def mesh_of(devices: int) -> Mesh:
    return make_mesh(devices=devices, batch_size=devices)


def on_devices(mesh: Mesh, image: np.ndarray, label: np.ndarray) -> training.DeviceBatch:
    return place(mesh, image, P(DATA_AXIS)), place(mesh, label, P(DATA_AXIS))


def assert_same_bits(a: object, b: object) -> None:
    jax.tree.map(np.testing.assert_array_equal, a, b)


def test_a_step_is_adam_on_the_mean_cross_entropy() -> None:
    # The reference is written with Flax's own layers and Adam's equations in float64.
    mesh = mesh_of(1)
    state = training.init_state_on(mesh, METHOD, 0)
    before = jax.tree.map(np.asarray, state.params)
    image, label = examples(6)

    def loss_of(params: dict) -> jax.Array:
        hidden = nn.RNN(nn.LSTMCell(7)).apply(
            {"params": params["lstm_0_forward"]}, image.astype(np.float32) / 255
        )
        logits = nn.Dense(10).apply({"params": params["head"]}, hidden[:, -1])
        return -jnp.mean(jax.nn.log_softmax(logits)[jnp.arange(6), label])

    loss, gradients = jax.value_and_grad(loss_of)(before)
    step = training.compile_train_step(METHOD, mesh)
    state, step_loss = step(state, on_devices(mesh, image, label), SEED)
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
    state = training.init_state_on(mesh, METHOD, 0)
    before = jax.tree.map(np.array, state.params)
    step = training.compile_train_step(METHOD, mesh)
    state, _ = step(state, on_devices(mesh, *examples(8)), SEED)
    for path, change in jax.tree_util.tree_leaves_with_path(
        jax.tree.map(lambda a, b: np.abs(a - b), before, state.params)
    ):
        assert np.all(change > 0), jax.tree_util.keystr(path)
    assert int(state.step) == 1
    assert int(state.nonfinite_step) == training.NEVER


def test_the_options_of_the_tutorial_add_nothing_to_its_program() -> None:
    # Not one operation more than Adam on the plain model needs: so its bits are what they were before
    # there were other recipes.
    mesh = mesh_of(1)
    plain = Method(model=LSTMClassifier(implementation="fused"), optimizer=optax.adam(0.01))
    texts, states = [], []
    for method in (
        Method.of(ModelOptions(implementation="fused"), OptimizerOptions(), Augmentation(), total_steps=10),
        plain,
    ):
        state = training.init_state_on(mesh, method, 0)
        step = training.compile_train_step(method, mesh)
        texts.append(step.lower(state, on_devices(mesh, *examples(4)), SEED).as_text())
        states.append(state)
    assert texts[0] == texts[1]
    assert_same_bits(*states)


def test_the_step_compiles_once_for_all_seeds() -> None:
    mesh = mesh_of(1)
    step = training.compile_train_step(METHOD, mesh)
    step.clear_cache()
    state = training.init_state_on(mesh, METHOD, 0)
    for seed in range(3):
        state, _ = step(state, on_devices(mesh, *examples(8, seed)), np.uint32(seed))
    assert step._cache_size() == 1


def test_methods_whose_steps_are_the_same_share_their_programs() -> None:
    """Whatever the length, the seed and the place of their runs are; and nobody else's."""

    def epoch(**options: Any) -> training.TrainEpoch:
        config = Config.of(**options)
        steps = config.steps or config.epochs * 429
        groups = config.model, config.optimizer, config.augmentation
        method = Method.of(*groups, total_steps=steps)
        return training.compile_train_epoch(method, mesh_of(1), data_spec=training.RESIDENT_SPEC)

    same = [
        {"seed": 5},
        {"epochs": 3, "patience": 2},
        {"steps": 7, "run_dir": "elsewhere"},
        {"checkpoint_every": 2, "batch_size": 64, "train_on_all": True},
    ]
    assert {epoch(**options) for options in same} == {epoch()}
    others = [
        {"learning_rate": 0.02},
        {"augment_shift": 1.0},
        {"label_smoothing": 0.1},
        {"dtype": "bfloat16"},
        {"task": "columns"},
        {"schedule": "cosine"},
        {"schedule": "cosine", "steps": 7},
    ]
    assert len({epoch(), *(epoch(**options) for options in others)}) == 1 + len(others)


@pytest.fixture(scope="module")
def split() -> MemorySplit:
    return MemorySplit(*examples(50))


def run_epoch(
    split: MemorySplit, mesh: Mesh, bounds: list[int], method: Method = METHOD
) -> training.TrainState:
    """An epoch of 6 batches of 8, cut into programs at ``bounds``."""
    feed = make_feed(split, mesh, batch_size=8, seed=3)
    epoch = training.compile_train_epoch(method, mesh, data_spec=feed.spec)
    state = training.init_state_on(mesh, method, 0)
    feed.begin(0, 0)
    for start, stop in zip([0, *bounds], [*bounds, 6], strict=True):
        state = epoch(state, *feed.take(start, stop), SEED)
    assert epoch._cache_size() == 1  # one program serves all parts
    return jax.tree.map(np.asarray, state)


def test_an_epoch_is_its_steps_in_order(split: MemorySplit) -> None:
    mesh = mesh_of(1)
    step = training.compile_train_step(DESCENT, mesh)
    feed = make_feed(split, mesh, batch_size=8, seed=3)
    feed.begin(0, 0)
    order = np.asarray(feed.take(0, 6)[0].order)
    assert sorted(set(order.ravel())) == sorted(order.ravel())  # no example twice
    state, losses = training.init_state_on(mesh, DESCENT, 0), []
    for chosen in order:
        state, loss = step(state, on_devices(mesh, split.images[chosen], split.labels[chosen]), SEED)
        losses.append(float(loss))
    whole = run_epoch(split, mesh, [], DESCENT)
    np.testing.assert_allclose(whole.loss_sum, np.sum(losses), rtol=1e-5)
    jax.tree.map(partial(np.testing.assert_allclose, **STEP_TOLERANCE), whole.params, state.params)


@pytest.mark.parametrize("bounds", [[1], [0, 3], [1, 2, 3, 4, 5], [5]])
def test_an_epoch_in_parts_is_the_same_bits(split: MemorySplit, bounds: list[int]) -> None:
    assert_same_bits(run_epoch(split, mesh_of(1), bounds), run_epoch(split, mesh_of(1), []))


# All that is random in a step.
RANDOM = dataclasses.replace(
    DESCENT,
    model=LSTMClassifier(
        hidden_size=5,
        num_layers=2,
        dropout_rate=0.5,
        output_dropout_rate=0.5,
        recurrent_dropout_rate=0.5,
        recurrent_weight_dropout_rate=0.5,
    ),
    augmentation=Augmentation(rotation=20.0, shift=2.0, elastic=1.0),
)


def random_with(implementation: str) -> Method:
    return dataclasses.replace(RANDOM, model=RANDOM.model.clone(implementation=implementation))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("method", "tolerance"),
    [
        (dataclasses.replace(METHOD, optimizer=muon(0.01)), STEP_TOLERANCE),
        (random_with("fused"), RANDOM_TOLERANCE),
        (random_with("native"), RANDOM_TOLERANCE),
    ],
    ids=["muon", "random-fused", "random-native"],
)
def test_two_devices_agree_with_one(split: MemorySplit, method: Method, tolerance: dict) -> None:
    # What happens to an example at random must not depend on the device it is on.
    one, two = (run_epoch(split, mesh_of(devices), [2], method) for devices in (1, 2))
    np.testing.assert_allclose(two.loss_sum, one.loss_sum, rtol=1e-5)
    jax.tree.map(partial(np.testing.assert_allclose, **tolerance), two.params, one.params)


@pytest.mark.parametrize(
    "change",
    [
        {"model": LSTMClassifier(hidden_size=5, num_layers=2, dropout_rate=0.5)},
        {"model": LSTMClassifier(hidden_size=5, output_dropout_rate=0.5)},
        {"model": LSTMClassifier(hidden_size=5, recurrent_dropout_rate=0.5)},
        {"model": LSTMClassifier(hidden_size=5, recurrent_weight_dropout_rate=0.5)},
        {"augmentation": Augmentation(shift=3.0)},
    ],
    ids=["between", "output", "recurrent", "weights", "augmentation"],
)
def test_what_is_random_changes_with_step_and_seed_and_with_nothing_else(change: dict) -> None:
    method = dataclasses.replace(METHOD, **change)
    mesh = mesh_of(1)
    batch = on_devices(mesh, *examples(8))
    step = training.compile_train_step(method, mesh)
    losses = []
    for seed, taken in [(0, 0), (0, 1), (1, 0), (0, 0)]:
        state = training.init_state_on(mesh, method, 0)  # the same parameters each time
        state = state._replace(step=place(mesh, np.int32(taken), P()))
        losses.append(float(step(state, batch, np.uint32(seed))[1]))
    assert len(set(losses)) == 3
    assert losses[3] == losses[0]


@pytest.mark.slow
@pytest.mark.parametrize(("implementation", "devices"), [("fused", 1), ("native", 2)])
def test_many_seeds_in_one_program(split: MemorySplit, implementation: str, devices: int) -> None:
    # Each with its own initial weights, order, dropout and augmentation, on images they share.
    method, mesh = random_with(implementation), mesh_of(devices)
    seeds = np.array([3, 2**32 - 1], np.uint32)
    first, ends = {}, {}
    for seed in (*seeds, seeds):
        feed = make_feed(split, mesh, batch_size=8, seed=seed)
        feed.begin(0, 0)
        epoch = training.compile_train_epoch(method, mesh, data_spec=feed.spec)
        state = training.init_state_on(mesh, method, seed)
        first[np.size(seed), seed.flat[-1]] = jax.tree.map(np.array, state)
        for start, stop in ((0, 2), (2, 6)):
            state = epoch(state, *feed.take(start, stop), seed)
        assert epoch._cache_size() == 1  # one program serves all parts, and every single seed
        ends[np.size(seed), seed.flat[-1]] = jax.tree.map(np.array, state)
    for index, seed in enumerate(seeds):
        of_seed = partial(jax.tree.map, lambda leaf, index=index: leaf[index])
        assert_same_bits(of_seed(first[2, seeds[-1]]), first[1, seed])
        together, alone = of_seed(ends[2, seeds[-1]]), ends[1, seed]
        assert (int(together.step), int(together.nonfinite_step)) == (6, training.NEVER)
        np.testing.assert_allclose(together.loss_sum, alone.loss_sum, rtol=1e-5)
        jax.tree.map(partial(np.testing.assert_allclose, **RANDOM_TOLERANCE), together.params, alone.params)
    a, b = (ends[1, seed] for seed in seeds)
    assert float(a.loss_sum) != pytest.approx(float(b.loss_sum), rel=1e-3)


def test_of_many_seeds_each_has_its_own_order_of_an_epoch(split: MemorySplit) -> None:
    orders = {}
    for seed in (4, 5, np.array([4, 5], np.uint32)):
        feed = make_feed(split, mesh_of(2), batch_size=8, seed=seed)
        feed.begin(3, 0)
        data = feed.take(0, 6)[0]
        orders[np.ndim(seed), int(np.max(seed))] = np.asarray(data.order)
        assert data.image.shape == (50, 28, 28)  # once, however many seeds there are
    np.testing.assert_array_equal(orders[1, 5], [orders[0, 4], orders[0, 5]])
    assert np.any(orders[0, 4] != orders[0, 5])


def test_the_first_loss_that_is_not_finite_is_remembered(split: MemorySplit) -> None:
    mesh = mesh_of(1)
    feed = make_feed(split, mesh, batch_size=8, seed=3)
    # So that the second step starts from infinite parameters.
    wild = dataclasses.replace(METHOD, optimizer=optax.sgd(float("inf")))
    epoch = training.compile_train_epoch(wild, mesh, data_spec=feed.spec)
    state = training.init_state_on(mesh, wild, 0)
    feed.begin(0, 0)
    state = epoch(state, *feed.take(0, 1), SEED)
    assert int(state.nonfinite_step) == training.NEVER
    state = epoch(state, *feed.take(1, 6), SEED)
    assert int(state.nonfinite_step) == 2


def compiled_text(mesh: Mesh, seed: training.RunSeed = SEED) -> str:
    feed = make_feed(MemorySplit(*examples(50)), mesh, batch_size=8, seed=seed)
    feed.begin(0, 0)
    epoch = training.compile_train_epoch(METHOD, mesh, data_spec=feed.spec)
    state = training.init_state_on(mesh, METHOD, seed)
    return epoch.lower(state, *feed.take(0, 1), seed).compile().as_text()


def test_devices_meet_once_per_step() -> None:
    def meetings(mesh: Mesh, seed: training.RunSeed = SEED) -> list[str]:
        """The shapes of what devices reduce together."""
        return re.findall(r"= (.+) all-reduce\(", compiled_text(mesh, seed))

    # One that is left in the backward loop costs a meeting of all devices at each of the 28 rows; one of
    # many arrays, a meeting for each of them. So it is one array: the loss and all gradients.
    params = training.init_state(METHOD, SEED).params
    numbers = 1 + sum(leaf.size for leaf in jax.tree.leaves(params))
    [shape] = meetings(mesh_of(2))
    assert re.fullmatch(rf"f32\[{numbers}\]\S*", shape)
    assert not meetings(mesh_of(1))
    # One for all seeds together.
    [shape] = meetings(mesh_of(2), np.arange(3, dtype=np.uint32))
    assert re.fullmatch(rf"f32\[3,{numbers}\]\S*", shape)


@pytest.mark.parametrize(("implementation", "dtype"), [("scan", "float32"), ("fused", "bfloat16")])
def test_the_train_step_lowers_for_cpu_gpu_and_tpu(implementation: str, dtype: str) -> None:
    mesh = mesh_of(1)
    model = LSTMClassifier(hidden_size=8, implementation=implementation, dtype=jnp.dtype(dtype))
    method = dataclasses.replace(METHOD, model=model)
    step = training.compile_train_step(method, mesh)
    arguments = (training.init_state_on(mesh, method, 0), on_devices(mesh, *examples(4)), SEED)
    exported = jax.export.export(step, platforms=["cpu", "cuda", "tpu"])(*arguments)
    assert exported.platforms == ("cpu", "cuda", "tpu")

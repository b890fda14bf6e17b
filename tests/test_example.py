"""The tutorial on one page against ``train.py``."""

import re
from pathlib import Path

import jax
import numpy as np
import pytest

from examples import mnist_lstm as page
from examples import own_loop
from lstm_jax import LSTMClassifier, load_dataset, train
from lstm_jax.config import Augmentation, Config, ModelOptions, OptimizerOptions
from lstm_jax.devices import make_mesh
from lstm_jax.runs.feed import make_feed
from lstm_jax.training import Method, compile_train_epoch, init_state_on

STEPS = 6


def test_the_page_computes_what_training_computes(data_dir: Path) -> None:
    split = load_dataset(data_dir=data_dir).train
    images, labels = page.batches(split, epoch=0)
    with jax.numpy_rank_promotion("allow"):  # the page adds a bias to a batch, as its readers do
        state, losses = page.train_epoch(page.initial_state(), (images[:STEPS], labels[:STEPS]))
        named = np.argmax(page.logits(state[0], images[0]), axis=1)
        wrong = np.arange(len(named)) < 32
        right = page.accuracy(state[0], images[0], np.where(wrong, (named + 1) % 10, named))
    assert right == 0.75

    mesh = make_mesh(devices=1, batch_size=page.BATCH)
    method = Method.of(
        ModelOptions(implementation="scan"), OptimizerOptions(), Augmentation(), total_steps=STEPS
    )
    feed = make_feed(split, mesh, batch_size=page.BATCH, seed=page.SEED)
    feed.begin(0, 0)
    train_epoch = compile_train_epoch(method, mesh, data_spec=feed.spec)
    expected = init_state_on(mesh, method, page.SEED)
    for step in range(STEPS):
        before = float(expected.loss_sum)
        expected = train_epoch(expected, *feed.take(step, step + 1), np.uint32(page.SEED))
        np.testing.assert_allclose(losses[step], float(expected.loss_sum) - before, rtol=1e-5)
    for ours, theirs in zip(jax.tree.leaves(state[0]), jax.tree.leaves(expected.params), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-6)


def test_the_page_trains_and_prints_as_train_py_does(
    data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(page, "EPOCHS", 2)
    monkeypatch.setattr(page, "load_dataset", lambda name: load_dataset(name, data_dir=data_dir))
    with jax.numpy_rank_promotion("allow"):
        page.main()
    line = r"^epoch  (\d)/2  loss (\d\.\d{4})  test accuracy (\d+\.\d\d)%$"
    printed = re.findall(line, capsys.readouterr().out, re.MULTILINE)
    places = {"data_dir": data_dir, "run_dir": tmp_path / "run", "devices": 1}
    records = train(Config.of(**places, implementation="scan", epochs=2)).history
    for (epoch, loss, accuracy), record in zip(printed, records, strict=True):
        assert int(epoch) == record["epoch"]
        assert float(loss) == pytest.approx(record["train_loss"], abs=2e-4)
        assert float(accuracy) == pytest.approx(100 * record["test_accuracy"], abs=0.5)  # five images


def test_the_page_shuffles_every_epoch(data_dir: Path) -> None:
    split = load_dataset(data_dir=data_dir).train
    first, second = (page.batches(split, epoch)[1] for epoch in (0, 1))
    assert first.shape == (17, 128)
    assert np.mean(first == second) < 0.2


def test_a_loop_of_ones_own(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """All ways take the same steps, and each has its time."""
    for name, value in {
        "BATCH": 3,
        "STEPS": 4,
        "IN_ONE_CALL": 2,
        "MODEL": LSTMClassifier(hidden_size=5),
    }.items():
        monkeypatch.setattr(own_loop, name, value)
    monkeypatch.setattr("sys.argv", ["own_loop.py", "--rounds", "1"])
    own_loop.main()
    rows = capsys.readouterr().out.splitlines()
    assert re.match(r" +ms a step +times the first, median of 1 rounds$", rows[0])
    assert len(rows) == 7
    assert all(float(row.split()[-1]) > 0 for row in rows[1:])

    batches = jax.random.uniform(jax.random.key(1), (4, 3, 28, 28)), np.arange(12).reshape(4, 3) % 10
    state = own_loop.new_state(own_loop.optax.adam(0.1))
    together, losses = own_loop.steps(state, batches)
    flat = own_loop.new_state(own_loop.optax.flatten(own_loop.optax.adam(0.1)))
    for batch, loss in zip(zip(*batches, strict=True), losses, strict=True):
        state, one = own_loop.step(state, batch)
        flat, other = own_loop.step(flat, batch)
        np.testing.assert_allclose([one, other], [loss, loss], rtol=1e-5)
    for a, b in zip(jax.tree.leaves(together.params), jax.tree.leaves(flat.params), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)

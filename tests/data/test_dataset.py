"""Splits and batches, from memory and from disk, with the real MNIST archives of the package."""

import gc
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lstm_jax.data import dataset, prepared
from lstm_jax.data.dataset import MemorySplit, epoch_order, load_dataset
from lstm_jax.errors import DataError
from tests.helpers.mnist import TEST, TRAIN, VALIDATION, assert_is_mnist, oracle, python


@pytest.fixture(scope="session")
def memory(data_dir):
    return load_dataset(data_dir=data_dir)


@pytest.fixture(scope="session")
def stream(data_dir):
    return load_dataset(data_dir=data_dir, input="stream")


# ---- what is loaded


@pytest.mark.parametrize("kind", ["memory", "stream"])
def test_splits_are_the_archives_in_their_order(kind, request):
    dataset = request.getfixturevalue(kind)
    assert (dataset.name, dataset.num_classes) == ("mnist", 10)
    assert [len(dataset.train), len(dataset.validation), len(dataset.test)] == [TRAIN, VALIDATION, TEST]
    first = next(dataset.train.batches(10))
    assert first.label.tolist() == [5, 0, 4, 1, 9, 2, 1, 3, 1, 4]
    assert_is_mnist(dataset)


def test_memory_split_is_read_only(memory):
    assert isinstance(memory.train, MemorySplit)
    assert memory.train.images.dtype == np.uint8
    assert memory.train.labels.dtype == np.int32
    with pytest.raises(ValueError, match="read-only"):
        memory.train.images[0] = 0


def test_validation_size(data_dir):
    for kind in dataset.INPUTS:
        whole = load_dataset(data_dir=data_dir, input=kind, validation_size=0)
        assert [len(whole.train), len(whole.validation)] == [TRAIN + VALIDATION, 0]
        assert list(whole.validation.batches(8)) == []
        with pytest.raises(ValueError, match=r"validation_size: expected 0\.\.7199, got 7200"):
            load_dataset(data_dir=data_dir, input=kind, validation_size=7_200)


def test_warm_start_needs_no_library_and_never_tensorflow(data_dir):
    process = python(
        """
import sys
from lstm_jax.data.dataset import load_dataset
next(load_dataset(data_dir=sys.argv[1]).train.batches(8))
assert not {"tensorflow_datasets", "grain", "jax"} & set(sys.modules), "slow imports"
next(load_dataset(data_dir=sys.argv[1], input="stream").train.batches(8))
assert {"tensorflow_datasets", "grain"} <= set(sys.modules)
assert "tensorflow" not in sys.modules
""",
        data_dir,
    )
    assert (*process.communicate(timeout=60), process.returncode) == ("", "", 0)


def test_default_data_dir(monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", "/somewhere")
    assert prepared.default_data_dir() == Path("/somewhere")
    monkeypatch.delenv("TFDS_DATA_DIR")
    assert prepared.default_data_dir() == Path("~/tensorflow_datasets")


def test_no_home_directory():
    with pytest.raises(DataError, match=r"no such home directory.*--data-dir"):
        load_dataset(data_dir="~nobody_of_this_name/data")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"name": "cifar"}, "name: expected one of mnist, fashion_mnist, kmnist, got 'cifar'"),
        ({"input": "disk"}, "input: expected one of memory, stream, got 'disk'"),
    ],
)
def test_unknown_names(arguments, message):
    with pytest.raises(ValueError, match=message):
        load_dataset(**arguments)


# ---- batches


@settings(max_examples=40, deadline=None)
@given(choice=st.data())
def test_memory_and_stream_yield_the_same_batches(memory, stream, choice):
    # Reading everything takes long: all examples of the smallest split, some of the others.
    split = choice.draw(st.sampled_from(["train", "validation", "test"]))
    in_memory, on_disk = getattr(memory, split), getattr(stream, split)
    order = choice.draw(
        (st.none() if split == "validation" else st.nothing())
        | st.integers(0, 300).map(lambda n: epoch_order(n, 1, len(in_memory))[:n])
    )
    batch_size = choice.draw(st.integers(1, 150))
    count = (len(in_memory) if order is None else len(order)) // batch_size
    edges = st.none() | st.integers(-150, 150)
    arguments = {
        "order": order,
        "start": max(0, count - choice.draw(st.integers(0, 3))),
        "rows": slice(choice.draw(edges), choice.draw(edges)),
        "drop_remainder": choice.draw(st.booleans()),
    }
    got, expected = (list(s.batches(batch_size, **arguments)) for s in (on_disk, in_memory))
    assert len(got) == len(expected)
    for a, b in zip(got, expected, strict=True):
        for x, y in zip(a, b, strict=True):
            assert x.flags.c_contiguous
            assert y.flags.c_contiguous
            assert x.dtype == y.dtype
            np.testing.assert_array_equal(x, y, strict=True)


@pytest.mark.parametrize("kind", ["memory", "stream"])
def test_order_start_rows_and_remainder(kind, request):
    split = request.getfixturevalue(kind).validation
    images = oracle()["train_images"][TRAIN:]
    labels = oracle()["train_labels"][TRAIN:]
    order = epoch_order(3, 0, len(split))[:50]

    everything = list(split.batches(16, order=order))
    assert [len(batch.label) for batch in everything] == [16, 16, 16, 2]
    for number, batch in enumerate(everything):
        wanted = order[16 * number : 16 * number + 16]
        np.testing.assert_array_equal(batch.image, images[wanted])
        np.testing.assert_array_equal(batch.label, labels[wanted])
        assert (batch.image.dtype, batch.label.dtype) == (np.uint8, np.int32)

    assert len(list(split.batches(16, order=order, drop_remainder=True))) == 3
    resumed = list(split.batches(16, order=order, start=2))
    np.testing.assert_array_equal(resumed[0].label, everything[2].label)
    assert len(resumed) == 2
    # Two processes with half of each batch make the whole batch, and the same number of batches.
    halves = [list(split.batches(16, order=order, rows=rows)) for rows in (slice(8), slice(8, 16))]
    for batch, *parts in zip(everything, *halves, strict=True):
        np.testing.assert_array_equal(batch.image, np.concatenate([part.image for part in parts]))


def test_skipped_batches_are_not_read(stream, monkeypatch):
    read = []
    real = prepared.read_examples
    monkeypatch.setattr(
        prepared, "read_examples", lambda s, indices: read.extend(indices) or real(s, indices)
    )
    list(stream.train.batches(10, order=np.arange(100, 200), start=8))
    assert sorted(read) == list(range(180, 200))


@pytest.mark.parametrize("kind", ["memory", "stream"])
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"batch_size": 0}, "batch_size: expected at least 1, got 0"),
        (
            {"batch_size": 8, "order": np.array([0, 5000])},
            r"order: expected numbers 0\.\.4999, got 0\.\.5000",
        ),
        ({"batch_size": 8, "order": np.array([-1, 3])}, r"order: .* got -1\.\.3"),
        ({"batch_size": 1000, "start": 6}, r"start: expected 0\.\.5, the number of batches, got 6"),
        ({"batch_size": 1000, "start": -1}, "start: .* got -1"),
    ],
)
def test_impossible_batches_are_refused_before_iteration(kind, arguments, message, request):
    with pytest.raises(ValueError, match=message):
        request.getfixturevalue(kind).validation.batches(**arguments)


def test_a_half_used_stream_leaves_no_threads(stream):
    def workers() -> list[str]:
        return [t.name for t in threading.enumerate() if t.name.startswith("grain")]

    for leave in (lambda iterator: iterator.close(), lambda iterator: None):
        iterator = stream.train.batches(32)
        next(iterator)
        assert workers()
        leave(iterator)
        del iterator
        gc.collect()
        deadline = time.monotonic() + 10
        while workers() and time.monotonic() < deadline:
            time.sleep(0.01)
        assert workers() == []


def test_epoch_order():
    order = epoch_order(0, 0, 1000)
    assert order.dtype == np.int32
    assert sorted(order.tolist()) == list(range(1000))
    np.testing.assert_array_equal(order, epoch_order(0, 0, 1000))
    assert all((order != epoch_order(*other, 1000)).any() for other in ((0, 1), (1, 0)))
    assert (epoch_order(0, 1, 1000) != epoch_order(1, 0, 1000)).any()
    # Fixed for ever: a run that was interrupted before an upgrade must go on in the same order.
    assert epoch_order(7, 3, 10).tolist() == [8, 4, 5, 3, 6, 0, 9, 7, 1, 2]
    with pytest.raises(ValueError, match="seed: expected at least 0, got -1"):
        epoch_order(-1, 0, 10)

"""Preparing, reading back and batching, with the real MNIST archives that come with the package."""

import functools
import gc
import gzip
import hashlib
import http.server
import shutil
import signal
import struct
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lstm_jax import archives, data, prepared
from lstm_jax.data import MemorySplit, epoch_order, load_dataset
from lstm_jax.errors import DataError

FILENAMES = [filename for pair in archives.FILENAMES.values() for filename in pair]


@functools.cache
def oracle() -> dict[str, np.ndarray]:
    """The shipped archives, parsed without any code of the project."""
    folder = Path(data.__file__).parent / "assets" / "mnist"
    arrays = {}
    for split, prefix in (("train", "train"), ("test", "t10k")):
        images = gzip.decompress((folder / f"{prefix}-images-idx3-ubyte.gz").read_bytes())[16:]
        labels = gzip.decompress((folder / f"{prefix}-labels-idx1-ubyte.gz").read_bytes())[8:]
        arrays[f"{split}_images"] = np.frombuffer(images, np.uint8).reshape(-1, 28, 28)
        arrays[f"{split}_labels"] = np.frombuffer(labels, np.uint8)
    return arrays


def assert_is_mnist(dataset: data.Dataset) -> None:
    expected = oracle()
    for split, name, part in (
        (dataset.train, "train", slice(55_000)),
        (dataset.validation, "train", slice(55_000, 60_000)),
        (dataset.test, "test", slice(None)),
    ):
        (batch,) = split.batches(len(split))
        np.testing.assert_array_equal(batch.image, expected[f"{name}_images"][part])
        np.testing.assert_array_equal(batch.label, expected[f"{name}_labels"][part])


def assert_nothing_half_done(data_dir: Path) -> None:
    assert list(data_dir.glob("**/incomplete.*")) == []
    assert list(data_dir.glob("**/*.tmp*")) == []
    assert list(data_dir.glob("idx_images/[!.]*/*")) == []


@pytest.fixture(scope="session")
def mnist_dir(tmp_path_factory):
    """A data directory with MNIST prepared and decoded. Do not write into it."""
    data_dir = tmp_path_factory.mktemp("prepared")
    load_dataset(data_dir=data_dir)
    return data_dir


@pytest.fixture(scope="session")
def memory(mnist_dir):
    return load_dataset(data_dir=mnist_dir)


@pytest.fixture(scope="session")
def stream(mnist_dir):
    return load_dataset(data_dir=mnist_dir, input="stream")


@pytest.fixture
def mnist_copy(mnist_dir, tmp_path):
    """A version folder that a test may damage; its data directory is `.parents[2]`."""
    folder = prepared.version_dir("mnist", tmp_path / "copy")
    shutil.copytree(prepared.version_dir("mnist", mnist_dir), folder)
    yield folder
    shutil.rmtree(tmp_path / "copy")  # 80 MB, which pytest would keep for three sessions


def idx_gz(array: np.ndarray) -> bytes:
    header = struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape)
    return gzip.compress(header + array.tobytes(), mtime=0)


def expect(monkeypatch, folder: Path, url: str = "http://localhost:9/data/") -> None:
    """Makes the archives of a folder, as they are now, the ones that are expected."""
    expected = {}
    for filename in FILENAMES:
        content = (folder / filename).read_bytes()
        expected[filename] = archives.Archive(
            url + filename, len(content), hashlib.sha256(content).hexdigest()
        )
    monkeypatch.setattr(archives, "expected_archives", lambda name: expected)


@pytest.fixture
def small(tmp_path, monkeypatch):
    """Archives of 70 + 30 random images, for tests that prepare a data set of their own."""
    folder = tmp_path / "archives"
    folder.mkdir()
    generator = np.random.default_rng(1)
    for (images, labels), count in zip(archives.FILENAMES.values(), (70, 30), strict=True):
        pixels = generator.integers(0, 256, (count, 28, 28), dtype=np.uint8)
        (folder / images).write_bytes(idx_gz(pixels))
        (folder / labels).write_bytes(idx_gz(generator.integers(0, 10, count, dtype=np.uint8)))
    expect(monkeypatch, folder)
    return folder


def python(code: str, *arguments: object, **options: object) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-c", code, *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=Path(data.__file__).parents[1],
        **options,
    )


LOAD = """
import sys
from lstm_jax.data import load_dataset
load_dataset(data_dir=sys.argv[1], report=lambda message: print(message, flush=True))
"""


# ---- what is loaded


@pytest.mark.parametrize("kind", ["memory", "stream"])
def test_splits_are_the_archives_in_their_order(kind, request):
    dataset = request.getfixturevalue(kind)
    assert (dataset.name, dataset.num_classes) == ("mnist", 10)
    assert [len(dataset.train), len(dataset.validation), len(dataset.test)] == [55_000, 5_000, 10_000]
    first = next(dataset.train.batches(10))
    assert first.label.tolist() == [5, 0, 4, 1, 9, 2, 1, 3, 1, 4]
    assert_is_mnist(dataset)


def test_memory_split_is_read_only(memory):
    assert isinstance(memory.train, MemorySplit)
    assert memory.train.images.dtype == np.uint8
    assert memory.train.labels.dtype == np.int32
    with pytest.raises(ValueError, match="read-only"):
        memory.train.images[0] = 0


def test_validation_size(mnist_dir):
    for kind in data.INPUTS:
        dataset = load_dataset(data_dir=mnist_dir, input=kind, validation_size=0)
        assert [len(dataset.train), len(dataset.validation)] == [60_000, 0]
        assert list(dataset.validation.batches(8)) == []
        with pytest.raises(ValueError, match=r"validation_size: expected 0\.\.59999, got 60000"):
            load_dataset(data_dir=mnist_dir, input=kind, validation_size=60_000)


def test_warm_start_needs_no_library_and_never_tensorflow(mnist_dir):
    process = python(
        """
import sys
from lstm_jax.data import load_dataset
next(load_dataset(data_dir=sys.argv[1]).train.batches(8))
assert not {"tensorflow_datasets", "grain", "jax"} & set(sys.modules), "slow imports"
next(load_dataset(data_dir=sys.argv[1], input="stream").train.batches(8))
assert {"tensorflow_datasets", "grain"} <= set(sys.modules)
assert "tensorflow" not in sys.modules
""",
        mnist_dir,
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
    images = oracle()["train_images"][55_000:]
    labels = oracle()["train_labels"][55_000:]
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


# ---- sources


def test_other_archives_in_the_family(small, tmp_path, capfd):
    messages = []
    dataset = load_dataset(
        "fashion_mnist", data_dir=tmp_path, archive_dir=small, validation_size=20, report=messages.append
    )
    assert [len(dataset.train), len(dataset.validation), len(dataset.test)] == [50, 20, 30]
    pixels = gzip.decompress((small / FILENAMES[0]).read_bytes())[16:]
    assert dataset.train.images.tobytes() + dataset.validation.images.tobytes() == pixels
    (message,) = messages
    assert message.startswith(f"Preparing fashion_mnist (70 + 30 images) in {tmp_path}, once")
    assert capfd.readouterr() == ("", "")  # TFDS is silent
    assert (tmp_path / "idx_images/fashion_mnist" / archives.VERSION / "dataset_info.json").exists()
    # The prepared copy comes first: the archives are no longer needed, but the folder must exist.
    (small / FILENAMES[0]).unlink()
    again = load_dataset("fashion_mnist", data_dir=tmp_path, archive_dir=small, validation_size=20)
    np.testing.assert_array_equal(again.test.images, dataset.test.images)
    with pytest.raises(DataError, match=r"none: expected the folder of the archives.*found no folder"):
        load_dataset("fashion_mnist", data_dir=tmp_path, archive_dir=tmp_path / "none")


def test_list_of_tfds():
    for name in data.DATASETS:
        expected = archives.expected_archives(name)
        assert list(expected) == FILENAMES
        for filename, archive in expected.items():
            assert archive.url.endswith("/" + filename)
            assert len(archive.sha256) == 64
    folder = archives.packaged_folder("mnist")
    for filename, archive in archives.expected_archives("mnist").items():
        assert (folder / filename).stat().st_size == archive.size
    assert archives.packaged_folder("kmnist") is None


@pytest.mark.parametrize("filename", FILENAMES)
@pytest.mark.parametrize("damage", ["missing", "truncated", "flipped", "exchanged", "folder"])
def test_every_wrong_archive_is_named(small, tmp_path, filename, damage):
    path = small / filename
    content = path.read_bytes()
    if damage == "missing":
        path.unlink()
        message = f"{path}: expected an archive of {len(content):,} bytes, found no file"
    elif damage == "folder":
        path.unlink()
        path.mkdir()
        message = f"{path}: "
    else:
        flipped = content[:-9] + bytes([content[-9] ^ 1]) + content[-8:]
        wrong = {"truncated": content[:-1], "flipped": flipped, "exchanged": bytes(len(content))}[damage]
        path.write_bytes(wrong)
        expected, found = (
            f"{len(c):,} bytes with SHA-256 {hashlib.sha256(c).hexdigest()}" for c in (content, wrong)
        )
        message = f"{path}: expected {expected}, found {found}; get it again from http"
    with pytest.raises(DataError) as caught:
        load_dataset("kmnist", data_dir=tmp_path / "data", archive_dir=small)
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)
    assert_nothing_half_done(tmp_path / "data")


def test_all_archives_are_checked_before_the_first_is_parsed(small, tmp_path, monkeypatch):
    (small / FILENAMES[0]).write_bytes(b"not gzip")
    expect(monkeypatch, small)  # so the first archive is as listed, but cannot be parsed
    with pytest.raises(DataError, match=f"{FILENAMES[0]}: .*gzip"):
        load_dataset("kmnist", data_dir=tmp_path / "data", archive_dir=small)
    (small / FILENAMES[-1]).unlink()
    with pytest.raises(DataError, match=f"{FILENAMES[-1]}: .*no file"):
        load_dataset("kmnist", data_dir=tmp_path / "data", archive_dir=small)
    assert_nothing_half_done(tmp_path / "data")


def test_counts_of_images_and_labels_must_agree(small, tmp_path, monkeypatch):
    (small / FILENAMES[1]).write_bytes(idx_gz(np.zeros(69, np.uint8)))
    expect(monkeypatch, small)
    with pytest.raises(DataError, match=f"{FILENAMES[1]}: expected one label for each of 70 images, got 69"):
        load_dataset("kmnist", data_dir=tmp_path / "data", archive_dir=small)
    assert_nothing_half_done(tmp_path / "data")


def test_download(small, tmp_path, monkeypatch):
    requested = []

    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *arguments):
            requested.append((self.command, self.path))

    handler = functools.partial(Handler, directory=small)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever).start()
        try:
            expect(monkeypatch, small, f"http://127.0.0.1:{server.server_port}/")
            messages = []
            dataset = load_dataset("kmnist", data_dir=tmp_path, validation_size=1, report=messages.append)
        finally:
            server.shutdown()
    assert sorted(path for command, path in requested if command == "GET") == sorted(
        f"/{f}" for f in FILENAMES
    )
    assert [message.split()[0] for message in messages] == ["Downloading", "Preparing"]
    assert len(dataset.train) == 69


def test_download_without_network(small, tmp_path):
    started = time.monotonic()
    with pytest.raises(DataError) as caught:
        load_dataset("kmnist", data_dir=tmp_path)  # nothing listens on port 9
    assert time.monotonic() - started < 20
    message = str(caught.value)
    assert message.startswith("cannot download kmnist (")
    assert "--archive-dir" in message
    assert all(f"http://localhost:9/data/{filename}" in message for filename in FILENAMES)
    assert "\n" not in message
    assert_nothing_half_done(tmp_path)


# ---- damage


@pytest.mark.parametrize("where", [0, 90, 5000, 30_000_000, -100, "truncate", "empty", "other arrays"])
def test_damaged_decoded_copy_is_decoded_again(mnist_copy, where):
    path = mnist_copy / "decoded.npz"
    content = bytearray(path.read_bytes())
    if where == "other arrays":
        np.savez(
            path, **dict.fromkeys(("train_images", "train_labels", "test_images", "test_labels"), np.zeros(3))
        )
    else:
        if where in ("truncate", "empty"):
            content = content[: len(content) // 2 if where == "truncate" else 0]
        else:
            content[where] ^= 0x10
        path.write_bytes(content)
    messages = []
    assert prepared._read_decoded(mnist_copy, messages.append) is None
    (message,) = messages
    assert message.startswith(f"Decoding again: {path} is damaged (")
    assert "\n" not in message


def test_damaged_decoded_copy_is_replaced(small, tmp_path):
    load = functools.partial(load_dataset, "kmnist", data_dir=tmp_path, archive_dir=small, validation_size=0)
    images = load().train.images
    path = prepared.version_dir("kmnist", tmp_path) / "decoded.npz"
    path.write_bytes(path.read_bytes().replace(images[5].tobytes(), images[6].tobytes()))
    messages = []
    np.testing.assert_array_equal(load(report=messages.append).train.images, images)
    np.testing.assert_array_equal(load(report=messages.append).train.images, images)
    assert len(messages) == 1
    assert "CRC-32" in messages[0]


def test_damaged_records(mnist_copy):
    (mnist_copy / "decoded.npz").unlink()
    (path,) = mnist_copy.glob("*-test.array_record-*")
    content = bytearray(path.read_bytes())
    content[100_000:100_100] = bytes(100)
    path.write_bytes(content)
    message = f"{mnist_copy}: the prepared data set is damaged .*; delete this folder and run again"
    with pytest.raises(DataError, match=message):
        load_dataset(data_dir=mnist_copy.parents[2])
    dataset = load_dataset(data_dir=mnist_copy.parents[2], input="stream")
    with pytest.raises(DataError, match=message):
        list(dataset.test.batches(1000))


@pytest.mark.parametrize("content", [None, b"", b"{", b"{}", b"\xff" * 50])
@pytest.mark.parametrize("kind", ["memory", "stream"])
def test_damaged_dataset_info(mnist_copy, content, kind):
    (mnist_copy / "decoded.npz").unlink()
    path = mnist_copy / "dataset_info.json"
    path.unlink() if content is None else path.write_bytes(content)
    with pytest.raises(
        DataError, match=f"{mnist_copy}: .*damaged.*; delete this folder and run again"
    ) as caught:
        load_dataset(data_dir=mnist_copy.parents[2], input=kind)
    assert "\n" not in str(caught.value)


# ---- folders that cannot be written, full disks


@pytest.mark.parametrize("kind", ["memory", "stream"])
def test_data_dir_that_cannot_be_made(tmp_path, kind):
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(
        DataError, match=r"cannot prepare mnist in .*file/sub \(Not a directory\);.*--data-dir"
    ):
        load_dataset(data_dir=tmp_path / "file" / "sub", input=kind)


def test_prepared_folder_without_lock_is_decoded_in_memory(small, tmp_path):
    load = functools.partial(load_dataset, "kmnist", data_dir=tmp_path, archive_dir=small, validation_size=0)
    images = load().train.images
    (prepared.version_dir("kmnist", tmp_path) / "decoded.npz").unlink()
    # A folder in place of the lock file cannot be opened, not even by root, for whom nothing is read-only.
    (tmp_path / "idx_images/.lock").unlink()
    (tmp_path / "idx_images/.lock").mkdir()
    messages = []
    np.testing.assert_array_equal(load(report=messages.append).train.images, images)
    (message,) = messages
    assert message.startswith(f"Decoding kmnist in memory: {tmp_path} cannot be written (")
    assert not list(tmp_path.glob("**/*decoded*"))
    assert len(load(input="stream").train) == 70


# A limit on the size of files makes writing fail half way, as a full disk does.
LIMITED = """
import resource, signal, sys
from lstm_jax.data import DataError, load_dataset
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]),) * 2)
try:
    load_dataset(data_dir=sys.argv[1], report=print)
except DataError as error:
    print(error)
"""


def test_disk_full_while_preparing(tmp_path):
    process = python(LIMITED, tmp_path, 1_000_000)
    output, errors = process.communicate(timeout=60)
    assert (errors, process.returncode) == ("", 0)
    _, message = output.splitlines()
    assert message.startswith(f"cannot prepare mnist in {tmp_path} (")
    assert "File too large" in message
    assert message.endswith("or name another folder with --data-dir")
    assert_nothing_half_done(tmp_path)


def test_disk_full_while_keeping_the_decoded_copy(mnist_copy):
    (mnist_copy / "decoded.npz").unlink()
    process = python(LIMITED, mnist_copy.parents[2], 30_000_000)
    output, errors = process.communicate(timeout=60)
    assert (errors, process.returncode) == ("", 0)
    message = f"Keeping no decoded copy of mnist: {mnist_copy} cannot be written (File too large)\n"
    assert output == message
    assert not list(mnist_copy.glob("*decoded*"))


# ---- several processes, killed processes


def test_two_processes_at_once(tmp_path):
    processes = [python(LOAD, tmp_path) for _ in range(2)]
    outputs = [process.communicate(timeout=120) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], outputs
    assert sorted(output.split()[0] for output, _ in outputs) == ["Preparing", "Waiting"]
    assert_is_mnist(load_dataset(data_dir=tmp_path))
    some = epoch_order(0, 0, 55_000)[:1000]
    (batch,) = load_dataset(data_dir=tmp_path, input="stream").train.batches(1000, order=some)
    np.testing.assert_array_equal(batch.image, oracle()["train_images"][some])


def test_killed_processes_leave_nothing_that_harms(tmp_path):
    def start_and_kill(code: str, text: str, seconds: float, number: signal.Signals) -> None:
        process = python(code, tmp_path)
        while text not in process.stdout.readline():
            assert process.poll() is None
        time.sleep(seconds)
        process.send_signal(number)
        process.communicate(timeout=60)
        assert process.returncode != 0
        assert not list(tmp_path.glob("**/decoded.npz"))

    # While the examples are encoded or written.
    start_and_kill(LOAD, "Preparing", 0.3, signal.SIGINT)
    assert_nothing_half_done(tmp_path)
    start_and_kill(LOAD, "Preparing", 1.5, signal.SIGKILL)
    assert list(tmp_path.glob("idx_images/mnist/incomplete.*"))
    # When the decoded copy is written, but not yet known to be on disk.
    stall = "import os, time; os.fsync = lambda file: (print('at fsync', flush=True), time.sleep(60))"
    start_and_kill(stall + LOAD, "at fsync", 0, signal.SIGKILL)
    assert [path.name for path in tmp_path.glob("**/incomplete.*")] == ["incomplete.decoded.npz"]

    assert_is_mnist(load_dataset(data_dir=tmp_path))
    assert not list(tmp_path.glob("**/incomplete.*"))

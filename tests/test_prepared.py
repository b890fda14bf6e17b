"""Preparing data sets: where they come from, what is damaged, full disks, killed processes."""

import functools
import gzip
import hashlib
import http.server
import shutil
import signal
import struct
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from mnist import assert_is_mnist, oracle, python

from lstm_jax import archives, data, prepared
from lstm_jax.data import epoch_order, load_dataset
from lstm_jax.errors import DataError

FILENAMES = [filename for pair in archives.FILENAMES.values() for filename in pair]


def assert_nothing_half_done(data_dir: Path) -> None:
    assert list(data_dir.glob("**/incomplete.*")) == []
    assert list(data_dir.glob("**/*.tmp*")) == []
    assert list(data_dir.glob("idx_images/[!.]*/*")) == []


@pytest.fixture
def mnist_copy(data_dir, tmp_path):
    """A version folder that a test may damage; its data directory is `.parents[2]`."""
    folder = prepared.version_dir("mnist", tmp_path / "copy")
    shutil.copytree(prepared.version_dir("mnist", data_dir), folder)
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


LOAD = """
import sys
from lstm_jax.data import epoch_order, load_dataset
load_dataset(data_dir=sys.argv[1], report=lambda message: print(message, flush=True))
"""


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

"""Preparing data sets: where they come from, what is damaged, full disks, killed processes."""

import functools
import gzip
import http.server
import json
import shutil
import signal
import threading
import time
import zlib

import numpy as np
import pytest
from google.protobuf.message import DecodeError

from lstm_jax.config import INPUTS
from lstm_jax.data import archives, prepared
from lstm_jax.data.dataset import epoch_order, load_dataset
from lstm_jax.errors import DataError
from tests.helpers.mnist import (
    FILENAMES,
    TRAIN,
    assert_is_mnist,
    assert_nothing_half_done,
    expect,
    first_of_mnist,
    make_small_archives,
    oracle,
    python,
)

pytestmark = pytest.mark.slow


@pytest.fixture
def small(tmp_path, monkeypatch):
    return make_small_archives(tmp_path / "archives", monkeypatch)


@pytest.fixture
def mnist_copy(data_dir, tmp_path):
    """A version folder that a test may damage; its data directory is `.parents[2]`."""
    folder = prepared.version_dir("mnist", tmp_path / "copy")
    shutil.copytree(prepared.version_dir("mnist", data_dir), folder)
    yield folder
    shutil.rmtree(tmp_path / "copy")  # 9 MB, which pytest would keep for three sessions


@pytest.fixture
def mnist_archives(tmp_path, monkeypatch):
    """The first images of MNIST, for programs and for this process, in the place of the packaged archives."""
    folder = first_of_mnist(tmp_path / "archives")
    monkeypatch.setenv("ARCHIVES", str(folder))
    expect(monkeypatch, folder)
    monkeypatch.setattr(archives, "packaged_folder", lambda name: folder)


SMALL = """
import os, sys
from pathlib import Path
from lstm_jax.data import archives
from tests.helpers.mnist import as_expected
folder = Path(os.environ["ARCHIVES"])
archives.packaged_folder = lambda name: folder
archives.expected_archives = lambda name: as_expected(folder)
"""
LOAD = (
    SMALL
    + """
from lstm_jax.data.dataset import load_dataset
load_dataset(data_dir=sys.argv[1], report=lambda message: print(message, flush=True))
"""
)


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
    # The prepared copy comes first, and the archives are checked all the same.
    again = load_dataset(
        "fashion_mnist", data_dir=tmp_path, archive_dir=small, validation_size=20, report=messages.append
    )
    np.testing.assert_array_equal(again.test.images, dataset.test.images)
    folder = prepared.version_dir("fashion_mnist", tmp_path)
    unused = f"Not using the archives in {small}: fashion_mnist is prepared already, in {folder}"
    assert messages[1:] == [unused]
    load_dataset("fashion_mnist", data_dir=tmp_path, archive_dir=small, input="stream", validation_size=0)
    (small / FILENAMES[0]).unlink()
    for kind in INPUTS:
        with pytest.raises(DataError, match=rf"{FILENAMES[0]}: .*found no file"):
            load_dataset("fashion_mnist", data_dir=tmp_path, archive_dir=small, input=kind, validation_size=0)
    with pytest.raises(DataError, match=r"none: expected the folder of the archives.*found no folder"):
        load_dataset("fashion_mnist", data_dir=tmp_path, archive_dir=tmp_path / "none")


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
            dataset = load_dataset(
                "kmnist", data_dir=tmp_path / "[1]", validation_size=1, report=messages.append
            )
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


@pytest.mark.parametrize("where", [0, 90, 5000, 3_000_000, -100, "truncate", "empty", "other arrays"])
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
    assert ["CRC-32" in message for message in messages if "Not using" not in message] == [True]


def test_damaged_records(mnist_copy):
    (mnist_copy / "decoded.npz").unlink()
    (path,) = mnist_copy.glob("*-test.array_record-*")
    content = bytearray(path.read_bytes())
    content[100_000:100_100] = bytes(100)
    path.write_bytes(content)
    message = (
        f"{mnist_copy}: the prepared data set is damaged .*; move this folder away and run again to prepare"
    )
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
    found = r"incomplete \(No such file: dataset_info.json\)" if content is None else "damaged .*"
    with pytest.raises(
        DataError, match=f"{mnist_copy}: .* is {found}; move this folder away and run again to prepare"
    ) as caught:
        load_dataset(data_dir=mnist_copy.parents[2], input=kind)
    assert "\n" not in str(caught.value)


OF_THE_SYSTEM = [
    (MemoryError(), "out of memory"),
    (RuntimeError("can't start new thread"), "can't start new thread"),
    (OSError(24, "Too many open files"), "Too many open files"),
    (PermissionError(13, "Permission denied"), "Permission denied"),
    (RuntimeError("open() failed: Too many open files"), "open() failed: Too many open files"),
]


@pytest.mark.parametrize(("error", "words"), OF_THE_SYSTEM, ids=[words for _, words in OF_THE_SYSTEM])
def test_what_the_system_says_is_not_called_damage(tmp_path, monkeypatch, error, words):
    with pytest.raises(DataError) as caught, prepared.damage_reported(tmp_path):
        raise error
    assert str(caught.value) == f"{tmp_path}: the prepared data set cannot be read ({words})"

    # Nor of the decoded copy, which is made again from what is there.
    def load(*arguments, **options):
        raise error

    (tmp_path / "decoded.npz").touch()
    monkeypatch.setattr(prepared.np, "load", load)
    messages = []
    assert prepared._read_decoded(tmp_path, messages.append) is None
    assert messages[0].startswith(f"Decoding again: {tmp_path / 'decoded.npz'} ")
    assert f"({words})" in messages[0]
    assert ("is damaged" in messages[0]) == isinstance(error, RuntimeError)
    # Nothing is said of the folder where the folder is not to blame.
    told = str(prepared._cannot_prepare("kmnist", tmp_path, error))
    assert ("--data-dir" in told) == (words not in ("out of memory", "can't start new thread"))


@pytest.mark.parametrize(
    "error",
    [
        TypeError("__init__() got an unexpected keyword argument"),
        AttributeError("module 'numpy' has no attribute 'bool'"),
        AssertionError("x"),
        KeyError("image"),
        ImportError("no such library"),
        NotImplementedError("not on this platform"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_what_a_program_does_wrong_is_not_called_damage(tmp_path, error):
    with pytest.raises(DataError, match=r"cannot be read \(.*\)$"), prepared.damage_reported(tmp_path):
        raise error


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("Invalid Riegeli/records file: chunk boundary is 3538943 but block header at 3538944"),
        RuntimeError("Invalid chunk boundary: 3538947; at byte 3538947; Failed to read RiegeliPostscript"),
        RuntimeError("ArrayRecord file should be at least 64KB big"),
        DecodeError("Error parsing message"),
        zlib.error("Error -3 while decompressing data"),
    ],
    ids=["cut", "longer", "short", "protobuf", "zlib"],
)
def test_what_a_parser_says_is(tmp_path, error):
    with pytest.raises(DataError, match=r"is damaged .*; move this"), prepared.damage_reported(tmp_path):
        raise error


@pytest.mark.parametrize("splits", [[], [{"name": "test"}], [{}]])
def test_descriptions_of_other_splits_are_damage(mnist_copy, splits):
    path = mnist_copy / "dataset_info.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "splits": splits}))
    with pytest.raises(DataError, match=r"is damaged .*; move this folder away"):
        load_dataset(data_dir=mnist_copy.parents[2], input="stream")


def test_what_tfds_cannot_open_is_told_in_the_systems_words(tmp_path):
    class FromTfdsError(OSError):
        pass

    with (
        pytest.raises(DataError, match=r"cannot be read \(Permission denied\)$"),
        prepared.damage_reported(tmp_path),
    ):
        raise FromTfdsError("Could not read") from PermissionError(13, "Permission denied")


@pytest.mark.parametrize("name", ["thesis [2026]", "[a-z]*?", "a]b", "{x,y}", "a@2", "a,b c"])
def test_characters_of_patterns_in_the_data_directory(small, tmp_path, name):
    load = functools.partial(load_dataset, "kmnist", data_dir=tmp_path / name, validation_size=0)
    images = load(archive_dir=small).train.images
    folder = prepared.version_dir("kmnist", tmp_path / name)
    (folder.parent / "incomplete.old").mkdir()  # of a killed process
    (folder / "decoded.npz").unlink()
    np.testing.assert_array_equal(load().train.images, images)
    assert not (folder.parent / "incomplete.old").exists()
    (batch,) = load(input="stream").train.batches(70)
    np.testing.assert_array_equal(batch.image, images)


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
    assert messages[-1].startswith(f"Decoding kmnist in memory: {tmp_path} cannot be locked (")
    assert not list(tmp_path.glob("**/*decoded*"))
    assert len(load(input="stream").train) == 70


def test_a_file_system_without_locks(small, tmp_path, monkeypatch):
    def acquire(self, *arguments, **options):
        raise NotImplementedError("FileSystem does not appear to support flock; use SoftFileLock instead")

    load = functools.partial(load_dataset, "kmnist", data_dir=tmp_path, validation_size=0)
    monkeypatch.setattr("filelock.FileLock.acquire", acquire)
    for kind in INPUTS:
        with pytest.raises(DataError, match=r"cannot prepare kmnist .*\(No locks available\); .*--data-dir"):
            load(archive_dir=small, input=kind)
    monkeypatch.undo()
    expect(monkeypatch, small)
    images = load(archive_dir=small).train.images
    (prepared.version_dir("kmnist", tmp_path) / "decoded.npz").unlink()
    monkeypatch.setattr("filelock.FileLock.acquire", acquire)
    np.testing.assert_array_equal(load().train.images, images)


# A limit on the size of files makes writing fail half way, as a full disk does.
LIMITED = (
    SMALL
    + """
import resource, signal, sys
from lstm_jax.data.dataset import DataError, load_dataset
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]),) * 2)
try:
    load_dataset(data_dir=sys.argv[1], report=print)
except DataError as error:
    print(error)
"""
)


@pytest.mark.usefixtures("mnist_archives")
def test_disk_full_while_preparing(tmp_path):
    process = python(LIMITED, tmp_path, 1_000_000)
    output, errors = process.communicate(timeout=60)
    assert (errors, process.returncode) == ("", 0)
    _, message = output.splitlines()
    assert message.startswith(f"cannot prepare mnist in {tmp_path} (")
    assert "File too large" in message
    assert message.endswith("or name another folder with --data-dir")
    assert_nothing_half_done(tmp_path)


@pytest.mark.usefixtures("mnist_archives")
def test_disk_full_while_keeping_the_decoded_copy(mnist_copy):
    (mnist_copy / "decoded.npz").unlink()
    process = python(LIMITED, mnist_copy.parents[2], 3_000_000)
    output, errors = process.communicate(timeout=60)
    assert (errors, process.returncode) == ("", 0)
    message = f"Keeping no decoded copy of mnist: {mnist_copy} cannot be written (File too large)\n"
    assert output == message
    assert not list(mnist_copy.glob("*decoded*"))


# ---- several processes, killed processes


@pytest.mark.usefixtures("mnist_archives")
def test_two_processes_at_once(tmp_path):
    processes = [python(LOAD, tmp_path) for _ in range(2)]
    outputs = [process.communicate(timeout=120) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], outputs
    assert sorted(output.split()[0] for output, _ in outputs) == ["Preparing", "Waiting"]
    assert_is_mnist(load_dataset(data_dir=tmp_path))
    some = epoch_order(0, 0, TRAIN)[:1000]
    (batch,) = load_dataset(data_dir=tmp_path, input="stream").train.batches(1000, order=some)
    np.testing.assert_array_equal(batch.image, oracle()["train_images"][some])


@pytest.mark.usefixtures("mnist_archives")
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
    start_and_kill(LOAD, "Preparing", 0.1, signal.SIGINT)
    assert_nothing_half_done(tmp_path)
    start_and_kill(LOAD, "Preparing", 0.5, signal.SIGKILL)
    assert list(tmp_path.glob("idx_images/mnist/incomplete.*"))
    # When the decoded copy is written, but not yet known to be on disk.
    stall = "import os, time; os.fsync = lambda file: (print('at fsync', flush=True), time.sleep(60))"
    start_and_kill(stall + LOAD, "at fsync", 0, signal.SIGKILL)
    assert [path.name for path in tmp_path.glob("**/incomplete.*")] == ["incomplete.decoded.npz"]

    assert_is_mnist(load_dataset(data_dir=tmp_path))
    assert not list(tmp_path.glob("**/incomplete.*"))

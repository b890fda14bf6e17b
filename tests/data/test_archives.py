"""The archives of a data set: what is taken for them, what is refused, and in which words."""

import gzip
import hashlib
import os
import shutil
import struct
from pathlib import Path

import numpy as np
import pytest

from lstm_jax.data import archives, dataset
from lstm_jax.data.dataset import load_dataset
from lstm_jax.errors import DataError
from tests.helpers.mnist import FILENAMES, assert_nothing_half_done, expect, idx_gz, make_small_archives


@pytest.fixture
def small(tmp_path, monkeypatch):
    return make_small_archives(tmp_path / "archives", monkeypatch)


def test_list_of_tfds():
    for name in dataset.DATASETS:
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
@pytest.mark.parametrize("damage", ["missing", "truncated", "flipped", "exchanged", "folder", "pipe"])
def test_every_wrong_archive_is_named(small, tmp_path, filename, damage):
    path = small / filename
    content = path.read_bytes()
    if damage == "missing":
        path.unlink()
        message = f"{path}: expected an archive of {len(content):,} bytes, found no file"
    elif damage == "folder":
        path.unlink()
        path.mkdir()
        message = f"{path}: cannot be read: not a file, but a folder"
    elif damage == "pipe":
        path.unlink()
        os.mkfifo(path)  # nobody writes to it, so whoever reads waits for ever
        message = f"{path}: cannot be read: not a file, but a pipe, a socket or a device"
    else:
        flipped = content[:-9] + bytes([content[-9] ^ 1]) + content[-8:]
        wrong = {"truncated": content[:-1], "flipped": flipped, "exchanged": bytes(len(content))}[damage]
        path.write_bytes(wrong)
        expected, found = (
            f"{len(c):,} bytes with SHA-256 {hashlib.sha256(c).hexdigest()}" for c in (content, wrong)
        )
        found = found if len(wrong) == len(content) else f"{len(wrong):,} bytes"
        message = f"{path}: expected {expected}, found {found}; get it again from http"
    with pytest.raises(DataError) as caught:
        load_dataset("kmnist", data_dir=tmp_path / "data", archive_dir=small)
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)
    assert_nothing_half_done(tmp_path / "data")


def test_all_archives_are_checked_before_the_first_is_parsed(small, tmp_path, monkeypatch):
    (small / FILENAMES[0]).write_bytes(b"not gzip")
    expect(monkeypatch, small)  # so the first archive is as listed, but cannot be parsed
    with pytest.raises(DataError, match=f"{FILENAMES[0]}: expected an IDX file .*got 6e 6f 74"):
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


# ---- the same content in other files


def repack(small: Path, filename: str, how: str) -> Path:
    """Leave the content of an archive in another file, which is returned."""
    path = small / filename
    content = gzip.decompress(path.read_bytes())
    path.unlink()
    name = path.stem if how == "unpacked" else path.stem.replace("-idx", ".idx") if "dot" in how else filename
    other = small / (name + ".gz" if how == "dot and packed" else name)
    packed = how in ("repacked", "dot and packed")
    other.write_bytes(gzip.compress(content, 1) if packed else content)
    return other


@pytest.fixture
def in_package(small, tmp_path, monkeypatch):
    """The small archives are in the package, too."""
    package = tmp_path / "package"
    shutil.copytree(small, package)
    monkeypatch.setattr(archives, "packaged_folder", lambda name: package)


def read_small(small: Path) -> dict[str, archives.Examples]:
    return archives.read_splits("kmnist", archives.paths_in(small), archives.expected_archives("kmnist"))


@pytest.mark.parametrize("how", ["repacked", "unpacked", "dot", "dot and packed"])
def test_what_the_package_holds_is_recognised_by_its_content(small, in_package, how):
    expected, original = read_small(small), (small / FILENAMES[0]).read_bytes()
    others = [repack(small, filename, how) for filename in FILENAMES]
    for split, examples in read_small(small).items():
        np.testing.assert_array_equal(examples.images, expected[split].images)
        np.testing.assert_array_equal(examples.labels, expected[split].labels)
    # One byte makes it something else, whatever the packing says.
    content = others[0].read_bytes()
    for wrong in (content[:-1] + bytes([content[-1] ^ 1]), content[:-1], content + b"1"):
        others[0].write_bytes(wrong)
        with pytest.raises(DataError, match=rf"{others[0].name}: expected .* found {len(wrong):,} bytes"):
            read_small(small)
    # Beside a right one it does not matter.
    (small / FILENAMES[0]).write_bytes(original)
    read_small(small)


def test_what_it_does_not_hold_is_not(small):
    other = repack(small, FILENAMES[3], "unpacked")
    header = struct.pack(">HBBI", 0, 8, 1, 10_000)
    other.write_bytes(header + bytes(10_000))
    with pytest.raises(DataError, match=r"get it again from .*; of kmnist, only the original \.gz files can"):
        read_small(small)


def test_little_is_unpacked_of_a_bomb(small, in_package, monkeypatch):
    bomb = gzip.compress(bytes(30_000_000))
    (small / FILENAMES[0]).write_bytes(bomb)
    sizes = []
    read = gzip.GzipFile.read
    monkeypatch.setattr(gzip.GzipFile, "read", lambda self, size=-1: sizes.append(size) or read(self, size))
    with pytest.raises(DataError, match=rf"found {len(bomb):,} bytes; get it again"):
        read_small(small)
    assert sizes
    assert all(0 < size <= 16 + 70 * 784 + 1 for size in sizes)


@pytest.mark.parametrize("shape", [(124_800, 28, 28), (60_000, 32, 32), (5, 3, 2), (7,)])
def test_other_data_are_told_where_they_can_be_used(small, shape):
    header = struct.pack(f">HBB{len(shape)}I", 0, 8, len(shape), *shape)
    (small / FILENAMES[0]).write_bytes(gzip.compress(header + bytes(1000)))
    with pytest.raises(DataError) as caught:
        read_small(small)
    assert f"; it has the dimensions {shape}, so it seems to hold other data: --archive-dir takes the" in str(
        caught.value
    )
    assert "use lstm_jax.LSTMClassifier in a program of your own" in str(caught.value)


def test_so_are_those_with_names_of_their_own(small):
    for filename in FILENAMES:
        (small / filename).rename(small / f"emnist-letters-{filename}")
    with pytest.raises(DataError, match=r"found no file; get it from .*; if it is other data, --archive-dir"):
        read_small(small)

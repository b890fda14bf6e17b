"""MNIST parsed without any code of the project, and what else the tests of the data share."""

import functools
import gzip
import hashlib
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from lstm_jax.data import archives, dataset

# How many images of MNIST most tests have: the first so many for training, 5,000 more for validation, and the
# first so many for testing. All 70,000 are prepared and trained on in seconds, which no test needs.
TRAIN, VALIDATION, TEST = 2_200, 5_000, 1_000

FILENAMES = [filename for pair in archives.FILENAMES.values() for filename in pair]


@functools.cache
def oracle() -> dict[str, np.ndarray]:
    """The first images of the shipped archives, parsed without any code of the project."""
    folder = Path(dataset.__file__).parent / "mnist"
    arrays = {}
    for split, prefix, count in (("train", "train", TRAIN + VALIDATION), ("test", "t10k", TEST)):
        images = gzip.decompress((folder / f"{prefix}-images-idx3-ubyte.gz").read_bytes())[16:]
        labels = gzip.decompress((folder / f"{prefix}-labels-idx1-ubyte.gz").read_bytes())[8:]
        arrays[f"{split}_images"] = np.frombuffer(images, np.uint8).reshape(-1, 28, 28)[:count]
        arrays[f"{split}_labels"] = np.frombuffer(labels, np.uint8)[:count]
    return arrays


def assert_is_mnist(found: dataset.Dataset) -> None:
    expected = oracle()
    for split, name, part in (
        (found.train, "train", slice(TRAIN)),
        (found.validation, "train", slice(TRAIN, None)),
        (found.test, "test", slice(None)),
    ):
        (batch,) = split.batches(len(split))
        np.testing.assert_array_equal(batch.image, expected[f"{name}_images"][part])
        np.testing.assert_array_equal(batch.label, expected[f"{name}_labels"][part])


def python(code: str, *arguments: object, **options: object) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-c", code, *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=Path(dataset.__file__).parents[2],
        **options,
    )


def assert_nothing_half_done(data_dir: Path) -> None:
    assert list(data_dir.glob("**/incomplete.*")) == []
    assert list(data_dir.glob("**/*.tmp*")) == []
    assert list(data_dir.glob("idx_images/[!.]*/*")) == []


def first_of_mnist(folder: Path) -> Path:
    """Archives like those of MNIST, with its first images alone."""
    folder.mkdir()
    for (images, labels), split in zip(archives.FILENAMES.values(), ("train", "test"), strict=True):
        (folder / images).write_bytes(idx_gz(oracle()[f"{split}_images"]))
        (folder / labels).write_bytes(idx_gz(oracle()[f"{split}_labels"]))
    return folder


def idx_gz(array: np.ndarray) -> bytes:
    header = struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape)
    return gzip.compress(header + array.tobytes(), compresslevel=1, mtime=0)


def expect(monkeypatch: pytest.MonkeyPatch, folder: Path, url: str = "http://localhost:9/data/") -> None:
    """Makes the archives of a folder, as they are now, the ones that are expected."""
    expected = as_expected(folder, url)
    monkeypatch.setattr(archives, "expected_archives", lambda name: expected)


def as_expected(folder: Path, url: str = "http://localhost:9/data/") -> dict[str, archives.Archive]:
    """The archives of a folder as a list of what is expected."""
    contents = {filename: (folder / filename).read_bytes() for filename in FILENAMES}
    return {
        filename: archives.Archive(url + filename, len(content), hashlib.sha256(content).hexdigest())
        for filename, content in contents.items()
    }


def make_small_archives(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Archives of 70 + 30 random images, for tests that prepare a data set of their own."""
    folder.mkdir()
    generator = np.random.default_rng(1)
    for (images, labels), count in zip(archives.FILENAMES.values(), (70, 30), strict=True):
        pixels = generator.integers(0, 256, (count, 28, 28), dtype=np.uint8)
        (folder / images).write_bytes(idx_gz(pixels))
        (folder / labels).write_bytes(idx_gz(generator.integers(0, 10, count, dtype=np.uint8)))
    expect(monkeypatch, folder)
    return folder


def correlation(one: np.ndarray, other: np.ndarray) -> float:
    """How much alike two images are: 1 if they differ in brightness and contrast only."""
    return float(np.corrcoef(one.ravel().astype(float), other.ravel().astype(float))[0, 1])

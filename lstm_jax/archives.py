"""The four published archives of a data set: where they are, what they must be, what they hold.

TensorFlow Datasets keeps a list of URL, size and SHA-256 of everything it can download. That list
is the only place these facts come from, and every archive is held against it before it is parsed,
whether it was shipped with this package, named by the user or downloaded.
"""

import gzip
import hashlib
import importlib.resources
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int32, UInt8

from lstm_jax import idx
from lstm_jax.errors import DataError

# Split -> (images, labels). All data sets of the family use the file names of MNIST.
FILENAMES = {
    "train": ("train-images-idx3-ubyte.gz", "train-labels-idx1-ubyte.gz"),
    "test": ("t10k-images-idx3-ubyte.gz", "t10k-labels-idx1-ubyte.gz"),
}

# Of the files that are made from the archives; raise it when they change, so that old ones are left alone.
VERSION = "1.0.0"


class Archive(NamedTuple):
    """What the list of TensorFlow Datasets says about one archive."""

    url: str
    size: int
    sha256: str


class Examples(NamedTuple):
    """Images and their labels, in the order in which they were published."""

    images: UInt8[np.ndarray, "examples 28 28"]
    labels: Int32[np.ndarray, " examples"]


def expected_archives(name: str) -> dict[str, Archive]:
    """Looks up what the archives of a data set must be.

    Args:
        name: ``mnist``, ``fashion_mnist`` or ``kmnist``.

    Returns:
        One entry for each of the four file names.
    """
    # Imported here because it takes 0.4 s, which a start from the decoded copy does not need.
    import tensorflow_datasets as tfds
    from tensorflow_datasets.core.download.checksums import load_url_infos

    infos = load_url_infos(tfds.core.tfds_path(f"url_checksums/{name}.txt"))
    by_filename = {url.rsplit("/", 1)[-1]: (url, info) for url, info in infos.items()}
    archives = {}
    for filename in (filename for pair in FILENAMES.values() for filename in pair):
        url, info = by_filename[filename]
        archives[filename] = Archive(url, int(info.size), info.checksum)
    return archives


def packaged_folder(name: str) -> Path | None:
    """Finds the archives that come with this package.

    Args:
        name: the data set.

    Returns:
        Their folder, or None for a data set that is not shipped.
    """
    folder = Path(str(importlib.resources.files("lstm_jax") / "assets" / name))
    return folder if folder.is_dir() else None


def read_splits(paths: Mapping[str, Path], expected: Mapping[str, Archive]) -> dict[str, Examples]:
    """Check four archives and reads them.

    Args:
        paths: where each file name of ``FILENAMES`` is.
        expected: what it must be.

    Returns:
        The examples of ``train`` and ``test``.

    Raises:
        DataError: an archive is missing, or differs in size or SHA-256, or is not an IDX file.
    """
    # All four are checked before the first one is parsed; the bytes that were checked are the
    # bytes that are parsed, so nobody can exchange the file in between.
    contents = {filename: _read_checked(paths[filename], archive) for filename, archive in expected.items()}
    splits = {}
    for split, (images_name, labels_name) in FILENAMES.items():
        images = _parse(idx.parse_images, paths[images_name], contents[images_name])
        labels = _parse(idx.parse_labels, paths[labels_name], contents[labels_name])
        if len(images) != len(labels):
            raise DataError(
                f"{paths[labels_name]}: expected one label for each of {len(images):,} images, "
                f"got {len(labels):,}"
            )
        splits[split] = Examples(images, labels.astype(np.int32))
    return splits


def _read_checked(path: Path, archive: Archive) -> bytes:
    """Read a file that must have the listed size and SHA-256."""
    try:
        with path.open("rb") as file:
            sha256 = hashlib.file_digest(file, "sha256").hexdigest()
            size = file.tell()
            file.seek(0)
            # A file of the wrong size may be too large for the memory.
            content = file.read() if size == archive.size else b""
    except FileNotFoundError:
        raise DataError(
            f"{path}: expected an archive of {archive.size:,} bytes, found no file; get it from {archive.url}"
        ) from None
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from error
    if (size, sha256) != (archive.size, archive.sha256):
        raise DataError(
            f"{path}: expected {archive.size:,} bytes with SHA-256 {archive.sha256}, "
            f"found {size:,} bytes with SHA-256 {sha256}; get it again from {archive.url}"
        )
    return content


def _parse(parse: Callable[[bytes], Any], path: Path, content: bytes) -> Any:
    """Unpacks and parses one archive, and names it in errors."""
    try:
        return parse(gzip.decompress(content))
    except (DataError, OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path}: {error}") from error

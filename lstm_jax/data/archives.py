"""The four published archives of a data set: their places, checksums and contents.

TensorFlow Datasets keeps a list of URL, size and SHA-256 of everything it can download. These facts come
from that list alone, and every archive is compared with it before it is parsed, whether it is in this
package, in a folder of the user, or downloaded. A file that was unpacked, or packed again, differs from the
list. Its content is compared with the archive in this package, if there is one (MNIST only).
"""

import gzip
import hashlib
import importlib.resources
import os
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
from jaxtyping import Int32, UInt8

from lstm_jax.config import DATASETS, IMAGE_SHAPE
from lstm_jax.data import idx
from lstm_jax.errors import DataError, one_line
from lstm_jax.system.files import open_file

# Split -> (images, labels). All three data sets use the file names of MNIST.
FILENAMES = {
    "train": ("train-images-idx3-ubyte.gz", "train-labels-idx1-ubyte.gz"),
    "test": ("t10k-images-idx3-ubyte.gz", "t10k-labels-idx1-ubyte.gz"),
}

# The number of published examples, the same for all three data sets.
PUBLISHED = {"train": 60_000, "test": 10_000}

OWN_DATA = (
    f"--archive-dir takes the published files of {', '.join(DATASETS)} only; for other classes or sizes, use "
    "lstm_jax.LSTMClassifier in a program of your own (docs/layer.md)"
)

_GZIP = b"\x1f\x8b"  # the first bytes of a file packed by gzip

# Version of the files made from the archives. Raise it when their format changes; old files then stay unused.
VERSION = "1.0.0"


class Archive(NamedTuple):
    """One archive in the list of TensorFlow Datasets."""

    url: str
    size: int
    sha256: str


class Examples(NamedTuple):
    """Images and their labels, in the published order."""

    images: UInt8[np.ndarray, "examples 28 28"]
    labels: Int32[np.ndarray, " examples"]


def expected_archives(name: str) -> dict[str, Archive]:
    """Look up URL, size and SHA-256 of the archives of a data set.

    Args:
        name: ``mnist``, ``fashion_mnist`` or ``kmnist``.

    Returns:
        One entry for each of the four file names.
    """
    # Imported here because it takes 0.4 s, and a start from the decoded copy does not need it.
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
    """Find the archives that come with this package.

    Args:
        name: the data set.

    Returns:
        Their folder, or None for a data set that is not in the package.
    """
    folder = Path(str(importlib.resources.files("lstm_jax.data") / name))
    return folder if folder.is_dir() else None


def paths_in(folder: Path) -> dict[str, list[Path]]:
    """Find the archives in a folder of the user.

    Returns:
        For each file name of ``FILENAMES``, the paths of existing files with that name, or with its name
        after unpacking (some programs then write a dot for the hyphen before ``idx``); if there are none, the
        path that the archive should have.
    """
    paths = {}
    for filename in (filename for pair in FILENAMES.values() for filename in pair):
        unpacked = filename.removesuffix(".gz")
        dotted = unpacked.replace("-idx", ".idx")
        places = [folder / name for name in (filename, unpacked, dotted, f"{dotted}.gz")]
        paths[filename] = [place for place in places if os.path.lexists(place)] or places[:1]
    return paths


def read_splits(
    name: str, paths: Mapping[str, list[Path]], expected: Mapping[str, Archive]
) -> dict[str, Examples]:
    """Check four archives and read them.

    Args:
        name: the data set.
        paths: the candidates for each file name of ``FILENAMES``; the first correct file is read.
        expected: size and SHA-256 of each.

    Returns:
        The examples of ``train`` and ``test``.

    Raises:
        DataError: an archive is missing, or is not the published one, or is not an IDX file.
    """
    # All four are checked before the first one is parsed. Each is read once, so that nobody can exchange a
    # file between check and parsing.
    contents = {filename: _first_right(name, paths[filename], filename, expected) for filename in expected}
    splits = {}
    for split, (images_name, labels_name) in FILENAMES.items():
        images = _parse(idx.parse_images, *contents[images_name])
        labels = _parse(idx.parse_labels, *contents[labels_name])
        if len(images) != len(labels):
            raise DataError(
                f"{contents[labels_name][0]}: expected one label for each of {len(images):,} images, "
                f"got {len(labels):,}"
            )
        splits[split] = Examples(images, labels.astype(np.int32))
    return splits


def _first_right(
    name: str, paths: list[Path], filename: str, expected: Mapping[str, Archive]
) -> tuple[Path, bytes]:
    """Return the first of some files that is the published archive, and its content, packed or not."""
    wrong: list[DataError] = []
    for path in paths:
        try:
            return path, _read_checked(name, path, filename, expected[filename])
        except DataError as error:
            wrong.append(error)
    raise wrong[0]


def _read_checked(name: str, path: Path, filename: str, archive: Archive) -> bytes:
    """Read a file that must have the listed size and SHA-256, or the same content as such a file."""
    try:
        with open_file(path) as file:
            size = os.fstat(file.fileno()).st_size
            # A file of the wrong size is not read: it may be too large.
            content = file.read() if size == archive.size else b""
            if size == archive.size and (sha256 := hashlib.sha256(content).hexdigest()) == archive.sha256:
                return content
            if (known := _packaged_content(name, filename, archive)) is not None:
                file.seek(0)
                if _unpacked(file, len(known)) == known:
                    return known
            file.seek(0)
            header = _unpacked(file, idx.LARGEST_HEADER)
    except FileNotFoundError:
        raise DataError(
            f"{path}: expected an archive of {archive.size:,} bytes, found no file; get it from "
            f"{archive.url}{_own_data_nearby(path.parent)}"
        ) from None
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {one_line(error)}") from error
    found = f"{size:,} bytes" + (f" with SHA-256 {sha256}" if size == archive.size else "")
    raise DataError(
        f"{path}: expected {archive.size:,} bytes with SHA-256 {archive.sha256}, found {found}; get it again "
        f"from {archive.url}{_own_data(header, filename) or _other_packing(name, header)}"
    )


def _packaged_content(name: str, filename: str, archive: Archive) -> bytes | None:
    """Return the content of an archive in this package, if it is the published one; else None."""
    folder = packaged_folder(name)
    if folder is None:
        return None
    packed = (folder / filename).read_bytes()
    return gzip.decompress(packed) if hashlib.sha256(packed).hexdigest() == archive.sha256 else None


def _unpacked(file: BinaryIO, most: int) -> bytes:
    """Return the content of a file, packed by gzip or not, up to ``most`` + 1 bytes; none if damaged."""
    packed = file.read(len(_GZIP)) == _GZIP
    file.seek(0)
    try:
        return gzip.GzipFile(fileobj=file).read(most + 1) if packed else file.read(most + 1)
    except (gzip.BadGzipFile, EOFError, zlib.error):
        return b""


def _own_data(header: bytes, filename: str) -> str:
    """Return advice if an IDX file has other dimensions than the published ones; else an empty text."""
    try:
        shape = idx.parse_header(header)
    except DataError:
        return ""
    count = PUBLISHED["train" if filename in FILENAMES["train"] else "test"]
    if shape in ((count, *IMAGE_SHAPE), (count,)):
        return ""
    return f"; it has the dimensions {shape}, so it seems to hold other data: {OWN_DATA}"


def _other_packing(name: str, header: bytes) -> str:
    """Return advice if an unpacked IDX file may be right, but cannot be checked; else an empty text."""
    if header[: len(idx.MAGIC)] != idx.MAGIC or packaged_folder(name) is not None:
        return ""
    return f"; of {name}, only the original .gz files can be checked"


def _own_data_nearby(folder: Path) -> str:
    """Return advice if a folder has other files with names of IDX files; else an empty text."""
    try:
        others = any("idx" in entry or "ubyte" in entry for entry in os.listdir(folder))
    except OSError:
        return ""
    return f"; if it is other data, {OWN_DATA}" if others else ""


def _parse(parse: Callable[[bytes], Any], path: Path, content: bytes) -> Any:
    """Unpack one archive if need be, and parse it; errors name its path."""
    try:
        return parse(gzip.decompress(content) if content[: len(_GZIP)] == _GZIP else content)
    except (DataError, OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path}: {error}") from error

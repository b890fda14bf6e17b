"""Data sets on disk: prepared once by TensorFlow Datasets, decoded once, then read in milliseconds.

The data directory has the layout of TFDS::

    idx_images/.lock                             held while anything below is written
    idx_images/mnist/1.0.0/*.array_record-*      the examples, with dataset_info.json, features.json
    idx_images/mnist/1.0.0/decoded.npz           the same examples as four arrays
    downloads/                                   archives that TFDS downloaded, if any

Folders and files get their final names when they are complete, so a killed process leaves nothing that
looks finished. Its remains start with ``incomplete.``. The next process that holds the lock removes them.
"""

import contextlib
import errno
import os
import shutil
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from lstm_jax.config import IMAGE_SHAPE
from lstm_jax.data import archives
from lstm_jax.data.archives import VERSION, Examples
from lstm_jax.errors import DataError, Report, one_line

_BUILDER = "idx_images"  # the name that TFDS derives from the class IdxImages
_DECODED = "decoded.npz"
_DECODE_BATCH = 1000  # examples decoded at once: enough for speed, few enough for memory

# Errors of ArrayRecord and TFDS about damaged files, by their words. The types alone do not tell: ArrayRecord
# raises RuntimeError for "can't start new thread", too.
_DAMAGE_IN_WORDS = (
    (RuntimeError, "orrupted"),
    (RuntimeError, "hash mismatch"),
    (RuntimeError, "Riegeli/records file"),
    (RuntimeError, "chunk boundary"),
    (RuntimeError, "ArrayRecord file"),
    (AssertionError, "restored proto"),
    (KeyError, "`splits` is empty"),
)


def default_data_dir() -> Path:
    """Return the default data directory of TFDS, without an import of TFDS."""
    return Path(os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets")


def version_dir(name: str, data_dir: Path) -> Path:
    """Return the folder in which TFDS keeps a data set."""
    return data_dir / _BUILDER / name / VERSION


def load_decoded(
    name: str, data_dir: Path, archive_dir: Path | None, report: Report, *, read_only: bool = False
) -> dict[str, Examples]:
    """Load all examples of a data set, and prepare it first if need be.

    Args:
        name: ``mnist``, ``fashion_mnist`` or ``kmnist``.
        data_dir: the data directory.
        archive_dir: folder of the four archives, or None for those in the package or a download.
        report: receives one line for each thing the user should know.
        read_only: write nothing; the data set must be prepared.

    Returns:
        The examples of ``train`` and ``test``.

    Raises:
        DataError: the data set cannot be prepared or is damaged.
    """
    folder = version_dir(name, data_dir)
    _check_unused(name, folder, archive_dir, report)
    if (decoded := _read_decoded(folder, report)) is not None:
        return decoded
    if read_only:
        return _decode(_open(name, data_dir), folder)
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(_exclusive(data_dir, report))
        except OSError as error:
            if not folder.is_dir():
                raise _cannot_prepare(name, data_dir, error) from error
            report(f"Decoding {name} in memory: {data_dir} cannot be locked ({one_line(error)})")
            return _decode(_open(name, data_dir), folder)
        # Another process may have done the work while this one waited for the lock.
        if (decoded := _read_decoded(folder, lambda message: None)) is not None:
            return decoded
        builder = _prepare(name, data_dir, archive_dir, report)
        # A builder that has just prepared the examples still has them; reading them would double the time.
        decoded = _decode(builder, folder) if builder.examples is None else dict(builder.examples)
        try:
            _write_decoded(folder, decoded)
        except OSError as error:
            report(f"Keeping no decoded copy of {name}: {folder} cannot be written ({one_line(error)})")
        return decoded


def open_sources(name: str, data_dir: Path, archive_dir: Path | None, report: Report) -> dict[str, Any]:
    """Open a data set for reading single examples, and prepare it first if need be.

    Args:
        name: ``mnist``, ``fashion_mnist`` or ``kmnist``.
        data_dir: the data directory.
        archive_dir: folder of the four archives, or None for those in the package or a download.
        report: receives one line for each thing the user should know.

    Returns:
        The TFDS data sources of ``train`` and ``test``, see ``read_examples``.

    Raises:
        DataError: the data set cannot be prepared or is damaged.
    """
    folder = version_dir(name, data_dir)
    _check_unused(name, folder, archive_dir, report)
    if folder.is_dir():
        builder = _open(name, data_dir)
    else:
        try:
            with _exclusive(data_dir, report):
                builder = _prepare(name, data_dir, archive_dir, report)
        except OSError as error:
            raise _cannot_prepare(name, data_dir, error) from error
    with damage_reported(folder):
        return {split: builder.as_data_source(split) for split in archives.FILENAMES}


def read_examples(source: Any, indices: list[int]) -> Examples:
    """Read and decode examples of a TFDS data source.

    Args:
        source: one of the data sources of ``open_sources``.
        indices: numbers of the examples, in the order of reading; may be empty.

    Returns:
        uint8 images [len(indices), 28, 28] and int32 labels [len(indices)].
    """
    images = np.empty((len(indices), *IMAGE_SHAPE), np.uint8)
    labels = np.empty(len(indices), np.int32)
    # One call for all examples takes a third of the time of one call for each.
    for row, example in enumerate(source.__getitems__(indices)):
        images[row] = example["image"]
        labels[row] = example["label"]
    return Examples(images, labels)


@contextlib.contextmanager
def damage_reported(folder: Path) -> Iterator[None]:
    """Turn every exception from inside into a DataError that names the folder.

    The message calls the data damaged only if a checksum or a parser has failed. Errors of the system (no
    memory, threads or permission) and incompatible packages say nothing about the data.
    """
    try:
        yield
    except DataError:
        raise
    except Exception as error:
        if _is_damage(error):
            found = f"is damaged ({one_line(error)})"
        elif "No such file" in str(error):
            found = f"is incomplete ({one_line(error)})"
        else:
            raise DataError(f"{folder}: the prepared data set cannot be read ({_reason(error)})") from error
        raise DataError(
            f"{folder}: the prepared data set {found}; move this folder away and run again to prepare it "
            "again"
        ) from error


def _is_damage(error: Exception) -> bool:
    """Return whether an exception of TFDS, protobuf, ArrayRecord or NumPy is about damaged data.

    Some of its types are those of any mistake in a program. Those are recognised by their words.
    """
    if isinstance(error, ValueError | EOFError | zlib.error):  # from JSON, UTF-8 or impossible values
        return True
    if type(error).__module__.startswith("google.protobuf."):  # only its parsers raise these
        return True
    return any(isinstance(error, kind) and words in str(error) for kind, words in _DAMAGE_IN_WORDS)


def _reason(error: BaseException) -> str:
    """Return the text of an exception; that of a MemoryError is empty, so it gets words of ours."""
    if isinstance(error, OSError) and isinstance(error.__cause__, OSError):
        error = error.__cause__  # the error of TFDS has less detail
    return "out of memory" if isinstance(error, MemoryError) else one_line(error)


def _check_unused(name: str, folder: Path, archive_dir: Path | None, report: Report) -> None:
    """Report that a folder of archives is not used if the data set is prepared; check its files anyway."""
    if archive_dir is not None and folder.is_dir():
        archives.read_splits(name, archives.paths_in(archive_dir), archives.expected_archives(name))
        report(f"Not using the archives in {archive_dir}: {name} is prepared already, in {folder}")


@contextlib.contextmanager
def _exclusive(data_dir: Path, report: Report) -> Iterator[None]:
    """Hold the lock of the data directory, and remove the remains of killed processes.

    Raises:
        OSError: if nothing can be written there, or the file system has no locks.
    """
    import filelock

    root = data_dir / _BUILDER
    root.mkdir(parents=True, exist_ok=True)
    lock = filelock.FileLock(root / ".lock")
    try:
        lock.acquire(timeout=1)
    except filelock.Timeout:
        report(f"Waiting for another process that is preparing data in {root}")
        lock.acquire()
    except NotImplementedError as error:  # older versions of filelock: the file system has no locks
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK)) from error
    try:
        _remove_leftovers(data_dir)
        yield
    finally:
        with contextlib.suppress(OSError):  # must not hide an error from inside
            _remove_leftovers(data_dir)
        lock.release()


def _remove_leftovers(data_dir: Path) -> None:
    """Remove unfinished folders, files and downloads. Under the lock, no other process works on them."""
    leftovers = [
        *(data_dir / _BUILDER).glob("*/incomplete.*"),
        *(data_dir / _BUILDER).glob("*/*/incomplete.*"),
        *(data_dir / "downloads" / _BUILDER).glob("*.tmp.*"),
    ]
    for path in leftovers:
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()


def _open(name: str, data_dir: Path) -> Any:
    """Make the builder of a data set that is prepared."""
    folder = version_dir(name, data_dir)
    with damage_reported(folder):
        from lstm_jax.data.builder import IdxImages

        builder = IdxImages(config=name, data_dir=data_dir)
        # The check of TFDS itself takes [ in a path for the start of a pattern.
        for filename in ("dataset_info.json", "features.json"):
            if not (folder / filename).is_file():
                raise FileNotFoundError(f"No such file: {filename}")
        return builder


def _prepare(name: str, data_dir: Path, archive_dir: Path | None, report: Report) -> Any:
    """Prepare a data set unless that is done, and return its builder. The caller must hold the lock."""
    if version_dir(name, data_dir).is_dir():
        return _open(name, data_dir)

    import tensorflow_datasets as tfds

    from lstm_jax.data.builder import IdxImages

    builder = IdxImages(
        config=name,
        data_dir=data_dir,
        archive_dir=archive_dir or archives.packaged_folder(name),
        report=report,
    )
    # TFDS can only turn its progress bars off for the whole process.
    tfds.disable_progress_bar()
    try:
        builder.download_and_prepare(download_config=tfds.download.DownloadConfig(try_download_gcs=False))
    except DataError:
        raise
    except (OSError, RuntimeError, MemoryError) as error:  # a full disk is a RuntimeError of ArrayRecord
        raise _cannot_prepare(name, data_dir, error) from error
    return builder


def _cannot_prepare(name: str, data_dir: Path, error: Exception) -> DataError:
    advice = "make it writable, free disk space, or name another folder with --data-dir"
    if isinstance(error, MemoryError) or "thread" in str(error):  # nothing to do with the folder
        advice = "end other programs, or raise the limits of this one"
    return DataError(f"cannot prepare {name} in {data_dir} ({_reason(error)}); {advice}")


def _decode(builder: Any, folder: Path) -> dict[str, Examples]:
    """Read all examples from the ArrayRecord files."""
    splits = {}
    with damage_reported(folder):
        for split in archives.FILENAMES:
            source = builder.as_data_source(split)
            parts = [
                read_examples(source, list(range(start, min(start + _DECODE_BATCH, len(source)))))
                for start in range(0, len(source), _DECODE_BATCH)
            ]
            splits[split] = Examples(*(np.concatenate(arrays) for arrays in zip(*parts, strict=True)))
    return splits


def _write_decoded(folder: Path, splits: dict[str, Examples]) -> None:
    """Write the decoded copy. It gets its name only when it is complete."""
    arrays = {
        f"{split}_{field}": array
        for split, examples in splits.items()
        for field, array in examples._asdict().items()
    }
    temporary = folder / f"incomplete.{_DECODED}"
    try:
        with temporary.open("wb") as file:
            # As np.savez does, which before NumPy 2.2 leaves its archive open when the disk is full; closed
            # later, that prints a traceback.
            with zipfile.ZipFile(file, "w") as archive:
                for name, array in arrays.items():
                    with archive.open(f"{name}.npy", "w", force_zip64=True) as entry:
                        np.lib.format.write_array(entry, array, allow_pickle=False)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(folder / _DECODED)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise


def _read_decoded(folder: Path, report: Report) -> dict[str, Examples] | None:
    """Read the decoded copy; return None if it is missing or damaged.

    The file is a zip archive, so every array has a CRC-32 that is checked while reading.
    """
    path = folder / _DECODED
    try:
        # Opened here because np.load does not close a file that is no zip archive.
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            splits = {
                split: Examples(*(arrays[f"{split}_{field}"] for field in Examples._fields))
                for split in archives.FILENAMES
            }
        for images, labels in splits.values():
            if images.dtype != np.uint8 or images.shape != (len(labels), *IMAGE_SHAPE):
                raise ValueError(f"expected uint8 images 28 x 28, got {images.dtype} {images.shape}")
            if labels.dtype != np.int32 or labels.shape != (len(images),):
                raise ValueError(f"expected int32 labels, got {labels.dtype} {labels.shape}")
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, MemoryError) as error:
        report(f"Decoding again: {path} cannot be read ({_reason(error)})")
        return None
    except Exception as error:
        # A wrong byte can make zipfile, numpy and struct raise almost anything. This is only a copy of the
        # data in the ArrayRecord files. So decode again, whatever is wrong with it.
        report(f"Decoding again: {path} is damaged ({one_line(error)})")
        return None
    return splits

"""MNIST and its relatives as batches of numpy arrays, from memory or from disk.

For example::

    dataset = load_dataset("mnist")
    order = epoch_order(seed=0, epoch=0, num_examples=len(dataset.train))
    for image, label in dataset.train.batches(128, order=order):
        ...  # uint8 [128, 28, 28], int32 [128]

The order of the examples is an argument. So a continued run gets the same batches in the same order, from
memory and from disk.
"""

import contextlib
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int32, Integer, UInt8

from lstm_jax.config import DATASETS, INPUTS, NUM_CLASSES
from lstm_jax.data import prepared
from lstm_jax.errors import DataError, Report, silent

VALIDATION_SIZE = 5_000
"""The number of training images, from the end, that choose the best epoch, as in the tutorial."""


class Batch(NamedTuple):
    """A batch of examples, as new arrays in host memory."""

    image: UInt8[np.ndarray, "batch 28 28"]
    label: Int32[np.ndarray, " batch"]


class Split(ABC):
    """Examples that can be read in batches. Subclasses in memory and on disk give equal batches."""

    @abstractmethod
    def __len__(self) -> int:
        """Return the number of examples."""

    @abstractmethod
    def part(self, first: int, last: int) -> "Split":
        """Return the split of examples ``first`` to ``last - 1``."""

    @abstractmethod
    def _load(self, batches: list[Integer[np.ndarray, " _"]]) -> Iterator[Batch]:
        """Yield one batch for each array of example numbers."""

    def batches(
        self,
        batch_size: int,
        *,
        order: Integer[np.ndarray, " examples"] | None = None,
        start: int = 0,
        rows: slice = slice(None),
        drop_remainder: bool = False,
    ) -> Iterator[Batch]:
        """Yield the examples in batches.

        Args:
            batch_size: examples in a batch; the last batch may have fewer.
            order: the examples in the order of reading, see ``epoch_order``; default: all, as published.
            start: number of the first batch to yield; earlier batches are not read.
            rows: the part of each batch to load, where several processes share the work.
            drop_remainder: leave out a last batch that is not full.

        Returns:
            An iterator of batches: uint8 images [batch, 28, 28] and int32 labels [batch].

        Raises:
            ValueError: at once, for an argument that is out of range.
            DataError: while iterating, for damaged files.
        """
        if batch_size < 1:
            raise ValueError(f"batch_size: expected at least 1, got {batch_size}")
        if order is None:
            order = np.arange(len(self), dtype=np.int32)
        elif order.ndim != 1 or not np.issubdtype(order.dtype, np.integer):
            raise ValueError(f"order: expected one row of integers, got {order.dtype} {order.shape}")
        elif order.size and (order.min() < 0 or order.max() >= len(self)):
            raise ValueError(f"order: expected numbers 0..{len(self) - 1}, got {order.min()}..{order.max()}")
        end = len(order) - len(order) % batch_size if drop_remainder else len(order)
        firsts = range(0, end, batch_size)
        if not 0 <= start <= len(firsts):
            raise ValueError(f"start: expected 0..{len(firsts)}, the number of batches, got {start}")
        return self._load([order[first : first + batch_size][rows] for first in firsts[start:]])


@dataclass(frozen=True, eq=False)
class MemorySplit(Split):
    """Examples in memory.

    Attributes:
        images: uint8, read-only.
        labels: int32, read-only.
    """

    images: UInt8[np.ndarray, "examples 28 28"]
    labels: Int32[np.ndarray, " examples"]

    def __post_init__(self) -> None:
        # Batches are copies, so a write to these arrays would be a mistake.
        self.images.flags.writeable = False
        self.labels.flags.writeable = False

    def __len__(self) -> int:
        return len(self.labels)

    def part(self, first: int, last: int) -> "MemorySplit":
        """Return the split of some examples, see ``Split``; it shares the memory."""
        return MemorySplit(self.images[first:last], self.labels[first:last])

    def _load(self, batches: list[Integer[np.ndarray, " _"]]) -> Iterator[Batch]:
        for indices in batches:
            yield Batch(self.images[indices], self.labels[indices])


@dataclass(frozen=True, eq=False)
class StreamSplit(Split):
    """Examples on disk; a grain pipeline reads batches ahead in background threads.

    Attributes:
        source: TFDS data source with random access.
        numbers: the examples of the source that belong to this split.
        folder: the folder of the files, for error messages.
    """

    source: Any
    numbers: range
    folder: Path

    def __len__(self) -> int:
        return len(self.numbers)

    def part(self, first: int, last: int) -> "StreamSplit":
        """Return the split of some examples, see ``Split``; it reads nothing."""
        return StreamSplit(self.source, self.numbers[first:last], self.folder)

    def _load(self, batches: list[Integer[np.ndarray, " _"]]) -> Iterator[Batch]:
        import grain  # takes 0.6 s, and only this method needs it

        # More than two threads and four batches are not faster: decoding holds Python's lock, and only
        # reading and unpacking run beside it.
        options = grain.ReadOptions(num_threads=2, prefetch_buffer_size=4)
        pipeline = grain.MapDataset.source(batches).map(self._read).to_iter_dataset(options)
        # close() stops the threads, also when the consumer leaves this generator early.
        with contextlib.closing(iter(pipeline)) as iterator:
            yield from iterator

    def _read(self, indices: Integer[np.ndarray, " _"]) -> Batch:
        with prepared.damage_reported(self.folder):
            return Batch(*prepared.read_examples(self.source, [self.numbers[i] for i in indices]))


@dataclass(frozen=True, eq=False)
class Dataset:
    """A data set in three splits.

    Attributes:
        name: ``mnist``, ``fashion_mnist`` or ``kmnist``.
        train: the examples that the parameters are fitted to.
        validation: the examples that the best epoch is chosen on.
        test: the examples of the reported accuracy, which never choose anything.
        num_classes: number of classes; labels are 0..num_classes - 1.
    """

    name: str
    train: Split
    validation: Split
    test: Split
    num_classes: int = NUM_CLASSES


def load_dataset(
    name: str = "mnist",
    *,
    data_dir: str | Path | None = None,
    archive_dir: str | Path | None = None,
    input: str = "memory",
    validation_size: int = VALIDATION_SIZE,
    read_only: bool = False,
    report: Report = silent,
) -> Dataset:
    """Open a data set. The first call prepares it, which takes some seconds.

    It is searched for in this order: the prepared copy in ``data_dir``; the archives in ``archive_dir``;
    the archives in this package (MNIST only); a download.

    Args:
        name: ``mnist``, ``fashion_mnist`` or ``kmnist``.
        data_dir: folder of prepared data sets; default ``$TFDS_DATA_DIR``, else
            ``~/tensorflow_datasets``.
        archive_dir: folder with the four original ``.gz`` archives; of MNIST, also unpacked or packed again.
        input: ``memory`` gives splits of type ``MemorySplit``, ``stream`` of type ``StreamSplit``.
        validation_size: number of training images, the last ones, to use for validation.
        read_only: write nothing; the data set must be prepared. Only for ``memory``.
        report: receives one line for each thing the user should know, such as a long step.

    Returns:
        The splits, in the published order.

    Raises:
        ValueError: ``name``, ``input`` or ``validation_size`` is not an accepted value.
        DataError: a folder or file is missing, damaged or cannot be written.
    """
    if name not in DATASETS:
        raise ValueError(f"name: expected one of {', '.join(DATASETS)}, got {name!r}")
    if input not in INPUTS:
        raise ValueError(f"input: expected one of {', '.join(INPUTS)}, got {input!r}")
    data_dir = _expanded(data_dir or prepared.default_data_dir())
    if archive_dir is not None:
        archive_dir = _expanded(archive_dir)
        if not archive_dir.is_dir():
            raise DataError(f"{archive_dir}: expected the folder of the archives of {name}, found no folder")

    train: Split
    test: Split
    if input == "memory":
        examples = prepared.load_decoded(name, data_dir, archive_dir, report, read_only=read_only)
        train, test = MemorySplit(*examples["train"]), MemorySplit(*examples["test"])
    else:
        sources = prepared.open_sources(name, data_dir, archive_dir, report)
        folder = prepared.version_dir(name, data_dir)
        train = StreamSplit(sources["train"], range(len(sources["train"])), folder)
        test = StreamSplit(sources["test"], range(len(sources["test"])), folder)
    if not 0 <= validation_size < len(train):
        raise ValueError(f"validation_size: expected 0..{len(train) - 1}, got {validation_size}")
    cut = len(train) - validation_size
    return Dataset(name, train.part(0, cut), train.part(cut, len(train)), test)


def epoch_order(seed: int, epoch: int, num_examples: int) -> Int32[np.ndarray, " examples"]:
    """Draw the order of the examples in an epoch.

    It comes from NumPy's Philox generator with the key (seed, epoch), so no random state needs saving. For
    55,000 examples this takes 0.7 ms, where ``jax.random.permutation`` takes 33 ms on a CPU.

    Args:
        seed: seed of the run, at least 0.
        epoch: number of the epoch, at least 0.
        num_examples: number of examples.

    Returns:
        A permutation of 0..num_examples - 1, int32.

    Raises:
        ValueError: an argument is negative.
    """
    for argument, value in (("seed", seed), ("epoch", epoch), ("num_examples", num_examples)):
        if value < 0:
            raise ValueError(f"{argument}: expected at least 0, got {value}")
    generator = np.random.Generator(np.random.Philox(key=[seed, epoch]))
    return generator.permutation(num_examples).astype(np.int32)


def _expanded(path: str | Path) -> Path:
    """Replace a leading ~ with the home directory."""
    try:
        return Path(path).expanduser()
    except RuntimeError as error:  # an unknown user, or a container without home directories
        raise DataError(f"{path}: there is no such home directory; name a folder with --data-dir") from error

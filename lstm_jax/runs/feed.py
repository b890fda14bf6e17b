"""The transfer of training batches to the devices: the whole data set at once, or block by block."""

from abc import ABC, abstractmethod
from collections.abc import Iterator

import numpy as np
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P
from jaxtyping import Int32

from lstm_jax import devices
from lstm_jax.data.dataset import Batch, MemorySplit, Split, epoch_order
from lstm_jax.training import (
    BLOCK_SPEC,
    MANY_SEEDS_SPEC,
    RESIDENT_SPEC,
    Block,
    DataSpec,
    Resident,
    RunSeed,
)

# Batches read from disk for one call: enough to hide the cost of its start, few enough for memory.
STREAM_BLOCK = 32


class Feed(ABC):
    """The source of the data of `train_epoch`. Seed and epoch determine the order of the examples.

    Attributes:
        spec: how the data lies on the mesh.
        limit: the largest number of steps that one call of `take` can serve.
    """

    spec: DataSpec
    limit: int

    def __init__(self, split: Split, mesh: Mesh, *, batch_size: int, seed: RunSeed) -> None:
        self._split, self._mesh, self._batch_size, self._seed = split, mesh, batch_size, seed

    @abstractmethod
    def begin(self, epoch: int, done: int) -> None:
        """Start an epoch, counted from 0, whose first ``done`` steps have been taken."""

    @abstractmethod
    def take(self, start: int, stop: int) -> tuple[Resident | Block, np.int32, np.int32]:
        """Return the data of the epoch's steps ``start`` to ``stop - 1``, and their bounds within it.

        Each call must continue where the one before it stopped.
        """

    def _order(self, epoch: int) -> Int32[np.ndarray, "*seeds examples"]:
        return epoch_order(int(self._seed), epoch, len(self._split))


def make_feed(split: Split, mesh: Mesh, *, batch_size: int, seed: RunSeed) -> Feed:
    """Make the feed that suits a split: from memory, or from disk. Many seeds need a split in memory."""
    if isinstance(split, MemorySplit):
        if np.ndim(seed):
            return ManySeedsFeed(split, mesh, batch_size=batch_size, seed=seed)
        return MemoryFeed(split, mesh, batch_size=batch_size, seed=seed)
    return StreamFeed(split, mesh, batch_size=batch_size, seed=seed)


class MemoryFeed(Feed):
    """A feed that holds all images on every device as bytes (43 MB for MNIST), and shuffles there by index.

    Every device holds all images, so that any example can be in any device's share of a batch.
    """

    spec = RESIDENT_SPEC

    def __init__(self, split: MemorySplit, mesh: Mesh, *, batch_size: int, seed: RunSeed) -> None:
        super().__init__(split, mesh, batch_size=batch_size, seed=seed)
        self.limit = len(split) // batch_size
        self._image = devices.place(mesh, split.images, P())
        self._label = devices.place(mesh, split.labels, P())

    def begin(self, epoch: int, done: int) -> None:
        """Put the epoch's order on the devices."""
        steps = len(self._split) // self._batch_size  # without a last incomplete batch
        order = self._order(epoch)[..., : steps * self._batch_size]
        batches = order.reshape(*order.shape[:-1], steps, self._batch_size)
        own = np.ascontiguousarray(batches[..., devices.own_rows(self._batch_size)])
        self._chosen = devices.place(self._mesh, own, self.spec.order)

    def take(self, start: int, stop: int) -> tuple[Resident, np.int32, np.int32]:
        """Return all of the data, which is on the devices already, and the bounds."""
        return Resident(self._image, self._label, self._chosen), np.int32(start), np.int32(stop)


class ManySeedsFeed(MemoryFeed):
    """A feed from memory for many seeds at once: they share the images, and each has its own order."""

    spec = MANY_SEEDS_SPEC

    def _order(self, epoch: int) -> Int32[np.ndarray, "*seeds examples"]:
        seeds = np.asarray(self._seed).tolist()
        return np.stack([epoch_order(seed, epoch, len(self._split)) for seed in seeds])


class StreamFeed(Feed):
    """A feed that reads the batches of the next steps from disk; each process reads its own share."""

    spec = BLOCK_SPEC
    limit = STREAM_BLOCK

    def __init__(self, split: Split, mesh: Mesh, *, batch_size: int, seed: RunSeed) -> None:
        super().__init__(split, mesh, batch_size=batch_size, seed=seed)
        rows = devices.own_rows(batch_size)
        share = rows.stop - rows.start
        # All calls use one block. The program does not read a part that is not filled.
        self._image = np.zeros((STREAM_BLOCK, share, 28, 28), np.uint8)
        self._label = np.zeros((STREAM_BLOCK, share), np.int32)

    def begin(self, epoch: int, done: int) -> None:
        """Start to read ahead."""
        self._batches: Iterator[Batch] = self._split.batches(
            self._batch_size,
            order=self._order(epoch),
            start=done,
            drop_remainder=True,
            rows=devices.own_rows(self._batch_size),
        )

    def take(self, start: int, stop: int) -> tuple[Block, np.int32, np.int32]:
        """Read the batches of these steps, and put them on the devices."""
        count = stop - start
        for i in range(count):
            self._image[i], self._label[i] = next(self._batches)
        # Copies, because an array on a CPU device may share memory with its host array.
        block = Block(
            devices.place(self._mesh, self._image.copy(), self.spec.image),
            devices.place(self._mesh, self._label.copy(), self.spec.label),
        )
        return block, np.int32(0), np.int32(count)

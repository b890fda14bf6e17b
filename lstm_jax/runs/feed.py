"""How batches reach the devices while training: the whole data set at once, or block after block."""

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

# Batches read from disk for one program: enough to hide its start, small in memory.
STREAM_BLOCK = 32


class Feed(ABC):
    """Gives `train_epoch` its data. The order of an epoch is fixed by (seed, epoch).

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
        """The data of the epoch's steps ``start`` to ``stop - 1``, and where these lie in it.

        Each call must go on where the one before it stopped.
        """

    def _order(self, epoch: int) -> Int32[np.ndarray, "*seeds examples"]:
        return epoch_order(int(self._seed), epoch, len(self._split))


def make_feed(split: Split, mesh: Mesh, *, batch_size: int, seed: RunSeed) -> Feed:
    """The feed that suits a split: in memory once and for all, else from disk as needed.

    Many seeds at once need theirs in memory.
    """
    if isinstance(split, MemorySplit):
        if np.ndim(seed):
            return ManySeedsFeed(split, mesh, batch_size=batch_size, seed=seed)
        return MemoryFeed(split, mesh, batch_size=batch_size, seed=seed)
    return StreamFeed(split, mesh, batch_size=batch_size, seed=seed)


class MemoryFeed(Feed):
    """A feed that holds the images on every device as bytes (43 MB for MNIST), and shuffles there, by index.

    Every device has all of them, so that any example can be in any device's share of a batch.
    """

    spec = RESIDENT_SPEC

    def __init__(self, split: MemorySplit, mesh: Mesh, *, batch_size: int, seed: RunSeed) -> None:
        super().__init__(split, mesh, batch_size=batch_size, seed=seed)
        self.limit = len(split) // batch_size
        self._image = devices.place(mesh, split.images, P())
        self._label = devices.place(mesh, split.labels, P())

    def begin(self, epoch: int, done: int) -> None:
        """Put the epoch's order on the devices."""
        steps = len(self._split) // self._batch_size  # a last incomplete batch is left out
        order = self._order(epoch)[..., : steps * self._batch_size]
        batches = order.reshape(*order.shape[:-1], steps, self._batch_size)
        own = np.ascontiguousarray(batches[..., devices.own_rows(self._batch_size)])
        self._chosen = devices.place(self._mesh, own, self.spec.order)

    def take(self, start: int, stop: int) -> tuple[Resident, np.int32, np.int32]:
        """Everything is there already: only the bounds change."""
        return Resident(self._image, self._label, self._chosen), np.int32(start), np.int32(stop)


class ManySeedsFeed(MemoryFeed):
    """The same for many seeds at once: they share the images, and each has its own order of them."""

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
        # One block for all calls: a part that is not filled is not looked at.
        self._image = np.zeros((STREAM_BLOCK, share, 28, 28), np.uint8)
        self._label = np.zeros((STREAM_BLOCK, share), np.int32)

    def begin(self, epoch: int, done: int) -> None:
        """Start reading ahead."""
        self._batches: Iterator[Batch] = self._split.batches(
            self._batch_size,
            order=self._order(epoch),
            start=done,
            drop_remainder=True,
            rows=devices.own_rows(self._batch_size),
        )

    def take(self, start: int, stop: int) -> tuple[Block, np.int32, np.int32]:
        """Collect so many batches and put them on the devices."""
        count = stop - start
        for i in range(count):
            self._image[i], self._label[i] = next(self._batches)
        # Copies: the arrays on a CPU device may share memory with what they were made from.
        block = Block(
            devices.place(self._mesh, self._image.copy(), self.spec.image),
            devices.place(self._mesh, self._label.copy(), self.spec.label),
        )
        return block, np.int32(0), np.int32(count)

"""MNIST parsed without any code of the project, and what else the tests of the data share."""

import functools
import gzip
import subprocess
import sys
from pathlib import Path

import numpy as np

from lstm_jax import data


@functools.cache
def oracle() -> dict[str, np.ndarray]:
    """The shipped archives, parsed without any code of the project."""
    folder = Path(data.__file__).parent / "assets" / "mnist"
    arrays = {}
    for split, prefix in (("train", "train"), ("test", "t10k")):
        images = gzip.decompress((folder / f"{prefix}-images-idx3-ubyte.gz").read_bytes())[16:]
        labels = gzip.decompress((folder / f"{prefix}-labels-idx1-ubyte.gz").read_bytes())[8:]
        arrays[f"{split}_images"] = np.frombuffer(images, np.uint8).reshape(-1, 28, 28)
        arrays[f"{split}_labels"] = np.frombuffer(labels, np.uint8)
    return arrays


def assert_is_mnist(dataset: data.Dataset) -> None:
    expected = oracle()
    for split, name, part in (
        (dataset.train, "train", slice(55_000)),
        (dataset.validation, "train", slice(55_000, 60_000)),
        (dataset.test, "test", slice(None)),
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
        cwd=Path(data.__file__).parents[1],
        **options,
    )

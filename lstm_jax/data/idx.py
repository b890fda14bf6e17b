"""The IDX format, in which MNIST and its relatives are published.

An IDX file of bytes is a header and the values, in row-major order::

    00 00 08 rank | size of each dimension, big-endian uint32 | one byte per value

Images have rank 3 (examples, rows, columns), labels rank 1. A file is refused if one byte of its header
or its length is wrong.
"""

import math
import struct

import numpy as np
from jaxtyping import UInt8

from lstm_jax.config import IMAGE_SHAPE, NUM_CLASSES
from lstm_jax.errors import DataError

MAGIC = b"\x00\x00\x08"  # two zeros, then the type: 08 is unsigned byte
LARGEST_HEADER = 16


def parse_header(data: bytes) -> tuple[int, ...]:
    """Read the dimensions in the header of an (unpacked) IDX file.

    Args:
        data: the file, or its first `LARGEST_HEADER` bytes.

    Returns:
        The size of each of 1 or 3 dimensions.

    Raises:
        DataError: the magic number, the rank or a dimension is not what IDX prescribes.
    """
    if data[:3] != MAGIC:
        raise DataError(f"expected an IDX file (starting 00 00 08), got {data[:3].hex(' ') or 'nothing'}")
    if data[3:4] not in (b"\x01", b"\x03"):
        raise DataError(f"expected 1 (labels) or 3 (images) dimensions, got {data[3:4].hex() or 'nothing'}")
    header_size = 4 + 4 * data[3]
    if len(data) < header_size:
        raise DataError(f"expected a header of {header_size} bytes, got {len(data)} bytes")
    shape = struct.unpack(f">{data[3]}I", data[4:header_size])
    if min(shape) < 1:
        raise DataError(f"expected dimensions of at least 1, got {shape}")
    return shape


def parse_idx(data: bytes) -> UInt8[np.ndarray, "..."]:
    """Read the content of one (unpacked) IDX file.

    Args:
        data: the whole file.

    Returns:
        uint8 array of rank 1 or 3, read-only because it shares the memory of ``data``.

    Raises:
        DataError: the magic number, the rank, a dimension or the length is not what IDX prescribes.
    """
    shape = parse_header(data)
    header_size = 4 + 4 * len(shape)
    expected_size = header_size + math.prod(shape)
    if len(data) != expected_size:
        raise DataError(f"expected {expected_size:,} bytes for dimensions {shape}, got {len(data):,}")
    return np.frombuffer(data, np.uint8, offset=header_size).reshape(shape)


def parse_images(data: bytes) -> UInt8[np.ndarray, "examples 28 28"]:
    """Read an IDX file of images.

    Args:
        data: the whole file.

    Returns:
        uint8 images, 0 is background.

    Raises:
        DataError: not an IDX file, or not images of 28 x 28 pixels.
    """
    images = parse_idx(data)
    if images.shape[1:] != IMAGE_SHAPE:
        raise DataError(f"expected images of 28 x 28 pixels, got dimensions {images.shape}")
    return images


def parse_labels(data: bytes) -> UInt8[np.ndarray, " examples"]:
    """Read an IDX file of labels.

    Args:
        data: the whole file.

    Returns:
        uint8 labels in 0..9.

    Raises:
        DataError: not an IDX file, or not labels, or a label above 9.
    """
    labels = parse_idx(data)
    if labels.ndim != 1:
        raise DataError(f"expected labels (1 dimension), got dimensions {labels.shape}")
    if labels.max() >= NUM_CLASSES:
        raise DataError(f"expected labels 0..{NUM_CLASSES - 1}, got {labels.max()}")
    return labels

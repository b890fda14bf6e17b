"""The IDX parser against hand-written files, the shipped archives and random damage."""

import contextlib
import gzip
import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lstm_jax.data import archives, idx
from lstm_jax.errors import DataError


def encode(array: np.ndarray) -> bytes:
    """Writes IDX, independently of the reader."""
    return struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape) + array.tobytes()


def test_hand_written_file():
    data = bytes([0, 0, 8, 1, 0, 0, 0, 3, 7, 0, 9])
    assert idx.parse_idx(data).tolist() == [7, 0, 9]
    assert idx.parse_labels(data).tolist() == [7, 0, 9]


def test_last_dimension_runs_fastest():
    array = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)
    np.testing.assert_array_equal(idx.parse_idx(encode(array)), array)


def test_images_of_the_shipped_archive():
    path = archives.packaged_folder("mnist") / "t10k-images-idx3-ubyte.gz"
    data = gzip.decompress(path.read_bytes())
    images = idx.parse_images(data)
    assert images.shape == (10_000, 28, 28)
    # Pixel 202 of the first image (row 7, column 6) is where its "7" begins.
    assert images[0, 7, 6] == data[16 + 7 * 28 + 6] == 84


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", r"starting 00 00 08\), got nothing"),
        (b"\x1f\x8b\x08\x01", "starting 00 00 08\\), got 1f 8b 08"),
        (bytes([0, 0, 13, 1, 0, 0, 0, 1, 0]), "got 00 00 0d"),
        (bytes([0, 0, 8]), "dimensions, got nothing"),
        (bytes([0, 0, 8, 2]) + bytes(8), r"1 \(labels\) or 3 \(images\) dimensions, got 02"),
        (bytes([0, 0, 8, 3, 0, 0]), "header of 16 bytes, got 6"),
        (bytes([0, 0, 8, 1, 0, 0, 0, 0]), "dimensions of at least 1"),
        (bytes([0, 0, 8, 1, 0, 0, 0, 3, 1, 2]), "expected 11 bytes .* got 10"),
        (bytes([0, 0, 8, 1, 0, 0, 0, 1, 1, 2]), "expected 9 bytes .* got 10"),
        (bytes([0, 0, 8, 3]) + b"\xff" * 12, "got 16"),
    ],
)
def test_damaged_file_is_refused(data, message):
    with pytest.raises(DataError, match=message):
        idx.parse_idx(data)


def test_kind_of_content_is_checked():
    with pytest.raises(DataError, match=r"28 x 28 pixels, got dimensions \(2, 28, 27\)"):
        idx.parse_images(encode(np.zeros((2, 28, 27), np.uint8)))
    with pytest.raises(DataError, match="28 x 28"):
        idx.parse_images(encode(np.zeros(5, np.uint8)))
    with pytest.raises(DataError, match="1 dimension"):
        idx.parse_labels(encode(np.zeros((2, 28, 28), np.uint8)))
    with pytest.raises(DataError, match=r"labels 0\.\.9, got 10"):
        idx.parse_labels(encode(np.array([9, 10, 0], np.uint8)))


@given(st.data())
def test_random_damage_never_causes_another_exception(data):
    shape = data.draw(st.sampled_from([(4,), (3, 28, 28), (1, 2, 3)]))
    content = bytearray(encode(np.ones(shape, np.uint8)))
    # Mostly in the header, where damage can do harm.
    for _ in range(data.draw(st.integers(0, 3))):
        where = data.draw(st.integers(0, min(20, len(content) - 1)))
        content[where] = data.draw(st.integers(0, 255))
    content = bytes(content[: data.draw(st.sampled_from([None, 0, 3, 4, 9, len(content) - 1]))])
    content += data.draw(st.sampled_from([b"", b"\0"]))
    for parse in (idx.parse_idx, idx.parse_images, idx.parse_labels):
        try:
            array = parse(content)
        except DataError:
            continue
        assert content[:4] == bytes([0, 0, 8, array.ndim])
        assert array.size == len(content) - 4 - 4 * array.ndim
        assert array.tobytes() == content[-array.size :]


@given(st.binary(max_size=200))
def test_random_bytes_never_cause_another_exception(content):
    with contextlib.suppress(DataError):
        idx.parse_idx(content)

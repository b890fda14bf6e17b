"""The content of an ONNX file: a model with its arrays, read with little memory.

An array takes as much memory as it takes in the file. All else can take a hundred times as much: a node of
two bytes becomes an object. So the size of all else is measured before it is parsed.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from lstm_jax.errors import ExchangeError, one_line
from lstm_jax.exchange.metadata import LARGEST_FILE
from lstm_jax.system.files import read_bytes
from lstm_jax.system.packages import required

# The most bytes of a graph without its arrays. A layer takes a few kB, or more with stack traces of PyTorch.
LARGEST_GRAPH = 2**20

# The path to the values of arrays, by the field numbers of the ONNX protocol: graph, initializer, values; and
# graph, node, attribute, tensor, values.
_NUMBERS: Mapping[int, Any] = MappingProxyType(dict.fromkeys((4, 5, 7, 9, 10)))
_TO_ARRAYS: Mapping[int, Any] = MappingProxyType({7: {5: _NUMBERS, 1: {5: {5: _NUMBERS}}}})


def read_model(content: bytes, folder: Path) -> Any:
    """Parse the content of a file to an ``onnx.ModelProto``, with arrays from files beside it.

    Raises:
        ExchangeError: if it is damaged or too large, or if arrays are elsewhere; if onnx is missing.
    """
    onnx = required("onnx")
    model = onnx.ModelProto()
    try:
        described = 0
        for size in _without_arrays(memoryview(content), _TO_ARRAYS):
            described += size
            if described > LARGEST_GRAPH:
                raise ExchangeError(
                    f"got a graph of more than {LARGEST_GRAPH:,} bytes without its arrays, expected one of "
                    "an LSTM classifier"
                )
        model.ParseFromString(content)
        if not model.graph.node:
            raise ValueError("no graph")
    except ExchangeError:
        raise
    except (required("google.protobuf.message").DecodeError, ValueError, IndexError) as error:
        raise ExchangeError(f"got a damaged file, or no ONNX file ({one_line(error)})") from error
    _take_in(onnx, model.graph.initializer, folder)
    return model


def array_of(onnx: Any, tensor: Any) -> np.ndarray:
    """Return an array in a file, in its stored dtype.

    Raises:
        ExchangeError: if it is not in the file, or holds other values than finite numbers.
    """
    if tensor.data_location == onnx.TensorProto.EXTERNAL:
        raise ExchangeError(f"{tensor.name}: got a constant that is not in the file, expected all in it")
    array = np.asarray(onnx.numpy_helper.to_array(tensor))
    if array.dtype.name not in ("float32", "float64", "float16", "bfloat16", "int64", "int32", "bool"):
        raise ExchangeError(f"{tensor.name}: got values of type {array.dtype}, expected floats")
    if array.dtype.kind not in "ib" and not np.isfinite(array.astype(np.float32)).all():
        raise ExchangeError(f"{tensor.name}: got NaN or infinite values, expected finite ones")
    return array


def _without_arrays(message: memoryview, to_arrays: Mapping[int, Any]) -> Iterator[int]:
    """Yield the sizes of the parts of a message, without the values of its arrays."""
    for number, head, part in _fields(message):
        below = to_arrays.get(number, {})
        if below is None:
            yield head
        elif below:
            yield head
            yield from _without_arrays(part, below)
        else:
            yield head + len(part)


def _fields(message: memoryview) -> Iterator[tuple[int, int, memoryview]]:
    """Yield the number of each field of a message, the size of its head, and any content with a length."""
    place = 0
    while place < len(message):
        start = place
        key, place = _varint(message, place)
        kind = key & 7
        if kind == 2:
            size, place = _varint(message, place)
        elif kind in (1, 5):
            size = {1: 8, 5: 4}[kind]
        elif kind == 0:
            size, (_, place) = 0, _varint(message, place)
        else:
            raise ValueError(f"a field of kind {kind}")
        if place + size > len(message):
            raise ValueError("truncated")
        if kind == 2:
            yield key >> 3, place - start, message[place : place + size]
        else:
            yield key >> 3, place + size - start, message[:0]
        place += size


def _varint(message: memoryview, place: int) -> tuple[int, int]:
    """Return an integer stored in groups of seven bits, and the place after it."""
    number = 0
    for shift in range(0, 70, 7):
        byte = message[place + shift // 7]
        number |= (byte & 127) << shift
        if byte < 128:
            return number, place + shift // 7 + 1
    raise ValueError("a number of more than ten bytes")


def _take_in(onnx: Any, tensors: Sequence[Any], folder: Path) -> None:
    """Read arrays from a second file beside the first, as PyTorch exports them, into the model."""
    files: dict[str, bytes] = {}
    taken = 0
    for tensor in tensors:
        if tensor.data_location != onnx.TensorProto.EXTERNAL:
            continue
        where = {each.key: each.value for each in tensor.external_data}
        name = where.get("location", "")
        if name not in files:
            files[name] = _beside(folder, name, tensor.name)
        offset, length = (where.get(key, "0") for key in ("offset", "length"))
        # Eighteen digits are enough for the size of any file.
        known = all(re.fullmatch("[0-9]{1,18}", text) for text in (offset, length))
        part = files[name][int(offset) : int(offset) + int(length)] if known else b""
        taken += len(part)
        if taken > sum(map(len, files.values())):  # arrays share bytes
            raise ExchangeError(f"got more bytes of arrays than {', '.join(files)} has, expected each once")
        tensor.raw_data = part
        tensor.data_location = onnx.TensorProto.DEFAULT


def _beside(folder: Path, name: str, tensor: str) -> bytes:
    """Read a file in the folder of the model. Names that lead elsewhere are refused."""
    try:
        if not name or Path(name).name != name or (folder / name).is_symlink():
            raise ValueError("not the name of a file beside the model")
        return read_bytes(folder / name, most_bytes=LARGEST_FILE)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise ExchangeError(
            f"{tensor}: got an array in the file {name[:80]!r} ({reason}), expected a file beside the model, "
            f"of at most {LARGEST_FILE:,} bytes"
        ) from error

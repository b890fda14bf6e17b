"""Parameters as Flax saves them with ``flax.serialization.to_bytes``: MessagePack, read without pickle."""

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from lstm_jax.errors import ConversionError, one_line
from lstm_jax.system.packages import required

# How Flax marks arrays, and NumPy's scalars, among the extensions of MessagePack.
_ARRAYS = (1, 3)
# What a training state has besides parameters, and no model needs.
_OF_TRAINING = ("step", "opt_state")
# Names in a file, of arrays and of groups, and in one group. A layer in two directions has 50, an optimizer
# some times that.
_MOST_NAMES, _MOST_IN_A_GROUP = 20_000, 1000
# The types of arrays by their names, or as NumPy writes them in short. It would read more into other texts.
_NUMBERS = re.compile(rb"(b?float|u?int)[0-9]{1,3}|bool|[<>|=]?[fiu][0-9]{1,2}")


def read_msgpack(content: bytes) -> dict[str, np.ndarray]:
    """The arrays of a file of this content, by paths with dots; of a training state, those of the parameters.

    Raises:
        ConversionError: if it is not such a file; if msgpack is missing.
    """
    msgpack = required("msgpack")
    required("ml_dtypes")  # which JAX brings: without it, NumPy has no bfloat16

    names = 0

    def group(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
        nonlocal names
        names += 1 + len(pairs)
        if names > _MOST_NAMES:
            raise ConversionError(
                f"got more than {_MOST_NAMES:,} names, expected those of an LSTM classifier"
            )
        return dict(pairs)

    def array(code: int, content: bytes) -> np.ndarray:
        if code not in _ARRAYS:
            raise ConversionError(f"got an extension {code} of MessagePack, expected arrays alone")
        shape, dtype, values = msgpack.unpackb(content, raw=True, max_array_len=16, max_map_len=0)
        if not _NUMBERS.fullmatch(dtype):
            raise ConversionError(
                f"got an array of {dtype.decode()[:40]!r}, expected floats or whole numbers"
            )
        kind = np.dtype(dtype.decode())
        return np.frombuffer(values, kind).reshape(shape)

    try:
        # Flax writes lists as maps, and arrays as one extension each, which do not grow when they are
        # unpacked. A name takes a hundred times what it takes in the file: a group is counted once it is
        # complete, and so is one that others lie in.
        tree = msgpack.unpackb(
            content,
            ext_hook=array,
            object_pairs_hook=group,
            raw=False,
            max_array_len=0,
            max_map_len=_MOST_IN_A_GROUP,
        )
        if not isinstance(tree, dict):
            raise ConversionError(f"got a single {type(tree).__name__}, expected a tree of parameters")
        while isinstance(tree.get("params"), dict):
            others = sorted(set(tree) - {"params", *_OF_TRAINING})
            if others:
                raise ConversionError(
                    f"got {', '.join(others)} beside the parameters, expected a model that has no more than "
                    "those"
                )
            tree = tree["params"]
        return dict(_leaves(tree))
    except ConversionError:
        raise
    except (msgpack.UnpackException, ValueError, TypeError, AttributeError, RecursionError) as error:
        raise ConversionError(
            f"got a damaged file, or none of Flax ({one_line(error)}); expected one of "
            "flax.serialization.to_bytes(params)"
        ) from error


def _leaves(tree: Mapping[str, Any], path: tuple[str, ...] = ()) -> Iterator[tuple[str, np.ndarray]]:
    for name, node in tree.items():
        if isinstance(node, dict):
            yield from _leaves(node, (*path, name))
        elif isinstance(node, np.ndarray):
            yield ".".join((*path, name)), node
        else:
            raise ConversionError(
                f"{'.'.join((*path, name))}: got {str(node)[:20]}, expected an array: parameters alone"
            )

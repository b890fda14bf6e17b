"""Parameters as Flax saves them with ``flax.serialization.to_bytes``: MessagePack, read without pickle."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from lstm_jax.errors import ConversionError, one_line
from lstm_jax.packages import required

# How Flax marks arrays, and NumPy's scalars, among the extensions of MessagePack.
_ARRAYS = (1, 3)
# What a training state has besides parameters, and no model needs.
_OF_TRAINING = ("step", "opt_state")


def read_msgpack(path: Path) -> dict[str, np.ndarray]:
    """The arrays of a file, by their paths with dots; of a whole training state, those of the parameters.

    Raises:
        ConversionError: if it is not such a file; if msgpack is missing.
    """
    msgpack = required("msgpack")
    required("ml_dtypes")  # which JAX brings: without it, NumPy has no bfloat16

    def array(code: int, content: bytes) -> np.ndarray:
        if code not in _ARRAYS:
            raise ConversionError(f"got an extension {code} of MessagePack, expected arrays alone")
        shape, dtype, values = msgpack.unpackb(content, raw=True, max_array_len=16, max_map_len=0)
        kind = np.dtype(dtype.decode())
        if kind.hasobject:
            raise ConversionError(f"got an array of {kind}, expected numbers")
        return np.frombuffer(values, kind).reshape(shape)

    try:
        # Flax writes lists as maps, and arrays as one extension each: nothing grows when it is unpacked.
        tree = msgpack.unpackb(path.read_bytes(), ext_hook=array, raw=False, max_array_len=0)
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

"""Files of ``flax.serialization.to_bytes``: parameters in MessagePack, read without pickle."""

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from lstm_jax.errors import ExchangeError, one_line
from lstm_jax.system.packages import required

# The MessagePack extensions of Flax for arrays and for NumPy scalars.
_ARRAYS = (1, 3)
# The parts of a training state that are ignored.
_OF_TRAINING = ("step", "opt_state")
# The most names of arrays and groups in a file, and in one group. A bidirectional layer has 50, and an
# optimizer a few times that.
_MOST_NAMES, _MOST_IN_A_GROUP = 20_000, 1000
# The accepted dtypes, by name or by NumPy's short form. `np.dtype` would accept other texts, too.
_NUMBERS = re.compile(rb"(b?float|u?int)[0-9]{1,3}|bool|[<>|=]?[fiu][0-9]{1,2}")


def read_msgpack(content: bytes) -> dict[str, np.ndarray]:
    """Read the parameters in the content of a file, by paths with dots.

    The file holds parameters, or a training state that contains them.

    Raises:
        ExchangeError: if it is not such a file; if msgpack is missing.
    """
    msgpack = required("msgpack")
    required("ml_dtypes")  # a dependency of JAX; it adds bfloat16 to NumPy

    names = 0

    def group(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
        nonlocal names
        names += 1 + len(pairs)
        if names > _MOST_NAMES:
            raise ExchangeError(f"got more than {_MOST_NAMES:,} names, expected those of an LSTM classifier")
        return dict(pairs)

    def array(code: int, content: bytes) -> np.ndarray:
        if code not in _ARRAYS:
            raise ExchangeError(f"got an extension {code} of MessagePack, expected only arrays")
        shape, dtype, values = msgpack.unpackb(content, raw=True, max_array_len=16, max_map_len=0)
        if not _NUMBERS.fullmatch(dtype):
            raise ExchangeError(f"got an array of {dtype.decode()[:40]!r}, expected floats or whole numbers")
        kind = np.dtype(dtype.decode())
        return np.frombuffer(values, kind).reshape(shape)

    try:
        # Flax writes lists as maps, and each array as one extension. Arrays do not grow when they are
        # unpacked. But a name takes a hundred times its size in the file, so the names are counted whenever a
        # group is complete.
        tree = msgpack.unpackb(
            content,
            ext_hook=array,
            object_pairs_hook=group,
            raw=False,
            max_array_len=0,
            max_map_len=_MOST_IN_A_GROUP,
        )
        if not isinstance(tree, dict):
            raise ExchangeError(f"got a single {type(tree).__name__}, expected a tree of parameters")
        while isinstance(tree.get("params"), dict):
            others = sorted(set(tree) - {"params", *_OF_TRAINING})
            if others:
                raise ExchangeError(
                    f"got {', '.join(others)} beside the parameters, expected a model with parameters only"
                )
            tree = tree["params"]
        return dict(_leaves(tree))
    except ExchangeError:
        raise
    except (msgpack.UnpackException, ValueError, TypeError, AttributeError, RecursionError) as error:
        raise ExchangeError(
            f"got a damaged file, or no Flax file ({one_line(error)}); expected the output of "
            "flax.serialization.to_bytes(params)"
        ) from error


def _leaves(tree: Mapping[str, Any], path: tuple[str, ...] = ()) -> Iterator[tuple[str, np.ndarray]]:
    for name, node in tree.items():
        if isinstance(node, dict):
            yield from _leaves(node, (*path, name))
        elif isinstance(node, np.ndarray):
            yield ".".join((*path, name)), node
        else:
            raise ExchangeError(
                f"{'.'.join((*path, name))}: got {str(node)[:20]}, expected an array of parameters"
            )

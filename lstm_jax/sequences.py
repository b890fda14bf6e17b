"""From an image to the sequence that the LSTM reads: the tasks of the literature.

    rows       28 steps of 28 pixels, from the top (the tutorial)
    columns    28 steps of 28 pixels, from the left
    pixels     784 steps of 1 pixel, row after row: sequential MNIST (Le, Jaitly & Hinton 2015)
    permuted   the same in a fixed random order: permuted sequential MNIST, where what is near in the
               image is far away in the sequence

Published results on the permuted task use different orders, and rarely say which. Two are common; see
`permutation`.
"""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int32


def as_sequence(
    images: Float[Array, "batch rows columns"], task: str, permutation_seed: int | str
) -> Float[Array, "batch time features"]:
    """Turn images into the sequences of a task.

    Args:
        images: row by row.
        task: ``rows``, ``columns``, ``pixels`` or ``permuted``.
        permutation_seed: the order of the pixels in ``permuted``, see `permutation`.

    Raises:
        ValueError: if there is no such task.
    """
    batch, rows, columns = images.shape
    if task == "rows":
        return images
    if task == "columns":
        return jnp.swapaxes(images, 1, 2)
    pixels = images.reshape(batch, rows * columns, 1)
    if task == "pixels":
        return pixels
    if task == "permuted":
        # The indices are constants within bounds: the device has nothing to check.
        return pixels.at[:, permutation(rows * columns, permutation_seed)].get(mode="promise_in_bounds")
    raise ValueError(f"task: got {task!r}, expected rows, columns, pixels or permuted")


def permutation(count: int, seed: int | str) -> Int32[np.ndarray, " count"]:
    """Return a fixed order of ``count`` pixels: step t of the sequence reads pixel ``permutation(...)[t]``.

    Args:
        count: number of pixels.
        seed: of ``numpy.random.RandomState(seed).permutation(count)``, whose numbers NumPy has promised
            not to change. Most papers that name their order have 92916. Or ``bit-reversal``: sorted by the
            number whose binary digits are those of the index read backwards, as in the published code of S4
            (Gu, Goel & Re 2021, https://arxiv.org/abs/2111.00396).

    Raises:
        ValueError: for another text.
    """
    if seed == "bit-reversal":
        digits = max(count - 1, 0).bit_length()
        order = sorted(range(count), key=lambda index: int(f"{index:0{digits}b}"[::-1], 2))
        return np.array(order, np.int32)
    if isinstance(seed, str):
        raise ValueError(f"permutation_seed: got {seed!r}, expected a whole number or 'bit-reversal'")
    return np.random.RandomState(seed).permutation(count).astype(np.int32)

"""Random changes of training images on the device: rotation, shift, scale, shear, elastic bends.

A pixel of a changed image is read from another place of the image, bilinearly between its pixels:

    changed[y, x] = image[Y(y, x), X(y, x)]            0 outside of the image
    (Y, X) = A (y, x) + t + bend(y, x)                 counted from the centre of the image

A undoes a random change of height and width, a shear and a rotation, in this order; t is a random shift.

The bend is the elastic distortion of Simard, Steinkraus & Platt (2003), "Best Practices for Convolutional
Neural Networks Applied to Visual Document Analysis": independent uniform noise for Y and for X, smoothed by
a Gaussian. They draw a number for each pixel. A Gaussian removes almost all that is finer than itself. So
one number for every 1.5 standard deviations down and across is enough: a tenth of the numbers, for a field
whose covariances are within 5 % of the variance of theirs. ``elastic`` is the root mean square of the bend in
pixels, the same at every pixel. Their "sigma 4, alpha 34" is 1.38 pixels: alpha / (2 sigma sqrt(3 pi)).

Such a bend is a sum of products of a function of y and a function of x, and so is the affine part:

    Y(y, x) = sum_ij  u_i(y) Z_ij v_j(x)               u = (1, y, bumps), v = (1, x, bumps)

which is two small matrix products.

Reading 4 pixels for each pixel takes most of the time. On a CPU the code below adds two fifths to a training
step with the native kernel (`docs/augmentation.md`). Three things keep it from more. It

- packs the 4 into one word, so that there is one read;
- works in the order (rows, batch, columns) in which the LSTM reads, so that nothing is transposed;
- writes what is expensive to compute twice where XLA cannot fuse it into the loop of its reader: after a
  matrix product, or in a loop of its own.
"""

import functools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.random import threefry_2x32
from jaxtyping import Array, Float, Float32, Int, Key, UInt8, UInt32

from lstm_jax.config import Augmentation

# Standard deviations from one bump of the elastic field to the next, and from the edge to the outermost.
SPACING = 1.5


class Changes(NamedTuple):
    """The change of each image of a batch. Pairs are vertical and horizontal.

    Attributes:
        angle: of the rotation, in radians.
        shear: pixels to the side per pixel of height.
        size: factors of height and width.
        shift: pixels.
        bends: strength of each bump, by its place down and across, in pixels; none without elastic.
    """

    angle: Float32[Array, " batch"]
    shear: Float32[Array, " batch"]
    size: Float32[Array, "2 batch"]
    shift: Float32[Array, "2 batch"]
    bends: Float32[Array, "2 down across batch"]


def augment(
    key: Key[Array, ""],
    images: UInt8[Array, "batch rows columns"],
    index: Int[Array, " batch"],
    settings: Augmentation,
) -> Float32[Array, "batch rows columns"]:
    """Change each image at random.

    Args:
        key: of this step. The change of an example follows from it and from the example's index alone. How
            a batch is spread over devices changes the rounding only.
        images: grey levels 0 to 255; at least 2 rows and columns.
        index: the place of each image in the whole batch.
        settings: the strength of each change.

    Returns:
        Grey levels from 0 to 255, not whole numbers in general; what is outside of an image is 0.
    """
    if not settings.is_active:
        return images.astype(jnp.float32)
    _, rows, columns = images.shape
    changes = draw_changes(key, index, settings, rows, columns)
    y, x = places(changes, settings, rows, columns)
    return jnp.swapaxes(read(images, y, x), 0, 1)


def draw_changes(
    key: Key[Array, ""], index: Int[Array, " batch"], settings: Augmentation, rows: int, columns: int
) -> Changes:
    """Draw the change of each image.

    The random numbers are the Threefry hash (JAX's own generator) of (index, 0), (index, 1), ...: one call
    for the whole batch. A key folded for each example would take one call more, which is a loop on a CPU.
    """
    down, across = (len(_bumps(settings, size)) for size in (rows, columns))
    counters = jnp.broadcast_arrays(
        index.astype(jnp.uint32)[None, :], jnp.arange(3 + down * across, dtype=jnp.uint32)[:, None]
    )
    # The first two words: all of a Threefry key, half of other kinds of keys.
    bits = threefry_2x32(jax.random.key_data(key)[:2], jnp.stack(counters))
    # From -1 to 1, by way of signed integers, which processors convert in one instruction.
    uniform = jax.lax.bitcast_convert_type(bits, jnp.int32).astype(jnp.float32) * 2.0**-31
    # Uniform numbers from -1 to 1 have a root mean square of 1 / sqrt(3).
    bends = uniform[:, 3:] * (settings.elastic * math.sqrt(3.0))
    return Changes(
        angle=uniform[0, 0] * math.radians(settings.rotation),
        shear=uniform[1, 0] * settings.shear,
        size=1 + uniform[:, 1] * settings.scale,
        shift=uniform[:, 2] * settings.shift,
        bends=bends.reshape(2, down, across, len(index)),
    )


def places(
    changes: Changes, settings: Augmentation, rows: int, columns: int
) -> tuple[Float32[Array, "rows batch columns"], Float32[Array, "rows batch columns"]]:
    """Compute where each pixel of the changed images is read: Y and X, counted from the first pixel."""
    height, width = changes.size
    cos, sin = jnp.cos(changes.angle), jnp.sin(changes.angle)
    shear, zero = changes.shear, jnp.zeros_like(cos)
    # Of 1 and y (down), and of 1 and x (across).
    vertical = [[changes.shift[0] + (rows - 1) / 2, sin / height], [cos / height, zero]]
    horizontal = [
        [changes.shift[1] + (columns - 1) / 2, (cos - shear * sin) / width],
        [(-sin - shear * cos) / width, zero],
    ]
    u, v = _basis(settings, rows), _basis(settings, columns)

    def field(affine: list[list[Array]], bends: Float32[Array, "down across batch"]) -> Array:
        z = jnp.stack([jnp.stack(row) for row in affine])
        down, across, _ = bends.shape
        z = jnp.pad(z, ((0, down), (0, across), (0, 0))) + jnp.pad(bends, ((2, 0), (2, 0), (0, 0)))
        # TPUs, and GPUs if asked to, round factors to 8 or 11 bits: places would be off by tenths of a
        # pixel.
        partial = jnp.einsum("iy,ijb->ybj", u, z, precision=jax.lax.Precision.HIGHEST)
        return jnp.einsum("ybj,jx->ybx", partial, v, precision=jax.lax.Precision.HIGHEST)

    return field(vertical, changes.bends[0]), field(horizontal, changes.bends[1])


def _basis(settings: Augmentation, size: int) -> Float32[np.ndarray, "terms size"]:
    """Compute 1, the distance from the centre, and the bumps, at each pixel of an axis."""
    position = _positions(size)
    return np.concatenate([[np.ones(size), position], _bumps(settings, size)]).astype(np.float32)


def _bumps(settings: Augmentation, size: int) -> Float[np.ndarray, "bumps size"]:
    """Compute Gaussians along an axis, scaled so that their squares add up to 1 at each pixel."""
    if not settings.elastic:
        return np.zeros((0, size))
    distance = SPACING * settings.smoothness
    end = (size - 1) / 2 + distance
    centres = np.linspace(-end, end, math.ceil(2 * end / distance) + 1)
    bumps = np.exp(-(((_positions(size) - centres[:, None]) / settings.smoothness) ** 2) / 2)
    return bumps / np.linalg.norm(bumps, axis=0)


def _positions(size: int) -> Float[np.ndarray, " size"]:
    return np.arange(size) - (size - 1) / 2


def read(
    images: UInt8[Array, "batch rows columns"],
    y: Float32[Array, "height batch width"],
    x: Float32[Array, "height batch width"],
) -> Float32[Array, "height batch width"]:
    """Read images bilinearly at any places. Beyond the edge, values fall to 0 within a pixel."""
    batch, rows, columns = images.shape
    # The upper left of the four pixels that are read for each place. Near an edge these may be further away
    # than the nearest four; their weights are 0 then.
    top = jnp.clip(y.astype(jnp.int32), 0, rows - 2)
    left = jnp.clip(x.astype(jnp.int32), 0, columns - 2)
    first = jnp.arange(batch, dtype=jnp.int32)[None, :, None] * (rows * columns)
    # Unsigned: else JAX adds a test for indices from the end, which makes the loop half as fast.
    place = (first + top * columns + left).astype(jnp.uint32)
    four = _packed(images).at[place].get(mode="promise_in_bounds")

    def grey(byte: int) -> Float32[Array, "height batch width"]:
        return ((four >> (8 * byte)) & 255).astype(jnp.int32).astype(jnp.float32)

    def weight(distance: Float32[Array, "height batch width"]) -> Float32[Array, "height batch width"]:
        return jnp.maximum(0.0, 1.0 - jnp.abs(distance))

    below, right = y - top.astype(jnp.float32), x - left.astype(jnp.float32)
    upper = weight(right) * grey(0) + weight(right - 1) * grey(1)
    lower = weight(right) * grey(2) + weight(right - 1) * grey(3)
    return weight(below) * upper + weight(below - 1) * lower


def _packed(images: UInt8[Array, "batch rows columns"]) -> UInt32[Array, " places"]:
    """Pack each pixel, its right neighbour, the one below, and the right neighbour of that into a word.

    The last pixels have no word: their neighbours would be beyond the end. This is a loop because XLA keeps
    what a loop reads and writes in memory. Without a loop XLA would fuse the packing into the reading and
    pack four pixels again for each read, which costs more than all else here. The loop has two rounds of
    half the places each, because XLA removes a loop of one round.
    """
    columns = images.shape[2]
    flat, places = images.reshape(-1), images.size - columns - 1
    half = (places + 1) // 2  # with an odd number, the second half begins one place earlier

    def add(index: Int[Array, ""], packed: UInt32[Array, " places"]) -> UInt32[Array, " places"]:
        start = jnp.minimum(index * half, places - half)
        window = jax.lax.dynamic_slice(flat, (start,), (half + columns + 1,)).astype(jnp.uint32)
        four = (window[offset : offset + half] for offset in (0, 1, columns, columns + 1))
        words = functools.reduce(jnp.bitwise_or, (pixel << 8 * byte for byte, pixel in enumerate(four)))
        return jax.lax.dynamic_update_slice(packed, words, (start,))

    return jax.lax.fori_loop(0, 2, add, jnp.zeros_like(flat, jnp.uint32, shape=places))

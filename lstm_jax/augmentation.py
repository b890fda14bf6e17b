"""Random changes of training images, on the device: turned, moved, scaled, sheared, and bent."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Float32, Int, Key, UInt8, UInt32


@dataclasses.dataclass(frozen=True)
class Augmentation:
    """How strongly images are changed; all zeros leave them as they are.

    Each number of an example is drawn uniformly from minus to plus the value given here.

    Attributes:
        rotation: degrees, below 90.
        shift: pixels, vertically and horizontally.
        scale: share by which height and width grow or shrink, each for itself; below 1.
        shear: sideways pixels per pixel of height.
        elastic: root mean square of the elastic displacement, vertically and horizontally, in pixels.
        smoothness: how far the elastic displacement reaches: the standard deviation of the Gaussian that
            smooths it, in pixels.
    """

    rotation: float = 0.0
    shift: float = 0.0
    scale: float = 0.0
    shear: float = 0.0
    elastic: float = 0.0
    smoothness: float = 4.0

    @property
    def is_active(self) -> bool:
        """Whether anything is changed at all."""
        return any((self.rotation, self.shift, self.scale, self.shear, self.elastic))


def augment(
    key: Key[Array, ""],
    images: UInt8[Array, "batch rows columns"],
    index: Int[Array, " batch"],
    settings: Augmentation,
) -> Float32[Array, "batch rows columns"]:
    """Change each image in its own random way.

    Args:
        key: of this step; what an example gets follows from it and from the example's index alone, and
            so not from how a batch is spread over devices.
        images: grey levels 0 to 255.
        index: the place of each image in the whole batch.
        settings: what is changed, and how strongly.

    Returns:
        Grey levels from 0 to 255, no longer whole numbers; what comes from outside of an image is 0.
    """
    if not settings.is_active:
        return images.astype(jnp.float32)
    rows, columns = images.shape[1:]
    basis = _basis(settings, rows, columns)
    draws = _draws(key, index, 6 + 2 * (len(basis) - 3))
    vertical, horizontal = _coefficients(draws, settings)
    shape = images.shape
    return _sample(images, (vertical @ basis).reshape(shape), (horizontal @ basis).reshape(shape))


def _draws(key: Key[Array, ""], index: Int[Array, " batch"], count: int) -> Float32[Array, "batch count"]:
    def bits(index: Int[Array, ""]) -> UInt32[Array, " count"]:
        return jax.random.bits(jax.random.fold_in(key, index), (count,))

    # Through int32, whose conversion to float32 is a single instruction on every processor.
    return jax.vmap(bits)(index).astype(jnp.int32).astype(jnp.float32) * 2.0**-31


def _basis(settings: Augmentation, rows: int, columns: int) -> Float32[np.ndarray, "terms pixels"]:
    """What displacements are made of: a constant, y, x and, if bent, products of Gaussians."""
    y, x = np.mgrid[:rows, :columns].astype(np.float32)
    terms = [np.ones_like(y), y - (rows - 1) / 2, x - (columns - 1) / 2]
    if settings.elastic:
        down, across = (_bumps(size, settings.smoothness) for size in (rows, columns))
        terms += [a[:, None] * b for a in down for b in across]
    return np.stack(terms).reshape(len(terms), -1).astype(np.float32)


def _bumps(size: int, sigma: float) -> Float[np.ndarray, "bumps size"]:
    margin = 1.5 * sigma
    count = math.ceil((size - 1 + 2 * margin) / (1.5 * sigma)) + 1
    centres = np.linspace(-margin, size - 1 + margin, count)
    bumps = np.exp(-((np.arange(size) - centres[:, None]) ** 2) / (2 * sigma**2))
    return bumps / np.linalg.norm(bumps, axis=0)


def _coefficients(
    draws: Float32[Array, "batch count"], settings: Augmentation
) -> tuple[Float32[Array, "batch terms"], Float32[Array, "batch terms"]]:
    """Of the terms of `_basis`: the row, and the column, to read for each pixel, from the centre."""
    angle = draws[:, 0] * math.radians(settings.rotation)
    shift_y, shift_x = draws[:, 1] * settings.shift, draws[:, 2] * settings.shift
    height, width = 1 + draws[:, 3] * settings.scale, 1 + draws[:, 4] * settings.scale
    shear = draws[:, 5] * settings.shear
    cos, sin = jnp.cos(angle), jnp.sin(angle)
    vertical = jnp.stack([shift_y, cos / height, sin / height], axis=1)
    horizontal = jnp.stack([shift_x, (-sin - shear * cos) / width, (cos - shear * sin) / width], axis=1)
    # Uniform numbers from -1 to 1 have a mean square of a third.
    bends = draws[:, 6:].reshape(len(draws), 2, -1) * (settings.elastic * math.sqrt(3.0))
    return (
        jnp.concatenate([vertical, bends[:, 0]], axis=1),
        jnp.concatenate([horizontal, bends[:, 1]], axis=1),
    )


def _sample(
    images: UInt8[Array, "batch rows columns"],
    y: Float32[Array, "batch rows columns"],
    x: Float32[Array, "batch rows columns"],
) -> Float32[Array, "batch rows columns"]:
    """Read images bilinearly at (y, x), counted from their centres."""
    batch, rows, columns = images.shape
    y = jnp.clip(y + (rows - 1) / 2, -1, rows)
    x = jnp.clip(x + (columns - 1) / 2, -1, columns)
    top, left = (jnp.minimum(jnp.floor(y), rows - 1), jnp.minimum(jnp.floor(x), columns - 1))
    down, right = y - top, x - left
    padded = jnp.pad(images, ((0, 0), (1, 1), (1, 1))).astype(jnp.uint32)
    packed = (
        padded[:, :-1, :-1] | padded[:, :-1, 1:] << 8 | padded[:, 1:, :-1] << 16 | padded[:, 1:, 1:] << 24
    )
    first = jnp.arange(batch, dtype=jnp.int32)[:, None, None] * ((rows + 1) * (columns + 1))
    place = first + (top.astype(jnp.int32) + 1) * (columns + 1) + left.astype(jnp.int32) + 1
    four = packed.reshape(-1).at[place].get(mode="promise_in_bounds")

    def pixel(byte: int) -> Float32[Array, "batch rows columns"]:
        return ((four >> (8 * byte)) & 255).astype(jnp.int32).astype(jnp.float32)

    upper = pixel(0) + (pixel(1) - pixel(0)) * right
    lower = pixel(2) + (pixel(3) - pixel(2)) * right
    return upper + (lower - upper) * down

"""From ink to an image like those of MNIST.

The MNIST authors scaled each digit to fit a 20 x 20 box, kept its aspect ratio, and smoothed it, which
gives grey levels. They placed the box in 28 x 28 pixels by the digit's centre of mass (LeCun, Bottou,
Bengio and Haffner 1998, "Gradient-based learning applied to document recognition", section III.A).
`normalise_digit` does the same. It is all that a drawing on a clean canvas needs; ink.py makes such a drawing
of any other picture.
"""

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image

from lstm_jax.errors import ImageError

SIDE = 28  # the side of an MNIST image
BOX = 20  # the longer side of a digit in it
# The pixel of the centre of mass, counted from 0. Over the 60,000 training images the mean of the centre
# is (14.00, 14.01) and its range 13.48 to 14.50, because MNIST moves digits by whole pixels.
CENTRE = 14

# Limits of what counts as ink when the extent of the digit is measured. Noise and JPEG artefacts stay below
# INK_LEVEL, and dust below STRAY_INK of all ink. 99.9 % of the digits of MNIST keep their 20 pixels.
INK_LEVEL = 0.2
STRAY_INK = 0.002


def normalise_digit(ink: Float[np.ndarray, "height width"]) -> UInt8[np.ndarray, "28 28"]:
    """Fit the ink, from 0 to 1, into 20 x 20 pixels, and centre it by its mass in 28 x 28."""
    box = _fit(ink)
    canvas = np.zeros((SIDE, SIDE), np.uint8)
    positions = np.arange(BOX)
    # A box that would leave the image stops at its edge. Only stray marks are that lopsided, not digits.
    top, left = (
        int(np.clip(np.rint(CENTRE - positions @ mass / mass.sum()), 0, SIDE - BOX))
        for mass in (box.sum(axis=1), box.sum(axis=0))
    )
    # Averaging makes thin strokes paler. In MNIST the brightest pixel of every image is 254 or 255.
    canvas[top : top + BOX, left : left + BOX] = np.rint(255 * box / box.max())
    return canvas


def _fit(ink: Float[np.ndarray, "height width"]) -> Float[np.ndarray, "20 20"]:
    """Cut out the square around the digit, and scale it to 20 x 20 by averaging."""
    digit = np.where(ink > INK_LEVEL, ink, 0)
    if not digit.any():
        raise ImageError("no digit found: there is no ink")
    top, bottom = _extent(digit.sum(axis=1))
    left, right = _extent(digit.sum(axis=0))
    side = max(bottom - top, right - left)
    top -= (side - (bottom - top)) // 2
    left -= (side - (right - left)) // 2
    # The square may reach beyond the picture, by less than its own side.
    padded = np.pad(ink, side)
    square = padded[top + side : top + 2 * side, left + side : left + 2 * side]
    box = Image.fromarray(square.astype(np.float32)).resize((BOX, BOX), Image.Resampling.BOX)
    return np.asarray(box)


def _extent(mass: Float[np.ndarray, " length"]) -> tuple[int, int]:
    """Return the first position of the digit and the one after its last, without `STRAY_INK` at the ends."""
    share = np.cumsum(mass) / mass.sum()
    first = np.searchsorted(share, STRAY_INK, side="right")
    last = np.searchsorted(share, 1 - STRAY_INK, side="left")
    return int(first), int(last) + 1

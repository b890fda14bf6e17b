"""A picture of a digit, from paper, screen or camera, read as an MNIST image.

1. `read_colours` (decoding.py): from a file to colours;
2. `inks_of` (ink.py): from colours to ink, which is what a pen left on the paper;
3. `normalise_digit` (images.py): from ink to what MNIST would have made of it.

Of the MNIST test images saved as PNG, in either polarity, 99.5 % come back unchanged to one grey
level. In the rest, an edge moves because its outermost pixels are too faint to count as ink.

docs/pictures-of-digits.md shows every step, and how well each kind of picture is read.
"""

import os
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image

from lstm_jax.data.decoding import read_colours
from lstm_jax.data.images import normalise_digit
from lstm_jax.data.ink import inks_of
from lstm_jax.errors import ImageError

# Of `side_by_side`, in pixels: 8 for each of an MNIST image. A strip is as wide as two.
SHOWN_HEIGHT, SHOWN_WIDTH, SHOWN_GAP = 224, 448, 8


class Picture(NamedTuple):
    """What was read from a file.

    Attributes:
        colours: red, green and blue from 0 to 1.
        inks: the ink of each digit in it, from left to right, from 0 to 1.
        digits: each as an MNIST image: white ink on black.
    """

    colours: Float[np.ndarray, "height width 3"]
    inks: list[Float[np.ndarray, "_ _"]]
    digits: list[UInt8[np.ndarray, "28 28"]]


def read_picture(path: str | os.PathLike[str]) -> Picture:
    """Read an image file of any format, size and colours, and find the digits in it: mostly one.

    Raises:
        ImageError: if it cannot be read, or shows no digit, or more marks than a number has digits.
    """
    try:
        colours = read_colours(path)
        inks = inks_of(colours)
        return Picture(colours, inks, [normalise_digit(ink) for ink in inks])
    except ImageError as error:
        raise ImageError(f"{os.fspath(path)}: {error}") from error


def read_digit(path: str | os.PathLike[str]) -> UInt8[np.ndarray, "28 28"]:
    """Read an image file of one digit as an MNIST image: white ink on black.

    Raises:
        ImageError: as `read_picture`, or if there are several digits.
    """
    digits = read_picture(path).digits
    if len(digits) > 1:
        raise ImageError(f"{os.fspath(path)}: {len(digits)} digits, expected one; crop the picture to it")
    return digits[0]


def side_by_side(picture: Picture) -> Image.Image:
    """Draw a picture, its ink, and the MNIST images, from left to right; strips are lower than the others."""
    parts = [picture.colours * 255, *(255 * ink for ink in picture.inks), *picture.digits]
    panels = [_panel(np.asarray(part).astype(np.uint8)) for part in parts]
    width = sum(panel.width for panel in panels) + SHOWN_GAP * (len(panels) - 1)
    sheet = Image.new("RGB", (width, SHOWN_HEIGHT), "grey")
    left = 0
    for panel in panels:
        sheet.paste(panel, (left, (SHOWN_HEIGHT - panel.height) // 2))
        left += panel.width + SHOWN_GAP
    return sheet


def _panel(pixels: UInt8[np.ndarray, "height width ..."]) -> Image.Image:
    image = Image.fromarray(pixels).convert("RGB")
    scale = min(SHOWN_HEIGHT / image.height, SHOWN_WIDTH / image.width)
    # Enlarged pixels stay squares.
    method = Image.Resampling.NEAREST if scale > 1 else Image.Resampling.BOX
    return image.resize((max(1, round(scale * image.width)), max(1, round(scale * image.height))), method)

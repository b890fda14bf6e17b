"""The conversion of a picture of a digit to an image like those of MNIST.

The MNIST authors scaled each digit to fit a 20 x 20 box, kept its aspect ratio, and smoothed it, which
gives grey levels. They placed the box in 28 x 28 pixels by the digit's centre of mass (LeCun, Bottou,
Bengio and Haffner 1998, "Gradient-based learning applied to document recognition", section III.A). Three
steps do the same to a file:

1. `read_colours`: decode the file, turn it upright, and put a colour behind transparent parts;
2. `ink_of`: measure how much each pixel departs from the background, from 0 to 1;
3. `normalise_digit`: fit, centre, and scale to white ink on black.

Of the MNIST test images saved as PNG, in either polarity, 99.5 % come back unchanged to one grey
level. In the rest, an edge moves because its outermost pixels are too faint to count as ink.

Known limits: the picture must show one digit on one background that reaches the edges (no desk
around the paper, no ruled lines). The light may fall off evenly across it, but a hard shadow counts as
ink. Thin pen strokes stay thinner than those of MNIST.
"""

import os
import struct
import warnings

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image, ImageOps, UnidentifiedImageError

from lstm_jax.errors import ImageError, one_line
from lstm_jax.system.files import open_file

SIDE = 28  # the side of an MNIST image
BOX = 20  # the longer side of a digit in it
# The pixel of the centre of mass, counted from 0. Over the 60,000 training images the mean of the centre
# is (14.00, 14.01) and its range 13.48 to 14.50, because MNIST moves digits by whole pixels.
CENTRE = 14

MOST_PIXELS = 65_000_000  # enough for the pictures of phones; each takes 4 bytes of memory
LARGEST_SIDE = 560  # larger pictures are averaged down, which is faster and removes sensor noise
LOWEST_CONTRAST = 0.1  # as a share of that from black to white; below it, a picture is blank
# Limits of what counts as ink when the extent of the digit is measured. Noise and JPEG artefacts stay below
# INK_LEVEL, and dust below STRAY_INK of all ink. 99.9 % of the digits of MNIST keep their 20 pixels.
INK_LEVEL = 0.2
STRAY_INK = 0.002


def read_digit(path: str | os.PathLike[str]) -> UInt8[np.ndarray, "28 28"]:
    """Read a PNG or JPEG file, of any size and colours, as an MNIST image: white ink on black."""
    try:
        return normalise_digit(ink_of(read_colours(path)))
    except ImageError as error:
        raise ImageError(f"{os.fspath(path)}: {error}") from error


def read_colours(path: str | os.PathLike[str]) -> Float[np.ndarray, "height width 3"]:
    """Decode a file into red, green and blue from 0 to 1, upright, at most `LARGEST_SIDE` high and wide."""
    try:
        # Pillow warns of pictures of 90 to 180 million pixels, which we refuse. Its other warnings are about
        # metadata.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with open_file(path) as content, Image.open(content, formats=("PNG", "JPEG")) as image:
                if image.width * image.height > MOST_PIXELS:  # as declared, before it is unpacked
                    raise Image.DecompressionBombError
                ImageOps.exif_transpose(image, in_place=True)
                small = _as_small_rgba(image)
    except FileNotFoundError as error:
        raise ImageError("no such file, expected a PNG or JPEG image") from error
    except UnidentifiedImageError as error:
        raise ImageError("not a PNG or JPEG image, or badly damaged; convert it to PNG or JPEG") from error
    except (Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
        raise ImageError(
            f"too many pixels, expected at most {MOST_PIXELS:,}; crop or shrink the image"
        ) from error
    # The decoders of Pillow raise any of these for damaged files.
    except (OSError, SyntaxError, ValueError, TypeError, LookupError, EOFError, struct.error) as error:
        raise ImageError(f"cannot be read as a PNG or JPEG image ({one_line(error)})") from error
    return _without_transparency(np.asarray(small) / 255)


def ink_of(colours: Float[np.ndarray, "height width 3"]) -> Float[np.ndarray, "height width"]:
    """Compute how much each pixel departs from the background towards the digit's colour, from 0 to 1."""
    background = _background_of(colours)
    departure = colours - background
    # The contrast of the strokes is proportional to the light, so divide by it. A background that is black
    # somewhere does not show how strong the light is.
    light = background.mean(axis=2, keepdims=True)
    if light.min() > 0.1:
        departure = departure * (light.mean() / light)
    # The axis in colour space along which the picture departs most from its background (the first
    # principal component). For grey pictures it is the grey axis; for red on green it is red-green.
    _, axes = np.linalg.eigh(np.einsum("hwi,hwj->ij", departure, departure))
    ink = departure @ axes[:, -1] / np.sqrt(3)  # black and white are sqrt(3) apart
    # An axis has no direction. Choose the one in which the sum of cubes is positive, because the departures
    # of the digit are strong. A plain sum would follow the many slight departures of an uneven background.
    if np.sum(ink**3) < 0:
        ink = -ink
    # The border shows noise and unevenness. Up to about twice its standard deviation is not ink.
    floor = 3 * np.median(np.abs(_border_of(ink)))
    strongest = ink.max()
    if strongest < LOWEST_CONTRAST:
        raise ImageError(
            f"no digit found: the image is nearly one colour (contrast {strongest:.0%}, "
            f"expected at least {LOWEST_CONTRAST:.0%})"
        )
    if strongest < 3 * floor:
        raise ImageError(
            "no digit found: nothing stands out from what the border of the image shows; "
            "expected one digit on an even background"
        )
    return np.asarray(np.clip((ink - floor) / (strongest - floor), 0, 1))


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


def _as_small_rgba(image: Image.Image) -> Image.Image:
    """Convert an image to RGBA, at most `LARGEST_SIDE` high and wide."""
    if image.mode.startswith("I"):  # 16-bit grey, which the conversion of Pillow would clip at 255
        image = Image.fromarray((np.asarray(image) // 256).astype(np.uint8))
    if image.mode in ("1", "L", "RGB"):
        # In these modes one colour is declared transparent. It is that of the background, so keep it.
        image.info.pop("transparency", None)
    # Where Pillow can, average in the original mode: it takes less memory than RGBA.
    if image.mode == "1":
        image = image.convert("L")
    elif image.mode not in ("L", "RGB", "RGBA"):
        image = image.convert("RGBA")
    # No reducing gap: with one, the JPEG decoder reduces coarsely first, which changes colours slightly.
    image.thumbnail((LARGEST_SIDE, LARGEST_SIDE), Image.Resampling.BOX, reducing_gap=None)
    return image if image.mode == "RGBA" else image.convert("RGBA")


def _without_transparency(rgba: Float[np.ndarray, "height width 4"]) -> Float[np.ndarray, "height width 3"]:
    """Put one colour behind the picture: that of its border, or else black or white, unlike the strokes."""
    colour, alpha = rgba[..., :3], rgba[..., 3:]
    border = _border_of(rgba)
    opaque = border[border[:, 3] > 0.5]
    if 2 * len(opaque) >= len(border):
        behind = np.median(opaque[:, :3], axis=0)  # an opaque picture, perhaps with rounded corners
    else:
        lightness = np.sum(alpha * colour) / max(3 * np.sum(alpha), 1e-9)
        behind = np.full(3, 0.0 if lightness > 0.5 else 1.0)
    return np.asarray(alpha * colour + (1 - alpha) * behind)


def _border_of(picture: Float[np.ndarray, "height width ..."]) -> Float[np.ndarray, "length ..."]:
    return np.concatenate([picture[0], picture[-1], picture[:, 0], picture[:, -1]])


def _background_of(colours: Float[np.ndarray, "height width 3"]) -> Float[np.ndarray, "height width 3"]:
    """Estimate the background: one colour, or an even gradient if that fits the border better.

    Because of the medians, the digit may cover the border up to less than half of it.
    """
    height, width, _ = colours.shape
    flat = np.broadcast_to(np.median(_border_of(colours), axis=0), colours.shape)

    top, bottom, left, right = (
        np.median(edge, axis=0) for edge in (colours[0], colours[-1], colours[:, 0], colours[:, -1])
    )
    down = np.linspace(-0.5, 0.5, height)[:, None, None]
    across = np.linspace(-0.5, 0.5, width)[None, :, None]
    tilted = (top + bottom + left + right) / 4 + down * (bottom - top) + across * (right - left)

    def misfit(background: Float[np.ndarray, "height width 3"]) -> float:
        return float(np.median(np.abs(_border_of(colours - background))))

    return tilted if misfit(tilted) < misfit(flat) else flat


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

"""From a file to colours: decode it, turn it upright, and put a colour behind transparent parts."""

import os
import struct
import warnings

import numpy as np
from jaxtyping import Float, Num, Shaped, UInt8
from PIL import Image, ImageOps, UnidentifiedImageError

from lstm_jax.errors import ImageError, one_line
from lstm_jax.system.files import open_file

MOST_PIXELS = 65_000_000  # enough for the pictures of phones; each takes 4 bytes of memory
LARGEST_SIDE = 560  # larger pictures are averaged down, which is faster and removes sensor noise
# Pillow hands these to another program (Ghostscript), which runs what is written in them.
PROGRAMS = ("EPS",)


def read_colours(path: str | os.PathLike[str]) -> Float[np.ndarray, "height width 3"]:
    """Decode a file into red, green and blue from 0 to 1, upright, at most `LARGEST_SIDE` high and wide.

    Of a file with several pictures, as an animation, the first is taken.

    Raises:
        ImageError: if it is no picture that Pillow reads, or is damaged, or has more than `MOST_PIXELS`.
    """
    try:
        # Pillow warns of pictures of 90 to 180 million pixels, which we refuse. Its other warnings are about
        # metadata.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with open_file(path) as content, Image.open(content, formats=_formats()) as image:
                if image.width * image.height > MOST_PIXELS:  # as declared, before it is unpacked
                    raise Image.DecompressionBombError
                ImageOps.exif_transpose(image, in_place=True)
                small = _as_small_rgba(image)
    except FileNotFoundError as error:
        raise ImageError("no such file, expected an image (PNG, JPEG or another)") from error
    except UnidentifiedImageError as error:
        raise ImageError(
            "not an image that can be read, or badly damaged; convert it to PNG or JPEG"
        ) from error
    except (Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
        raise ImageError(
            f"too many pixels, expected at most {MOST_PIXELS:,}; crop or shrink the image"
        ) from error
    # The decoders of Pillow raise any of these for damaged files.
    except (OSError, SyntaxError, ValueError, TypeError, LookupError, EOFError, struct.error) as error:
        raise ImageError(f"cannot be read as an image ({one_line(error)})") from error
    return _without_transparency(np.asarray(small) / 255)


def border_of(picture: Shaped[np.ndarray, "height width ..."]) -> Shaped[np.ndarray, "length ..."]:
    """Return the outermost pixels; those in the corners twice."""
    return np.concatenate([picture[0], picture[-1], picture[:, 0], picture[:, -1]])


def _formats() -> tuple[str, ...]:
    """Return the formats of files that this Pillow reads by itself."""
    Image.init()
    return tuple(name for name in Image.ID if name not in PROGRAMS)


def _as_small_rgba(image: Image.Image) -> Image.Image:
    """Convert an image to RGBA, at most `LARGEST_SIDE` high and wide."""
    if image.mode.startswith(("I", "F")):  # grey of more than 8 bits, which Pillow would clip at 255
        image = Image.fromarray(_as_8_bits(np.asarray(image)))
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


def _as_8_bits(values: Num[np.ndarray, "height width"]) -> UInt8[np.ndarray, "height width"]:
    """Bring whole numbers or fractions to 0 to 255.

    A camera or scanner of 10 or 12 bits stores its numbers in 16, so that white is 1,023 or 4,095. No file
    tells; so white is the largest number of as many bits as the largest pixel has, at least 8.
    """
    if np.issubdtype(values.dtype, np.floating):
        finite = np.nan_to_num(values, posinf=0, neginf=0)
        values = finite * (65_535 / max(float(finite.max()), 1e-9))
    bits = max(8, int(values.max()).bit_length())
    return (np.clip(values, 0, None) // 2 ** (bits - 8)).astype(np.uint8)


def _without_transparency(rgba: Float[np.ndarray, "height width 4"]) -> Float[np.ndarray, "height width 3"]:
    """Put one colour behind the picture: that of its border, or else black or white, unlike the strokes."""
    colour, alpha = rgba[..., :3], rgba[..., 3:]
    border = border_of(rgba)
    opaque = border[border[:, 3] > 0.5]
    if 2 * len(opaque) >= len(border):
        behind = np.median(opaque[:, :3], axis=0)  # an opaque picture, perhaps with rounded corners
    else:
        lightness = np.sum(alpha * colour) / max(3 * np.sum(alpha), 1e-9)
        behind = np.full(3, 0.0 if lightness > 0.5 else 1.0)
    return np.asarray(alpha * colour + (1 - alpha) * behind)

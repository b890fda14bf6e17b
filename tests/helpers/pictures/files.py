"""Files of all formats, depths, colour modes and turns, with and without transparency."""

from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from tests.helpers.pictures.drawing import (
    BLACK,
    PAPER,
    PEN,
    WHITE,
    Colour,
    Colours,
    Digit,
    Drawn,
    Generator,
    Ink,
    as_image,
    canvas,
    ink_of,
    inked,
    on_sheet,
)


def jpeg_q10(digit: Digit, rng: Generator) -> Drawn:
    return _half_megapixel(digit, rng), {"format": "JPEG", "quality": 10}


def jpeg_q3(digit: Digit, rng: Generator) -> Drawn:
    return _half_megapixel(digit, rng), {"format": "JPEG", "quality": 3}


def _half_megapixel(digit: Digit, rng: Generator) -> Image.Image:
    return as_image(inked(on_sheet(digit, rng, 500, 500, side=320), WHITE, BLACK))


def jpeg_tiny_q20(digit: Digit, rng: Generator) -> Drawn:
    return canvas(digit, side=56), {"format": "JPEG", "quality": 20}


def jpeg_cmyk(digit: Digit, rng: Generator) -> Drawn:
    return canvas(digit).convert("CMYK"), {"format": "JPEG", "quality": 90}


def jpeg_cmyk_red(digit: Digit, rng: Generator) -> Drawn:
    red = canvas(digit, paper=(1, 1, 0.9), pen=(0.8, 0.1, 0.1))
    return red.convert("CMYK"), {"format": "JPEG", "quality": 90}


def exif_3(digit: Digit, rng: Generator) -> Drawn:
    return _turned(digit, rng, 3, Image.Transpose.ROTATE_180, format="JPEG", quality=85)


def exif_6(digit: Digit, rng: Generator) -> Drawn:
    return _turned(digit, rng, 6, Image.Transpose.ROTATE_90, format="JPEG", quality=85)


def exif_8(digit: Digit, rng: Generator) -> Drawn:
    return _turned(digit, rng, 8, Image.Transpose.ROTATE_270, format="JPEG", quality=85)


def exif_6_png(digit: Digit, rng: Generator) -> Drawn:
    return _turned(digit, rng, 6, Image.Transpose.ROTATE_90)


def _turned(
    digit: Digit, rng: Generator, orientation: int, turn: Image.Transpose, **options: Any
) -> tuple[Image.Image, dict[str, Any]]:
    """A turned picture whose EXIF data say how to turn it back."""
    exif = Image.Exif()
    exif[0x112] = orientation
    upright = as_image(inked(on_sheet(digit, rng), PAPER, PEN))
    return upright.transpose(turn), {"exif": exif, **options}


def png_16bit(digit: Digit, rng: Generator) -> Drawn:
    return _of_16_bits((1 - ink_of(digit, 280)) * 65_535)


def png_16bit_12bit_range(digit: Digit, rng: Generator) -> Drawn:
    return _of_16_bits((1 - ink_of(digit, 280)) * 4_095)


def png_16bit_dim(digit: Digit, rng: Generator) -> Drawn:
    return _of_16_bits(ink_of(digit, 280) * 4_095)


def _of_16_bits(values: Ink) -> Image.Image:
    return Image.fromarray(np.rint(values).astype(np.uint16))


def png_1bit(digit: Digit, rng: Generator) -> Drawn:
    return canvas(digit).convert("1")


def png_1bit_inverted(digit: Digit, rng: Generator) -> Drawn:
    return canvas(digit, BLACK, WHITE).convert("1")


def png_palette(digit: Digit, rng: Generator) -> Drawn:
    return canvas(digit, paper=(1, 1, 0.9), pen=(0.1, 0.1, 0.6)).quantize(16)


def png_palette_transparent(digit: Digit, rng: Generator) -> Drawn:
    return _keyed_out(digit, paper=255, pen=0)


def png_palette_transparent_white(digit: Digit, rng: Generator) -> Drawn:
    return _keyed_out(digit, paper=0, pen=255)


def _keyed_out(digit: Digit, paper: int, pen: int) -> Drawn:
    """Two greys in a palette, of which that of the paper is declared transparent."""
    image = Image.fromarray((ink_of(digit, 280) > 0.5).astype(np.uint8)).convert("P")
    image.putpalette([paper] * 3 + [pen] * 3)
    return image, {"format": "PNG", "transparency": 0}


def canvas_black_on_clear(digit: Digit, rng: Generator) -> Drawn:
    return _on_clear(digit, BLACK)


def canvas_white_on_clear(digit: Digit, rng: Generator) -> Drawn:
    return _on_clear(digit, WHITE)


def canvas_red_on_clear(digit: Digit, rng: Generator) -> Drawn:
    return _on_clear(digit, (0.9, 0.1, 0.1))


def canvas_blue_on_clear(digit: Digit, rng: Generator) -> Drawn:
    return _on_clear(digit, (0.1, 0.1, 0.9))


def canvas_grey50_on_clear(digit: Digit, rng: Generator) -> Drawn:
    return _on_clear(digit, (0.5, 0.5, 0.5))


def canvas_black_on_clear_white_rgb(digit: Digit, rng: Generator) -> Drawn:
    return _on_clear(digit, BLACK, hidden=WHITE)


def canvas_opaque_frame_clear_inside(digit: Digit, rng: Generator) -> Drawn:
    pixels = np.array(_on_clear(digit, BLACK))
    for edge in (slice(None, 2), slice(-2, None)):
        pixels[edge] = pixels[:, edge] = (120, 120, 120, 255)
    return Image.fromarray(pixels)


def _on_clear(digit: Digit, pen: Colour, hidden: Colour = BLACK) -> Image.Image:
    """Strokes with nothing behind them, though that has a hidden colour, too."""
    alpha = ink_of(digit, 280)
    return _rgba(np.where(alpha[..., None] > 0, pen, hidden), alpha)


def _rgba(colours: Colours, alpha: Ink) -> Image.Image:
    return as_image(np.dstack([colours, alpha]))


def la_png(digit: Digit, rng: Generator) -> Drawn:
    ink = ink_of(digit, 280)
    return Image.fromarray(np.stack([np.zeros_like(ink), ink * 255], -1).astype(np.uint8))


def screenshot_rounded(digit: Digit, rng: Generator) -> Drawn:
    corners = Image.new("L", (280, 280), 0)
    ImageDraw.Draw(corners).rounded_rectangle((0, 0, 279, 279), 30, fill=255)
    return _rgba(inked(ink_of(digit, 280), WHITE, BLACK), np.asarray(corners) / 255)


def matplotlib_viridis(digit: Digit, rng: Generator) -> Drawn:
    return as_image(_viridis(_hard_pixels(digit)))


def matplotlib_viridis_margin(digit: Digit, rng: Generator) -> Drawn:
    return as_image(_in_figure(_viridis(_hard_pixels(digit))))


def matplotlib_gray_margin(digit: Digit, rng: Generator) -> Drawn:
    return as_image(_in_figure(_hard_pixels(digit)[..., None]))


def _hard_pixels(digit: Digit) -> Ink:
    return digit.repeat(10, 0).repeat(10, 1) / 255


def _viridis(levels: Ink) -> Colours:
    from matplotlib import colormaps

    return colormaps["viridis"](levels)[..., :3]


def _in_figure(colours: Colours) -> Colours:
    """A white figure of 640 x 480 pixels around an image of 280 x 280."""
    figure = np.ones((480, 640, 3))
    figure[100:380, 180:460] = colours
    return figure


def gif(digit: Digit, rng: Generator) -> Drawn:
    return canvas(digit), {"format": "GIF"}


def bmp(digit: Digit, rng: Generator) -> Drawn:
    return canvas(digit), {"format": "BMP"}


def webp(digit: Digit, rng: Generator) -> Drawn:
    return canvas(digit), {"format": "WEBP"}


def tiff(digit: Digit, rng: Generator) -> Drawn:
    return canvas(digit), {"format": "TIFF"}

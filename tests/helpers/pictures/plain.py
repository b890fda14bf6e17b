"""Digits on even paper, of all sizes, in all places."""

from PIL import Image

from tests.helpers.pictures.drawing import (
    BLACK,
    PEN,
    WHITE,
    Digit,
    Drawn,
    Generator,
    as_image,
    canvas,
    full_square,
    ink_of,
    inked,
    on_sheet,
    placed,
)


def plain(digit: Digit, rng: Generator) -> Drawn:
    return canvas(digit)


def white_on_black(digit: Digit, rng: Generator) -> Drawn:
    return canvas(digit, BLACK, WHITE)


def mnist28_png(digit: Digit, rng: Generator) -> Drawn:
    return Image.fromarray(digit)


def mnist28_inverted(digit: Digit, rng: Generator) -> Drawn:
    return Image.fromarray(255 - digit)


def grey_background(digit: Digit, rng: Generator) -> Drawn:
    return canvas(digit, paper=(0.5, 0.5, 0.5), pen=(0.1, 0.1, 0.1))


def light_on_grey(digit: Digit, rng: Generator) -> Drawn:
    return canvas(digit, paper=(0.5, 0.5, 0.5), pen=(0.9, 0.9, 0.9))


def off_centre_small(digit: Digit, rng: Generator) -> Drawn:
    return as_image(inked(on_sheet(digit, rng, 900, 1200, side=200), WHITE, BLACK))


def small_in_12_megapixels(digit: Digit, rng: Generator) -> Drawn:
    return _in_12_megapixels(digit, rng, side=280)


def tiny_in_12_megapixels(digit: Digit, rng: Generator) -> Drawn:
    return _in_12_megapixels(digit, rng, side=140)


def _in_12_megapixels(digit: Digit, rng: Generator, side: int) -> Drawn:
    paper = (237, 235, 224)
    photo = Image.new("RGB", (4000, 3000), paper)
    behind = tuple(level / 255 for level in paper)
    part = inked(ink_of(digit, side), behind, PEN) + rng.normal(0, 0.02, (side, side, 1))
    left, top = int(rng.integers(100, 3900 - side)), int(rng.integers(100, 2900 - side))
    photo.paste(as_image(part), (left, top))
    return photo, {"format": "JPEG", "quality": 85}


def wide_strip(digit: Digit, rng: Generator) -> Drawn:
    return as_image(inked(placed(ink_of(digit, 120), 130, 1600, 5, 700), WHITE, BLACK))


def rotated_10(digit: Digit, rng: Generator) -> Drawn:
    return _rotated(digit, float(rng.choice([-10, 10])), corners=(255, 255, 255))


def rotated_black_corners(digit: Digit, rng: Generator) -> Drawn:
    return _rotated(digit, float(rng.choice([-8, 8])), corners=(0, 0, 0))


def _rotated(digit: Digit, degrees: float, corners: tuple[int, int, int]) -> Image.Image:
    upright = as_image(inked(full_square(digit), WHITE, BLACK))
    return upright.rotate(degrees, fillcolor=corners, resample=Image.Resampling.BICUBIC)

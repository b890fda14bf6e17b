"""Pictures that end where the digit does."""

import numpy as np
from PIL import Image

from tests.helpers.pictures.drawing import (
    BLACK,
    PAPER,
    PEN,
    WHITE,
    Digit,
    Drawn,
    Generator,
    Ink,
    as_image,
    grain,
    ink_of,
    inked,
    placed,
)


def tight_crop(digit: Digit, rng: Generator) -> Drawn:
    return as_image(inked(_cropped(ink_of(digit, 400)), WHITE, BLACK))


def tight_crop_inverted(digit: Digit, rng: Generator) -> Drawn:
    return as_image(inked(_cropped(ink_of(digit, 400)), BLACK, WHITE))


def tight_crop_pad2(digit: Digit, rng: Generator) -> Drawn:
    return as_image(inked(_cropped(ink_of(digit, 400), margin=2), WHITE, BLACK))


def crop_squashed_28(digit: Digit, rng: Generator) -> Drawn:
    large = as_image(inked(_cropped(ink_of(digit, 400)), WHITE, BLACK))
    return large.resize((28, 28), Image.Resampling.BOX)


def touches_bottom(digit: Digit, rng: Generator) -> Drawn:
    ink = ink_of(digit, 400)
    _, bottom, _, _ = _box(ink)
    return as_image(inked(ink[:bottom], WHITE, BLACK))


def touches_left_photo(digit: Digit, rng: Generator) -> Drawn:
    ink = ink_of(digit, 500)
    _, _, left, _ = _box(ink)
    ink = placed(ink[:, left:], 800, 800, 150, 0)
    return as_image(inked(ink, PAPER, PEN) + grain(rng, ink))


def _cropped(ink: Ink, margin: int = 0) -> Ink:
    top, bottom, left, right = _box(ink)
    return ink[max(top - margin, 0) : bottom + margin, max(left - margin, 0) : right + margin]


def _box(ink: Ink) -> tuple[int, int, int, int]:
    """Top, bottom, left and right of what is clearly ink."""
    rows, columns = np.nonzero(ink > 0.3)
    return rows.min(), rows.max() + 1, columns.min(), columns.max() + 1

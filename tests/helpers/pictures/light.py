"""Photographs in uneven or dim light, and out of focus."""

from collections.abc import Callable

import numpy as np
from jaxtyping import Float
from PIL import ImageFilter

from tests.helpers.pictures.drawing import (
    PAPER,
    PEN,
    Digit,
    Drawn,
    Generator,
    Ink,
    as_image,
    grain,
    in_the_middle,
    inked,
    on_sheet,
    smooth_noise,
)

Grid = Float[np.ndarray, "height width"]


def shadow_linear(digit: Digit, rng: Generator) -> Drawn:
    return _lit(on_sheet(digit, rng), rng, lambda y, x: 0.45 + 0.55 * x)


def shadow_corner_soft(digit: Digit, rng: Generator) -> Drawn:
    return _lit(on_sheet(digit, rng), rng, lambda y, x: _shaded(0.5, (x + y) - 1.1, soft=0.12))


def shadow_hand_soft(digit: Digit, rng: Generator) -> Drawn:
    return _lit(on_sheet(digit, rng), rng, lambda y, x: _shaded(0.35, x - 0.55 - 0.15 * y, soft=0.05))


def shadow_hard(digit: Digit, rng: Generator) -> Drawn:
    return _lit(on_sheet(digit, rng), rng, lambda y, x: np.where(x > 0.6 + 0.2 * y, 0.6, 1.0))


def vignette(digit: Digit, rng: Generator) -> Drawn:
    return _lit(in_the_middle(digit), rng, lambda y, x: _falling_off(0.45, y, x))


def vignette_strong(digit: Digit, rng: Generator) -> Drawn:
    return _lit(in_the_middle(digit), rng, lambda y, x: _falling_off(0.9, y, x))


def flash_spot(digit: Digit, rng: Generator) -> Drawn:
    def light(y: Grid, x: Grid) -> Grid:
        return 0.55 + 0.45 * np.exp(-((x - 0.5) ** 2 + (y - 0.45) ** 2) / 0.08)

    return _lit(in_the_middle(digit), rng, light)


def wrinkled(digit: Digit, rng: Generator) -> Drawn:
    ink = on_sheet(digit, rng)
    return _lit(ink, rng, lambda y, x: 1 + smooth_noise(rng, ink, 7, 0.04))


def dim_room_noisy(digit: Digit, rng: Generator) -> Drawn:
    ink = on_sheet(digit, rng)
    return as_image(0.35 * inked(ink, PAPER, PEN) + rng.normal(0, 0.05, (*ink.shape, 3)))


def blurred(digit: Digit, rng: Generator) -> Drawn:
    return as_image(inked(on_sheet(digit, rng), PAPER, PEN)).filter(ImageFilter.GaussianBlur(9))


def _lit(ink: Ink, rng: Generator, light: Callable[[Grid, Grid], Grid]) -> Drawn:
    """A photograph in a light that depends on the place: y and x from 0 to 1."""
    height, width = ink.shape
    y, x = np.mgrid[0 : 1 : height * 1j, 0 : 1 : width * 1j]
    return as_image(inked(ink, PAPER, PEN) * light(y, x)[..., None] + grain(rng, ink))


def _shaded(loss: float, beyond: Grid, soft: float) -> Grid:
    """Light that is weaker by `loss` beyond an edge, which is `soft` wide."""
    return 1 - loss / (1 + np.exp(-beyond / soft))


def _falling_off(loss: float, y: Grid, x: Grid) -> Grid:
    """Light that is weaker by `loss` in the corners than in the middle."""
    return 1 - loss * ((x - 0.5) ** 2 + (y - 0.5) ** 2) / 0.5

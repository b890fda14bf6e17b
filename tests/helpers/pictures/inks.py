"""Pens, pencils and chalk of all colours, faint, thin, thick and broken."""

import numpy as np
from jaxtyping import Bool
from PIL import Image, ImageFilter

from tests.helpers.pictures.drawing import (
    BLACK,
    PAPER,
    PEN,
    WHITE,
    Colour,
    Digit,
    Drawn,
    Generator,
    Ink,
    as_image,
    grain,
    ink_of,
    inked,
    on_sheet,
    placed,
    smooth_noise,
)


def ink_red(digit: Digit, rng: Generator) -> Drawn:
    return _penned(digit, rng, PAPER, (0.8, 0.1, 0.12))


def ink_blue(digit: Digit, rng: Generator) -> Drawn:
    return _penned(digit, rng, PAPER, (0.12, 0.2, 0.65))


def ink_green_board(digit: Digit, rng: Generator) -> Drawn:
    return _penned(digit, rng, (0.15, 0.3, 0.2), (0.9, 0.9, 0.88), noise=0.03)


def ink_yellow_marker(digit: Digit, rng: Generator) -> Drawn:
    return _penned(digit, rng, PAPER, (0.98, 0.93, 0.25))


def pencil_light(digit: Digit, rng: Generator) -> Drawn:
    return _penned(digit, rng, PAPER, (0.7, 0.7, 0.68))


def pencil_faint(digit: Digit, rng: Generator) -> Drawn:
    return _penned(digit, rng, PAPER, (0.8, 0.79, 0.76))


def red_on_blue_paper(digit: Digit, rng: Generator) -> Drawn:
    return _penned(digit, rng, (0.5, 0.6, 0.9), (0.8, 0.2, 0.2))


def blue_on_yellow_note(digit: Digit, rng: Generator) -> Drawn:
    return _penned(digit, rng, (0.98, 0.93, 0.5), (0.15, 0.2, 0.6))


def _penned(digit: Digit, rng: Generator, paper: Colour, pen: Colour, noise: float = 0.012) -> Drawn:
    ink = on_sheet(digit, rng)
    return as_image(inked(ink, paper, pen) + grain(rng, ink, noise))


def chalk_smudged(digit: Digit, rng: Generator) -> Drawn:
    ink = on_sheet(digit, rng)
    ink = ink * np.clip(rng.normal(0.8, 0.25, ink.shape), 0, 1)
    smudge = np.clip(smooth_noise(rng, ink, 5, 0.06), 0, 1)
    return as_image(inked(ink, (0.12, 0.2, 0.15), (0.95, 0.95, 0.92)) + smudge[..., None])


def thin_pen(digit: Digit, rng: Generator) -> Drawn:
    thick = placed(ink_of(digit, 460), 600, 600, 70, 70)
    return as_image(inked(_filtered(thick, ImageFilter.MinFilter(3), 10), PAPER, PEN))


def thin_skeleton(digit: Digit, rng: Generator) -> Drawn:
    line = Image.fromarray((_skeleton(ink_of(digit, 280) > 0.5) * 255).astype(np.uint8))
    line = line.resize((560, 560), Image.Resampling.NEAREST)
    soft = line.filter(ImageFilter.MaxFilter(3)).filter(ImageFilter.GaussianBlur(2))
    return as_image(inked(np.clip(np.asarray(soft) / 160, 0, 1), PAPER, PEN))


def hairline_canvas(digit: Digit, rng: Generator) -> Drawn:
    return as_image(inked(_skeleton(ink_of(digit, 280) > 0.5).astype(float), WHITE, BLACK))


def thick_marker(digit: Digit, rng: Generator) -> Drawn:
    return as_image(inked(_filtered(ink_of(digit, 560), ImageFilter.MaxFilter(7), 4), WHITE, BLACK))


def _filtered(ink: Ink, narrower_or_wider: ImageFilter.Filter, times: int) -> Ink:
    image = Image.fromarray((ink * 255).astype(np.uint8))
    for _ in range(times):
        image = image.filter(narrower_or_wider)
    return np.asarray(image) / 255


def _skeleton(mask: Bool[np.ndarray, "height width"]) -> Bool[np.ndarray, "height width"]:
    """Thin strokes to lines one pixel wide (Zhang and Suen 1984)."""
    left = np.pad(mask.astype(np.uint8), 1)
    around = ((1, 0), (1, -1), (0, -1), (-1, -1), (-1, 0), (-1, 1), (0, 1), (1, 1))  # clockwise from above
    changed = True
    while changed:
        changed = False
        for corner in (0, 1):  # pixels at the lower right of strokes, then those at the upper left
            neighbours = [np.roll(left, shift, (0, 1)).astype(int) for shift in around]
            above, right, below, beside = neighbours[::2]
            count = sum(neighbours)
            # How often one goes from paper to ink on the way around: once, unless it holds strokes together.
            entries = sum((neighbours[k] == 0) & (neighbours[(k + 1) % 8] == 1) for k in range(8))
            free = (
                (above * right * below == 0) & (right * below * beside == 0)
                if corner == 0
                else (above * right * beside == 0) & (above * below * beside == 0)
            )
            gone = (left == 1) & (count >= 2) & (count <= 6) & (entries == 1) & free
            left[gone] = 0
            changed |= bool(gone.any())
    return left[1:-1, 1:-1].astype(bool)


def broken_strokes(digit: Digit, rng: Generator) -> Drawn:
    ink = ink_of(digit, 420)
    for _ in range(2):
        rows, columns = np.nonzero(ink > 0.5)
        chosen = rng.integers(len(rows))
        row, column = rows[chosen], columns[chosen]
        ink[max(0, row - 8) : row + 8, max(0, column - 8) : column + 8] = 0
    return as_image(inked(ink, WHITE, BLACK))

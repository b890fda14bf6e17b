"""From a picture to ink: how much of the pen there is on each pixel of the paper, from 0 to 1.

1. `departures` (paper.py) proposes what may be paper, and how far the picture departs from it.
2. `digit_among` (marks.py) keeps the marks of the digit, and drops lines, frames and specks.
3. `_surroundings`: a digit has paper around it. If it has too little, the next proposal is tried, and of all
   that fail, the best is taken.
4. `digits_apart` (marks.py) tells several digits from one in pieces.
5. `as_wide_as_mnist`: a thin pen is widened to the strokes of MNIST.

What comes out is ready for `normalise_digit` (images.py).
"""

from typing import NamedTuple

import numpy as np
from scipy import ndimage

from lstm_jax.data.images import INK_LEVEL
from lstm_jax.data.marks import (
    Chosen,
    Marks,
    along_the_edge,
    depth_of,
    digit_among,
    digits_apart,
    is_stroke,
    largest_of,
    marks_of,
    without_lines,
)
from lstm_jax.data.paper import Colours, Departure, Grey, departures
from lstm_jax.errors import ImageError

ENOUGH_PAPER = 0.8  # as a share of the surroundings of a digit
SURROUNDINGS = 0.12  # how far they reach, as a share of the digit's longer side
SOFTEST = 0.12  # the most that faint sides of strokes cover, as a share of the square around the digit
MOST_DIGITS = 9  # more are a page of text, or a texture
# The mean width of strokes, as a share of the digit's longer side: of MNIST's training images, 1 % are
# thinner than the first, a quarter than the second.
THINNEST, THIN = 0.094, 0.13


class Reading(NamedTuple):
    """What one proposal for the paper makes of a picture.

    Attributes:
        ink: from 0 to 1, without the marks that were dropped.
        marks: the marks of the ink, without lines.
        chosen: those of the digit, or of the digits.
        paper: the share of their surroundings that is paper; 0 if no pen could have drawn them.
    """

    ink: Grey
    marks: Marks
    chosen: Chosen
    paper: float


def inks_of(colours: Colours) -> list[Grey]:
    """Compute the ink of each digit in a picture, from left to right: mostly one, at least one.

    Args:
        colours: red, green and blue from 0 to 1.

    Raises:
        ImageError: if there is no digit, or more than `MOST_DIGITS` marks that could be one.
    """
    reading = _best_reading(colours)
    if reading.paper == 0:
        raise ImageError(
            "no digit found: what stands out is a filled shape, not the stroke of a pen; "
            "expected one digit on paper"
        )
    digits = digits_apart(reading.marks, reading.chosen)
    if len(digits) > MOST_DIGITS:
        raise ImageError(
            f"found {len(digits)} marks apart from one another, as in a page of text or a texture; "
            "expected one digit: crop the picture to it"
        )
    if len(digits) == 1:
        return [as_wide_as_mnist(reading.ink)]
    return [as_wide_as_mnist(_only(reading.ink, reading.marks, digit)) for digit in digits]


def _best_reading(colours: Colours) -> Reading:
    best = None
    for departure in departures(colours):
        reading = _read(departure)
        if reading is not None and (best is None or reading.paper > best.paper):
            best = reading
        if best is not None and best.paper >= ENOUGH_PAPER:
            break
    if best is None:
        raise ImageError("no digit found: there is no ink; expected one digit on paper")
    return best


def _read(departure: Departure) -> Reading | None:
    """Choose the marks of the digit. None if there is no ink."""
    inked = departure.ink > INK_LEVEL
    unlined = without_lines(inked)
    marks = marks_of(unlined)
    chosen = digit_among(marks)
    if not chosen.any():
        return None
    paper = _surroundings(departure, marks, chosen)
    if not is_stroke(marks, largest_of(marks, chosen)):
        paper = 0.0
    elif _softness(departure.ink, marks, chosen) > SOFTEST or np.any(chosen & _shade_of(marks)):
        paper /= 2  # rather the light, or the edge of a sheet
    # Where nothing was dropped, even the faintest ink stays: so the images of MNIST come back unchanged.
    untouched = chosen.all() and np.array_equal(unlined, inked)
    ink = departure.ink if untouched else _only(departure.ink, marks, chosen)
    return Reading(ink, marks, chosen, paper)


def _only(ink: Grey, marks: Marks, chosen: Chosen) -> Grey:
    """Keep the chosen marks and their soft edges, and scale the ink to their strongest."""
    kept = marks.pixels(chosen)
    edge = max(1, round(0.03 * marks.extent[chosen].max()))
    near = ndimage.distance_transform_edt(~kept) <= edge
    other = (ink > INK_LEVEL) & ~kept
    left = np.where(near & ~other, ink, 0)
    return np.clip(left / np.quantile(left[kept], 0.99), 0, 1)


def _surroundings(departure: Departure, marks: Marks, chosen: Chosen) -> float:
    """Return the share of the surroundings of the chosen marks that is paper.

    Specks do not count. Outside of the picture there is no telling, so a digit that fills it has paper
    enough.
    """
    inner, outer = _box(marks, chosen), _box(marks, chosen, wider=SURROUNDINGS)
    specks = marks.area < marks.thickness[chosen].max() ** 2
    other = marks.pixels(~chosen & ~specks) | (departure.unlike > 0.3)
    area = other[outer].size - other[inner].size
    return 1 - (np.count_nonzero(other[outer]) - np.count_nonzero(other[inner])) / max(area, 1)


def _shade_of(marks: Marks) -> Chosen:
    """Return which marks lie along the edge of the picture, and are thicker than strokes: shadows, desks."""
    return along_the_edge(marks) & (marks.thickness > 0.4 * marks.extent)


def _softness(ink: Grey, marks: Marks, chosen: Chosen) -> float:
    """Return the area of faint ink on and around the chosen marks, as a share of the square around them."""
    near = ink[_box(marks, chosen, wider=SURROUNDINGS)]
    faint = np.sum((near > INK_LEVEL / 2) & (near <= INK_LEVEL))
    return float(faint / marks.extent[chosen].max() ** 2)


def _box(marks: Marks, chosen: Chosen, wider: float = 0.0) -> tuple[slice, slice]:
    """Return the rows and columns of the chosen marks, and a share of their longer side around them."""
    top, left = marks.box[chosen][:, [0, 2]].min(axis=0)
    bottom, right = marks.box[chosen][:, [1, 3]].max(axis=0)
    reach = int(np.ceil(wider * max(bottom - top, right - left)))
    return slice(max(top - reach, 0), bottom + reach), slice(max(left - reach, 0), right + reach)


def as_wide_as_mnist(ink: Grey) -> Grey:
    """Widen strokes that are far thinner than those of MNIST; others stay as they are.

    In 20 x 20 pixels, a thin stroke becomes pale and breaks up, unlike all that the network has seen.
    """
    pen = ink > 0.5
    rows, columns = np.flatnonzero(pen.any(axis=1)), np.flatnonzero(pen.any(axis=0))
    extent = max(np.ptp(rows), np.ptp(columns)) + 1
    # Half a stroke's width inside, the middle is farthest; so the mean distance from its sides is a quarter.
    whole = ndimage.binary_closing(np.pad(pen, 1), np.ones((3, 3)))  # pixels that noise has left out
    width = 4 * (depth_of(whole)[whole].mean() - 0.5)
    if width >= THINNEST * extent:
        return ink
    # What is added on either side makes the digit larger, too.
    added = (THIN * extent - width) / (1 - THIN) / 2
    margin = int(np.ceil(added)) + 1
    pen, ink = np.pad(pen, margin), np.pad(ink, margin)
    return np.maximum(ink, np.clip(added + 1 - ndimage.distance_transform_edt(~pen), 0, 1))

"""What is pen: marks on the paper, judged by their place, size and stroke.

`without_lines` comes first, then `digit_among` takes three steps, each on what the one before has left, and
`digits_apart` is the last:

1. `without_lines`: straight thin lines from end to end go, except where a stroke crosses them;
2. `_not_along_the_edge`: what lies along the edge of the picture goes, and what is cut off there;
3. `_not_frames`: a thin mark around others goes;
4. `_not_specks`: what is too small for the stroke of the largest mark goes, and what is far from it
   and unlike it;
5. `digits_apart`: marks that are more than a stroke's width apart, and nearly as high as one another, are
   different digits.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy import ndimage

from lstm_jax.data.decoding import border_of

Mask = Bool[np.ndarray, "height width"]
Chosen = Bool[np.ndarray, " marks"]

_EIGHT_NEIGHBOURS = np.ones((3, 3), bool)

# Lines: their slopes (down per across), the share of the way from end to end that they cover, and how thick
# they are at most, as a share of that way. In a low strip, a stroke of a digit goes from top to bottom.
_SLOPES = np.linspace(-0.1, 0.1, 41)
_LINE_COVER = 0.7
_LINE_THICKNESS = 0.02


class Marks(NamedTuple):
    """Connected pieces of ink, numbered from 0. All lengths are in pixels.

    Attributes:
        labels: of each pixel, 1 more than the number of its mark; 0 where there is none.
        area: number of pixels.
        thickness: the diameter of the largest disc inside.
        box: top, bottom, left and right; bottom and right are the first beyond.
        contact: how many of its pixels lie on the edge of the picture.
    """

    labels: Int[np.ndarray, "height width"]
    area: Float[np.ndarray, " marks"]
    thickness: Float[np.ndarray, " marks"]
    box: Int[np.ndarray, "marks 4"]
    contact: Float[np.ndarray, " marks"]

    @property
    def height(self) -> Int[np.ndarray, " marks"]:
        """The height of the box."""
        return self.box[:, 1] - self.box[:, 0]

    @property
    def width(self) -> Int[np.ndarray, " marks"]:
        """The width of the box."""
        return self.box[:, 3] - self.box[:, 2]

    @property
    def extent(self) -> Int[np.ndarray, " marks"]:
        """The longer side of the box."""
        return np.maximum(self.height, self.width)

    def pixels(self, chosen: Chosen) -> Mask:
        """Return where the chosen marks are."""
        return np.concatenate([[False], chosen])[self.labels]


def marks_of(mask: Mask) -> Marks:
    """Take a mask apart into connected pieces."""
    labels, count = ndimage.label(mask, _EIGHT_NEIGHBOURS)
    deepest = np.asarray(ndimage.maximum(depth_of(mask), labels, np.arange(1, count + 1))).reshape(count)
    spans = [
        (down.start, down.stop, across.start, across.stop) for down, across in ndimage.find_objects(labels)
    ]
    return Marks(
        labels=labels,
        area=np.bincount(labels.ravel(), minlength=count + 1)[1:].astype(float),
        thickness=2 * deepest - 1,
        box=np.array(spans, int).reshape(count, 4),
        contact=np.bincount(border_of(labels), minlength=count + 1)[1:].astype(float),
    )


def depth_of(mask: Mask) -> Float[np.ndarray, "height width"]:
    """Return how far each pixel of ink is from the nearest without; there is none outside of the picture."""
    return np.asarray(ndimage.distance_transform_edt(np.pad(mask, 1))[1:-1, 1:-1])


def digit_among(marks: Marks) -> Chosen:
    """Choose the marks that make up the digit, or the digits; none if there are no marks."""
    chosen = np.ones(len(marks.area), bool)
    for step in (_not_along_the_edge, _not_frames, _not_specks):
        if chosen.any():
            chosen = step(marks, chosen)
    return chosen


def largest_of(marks: Marks, chosen: Chosen) -> int:
    """Return the number of the largest of the chosen marks, by area."""
    return int(np.argmax(np.where(chosen, marks.area, 0)))


def is_stroke(marks: Marks, number: int) -> bool:
    """Whether a pen could have drawn the mark: a filled shape is too thick, or fills too much of its box.

    Of MNIST's training images, at 4 times their size, 1 in 700 is as thick and 1 in 1,000 as full.
    """
    shorter, longer = sorted((int(marks.height[number]), int(marks.width[number])))
    if longer >= 2 * shorter:  # a 1, which fills its box
        return True
    return bool(marks.thickness[number] <= 0.5 * longer and marks.area[number] <= 0.75 * shorter * longer)


def along_the_edge(marks: Marks) -> Chosen:
    """Return which marks touch the edge of the picture with a side or more, as frames and dark corners do."""
    return marks.contact >= 0.5 * (marks.height + marks.width)


def without_lines(mask: Mask) -> Mask:
    """Remove straight thin lines that run from side to side, then those from top to bottom."""
    mask = _without_rows(mask)
    return _without_rows(mask.T).T


def _without_rows(mask: Mask) -> Mask:
    """Remove lines from side to side: those of one slope at a time, as they converge in a photograph."""
    while lines := _lines(mask):
        left = _without(mask, lines)
        if np.array_equal(left, mask):  # a stroke goes along all of the line
            break
        mask = left
    return mask


def _without(mask: Mask, lines: list[tuple[float, int, int]]) -> Mask:
    """Remove lines, each of a slope, a first row and a thickness, except where a stroke crosses them."""
    height, width = mask.shape
    columns = np.arange(width)
    left = mask.copy()
    for slope, first, thickness in lines:
        # A band of the line and as much above and below it. Where ink fills more than half of that, a stroke
        # crosses.
        beside = thickness + 2
        rows = first + np.arange(-beside, thickness + beside)[:, None] + _rise(slope, columns, width)
        there = np.clip(rows, 0, height - 1)
        band = mask[there, columns] & (rows == there)
        gone = band & (band.sum(axis=0) <= thickness + beside)
        left[there[gone], np.broadcast_to(columns, there.shape)[gone]] = False
    return left


def _lines(mask: Mask) -> list[tuple[float, int, int]]:
    """Find lines from side to side: slope, first row at the middle column, and thickness."""
    height, width = mask.shape
    # A pixel above or below is near enough: fine lines of a slope between two of `_SLOPES` depart by as much.
    heights = ndimage.maximum_filter1d(_heights(mask), 3, axis=0)
    rows, columns = np.nonzero(heights)
    best, found = 0.0, []
    for slope in _SLOPES:
        at = rows - _rise(slope, columns, width)
        cover = np.bincount(at[(at >= 0) & (at < height)], minlength=height) / width
        bands = [band for (band,) in ndimage.find_objects(ndimage.label(cover > _LINE_COVER)[0])]
        rise = _rise(slope, np.arange(width), width)
        lines = [band for band in bands if _is_thin(heights, band, rise)]
        total = sum(cover[band].sum() for band in lines)
        if total > best:
            best = total
            found = [(float(slope), int(band.start) + 1, _thickness(band)) for band in lines]
    return found


def _is_thin(
    heights: Int[np.ndarray, "height width"], band: slice, rise: Int[np.ndarray, " columns"]
) -> bool:
    """Whether a line is thin, and ink along it mostly so, too. A slanted cut through a stroke is not."""
    height, width = heights.shape
    most = _LINE_THICKNESS * width
    if _thickness(band) > most:
        return False
    rows = np.clip((band.start + band.stop - 1) // 2 + rise, 0, height - 1)
    through = heights[rows, np.arange(width)]
    return bool(np.median(through[through > 0]) <= 1.5 * most)


def _thickness(band: slice) -> int:
    """Return how thick a line is whose band is a row wider above and below."""
    return max(1, int(band.stop - band.start) - 2)


def _heights(mask: Mask) -> Int[np.ndarray, "height width"]:
    """Return, for each pixel of ink, how many pixels of ink are in one piece above and below it, with it."""
    runs, _ = ndimage.label(mask, [[0, 1, 0], [0, 1, 0], [0, 1, 0]])
    return np.where(mask, np.bincount(runs.ravel())[runs], 0)


def _rise(slope: float, columns: Int[np.ndarray, " columns"], width: int) -> Int[np.ndarray, " columns"]:
    """Return how many rows further down a line is at some columns than in the middle."""
    return np.rint(slope * (columns - width / 2)).astype(int)


def _not_along_the_edge(marks: Marks, chosen: Chosen) -> Chosen:
    """Drop what touches the edge of the picture, if something is left.

    It may be small if what touches the edge lies along it, as a frame, a desk or a dark corner does. A digit
    that is cut off, or whose picture was cropped closely, has little inside beside it.
    """
    inside = chosen & (marks.contact == 0)
    if not inside.any():
        return chosen
    largest = marks.area[inside].max()
    outweighed = largest >= np.where(along_the_edge(marks), 0.02, 0.5) * marks.area
    return chosen & ~((marks.contact > 0) & outweighed)


def _not_frames(marks: Marks, chosen: Chosen) -> Chosen:
    """Drop thin marks around others a third as large: a box or a circle around the digit."""
    thin = marks.thickness <= 0.15 * marks.extent
    large = marks.extent >= 0.5 * marks.extent[chosen].max()
    for number in np.flatnonzero(chosen & thin & large):
        held = chosen & _held_by(marks, int(number))
        if held.any() and marks.extent[held].max() >= 0.3 * marks.extent[number]:
            chosen = held
    return chosen


def _held_by(marks: Marks, number: int) -> Chosen:
    """Return which marks lie in the holes of a mark."""
    top, bottom, left, right = marks.box[number]
    part = marks.labels[top:bottom, left:right]
    own = part == number + 1
    holes = ndimage.binary_fill_holes(own) & ~own
    return np.bincount(part[holes], minlength=len(marks.area) + 1)[1:] == marks.area


def _not_specks(marks: Marks, chosen: Chosen) -> Chosen:
    """Drop what is smaller than a dot of the largest mark's pen, and what is far from it or unlike it."""
    main = largest_of(marks, chosen)
    stroke, extent = marks.thickness[main], marks.extent[main]
    large = marks.extent >= 0.5 * extent
    same_pen = marks.thickness >= 0.4 * stroke  # a short piece may be the thin end of a stroke
    beside = _gaps(marks, main) <= 0.25 * extent
    kept = chosen & (marks.area >= 0.3 * stroke**2) & np.where(large, same_pen, beside)
    kept[main] = True
    return kept


def _gaps(marks: Marks, number: int) -> Int[np.ndarray, " marks"]:
    """Return how far the boxes of marks are from that of one mark, down or across, whichever is more."""
    top, bottom, left, right = marks.box[number]
    down = np.maximum(marks.box[:, 0] - bottom, top - marks.box[:, 1])
    across = np.maximum(marks.box[:, 2] - right, left - marks.box[:, 3])
    return np.maximum(np.maximum(down, across), 0)


def digits_apart(marks: Marks, chosen: Chosen) -> list[Chosen]:
    """Share out the chosen marks among digits, from left to right.

    Pieces of one digit, as the bar of a 5, lie close together, or one is much lower than the other.
    """
    main = largest_of(marks, chosen)
    gap = max(marks.thickness[main], 0.12 * marks.extent[main], 3)
    reached = ndimage.distance_transform_edt(~marks.pixels(chosen)) <= 0.5 * gap
    groups = ndimage.label(reached, _EIGHT_NEIGHBOURS)[0]
    numbers = np.arange(1, len(marks.area) + 1)
    group_of = np.where(chosen, ndimage.maximum(groups, marks.labels, numbers), 0).astype(int)
    spans = ndimage.find_objects(groups)
    height = np.array([down.stop - down.start for down, _ in spans])
    middle = np.array([(across.start + across.stop) / 2 for _, across in spans])
    digits = np.flatnonzero(height >= 0.5 * height.max())
    digits = digits[np.argsort(middle[digits])]
    # A low piece belongs to the digit above or below it.
    nearest = digits[np.abs(middle[:, None] - middle[digits]).argmin(axis=1)]
    nearest[digits] = digits
    return [chosen & (nearest[group_of - 1] == digit) for digit in digits]

"""Digits as a hand draws them: strokes of a pen, two ways of writing each. None comes from MNIST."""

import re
from collections.abc import Sequence
from typing import TypeAlias

import numpy as np

Point: TypeAlias = tuple[float, float]
# Points along the middle of a stroke, in a frame that is 1 high: x to the right, y down.
Stroke: TypeAlias = Sequence[Point]
Drawing: TypeAlias = Sequence[Stroke]


def curve(*points: Point, parts: int = 5) -> list[Point]:
    """A smooth line through points (Catmull and Rom)."""
    given = np.array([points[0], *points, points[-1]])
    smooth = []
    for before, start, end, after in zip(given, given[1:], given[2:], given[3:], strict=False):
        for t in np.arange(parts) / parts:
            bend = 2 * before - 5 * start + 4 * end - after
            twist = 3 * start - before - 3 * end + after
            point = start + 0.5 * (t * (end - before) + t**2 * bend + t**3 * twist)
            smooth.append((float(point[0]), float(point[1])))
    return [*smooth, points[-1]]


# Each digit: name of the way of writing -> strokes, in hundredths of the digit's height. `~` begins a smooth
# line through points, `-` a straight one; both may follow in one stroke.
DIGITS: dict[int, dict[str, tuple[str, ...]]] = {
    0: {
        "round": ("~ 50,0 20,20 12,50 22,85 48,100 75,85 85,50 76,15 50,0",),
        "narrow, leaning": ("~ 62,2 40,20 25,55 30,90 50,97 68,70 78,30 70,5 56,4",),
    },
    1: {
        "a line": ("- 55,0 50,50 47,100",),
        "with a serif and a foot": ("- 30,22 42,12 52,0 52,50 52,100", "- 30,100 74,100"),
    },
    2: {
        "straight foot": ("~ 18,25 28,6 52,0 75,14 74,38 50,66 16,98 - 50,98 85,97",),
        "with a loop": ("~ 20,20 40,2 68,6 74,30 56,62 30,90 16,96 20,84 36,84 56,96 86,94",),
    },
    3: {
        "round": ("~ 20,12 42,0 70,8 72,30 45,46 ~ 45,46 72,56 80,78 56,98 16,90",),
        "flat top": ("- 20,2 74,2 42,40 ~ 42,40 70,48 78,74 56,97 18,88",),
    },
    4: {
        "open": ("- 28,2 22,30 20,52 50,54 84,50", "- 70,8 66,50 62,100"),
        "closed": ("- 66,0 40,34 12,66 50,66 90,65", "- 66,0 66,50 65,100"),
    },
    5: {
        "two strokes": ("- 28,3 25,22 22,42 ~ 22,42 50,38 75,52 74,80 48,98 16,90", "- 28,3 55,3 80,1"),
        "one stroke": ("- 80,4 50,4 34,6 30,25 27,44 ~ 27,44 52,40 70,56 66,82 42,98 18,94",),
    },
    6: {
        "straight back": ("~ 64,0 40,30 24,65 30,92 52,98 70,84 68,64 50,56 30,70",),
        "curly": ("~ 74,10 56,1 34,16 22,50 26,85 50,100 74,84 70,60 46,54 26,70",),
    },
    7: {
        "plain": ("- 15,5 50,4 82,3 60,45 42,100",),
        "with a bar": ("- 16,4 50,5 84,3 62,48 44,100", "- 36,50 78,48"),
    },
    8: {
        "one stroke": ("~ 72,14 50,0 28,14 34,36 60,54 76,78 54,99 26,86 32,60 62,38 73,16",),
        "two circles": (
            "~ 50,2 30,12 30,34 50,46 70,34 70,12 50,2",
            "~ 50,46 25,60 24,86 50,100 76,86 75,60 50,46",
        ),
    },
    9: {
        "straight": ("~ 72,20 56,3 30,10 24,36 44,50 68,36 73,14 - 70,55 66,100",),
        "curly": ("~ 74,18 52,0 28,14 27,38 50,49 70,36 75,20 76,55 66,90 44,100 24,90",),
    },
}


def stroke_of(text: str) -> list[Point]:
    """The points of a stroke as `DIGITS` has it."""
    stroke: list[Point] = []
    for kind, written in re.findall(r"([~-]) ([\d, ]+)", text):
        points = [(int(x) / 100, int(y) / 100) for x, y in (pair.split(",") for pair in written.split())]
        stroke += curve(*points) if kind == "~" else points
    return stroke


def every_way() -> list[tuple[int, str, Drawing]]:
    """The twenty: digit, way of writing, strokes."""
    return [
        (digit, way, [stroke_of(text) for text in texts])
        for digit, ways in DIGITS.items()
        for way, texts in ways.items()
    ]


def placed(drawing: Drawing, *, size: float, left: float, top: float) -> list[list[list[float]]]:
    """Strokes in units of a drawing area, as JSON has them."""
    return [[[left + size * x, top + size * y] for x, y in stroke] for stroke in drawing]


def by_another_hand(drawing: Drawing, rng: np.random.Generator, *, area: float) -> list[list[list[float]]]:
    """The same digit as somebody else draws it: jitter, slant, stretch, turn, size and place at random.

    The hand shakes slowly: neighbouring points move together.
    """
    turn = np.radians(rng.uniform(-10, 10))
    slant, stretch = rng.uniform(-0.2, 0.2), rng.uniform(0.8, 1.2)
    size = rng.uniform(0.3, 0.85) * area
    matrix = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    matrix = matrix @ np.array([[stretch, -slant], [0, 1]])
    phases = rng.uniform(0, 2 * np.pi, (2, 3))
    strokes = []
    for stroke in drawing:
        points = np.array(stroke) - 0.5
        along = np.linspace(0, 1, len(points))[:, None]
        waves = [np.sin((1, 2, 4) * along * 2 * np.pi + phase).sum(axis=1) for phase in phases]
        points = (points + 0.012 * np.stack(waves, axis=1) + rng.normal(0, 0.004, points.shape)) @ matrix.T
        strokes.append(size * points)
    every = np.concatenate(strokes)
    low, high = every.min(axis=0), every.max(axis=0)
    margin = 0.04 * area
    corner = rng.uniform(margin - low, area - margin - high)
    return [(stroke + corner).tolist() for stroke in strokes]

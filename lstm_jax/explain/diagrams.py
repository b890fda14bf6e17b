"""The drawn pictures of the tutorial, as SVG: each function returns the text of a file.

All of them lie on a light card of their own, so that they can be read on a light and on a dark page, and in
print. The memory c is orange and the output h is blue; no meaning hangs on colour alone. Text keeps room
around it, because every system has other fonts. `tutorial.py` writes the files.
"""

# ruff: noqa: RUF001 (formulas have signs that look like letters)

import html
import re
from collections.abc import Collection, Iterable, Sequence
from typing import TypeAlias

import numpy as np
from jaxtyping import UInt8

# The tests hold annotations to the word, and there an int is no float.
Number: TypeAlias = int | float

INK, QUIET, FAINT = "#1d2733", "#566270", "#c3cad1"
MEMORY, OUTPUT, WIRE = "#c2410c", "#1d4ed8", "#8592a0"
BLUE, SAND, GREEN, GREY = (
    ("#dfe9fa", "#2b5cb0"),
    ("#fdf0d9", "#a86b0d"),
    ("#e2f4e7", "#15803d"),
    ("#f3f5f7", FAINT),
)
_STYLE = """text{font-family:system-ui,-apple-system,"Segoe UI",Roboto,"Helvetica Neue",Arial,sans-serif}"""


def card(width: int, height: int, title: str, parts: Iterable[str]) -> str:
    """Return an SVG file: the parts on a light card, with a title for screen readers."""
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" '
            f'height="{height}" role="img" aria-labelledby="t">',
            f'<title id="t">{html.escape(title)}</title>',
            f"<style>{_STYLE}</style>",
            f'<rect x=".5" y=".5" width="{width - 1}" height="{height - 1}" rx="14" fill="#fbfbf9" '
            'stroke="#d9dde2"/>',
            *parts,
            "</svg>\n",
        ]
    )


def text(
    x: Number,
    y: Number,
    words: str,
    *,
    size: Number = 17,
    fill: str = INK,
    anchor: str = "middle",
    bold: bool = False,
) -> str:
    """Return a line of text. ``c_t`` and ``h_{t-1}`` become letters with an index."""
    weight = ' font-weight="600"' if bold else ""
    return (
        f'<text x="{_n(x)}" y="{_n(y)}" font-size="{_n(size)}" fill="{fill}" text-anchor="{anchor}"{weight}>'
        f"{_indexed(words, size)}</text>"
    )


def _indexed(words: str, size: Number) -> str:
    """Return the text with indices lowered: an index is ``_`` and a sign, or ``_{several}``."""
    shift = _n(size * 0.26)

    def lowered(match: re.Match[str]) -> str:
        index = match[2].strip("{}")
        return (
            f'<tspan font-style="italic">{match[1]}</tspan>'
            f'<tspan dy="{shift}" font-size="{_n(size * 0.74)}">{index}</tspan>'
            f'<tspan dy="-{shift}">&#8203;</tspan>'  # nothing to see, but back on the line
        )

    # SVG shows several spaces as one.
    return re.sub(r"([A-Za-z])_(\{[^}]*\}|\w)", lowered, html.escape(words)).replace("  ", "&#8195;")


def box(
    x: Number,
    y: Number,
    width: Number,
    height: Number,
    colours: tuple[str, str] = BLUE,
    *,
    radius: Number = 10,
    dashed: bool = False,
) -> str:
    """Return a rectangle: fill and stroke."""
    dash = ' stroke-dasharray="6 5"' if dashed else ""
    return (
        f'<rect x="{_n(x)}" y="{_n(y)}" width="{_n(width)}" height="{_n(height)}" rx="{_n(radius)}" '
        f'fill="{colours[0]}" stroke="{colours[1]}" stroke-width="2"{dash}/>'
    )


def wire(
    points: Sequence[tuple[Number, Number]],
    colour: str = WIRE,
    *,
    head: bool = True,
    width: Number = 2.5,
    dashed: bool = False,
) -> str:
    """Return a line through points, with an arrow head at its end."""
    (x0, y0), (x, y) = points[-2:]
    length = float(np.hypot(x - x0, y - y0))
    u, v = (x - x0) / length, (y - y0) / length
    line = [*points[:-1], (x - 8 * u, y - 8 * v)] if head else points
    path = "M" + "L".join(f"{_n(a)} {_n(b)}" for a, b in line)
    dash = ' stroke-dasharray="6 5"' if dashed else ""
    drawn = f'<path d="{path}" fill="none" stroke="{colour}" stroke-width="{_n(width)}"{dash}/>'
    if not head:
        return drawn
    corners = [(x, y), (x - 10 * u - 5 * v, y - 10 * v + 5 * u), (x - 10 * u + 5 * v, y - 10 * v - 5 * u)]
    tip = "L".join(f"{_n(a)} {_n(b)}" for a, b in corners)
    return f'{drawn}<path d="M{tip}z" fill="{colour}"/>'


def pixels(
    x: Number,
    y: Number,
    pixel: Number,
    image: UInt8[np.ndarray, "rows columns"],
    *,
    gap: Number = 0,
    height: Number | None = None,
) -> str:
    """Return an image of grey levels, white ink on black.

    Args:
        x: its left side.
        y: its upper side.
        pixel: the width of a pixel.
        image: the grey levels.
        gap: the space between two rows.
        height: the height of a pixel; by default, its width.
    """
    columns, height = image.shape[1], height or pixel
    parts = []
    for row, values in enumerate(image):
        top = y + row * (height + gap)
        parts.append(
            f'<rect x="{_n(x)}" y="{_n(top)}" width="{_n(columns * pixel)}" height="{_n(height)}" '
            'fill="#10151c"/>'
        )
        for column in np.flatnonzero(values).tolist():
            level = int(values[column])
            parts.append(
                f'<rect x="{_n(x + column * pixel)}" y="{_n(top)}" width="{_n(pixel)}" height="{_n(height)}" '
                f'fill="#{level:02x}{level:02x}{level:02x}"/>'
            )
    return f'<g shape-rendering="crispEdges">{"".join(parts)}</g>'


def _hair(start: tuple[Number, Number], end: tuple[Number, Number]) -> str:
    """Return a thin line between pixels."""
    return wire([start, end], "#59616b", head=False, width=0.6)


def _n(number: Number) -> str:
    return f"{number:.1f}".removesuffix(".0")


# --------------------------------------------------------------------------------------------------
# The cell
# --------------------------------------------------------------------------------------------------

CELL_WIDTH, CELL_HEIGHT = 460, 300
# Where each gate stands, and what squashes its sum.
_GATES = {"f": (130, "σ"), "i": (200, "σ"), "g": (270, "tanh"), "o": (336, "σ")}
_LANE, _BUS, _GATE = 72, 236, 178
ALL = frozenset("figo") | {"inputs", "keep", "new", "add", "memory", "show"}


def _cell(lit: Collection[str]) -> list[str]:
    """Return one LSTM cell of 460 x 300; what is not ``lit`` is faint."""

    def colour(part: str, own: str) -> str:
        return own if part in lit else FAINT

    def knot(x: Number, y: Number, sign: str, part: str) -> str:
        on = part in lit
        circle = (
            f'<circle cx="{x}" cy="{y}" r="13" fill="{"#fff" if on else GREY[0]}" '
            f'stroke="{INK if on else FAINT}" stroke-width="2"/>'
        )
        return circle + text(x, y + 6.5, sign, size=20, fill=INK if on else WIRE, bold=True)

    def gate(name: str) -> str:
        x, squash = _GATES[name]
        on = name in lit
        return (
            box(x - 25, _GATE - 21, 50, 42, SAND if on else GREY, radius=7)
            + text(x, _GATE - 1, name, size=19, fill=INK if on else WIRE, bold=True)
            + text(x, _GATE + 14, squash, size=12, fill=QUIET if on else WIRE)
        )

    f, i, g, o = (_GATES[name][0] for name in "figo")
    meet = (i + g) / 2  # where i and g are multiplied
    end = 396  # where the memory is shown
    kept, written = colour("keep", MEMORY), colour("memory", MEMORY)
    inputs, shown = colour("inputs", OUTPUT), colour("show", OUTPUT)
    return [
        box(66, 34, 364, 226, ("#ffffff", "#aeb8c2"), radius=16),
        # The memory lane.
        wire([(22, _LANE), (f - 14, _LANE)], kept),
        wire([(f + 13, _LANE), (meet - 14, _LANE)], kept),
        wire([(meet + 13, _LANE), (446, _LANE)], written),
        # What the gates read.
        wire([(22, _BUS), (o, _BUS), (o, _GATE + 22)], inputs),
        *(wire([(x, _BUS), (x, _GATE + 22)], inputs) for x in (f, i, g)),
        wire([(90, 290), (90, _BUS)], colour("inputs", INK), head=False),
        f'<circle cx="90" cy="{_BUS}" r="4" fill="{colour("inputs", INK)}"/>',
        # Forget, write.
        wire([(f, _GATE - 21), (f, _LANE + 14)], colour("f", INK)),
        wire([(i, _GATE - 21), (i, 122), (meet - 14, 122)], colour("i", INK)),
        wire([(g, _GATE - 21), (g, 122), (meet + 14, 122)], colour("g", INK)),
        wire([(meet, 109), (meet, _LANE + 14)], colour("new", INK)),
        # Show.
        wire([(end, _LANE), (end, 102)], colour("show", MEMORY)),
        box(end - 23, 102, 46, 26, GREEN if "show" in lit else GREY, radius=7),
        text(end, 120, "tanh", size=14, fill=INK if "show" in lit else WIRE),
        wire([(end, 128), (end, _GATE - 14)], colour("show", MEMORY)),
        wire([(o + 25, _GATE), (end - 14, _GATE)], colour("o", INK)),
        wire([(end, _GATE + 13), (end, _BUS), (446, _BUS)], shown),
        knot(f, _LANE, "×", "keep"),
        knot(meet, _LANE, "+", "add"),
        knot(meet, 122, "×", "new"),
        knot(end, _GATE, "×", "show"),
        *map(gate, _GATES),
        text(20, _LANE - 12, "c_{t-1}", size=18, fill=colour("keep", MEMORY), anchor="start"),
        text(452, _LANE - 12, "c_t", size=18, fill=written, anchor="end"),
        text(20, _BUS - 12, "h_{t-1}", size=18, fill=colour("inputs", OUTPUT), anchor="start"),
        text(452, _BUS - 12, "h_t", size=18, fill=shown, anchor="end"),
        text(104, 290, "x_t", size=18, fill=colour("inputs", INK), anchor="start"),
    ]


def cell() -> str:
    """Draw the whole cell, and say what its parts are."""
    notes = [
        (MEMORY, "memory c", "64 numbers, carried from row to row"),
        (OUTPUT, "output h", "64 numbers, what the cell shows of it"),
        (INK, "input x", "the 28 pixels of one row"),
    ]
    legend = []
    for index, (colour, name, meaning) in enumerate(notes):
        y = 74 + 48 * index
        legend += [text(500, y, name, fill=colour, anchor="start", bold=True)]
        legend += [text(500, y + 20, meaning, size=15, fill=QUIET, anchor="start")]
    gates = [
        ("f", "forget gate: how much memory stays"),
        ("i", "input gate: how much is written"),
        ("g", "candidate: what could be written"),
        ("o", "output gate: how much is shown"),
    ]
    for index, (name, meaning) in enumerate(gates):
        y = 236 + 30 * index
        legend += [box(500, y - 17, 26, 24, SAND, radius=5), text(513, y + 1, name, size=16, bold=True)]
        legend += [text(536, y, meaning, size=15, fill=QUIET, anchor="start")]
    return card(
        870,
        350,
        "An LSTM cell: three gates decide what its memory loses, takes in and shows",
        [f'<g transform="translate(16 18)">{"".join(_cell(ALL))}</g>', *legend],
    )


def gates() -> str:
    """Draw the cell four times, with the parts of one step lit."""
    panels = [
        ("1  Forget", "what stays:  f × c_{t-1}", {"inputs", "f", "keep"}),
        ("2  Write", "what is new:  i × g", {"inputs", "i", "g", "new"}),
        ("3  The new memory", "c_t = f × c_{t-1} + i × g", {"keep", "new", "add", "memory"}),
        ("4  Show", "h_t = o × tanh(c_t)", {"inputs", "o", "memory", "show"}),
    ]
    parts = []
    for index, (name, formula, lit) in enumerate(panels):
        x, y = 14 + 492 * (index % 2), 12 + 388 * (index // 2)
        parts += [
            text(x + 66, y + 30, name, size=20, anchor="start", bold=True),
            f'<g transform="translate({x} {y + 26})">{"".join(_cell(lit))}</g>',
            text(x + 248, y + 352, formula, size=18),
        ]
    return card(980, 790, "The four things a cell does in one step, one after the other", parts)


# --------------------------------------------------------------------------------------------------
# Rows, shapes, directions, programs, epochs
# --------------------------------------------------------------------------------------------------


def data_flow(digit: UInt8[np.ndarray, "28 28"], probabilities: Sequence[float]) -> str:
    """Draw the network unrolled over the 28 rows of a digit, and what it says of it.

    Args:
        digit: an image of MNIST.
        probabilities: what a model gives it, for the ten digits.
    """
    parts = [
        text(40, 58, "state (c, h)", size=19, anchor="start", bold=True),
        text(40, 83, "each (batch, 64)", fill=QUIET, anchor="start"),
        text(488, 58, "one cell, the same weights at all 28 steps", size=19, bold=True),
        '<path d="M214 88V80q0 -6 6 -6H756q6 0 6 6v8" fill="none" stroke="#8592a0" stroke-width="2"/>',
        text(964, 58, "last output h_{28}", size=19, anchor="end", bold=True),
        text(964, 83, "(batch, 64)", fill=QUIET, anchor="end"),
        text(162, 134, "c_0 = 0", size=19, fill=MEMORY, anchor="end"),
        text(162, 170, "h_0 = 0", size=19, fill=OUTPUT, anchor="end"),
        text(40, 248, "images", size=19, anchor="start", bold=True),
        text(40, 272, "(batch, 28, 28)", fill=QUIET, anchor="start"),
        text(412, 332, "28 inputs", size=19, bold=True),
        text(412, 357, "each (batch, 28)", fill=QUIET),
        pixels(40, 284, 7, digit),
        *(_hair((40, 284 + 7 * row), (236, 284 + 7 * row)) for row in range(28)),
        text(138, 512, "28 rows of 28 pixels", size=18),
    ]
    # Each cell, the row that it reads, and the wire from that row in the image.
    steps = [(258, "x_1", 0, 287, 258), (428, "x_2", 1, 294.5, 428), (718, "x_{28}", 27, 476.5, 718)]
    for x, name, row, y, turn in steps:
        parts += [
            wire([(239, y), (turn, y), (turn, 266)], head=False, width=2),
            pixels(x - 44, 250, 88 / 28, digit[row : row + 1], height=13),
            *(
                _hair((x - 44 + 88 / 28 * pixel, 250), (x - 44 + 88 / 28 * pixel, 263))
                for pixel in range(1, 28)
            ),
            wire([(x, 246), (x, 191)]),
            text(x + 12, 228, name, size=19, anchor="start"),
        ]
    parts += [
        wire([(239, 390), (573, 390), (573, 350)], head=False, width=2),
        pixels(529, 250, 88 / 28, digit[2:27], gap=0.75),
        wire([(573, 246), (573, 191)]),
        text(585, 228, "x_3 … x_{27}", size=19, anchor="start"),
    ]
    edges = [(170, 214, ""), (302, 384, "1"), (472, 529, "2"), (617, 674, "27")]
    for left, right, index in edges:
        parts += [
            wire([(left, 128), (right - 2, 128)], MEMORY),
            wire([(left, 164), (right - 2, 164)], OUTPUT),
        ]
        if index:
            middle = (left + right) / 2
            parts += [
                text(middle, 117, f"c_{{{index}}}", size=19, fill=MEMORY),
                text(middle, 188, f"h_{{{index}}}", size=19, fill=OUTPUT),
            ]
    for x in (214, 384, 674):
        parts += [box(x, 104, 88, 84, radius=12), text(x + 44, 154, "LSTM", size=22, bold=True)]
    parts += [box(529, 104, 88, 84, ("#f4f7fc", BLUE[1]), radius=12, dashed=True)]
    parts += [f'<circle cx="{573 + shift}" cy="146" r="4" fill="{BLUE[1]}"/>' for shift in (-16, 0, 16)]
    parts += [
        wire([(762, 164), (848, 164)], OUTPUT),
        text(804, 188, "h_{28}", size=19, fill=OUTPUT),
        box(850, 104, 114, 84, SAND, radius=12),
        text(907, 146, "dense", size=22, bold=True),
        text(907, 171, "64 → 10", fill=QUIET),
        wire([(907, 188), (907, 252)]),
        text(893, 218, "logits", size=19, anchor="end", bold=True),
        text(893, 241, "(batch, 10)", fill=QUIET, anchor="end"),
        box(850, 254, 114, 44, GREEN, radius=12),
        text(907, 283, "softmax", size=22, bold=True),
        wire([(907, 298), (907, 352)]),
        text(893, 326, "probabilities", size=19, anchor="end", bold=True),
        text(893, 349, "(batch, 10)", fill=QUIET, anchor="end"),
    ]
    best = int(np.argmax(probabilities))
    for number, share in enumerate(probabilities):
        edge, height = 761.5 + 20.5 * number, max(1.5, 105 * share)
        bar, ink = (GREEN[1], GREEN[1]) if number == best else ("#9aa6b2", INK)
        parts += [
            f'<rect x="{_n(edge)}" y="{_n(480 - height)}" width="15.5" height="{_n(height)}" fill="{bar}"/>',
            text(edge + 7.75, 503, str(number), size=19, fill=ink, bold=number == best),
        ]
    parts.append(wire([(759, 481), (964, 481)], INK, head=False, width=1.5))
    title = "The 28 rows of an image enter one LSTM cell one after the other; the last output names the digit"
    return card(1000, 548, title, parts)


_SCALE = 0.9  # pixels for each row and column of a matrix


def _matrix(
    x: Number, middle: Number, rows: int, columns: int, name: str, colours: tuple[str, str]
) -> list[str]:
    """Return an array drawn to scale around a middle line, its name above and its shape below."""
    width, height = max(_SCALE * columns, 7), max(_SCALE * rows, 7)
    shape = f"({rows}, {columns})" if rows > 1 else f"({columns},)"
    return [
        box(x, middle - height / 2, width, height, colours, radius=2),
        text(x + width / 2, middle - height / 2 - 10, name, size=18, bold=True),
        text(x + width / 2, middle + height / 2 + 21, shape, size=14.5, fill=QUIET),
    ]


def shapes() -> str:
    """Draw every array of a batch of 128 to scale: one step, then the answer."""
    images, weights, memory, output = ("#e8ebef", INK), SAND, ("#fbe3d6", MEMORY), BLUE
    upper, lower = 158, 410
    parts = [text(30, 46, "One step: row t of 128 images", size=19, anchor="start", bold=True)]
    for shift in (12, 6, 0):
        parts.append(box(40 + shift, upper - 44 - shift, 76, 76, images, radius=3))
    parts += [
        wire([(42, upper - 20), (114, upper - 20)], MEMORY, head=False, width=5),
        text(80, upper + 56, "images", bold=True),
        text(80, upper + 77, "(128, 28, 28)", size=14.5, fill=QUIET),
        wire([(136, upper - 20), (196, upper - 20)]),
        text(166, upper - 32, "row t", size=15, fill=QUIET),
        *_matrix(206, upper, 128, 28, "x_t", images),
        text(254, upper + 6, "@", size=19),
        *_matrix(276, upper, 28, 256, "W_x", weights),
        text(523, upper + 6, "+", size=22),
        *_matrix(546, upper, 128, 64, "h_{t-1}", output),
        text(624, upper + 6, "@", size=19),
        *_matrix(646, upper, 64, 256, "W_h", weights),
        text(893, upper + 6, "+", size=22),
        *_matrix(912, upper, 1, 256, "b", weights),
        text(30, lower - 100, "= z, (128, 256), cut into four", size=19, anchor="start", bold=True),
    ]
    for index, name in enumerate("ifgo"):
        parts += _matrix(52 + 64 * index, lower, 128, 64, name, SAND)[:2]
    parts += [
        text(173, lower + 80, "each (128, 64)", size=14.5, fill=QUIET),
        wire([(318, lower), (372, lower)]),
        *_matrix(382, lower, 128, 64, "c_t", memory),
        *_matrix(462, lower, 128, 64, "h_t", output),
        wire([(530, lower), (606, lower)]),
        text(568, lower - 12, "t = 28", size=15, fill=QUIET),
        text(618, lower - 100, "The answer, after the last row", size=19, anchor="start", bold=True),
        *_matrix(626, lower, 128, 64, "h_{28}", output),
        text(706, lower + 6, "@", size=19),
        *_matrix(730, lower, 64, 10, "W", weights),
        text(772, lower + 6, "+", size=22),
        *_matrix(800, lower, 1, 10, "b", weights),
        text(846, lower + 6, "=", size=22),
        *_matrix(880, lower, 128, 10, "logits", GREEN),
        wire([(904, lower), (944, lower)]),
        text(972, lower + 1, "loss", size=18, bold=True),
        text(972, lower + 20, "( )", size=14.5, fill=QUIET),
    ]
    return card(1170, 510, "The arrays of a batch of 128 images with their shapes, drawn to scale", parts)


def bidirectional() -> str:
    """Draw both directions over the rows, where to read the backward one, and the classic mistake."""
    columns = {1: 310, 2: 460, 0: 590, 27: 720, 28: 870}
    forward, backward, rows = 110, 260, 382
    parts = [
        text(30, forward - 6, "forward: from the top", size=18, anchor="start", bold=True, fill=OUTPUT),
        text(
            30, backward - 48, "backward: from the bottom", size=18, anchor="start", bold=True, fill=SAND[1]
        ),
    ]
    for row, x in columns.items():
        if not row:
            parts += [text(x, y, "…", size=28) for y in (forward + 2, backward + 2, rows + 6)]
            continue
        seen, left = f"rows 1–{row}" if row > 1 else "row 1", f"rows {row}–28" if row < 28 else "row 28"
        parts += [
            wire([(x, rows - 20), (x, backward + 30)], width=1.8),
            wire([(x + 64, rows - 6), (x + 64, forward + 14), (x + 54, forward + 14)], width=1.8),
            wire([(x + 34, rows - 6), (x + 64, rows - 6)], head=False, width=1.8),
            text(x, rows, f"row {row}", size=18),
        ]
        for middle, colours, rows_seen in ((forward, BLUE, seen), (backward, SAND, left)):
            parts += [
                box(x - 52, middle - 30, 104, 60, colours),
                text(x, middle - 6, "has seen", size=13, fill=QUIET),
                text(x, middle + 15, rows_seen, size=16, bold=rows_seen in ("rows 1–28", "row 28")),
            ]
    edges = [(362, 408), (512, 572), (608, 668), (772, 818)]
    for left_end, right_end in edges:
        parts += [
            wire([(left_end, forward - 12), (right_end, forward - 12)], OUTPUT),
            wire([(right_end, backward - 12), (left_end, backward - 12)], SAND[1]),
        ]
    good, bad = GREEN[1], "#b3261e"
    parts += [
        wire([(922, forward - 12), (976, forward - 12)], good, width=4),
        box(978, forward - 42, 182, 60, GREEN),
        text(1069, forward - 17, "✓ read forward", size=16, bold=True, fill=good),
        text(1069, forward + 5, "outputs[:, -1]", size=15),
        wire([(258, backward), (214, backward)], good, width=4),
        box(30, backward - 30, 182, 60, GREEN),
        text(121, backward - 5, "✓ read backward", size=16, bold=True, fill=good),
        text(121, backward + 17, "outputs[:, 0]", size=15),
        wire([(922, backward), (976, backward)], bad, width=4, dashed=True),
        box(978, backward - 30, 182, 80, ("#fdecea", bad)),
        text(1069, backward - 5, "✗ the mistake", size=16, bold=True, fill=bad),
        text(1069, backward + 17, "outputs[:, -1]", size=15),
        text(1069, backward + 37, "its first step", size=15, fill=QUIET),
    ]
    return card(
        1190, 416, "Two directions read the rows; the backward one is read at row 1, its last step", parts
    )


def static_and_dynamic() -> str:
    """Draw a static RNN, 28 cells in the program, beside a dynamic one, one cell in a loop."""
    parts = [
        text(40, 48, "static: unrolled", size=20, anchor="start", bold=True),
        text(40, 74, "28 copies of the cell, with the same weights", size=16, fill=QUIET, anchor="start"),
        text(640, 48, "dynamic: scan", size=20, anchor="start", bold=True),
        text(640, 74, "one cell, and a loop", size=16, fill=QUIET, anchor="start"),
    ]
    names = ["x_1", "x_2", "x_3", "", "x_{28}"]
    for index, name in enumerate(names):
        x = 84 + 104 * index
        if index:
            parts.append(wire([(x - 66, 150), (x - 36, 150)], MEMORY))
        if not name:
            parts.append(text(x, 156, "…", size=26))
            continue
        parts += [
            box(x - 34, 120, 68, 60),
            text(x, 156, "cell", size=18, bold=True),
            wire([(x, 232), (x, 184)]),
            text(x, 254, name, size=18),
        ]
    parts += [
        wire([(84, 284), (500, 284)], head=False, width=1.5),
        text(292, 308, "unstack: 28 arrays (128, 28)", size=16, fill=QUIET),
        box(730, 120, 90, 60),
        text(775, 156, "cell", size=18, bold=True),
        wire([(820, 150), (880, 150), (880, 104), (680, 104), (680, 150), (728, 150)], MEMORY),
        text(892, 132, "28 times", size=16, anchor="start", fill=QUIET),
        wire([(775, 232), (775, 184)]),
        text(775, 254, "x_t", size=18),
        wire([(660, 284), (890, 284)], head=False, width=1.5),
        text(775, 308, "one array (28, 128, 28)", size=16, fill=QUIET),
    ]
    title = "A static RNN has a copy of the cell for each step; a dynamic one has one cell in a loop"
    return card(1000, 336, title, parts)


def epochs() -> str:
    """Draw how images become batches, steps and epochs."""
    parts = [
        text(40, 50, "one epoch: every image once, in a new order", size=19, anchor="start", bold=True),
        box(40, 76, 170, 76, ("#e8ebef", INK)),
        text(125, 108, "55,000 images", size=18, bold=True),
        text(125, 132, "shuffled", size=15, fill=QUIET),
        wire([(212, 114), (268, 114)]),
    ]
    for index, step in enumerate(["1", "2", "3", "…", "429"]):
        x = 276 + 112 * index
        if step == "…":
            parts.append(text(x + 50, 120, step, size=26))
            continue
        parts += [
            box(x, 76, 100, 76),
            text(x + 50, 108, f"step {step}", bold=True),
            text(x + 50, 132, "128 images", size=14, fill=QUIET),
        ]
    parts += [
        box(852, 76, 84, 76, GREY, dashed=True),
        text(894, 108, "88 left", size=16, fill=QUIET),
        text(894, 132, "over", size=14, fill=QUIET),
        text(40, 214, "one step: the weights change once", size=19, anchor="start", bold=True),
    ]
    stages = [
        ("batch", "128 images"),
        ("loss", "how wrong?"),
        ("gradient", "which way is down?"),
        ("Adam", "a step that way"),
    ]
    for index, (name, meaning) in enumerate(stages):
        x = 40 + 240 * index
        parts += [
            box(x, 234, 176, 64, SAND),
            text(x + 88, 262, name, size=18, bold=True),
            text(x + 88, 284, meaning, size=15, fill=QUIET),
        ]
        if index:
            parts.append(wire([(x - 62, 266), (x - 2, 266)]))
    return card(976, 326, "An epoch is 429 steps of 128 images; each step changes the weights once", parts)

"""Sheets with more on them than a digit: lines, frames, a desk around them, dust."""

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
    full_square,
    grain,
    in_the_middle,
    ink_of,
    inked,
    on_sheet,
    placed,
    sheet,
)

_DESK = (0.35, 0.22, 0.12)


def ruled_light(digit: Digit, rng: Generator) -> Drawn:
    ink = on_sheet(digit, rng)
    return as_image(inked(ink, _ruled(ink, (0.72, 0.82, 0.92), pitch=50, thickness=2), PEN))


def ruled_dark(digit: Digit, rng: Generator) -> Drawn:
    ink = on_sheet(digit, rng)
    return as_image(inked(ink, _ruled(ink, (0.45, 0.55, 0.8), pitch=50, thickness=3), PEN))


def ruled_and_margin(digit: Digit, rng: Generator) -> Drawn:
    ink = on_sheet(digit, rng, left=330)
    paper = _ruled(ink, (0.65, 0.75, 0.9), pitch=50, thickness=2)
    paper[:, 130:132] = (0.9, 0.4, 0.4)
    return as_image(inked(ink, paper, PEN))


def squared_light(digit: Digit, rng: Generator) -> Drawn:
    ink = on_sheet(digit, rng)
    return as_image(inked(ink, _squared(ink, (0.75, 0.82, 0.9), pitch=33, thickness=1), PEN))


def squared_dark(digit: Digit, rng: Generator) -> Drawn:
    ink = on_sheet(digit, rng)
    return as_image(inked(ink, _squared(ink, (0.45, 0.5, 0.6), pitch=33, thickness=2), PEN))


def ruled_turned(digit: Digit, rng: Generator) -> Drawn:
    ink = on_sheet(digit, rng)
    return _turned(inked(ink, _ruled(ink, (0.45, 0.5, 0.65), pitch=24, thickness=1), PEN), rng)


def squared_turned(digit: Digit, rng: Generator) -> Drawn:
    ink = on_sheet(digit, rng)
    return _turned(inked(ink, _squared(ink, (0.45, 0.5, 0.65), pitch=24, thickness=1), PEN), rng)


def _turned(colours: Colours, rng: Generator) -> Drawn:
    """A photograph of a sheet that does not lie straight, without its corners."""
    turned = as_image(colours).rotate(float(rng.uniform(-5, 5)), Image.Resampling.BICUBIC)
    return turned.crop((40, 40, 760, 560)), {"format": "JPEG", "quality": 70}


def _ruled(ink: Ink, colour: Colour, pitch: int, thickness: int) -> Colours:
    paper = sheet(ink, PAPER)
    for row in range(thickness):
        paper[row::pitch] = colour
    return paper


def _squared(ink: Ink, colour: Colour, pitch: int, thickness: int) -> Colours:
    paper = _ruled(ink, colour, pitch, thickness)
    for column in range(thickness):
        paper[:, column::pitch] = colour
    return paper


def form_box(digit: Digit, rng: Generator) -> Drawn:
    return _framed(full_square(digit), thickness=4, inset=30)


def frame_at_border(digit: Digit, rng: Generator) -> Drawn:
    return _framed(full_square(digit), thickness=4)


def frame_thin_canvas(digit: Digit, rng: Generator) -> Drawn:
    return _framed(ink_of(digit, 280), thickness=1)


def _framed(ink: Ink, thickness: int, inset: int = 0) -> Drawn:
    """A square sheet with a black frame, `inset` from the border."""
    colours = inked(ink, WHITE, BLACK)
    end = len(ink) - inset
    for edge in (slice(inset, inset + thickness), slice(end - thickness, end)):
        colours[edge, inset:end] = colours[inset:end, edge] = 0
    return as_image(colours)


def paper_on_desk(digit: Digit, rng: Generator) -> Drawn:
    return _on_desk(in_the_middle(digit), rng, slice(50, 550), slice(100, 700))


def desk_at_one_edge(digit: Digit, rng: Generator) -> Drawn:
    return _on_desk(in_the_middle(digit), rng, slice(None), slice(60, None))


def _on_desk(ink: Ink, rng: Generator, rows: slice, columns: slice) -> Drawn:
    """A desk with paper in some rows and columns."""
    behind = sheet(ink, _DESK)
    behind[rows, columns] = PAPER
    return as_image(inked(ink, behind, PEN) + grain(rng, ink))


def paper_texture(digit: Digit, rng: Generator) -> Drawn:
    ink = on_sheet(digit, rng)
    return as_image(inked(ink, PAPER, PEN) + grain(rng, ink, 0.06))


def dust_1(digit: Digit, rng: Generator) -> Drawn:
    return _dusty(digit, rng, 1)


def dust_8(digit: Digit, rng: Generator) -> Drawn:
    return _dusty(digit, rng, 8)


def dust_30(digit: Digit, rng: Generator) -> Drawn:
    return _dusty(digit, rng, 30)


def _dusty(digit: Digit, rng: Generator, specks: int) -> Image.Image:
    image = as_image(inked(on_sheet(digit, rng, 800, 800, side=450), WHITE, BLACK))
    pen = ImageDraw.Draw(image)
    for _ in range(specks):
        y, x = rng.integers(10, 790, 2)
        radius = int(rng.integers(1, 4))
        pen.ellipse((x - radius, y - radius, x + radius, y + radius), fill=(30, 30, 30))
    return image


def scan_speckle(digit: Digit, rng: Generator) -> Drawn:
    ink = on_sheet(digit, rng, 800, 600)
    colours = inked(ink, WHITE, BLACK)
    colours[rng.random(ink.shape) < 0.0005] = 0
    return as_image(colours)


def salt_pepper_small(digit: Digit, rng: Generator) -> Drawn:
    ink = ink_of(digit, 280)
    colours = inked(ink, WHITE, BLACK)
    chance = rng.random(ink.shape)
    colours[chance < 0.01] = 0
    colours[chance > 0.99] = 1
    return as_image(colours)


def stray_stroke(digit: Digit, rng: Generator) -> Drawn:
    image = as_image(inked(placed(ink_of(digit, 450), 800, 800, 250, 250), WHITE, BLACK))
    ImageDraw.Draw(image).line((20, 60, 110, 40), fill=(40, 40, 40), width=7)
    return image

"""Pictures that are not one digit: writing, shapes, several digits, textures, nothing."""

from typing import TypeAlias

import numpy as np
from jaxtyping import Float
from PIL import Image, ImageDraw, ImageFilter, ImageFont

from tests.helpers.pictures.drawing import MNIST, Generator

_TEXT = "the quick brown fox jumps over lazy dog while seven wizards vex jolly gnomes"
_WORDS = _TEXT.split()
_NOT_DIGITS = tuple("ABCDEFGHKMNPQRTUVWXYabdefhkmnprtwy&@#?%")  # nor letters that look like one

Points: TypeAlias = Float[np.ndarray, "points 2"]


def page(rng: Generator) -> Image.Image:
    return _written(rng, "\n".join(" ".join(rng.choice(_WORDS, 5)) for _ in range(9)), 28)


def line(rng: Generator) -> Image.Image:
    return _written(rng, " ".join(rng.choice(_WORDS, 3)), 40)


def word(rng: Generator) -> Image.Image:
    return _written(rng, str(rng.choice(_WORDS)), 100)


def letter(rng: Generator) -> Image.Image:
    return _written(rng, str(rng.choice(_NOT_DIGITS)), 220)


def _written(rng: Generator, text: str, size: int) -> Image.Image:
    image = Image.new("L", (600, 400), 255)
    place = (int(rng.integers(20, 200)), int(rng.integers(20, 150)))
    ImageDraw.Draw(image).text(place, text, font=ImageFont.load_default(size), fill=20)
    return image


def star(rng: Generator) -> Image.Image:
    filled = bool(rng.random() < 0.5)
    return _polygon(rng, np.tile([130.0, 55.0], 5), filled)


def triangle(rng: Generator) -> Image.Image:
    return _polygon(rng, np.full(3, 120.0), filled=False)


def polygon_filled(rng: Generator) -> Image.Image:
    return _polygon(rng, np.full(rng.integers(3, 9), 120.0), filled=True)


def _polygon(rng: Generator, radii: Float[np.ndarray, " corners"], filled: bool) -> Image.Image:
    """Corners in equal steps around the middle, as far from it as `radii` say."""
    middle = 200 + rng.uniform(-30, 30, 2)
    angles = np.arange(len(radii)) * 2 * np.pi / len(radii) + rng.uniform(0, 6)
    corners = _points(middle + radii[:, None] * np.stack([np.cos(angles), np.sin(angles)], axis=1))
    image, pen = _blank()
    if filled:
        pen.polygon(corners, fill=0)
    else:
        pen.line(corners + corners[:2], fill=0, width=int(rng.integers(10, 30)), joint="curve")
    return _soft(image)


def square(rng: Generator) -> Image.Image:
    image, pen = _blank()
    pen.rectangle((100, 100, 300, 290), outline=0, width=20)
    return _soft(image)


def square_filled(rng: Generator) -> Image.Image:
    image, pen = _blank()
    pen.rectangle((100, 100, 300, 290), fill=0)
    return _soft(image)


def disc(rng: Generator) -> Image.Image:
    image, pen = _blank()
    pen.ellipse((100, 100, 300, 290), fill=0)
    return _soft(image)


def cross(rng: Generator) -> Image.Image:
    image, pen = _blank()
    pen.line((90, 90, 300, 310), fill=0, width=25)
    pen.line((300, 90, 90, 310), fill=0, width=25)
    return _soft(image)


def plus(rng: Generator) -> Image.Image:
    image, pen = _blank()
    pen.line((200, 90, 200, 310), fill=0, width=25)
    pen.line((310, 200, 90, 200), fill=0, width=25)
    return _soft(image)


def bars(rng: Generator) -> Image.Image:
    image, pen = _blank()
    for left in range(60, 360, 60):
        pen.rectangle((left, 350 - int(rng.integers(60, 280)), left + 40, 350), fill=0)
    return _soft(image)


def arrow(rng: Generator) -> Image.Image:
    image, pen = _blank()
    pen.line((60, 200, 330, 200), fill=0, width=25)
    pen.line((230, 100, 330, 200, 230, 300), fill=0, width=25)
    return _soft(image)


def smile(rng: Generator) -> Image.Image:
    image, pen = _blank()
    pen.ellipse((80, 80, 320, 320), outline=0, width=14)
    pen.ellipse((140, 150, 165, 180), fill=0)
    pen.ellipse((235, 150, 260, 180), fill=0)
    pen.arc((130, 150, 270, 270), 20, 160, fill=0, width=12)
    return _soft(image)


def scribble(rng: Generator) -> Image.Image:
    path = np.cumsum(rng.normal(0, 40, (25, 2)), axis=0)
    path -= path.mean(axis=0)
    image, pen = _blank()
    within = _points(path / np.abs(path).max() * 150 + 200)
    pen.line(within, fill=0, width=int(rng.integers(8, 25)), joint="curve")
    return _soft(image)


def spiral(rng: Generator) -> Image.Image:
    angles = np.linspace(0, 6 * np.pi, 300)
    image, pen = _blank()
    path = 200 + 7 * angles[:, None] * np.stack([np.cos(angles), np.sin(angles)], axis=1)
    pen.line(_points(path), fill=0, width=int(rng.integers(8, 16)))
    return _soft(image)


def _blank() -> tuple[Image.Image, ImageDraw.ImageDraw]:
    """A white sheet, and what draws on it."""
    image = Image.new("L", (400, 400), 255)
    return image, ImageDraw.Draw(image)


def _soft(image: Image.Image) -> Image.Image:
    return image.filter(ImageFilter.GaussianBlur(1))


def _points(points: Points) -> list[tuple[float, float]]:
    return [(float(x), float(y)) for x, y in points]


def two(rng: Generator) -> Image.Image:
    return _number(rng, 2, gap=40)


def three(rng: Generator) -> Image.Image:
    return _number(rng, 3, gap=40)


def two_close(rng: Generator) -> Image.Image:
    return _number(rng, 2, gap=10)


def two_touching(rng: Generator) -> Image.Image:
    return _number(rng, 2, gap=-6)


def three_touching(rng: Generator) -> Image.Image:
    return _number(rng, 3, gap=-6)


def _number(rng: Generator, count: int, gap: int) -> Image.Image:
    """Digits beside one another, from the second half of the test set."""
    chosen = [Image.fromarray(MNIST[rng.integers(5000, 10_000)]) for _ in range(count)]
    ink = np.zeros((400, 700))
    left = 60
    for digit in chosen:
        large = np.asarray(digit.resize((150, 150), Image.Resampling.BICUBIC))
        columns = np.flatnonzero(large.max(axis=0) > 60)
        large = large[:, columns[0] : columns[-1] + 1]
        place = np.s_[120:270, left : left + large.shape[1]]
        ink[place] = np.maximum(ink[place], large)
        left += large.shape[1] + gap
    return Image.fromarray((255 - ink).astype(np.uint8))


def blank(rng: Generator) -> Image.Image:
    return Image.new("L", (300, 300), int(rng.integers(0, 255)))


def noise(rng: Generator) -> Image.Image:
    return _grey(rng.normal(128, 40, (300, 300)))


def clouds(rng: Generator) -> Image.Image:
    cells = int(rng.integers(3, 20))
    return _grey(rng.normal(128, 60, (cells, cells))).resize((400, 400), Image.Resampling.BICUBIC)


def stripes(rng: Generator) -> Image.Image:
    y, x = np.mgrid[:400, :400]
    angle = rng.uniform(0, 3)
    wave = np.sin((x * np.cos(angle) + y * np.sin(angle)) / rng.uniform(6, 30))
    return _grey((wave > 0) * 255.0)


def checker(rng: Generator) -> Image.Image:
    side = int(rng.integers(10, 60))
    y, x = np.mgrid[:400, :400]
    return _grey((x // side + y // side) % 2 * 255.0)


def gradient(rng: Generator) -> Image.Image:
    return _grey(np.tile(np.linspace(60, 220, 400), (300, 1)))


def _grey(levels: Float[np.ndarray, "height width"]) -> Image.Image:
    return Image.fromarray(np.clip(levels, 0, 255).astype(np.uint8))

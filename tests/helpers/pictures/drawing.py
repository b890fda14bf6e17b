"""What all kinds of pictures are drawn with: digits of MNIST, ink, colours, and files.

`Ink` is how much of the pen there is on each pixel, from 0 to 1. Colours are red, green and blue from 0 to 1.
"""

import gzip
from importlib import resources
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image, ImageFilter

Digit: TypeAlias = UInt8[np.ndarray, "28 28"]
Ink: TypeAlias = Float[np.ndarray, "height width"]
Colours: TypeAlias = Float[np.ndarray, "height width 3"]
Colour: TypeAlias = tuple[float, float, float]
Generator: TypeAlias = np.random.Generator
# A picture, or a picture and the options with which Pillow saves it.
Drawn: TypeAlias = Image.Image | tuple[Image.Image, dict[str, Any]]

WHITE, BLACK = (1.0, 1.0, 1.0), (0.0, 0.0, 0.0)
PAPER, PEN = (0.93, 0.92, 0.88), (0.12, 0.12, 0.18)  # as a camera sees them


def _test_set(name: str, header: int) -> np.ndarray:
    archive = resources.files("lstm_jax.data") / "mnist" / f"t10k-{name}-ubyte.gz"
    return np.frombuffer(gzip.decompress(archive.read_bytes()), np.uint8, offset=header)


MNIST = _test_set("images-idx3", 16).reshape(-1, 28, 28)
LABELS = _test_set("labels-idx1", 8)


def two_of_each(seed: int) -> list[int]:
    """The indices of 20 test images, in the order of their labels."""
    rng = np.random.default_rng(seed)
    return [
        int(index) for label in range(10) for index in rng.choice(np.flatnonzero(label == LABELS), 2, False)
    ]


def save(drawn: Drawn, folder: str | Path, name: str) -> Path:
    """Save what a kind returns, as PNG unless it says otherwise; give the path."""
    image, options = drawn if isinstance(drawn, tuple) else (drawn, {})
    form = options.get("format", "PNG")
    path = Path(folder) / f"{name}.{'jpg' if form == 'JPEG' else form.lower()}"
    image.save(path, **{"format": form, **options})
    return path


def ink_of(digit: Digit, side: int) -> Ink:
    """The digit drawn anew, with smooth edges: `side` pixels for the 28, of which it fills 20."""
    enlarged = Image.fromarray(digit).resize((side, side), Image.Resampling.BICUBIC)
    soft = np.asarray(enlarged.filter(ImageFilter.GaussianBlur(side / 100))) / 255
    return np.clip((soft - 0.35) / 0.3, 0, 1)


def placed(ink: Ink, height: int, width: int, top: int, left: int) -> Ink:
    """Ink on a larger sheet."""
    sheet = np.zeros((height, width))
    sheet[top : top + ink.shape[0], left : left + ink.shape[1]] = ink
    return sheet


def on_sheet(
    digit: Digit,
    rng: Generator,
    height: int = 600,
    width: int = 800,
    side: int = 330,
    top: int | None = None,
    left: int | None = None,
) -> Ink:
    """A digit on a sheet, somewhere unless told where, at least 40 pixels from its edges."""
    top = int(rng.integers(40, height - side - 40)) if top is None else top
    left = int(rng.integers(40, width - side - 40)) if left is None else left
    return placed(ink_of(digit, side), height, width, top, left)


def in_the_middle(digit: Digit) -> Ink:
    """A digit in the middle of a sheet."""
    return placed(ink_of(digit, 330), 600, 800, 135, 235)


def full_square(digit: Digit) -> Ink:
    """A large digit in the middle of a square sheet."""
    return placed(ink_of(digit, 400), 600, 600, 100, 100)


def inked(ink: Ink, paper: Colour | Colours, pen: Colour) -> Colours:
    """The colours of ink on paper."""
    return np.asarray(paper) * (1 - ink[..., None]) + np.asarray(pen) * ink[..., None]


def sheet(ink: Ink, colour: Colour) -> Colours:
    """A blank sheet of the size of some ink, to draw on."""
    return np.ones((*ink.shape, 3)) * colour


def grain(rng: Generator, ink: Ink, strength: float = 0.015) -> Float[np.ndarray, "height width 1"]:
    """The noise of a sensor, equal in all colours."""
    return rng.normal(0, strength, (*ink.shape, 1))


def smooth_noise(rng: Generator, ink: Ink, cells: int, strength: float) -> Float[np.ndarray, "height width"]:
    """Noise that changes over `cells` hills and valleys in either direction."""
    coarse = Image.fromarray(rng.normal(size=(cells, cells)).astype(np.float32))
    height, width = ink.shape
    return strength * np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC))


def as_image(values: Float[np.ndarray, "height width *channels"]) -> Image.Image:
    """A picture of 8 bits."""
    return Image.fromarray(np.rint(np.clip(values, 0, 1) * 255).astype(np.uint8))


def canvas(digit: Digit, paper: Colour = WHITE, pen: Colour = BLACK, side: int = 280) -> Image.Image:
    """A digit as drawn on a screen."""
    return as_image(inked(ink_of(digit, side), paper, pen))

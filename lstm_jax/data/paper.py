"""What is paper: two ways to find it, and how far a picture departs from it.

The light on paper is uneven and its edges are in view, so there is no one right way:

- `even` takes one colour, or an even gradient, from the border of the picture. It is exact for what is drawn
  on a screen or cropped closely, where the strokes may reach the border.
- `local` fills all that is narrower than a given width from its sides (a morphological closing). What is wide
  remains and is paper: the two sides of a shadow, the desk, a margin. Beyond its border the picture is taken
  to go on as it ends, so a frame along the border is wide, too.

`departures` gives them in the order in which they should be tried.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from scipy import ndimage

from lstm_jax.data.decoding import border_of
from lstm_jax.data.images import INK_LEVEL
from lstm_jax.errors import ImageError

Grey = Float[np.ndarray, "height width"]
Colours = Float[np.ndarray, "height width 3"]

LOWEST_CONTRAST = 0.1  # as a share of that from black to white; below it, a picture is blank
# What `local` fills, as shares of the longer side. Strokes are narrower, shadows and desks mostly wider.
WIDTHS = (1 / 4, 1 / 2, 1 / 8)
# Noise departs from the paper by up to this many times its median.
NOISE_EVEN, NOISE_LOCAL = 3, 4.5
DIMMEST = 0.2  # paper that gets less of the strongest light than this shows little but noise


class Departure(NamedTuple):
    """How a picture departs from its paper.

    Attributes:
        ink: how far it does so as a pen would, from 0 to 1.
        unlike: how far it does so in another way, from 0; 1 is as far as the pen. What is lighter than the
            paper where the pen is darker is unlike it, and so is a desk.
    """

    ink: Grey
    unlike: Grey


def departures(colours: Colours) -> Iterator[Departure]:
    """Yield departures from what may be the paper, the likeliest first.

    Raises:
        ImageError: when there is nothing to yield; it says why.
    """
    found = filter(None, _proposals(colours))
    first = next(found, None)
    if first is None:
        raise ImageError(_why_nothing(colours))
    yield first
    yield from found


def _proposals(colours: Colours) -> Iterator[Departure | None]:
    yield even(colours)
    tone = _tone(colours)
    for share in WIDTHS:
        width = max(3, int(share * max(tone.shape)))
        yield local(tone, width)
        yield local(-tone, width)  # a light pen on dark paper


def even(colours: Colours) -> Departure | None:
    """Compute the departure from paper of one colour, or an even gradient. None if there is only noise."""
    paper = _even_paper(colours)
    departure = colours - paper
    # The contrast of the strokes is proportional to the light, so divide by it. A background that is black
    # somewhere does not show how strong the light is.
    light = paper.mean(axis=2, keepdims=True)
    if light.min() > 0.1:
        departure = departure * (light.mean() / light)
    ink = departure @ _main_axis(departure) / np.sqrt(3)  # black and white are sqrt(3) apart
    # An axis has no direction. Choose the one in which the sum of cubes is positive, because the departures
    # of the digit are strong. A plain sum would follow the many slight departures of an uneven background.
    if np.sum(ink**3) < 0:
        ink = -ink
    return _departure(ink, noise=NOISE_EVEN * np.median(np.abs(border_of(ink))))


def local(tone: Grey, width: int) -> Departure | None:
    """Compute the departure of all that is darker than its sides and narrower than `width`, in pixels."""
    # Noise would lift the closing. In small pictures, a stroke may be as fine as the noise.
    smooth = ndimage.uniform_filter(tone, 3, mode="nearest") if min(tone.shape) > 100 else tone
    # A closing with its own way to go on beyond the border would fill what lies along it.
    beyond = np.pad(smooth, width, mode="edge")
    paper = ndimage.grey_closing(beyond, (width, width))[width:-width, width:-width]
    ink = paper - tone
    if paper.min() > 0:  # the contrast is proportional to the light, as in `even`
        ink = ink * paper.mean() / np.maximum(paper, DIMMEST * paper.max())
    ink = ink - np.median(ink)
    found = _departure(ink, noise=NOISE_LOCAL * np.median(np.abs(ink)))
    if found is None:
        return None
    pen = found.ink > 0.5
    around, below = np.median(paper[pen]), np.median(tone[pen])
    other = np.abs(paper - around) / max(float(around - below), 1e-9)
    return found._replace(unlike=np.where(found.ink > INK_LEVEL, 0, other))


def _departure(ink: Grey, noise: float) -> Departure | None:
    strongest = ink.max()
    if strongest < LOWEST_CONTRAST or strongest < 3 * noise:
        return None
    scale = strongest - noise
    return Departure(np.clip((ink - noise) / scale, 0, 1), np.clip(-ink / scale, 0, None))


def _main_axis(differences: Colours) -> Float[np.ndarray, "3"]:
    """Return the axis in colour space along which colours differ most, of length 1.

    It is the first principal component. For grey pictures it is the grey axis; for red on green, red-green.
    """
    return np.linalg.eigh(np.einsum("hwi,hwj->ij", differences, differences))[1][:, -1]


def _tone(colours: Colours) -> Grey:
    """Project colours on the axis along which they differ most from their neighbours; lighter is larger."""
    width = max(3, max(colours.shape) // 8)
    axis = _main_axis(colours - ndimage.uniform_filter(colours, (width, width, 0), mode="nearest"))
    return colours @ (axis if axis.sum() > 0 else -axis) / np.sqrt(3)


def _even_paper(colours: Colours) -> Colours:
    """Estimate one colour, or an even gradient if that fits the border better.

    Because of the medians, the digit may cover the border up to less than half of it.
    """
    height, width, _ = colours.shape
    flat = np.broadcast_to(np.median(border_of(colours), axis=0), colours.shape)
    top, bottom, left, right = (
        np.median(edge, axis=0) for edge in (colours[0], colours[-1], colours[:, 0], colours[:, -1])
    )
    down = np.linspace(-0.5, 0.5, height)[:, None, None]
    across = np.linspace(-0.5, 0.5, width)[None, :, None]
    tilted = (top + bottom + left + right) / 4 + down * (bottom - top) + across * (right - left)

    def misfit(paper: Colours) -> float:
        return float(np.median(np.abs(border_of(colours - paper))))

    return tilted if misfit(tilted) < misfit(flat) else flat


def _why_nothing(colours: Colours) -> str:
    """Say why there is no ink in a picture."""
    contrast = float(np.max(np.ptp(colours.reshape(-1, 3), axis=0)))
    if contrast < LOWEST_CONTRAST:
        return (
            f"no digit found: the image is nearly one colour (contrast {contrast:.0%}, "
            f"expected at least {LOWEST_CONTRAST:.0%})"
        )
    return (
        "no digit found: nothing stands out from the noise; "
        "expected one digit, darker or lighter than its paper"
    )

"""How much an image looks like the digits of MNIST.

A network that knows ten digits names one for whatever it is shown, mostly with a high probability: it has
never seen what is no digit. So its probability holds only for what is like the digits it has learned from.
What counts is how far an image is from the nearest of them.

`likeness` turns this distance into a probability by a logistic curve. It was fitted to 404 test images of
MNIST, a quarter of them from pictures of 13 kinds, and 88 pictures of other things, as if there were ten
digits to one other thing.
"""

import functools
import gzip

import numpy as np
from jaxtyping import Float, UInt8
from scipy import ndimage

from lstm_jax.data.archives import FILENAMES, packaged_folder

EXAMPLES = 10_000  # more are only a little nearer, and take longer to unpack
BLUR = 1.0  # the standard deviation, in pixels, by which strokes may be beside one another
# The distance at which an image is as likely a digit as not, and the one over which the odds change e-fold.
EVEN_ODDS, STEP = 0.48, 0.03

_HEADER = 16  # bytes before the first image of an archive


def likeness(images: UInt8[np.ndarray, "batch 28 28"]) -> Float[np.ndarray, " batch"]:
    """Compute the probability that each image shows a digit, whichever it is."""
    return 1 / (1 + np.exp((distance(images) - EVEN_ODDS) / STEP))


def distance(images: UInt8[np.ndarray, "batch 28 28"]) -> Float[np.ndarray, " batch"]:
    """Compute how far images are from the nearest digit of MNIST, from 0 to 1.4 (no common pixel)."""
    nearest = np.max(_directions(images) @ _learned().T, axis=1)
    return np.sqrt(np.maximum(2 - 2 * nearest, 0))


@functools.cache
def _learned() -> Float[np.ndarray, "examples 784"]:
    """Return the first training images of MNIST, from the package."""
    folder = packaged_folder("mnist")
    assert folder is not None
    with gzip.open(folder / FILENAMES["train"][0]) as archive:
        archive.read(_HEADER)
        pixels = np.frombuffer(archive.read(EXAMPLES * 28 * 28), np.uint8)
    return _directions(pixels.reshape(EXAMPLES, 28, 28))


def _directions(images: UInt8[np.ndarray, "batch 28 28"]) -> Float[np.ndarray, "batch 784"]:
    """Blur images, and scale each, as a vector of its pixels, to length 1."""
    blurred = ndimage.gaussian_filter(images.astype(np.float32), (0, BLUR, BLUR)).reshape(len(images), -1)
    return blurred / np.maximum(np.linalg.norm(blurred, axis=1, keepdims=True), 1e-9)

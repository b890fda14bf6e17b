"""A picture of augmentation: ``python -m lstm_jax.report.augmentation_gallery --output FILE``.

A row shows one digit of each class under one change alone, at the strength that a recipe gives it. The
last rows show all changes together, drawn anew each time. This command makes docs/augmentation.png.
"""

import dataclasses
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image, ImageDraw, ImageFont
from tyro.conf import arg

from lstm_jax import devices
from lstm_jax.augmentation import augment
from lstm_jax.commands import command_line
from lstm_jax.config import NUM_CLASSES, Augmentation, RecipeName, recipe_config
from lstm_jax.data.dataset import Split, load_dataset
from lstm_jax.errors import ConfigError

PROG = "python -m lstm_jax.report.augmentation_gallery"

TOGETHER = 4  # rows with all changes
MAGNIFICATION = 2
GAP = 4
LABEL_WIDTH = 170
FONT_SIZE = 15


@dataclasses.dataclass(frozen=True)
class Gallery:
    """Draw digits as the augmentation of a recipe changes them."""

    output: Annotated[Path, arg(metavar="FILE")]
    """The picture to write: PNG."""
    recipe: RecipeName = "accurate"
    """The recipe whose augmentation to show."""
    seed: int = 0
    """Determines the changes."""

    def run(self) -> int:
        """Write the picture."""
        settings = recipe_config(self.recipe).augmentation
        if not settings.is_active:
            raise ConfigError(
                f"--recipe: got {self.recipe}, which changes no images, expected one that does, as accurate"
            )
        devices.start(devices=None)
        digits = first_of_each_class(load_dataset("mnist").train)
        gallery(digits, settings, seed=self.seed).save(self.output, optimize=True)
        return 0


def first_of_each_class(split: Split, num_classes: int = NUM_CLASSES) -> UInt8[np.ndarray, "classes 28 28"]:
    """Return the first image of each class."""
    images, labels = next(split.batches(1000))
    return np.stack([images[np.flatnonzero(labels == name)[0]] for name in range(num_classes)])


def rows_of(settings: Augmentation) -> Mapping[str, Augmentation]:
    """Return the rows of the picture: a label, and what is changed."""
    alone = {
        f"rotation, {settings.rotation:g} degrees": Augmentation(rotation=settings.rotation),
        f"shift, {settings.shift:g} pixels": Augmentation(shift=settings.shift),
        f"scale, {settings.scale:g}": Augmentation(scale=settings.scale),
        f"shear, {settings.shear:g}": Augmentation(shear=settings.shear),
        f"elastic, {settings.elastic:g} pixels": Augmentation(
            elastic=settings.elastic, smoothness=settings.smoothness
        ),
    }
    alone = {label: change for label, change in alone.items() if change.is_active}
    together = {f"all together, {number}": settings for number in range(1, TOGETHER + 1)}
    return {"as they are": Augmentation(), **alone, **together}


def gallery(images: UInt8[np.ndarray, "digits 28 28"], settings: Augmentation, *, seed: int) -> Image.Image:
    """Draw the picture: dark ink on white, as on paper."""
    key, index = jax.random.key(seed), jnp.arange(len(images))
    rows = [
        np.asarray(augment(jax.random.fold_in(key, row), jnp.asarray(images), index, change))
        for row, change in enumerate(rows_of(settings).values())
    ]
    step = 28 * MAGNIFICATION + GAP
    picture = Image.new("L", (LABEL_WIDTH + len(images) * step, len(rows) * step), 255)
    pen, font = ImageDraw.Draw(picture), ImageFont.load_default(FONT_SIZE)
    for row, (label, changed) in enumerate(zip(rows_of(settings), rows, strict=True)):
        pen.text((GAP, row * step + step // 2), label, fill=0, font=font, anchor="lm")
        for column, image in enumerate(changed):
            picture.paste(_tile(image), (LABEL_WIDTH + column * step, row * step))
    return picture


def _tile(image: Float[np.ndarray, "28 28"]) -> Image.Image:
    pixels = (255 - np.rint(image)).astype(np.uint8)
    side = 28 * MAGNIFICATION
    # A light frame shows where the image ends, which is not where the digit ends.
    tile = Image.fromarray(pixels).resize((side, side), Image.Resampling.NEAREST)
    ImageDraw.Draw(tile).rectangle((0, 0, side - 1, side - 1), outline=225)
    return tile


if __name__ == "__main__":
    command_line.run(lambda: command_line.parse(Gallery, sys.argv[1:], prog=PROG).run(), prog=PROG)

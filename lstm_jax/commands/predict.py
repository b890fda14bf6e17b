"""``python -m lstm_jax predict``: name the digits in pictures.

Nothing heavy is imported here, as in `lstm_jax.config`.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from lstm_jax.commands import command_line
from lstm_jax.errors import ImageError
from lstm_jax.options import shown_option

if TYPE_CHECKING:
    import numpy as np

    from lstm_jax.runs.trained import Trained


@dataclass(frozen=True)
class Predict:
    """Name the digit in each image: any format that Pillow reads, any size, dark on light or light on dark.

    It should show one digit, upright, apart from other writing, and a thirtieth of the picture or larger.
    Shadows, a desk, a frame, and lines from edge to edge, level or upright to 5 degrees, may be in view;
    strong patterns may not.
    """

    run_dir: command_line.RunDir
    images: Annotated[
        tuple[Path, ...],
        tyro.conf.Positional,
        tyro.conf.arg(metavar="IMAGE ...", help_behavior_hint="(at least one)"),
    ]
    """Image files."""
    show: Annotated[Path | None, shown_option("DIR", "none")] = None
    """Write into this folder, for each image, the picture, its ink, and what the network reads."""
    seed: command_line.ChosenSeed = None
    """Which of the models of a run of many seeds."""
    best: command_line.ChosenBest = False

    def run(self) -> int:
        """Print one line per image; an unreadable image is an error, but does not stop the others."""
        if not self.images:
            raise ImageError("no image given: name at least one image file after the run directory")
        from lstm_jax import devices
        from lstm_jax.data.pictures import read_picture, side_by_side
        from lstm_jax.runs.trained import load_trained

        devices.start(devices=None)
        trained = load_trained(self.run_dir, seed=self.seed, best=self.best, report=command_line.note)
        if self.show is not None:
            self.show.mkdir(parents=True, exist_ok=True)
        failed = False
        for number, path in enumerate(self.images, start=1):
            try:
                picture = read_picture(path)
                if self.show is not None:
                    side_by_side(picture).save(self.show / f"{number}-{path.stem}.png")
                print(_answer(path, probabilities_of(trained, picture.digits)))
            except ImageError as error:
                command_line.complain(command_line.program(), str(error))
                failed = True
        return int(failed)


def probabilities_of(trained: "Trained", digits: "list[np.ndarray]") -> "np.ndarray":
    """Compute, for MNIST images, the probability that each is a digit of each class.

    The network knows ten classes and nothing else. If it has learned MNIST, its probabilities are multiplied
    by that of the image being a digit at all.
    """
    import numpy as np

    from lstm_jax.data.likeness import likeness

    images = np.stack(digits)
    known = trained.probabilities(images)
    if trained.config.data.dataset != "mnist":
        return known
    return known * likeness(images)[:, np.newaxis]


def _answer(path: Path, probabilities: "np.ndarray") -> str:
    """Say which digit it is, with its probability.

    Raises:
        ImageError: if there are several.
    """
    names = [str(row.argmax()) for row in probabilities]
    if len(names) > 1:
        raise ImageError(
            f"{path}: {len(names)} digits, expected one; crop the picture to one of them "
            f"(from left to right, they look like {', '.join(names)})"
        )
    return f"{path}: {names[0]} (probability {probabilities.max():.4f})"

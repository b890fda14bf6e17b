"""``python -m lstm_jax predict``: name the digits in pictures.

Nothing heavy is imported here, as in `lstm_jax.config`.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from lstm_jax.commands import command_line
from lstm_jax.errors import ImageError


@dataclass(frozen=True)
class Predict:
    """Name the digit in each image: PNG or JPEG, any size, dark on light or light on dark."""

    run_dir: command_line.RunDir
    images: Annotated[tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(metavar="IMAGE ...")]
    """Image files."""
    seed: command_line.ChosenSeed = None
    """Which of the models of a run of many seeds."""
    best: command_line.ChosenBest = False

    def run(self) -> int:
        """Print one line per image; an unreadable image is an error, but does not stop the others."""
        if not self.images:
            raise ImageError("no image given: name at least one PNG or JPEG file after the run directory")
        import numpy as np

        from lstm_jax import devices
        from lstm_jax.data.pictures import read_digit
        from lstm_jax.runs.trained import load_trained

        devices.start(devices=None)
        trained = load_trained(self.run_dir, seed=self.seed, best=self.best, report=command_line.note)
        failed = False
        for path in self.images:
            try:
                probabilities = trained.probabilities(read_digit(path)[np.newaxis])[0]
            except ImageError as error:
                command_line.complain(command_line.program(), str(error))
                failed = True
            else:
                digit = int(np.argmax(probabilities))
                print(f"{path}: {digit} (probability {probabilities[digit]:.4f})")
        return int(failed)

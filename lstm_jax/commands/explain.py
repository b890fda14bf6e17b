"""``python -m lstm_jax explain``: pictures of what a trained model does.

Nothing heavy is imported here, as in `lstm_jax.config`.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from lstm_jax.commands.command_line import ArchiveDir, ChosenBest, ChosenSeed, DataDir, load_data, note
from lstm_jax.errors import ConfigError, RunDirectoryError
from lstm_jax.options import shown_option

if TYPE_CHECKING:
    from lstm_jax.data.dataset import Dataset
    from lstm_jax.explain.files import Digit


@dataclass(frozen=True)
class Explain:
    """Draw what a trained model does: how it reads a digit, its memory, its learning curves and mistakes."""

    run_dirs: Annotated[
        tuple[Path, ...],
        tyro.conf.Positional,
        tyro.conf.arg(
            metavar="RUN_DIR ...",
            help="Folder of a trained run; more runs are drawn into its learning curves.",
        ),
    ]
    output: Annotated[Path | None, shown_option("DIR", "explanation in RUN_DIR")] = None
    """Folder for the pictures, PNG and SVG."""
    digit: Annotated[str, tyro.conf.arg(metavar="INDEX|IMAGE")] = "0"
    """What the picture of reading shows: the number of a test image, or an image file."""
    data_dir: DataDir = None
    """Folder of prepared data sets."""
    archive_dir: ArchiveDir = None
    """Folder with the four original .gz archives of the data set, if it is not prepared yet."""
    seed: ChosenSeed = None
    """Which of the models of a run of many seeds."""
    best: ChosenBest = False

    def run(self) -> int:
        """Write the pictures, and print the name of each file."""
        if not self.run_dirs:
            raise RunDirectoryError("no run given: name at least one RUN_DIR, the folder of a trained run")
        from lstm_jax import devices
        from lstm_jax.explain.files import write_explanation
        from lstm_jax.report.drawing import require_matplotlib
        from lstm_jax.report.files import make_folder
        from lstm_jax.runs.history import records_of
        from lstm_jax.runs.run_directory import refuse_links_on_the_way
        from lstm_jax.runs.trained import load_trained

        require_matplotlib()
        run_dir = self.run_dirs[0]
        folder = self.output or run_dir / "explanation"
        refuse_links_on_the_way(run_dir, folder)
        names = [path.resolve().name for path in self.run_dirs]
        if len(set(names)) < len(names):
            names = [str(path) for path in self.run_dirs]
        runs = dict(zip(names, map(records_of, self.run_dirs), strict=True))
        devices.start(devices=None)
        trained = load_trained(run_dir, seed=self.seed, best=self.best, report=note)
        dataset = load_data(trained.config.data, self.data_dir, self.archive_dir)
        digit = self._digit(dataset)
        for path in write_explanation(trained, dataset, digit, runs, make_folder(folder)):
            print(path, flush=True)
        return 0

    def _digit(self, dataset: "Dataset") -> "Digit":
        """Return the image that is to be read."""
        import numpy as np

        from lstm_jax.data.pictures import read_digit
        from lstm_jax.explain.files import Digit

        if not self.digit.isdecimal():
            return Digit(read_digit(self.digit), Path(self.digit).name)
        index, count = int(self.digit), len(dataset.test)
        if index >= count:
            raise ConfigError(
                f"--digit: got {self.digit}, expected the number of a test image, 0 to {count - 1}, or a file"
            )
        image, label = next(dataset.test.batches(1, order=np.array([index])))
        return Digit(image[0], f"Test image {index} of {dataset.name}, of class {label[0]}")

"""``python -m lstm_jax evaluate``: what a trained model does on the test images.

Nothing heavy is imported here, as in `lstm_jax.config`.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from lstm_jax.commands.command_line import (
    ArchiveDir,
    ChosenBest,
    ChosenSeed,
    DataDir,
    RunDir,
    load_data,
    note,
    which_model,
)
from lstm_jax.options import check, shown_option, whole_number


@dataclass(frozen=True)
class Evaluate:
    """Score the newest state of a run on the test images: accuracy, calibration, confusions, errors."""

    run_dir: RunDir
    output: Annotated[Path | None, shown_option("DIR", "none")] = None
    """Folder for evaluation.json and pictures of the confusions, the calibration and the errors."""
    mistakes: Annotated[int, whole_number(0, 10**6)] = 20
    """How many misclassified images to list, the most confident first; evaluation.json lists all."""
    data_dir: DataDir = None
    """Folder of prepared data sets."""
    archive_dir: ArchiveDir = None
    """Folder with the four original .gz archives of the data set, if it is not prepared yet."""
    seed: ChosenSeed = None
    """Which of the models of a run of many seeds."""
    best: ChosenBest = False

    def __post_init__(self) -> None:
        """Refuse a negative number."""
        check(self)

    def run(self) -> int:
        """Print the evaluation, and write it where asked to."""
        from lstm_jax import devices
        from lstm_jax.report.figures import as_text, compute_figures
        from lstm_jax.report.files import write_report
        from lstm_jax.runs.run_directory import refuse_links_on_the_way
        from lstm_jax.runs.trained import load_trained

        if self.output is not None:
            refuse_links_on_the_way(self.run_dir, self.output)
        devices.start(devices=None)
        trained = load_trained(self.run_dir, seed=self.seed, best=self.best, report=note)
        dataset = load_data(trained.config.data, self.data_dir, self.archive_dir)
        figures = compute_figures(trained.predictions(dataset.test))
        print(f"{self.run_dir}, {which_model(trained, dataset)}")
        print(as_text(figures, most_mistakes=self.mistakes))
        if self.output is not None:
            about = {
                "run": self.run_dir.name,
                "seed": trained.seed,
                "step": trained.step,
                "dataset": dataset.name,
                "split": "test",
            }
            write_report(figures, dataset.test, self.output, about=about, report=note)
        return 0

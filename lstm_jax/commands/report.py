"""``python -m lstm_jax report``: a run as one page.

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
from lstm_jax.options import shown_option


@dataclass(frozen=True)
class Report:
    """Make one page of a run: its options, learning curves, confusions, calibration and mistakes."""

    run_dir: RunDir
    output: Annotated[Path | None, shown_option("FILE", "report.html in RUN_DIR")] = None
    """The page to write: one file of HTML that needs no others."""
    data_dir: DataDir = None
    """Folder of prepared data sets."""
    archive_dir: ArchiveDir = None
    """Folder with the four original .gz archives of the data set, if it is not prepared yet."""
    seed: ChosenSeed = None
    """Which of the models of a run of many seeds."""
    best: ChosenBest = False

    def run(self) -> int:
        """Write the page, and print its name."""
        from lstm_jax import devices
        from lstm_jax.report.drawing import require_matplotlib
        from lstm_jax.report.figures import compute_figures
        from lstm_jax.report.run_page import run_page
        from lstm_jax.runs.history import records_of
        from lstm_jax.runs.run_directory import read_summary, refuse_links_on_the_way
        from lstm_jax.runs.trained import load_trained
        from lstm_jax.system.files import check_target, write_whole

        require_matplotlib()
        output = self.output or self.run_dir / "report.html"
        refuse_links_on_the_way(self.run_dir, output)
        devices.start(devices=None)
        trained = load_trained(self.run_dir, seed=self.seed, best=self.best, report=note)
        check_target(output, overwrite=True, advice="name a file with --output")
        dataset = load_data(trained.config.data, self.data_dir, self.archive_dir)
        text = run_page(
            self.run_dir.resolve().name,
            trained.config,
            about=which_model(trained, dataset),
            seeds=records_of(self.run_dir),
            summary=read_summary(self.run_dir),
            figures=compute_figures(trained.predictions(dataset.test)),
            split=dataset.test,
        )
        write_whole(output, text)
        print(output)
        return 0

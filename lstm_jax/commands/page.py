"""``python -m lstm_jax page``: a page where one draws a digit and watches it being read.

Nothing heavy is imported here, as in `lstm_jax.config`.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from tyro.conf import arg

from lstm_jax.commands.command_line import (
    ArchiveDir,
    ChosenBest,
    ChosenSeed,
    DataDir,
    RunDir,
    load_data,
    note,
)

# A page is sent and opened as one file, on phones too. Two bidirectional layers of 64 units fit.
USUAL_SIZE = 1_000_000


@dataclass(frozen=True)
class Page:
    """Make one HTML file, for any browser, in which the trained model reads the digit that one draws."""

    run_dir: RunDir
    output: Annotated[Path, arg(metavar="FILE")] = Path("page.html")
    """The file to write."""
    data_dir: DataDir = None
    """Folder of prepared data sets."""
    archive_dir: ArchiveDir = None
    """Folder with the four original .gz archives of the data set, if it is not prepared yet."""
    seed: ChosenSeed = None
    """Which of the models of a run of many seeds."""
    best: ChosenBest = False

    def run(self) -> int:
        """Write the page."""
        from lstm_jax import devices
        from lstm_jax.explain.page.page import check_run, page
        from lstm_jax.runs.run_directory import refuse_links_on_the_way
        from lstm_jax.runs.trained import load_trained
        from lstm_jax.system.files import check_target, write_whole

        refuse_links_on_the_way(self.run_dir, self.output)
        check_target(self.output, overwrite=True, advice="name a file with --output")
        devices.start(devices=None)
        trained = load_trained(self.run_dir, seed=self.seed, best=self.best, report=note)
        check_run(trained.config)
        if trained.config.model.dtype != "float32":
            note(f"the run computes in {trained.config.model.dtype}, the page in float32: digits may differ")
        dataset = load_data(trained.config.data, self.data_dir, self.archive_dir)
        html = page(trained, dataset.test, name=self.run_dir.resolve().name)
        write_whole(self.output, html)
        size = len(html.encode())
        if size > USUAL_SIZE:
            note(f"{self.output} has {size:,} bytes: a smaller --hidden-size makes a page that opens sooner")
        print(f"{self.output}: {size:,} bytes; open it in a browser")
        return 0

"""``python -m lstm_jax evaluate``: what a trained model does on the test images.

Nothing heavy is imported here, as in `lstm_jax.config`.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from lstm_jax.commands.command_line import ChosenBest, ChosenSeed, RunDir, note
from lstm_jax.config import DataOptions
from lstm_jax.options import check, shown_option, whole_number

if TYPE_CHECKING:
    from lstm_jax.data.dataset import Dataset


@dataclass(frozen=True)
class Evaluate:
    """Score the newest state of a run on the test images: accuracy, calibration, confusions, errors."""

    run_dir: RunDir
    output: Annotated[Path | None, shown_option("DIR", "none")] = None
    """Folder for evaluation.json and pictures of the confusions, the calibration and the errors."""
    mistakes: Annotated[int, whole_number(0, 10**6)] = 20
    """How many misclassified images to list, the most confident first; evaluation.json lists all."""
    data_dir: Annotated[Path | None, shown_option("DIR", "the one the run was trained with")] = None
    """Folder of prepared data sets."""
    archive_dir: Annotated[Path | None, shown_option("DIR", "none")] = None
    """Folder with the four original .gz archives of the data set, if it is not prepared yet."""
    seed: ChosenSeed = None
    """Which of the models of a run of many seeds."""
    best: ChosenBest = False

    def __post_init__(self) -> None:
        """Refuse a negative number."""
        check(self)

    def run(self) -> int:
        """Print the evaluation, and write it where asked to."""
        import jax

        from lstm_jax import devices, evaluation
        from lstm_jax.report.figures import as_text, compute_figures
        from lstm_jax.report.files import write_report
        from lstm_jax.runs.run_directory import refuse_links_on_the_way
        from lstm_jax.runs.trained import load_trained

        if self.output is not None:
            refuse_links_on_the_way(self.run_dir, self.output)
        devices.start(devices=None)
        trained = load_trained(self.run_dir, seed=self.seed, best=self.best, report=note)
        dataset = dataset_of(trained.config.data, self.data_dir, self.archive_dir)
        mesh = devices.make_mesh(devices=None, batch_size=evaluation.BATCH_SIZE)
        predict = evaluation.compile_predict(trained.model, mesh)
        # They were read to one device; here there may be several.
        params = jax.device_put(trained.params, devices.replicated(mesh))
        figures = compute_figures(evaluation.predict(predict, params, dataset.test, mesh=mesh))
        seed = f"seed {trained.seed}, " if trained.config.seeds > 1 else ""
        images = f"{len(dataset.test):,} test images of {dataset.name}"
        print(f"{self.run_dir}, {seed}step {trained.step}, on {images}")
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


def dataset_of(trained: DataOptions, data_dir: Path | None, archive_dir: Path | None) -> "Dataset":
    """Load the data set from where the user says, else from where it was in training, which is only read.

    The run directory may come from somebody else: no folder that its config.json names is written to.

    Args:
        trained: what the run was trained on.
        data_dir: folder of prepared data sets, if the user names one.
        archive_dir: folder of the original archives, if the user names one.
    """
    from lstm_jax.data.dataset import load_dataset
    from lstm_jax.data.prepared import version_dir

    name, there = trained.dataset, trained.data_dir
    if data_dir is None and there is not None and version_dir(name, there).is_dir():
        return load_dataset(name, data_dir=there, archive_dir=archive_dir, read_only=True, report=note)
    if data_dir is None and there is not None:
        note(f"No {name} in {there}, where it was in training; --data-dir names another folder")
    return load_dataset(name, data_dir=data_dir, archive_dir=archive_dir, report=note)

"""``python -m lstm_jax COMMAND``: what can be done besides training."""

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Annotated, Protocol

import numpy as np
import tyro

from lstm_jax.commands import command_line
from lstm_jax.commands.benchmark import Benchmark
from lstm_jax.commands.command_line import note as _note
from lstm_jax.commands.compare import Compare
from lstm_jax.commands.exchange import Export, Import
from lstm_jax.config import ChosenBest, ChosenSeed, Config, shown_option
from lstm_jax.errors import ConfigError, ImageError, printable

if TYPE_CHECKING:
    from lstm_jax.data.dataset import Dataset

PROG = "python -m lstm_jax"

RunDir = Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN_DIR")]


class Command(Protocol):
    """A command: its fields are the options, its docstring the help."""

    def run(self) -> int:
        """Do it; returns the exit code."""


@dataclass(frozen=True)
class Evaluate:
    """Score the newest state of a run on the test images: accuracy, calibration, confusions, mistakes."""

    run_dir: RunDir
    """Folder that train.py wrote."""
    output: Annotated[Path | None, shown_option("DIR", "none")] = None
    """Folder for evaluation.json and pictures of the confusions, the calibration and the mistakes."""
    mistakes: int = 20
    """How many of the wrongly named images to list; evaluation.json lists them all."""
    data_dir: Annotated[Path | None, shown_option("DIR", "the one the run was trained with")] = None
    """Folder of prepared data sets."""
    archive_dir: Annotated[Path | None, shown_option("DIR", "none")] = None
    """Folder with the four original .gz archives of the data set, if it is not prepared yet."""
    seed: ChosenSeed = None
    """Which of the models of a run of many seeds."""
    best: ChosenBest = False

    def __post_init__(self) -> None:
        """Refuse a negative number."""
        if self.mistakes < 0:
            raise ConfigError(f"--mistakes: got {self.mistakes}, expected 0 or more")

    def run(self) -> int:
        """Print the evaluation, and write it where asked to."""
        import jax

        from lstm_jax import devices, evaluation
        from lstm_jax.report import figures
        from lstm_jax.report.files import write_report
        from lstm_jax.runs.run_directory import refuse_links_on_the_way
        from lstm_jax.runs.trained import load_trained

        if self.output is not None:
            refuse_links_on_the_way(self.run_dir, self.output)
        devices.start(devices=None)
        trained = load_trained(self.run_dir, seed=self.seed, best=self.best, report=_note)
        dataset = self._dataset(trained.config)
        mesh = devices.make_mesh(devices=None, batch_size=evaluation.BATCH_SIZE)
        predict = evaluation.compile_predict(trained.model, mesh)
        # They were read to one device, and here there may be several.
        params = jax.device_put(trained.params, devices.replicated(mesh))
        report = figures.report_on(evaluation.predict(predict, params, dataset.test, mesh=mesh))
        seed = f"seed {trained.seed}, " if trained.config.seeds > 1 else ""
        images = f"{len(dataset.test):,} test images of {dataset.name}"
        print(f"{self.run_dir}, {seed}step {trained.step}, on {images}")
        print(figures.as_text(report, most_mistakes=self.mistakes))
        if self.output is not None:
            about = {
                "run": self.run_dir.name,
                "seed": trained.seed,
                "step": trained.step,
                "dataset": dataset.name,
                "split": "test",
            }
            write_report(report, dataset.test, self.output, about=about, note=_note)
        return 0

    def _dataset(self, config: Config) -> "Dataset":
        """The data set, from where the user says; else from where it was while training, which is only read.

        The run directory may come from somebody else: what its config.json names is no place to write to.
        """
        from lstm_jax.data.dataset import load_dataset
        from lstm_jax.data.prepared import version_dir

        there = config.data_dir
        if self.data_dir is None and there is not None and version_dir(config.dataset, there).is_dir():
            return load_dataset(
                config.dataset, data_dir=there, archive_dir=self.archive_dir, read_only=True, report=_note
            )
        if self.data_dir is None and there is not None:
            _note(
                f"No {config.dataset} in {there}, where it was in training; --data-dir names another folder"
            )
        return load_dataset(
            config.dataset, data_dir=self.data_dir, archive_dir=self.archive_dir, report=_note
        )


@dataclass(frozen=True)
class Predict:
    """Name the digit in each image: PNG or JPEG, any size, dark on light or light on dark."""

    run_dir: RunDir
    """Folder that train.py wrote."""
    images: Annotated[tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(metavar="IMAGE ...")]
    """Image files."""
    seed: ChosenSeed = None
    """Which of the models of a run of many seeds."""
    best: ChosenBest = False

    def run(self) -> int:
        """Print one line per image; one that cannot be read is an error, but does not stop the others."""
        if not self.images:
            raise ImageError("no image given: name at least one PNG or JPEG file after the run directory")
        from lstm_jax import devices
        from lstm_jax.data.images import read_digit
        from lstm_jax.runs.trained import load_trained

        devices.start(devices=None)
        trained = load_trained(self.run_dir, seed=self.seed, best=self.best, report=_note)
        failed = False
        for path in self.images:
            try:
                probabilities = trained.probabilities(read_digit(path)[np.newaxis])[0]
            except ImageError as error:
                print(f"{PROG}: error: {printable(str(error))}", file=sys.stderr)
                failed = True
            else:
                digit = int(np.argmax(probabilities))
                print(f"{path}: {digit} (probability {probabilities[digit]:.4f})")
        return int(failed)


COMMANDS: Mapping[str, Callable[..., Command]] = MappingProxyType(
    {
        "evaluate": Evaluate,
        "predict": Predict,
        "benchmark": Benchmark,
        "compare": Compare,
        "export": Export,
        "import": Import,
    }
)


def usage() -> str:
    """The commands, a line each."""
    lines = [f"usage: {PROG} COMMAND ...", "", "commands (COMMAND --help says more):"]
    lines += [f"  {name:10} {(kind.__doc__ or '').splitlines()[0]}" for name, kind in COMMANDS.items()]
    lines += ["", "To train: python train.py"]
    return "\n".join(lines)


def main(args: list[str]) -> int:
    """Run one command."""
    if not args or args[0] in ("-h", "--help"):
        print(usage())
        return 0 if args else command_line.USAGE_EXIT_CODE
    if args[0] not in COMMANDS:
        command_line.fail(
            PROG,
            f"unknown command {args[0]!r}, expected one of {', '.join(COMMANDS)}",
            code=command_line.USAGE_EXIT_CODE,
        )
    prog = f"{PROG} {args[0]}"
    return command_line.parse(COMMANDS[args[0]], args[1:], prog=prog).run()


if __name__ == "__main__":
    command_line.run(lambda: main(sys.argv[1:]), prog=PROG)

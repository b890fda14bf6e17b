"""The command: its folder, its lock, and how it ends, done or stopped."""

import dataclasses
import sys
from pathlib import Path

from filelock import FileLock, Timeout

from lstm_jax.compare import continuing
from lstm_jax.compare.beginning import beginning
from lstm_jax.compare.comparison import compare
from lstm_jax.compare.frameworks import FRAMEWORKS
from lstm_jax.compare.options import Compare
from lstm_jax.compare.report import as_text, write_report
from lstm_jax.compare.results import Results, as_json, read_results
from lstm_jax.compare.work import Examples
from lstm_jax.data.dataset import load_dataset
from lstm_jax.errors import ConfigError
from lstm_jax.system.files import write_whole
from lstm_jax.system.signals import StopSignals


def run(options: Compare) -> int:
    """Compare, write results.json, the pictures and the page, and print the tables.

    If it is stopped before its end, what is saved so far is reported, and the same command goes on with it.

    Raises:
        UserError: before anything is measured, if it cannot be done.
        KeyboardInterrupt: if it was stopped.
    """
    against = None if options.against is None else read_results(options.against)
    options.folder.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(options.folder / ".lock", timeout=0):
            return _run(options, against)
    except Timeout as error:
        raise ConfigError(
            f"--output: another comparison is running in {options.folder}; wait for it, or name another"
        ) from error


def _run(options: Compare, against: Results | None) -> int:
    """The same in a folder that is ours."""
    file = options.folder / "results.json"
    dataset = load_dataset("mnist", data_dir=options.data_dir, report=_tell)
    train, test = Examples.of(dataset.train), Examples.of(dataset.test)
    chosen = {name: FRAMEWORKS[name] for name in options.names()}
    earlier = None
    if file.exists() and not options.overwrite:
        earlier = continuing.earlier_part(file, beginning(options, chosen, test))
        if against is not None and against.date == earlier.date:
            raise ConfigError(
                f"--against: {options.against} is the very comparison that would go on in {options.folder}; "
                "give --overwrite to measure anew, or name another --output"
            )
        _tell(f"{file} is there; --overwrite begins anew")
    latest: list[Results] = [] if earlier is None else [earlier]

    def save(results: Results) -> None:
        latest[:] = [results]
        write_whole(file, as_json(results))

    logs = options.folder / "logs"
    # Signals are held back while the report is written: Ctrl-C twice in haste does not cost it.
    with StopSignals() as signals:
        try:
            with signals.at_once():
                compare(options, chosen, train, test, logs=logs, save=save, report=_tell, earlier=earlier)
        except KeyboardInterrupt:
            if latest:
                _tell("stopped; writing the report of what is known")
                others = (note for note in latest[0].notes if note != continuing.STOPPED)
                stopped = (*others, continuing.STOPPED)
                _report(dataclasses.replace(latest[0], notes=stopped), options.folder, against)
            raise
        _report(latest[0], options.folder, against)
    return 0


def _report(results: Results, folder: Path, against: Results | None) -> None:
    write_report(results, folder, against=against)
    print(as_text(results, against))
    _tell(f"written to {folder}: results.json, report.html, pictures")


def _tell(text: str) -> None:
    """Tell how far we are: standard output is for results."""
    print(text, file=sys.stderr, flush=True)

"""``python train.py`` and ``python -m lstm_jax train``: train, or continue, one run."""

import argparse
import contextlib
import dataclasses
import functools
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import tyro

from lstm_jax import config
from lstm_jax.cluster.options import ClusterOptions
from lstm_jax.commands import command_line
from lstm_jax.errors import one_line
from lstm_jax.recipes import RECIPES
from lstm_jax.runs.console import TerminalConsole
from lstm_jax.system.signals import StopSignals

if TYPE_CHECKING:
    from lstm_jax.runs.finished import TrainResult


@dataclasses.dataclass(frozen=True, kw_only=True)
class Train:
    """Train an LSTM that reads an image as a sequence and names what it shows.

    Every option has the value of the original tutorial unless you give another one. Running the
    same command again continues an unfinished run.
    """

    run: Annotated[config.Config, tyro.conf.arg(name="", help="")] = dataclasses.field(
        default_factory=config.Config
    )
    cluster: ClusterOptions = dataclasses.field(default_factory=ClusterOptions)


def read_options(args: Sequence[str], *, prog: str = "train.py") -> Train:
    """Return what the command line asks for: a recipe, and what overrides it; and the processes that train.

    Args:
        args: the words after the program's name.
        prog: the program's name in help and messages.

    Raises:
        SystemExit: with code 0 after ``--help``, with code 2 after a mistake, told in one line.
        ConfigError: if an option has an impossible value.
    """
    first = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    first.add_argument("--recipe", nargs="?")
    first.add_argument("--epochs", nargs="?", default=argparse.SUPPRESS)
    given = vars(first.parse_known_args(args)[0])
    # The full parser refuses an unknown recipe: it knows how to say it.
    name = given["recipe"] if given["recipe"] in RECIPES else "tutorial"
    # As an override, so that the recipe's steps make way; the full parser reads the value.
    length = {"epochs": config.Config.epochs} if "epochs" in given else {}
    default = config.recipe_config(name, **length)
    return command_line.parse(Train, args, prog=prog, default=Train(run=default))


def read_config(args: Sequence[str]) -> config.Config:
    """Return the configuration that the command line asks for. It raises what `read_options` does."""
    return read_options(args).run


def main(args: Sequence[str], *, prog: str) -> int:
    """Train, or continue, one run; return the exit code, 128 + N after signal N."""
    options = read_options(args, prog=prog)
    settings = options.run
    with StopSignals() as stop, contextlib.closing(TerminalConsole()) as console:
        # Only now: importing JAX takes most of a second, and `--help` or a typing mistake need none of it.
        from lstm_jax import devices
        from lstm_jax.cluster import joining
        from lstm_jax.runs import loop, processes

        with joining.joined(
            joining.process_of(options.cluster),
            stop=stop,
            last_word=functools.partial(command_line.last_word, prog=prog, goes_on=True),
            tell=functools.partial(command_line.complain, prog),
            before_end=console.close,
        ):
            devices.start(devices=settings.devices)
            result = loop.train(settings, console=console, stop=stop)
            if processes.is_leader():
                draw(settings, result)
    return 0 if result.stopped_by is None else command_line.SIGNAL_EXIT_CODE + result.stopped_by


def draw(settings: config.Config, result: "TrainResult") -> None:
    """Draw the learning curves and the confusions of a run that has ended, unless they are there.

    Without matplotlib there are none. They come last: the run is finished, whatever happens here. A run that
    was stopped between its last evaluation and its end has no confusions to draw.
    """
    if result.summary is None:
        return
    from lstm_jax.runs.run_directory import LEARNING

    if result.confusion is None and (result.run_dir / f"{LEARNING}.svg").exists():
        return
    from lstm_jax.report.files import write_training
    from lstm_jax.runs.history import of_each_seed

    try:
        seeds = of_each_seed(settings, result.history)
        write_training(result.run_dir.name, seeds, result.confusion, result.run_dir)
    except ImportError:
        pass
    except OSError as error:
        command_line.note(f"{result.run_dir}: no pictures of the run ({one_line(error)})")

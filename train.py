"""Train an LSTM on MNIST: ``python train.py``, or ``python train.py --help`` for the options."""

import argparse
import contextlib
import sys

from lstm_jax import config
from lstm_jax.commands import command_line
from lstm_jax.runs.console import TerminalConsole
from lstm_jax.system.signals import StopSignals

PROG = "train.py"


def read_config(args: list[str]) -> config.Config:
    """The configuration that the command line asks for: a recipe, and what overrides it."""
    first = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    first.add_argument("--recipe", nargs="?")
    first.add_argument("--epochs", nargs="?", default=argparse.SUPPRESS)
    given = vars(first.parse_known_args(args)[0])
    # What cannot be is left for the full parser to refuse: it knows how to say it.
    name = given["recipe"] if given["recipe"] in config.RECIPES else "tutorial"
    # As an override, so that the recipe's steps make way; the full parser reads the value.
    length = {"epochs": config.Config.epochs} if "epochs" in given else {}
    default = config.recipe_config(name, **length)
    return command_line.parse(config.Config, args, prog=PROG, default=default)


def main() -> int:
    """Train, or continue, one run."""
    settings = read_config(sys.argv[1:])
    with StopSignals() as stop, contextlib.closing(TerminalConsole()) as console:
        # Only now: importing JAX takes most of a second, and `--help` or a typing mistake need none of it.
        from lstm_jax import devices
        from lstm_jax.runs import loop

        devices.start(devices=settings.devices)
        result = loop.train(settings, console=console, stop=stop)
    return 0 if result.stopped_by is None else command_line.SIGNAL_EXIT_CODE + result.stopped_by


if __name__ == "__main__":
    command_line.run(main, prog=PROG, goes_on=True)

"""``python -m lstm_jax COMMAND``, and ``lstm-jax COMMAND`` where the package is installed."""

import sys
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple, Protocol

from lstm_jax.system.packages import what_is_missing

try:
    from lstm_jax.commands import command_line, launch, train
    from lstm_jax.commands.benchmark import Benchmark
    from lstm_jax.commands.compare import Compare
    from lstm_jax.commands.evaluate import Evaluate
    from lstm_jax.commands.exchange import Export, Import
    from lstm_jax.commands.explain import Explain
    from lstm_jax.commands.page import Page
    from lstm_jax.commands.predict import Predict
    from lstm_jax.commands.report import Report
except ModuleNotFoundError as error:  # the layer alone is installed
    raise SystemExit(f"lstm-jax: error: {what_is_missing(error, 'train')}") from None


class Options(Protocol):
    """The options of a command: its fields are read from the command line, its docstring is the help."""

    def run(self) -> int:
        """Run the command; return its exit code."""


class Command(NamedTuple):
    """One of the commands.

    Attributes:
        purpose: what it does, in a line.
        main: called with the words after the command's name and, as ``prog``, the program's name in
            messages; returns the exit code.
        goes_on: whether the same command goes on where a signal stopped this one.
    """

    purpose: str
    main: Callable[..., int]
    goes_on: bool = False


def _with(options: Callable[..., Options]) -> Command:
    """Return the command that reads ``options`` and runs them."""

    def main(args: Sequence[str], *, prog: str) -> int:
        return command_line.parse(options, args, prog=prog).run()

    return Command(purpose=(options.__doc__ or "").splitlines()[0], main=main)


COMMANDS: Mapping[str, Command] = MappingProxyType(
    {
        "train": Command("Train, or continue, one run: what train.py does.", train.main, goes_on=True),
        "launch": Command(launch.PURPOSE, launch.main, goes_on=True),
        "evaluate": _with(Evaluate),
        "predict": _with(Predict),
        "explain": _with(Explain),
        "report": _with(Report),
        "page": _with(Page),
        "benchmark": _with(Benchmark),
        "compare": _with(Compare),
        "export": _with(Export),
        "import": _with(Import),
    }
)


def usage(prog: str) -> str:
    """Return the commands, a line each."""
    lines = [f"usage: {prog} COMMAND ...", "", "commands (COMMAND --help says more):"]
    return "\n".join(lines + [f"  {name:10} {command.purpose}" for name, command in COMMANDS.items()])


def main(args: Sequence[str]) -> int:
    """Run the command that the words after the program's name ask for; return the exit code."""
    prog = command_line.program()
    if not args or args[0] in ("-h", "--help"):
        print(usage(prog))
        return 0 if args else command_line.USAGE_EXIT_CODE
    name, *rest = args
    if name not in COMMANDS:
        command_line.fail(
            prog,
            f"unknown command {name!r}, expected one of {', '.join(COMMANDS)}",
            code=command_line.USAGE_EXIT_CODE,
        )
    return COMMANDS[name].main(rest, prog=f"{prog} {name}")


def run() -> None:
    """Run the command that this process was started for, to its exit code."""
    args = sys.argv[1:]
    goes_on = bool(args) and args[0] in COMMANDS and COMMANDS[args[0]].goes_on
    command_line.run(lambda: main(args), prog=command_line.program(), goes_on=goes_on)


if __name__ == "__main__":
    run()

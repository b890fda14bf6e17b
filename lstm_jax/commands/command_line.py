"""What all commands share: reading options, and telling in one line what went wrong.

tyro reads the options. It explains a mistake in a box of several lines. One line serves a log file, a
terminal and a script better, so the box becomes one line here.
"""

import contextlib
import io
import itertools
import os
import re
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn, TypeVar

import tyro

from lstm_jax.errors import UserError, one_line, printable
from lstm_jax.options import shown_option
from lstm_jax.system.signals import Interrupted

if TYPE_CHECKING:
    from lstm_jax.config import DataOptions
    from lstm_jax.data.dataset import Dataset
    from lstm_jax.runs.trained import Trained

T = TypeVar("T")

USAGE_EXIT_CODE = 2
# What a user may write after an option that is a switch.
TRUTH_VALUES = ("true", "false", "yes", "no", "on", "off", "1", "0")
# A shell reports 128 + N for a program that signal N ended; a stopped run must not look finished.
SIGNAL_EXIT_CODE = 128
# What [project.scripts] in pyproject.toml calls the installed program.
SCRIPT = "lstm-jax"

# Of the commands that read a run.
RunDir = Annotated[
    Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN_DIR", help="Folder of a trained run.")
]

# Of the commands that read the data of a run.
DataDir = Annotated[Path | None, shown_option("DIR", "the one the run was trained with")]
ArchiveDir = Annotated[Path | None, shown_option("DIR", "none")]

# Of the commands that read one model of a run.
ChosenSeed = Annotated[int | None, shown_option("INT", "the first seed of the run")]
ChosenBest = Annotated[
    bool, tyro.conf.arg(help="Take the state after the best epoch on validation, not the newest.")
]


def load_data(trained: "DataOptions", data_dir: Path | None, archive_dir: Path | None) -> "Dataset":
    """Load the data set of a run from where the user says, else from where it was in training.

    That folder is only read. The run directory may come from somebody else: no folder that its config.json
    names is written to.

    Args:
        trained: the options of the run.
        data_dir: what ``--data-dir`` says.
        archive_dir: what ``--archive-dir`` says.
    """
    from lstm_jax.data.dataset import load_dataset
    from lstm_jax.data.prepared import version_dir

    name, there = trained.dataset, trained.data_dir
    if data_dir is None and there is not None and version_dir(name, there).is_dir():
        return load_dataset(name, data_dir=there, archive_dir=archive_dir, read_only=True, report=note)
    if data_dir is None and there is not None:
        note(f"No {name} in {there}, where it was in training; --data-dir names another folder")
    return load_dataset(name, data_dir=data_dir, archive_dir=archive_dir, report=note)


def which_model(trained: "Trained", dataset: "Dataset") -> str:
    """Return, in words, which model of a run is evaluated, and on what."""
    seed = f"seed {trained.seed}, " if trained.config.seeds > 1 else ""
    return f"{seed}step {trained.step}, on {len(dataset.test):,} test images of {dataset.name}"


def program() -> str:
    """Return the program's name in messages: how its user started it."""
    return SCRIPT if Path(sys.argv[0]).stem == SCRIPT else "python -m lstm_jax"


def parse(kind: Callable[..., T], args: Sequence[str], *, prog: str, default: Any = None) -> T:
    """Read command-line options into ``kind`` (a dataclass or a function).

    Args:
        kind: what to build or call; its fields or parameters are the options.
        args: the words after the program's name.
        prog: the program's name in help and messages.
        default: an instance of ``kind`` that gives the default values.

    Raises:
        SystemExit: with code 0 after ``--help``, with code 2 after a mistake, told in one line.
    """
    for word in args:
        if word == "" or re.fullmatch("--[a-z_-]+=", word):  # an unset variable of the shell, most likely
            fail(prog, f"{word.rstrip('=') or 'an option'}: got an empty value", code=USAGE_EXIT_CODE)
    defaults = {} if default is None else {"default": default}
    complaint = io.StringIO()
    try:
        with contextlib.redirect_stderr(complaint):
            # An option has the name of its field, whatever group of options it is in.
            flat = (tyro.conf.OmitArgPrefixes,)
            return tyro.cli(kind, args=list(args), prog=prog, config=flat, **defaults)
    except SystemExit as stop:
        if stop.code:
            told = value_of_a_switch(args, complaint.getvalue()) or box_on_one_line(complaint.getvalue())
            fail(prog, f"{told} ({prog} --help lists the options)", code=stop.code)
        raise


def value_of_a_switch(args: Sequence[str], box: str) -> str | None:
    """Return what to say of ``--bidirectional true``, where tyro calls the value an unknown option."""
    unknown = re.fullmatch(r"Unrecognized options: (\S+)", box_on_one_line(box))
    if unknown is None or unknown[1].lower() not in TRUTH_VALUES:
        return None
    words = [part for word in args for part in (word.split("=", 1) if word.startswith("--") else [word])]
    for option, value in itertools.pairwise(words):
        if option.startswith("--") and value == unknown[1]:
            name = option.removeprefix("--no-").removeprefix("--")
            return f"{option}: got {value!r}, expected no value: --{name} switches it on, --no-{name} off"
    return None


def box_on_one_line(box: str) -> str:
    """Return the text of one of tyro's error boxes, without its frame, title and last advice."""
    sections: list[list[str]] = [[]]
    for line in (line.strip(" │") for line in box.splitlines()):
        if re.fullmatch("[─-]+", line) or line.startswith(("╭", "╰")):
            sections.append([])
        elif line:
            sections[-1].append(line)
    told = [" ".join(section) for section in sections if section]
    if "╭" not in box:  # where the output cannot show a frame, the title is a section of its own
        told = told[1:]
    told = [text for text in told if not text.startswith("For full helptext")]
    text = re.sub(r"^Error parsing \w+: ", "", "; ".join(told))
    wrong_type = re.match(r"Error parsing (--[\w-]+): .*('.*'); Argument helptext: \S+ (INT|FLOAT)", text)
    if wrong_type:
        name, got, kind = wrong_type.groups()
        text = f"{name}: got {got}, expected a {'whole number' if kind == 'INT' else 'number'}"
    of_two = re.match(r"Error parsing (--[\w-]+): .* (INT|FLOAT)\|{([\w-]+)} .* from \[('.*?')\]", text)
    if of_two:
        name, kind, word, got = of_two.groups()
        text = f"{name}: got {got}, expected a {'whole number' if kind == 'INT' else 'number'}, or '{word}'"
    return text


def fail(prog: str, message: str, *, code: int | str | None = 1) -> NoReturn:
    """Print one line to standard error and exit with ``code``."""
    complain(prog, message)
    raise SystemExit(code)


def complain(prog: str, message: str) -> None:
    """Print one line to standard error."""
    print(f"{prog}: error: {printable(message)}", file=sys.stderr, flush=True)


def note(text: str) -> None:
    """Print a line that is not a result to standard error: standard output stays clean for programs."""
    print(printable(text), file=sys.stderr, flush=True)


def show_any_text() -> None:
    """Print letters that the terminal's encoding does not have as escapes."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def run(command: Callable[[], int | None], *, prog: str, goes_on: bool = False) -> None:
    """Run a command to its exit code; tell a user's mistake, a full disk or Ctrl-C in one line.

    Args:
        command: returns the exit code.
        prog: the program's name in messages.
        goes_on: whether the same command continues where this one was stopped.
    """
    show_any_text()
    try:
        code = command()
    except UserError as error:
        fail(prog, str(error))
    except MemoryError as error:
        fail(prog, f"out of memory ({one_line(error)})")
    except OSError as error:
        if isinstance(error, BrokenPipeError):  # the reader of our output, `head` say, has gone
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            code = 1
        else:
            fail(prog, f"{error.filename}: {one_line(error)}" if error.filename else one_line(error))
    except KeyboardInterrupt as interrupt:
        number = interrupt.number if isinstance(interrupt, Interrupted) else signal.SIGINT
        advice = "; the same command goes on from what is saved" if goes_on else ""
        print(f"{prog}: stopped by {number.name}{advice}", file=sys.stderr)
        code = SIGNAL_EXIT_CODE + number
    raise SystemExit(code or 0)

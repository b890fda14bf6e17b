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
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple, NoReturn, TypeVar

import tyro

from lstm_jax.errors import UserError, one_line, printable
from lstm_jax.options import shown_option
from lstm_jax.system.packages import what_is_missing
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
    except UserError as error:  # of options that tyro builds last
        fail(prog, f"{error} ({prog} --help lists the options)", code=USAGE_EXIT_CODE)
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
    text = re.sub(r"^Error parsing [\w.]+: ", "", "; ".join(told))
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
    print(error_line(prog, message), file=sys.stderr, flush=True)


def error_line(prog: str, message: str) -> str:
    """Return the line that tells an error."""
    return f"{prog}: error: {printable(message)}"


def note(text: str) -> None:
    """Print a line that is not a result to standard error: standard output stays clean for programs."""
    print(printable(text), file=sys.stderr, flush=True)


def show_any_text() -> None:
    """Print letters that the terminal's encoding does not have as escapes."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


class LastWord(NamedTuple):
    """What a command says of the error that ends it.

    Attributes:
        text: the error, without the program's name; empty where there is nothing to say.
        line: what is printed.
        code: the exit code.
    """

    text: str
    line: str
    code: int


def last_word(error: BaseException, *, prog: str, goes_on: bool = False) -> LastWord | None:
    """Return what to say of a user's mistake, a full disk or Ctrl-C; None of a bug, which has a traceback.

    Args:
        error: what a command raised.
        prog: the program's name in messages.
        goes_on: whether the same command continues where this one was stopped.
    """
    if isinstance(error, KeyboardInterrupt):
        number = error.number if isinstance(error, Interrupted) else signal.SIGINT
        text = f"stopped by {number.name}"
        advice = "; the same command goes on from what is saved" if goes_on else ""
        return LastWord(text, f"{prog}: {text}{advice}", SIGNAL_EXIT_CODE + number)
    if isinstance(error, BrokenPipeError):  # the reader of our output, `head` say, has gone
        return LastWord("the reader of its output has gone", "", 1)
    if isinstance(error, UserError):
        text = str(error)
    elif isinstance(error, ModuleNotFoundError):
        text = what_is_missing(error, "train")
    elif isinstance(error, MemoryError):
        text = f"out of memory ({one_line(error)})"
    elif isinstance(error, OSError):
        text = f"{error.filename}: {one_line(error)}" if error.filename else one_line(error)
    else:
        return None
    return LastWord(text, error_line(prog, text), 1)


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
    except (Exception, KeyboardInterrupt) as error:
        word = last_word(error, prog=prog, goes_on=goes_on)
        if word is None:
            raise
        if isinstance(error, BrokenPipeError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if word.line:
            print(word.line, file=sys.stderr, flush=True)
        code = word.code
    raise SystemExit(code or 0)

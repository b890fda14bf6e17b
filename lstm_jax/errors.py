"""The errors that a user can cause, or meet through damaged files and full disks.

Each message is one line that says what was expected, what was found and what to do. The command line
prints it without a traceback. Every other exception is a bug and keeps its traceback.

What a user should know besides goes, as a line, to the `Report` that a caller passes. Where there is no such
caller (the kernel when it is first used), it goes to the logger ``lstm_jax``.
"""

from collections.abc import Callable
from typing import TypeAlias

# Receives one line for the user.
Report: TypeAlias = Callable[[str], None]


def silent(text: str) -> None:
    """Pass no line on to the user: what a library does unless its caller wants to hear."""


def printable(text: str) -> str:
    r"""Return the text with unprintable characters written out, as ``\x1b`` for escape.

    Names in foreign files may hold sequences that steer a terminal, or bytes that it cannot show.
    """
    return "".join(
        each if each.isprintable() else each.encode("unicode_escape").decode("ascii") for each in text
    )


def one_line(error: BaseException) -> str:
    """Return what an exception says, on one line that is short enough for a message."""
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return printable(" ".join(text.split())[:300]) or type(error).__name__


class UserError(ValueError):
    """Base class of errors that the user can put right."""

    def __str__(self) -> str:
        """Return the message; what it quotes from a file cannot steer the terminal."""
        return printable(super().__str__())


class ConfigError(UserError):
    """An option with an impossible value."""


class DataError(UserError):
    """A data set that is missing, damaged or cannot be prepared."""


class ImageError(UserError):
    """An image file that cannot be read or holds no digit."""


class RunDirectoryError(UserError):
    """A run directory that is missing, cannot be written or belongs to another configuration."""


class CheckpointError(UserError):
    """A checkpoint that cannot be saved, or none that can be read."""


class NonFiniteLossError(UserError):
    """A training loss that became infinite or NaN."""


class ImplementationError(UserError):
    """An implementation of the LSTM that cannot do what it was asked for, or not on this machine."""


class ResultsError(UserError):
    """A file of measurements that cannot be read."""


class ExchangeError(UserError):
    """Weights that do not make up an `LSTMClassifier`, or a file of them that cannot be read or written."""


class ClusterError(UserError):
    """Processes that do not come together."""

"""Writing files and folders that are never half there, and reading those of others.

Nothing is written through a symbolic link: in a folder that came from elsewhere it could lead anywhere.
"""

import errno
import io
import os
import re
import secrets
import shutil
import stat
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from lstm_jax.errors import ConversionError

# What `whole` leaves in a killed process is another's work in progress until it is as old as this.
ABANDONED_SECONDS = 3600
# The names that `write_whole` and `whole` give to what is not complete yet. Folders may be empty, and lie
# beside those of other programs, so their names say whose they are.
_UNFINISHED_FILE = re.compile(r"(.+)\.[0-9a-f]+\.tmp")
_MARK = "lstm_jax-"
_UNFINISHED_FOLDER = re.compile(rf"\.(.+)\.{_MARK}[a-z0-9_]{{8}}")


class NotAFileError(OSError):
    """What lies there is a folder, a pipe, a socket or a device, not a file."""


def _open_descriptor(path: str | os.PathLike[str], flags: int) -> int:
    """Open a file, and nothing else: without waiting for the other end of a pipe."""
    try:
        descriptor = os.open(path, flags | getattr(os, "O_NONBLOCK", 0), 0o666)
    except OSError as error:
        if error.errno == errno.ENXIO:  # a pipe that nobody reads, or a socket
            raise _not_a_file(path, stat.S_IFIFO) from error
        raise
    mode = os.fstat(descriptor).st_mode
    if not stat.S_ISREG(mode):
        os.close(descriptor)
        raise _not_a_file(path, mode)
    return descriptor


def _not_a_file(path: str | os.PathLike[str], mode: int) -> NotAFileError:
    kind = "a folder" if stat.S_ISDIR(mode) else "a pipe, a socket or a device"
    return NotAFileError(errno.EINVAL, f"not a file, but {kind}", os.fspath(path))


def open_file(path: str | os.PathLike[str]) -> io.BufferedReader:
    """Open a file to read. A pipe or a device, which could keep its reader for ever, is refused.

    Raises:
        NotAFileError: if it is something else.
        OSError: if it cannot be opened.
    """
    descriptor = _open_descriptor(path, os.O_RDONLY | getattr(os, "O_BINARY", 0))
    return os.fdopen(descriptor, "rb")


def read_bytes(path: Path, *, most_bytes: int) -> bytes:
    """The content of a file.

    Raises:
        ValueError: if it is larger than ``most_bytes``; it is not read then.
        OSError: if it cannot be read, or is something else than a file.
    """
    with open_file(path) as file:
        size = os.fstat(file.fileno()).st_size
        if size > most_bytes:
            raise ValueError(f"got a file of {size:,} bytes, expected at most {most_bytes:,}")
        return file.read()


def read_text(path: Path, *, most_bytes: int) -> str:
    """The text of a file, in UTF-8.

    Raises:
        ValueError: if it is larger than ``most_bytes``, or no text.
        OSError: if it cannot be read.
    """
    return read_bytes(path, most_bytes=most_bytes).decode()


def append(path: Path, text: str) -> None:
    """Add to the end of a file. A pipe or a device, which could keep its writer for ever, is refused.

    Raises:
        NotAFileError: if it is something else.
        OSError: if it cannot be written, or is a symbolic link.
    """
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0)
    with open(_open_descriptor(path, flags), "a", encoding="utf-8") as file:
        file.write(text)


def write_whole(path: Path, text: str) -> None:
    """Write a file so that it has either its old or its new content, whatever happens meanwhile."""
    temporary = path.with_name(f"{path.name}.{secrets.token_hex(8)}.tmp")
    try:
        with temporary.open("x", encoding="utf-8") as file:  # new, or not at all: nothing is followed
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        with suppress(OSError):
            temporary.unlink()
        raise


def remove_unfinished_files(folder: Path, names: tuple[str, ...]) -> None:
    """Remove what `write_whole` has left of these files in a process that was killed.

    Only where nobody else writes them: under a lock.
    """
    for path in folder.iterdir():
        found = _UNFINISHED_FILE.fullmatch(path.name)
        if found and found[1] in names and path.is_file() and not path.is_symlink():
            path.unlink()


def remove_unfinished_folders(folder: Path) -> None:
    """Remove what `whole` has left in a folder, in processes that were killed long ago."""
    for path in folder.iterdir():
        found = _UNFINISHED_FOLDER.fullmatch(path.name)
        if not found or path.is_symlink() or not path.is_dir():
            continue
        with suppress(OSError):  # its owner has just removed it
            ours = all(entry.name == found[1] for entry in path.iterdir())
            if ours and time.time() - path.stat().st_mtime > ABANDONED_SECONDS:
                shutil.rmtree(path)


def sync(path: Path) -> None:
    """Wait until a file, or the names in a folder, are on disk: so that a power failure cannot take them."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def check_target(path: Path, *, overwrite: bool, advice: str) -> None:
    """Refuse a place where something lies already, or whose folder is missing.

    Args:
        path: where a file or a folder is going to be.
        overwrite: whether a file may be there.
        advice: what to do if there is one.

    Raises:
        ConversionError: saying which.
    """
    if not path.parent.is_dir():
        raise ConversionError(f"{path}: got a path in no existing folder, expected {path.parent} to be there")
    if path.is_dir() or (os.path.lexists(path) and not overwrite):
        kind = "a folder" if path.is_dir() else "a file"
        raise ConversionError(f"{path}: got the path of {kind} that exists, expected a new one; {advice}")


@contextmanager
def whole(path: Path) -> Iterator[Path]:
    """A place for a file or a folder that is moved to ``path`` at the end, if no exception comes before it.

    Args:
        path: where it is going to be; a file there is replaced.
    """
    path = path.absolute()
    remove_unfinished_folders(path.parent)
    with tempfile.TemporaryDirectory(prefix=f".{path.name}.{_MARK}", dir=path.parent) as folder:
        temporary = Path(folder) / path.name
        yield temporary
        if temporary.is_file():
            with temporary.open("rb") as file:
                os.fsync(file.fileno())
        os.replace(temporary, path)

"""Files and folders: written whole or not at all, and read safely.

Nothing is written through a symbolic link. In a folder from somebody else, a link could lead anywhere.
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

from lstm_jax.errors import ExchangeError

# A temporary folder of `whole` may belong to a process that is still at work, unless it is older than this.
ABANDONED_SECONDS = 3600
# The names that `write_whole` and `whole` give to incomplete files and folders. The folders may be empty, and
# lie beside those of other programs, so their names show that they are ours.
_UNFINISHED_FILE = re.compile(r"(.+)\.[0-9a-f]+\.tmp")
_MARK = "lstm_jax-"
_UNFINISHED_FOLDER = re.compile(rf"\.(.+)\.{_MARK}[a-z0-9_]{{8}}")


class NotAFileError(OSError):
    """An error for a folder, a pipe, a socket or a device where a file was expected."""


def _open_descriptor(path: str | os.PathLike[str], flags: int) -> int:
    """Open a regular file, and nothing else. It never waits for the other end of a pipe."""
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
    """Open a file to read. A pipe or a device is refused, because reading it could wait for ever.

    Raises:
        NotAFileError: if it is something else.
        OSError: if it cannot be opened.
    """
    descriptor = _open_descriptor(path, os.O_RDONLY | getattr(os, "O_BINARY", 0))
    return os.fdopen(descriptor, "rb")


def read_bytes(path: Path, *, most_bytes: int) -> bytes:
    """Read the content of a file.

    Raises:
        ValueError: if it is larger than ``most_bytes``; then nothing is read.
        OSError: if it cannot be read, or is not a regular file.
    """
    with open_file(path) as file:
        size = os.fstat(file.fileno()).st_size
        if size > most_bytes:
            raise ValueError(f"got a file of {size:,} bytes, expected at most {most_bytes:,}")
        return file.read()


def read_text(path: Path, *, most_bytes: int) -> str:
    """Read the text of a file in UTF-8.

    Raises:
        ValueError: if it is larger than ``most_bytes``, or not UTF-8.
        OSError: if it cannot be read.
    """
    return read_bytes(path, most_bytes=most_bytes).decode()


def append(path: Path, text: str) -> None:
    """Add text to the end of a file. A pipe or a device is refused, because writing it could wait for ever.

    Raises:
        NotAFileError: if it is something else.
        OSError: if it cannot be written, or is a symbolic link.
    """
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0)
    with open(_open_descriptor(path, flags), "a", encoding="utf-8") as file:
        file.write(text)


def write_whole(path: Path, text: str) -> None:
    """Write a file so that it always has either its old or its new content, even after a crash."""
    temporary = path.with_name(f"{path.name}.{secrets.token_hex(8)}.tmp")
    try:
        with temporary.open("x", encoding="utf-8") as file:  # "x" fails if there is one, and follows no link
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        with suppress(OSError):
            temporary.unlink()
        raise


def remove_unfinished_files(folder: Path, names: tuple[str, ...]) -> None:
    """Remove temporary files of `write_whole` for these names, which killed processes have left.

    Call it only under a lock, while no other process writes them.
    """
    for path in folder.iterdir():
        found = _UNFINISHED_FILE.fullmatch(path.name)
        if found and found[1] in names and path.is_file() and not path.is_symlink():
            path.unlink()


def remove_unfinished_folders(folder: Path) -> None:
    """Remove temporary folders of `whole`, which processes have left that were killed long ago."""
    for path in folder.iterdir():
        found = _UNFINISHED_FOLDER.fullmatch(path.name)
        if not found or path.is_symlink() or not path.is_dir():
            continue
        with suppress(OSError):  # its owner may have just removed it
            ours = all(entry.name == found[1] for entry in path.iterdir())
            if ours and time.time() - path.stat().st_mtime > ABANDONED_SECONDS:
                shutil.rmtree(path)


def sync(path: Path) -> None:
    """Wait until a file, or the names in a folder, are on disk, safe from a power failure."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def check_target(path: Path, *, overwrite: bool, advice: str) -> None:
    """Refuse a path that exists already, or whose parent folder is missing.

    Args:
        path: the path of a file or folder to be written.
        overwrite: whether an existing file may be replaced.
        advice: what the user can do if the path exists.

    Raises:
        ExchangeError: if the path is refused.
    """
    if not path.parent.is_dir():
        raise ExchangeError(f"{path}: got a path in no existing folder, expected {path.parent} to exist")
    if path.is_dir() or (os.path.lexists(path) and not overwrite):
        kind = "a folder" if path.is_dir() else "a file"
        raise ExchangeError(f"{path}: got the path of {kind} that exists, expected a new path; {advice}")


@contextmanager
def whole(path: Path) -> Iterator[Path]:
    """Yield a temporary path for a file or folder, and move that to ``path`` unless an exception is raised.

    Args:
        path: the final path; an existing file is replaced.
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

"""Writing files and folders that are never half there."""

import errno
import io
import os
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from lstm_jax.errors import ConversionError


def write_whole(path: Path, text: str) -> None:
    """Write a file so that it has either its old or its new content, whatever happens meanwhile."""
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("w") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        with suppress(OSError):
            temporary.unlink()
        raise


class NotAFileError(OSError):
    """What lies there is a folder, a pipe, a socket or a device, not a file."""


def open_file(path: str | os.PathLike[str]) -> io.BufferedReader:
    """Open a file to read. A pipe or a device, which could keep its reader for ever, is refused.

    Raises:
        NotAFileError: if it is something else.
        OSError: if it cannot be opened.
    """
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    descriptor = os.open(path, flags)
    mode = os.fstat(descriptor).st_mode
    if not stat.S_ISREG(mode):
        os.close(descriptor)
        kind = "a folder" if stat.S_ISDIR(mode) else "a pipe, a socket or a device"
        raise NotAFileError(errno.EINVAL, f"not a file, but {kind}", os.fspath(path))
    return os.fdopen(descriptor, "rb")


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
    if path.is_dir() or (path.exists() and not overwrite):
        kind = "a folder" if path.is_dir() else "a file"
        raise ConversionError(f"{path}: got the path of {kind} that exists, expected a new one; {advice}")


@contextmanager
def whole(path: Path) -> Iterator[Path]:
    """A place for a file or a folder that is moved to ``path`` at the end, if no exception comes before it.

    Args:
        path: where it is going to be; a file there is replaced.
    """
    path = path.absolute()
    with tempfile.TemporaryDirectory(prefix=f".{path.name}.", dir=path.parent) as folder:
        temporary = Path(folder) / path.name
        yield temporary
        if temporary.is_file():
            with temporary.open("rb") as file:
                os.fsync(file.fileno())
        os.replace(temporary, path)

"""Checksums of the files in a folder, to find damage and to ignore files that other programs added.

File managers, synchronisation and network file systems add their own files to any folder (``.DS_Store``,
``._x``, ``Thumbs.db``, ``.nfs...``). They are no damage. But a reader that finds files by a pattern must not
see them, so `only` shows it the listed files.
"""

import hashlib
import json
import re
import tempfile
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

from lstm_jax.errors import one_line, printable
from lstm_jax.system.files import NotAFileError, open_file, read_text, write_whole

# In the folder: file name -> SHA-256.
CHECKSUMS = "sha256.json"
# The list is small: a state has a dozen files, and some more for each process that saves it.
_MOST_BYTES = 2**24


class DamagedError(ValueError):
    """A folder whose files are not those that were written."""


def write(folder: Path) -> None:
    """Write the list of a folder's files and their SHA-256 into the folder."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path != folder / CHECKSUMS)
    listed = {path.relative_to(folder).as_posix(): _sha256(path) for path in files}
    write_whole(folder / CHECKSUMS, json.dumps(listed, indent=1))


def check(folder: Path) -> dict[str, str]:
    """Check the listed files of a folder, and return the list: file name -> SHA-256.

    Raises:
        DamagedError: if one is missing or has changed, or the list is damaged.
        OSError: if an existing file cannot be read.
    """
    listed = _listed(folder)
    for name, expected in listed.items():
        try:
            found = _sha256(folder / name)
        except (FileNotFoundError, NotADirectoryError, NotAFileError):
            found = "no such file"
        if found != expected:
            raise DamagedError(f"SHA-256 of {printable(name)}: expected {expected}, found {found}")
    return listed


@contextmanager
def only(folder: Path, names: Collection[str]) -> Iterator[Path]:
    """Yield a folder of the same name with these files and no others, in it or beside it.

    It is ``folder`` itself if no other files are there; else a temporary one with links to the files.
    """
    written = {folder / name for name in (*names, CHECKSUMS)}
    written |= {parent for path in written for parent in path.parents}
    beside = (path for path in folder.parent.iterdir() if not path.is_dir())
    if written.issuperset(folder.rglob("*")) and not any(beside):
        yield folder
        return
    with tempfile.TemporaryDirectory() as temporary:
        view = Path(temporary) / folder.name
        view.mkdir()
        for name in names:
            (view / name).parent.mkdir(parents=True, exist_ok=True)
            (view / name).symlink_to((folder / name).absolute())
        yield view


def _listed(folder: Path) -> dict[str, str]:
    try:
        listed = json.loads(read_text(folder / CHECKSUMS, most_bytes=_MOST_BYTES))
    except (FileNotFoundError, NotADirectoryError):
        raise DamagedError(f"{CHECKSUMS} is missing") from None
    except (NotAFileError, ValueError, RecursionError) as error:
        raise DamagedError(f"{CHECKSUMS}: {printable(one_line(error))}") from error
    if not isinstance(listed, dict) or not all(map(_is_entry, listed.items())):
        raise DamagedError(f"{CHECKSUMS} holds no list of files")
    return listed


def _is_entry(entry: tuple[str, object]) -> bool:
    """Return whether this is the name of a file below the folder, and a SHA-256."""
    name, sha = entry
    path = PurePosixPath(name)
    inside = bool(path.parts) and not path.is_absolute() and ".." not in path.parts and "\0" not in name
    return inside and isinstance(sha, str) and re.fullmatch("[0-9a-f]{64}", sha) is not None


def _sha256(path: Path) -> str:
    with open_file(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()

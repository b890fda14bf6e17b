"""What stays from one run of the tests to the next, in pytest's own cache: ``--cache-clear`` empties it."""

import contextlib
import os
import shutil
from importlib.metadata import version
from pathlib import Path

import pytest

from lstm_jax.system.caches import why_not_private


def kept_folder(config: pytest.Config, name: str, *, otherwise: Path) -> Path:
    """Return a folder that stays, for this version of jaxlib; in ``otherwise`` if none can be."""
    name = f"{name}-{version('jaxlib')}"
    cache: pytest.Cache | None = getattr(config, "cache", None)  # none with -p no:cacheprovider
    with contextlib.suppress(OSError):  # a checkout that cannot be written to
        if cache is not None:
            folder = cache.mkdir(name)
            folder.chmod(0o700)
            if why_not_private(folder) is None:  # else no kernel would be loaded from it
                return folder
    folder = otherwise / name
    folder.mkdir(mode=0o700, exist_ok=True)
    return folder


def share_files(source: Path, target: Path) -> None:
    """Put the files of a folder into another one too, each in one step; another run may do the same."""
    for file in source.iterdir():
        if (shared := target / file.name).exists():
            continue
        with contextlib.suppress(FileNotFoundError):
            try:
                os.link(file, shared)
            except OSError:  # on another disk, or without links
                part = target / f".{os.getpid()}"
                shutil.copyfile(file, part)
                os.replace(part, shared)


def forget_oldest(folder: Path, *, most_bytes: int) -> None:
    """Remove the oldest files of a folder that has grown too large; another run may do the same."""
    with contextlib.suppress(FileNotFoundError):
        sizes = {path: path.stat() for path in folder.iterdir()}
        too_many = sum(each.st_size for each in sizes.values()) - most_bytes
        for path in sorted(sizes, key=lambda path: sizes[path].st_mtime):
            if too_many <= 0:
                break
            path.unlink()
            too_many -= sizes[path].st_size

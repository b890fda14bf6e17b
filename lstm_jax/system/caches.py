"""Where things are kept between runs that can be made again: compiled programs and kernels.

Both are code that is run without a question, so both lie in folders that only the user can write to.
"""

import os
import platform
import stat
from collections.abc import Iterator
from pathlib import Path

from lstm_jax.errors import one_line

_FEATURES = ("flags", "Features")  # in /proc/cpuinfo, on x86 and on ARM


def cache_dir() -> Path | None:
    """``$LSTM_JAX_CACHE_DIR``, else the folder ``lstm_jax`` among the user's caches.

    None if the user has no home directory.
    """
    if named := os.environ.get("LSTM_JAX_CACHE_DIR"):
        return Path(named).expanduser().absolute()
    try:
        base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    except RuntimeError:
        return None
    return base / "lstm_jax"


def why_not_private(folder: Path) -> str | None:
    """Make a folder that only the user can write to, or check that it is one.

    Whoever can write to a folder above could put another one in this one's place, so those are looked at
    too, with all symbolic links on the way.

    Returns:
        Why code in it cannot be trusted or nothing can be kept there, and what to do; None if all is well.
    """
    try:
        folder.mkdir(parents=True, mode=0o700, exist_ok=True)
        status = folder.stat()
        above = {path: path.lstat() for path in _on_the_way_to(folder.absolute())}
    except OSError as error:
        return f"{folder}: {one_line(error)}; LSTM_JAX_CACHE_DIR can name another folder"
    if not hasattr(os, "geteuid"):  # Windows, whose permissions these are not
        return None
    # Whoever has "/" can do everything anyway: root, or, in some containers, a user without a name.
    trusted = {0, os.geteuid(), above[Path("/")].st_uid}
    exposed = [path for path, found in above.items() if _others_can_exchange_in(found, trusted)]
    if status.st_uid != os.geteuid() or status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        exposed.insert(0, folder)
    if not exposed:
        return None
    where = "it" if exposed[0] == folder else str(exposed[0])
    return (
        f"{folder}: others can write to {where}, so code in it cannot be trusted; take that right from them "
        "and move the folder away, or name another one in LSTM_JAX_CACHE_DIR"
    )


def _on_the_way_to(path: Path) -> Iterator[Path]:
    """Every folder and symbolic link through which the system goes to a path that exists, and its end."""
    here, parts = Path(path.anchor), list(reversed(path.parts))
    while parts:
        there = Path(os.path.normpath(here / parts.pop()))  # no link is before "..", so it leads upwards
        yield there
        if there.is_symlink():  # goes on from the folder that it lies in, or from the root
            parts += reversed(there.readlink().parts)
        else:
            here = there


def _others_can_exchange_in(status: os.stat_result, trusted: set[int]) -> bool:
    """Whether somebody else can put other things in the place of those in a folder.

    In a folder that is sticky, as /tmp is, only owners can. A group may write: it is the user's own on many
    systems. What a symbolic link points to, only its owner decides.
    """
    everybody = status.st_mode & stat.S_IWOTH and not status.st_mode & stat.S_ISVTX
    return status.st_uid not in trusted or (bool(everybody) and not stat.S_ISLNK(status.st_mode))


def processor() -> str:
    """What machine code for this processor depends on: the kind of machine, and what it can do."""
    try:
        features = next(
            line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith(_FEATURES)
        )
    except (OSError, StopIteration):  # not Linux, or a processor that does not list its features so
        features = platform.processor()
    return f"{platform.machine()} {features}"

"""The folders of compiled programs and kernels, which are kept between runs.

They hold code that is run unchecked, so only the user may be able to write to them.
"""

import contextlib
import os
import platform
import stat
from collections.abc import Iterator
from pathlib import Path

from lstm_jax.errors import one_line

_FEATURES = ("flags", "Features")  # in /proc/cpuinfo, on x86 and on ARM


def cache_dir() -> Path | None:
    """Return ``$LSTM_JAX_CACHE_DIR``, else the folder ``lstm_jax`` in the user's caches.

    It is None if the user has no home directory.
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

    Whoever can write to a parent folder could replace this one. So all folders and symbolic links on the
    path are checked, too.

    Returns:
        Why code in it cannot be trusted, or nothing can be written there, and what to do; None if it can.
    """
    try:
        folder.mkdir(parents=True, mode=0o700, exist_ok=True)
        status = folder.stat()
        above = {path: path.lstat() for path in _on_the_way_to(folder.absolute())}
    except OSError as error:
        return f"{folder}: {one_line(error)}; LSTM_JAX_CACHE_DIR can name another folder"
    if not hasattr(os, "geteuid"):  # Windows has other permissions
        return None
    # The owner of "/" can do everything anyway: root, or a user without a name in some containers.
    trusted = {0, os.geteuid(), above[Path("/")].st_uid}
    exposed = [path for path, found in above.items() if _others_can_exchange_in(found, trusted)]
    if status.st_uid != os.geteuid() or status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        exposed.insert(0, folder)
    if not exposed:
        return None
    where = "it" if exposed[0] == folder else str(exposed[0])
    return (
        f"{folder}: others can write to {where}, so code in it cannot be trusted; remove their permission "
        "and move the folder away, or name another one in LSTM_JAX_CACHE_DIR"
    )


def _on_the_way_to(path: Path) -> Iterator[Path]:
    """Yield every folder and symbolic link on the way to an existing path, and the path itself."""
    here, parts = Path(path.anchor), list(reversed(path.parts))
    while parts:
        there = Path(os.path.normpath(here / parts.pop()))  # no link is before "..", so it leads upwards
        yield there
        if there.is_symlink():  # its target starts from the folder that it lies in, or from the root
            parts += reversed(there.readlink().parts)
        else:
            here = there


def _others_can_exchange_in(status: os.stat_result, trusted: set[int]) -> bool:
    """Return whether another user can replace the entries of a folder.

    In a sticky folder such as /tmp, only their owners can. Write access of a group is accepted: on many
    systems, the group is the user's own. Only the owner of a symbolic link decides what it points to.
    """
    everybody = status.st_mode & stat.S_IWOTH and not status.st_mode & stat.S_ISVTX
    return status.st_uid not in trusted or (bool(everybody) and not stat.S_ISLNK(status.st_mode))


def cpu_name() -> str:
    """Return the model name of the processor, or what the system says of it instead."""
    with contextlib.suppress(OSError, StopIteration):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    return platform.processor() or platform.machine()


def processor() -> str:
    """Describe what machine code for this processor depends on: its architecture and its features."""
    try:
        features = next(
            line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith(_FEATURES)
        )
    except (OSError, StopIteration):  # not Linux, or a processor whose features are listed in another way
        features = platform.processor()
    return f"{platform.machine()} {features}"

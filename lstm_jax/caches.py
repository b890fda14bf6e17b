"""Where things are kept between runs that can be made again: compiled programs and kernels."""

import os
import platform
from pathlib import Path

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


def processor() -> str:
    """What machine code for this processor depends on: the kind of machine, and what it can do."""
    try:
        features = next(
            line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith(_FEATURES)
        )
    except (OSError, StopIteration):  # not Linux, or a processor that does not list its features so
        features = platform.processor()
    return f"{platform.machine()} {features}"

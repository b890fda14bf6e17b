"""Where the project is, and how its programs are run."""

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

PROJECT = Path(__file__).parents[2]

# What the package is built from, besides the package itself.
_BUILT_FROM = ("LICENSE", "MANIFEST.in", "README.md", "build_wheel.py", "pyproject.toml", "requirements*.txt")

# The fixture `run`: runs a Python program of the project as a user does.
Run = Callable[..., subprocess.CompletedProcess[str]]


def copy_source(folder: Path) -> Path:
    """Copy what the package is built from, so that building leaves nothing in the checkout."""
    ignore = shutil.ignore_patterns("__pycache__")
    shutil.copytree(PROJECT / "lstm_jax", folder / "lstm_jax", ignore=ignore)
    for file in (file for pattern in _BUILT_FROM for file in PROJECT.glob(pattern)):
        shutil.copy(file, folder)
    return folder

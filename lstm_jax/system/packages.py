"""Packages that only some commands need, and how to install them."""

import importlib
import os
from pathlib import Path
from typing import Any, Literal

from lstm_jax.errors import ExchangeError, UserError, one_line

# The extras in pyproject.toml. Each corresponds to a requirements file: requirements-export.txt, and so on.
Extra = Literal["compare", "equinox", "export", "plots", "train"]

_ROOT = Path(__file__).parents[2]


def how_to_install(extra: Extra, *, root: Path = _ROOT) -> str:
    """Return the command that installs an extra.

    Args:
        extra: the extra.
        root: the folder that holds the package. A checkout has the requirements files there; an installed
            package does not.
    """
    file = root / f"requirements-{extra}.txt"
    return f"pip install -r {os.path.relpath(file)}" if file.is_file() else f'pip install "lstm_jax[{extra}]"'


def what_is_missing(error: ModuleNotFoundError, extra: Extra) -> str:
    """Return what to say of a package that is not installed, on one line.

    Raises:
        ModuleNotFoundError: the error itself, if it is a module of this package that is missing.
    """
    package = (error.name or "").partition(".")[0]
    if package in ("", __name__.partition(".")[0]):
        raise error
    return f"this needs the package {package}, which is not installed; to install it: {how_to_install(extra)}"


def required(module: str, *, extra: Extra = "export", kind: type[UserError] = ExchangeError) -> Any:
    """Import a module of a package in an extra.

    Args:
        module: its full name.
        extra: the extra that brings the package.
        kind: the error to raise.

    Raises:
        UserError: of that kind, if it cannot be imported.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        package = module.partition(".")[0]
        raise kind(
            f"this needs the package {package}, which cannot be imported ({one_line(error)}); to install it: "
            f"{how_to_install(extra)}"
        ) from error

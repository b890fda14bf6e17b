"""Packages that only some commands need, and what to do where they are missing."""

import importlib
from typing import Any

from lstm_jax.errors import ConversionError, one_line


def required(module: str) -> Any:
    """A module of a package that `requirements-compare.txt` lists.

    Raises:
        ConversionError: if it cannot be imported.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        package = module.partition(".")[0]
        raise ConversionError(
            f"this needs the package {package}, which cannot be imported ({one_line(error)}); to install it: "
            "pip install -r requirements-compare.txt"
        ) from error

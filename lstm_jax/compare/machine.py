"""The machine, the versions and the date of a measurement."""

import datetime
import os
import platform
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from lstm_jax import __version__
from lstm_jax.system.caches import cpu_name
from lstm_jax.system.cores import usable_cores

PACKAGES = ("jax", "jaxlib", "flax", "optax", "numpy", "torch")
# Environment variables that change speed.
ENVIRONMENT = ("XLA_FLAGS", "OMP_NUM_THREADS", "MKL_NUM_THREADS", "JAX_PLATFORMS")


def machine() -> Mapping[str, Any]:
    """Return the processor, the number of usable cores, the operating system, and the environment."""
    return {
        "cpu": cpu_name(),
        "cores": len(usable_cores()),
        "system": platform.platform(),
        "environment": {name: os.environ[name] for name in ENVIRONMENT if name in os.environ},
    }


def versions() -> Mapping[str, str]:
    """Return the versions of Python, of this package, and of the installed numerical packages."""
    found = {"python": platform.python_version(), "lstm_jax": __version__}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def now() -> str:
    """Return the present date and time, in ISO 8601 with the time zone."""
    return datetime.datetime.now().astimezone().isoformat(timespec="seconds")

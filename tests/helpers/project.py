"""Where the project is, and how its programs are run."""

import subprocess
from collections.abc import Callable
from pathlib import Path

PROJECT = Path(__file__).parents[2]

# The fixture `run`: runs a Python program of the project as a user does.
Run = Callable[..., subprocess.CompletedProcess[str]]

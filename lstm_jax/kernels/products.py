"""The kind of products that the C++ kernel computes with: the faster one on this machine, measured once.

Every processor has vectors, and some have tile registers, too. Which of the two are the faster depends on
the sizes and on the machine: tiles need fewer instructions, but numbers are cut into parts for them, and
cores may share a unit of tiles. So both are timed in turns at the first use of a size, and what was found is
kept in the user's cache. A compiled program holds its kind, and a run of `train` its name (`native-tiles`):
neither changes its bits when it goes on.
"""

import contextlib
import ctypes
import functools
import json
import os
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from lstm_jax.errors import ImplementationError
from lstm_jax.kernels import build
from lstm_jax.system.caches import cache_dir, cpu_name, why_not_private
from lstm_jax.system.cores import usable_cores
from lstm_jax.system.files import read_text, write_whole

CODES = {"vectors": 1, "tiles": 2}  # `Products` in cpp/lstm.h
KINDS = tuple(CODES)
# In the environment, the kind that `native` computes with, without a measurement.
VARIABLE = "LSTM_JAX_KERNEL"

SECONDS = 0.15  # of all rounds of a measurement
FEWEST_ROUNDS, MOST_ROUNDS = 5, 25
# The unusual kind must take less than this share of the usual one's time in the median, and be the faster in
# so many of the rounds. Else the usual one stays: no choice comes from noise.
MARGIN, AGREEMENT = 0.95, 0.8
_MOST_BYTES = 1 << 20  # of the notes
# Of both passes: some milliseconds of one core. For each thread, two tiles of rows.
_ENOUGH_OPERATIONS = 5e8
_FEWEST_STEPS, _FEWEST_ROWS = 8, 32
# Of a forward pass: what a core does in some 0.2 ms. Another thread is awake by then, not much earlier.
_FOR_ONE_THREAD = 1.2e7


class Task(NamedTuple):
    """What is to be computed.

    Attributes:
        members, time, batch, inputs, hidden: the sizes of the LSTM.
        bfloat16: whether factors of products may be rounded to bfloat16.
        threads: the number of threads.
    """

    members: int
    time: int
    batch: int
    inputs: int
    hidden: int
    bfloat16: bool
    threads: int

    def sizes(self) -> "ctypes.Array[ctypes.c_int64]":
        """Return the five sizes as the kernel takes them."""
        return (ctypes.c_int64 * 5)(*self[:5])

    def operations(self) -> float:
        """Return how many operations both passes take."""
        return 24.0 * self.members * self.time * self.batch * self.hidden * (self.inputs + self.hidden)

    def is_for_one_thread(self) -> bool:
        """Return whether a forward pass is over before it would pay to have woken another thread."""
        return self.operations() / 3 < _FOR_ONE_THREAD

    def shortened(self) -> "Task | None":
        """Return a task that shows the same in some milliseconds, or None if there is none.

        Steps and rows are fewer, but not so few that what is done once in a call, as the packing of weights,
        counts for more than in the task itself.
        """
        short = self._replace(time=min(self.time, _FEWEST_STEPS))
        steps = int(short.time * _ENOUGH_OPERATIONS / short.operations())
        short = short._replace(time=min(self.time, max(short.time, steps), 28))
        rows = int(short.batch * _ENOUGH_OPERATIONS / short.operations())
        short = short._replace(batch=min(self.batch, max(rows, _FEWEST_ROWS * self.threads)))
        return short if short.operations() <= 4 * _ENOUGH_OPERATIONS else None


def most_threads() -> int:
    """Return how many threads a call may use: as many as the process, or its container, has cores."""
    return len(usable_cores())


def choose(task: Task) -> str:
    """Return the kind for a task: the one that the environment names, or the faster one.

    Raises:
        ImplementationError: if the environment names one that there is not, or not here.
    """
    return named() or _found(task, task.shortened())


def named() -> str | None:
    """Return the kind that the environment names, or None.

    Raises:
        ImplementationError: if there is no such kind, or not here.
    """
    name = os.environ.get(VARIABLE)
    if not name:
        return None
    if name not in KINDS:
        raise ImplementationError(f"{VARIABLE}: got {name!r}, expected {' or '.join(KINDS)}")
    if (reason := why_not(name)) is not None:
        raise ImplementationError(f"{VARIABLE}: got {name!r}, but {reason}")
    return name


def why_not(kind: str | None) -> str | None:
    """Return why the kernel, which is there, cannot compute with a kind of products; None if it can."""
    if kind == "tiles" and _usual(Task(1, 1, 1, 1, 1, bfloat16=False, threads=1)) is None:
        return "there are no tile registers here (AMX, of x86 processors on Linux)"
    return None


def _usual(task: Task) -> str | None:
    """Return the kind that is mostly the faster for a task, or None if there is only one kind here."""
    answer = build.loaded().lstm_jax_tiles_are_usual(task.sizes(), ctypes.c_int64(task.threads))
    return None if answer < 0 else "tiles" if answer else "vectors"


@functools.cache
def _found(task: Task, short: Task | None) -> str:
    """Return what was found for a shortened task, in this process or another; else measure, and keep it."""
    usual = _usual(task)
    if usual is None:
        return "vectors"
    if short is None:
        return usual
    path, key = _notes(), ",".join([cpu_name(), *(str(int(value)) for value in short)])
    if (known := _read(path).get(key)) in KINDS:
        return str(known)
    ratios = _tiles_to_vectors(short)
    kind = faster(usual, ratios)
    if path is not None and len(ratios) >= FEWEST_ROUNDS:
        with contextlib.suppress(OSError):  # it is measured again, then
            write_whole(path, json.dumps({**_read(path), key: kind}, indent=1))
    return kind


def faster(usual: str, tiles_to_vectors: Sequence[float]) -> str:
    """Return the faster kind of products if that is clear, else the usual one.

    Args:
        usual: the usual kind.
        tiles_to_vectors: in each round, the time with tiles as a multiple of that with vectors.
    """
    if len(tiles_to_vectors) < FEWEST_ROUNDS:
        return usual
    ratios = [1 / ratio if usual == "tiles" else ratio for ratio in tiles_to_vectors]
    wins = sum(ratio < 1 for ratio in ratios)
    if statistics.median(ratios) < MARGIN and wins >= AGREEMENT * len(ratios):
        return "vectors" if usual == "tiles" else "tiles"
    return usual


def _tiles_to_vectors(task: Task) -> list[float]:
    ratios = (ctypes.c_double * MOST_ROUNDS)()
    measure = build.loaded().lstm_jax_tiles_to_vectors
    measure.restype = ctypes.c_int64
    numbers = ctypes.c_int64(task.threads), int(task.bfloat16), ctypes.c_double(SECONDS)
    rounds = measure(task.sizes(), *numbers, ctypes.c_int64(MOST_ROUNDS), ratios)
    return list(ratios)[: max(rounds, 0)]


def _notes() -> Path | None:
    """Return the file of what was found with this kernel on this machine, or None if none can be kept."""
    folder = cache_dir()
    if folder is None or why_not_private(folder / "native") is not None:
        return None
    return folder / "native" / f"{Path(build.loaded()._name).stem}.json"


def _read(path: Path | None) -> dict[str, object]:
    if path is None:
        return {}
    try:
        values = json.loads(read_text(path, most_bytes=_MOST_BYTES))
    except (OSError, ValueError):  # nothing yet, or damaged: it is measured again
        return {}
    return values if isinstance(values, dict) else {}

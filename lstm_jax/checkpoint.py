"""Save the state of a run so that it survives anything, and read it back only if it is whole.

Orbax writes each state into a folder of its own that gets its name only when it is complete, so a
killed process leaves at worst a temporary folder. What Orbax does not do is notice a flipped bit: it
loads it. So the SHA-256 of each of its files is kept beside them, and checked before Orbax reads any. A
state that fails is put aside, and the one before it used.

A state is private to its run. Nothing here is pickled.
"""

import dataclasses
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Generic, TypeVar

import jax
import numpy as np
from orbax.checkpoint import v1 as ocp

from lstm_jax import runtime
from lstm_jax.errors import CheckpointError, one_line
from lstm_jax.files import write_whole

State = TypeVar("State")

# How many of the newest states are kept: one to go on from, one in case that one is damaged.
KEPT = 2
# In the folder of each state: file name -> SHA-256. Written last: a state without it is not complete.
CHECKSUMS = "sha256.json"


@dataclasses.dataclass(frozen=True)
class Restored(Generic[State]):
    """A state read back, and the notes that were saved with it."""

    step: int
    state: State
    notes: dict[str, Any]


class Checkpoints:
    """The saved states of one run. A context manager; close it before the program ends."""

    def __init__(self, directory: Path, *, report: Callable[[str], None], read_only: bool = False) -> None:
        """Open a folder of states.

        Args:
            directory: the folder; made if it is missing, unless ``read_only``.
            report: called with a line about every damaged state.
            read_only: leave everything in the folder as it is.

        Raises:
            CheckpointError: if ``read_only`` and there is no such folder.
            OSError: if the folder cannot be made.
        """
        self._directory = directory.absolute()
        self._report = report
        self._read_only = read_only
        self._checkpointer: ocp.training.Checkpointer | None = None
        if read_only:
            if not self._directory.is_dir():
                raise CheckpointError(f"{directory}: no checkpoints here yet")
        elif runtime.is_leader():
            self._directory.mkdir(parents=True, exist_ok=True)
            _clean_up(self._directory)

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, *exception: object) -> None:
        if self._checkpointer is not None:
            self._checkpointer.close()

    @property
    def newest_step(self) -> int | None:
        """The step of the newest complete state; None if there is none."""
        return max(_complete(self._directory), default=None)

    def save(self, step: int, state: Any, notes: Mapping[str, Any]) -> None:
        """Write a state; when this returns it is complete on disk.

        Args:
            step: training steps taken; a state of the same step is replaced.
            state: a pytree of arrays.
            notes: JSON values to keep with it.

        Raises:
            CheckpointError: if it cannot be written, a full disk being the usual reason. The states
                saved before are intact.
        """
        try:
            if self._checkpointer is None:
                self._checkpointer = ocp.training.Checkpointer(
                    self._directory,
                    preservation_policy=ocp.training.preservation_policies.LatestN(KEPT),
                    lightweight_initialize=True,  # do not read the states that are there
                )
            self._checkpointer.save(step, state, force=True, overwrite=True, custom_metadata=dict(notes))
            if runtime.is_leader():
                path = self._directory / str(step)
                write_whole(path / CHECKSUMS, json.dumps(_checksums(path), indent=1))
        except (OSError, ValueError, RuntimeError) as error:  # Orbax has no one error for a failed write
            raise CheckpointError(
                f"{self._directory}: cannot save the state of step {step} ({one_line(error)}); earlier "
                "states are intact: make room or mend the folder, then give the same command again"
            ) from error

    def restore(self, like: State) -> Restored[State] | None:
        """Read the newest whole state. To be called before the first `save`.

        Args:
            like: a state, or its `jax.ShapeDtypeStruct`s with shardings: what to expect and where to
                put it.

        Returns:
            The state, or None if nothing has been saved yet.

        Raises:
            CheckpointError: if states were saved and none of them is whole.
        """
        steps = sorted(_complete(self._directory), reverse=True)
        for step in steps:
            path = self._directory / str(step)
            damage = _damage(path)
            # A state that one process cannot read is no good to any of them.
            if not runtime.largest(int(damage is not None)):
                return self._load(path, like)
            self._put_aside(path, damage or "another process cannot read it")
        if steps or self._damaged.exists():
            raise CheckpointError(
                f"{self._directory}: every saved state is damaged; restore one from a backup, or train again "
                "in another --run-dir"
            )
        return None

    def _load(self, path: Path, like: State) -> Restored[State]:
        try:
            state = ocp.load(path, like)
            notes = dict(ocp.metadata(path).custom_metadata or {})
        except (OSError, ValueError, KeyError, TypeError, RuntimeError) as error:
            raise CheckpointError(
                f"{path}: its files are whole, but this version of orbax-checkpoint or lstm_jax cannot read "
                f"it ({one_line(error)}); use the versions it was written with"
            ) from error
        return Restored(int(path.name), state, notes)

    @property
    def _damaged(self) -> Path:
        return self._directory.parent / "damaged"

    def _put_aside(self, path: Path, damage: str) -> None:
        told = f"the checkpoint {path} is damaged ({damage})"
        if not self._read_only:
            aside = self._damaged / path.name
            if runtime.is_leader():
                aside.parent.mkdir(exist_ok=True)
                shutil.rmtree(aside, ignore_errors=True)
                os.replace(path, aside)
            told += f"; moved to {aside}"
        self._report(f"{told}; trying the one before it")


def _complete(directory: Path) -> list[int]:
    """The steps of the states whose save came to its end."""
    return [
        int(path.name) for path in directory.iterdir() if path.name.isdigit() and (path / CHECKSUMS).exists()
    ]


def _clean_up(directory: Path) -> None:
    """Remove what killed saves and killed deletions have left: all but the complete states."""
    complete = {str(step) for step in _complete(directory)}
    for path in directory.iterdir():
        if path.is_dir() and path.name not in complete:
            shutil.rmtree(path)


def _checksums(path: Path) -> dict[str, str]:
    """The SHA-256 of each file of a state, by its name."""
    files = sorted(file for file in path.rglob("*") if file.is_file() and file != path / CHECKSUMS)
    return {
        file.relative_to(path).as_posix(): hashlib.sha256(file.read_bytes()).hexdigest() for file in files
    }


def _damage(path: Path) -> str | None:
    """What is wrong with the files of a state; None if they are as they were written."""
    try:
        expected = json.loads((path / CHECKSUMS).read_text())
        found = _checksums(path)
    except (OSError, ValueError) as error:
        return one_line(error)
    if not isinstance(expected, dict):
        return f"{CHECKSUMS} holds no list of files"
    for name in sorted({*expected, *found}):
        if expected.get(name) != found.get(name):
            there, here = expected.get(name, "no such file"), found.get(name, "no such file")
            return f"SHA-256 of {name}: expected {there}, found {here}"
    return None


def digest(tree: Any) -> str:
    """The SHA-256 of a pytree of arrays (names, dtypes, shapes, values), in hex."""
    sha = hashlib.sha256()
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        array = np.asarray(leaf)
        sha.update(f"{jax.tree_util.keystr(path)} {array.dtype} {array.shape}\n".encode())
        sha.update(np.ascontiguousarray(array).tobytes())
    return sha.hexdigest()

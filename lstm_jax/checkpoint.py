"""Save the state of a run so that it survives anything, and read it back only if it is whole.

Orbax writes each state into a folder of its own that gets its name only when it is complete, so a
killed process leaves at worst a temporary folder. What Orbax does not do is notice a flipped bit: it
loads it. So a SHA-256 of all values is saved beside them and checked on every read, and a state that
fails is put aside and the one before it used.

A state is private to its run. Nothing here is pickled.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Generic, NamedTuple, TypeVar

import jax
import numpy as np
from orbax.checkpoint import v1 as ocp

from lstm_jax import runtime
from lstm_jax.errors import CheckpointError

State = TypeVar("State")

# How many of the newest states are kept: one to go on from, one in case that one is damaged.
KEPT = 2


class Restored(NamedTuple, Generic[State]):
    """A state read back, and the notes that were saved with it."""

    step: int
    state: State
    notes: dict[str, Any]


class Checkpoints:
    """The saved states of one run, newest last. A context manager; close it before the program ends."""

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
        if read_only:
            if not self._directory.is_dir():
                raise CheckpointError(f"{directory}: no checkpoints here yet")
        elif runtime.is_leader():
            self._directory.mkdir(parents=True, exist_ok=True)
            _finish_deletions(self._directory)
        self._checkpointer = self._open()

    def _open(self) -> ocp.training.Checkpointer:
        return ocp.training.Checkpointer(
            self._directory,
            preservation_policy=ocp.training.preservation_policies.LatestN(KEPT),
            # A save that was killed leaves a temporary folder; nobody else writes here.
            cleanup_tmp_directories=not self._read_only,
        )

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, *exception: object) -> None:
        self._checkpointer.close()

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
        metadata = {"notes": dict(notes), "sha256": digest(state, notes)}
        try:
            self._checkpointer.save(step, state, force=True, overwrite=True, custom_metadata=metadata)
        except (OSError, ValueError, RuntimeError) as error:  # Orbax has no one error for a failed write
            raise CheckpointError(
                f"{self._directory}: cannot save the state of step {step} ({_first_line(error)}); earlier states "
                "are intact: make room or mend the folder, then give the same command again"
            ) from error

    @property
    def newest_step(self) -> int | None:
        """The step of the newest state; None if there is none."""
        latest = self._checkpointer.latest
        return None if latest is None else latest.step

    def restore(self, like: State) -> Restored[State] | None:
        """Read the newest whole state.

        Args:
            like: a state, or its `jax.ShapeDtypeStruct`s with shardings: what to expect and where to
                put it.

        Returns:
            The state, or None if nothing has been saved yet.

        Raises:
            CheckpointError: if states were saved and all of them are damaged.
        """
        steps = [checkpoint.step for checkpoint in self._checkpointer.checkpoints]
        for step in reversed(steps):
            restored, damage = None, ""
            try:
                restored = self._read(step, like)
            except Exception as error:  # damage shows as errors of every kind
                damage = _first_line(error)
            # A state that one process cannot read is no good to any of them.
            if restored is not None and not runtime.largest(int(bool(damage))):
                return restored
            self._put_aside(step, damage or "another process cannot read it")
        if steps:
            raise CheckpointError(
                f"{self._directory}: every saved state is damaged (steps {', '.join(map(str, steps))}); "
                "restore the folder from a backup, or train again in another --run-dir"
            )
        return None

    def _read(self, step: int, like: State) -> Restored[State]:
        metadata = self._checkpointer.metadata(step).custom_metadata
        state = self._checkpointer.load(step, abstract_state=like)
        found = digest(state, metadata["notes"])
        if found != metadata["sha256"]:
            raise ValueError(f"its SHA-256 is {found}, expected {metadata['sha256']}")
        return Restored(step, state, metadata["notes"])

    def _put_aside(self, step: int, damage: str) -> None:
        path = self._directory / str(step)
        told = f"the checkpoint {path} is damaged ({damage})"
        if not self._read_only:
            aside = self._directory.parent / "damaged" / str(step)
            if runtime.is_leader():
                aside.parent.mkdir(exist_ok=True)
                shutil.rmtree(aside, ignore_errors=True)
                os.replace(path, aside)
            # Orbax remembers which states there are: let it look again.
            self._checkpointer.close()
            self._checkpointer = self._open()
            told += f"; moved to {aside}"
        self._report(f"{told}; trying the one before it")


def _finish_deletions(directory: Path) -> None:
    """Remove what is left of old states whose deletion was killed half way; the newest is never deleted."""
    states = sorted((path for path in directory.iterdir() if path.name.isdigit()), key=lambda path: int(path.name))
    for path in states[:-1]:
        if not (path / "_CHECKPOINT_METADATA").exists():
            shutil.rmtree(path)


def digest(state: Any, notes: Mapping[str, Any] | None = None) -> str:
    """The SHA-256 of a pytree of arrays (names, dtypes, shapes, values) and of notes, in hex."""
    sha = hashlib.sha256()
    for path, leaf in jax.tree_util.tree_leaves_with_path(state):
        array = np.asarray(leaf)
        sha.update(f"{jax.tree_util.keystr(path)} {array.dtype} {array.shape}\n".encode())
        sha.update(np.ascontiguousarray(array).tobytes())
    if notes is not None:
        sha.update(json.dumps(notes, sort_keys=True).encode())
    return sha.hexdigest()


def _first_line(error: BaseException) -> str:
    """What an error says, short enough for one line."""
    text = str(error).strip() or type(error).__name__
    return text.splitlines()[0][:300]

"""Save the state of a run so that it survives anything, and read it back only if it is whole.

Orbax writes each state into a folder of its own that gets its name only when it is complete, so a
killed process leaves at worst a temporary folder. What Orbax does not do is notice a flipped bit: it
loads it. So the SHA-256 of each of its files is kept beside them, and checked before Orbax reads any. A
state that fails is put aside, and the one before it used.

A state is private to its run. Nothing here is pickled.
"""

import contextlib
import dataclasses
import gc
import hashlib
import json
import logging
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Generic, TypeVar

import jax
import numpy as np
from orbax.checkpoint import v1 as ocp

from lstm_jax import runtime
from lstm_jax.errors import CheckpointError, one_line
from lstm_jax.files import write_whole

State = TypeVar("State")

# How many of the newest states are kept: one to go on from, one in case that one is damaged. (Beside them,
# those that a save asks to keep.)
KEPT = 2
# In the folder of each state: file name -> SHA-256.
CHECKSUMS = "sha256.json"
# Beside these folders, from before a save until after it: the step that is being saved.
SAVING = ".saving"
# Beyond the arrays themselves, what one save may need on disk.
OVERHEAD_BYTES = 2**17


@dataclasses.dataclass(frozen=True)
class Restored(Generic[State]):
    """A state read back, and the notes that were saved with it."""

    step: int
    state: State
    notes: dict[str, Any]


class _Kept:
    """Which of the saved states are kept: the newest, and those of some steps (a policy, in Orbax's words).

    Attributes:
        steps: these steps.
    """

    def __init__(self) -> None:
        self.steps: frozenset[int] = frozenset()

    def should_preserve(self, checkpoints: Sequence[Any], *, context: Any) -> list[bool]:
        """Of the states from the oldest to the newest, whether each is kept."""
        newest = checkpoints[-KEPT:]
        return [state in newest or state.step in self.steps for state in checkpoints]


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
        self._kept = _Kept()
        if read_only:
            if not self._directory.is_dir():
                raise CheckpointError(f"{directory}: no checkpoints here yet")
        elif runtime.is_leader():
            self._directory.mkdir(parents=True, exist_ok=True)
            _clean_up(self._directory)

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, kind: type[BaseException] | None, *exception: object) -> None:
        if self._checkpointer is None:
            return
        # After a failed save, closing fails the same way again: the first error is the one to show.
        with contextlib.suppress(*(() if kind is None else (Exception,))), _quiet():
            self._checkpointer.close()

    @property
    def newest_step(self) -> int | None:
        """The step of the newest saved state; None if there is none."""
        return max(_steps(self._directory), default=None)

    def save(
        self, step: int, state: Any, notes: Mapping[str, Any], *, keep: frozenset[int] = frozenset()
    ) -> None:
        """Write a state; when this returns it is complete on disk.

        Args:
            step: training steps taken; a state of the same step is replaced.
            state: a pytree of arrays.
            notes: JSON values to keep with it.
            keep: the steps of states to keep from now on, beside the newest.

        Raises:
            CheckpointError: if it cannot be written, a full disk being the usual reason. The states
                saved before are intact.
        """
        self._kept.steps = keep
        try:
            with _quiet():
                self._write(step, state, notes)
        except (OSError, ValueError, RuntimeError) as error:  # Orbax has no one error for a failed write
            full = "No space left" in str(error) or "RESOURCE_EXHAUSTED" in str(error)
            raise CheckpointError(
                f"{self._directory}: cannot save the state of step {step} "
                f"({'no space left on device' if full else one_line(error)}); what was saved before is "
                "intact: make room or mend the folder, then give the same command again"
            ) from error

    def _write(self, step: int, state: Any, notes: Mapping[str, Any]) -> None:
        if self._checkpointer is None:
            self._checkpointer = ocp.training.Checkpointer(
                self._directory,
                preservation_policy=self._kept,
                lightweight_initialize=True,  # do not read the states that are there
            )
        if runtime.is_leader():
            # Better not begun than half done.
            needed = sum(leaf.nbytes for leaf in jax.tree.leaves(state)) + OVERHEAD_BYTES
            if shutil.disk_usage(self._directory).free < needed:
                raise OSError(f"No space left for {needed:,} bytes")
            write_whole(self._directory / SAVING, str(step))
        self._checkpointer.save(step, state, force=True, overwrite=True, custom_metadata=dict(notes))
        if runtime.is_leader():
            path = self._directory / str(step)
            write_whole(path / CHECKSUMS, json.dumps(_checksums(path), indent=1))
            (self._directory / SAVING).unlink()

    def restore(self, like: State, *, step: int | None = None) -> Restored[State] | None:
        """Read the newest whole state. To be called before the first `save`.

        Args:
            like: a state, or its `jax.ShapeDtypeStruct`s with shardings: what to expect and where to
                put it.
            step: read the state of this step, and no other.

        Returns:
            The state, or None if nothing has been saved yet, or that of ``step`` is not there or damaged.

        Raises:
            CheckpointError: if states were saved and none of them is whole.
        """
        steps = sorted(_steps(self._directory), reverse=True)
        if step is not None:
            steps = [each for each in steps if each == step]
        for each in steps:
            path = self._directory / str(each)
            damage = _damage(path)
            # A state that one process cannot read is no good to any of them.
            if not runtime.largest(int(damage is not None)):
                return self._load(path, like)
            then = "" if step is not None else "; trying the one before it"
            self._put_aside(path, damage or "another process cannot read it", then)
        if step is not None:
            return None
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

    def _put_aside(self, path: Path, damage: str, then: str) -> None:
        told = f"the checkpoint {path} is damaged ({damage})"
        if not self._read_only:
            aside = self._damaged / path.name
            if runtime.is_leader():
                aside.parent.mkdir(exist_ok=True)
                shutil.rmtree(aside, ignore_errors=True)
                os.replace(path, aside)
            told += f"; moved to {aside}"
        self._report(told + then)


def _steps(directory: Path) -> list[int]:
    """The steps of the states in a folder, whole or not."""
    return [int(path.name) for path in directory.iterdir() if path.name.isdigit()]


def _clean_up(directory: Path) -> None:
    """Remove what killed saves and killed deletions have left, and nothing that was ever whole and newest."""
    saving = directory / SAVING
    interrupted = saving.read_text().strip() if saving.exists() else None
    checked = [step for step in _steps(directory) if (directory / str(step) / CHECKSUMS).exists()]
    for path in directory.iterdir():
        if not path.is_dir() or (path / CHECKSUMS).exists():
            continue
        temporary = not path.name.isdigit()
        half_deleted = not temporary and int(path.name) < max(checked, default=-1)
        if temporary or half_deleted or path.name == interrupted:
            shutil.rmtree(path)
    saving.unlink(missing_ok=True)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Orbax logs each failed write several times, from its threads; the exception says it once."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        yield
    except BaseException:
        gc.collect()  # its forgotten tasks complain when they are collected: now, not later
        raise
    finally:
        logging.disable(before)


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
    except FileNotFoundError:
        return f"{CHECKSUMS} is missing"
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

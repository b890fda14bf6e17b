"""Save the state of a run so that it survives anything, and read it back only if it is whole.

Orbax writes each state into a folder of its own that gets its name only when it is complete, so a
killed process leaves at worst a temporary folder. What Orbax does not do is notice a flipped bit: it
loads it. So the SHA-256 of each of its files is kept beside them, and checked before Orbax reads any. A
state that fails is put aside, and the one before it used.

A state is private to its run: which run and which step it belongs to is saved with it, and one that was
copied here from elsewhere is not used. Nothing here is pickled.
"""

import contextlib
import dataclasses
import gc
import hashlib
import itertools
import logging
import os
import re
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from enum import IntEnum
from pathlib import Path
from typing import Any, Generic, TypeVar

import jax
import numpy as np
from orbax.checkpoint import v1 as ocp

from lstm_jax.errors import CheckpointError, one_line, printable
from lstm_jax.options import flag
from lstm_jax.runs import checksums, processes
from lstm_jax.runs.checksums import CHECKSUMS
from lstm_jax.system.files import read_text, remove_unfinished_files, write_whole

State = TypeVar("State")

# How many of the newest states are kept: one to go on from, one in case that one is damaged. (Beside them,
# those that a save asks to keep.)
KEPT = 2
# Beside these folders, from before a save until after it: the step that is being saved.
SAVING = ".saving"
# Beyond the arrays themselves, what one save may need on disk.
OVERHEAD_BYTES = 2**17
# Among the notes of a state: the options of its run, and its step.
BELONGS_TO = "belongs_to"
# How often a reader begins again because the trainer has replaced what it was about to read.
READ_ATTEMPTS = 20
# The folders that Orbax writes into before it gives them their names.
_STEP = re.compile("0|[1-9][0-9]*")
_TEMPORARY = re.compile(r"[0-9]+\.orbax-checkpoint-tmp.*")


class _Verdict(IntEnum):
    """What the files of a state are; where processes disagree, the largest counts."""

    WHOLE = 0
    DAMAGED = 1
    UNREADABLE = 2


class _ReplacedError(Exception):
    """A trainer has replaced the states while they were read."""


@dataclasses.dataclass(frozen=True)
class Restored(Generic[State]):
    """A state read back, and the notes that were saved with it."""

    step: int
    state: State
    notes: dict[str, Any]


@dataclasses.dataclass
class _Kept:
    """Which states Orbax keeps: the newest of this run, those of some steps, and all that are not its own."""

    strangers: set[int]
    steps: frozenset[int] = frozenset()

    def should_preserve(self, checkpoints: Sequence[Any], *, context: Any) -> Sequence[bool]:
        """Of the states from the oldest to the newest, whether each is kept."""
        own = [state.step for state in checkpoints if state.step not in self.strangers]
        kept = self.strangers | self.steps | set(own[-KEPT:])
        return [state.step in kept for state in checkpoints]


class Checkpoints:
    """The saved states of one run. A context manager; close it before the program ends."""

    def __init__(
        self,
        directory: Path,
        *,
        report: Callable[[str], None],
        read_only: bool = False,
        options: Mapping[str, Any] | None = None,
    ) -> None:
        """Open a folder of states.

        Args:
            directory: the folder; made if it is missing, unless ``read_only``.
            report: called with a line about every state that is damaged or of another run.
            read_only: leave everything in the folder as it is.
            options: the options of the run, by which a state of another one is known; by default, any
                state is taken for this run's.

        Raises:
            CheckpointError: if ``read_only`` and there is no such folder.
            OSError: if the folder cannot be made.
        """
        self._directory = directory.absolute()
        self._report = report
        self._read_only = read_only
        self._options = options
        self._strangers: set[int] = set()
        self._checkpointer: ocp.training.Checkpointer | None = None
        self._kept = _Kept(self._strangers)
        self._link = contextlib.ExitStack()
        if read_only:
            if not self._directory.is_dir():
                raise CheckpointError(f"{directory}: no checkpoints here yet")
        elif processes.is_leader():
            self._directory.mkdir(parents=True, exist_ok=True)
            _clean_up(self._directory)

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, kind: type[BaseException] | None, *exception: object) -> None:
        if self._checkpointer is None:
            self._link.close()
            return
        # After a failed save, closing fails the same way again: the first error is the one to show.
        with self._link, contextlib.suppress(*(() if kind is None else (Exception,))), _quiet():
            self._checkpointer.close()

    @property
    def newest_step(self) -> int | None:
        """The step of the newest saved state; None if there is none."""
        return max(set(_steps(self._directory)) - self._strangers, default=None)

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
                self._link.enter_context(_without_patterns(self._directory)),
                preservation_policy=self._kept,
                lightweight_initialize=True,  # do not read the states that are there
            )
        path = self._directory / str(step)
        if processes.is_leader():
            # Better not begun than half done.
            needed = sum(leaf.nbytes for leaf in jax.tree.leaves(state)) + OVERHEAD_BYTES
            if shutil.disk_usage(self._directory).free < needed:
                raise OSError(f"No space left for {needed:,} bytes")
            if step in self._strangers:
                aside = _move(path, self._directory.parent / "of-another-run")
                self._report(f"moved {path}, a state of another run, to {aside}")
            write_whole(self._directory / SAVING, str(step))
        self._strangers.discard(step)
        belongs_to = {"step": step, "options": self._options}
        self._checkpointer.save(
            step, state, force=True, overwrite=True, custom_metadata={**notes, BELONGS_TO: belongs_to}
        )
        if processes.is_leader():
            checksums.write(path)
            (self._directory / SAVING).unlink()

    def restore(self, like: State, *, step: int | None = None) -> Restored[State] | None:
        """Read the newest whole state of this run. To be called before the first `save`.

        Args:
            like: a state, or its `jax.ShapeDtypeStruct`s with shardings: what to expect and where to
                put it.
            step: read the state of this step, and no other.

        Returns:
            The state, or None if nothing has been saved yet, or that of ``step`` is not there or damaged.

        Raises:
            CheckpointError: if states were saved and none of them is whole and of this run, or if they
                cannot be read, which is no damage.
        """
        for _ in range(READ_ATTEMPTS):
            with contextlib.suppress(_ReplacedError):
                return self._restore(like, step)
        raise CheckpointError(
            f"{self._directory}: the run goes on, and its states are replaced before they are read; try again"
        )

    def _restore(self, like: State, wanted: int | None) -> Restored[State] | None:
        complete = self._complete_steps()
        steps = [step for step in complete if wanted in (None, step)]
        then = "; trying the one before it" if wanted is None else ""
        for index, step in enumerate(steps):
            path = self._directory / str(step)
            verdict, words, names = _examine(path)
            # A state that one process cannot read is no good to any of them.
            agreed = processes.largest(verdict)
            if agreed != _Verdict.WHOLE:
                self._begin_again_if_replaced(complete)
                if agreed == _Verdict.UNREADABLE:
                    raise _unreadable(path, words or "another process cannot read it")
                self._put_aside(path, words or "another process cannot read it", then)
                continue
            with checksums.only(path, names) as place:
                try:
                    notes = _notes_of(place)
                    if stranger := self._stranger(step, notes):
                        self._strangers.add(step)
                        told = f"the checkpoint {path} is {stranger}; it stays where it is and is not used"
                        self._report(told + then)
                        continue
                    state = _load(place, like)
                except CheckpointError as error:
                    self._begin_again_if_replaced(complete)
                    raise CheckpointError(f"{path}: {error}") from error.__cause__
            if not self._read_only:  # they are to be kept when others are deleted
                self._strangers.update(filter(self._looks_strange, steps[index + 1 :]))
            notes.pop(BELONGS_TO, None)
            return Restored(step, state, notes)
        if wanted is not None:
            return None
        if steps or self._damaged.exists():
            what = "is damaged or of another run" if self._strangers else "is damaged"
            raise CheckpointError(
                f"{self._directory}: every saved state {what}; restore one from a backup, or train again "
                "in another --run-dir"
            )
        return None

    def _complete_steps(self) -> list[int]:
        """The steps of the states, the newest first; without one that a trainer has not completed yet."""
        steps = sorted(_steps(self._directory), reverse=True)
        saving = _interrupted(self._directory)
        return [s for s in steps if s != saving or (self._directory / str(s) / CHECKSUMS).exists()]

    def _begin_again_if_replaced(self, steps: Sequence[int]) -> None:
        """Only for readers: who writes here is alone."""
        if self._read_only and self._complete_steps() != steps:
            raise _ReplacedError

    def _stranger(self, step: int, notes: Mapping[str, Any]) -> str | None:
        """Why a state is not this run's, or not of this step; older states do not say, and are believed."""
        belongs_to = notes.get(BELONGS_TO)
        if not isinstance(belongs_to, Mapping):
            return None
        if belongs_to.get("step") != step:
            return f"of step {printable(str(belongs_to.get('step')))} by its own notes"
        options = belongs_to.get("options")
        if self._options is None or not isinstance(options, Mapping):
            return None
        differences = [
            f"{flag(key)} {printable(str(options[key]))} there, {here} here"
            for key, here in self._options.items()
            if key in options and options[key] != here
        ]
        return f"of another run ({'; '.join(differences)})" if differences else None

    def _looks_strange(self, step: int) -> bool:
        """Whether a state says that it is of another run: not checked, but enough to keep it."""
        try:
            return self._stranger(step, _notes_of(self._directory / str(step))) is not None
        except CheckpointError:
            return False

    @property
    def _damaged(self) -> Path:
        return self._directory.parent / "damaged"

    def _put_aside(self, path: Path, damage: str, then: str) -> None:
        told = f"the checkpoint {path} is damaged ({damage})"
        if not self._read_only:
            aside = self._damaged / path.name
            if processes.is_leader():
                aside = _move(path, self._damaged)
            told += f"; moved to {aside}"
        self._report(told + then)


@contextlib.contextmanager
def _without_patterns(directory: Path) -> Iterator[Path]:
    """The folder by a path that is not taken for a pattern: Orbax looks for the arrays of a save by one.

    It finds none where the path has one of these characters, and saves a state without arrays.
    """
    if not re.search(r"[*?[]", str(directory)):
        yield directory
        return
    with tempfile.TemporaryDirectory() as temporary:
        if re.search(r"[*?[]", temporary):
            raise OSError(
                f"got {temporary} for temporary files, expected a path without [, * and ?: set TMPDIR"
            )
        link = Path(temporary) / directory.name
        link.symlink_to(directory)
        yield link


def _steps(directory: Path) -> list[int]:
    """The steps of the states in a folder, whole or not."""
    return [
        int(path.name)
        for path in directory.iterdir()
        if _STEP.fullmatch(path.name) and path.is_dir() and not path.is_symlink()
    ]


def _examine(path: Path) -> tuple[_Verdict, str | None, tuple[str, ...]]:
    """Whether the files of a state are as they were written, what is wrong if not, and their names."""
    try:
        return _Verdict.WHOLE, None, checksums.check(path)
    except checksums.DamagedError as damage:
        return _Verdict.DAMAGED, str(damage), ()
    except OSError as error:
        return _Verdict.UNREADABLE, one_line(error), ()


def _unreadable(path: Path, words: str) -> CheckpointError:
    return CheckpointError(
        f"{path}: cannot be read ({words}); nothing was changed: mend that, then give the same command again"
    )


def _notes_of(path: Path) -> dict[str, Any]:
    """The notes of a state.

    Raises:
        CheckpointError: if they cannot be read.
    """
    with _words_of_orbax():
        return dict(ocp.metadata(path).custom_metadata or {})


def _load(path: Path, like: State) -> State:
    """The arrays of a state.

    Raises:
        CheckpointError: if there are others than ``like`` says, or they cannot be read.
    """
    with _words_of_orbax():
        # Before Orbax makes room for arrays that only a wrong config.json speaks of.
        there, wanted = _arrays(ocp.metadata(path).metadata), _arrays(like)
        if there != wanted:
            found = ", ".join(map(str, there - wanted)) or "none besides those"
            expected = ", ".join(map(str, wanted - there)) or "no more"
            raise ValueError(f"got arrays of the shapes {found}, expected {expected}")
        return ocp.load(path, like)


def _arrays(tree: Any) -> Counter[tuple[int, ...]]:
    """The shapes of the arrays of a pytree, and how many have each."""
    return Counter(tuple(leaf.shape) for leaf in jax.tree.leaves(tree))


@contextlib.contextmanager
def _words_of_orbax() -> Iterator[None]:
    """What keeps a state whose files are whole from being read, in its own words: it is no damage."""
    try:
        yield
    except (OSError, ValueError, KeyError, TypeError, RuntimeError) as error:
        unknown = isinstance(error, ValueError | KeyError | TypeError)
        advice = "; if it is of another version of lstm_jax or orbax-checkpoint, use that" if unknown else ""
        raise CheckpointError(
            f"its files are whole, but it cannot be read ({printable(one_line(error))}){advice}"
        ) from error


def _move(path: Path, folder: Path) -> Path:
    """Move a state into another folder, where nothing is replaced; returns where it is now."""
    folder.mkdir(exist_ok=True)
    names = (path.name if count == 1 else f"{path.name}-{count}" for count in itertools.count(1))
    target = next(folder / name for name in names if not os.path.lexists(folder / name))
    os.replace(path, target)
    return target


def _interrupted(directory: Path) -> int | None:
    """The step that is being saved, or was when the process was killed."""
    try:
        return int(read_text(directory / SAVING, most_bytes=100))
    except (OSError, ValueError):  # there is none, or nobody can say which
        return None


def _clean_up(directory: Path) -> None:
    """Remove what killed saves and killed deletions have left, and nothing that was ever whole and newest."""
    interrupted = _interrupted(directory)
    checked = [step for step in _steps(directory) if (directory / str(step) / CHECKSUMS).exists()]
    for step in set(_steps(directory)) - set(checked):
        if step == interrupted or step < max(checked, default=-1):  # not completed, or half deleted
            shutil.rmtree(directory / str(step))
    for path in directory.iterdir():
        if _STEP.fullmatch(path.name) and (path.is_symlink() or not path.is_dir()):
            raise CheckpointError(
                f"{path}: got no folder, expected a saved state or nothing; move it elsewhere, then give the "
                "same command again"
            )
        if _TEMPORARY.fullmatch(path.name) and path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
    for step in checked:
        remove_unfinished_files(directory / str(step), (CHECKSUMS,))
    remove_unfinished_files(directory, (SAVING,))
    saving = directory / SAVING
    if saving.is_dir() and not saving.is_symlink():
        raise CheckpointError(
            f"{saving}: got a folder, expected a file or nothing; move it elsewhere, then give the same "
            "command again"
        )
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


def digest(tree: Any) -> str:
    """The SHA-256 of a pytree of arrays (names, dtypes, shapes, values), in hex."""
    sha = hashlib.sha256()
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        array = np.asarray(leaf)
        sha.update(f"{jax.tree_util.keystr(path)} {array.dtype} {array.shape}\n".encode())
        sha.update(np.ascontiguousarray(array).tobytes())
    return sha.hexdigest()

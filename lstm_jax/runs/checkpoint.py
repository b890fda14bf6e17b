"""Checkpoints: the saved states of a run, protected against crashes and damaged files.

Orbax writes each state into its own folder. The folder gets its final name only when it is complete, so a
killed process leaves at worst a temporary folder. Orbax does not notice a flipped bit. So we keep the
SHA-256 of each file beside it, and check it before Orbax reads anything. A damaged state is moved away, and
the state before it is used.

Each state records its run (the options) and its step. A state that was copied from another run is not used.
Nothing here is pickled.
"""

import contextlib
import dataclasses
import functools
import gc
import hashlib
import itertools
import json
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

from lstm_jax.errors import CheckpointError, Report, UserError, one_line, printable
from lstm_jax.options import flag
from lstm_jax.runs import checksums, processes
from lstm_jax.runs.checksums import CHECKSUMS
from lstm_jax.system.files import read_text, remove_unfinished_files, write_whole

State = TypeVar("State")
T = TypeVar("T")

# The number of newest states to keep: one to continue from, and one in case that one is damaged. A save can
# ask to keep others as well.
KEPT = 2
# A file beside the states that holds the step being saved. It exists only during a save.
SAVING = ".saving"
# Disk space that one save may need beyond the arrays themselves.
OVERHEAD_BYTES = 2**17
# The key, in the notes of a state, of the options of its run and its step.
BELONGS_TO = "belongs_to"
# How often a reader starts again because the trainer has replaced the states meanwhile.
READ_ATTEMPTS = 20
# How long the machines of a run may see different files on the disk that they share. NFS keeps what it knows
# of a folder for up to 60 s (acdirmax).
LATE_SECONDS = 70
# Names of complete states, and of the folders that Orbax writes into before it renames them.
_STEP = re.compile("0|[1-9][0-9]*")
_TEMPORARY = re.compile(r"[0-9]+\.orbax-checkpoint-tmp.*")


class _Verdict(IntEnum):
    """The condition of a state's files."""

    WHOLE = 0
    DAMAGED = 1
    UNREADABLE = 2


# That condition, what is wrong with the files if anything, and their names with their SHA-256 if nothing is.
_Examined = tuple[_Verdict, str, dict[str, str]]


class NoStateError(CheckpointError):
    """There is no state that can be used; all processes of a run find that."""


class _ReplacedError(Exception):
    """Signal that a trainer has replaced the states while they were read."""


@dataclasses.dataclass(frozen=True)
class Restored(Generic[State]):
    """A state, and the notes that were saved with it."""

    step: int
    state: State
    notes: dict[str, Any]


@dataclasses.dataclass
class _Kept:
    """The states that Orbax keeps: the newest of this run, some chosen ones, and all of other runs."""

    strangers: set[int]
    steps: frozenset[int] = frozenset()

    def should_preserve(self, checkpoints: Sequence[Any], *, context: Any) -> Sequence[bool]:
        """Return, for each state from the oldest to the newest, whether it is kept."""
        own = [state.step for state in checkpoints if state.step not in self.strangers]
        kept = self.strangers | self.steps | set(own[-KEPT:])
        return [state.step in kept for state in checkpoints]


class Checkpoints:
    """The saved states of one run, as a context manager."""

    def __init__(
        self,
        directory: Path,
        *,
        report: Report,
        read_only: bool = False,
        options: Mapping[str, Any] | None = None,
    ) -> None:
        """Open a folder of states.

        Args:
            directory: the folder; made if it is missing, unless ``read_only``.
            report: called with a line about every state that is damaged or of another run.
            read_only: change nothing in the folder.
            options: the options of the run. A state with other options belongs to another run. None
                accepts the states of any run.

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
            if not processes.from_leader(self._directory.is_dir):
                raise NoStateError(f"{directory}: no checkpoints here yet")
        elif processes.is_leader():
            self._directory.mkdir(parents=True, exist_ok=True)
            _clean_up(self._directory)

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, kind: type[BaseException] | None, *exception: object) -> None:
        if self._checkpointer is None:
            self._link.close()
            return
        # After a failed save, closing fails in the same way. The first error is the one to show.
        with self._link, contextlib.suppress(*(() if kind is None else (Exception,))), _quiet():
            self._checkpointer.close()

    @property
    def newest_step(self) -> int | None:
        """The step of the newest saved state; None if there is none."""
        return max(set(_steps(self._directory)) - self._strangers, default=None)

    def save(
        self, step: int, state: Any, notes: Mapping[str, Any], *, keep: frozenset[int] = frozenset()
    ) -> None:
        """Write a state to disk, and return when it is complete.

        Args:
            step: training steps taken; a state of the same step is replaced.
            state: a pytree of arrays.
            notes: JSON values to save with it.
            keep: the steps of the states to keep from now on, beside the newest.

        Raises:
            CheckpointError: if it cannot be written, usually because the disk is full. Earlier states are
                intact.
        """
        self._kept.steps = keep
        try:
            with _quiet():
                self._write(step, state, notes)
        except (OSError, ValueError, RuntimeError) as error:  # Orbax has several errors for a failed write
            full = "No space left" in str(error) or "RESOURCE_EXHAUSTED" in str(error)
            # Orbax says it at length. What another process says of itself has its number.
            short = full and not isinstance(error, UserError)
            why = "no space left on device" if short else one_line(error)
            raise CheckpointError(
                f"{self._directory}: cannot save the state of step {step} ({why}); earlier states are "
                "intact: free disk space or repair the folder, then run the same command again"
            ) from error

    def _write(self, step: int, state: Any, notes: Mapping[str, Any]) -> None:
        if self._checkpointer is None:
            self._checkpointer = ocp.training.Checkpointer(
                self._link.enter_context(_without_patterns(self._directory)),
                preservation_policy=self._kept,
                lightweight_initialize=True,  # do not read the existing states
            )
        path = self._directory / str(step)
        # Check first: a save that fails half way could leave the folder in disorder, and processes waiting.
        needed = sum(leaf.nbytes for leaf in jax.tree.leaves(state)) + OVERHEAD_BYTES
        processes.leader_only(lambda: self._begin_to_write(step, path, needed))
        self._strangers.discard(step)
        belongs_to = {"step": step, "options": self._options}
        self._checkpointer.save(
            step, state, force=True, overwrite=True, custom_metadata={**notes, BELONGS_TO: belongs_to}
        )
        processes.leader_only(lambda: self._finish_to_write(path))

    def _begin_to_write(self, step: int, path: Path, needed: int) -> None:
        if shutil.disk_usage(self._directory).free < needed:
            raise OSError(f"No space left on device for {needed:,} bytes")
        if step in self._strangers:
            aside = _move(path, self._directory.parent / "of-another-run")
            self._report(f"moved {path}, a state of another run, to {aside}")
        write_whole(self._directory / SAVING, str(step))

    def _finish_to_write(self, path: Path) -> None:
        checksums.write(path)
        (self._directory / SAVING).unlink()

    def restore(self, like: State, *, step: int | None = None) -> Restored[State] | None:
        """Read the newest undamaged state of this run. Call it before the first `save`.

        Args:
            like: a state, or its `jax.ShapeDtypeStruct`s with shardings: the expected arrays and their
                placement.
            step: read only the state of this step.

        Returns:
            The state; None if nothing has been saved yet, or if the state of ``step`` is missing or damaged.

        Raises:
            CheckpointError: if there are states, but none is undamaged and of this run; or if a state
                cannot be read for another reason than damage.
        """
        for _ in range(READ_ATTEMPTS):
            with contextlib.suppress(_ReplacedError):
                restored = self._restore(like, step)
                if not self._read_only:
                    # Orbax lists the states in each process, and waits for all where it replaces one.
                    self._agreed(self._directory, self._steps, say=_states_in_words)
                return restored
        raise CheckpointError(
            f"{self._directory}: a training run replaces these states faster than they can be read; try again"
        )

    def _restore(self, like: State, wanted: int | None) -> Restored[State] | None:
        complete = processes.from_leader(self._complete_steps)
        steps = [step for step in complete if wanted in (None, step)]
        then = "; trying the one before it" if wanted is None else ""
        for index, step in enumerate(steps):
            path = self._directory / str(step)
            verdict, words, files = self._agreed(path, functools.partial(_examine, path), say=_in_words)
            if verdict != _Verdict.WHOLE:
                self._begin_again_if_replaced(complete)
                if verdict == _Verdict.UNREADABLE:
                    raise CheckpointError(
                        f"{path}: cannot be read ({words}); nothing was changed: repair that, then run the "
                        "same command again"
                    )
                self._put_aside(path, words, then)
                continue
            with checksums.only(path, files) as place:
                try:
                    notes = processes.together(functools.partial(_notes_of, place))
                    if stranger := self._stranger(step, notes):
                        self._strangers.add(step)
                        told = f"the checkpoint {path} is {stranger}; it stays where it is and is not used"
                        self._report(told + then)
                        continue
                    state = _load(place, like)
                except CheckpointError as error:
                    self._begin_again_if_replaced(complete)
                    raise CheckpointError(f"{path}: {error}") from error.__cause__
            if not self._read_only:  # so that a later save does not delete them
                self._strangers.update(filter(self._looks_strange, steps[index + 1 :]))
            notes.pop(BELONGS_TO, None)
            return Restored(step, state, notes)
        if wanted is not None:
            return None
        has_damaged = processes.from_leader(self._damaged.exists)
        if steps or has_damaged:
            what = "is damaged or of another run" if self._strangers else "is damaged"
            raise NoStateError(
                f"{self._directory}: every saved state {what}; restore one from a backup, or start a new run "
                "in another --run-dir"
            )
        return None

    def _agreed(self, path: Path, find: Callable[[], T], *, say: Callable[[T], object]) -> T:
        """Return what all processes find: a JSON value, as which it may come back.

        Args:
            path: where.
            find: looks for it.
            say: puts it into words.

        Raises:
            CheckpointError: if they find different things, though they have waited for a disk that is late.
        """
        late = "not all processes find the same there; they look again, in case a shared disk is late"
        found = processes.found_by_all(
            find, times=LATE_SECONDS, again=lambda: self._report(f"{path}: {late}")
        )
        for process, other in enumerate(found):
            if other != found[0]:
                raise CheckpointError(
                    f"{path}: process 0 finds {say(found[0])}, process {process} finds {say(other)}; nothing "
                    "was changed: see why, or name a --run-dir on a disk that all machines share"
                )
        return found[0]

    def _steps(self) -> list[int]:
        return sorted(_steps(self._directory)) if self._directory.is_dir() else []

    def _complete_steps(self) -> list[int]:
        """Return the steps of the complete states, the newest first; without one that is being saved."""
        steps = sorted(_steps(self._directory), reverse=True)
        saving = _interrupted(self._directory)
        return [s for s in steps if s != saving or (self._directory / str(s) / CHECKSUMS).exists()]

    def _begin_again_if_replaced(self, steps: Sequence[int]) -> None:
        """Raise _ReplacedError if a trainer has replaced the states. Only a reader can meet that.

        Processes that read together are the trainer themselves.
        """
        if self._read_only and jax.process_count() == 1 and self._complete_steps() != steps:
            raise _ReplacedError

    def _stranger(self, step: int, notes: Mapping[str, Any]) -> str | None:
        """Return why a state is not of this run or step; else None. Old states do not record it: None."""
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
        """Return whether the notes of a state name another run. Its checksums are not checked."""
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
            told += f"; moved to {processes.from_leader(lambda: str(_move(path, self._damaged)))}"
        self._report(told + then)


@contextlib.contextmanager
def _without_patterns(directory: Path) -> Iterator[Path]:
    """Yield a path to the folder that has no [, * or ?, if need be through a symbolic link.

    Orbax takes the path for a glob pattern when it looks for the arrays of a save. With one of these
    characters it finds none, and saves a state without arrays.
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
    """Return the steps of all states in a folder, undamaged or not."""
    return [
        int(path.name)
        for path in directory.iterdir()
        if _STEP.fullmatch(path.name) and path.is_dir() and not path.is_symlink()
    ]


def _states_in_words(steps: Sequence[int]) -> str:
    return f"the states of the steps {', '.join(map(str, steps))}" if steps else "no states"


def _examine(path: Path) -> _Examined:
    try:
        return _Verdict.WHOLE, "", checksums.check(path)
    except checksums.DamagedError as damage:
        return _Verdict.DAMAGED, str(damage), {}
    except OSError as error:
        return _Verdict.UNREADABLE, one_line(error), {}


def _in_words(examined: _Examined) -> str:
    _, words, files = examined
    sha = hashlib.sha256(json.dumps(files).encode()).hexdigest()
    return words or f"a whole state (of the SHA-256 {sha[:8]}...)"


def _notes_of(path: Path) -> dict[str, Any]:
    """Return the notes of a state.

    Raises:
        CheckpointError: if they cannot be read.
    """
    with _words_of_orbax():
        return dict(ocp.metadata(path).custom_metadata or {})


def _load(path: Path, like: State) -> State:
    """Return the arrays of a state.

    Raises:
        CheckpointError: if their shapes differ from those of ``like``, or they cannot be read.
    """
    with _words_of_orbax():
        # Compare first: a wrong config.json must not make Orbax allocate arrays that are not in the files.
        there, wanted = _arrays(ocp.metadata(path).metadata), _arrays(like)
        if there != wanted:
            found = ", ".join(map(str, there - wanted)) or "none besides those"
            expected = ", ".join(map(str, wanted - there)) or "no more"
            raise ValueError(f"got arrays of the shapes {found}, expected {expected}")
        return ocp.load(path, like)


def _arrays(tree: Any) -> Counter[tuple[int, ...]]:
    """Count the arrays of a pytree by shape."""
    return Counter(tuple(leaf.shape) for leaf in jax.tree.leaves(tree))


@contextlib.contextmanager
def _words_of_orbax() -> Iterator[None]:
    """Turn errors of Orbax into a CheckpointError with their text. The files are undamaged here."""
    try:
        yield
    except (OSError, ValueError, KeyError, TypeError, RuntimeError) as error:
        unknown = isinstance(error, ValueError | KeyError | TypeError)
        advice = "; if another version of lstm_jax or orbax-checkpoint wrote it, use that" if unknown else ""
        raise CheckpointError(
            f"its files are intact, but it cannot be read ({printable(one_line(error))}){advice}"
        ) from error


def _move(path: Path, folder: Path) -> Path:
    """Move a state into another folder without replacing anything there, and return its new path."""
    folder.mkdir(exist_ok=True)
    names = (path.name if count == 1 else f"{path.name}-{count}" for count in itertools.count(1))
    target = next(folder / name for name in names if not os.path.lexists(folder / name))
    os.replace(path, target)
    return target


def _interrupted(directory: Path) -> int | None:
    """Return the step that is being saved, or was being saved when the process was killed; else None."""
    try:
        return int(read_text(directory / SAVING, most_bytes=100))
    except (OSError, ValueError):  # no file, or no number in it
        return None


def _clean_up(directory: Path) -> None:
    """Remove the remains of killed saves and deletions. A state that was once complete and newest stays."""
    interrupted = _interrupted(directory)
    checked = [step for step in _steps(directory) if (directory / str(step) / CHECKSUMS).exists()]
    for step in set(_steps(directory)) - set(checked):
        if step == interrupted or step < max(checked, default=-1):  # not completed, or half deleted
            shutil.rmtree(directory / str(step))
    for path in directory.iterdir():
        if _STEP.fullmatch(path.name) and (path.is_symlink() or not path.is_dir()):
            raise CheckpointError(
                f"{path}: got no folder, expected a saved state or nothing; move it elsewhere, then run the "
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
            f"{saving}: got a folder, expected a file or nothing; move it elsewhere, then run the same "
            "command again"
        )
    saving.unlink(missing_ok=True)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Turn off logging: Orbax logs each failed write several times from its threads, and raises it too."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        yield
    except BaseException:
        gc.collect()  # Orbax leaves tasks that log an error when they are collected: do it now, unheard
        raise
    finally:
        logging.disable(before)


def digest(tree: Any) -> str:
    """Compute the SHA-256 of a pytree of arrays (names, dtypes, shapes, values), in hex."""
    sha = hashlib.sha256()
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        array = np.asarray(leaf)
        sha.update(f"{jax.tree_util.keystr(path)} {array.dtype} {array.shape}\n".encode())
        sha.update(np.ascontiguousarray(array).tobytes())
    return sha.hexdigest()

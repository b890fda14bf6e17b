"""The folder that holds all of a run, so that the same command can go on where it stopped.

    config.json     the options
    checkpoints/    the newest saved states: the truth about how far the run has come; and the best one
    metrics.jsonl   one JSON object per epoch
    tensorboard/    the same figures as TensorBoard events
    summary.json    written last; a run that has it is finished (it goes when a run becomes longer)
    damaged/        checkpoints that failed their checksum, if there were any
    of-another-run/ checkpoints that were copied into ``checkpoints/`` and stood in the way, if there were any

Every epoch's figures are part of the saved state. ``metrics.jsonl`` and ``summary.json`` are copies of them
for people and programs to read; they are brought into line with the state whenever the run is taken up.
"""

import dataclasses
import json
import os
import shlex
import socket
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from lstm_jax.config import LENGTH, Config
from lstm_jax.errors import ConfigError, RunDirectoryError, one_line, printable
from lstm_jax.options import flag
from lstm_jax.system.files import (
    append,
    read_text,
    remove_unfinished_files,
    remove_unfinished_folders,
    write_whole,
)

Record = Mapping[str, Any]

CONFIG, METRICS, SUMMARY, LOCK = "config.json", "metrics.jsonl", "summary.json", ".lock"
CHECKPOINTS, TENSORBOARD = "checkpoints", "tensorboard"
# All that is written here.
ENTRIES = (CONFIG, METRICS, SUMMARY, LOCK, CHECKPOINTS, TENSORBOARD, "damaged", "of-another-run")
# What `export --format safetensors` calls its file.
WEIGHTS_FILE = "params.safetensors"
# No options and no summary of figures are larger; of 1,024 seeds, a summary has 300 kB.
_MOST_BYTES = 2**24
# TensorBoard's name for each figure of an epoch's record.
_SCALARS = {
    "train_loss": "loss/train",
    "validation_loss": "loss/validation",
    "test_loss": "loss/test",
    "validation_accuracy": "accuracy/validation",
    "test_accuracy": "accuracy/test",
    "examples_per_second": "speed/examples_per_second",
}


class RunDirectory:
    """One run's folder, held by one process at a time. A context manager.

    Attributes:
        path: the folder.
        becomes_other: whether the run there is to be longer or shorter, or to have another patience, than
            when it was begun.
    """

    def __init__(self, config: Config, *, leader: bool = True) -> None:
        """Make the folder, or take up the run that is in it.

        Args:
            config: the options.
            leader: whether this process is the one of its run that writes here.

        Raises:
            RunDirectoryError: if it cannot be written, another process trains in it, or it holds a run
                with other options; then they are listed.
        """
        self.path = config.run_directory()
        self.becomes_other = False
        self._config = config
        self._lock = FileLock(self.path / LOCK)
        self._events: Any = None
        self._leader = leader
        if not leader:
            self._continue()  # what the leader has just written
            return
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            refuse_links(self.path, *ENTRIES)
            self._lock.acquire(timeout=0)
        except Timeout as error:
            raise RunDirectoryError(
                f"{self.path}: another process is training here; wait for it, or name another --run-dir"
            ) from error
        except OSError as error:
            raise RunDirectoryError(
                f"{self.path}: cannot write here ({error.strerror}); name another --run-dir"
            ) from error
        try:
            self._take_up()
        except BaseException:
            self._lock.release()
            raise

    def _take_up(self) -> None:
        if (self.path / CONFIG).exists():
            self._continue()
        elif self.checkpoints.exists() or (self.path / SUMMARY).exists():
            raise RunDirectoryError(
                f"{self.path}: holds a run without its config.json; put that back, or name another --run-dir"
            )
        else:
            self._write_config()
        with self._writing():
            remove_unfinished_files(self.path, (CONFIG, METRICS, SUMMARY))
            remove_unfinished_folders(self.path)

    def _continue(self) -> None:
        saved = read_config(self.path)
        _refuse_other_options(self.path, saved=saved, wanted=self._config)
        wanted = {field: getattr(self._config, field) for field in (*LENGTH, "patience")}
        # All else stays as it was: `evaluate` looks for the data where they were.
        self._config = dataclasses.replace(saved, **wanted)
        self.becomes_other = self._config != saved

    def _write_config(self) -> None:
        with self._writing():
            write_whole(self.path / CONFIG, json.dumps(self._config.to_dict(), indent=2) + "\n")

    def __enter__(self) -> "RunDirectory":
        return self

    def __exit__(self, *exception: object) -> None:
        if self._events is not None:
            with suppress(OSError):  # every event was flushed when it was written
                self._events.close()
        self._lock.release()

    @property
    def checkpoints(self) -> Path:
        """The folder of saved states."""
        return self.path / CHECKPOINTS

    @property
    def has_summary(self) -> bool:
        """Whether the run has come to its end, and said so."""
        return (self.path / SUMMARY).exists()

    def read_summary(self) -> dict[str, Any] | None:
        """The summary of a finished run; None if there is none.

        Raises:
            DamagedJSONError: if it is damaged.
            RunDirectoryError: if it cannot be read.
        """
        return _read_json(self.path / SUMMARY) if self.has_summary else None

    def write_summary(self, summary: Record) -> None:
        """Mark the run as finished."""
        if not self._leader:
            return
        with self._writing():
            write_whole(self.path / SUMMARY, json.dumps(summary, indent=2) + "\n")

    def begin(self, history: Sequence[Record]) -> None:
        """Bring options and metrics into line with what is going on, and open TensorBoard's event file.

        Args:
            history: the records of the epochs that the saved state has behind it.
        """
        self.mend_metrics(history)
        if not self._leader:
            return
        last_step = history[-1]["step"] if history else 0
        if self.becomes_other:
            # In this order: a run that has a summary is finished, and that is written again from the state.
            with self._writing():
                (self.path / SUMMARY).unlink(missing_ok=True)
            self._write_config()
        with self._writing():
            self._events = _EventFile(self.path / TENSORBOARD, first_step=last_step + 1)

    def mend_metrics(self, history: Sequence[Record]) -> None:
        """Bring the metrics into line with the saved state."""
        if not self._leader:
            return
        path = self.path / METRICS
        lines = "".join(_json_line(record) for record in history)
        with self._writing():
            if not path.is_file() or path.read_bytes() != lines.encode():
                write_whole(path, lines)

    def add(self, record: Record) -> None:
        """Append one epoch's figures to the metrics and the events."""
        if not self._leader:
            return
        with self._writing():
            append(self.path / METRICS, _json_line(record))
            known = {tag: record[key] for key, tag in _SCALARS.items() if record[key] is not None}
            self._events.write(record["step"], known)

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """Say which folder could not be written, and that nothing is lost."""
        try:
            yield
        except OSError as error:
            raise RunDirectoryError(
                f"{self.path}: cannot be written ({one_line(error)}); what is saved is intact: make room, "
                "then give the same command again"
            ) from error


@contextmanager
def _pytorch_hidden() -> Iterator[None]:
    """TensorboardX imports PyTorch if it is installed: seconds of every start, for nothing that we use."""
    if "torch" in sys.modules:
        yield
        return
    sys.modules["torch"] = None  # type: ignore[assignment]  # by which Python says that there is none
    try:
        yield
    finally:
        del sys.modules["torch"]


class _EventFile:
    """A TensorBoard event file, written synchronously: a full disk must be an error here and now.

    (`tensorboardX.SummaryWriter` writes from a thread of its own, which a full disk ends silently.)
    """

    def __init__(self, directory: Path, *, first_step: int) -> None:
        with _pytorch_hidden():
            from tensorboardX.proto.event_pb2 import Event, SessionLog
            from tensorboardX.record_writer import RecordWriter

        directory.mkdir(exist_ok=True)
        name = f"events.out.tfevents.{time.time_ns()}.{socket.gethostname()}.{os.getpid()}"
        self._writer = RecordWriter(str(directory / name))
        self._put(Event(wall_time=time.time(), file_version="brain.Event:2"))
        # Tells TensorBoard to forget what a killed predecessor wrote of this step and later ones.
        start = SessionLog(status=SessionLog.START)
        self._put(Event(wall_time=time.time(), step=first_step, session_log=start))

    def write(self, step: int, scalars: Mapping[str, float]) -> None:
        from tensorboardX.proto.event_pb2 import Event
        from tensorboardX.proto.summary_pb2 import Summary

        values = [Summary.Value(tag=tag, simple_value=value) for tag, value in scalars.items()]
        self._put(Event(wall_time=time.time(), step=step, summary=Summary(value=values)))

    def _put(self, event: Any) -> None:
        self._writer.write(event.SerializeToString())
        self._writer.flush()

    def close(self) -> None:
        self._writer.close()


def read_config(path: Path) -> Config:
    """The options of the run in a folder.

    Raises:
        RunDirectoryError: if there is no run, or its config.json is damaged.
    """
    if not (path / CONFIG).is_file():
        found = "no such folder" if not path.exists() else "no config.json in it"
        raise RunDirectoryError(f"{path}: not a run directory ({found}); expected the folder of a run")
    try:
        values = _read_json(path / CONFIG)
    except DamagedJSONError as error:
        raise RunDirectoryError(f"{error}; restore it from a backup") from error
    try:
        return Config.of(**values)
    except ConfigError as error:
        raise RunDirectoryError(f"{path / CONFIG}: {error}") from error


def refuse_links(path: Path, *names: str) -> None:
    """Refuse a folder that leads elsewhere: in one that came from others, a link could lead anywhere.

    Raises:
        RunDirectoryError: if one of ``names`` in it, written as a path, is or passes through a symbolic link.
    """
    for name in names:
        places = [place for place in (path / name, *(path / name).parents) if path in place.parents]
        for place in reversed(places):
            if place.is_symlink():
                raise RunDirectoryError(
                    f"{place}: got a symbolic link, expected a file or folder of the run itself: a run is "
                    "never written through links; put what it leads to in its place"
                )


def refuse_links_on_the_way(run_dir: Path, output: Path) -> None:
    """Refuse a folder to write to that lies in a run directory behind a symbolic link.

    Raises:
        RunDirectoryError: if it does.
    """
    run_dir, output = Path(os.path.abspath(run_dir)), Path(os.path.abspath(output))
    if output.is_relative_to(run_dir):
        refuse_links(run_dir, str(output.relative_to(run_dir)))


def _refuse_other_options(path: Path, *, saved: Config, wanted: Config) -> None:
    fixed = {*saved.identity(), *wanted.identity()}
    old, new = saved.to_dict(), wanted.to_dict()
    differing = [key for key in old if key in fixed and old[key] != new[key]]
    told = "; ".join(f"{flag(key)} {old[key]} there, {new[key]} now" for key in differing)
    if differing and set(differing) <= set(LENGTH):
        raise RunDirectoryError(
            f"{path}: holds a run of another length ({told}), which its learning rate follows from; give the "
            f"same length to continue it, or {how_to_begin_with_weights(path)}"
        )
    if differing:
        raise RunDirectoryError(
            f"{path}: holds a run with other options ({told}); "
            "give the same options to continue it, or name another --run-dir"
        )


def how_to_begin_with_weights(path: Path) -> str:
    """The commands that begin another run with the weights of the one in a folder."""
    return (
        f"begin another run with its weights: python -m lstm_jax export {shlex.quote(str(path))} "
        f"--format safetensors && python -m lstm_jax import {shlex.quote(str(path / WEIGHTS_FILE))} "
        "--run-dir ANOTHER"
    )


class DamagedJSONError(RunDirectoryError):
    """A file that is not what was written, by the words of its parser."""


def _read_json(path: Path) -> dict[str, Any]:
    try:
        values = json.loads(read_text(path, most_bytes=_MOST_BYTES))
    except OSError as error:
        raise RunDirectoryError(f"{path}: cannot be read ({one_line(error)})") from error
    except (ValueError, RecursionError) as error:
        raise DamagedJSONError(f"{path}: is damaged ({printable(one_line(error))})") from error
    if not isinstance(values, dict):
        raise DamagedJSONError(f"{path}: expected a JSON object, found {type(values).__name__}")
    return values


def _json_line(record: Record) -> str:
    return json.dumps(record) + "\n"

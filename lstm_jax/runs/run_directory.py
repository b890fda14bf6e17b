"""The folder that holds all of a run, so that the same command can continue it.

    config.json     the options
    checkpoints/    the newest saved states, which say how far the run is, and the best one
    metrics.jsonl   one JSON object per epoch
    tensorboard/    the same figures as TensorBoard events
    learning.*, confusion.*
                    pictures of the training and of its end, made by the command line if matplotlib is there
    summary.json    the result, written last: a run with it is finished (removed when a run becomes longer)
    damaged/        checkpoints that failed their checksum, if any
    of-another-run/ checkpoints of other runs that were in the way of a new one, if any

The figures of every epoch are part of the saved state. ``metrics.jsonl`` and ``summary.json`` are copies for
people and programs to read. Whenever a run continues, they are corrected to match the state.
"""

import dataclasses
import json
import logging
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
# Pictures of a run, each as PNG and as SVG.
LEARNING, CONFUSION = "learning", "confusion"
_PICTURES = tuple(f"{name}.{suffix}" for name in (LEARNING, CONFUSION) for suffix in ("png", "svg"))
# All names that a run writes here.
ENTRIES = (CONFIG, METRICS, SUMMARY, LOCK, CHECKPOINTS, TENSORBOARD, *_PICTURES, "damaged", "of-another-run")
# The name of the file of `export --format safetensors`.
WEIGHTS_FILE = "params.safetensors"
# A limit that no config.json or summary.json exceeds; with 1,024 seeds, a summary has 300 kB.
_MOST_BYTES = 2**24
# The same for metrics.jsonl: an epoch has half a kilobyte, for each of many seeds.
_MOST_METRICS = 2**30
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
    """The folder of one run, as a context manager. A lock lets one process at a time use it.

    The processes of one run have one each, and only that of the leader writes.

    Attributes:
        path: the folder.
        becomes_other: whether the options ask for another length or patience than those saved in the folder.
    """

    def __init__(self, config: Config, *, leader: bool = True) -> None:
        """Make the folder, or continue the run in it.

        Args:
            config: the options.
            leader: whether this process writes; if not, the folder must be there.

        Raises:
            RunDirectoryError: if it cannot be written, another process trains in it, or it holds a run
                with other options (the message lists them).
        """
        self.path = config.run_directory()
        self.becomes_other = False
        self._config = config
        self._lock = FileLock(self.path / LOCK)
        self._events: Any = None
        self._leader = leader
        if not leader:
            if not (self.path / CONFIG).is_file():
                raise RunDirectoryError(
                    f"{self.path}: got no folder with the config.json that process 0 has just written, "
                    "expected the same folder in all processes, on a disk that they share"
                )
            self._continue()
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
        # All else stays as saved: `evaluate` looks for the data where the run found them.
        self._config = dataclasses.replace(saved, **wanted)
        self.becomes_other = self._config != saved

    def _write_config(self) -> None:
        with self._writing():
            write_whole(self.path / CONFIG, json.dumps(self._config.to_dict(), indent=2) + "\n")

    def __enter__(self) -> "RunDirectory":
        return self

    def __exit__(self, *exception: object) -> None:
        if self._events is not None:
            with suppress(OSError):  # nothing is lost: every event was flushed when it was written
                self._events.close()
        self._lock.release()

    @property
    def checkpoints(self) -> Path:
        """The folder of saved states."""
        return self.path / CHECKPOINTS

    @property
    def has_summary(self) -> bool:
        """Whether the run is finished, that is, has a summary.json."""
        return (self.path / SUMMARY).exists()

    def read_summary(self) -> dict[str, Any] | None:
        """Return the summary of a finished run; None if there is none.

        Raises:
            DamagedJSONError: if it is damaged.
            RunDirectoryError: if it cannot be read.
        """
        return read_summary(self.path)

    def write_summary(self, summary: Record) -> None:
        """Mark the run as finished."""
        if not self._leader:
            return
        with self._writing():
            write_whole(self.path / SUMMARY, json.dumps(summary, indent=2) + "\n")

    def begin(self, history: Sequence[Record]) -> None:
        """Correct options and metrics to match the state, and open the TensorBoard event file.

        Args:
            history: the records of the epochs so far, from the saved state.
        """
        self.mend_metrics(history)
        if not self._leader:
            return
        last_step = history[-1]["step"] if history else 0
        if self.becomes_other:
            # The summary first: if the process is killed in between, no summary stands beside other options.
            with self._writing():
                (self.path / SUMMARY).unlink(missing_ok=True)
            self._write_config()
        with self._events_may_be_lost():
            self._events = _EventFile(self.path / TENSORBOARD, first_step=last_step + 1)

    def mend_metrics(self, history: Sequence[Record]) -> None:
        """Correct the metrics to match the saved state."""
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
        if self._events is not None:
            known = {tag: record[key] for key, tag in _SCALARS.items() if record[key] is not None}
            with self._events_may_be_lost():
                self._events.write(record["step"], known)

    @contextmanager
    def _events_may_be_lost(self) -> Iterator[None]:
        """Go on without TensorBoard's events if they cannot be written: the metrics have the same figures."""
        try:
            yield
        except OSError as error:
            if self._events is not None:
                with suppress(OSError):
                    self._events.close()
            self._events = None
            logging.getLogger("lstm_jax").warning(
                "lstm_jax: %s gets no more TensorBoard events (%s); %s has all figures",
                self.path,
                one_line(error),
                METRICS,
            )

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """Turn an OSError into a RunDirectoryError that names the folder."""
        try:
            yield
        except OSError as error:
            raise RunDirectoryError(
                f"{self.path}: cannot be written ({one_line(error)}); saved states are intact: free disk "
                "space, then run the same command again"
            ) from error


@contextmanager
def _pytorch_hidden() -> Iterator[None]:
    """Hide PyTorch from tensorboardX, which would import it: that takes seconds, and we do not use it."""
    if "torch" in sys.modules:
        yield
        return
    sys.modules["torch"] = None  # type: ignore[assignment]  # makes an import raise ModuleNotFoundError
    try:
        yield
    finally:
        del sys.modules["torch"]


class _EventFile:
    """A TensorBoard event file, written synchronously, so that a full disk raises an error at once.

    (`tensorboardX.SummaryWriter` writes from a thread of its own, which a full disk ends silently.)
    """

    def __init__(self, directory: Path, *, first_step: int) -> None:
        with _pytorch_hidden():
            from tensorboardX.proto.event_pb2 import Event, SessionLog
            from tensorboardX.record_writer import RecordWriter

        directory.mkdir(exist_ok=True)
        name = f"events.out.tfevents.{time.time_ns()}.{socket.gethostname()}.{os.getpid()}"
        self._writer = RecordWriter(str(directory / name))
        try:
            self._put(Event(wall_time=time.time(), file_version="brain.Event:2"))
            # Tells TensorBoard to discard events of this and later steps, from a process that was killed.
            start = SessionLog(status=SessionLog.START)
            self._put(Event(wall_time=time.time(), step=first_step, session_log=start))
        except OSError:
            self.close()
            raise

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
    """Read the options of the run in a folder.

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


def read_summary(path: Path) -> dict[str, Any] | None:
    """Return the summary of the run in a folder; None if it is not finished.

    Raises:
        DamagedJSONError: if it is damaged.
        RunDirectoryError: if it cannot be read.
    """
    return _read_json(path / SUMMARY) if (path / SUMMARY).exists() else None


def read_metrics(path: Path) -> list[Record]:
    """Read the records of the epochs of the run in a folder; none if no epoch has ended.

    Raises:
        RunDirectoryError: if its metrics.jsonl is damaged.
    """
    file = path / METRICS
    if not file.is_file():
        return []
    try:
        lines = read_text(file, most_bytes=_MOST_METRICS).splitlines()
        records: list[Record] = [json.loads(line) for line in lines]
        for record in records:
            if not record.keys() >= {"epoch", "step", *_SCALARS}:
                raise ValueError("a line is no record of an epoch")
    except OSError as error:
        raise RunDirectoryError(f"{file}: cannot be read ({one_line(error)})") from error
    except (ValueError, AttributeError, RecursionError) as error:
        raise DamagedJSONError(
            f"{file}: is damaged ({printable(one_line(error))}); the command that trained the run writes "
            "it again"
        ) from error
    return records


def refuse_links(path: Path, *names: str) -> None:
    """Refuse symbolic links in a folder. In one from somebody else, a link could lead anywhere.

    Raises:
        RunDirectoryError: if one of ``names``, paths within the folder, is or passes through a symbolic link.
    """
    for name in names:
        places = [place for place in (path / name, *(path / name).parents) if path in place.parents]
        for place in reversed(places):
            if place.is_symlink():
                raise RunDirectoryError(
                    f"{place}: got a symbolic link, expected a file or folder of the run itself: a run is "
                    "never written through links; replace the link with what it points to"
                )


def refuse_links_on_the_way(run_dir: Path, output: Path) -> None:
    """Refuse to write to a folder that lies in a run directory behind a symbolic link.

    Raises:
        RunDirectoryError: if ``output`` is such a folder.
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
            f"{path}: holds a run of another length ({told}), on which its learning rates depend; give the "
            f"same length to continue it, or {how_to_begin_with_weights(path)}"
        )
    if differing:
        raise RunDirectoryError(
            f"{path}: holds a run with other options ({told}); "
            "give the same options to continue it, or name another --run-dir"
        )


def how_to_begin_with_weights(path: Path) -> str:
    """Return, in words, the commands that begin another run with the weights of the one in a folder."""
    return (
        f"begin another run with its weights: python -m lstm_jax export {shlex.quote(str(path))} "
        f"--format safetensors && python -m lstm_jax import {shlex.quote(str(path / WEIGHTS_FILE))} "
        "--run-dir ANOTHER"
    )


class DamagedJSONError(RunDirectoryError):
    """A JSON file that cannot be parsed, or is no object."""


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

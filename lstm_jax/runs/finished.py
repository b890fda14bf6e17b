"""The result of a run; that of a finished one is read again, and corrected from its last state."""

import dataclasses
import shlex
import signal
from pathlib import Path

from jax.sharding import Mesh

from lstm_jax.config import Config
from lstm_jax.errors import CheckpointError
from lstm_jax.evaluation import Confusion
from lstm_jax.model import Params
from lstm_jax.runs import processes
from lstm_jax.runs.checkpoint import NoStateError, digest
from lstm_jax.runs.console import Console
from lstm_jax.runs.history import Notes, has_ended
from lstm_jax.runs.run_directory import DamagedJSONError, Record, RunDirectory, how_to_begin_with_weights
from lstm_jax.runs.summary import mend, result_in_words, summarise, tell_end
from lstm_jax.runs.trained import load_state
from lstm_jax.training import TrainState


@dataclasses.dataclass(frozen=True)
class TrainResult:
    """The result of `train`.

    Attributes:
        params: the model's parameters (of many seeds, with an axis of seeds before the others); None if
            the run was finished before and they are lost.
        history: one record per epoch, as in ``metrics.jsonl``; empty if they are lost.
        summary: the contents of ``summary.json``; None if the run was stopped before its end.
        confusion: how many test images of class i (row) were classified as j (column) after the last epoch,
            the sum over the seeds; None if this call ended no epoch.
        stopped_by: the signal that stopped the run; None if it reached its end.
        run_dir: the run directory.
    """

    params: Params | None
    history: tuple[Record, ...]
    summary: Record | None
    confusion: Confusion | None
    stopped_by: signal.Signals | None
    run_dir: Path


def finished(run: RunDirectory, config: Config, mesh: Mesh, console: Console) -> TrainResult | None:
    """Return the result of a finished run; None if it must be completed again because its result is lost.

    The summary and metrics are compared with the last state, if that still exists, and corrected.
    """
    summary = found = processes.from_leader(lambda: summary_of(run, console))
    ended = end_of(run, config, summary, console)
    if ended is not None:
        state, notes = ended
        summary, wrong = mend(found, summarise(config, state, notes, mesh))
        processes.together(lambda: write_again(run, notes, summary if wrong else None))
        if wrong:
            of_this_process = "device and versions are those of this process"
            why = f"missing or wrong: {', '.join(wrong)}" if found else of_this_process
            console.message(f"summary.json was written again from the saved state ({why})")
    try:
        result_in_words(summary)
    except (KeyError, TypeError, ValueError, ArithmeticError):
        console.message(f"{run.path}: summary.json has no result; it is written again after training")
        return None
    tell_end(console, summary, run.path)
    longer = how_to_go_on(config, summary, run.path)
    console.message(
        f"This run is finished. To train longer, {longer}; for a new run, name another --run-dir."
    )
    if ended is None:
        console.message("The final parameters are no longer in its checkpoints, so nothing was compared.")
        return TrainResult(None, (), summary, None, None, run.path)
    return TrainResult(state.evaluated_params, notes.history, summary, None, None, run.path)


def summary_of(run: RunDirectory, console: Console) -> Record:
    """Read the summary of a run; empty if it is missing or damaged."""
    try:
        return run.read_summary() or {}
    except DamagedJSONError as error:
        console.message(str(error))
        return {}


def end_of(
    run: RunDirectory, config: Config, summary: Record, console: Console
) -> tuple[TrainState, Notes] | None:
    """Read the last state of a finished run, and its notes; None if that state is lost."""
    try:
        restored = load_state(run.path, report=console.message)
    except CheckpointError as error:
        if processes.process_count() > 1 and not isinstance(error, NoStateError):
            raise  # it may be of this process alone, while the others read on
        console.message(str(error))
        return None
    state, notes = restored.state, Notes.from_json(restored.notes)
    is_summarised = digest(state.evaluated_params) == summary.get("parameters_sha256")
    is_last = notes.history and (is_summarised or has_ended(config, notes.history, restored.step))
    return (state, notes) if is_last else None


def write_again(run: RunDirectory, notes: Notes, summary: Record | None) -> None:
    """Write the metrics of a finished run if they are not right, and the summary if there is one."""
    if summary is not None:
        run.write_summary(summary)
    run.mend_metrics(notes.history)


def how_to_go_on(config: Config, summary: Record, path: Path) -> str:
    """Return, in words, how to make a finished run longer."""
    here = f"with --run-dir {shlex.quote(str(path))}"
    if summary.get("stopped_early"):
        return f"give more --patience, or none, {here}"
    if config.may_go_on:
        return f"give more --epochs or --steps {here}"
    return how_to_begin_with_weights(path)

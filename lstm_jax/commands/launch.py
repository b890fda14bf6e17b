"""``python -m lstm_jax launch``: train in several processes on this machine."""

import dataclasses
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

from lstm_jax.cluster.launcher import Launcher
from lstm_jax.cluster.options import VARIABLES
from lstm_jax.commands import command_line, train
from lstm_jax.options import check, flag, shown_option, whole_number
from lstm_jax.system.signals import StopSignals

PURPOSE = "Train in several processes on this machine."
_WORDS = "-- train ..."


@dataclasses.dataclass(frozen=True, kw_only=True)
class Launch:
    """Train in several processes on this machine: launch --processes 2 -- train --epochs 2.

    After -- come the words of the command train. Its processes share each batch, and each takes a GPU of its
    own where there are GPUs. When one of them ends with an error, all end.
    """

    processes: Annotated[int, whole_number(1, 2**10)]
    """Number of processes."""
    restarts: Annotated[int, whole_number(0, 2**31 - 1)] = 0
    """How often to start all again, from the newest whole checkpoint, when one of them has died."""
    log_dir: Annotated[Path | None, shown_option("DIR", "a temporary one, which stays after a failure")] = (
        None
    )
    """Folder for what each process writes, process-0.log and so on."""

    def __post_init__(self) -> None:
        """Refuse impossible values."""
        check(self)


def main(args: Sequence[str], *, prog: str) -> int:
    """Start the processes and wait for their end; return the exit code, 128 + N after signal N."""
    own, words = list(args), []
    if "--" in own:
        own, words = own[: own.index("--")], own[own.index("--") + 1 :]
    launch = command_line.parse(Launch, own, prog=prog)
    if words[:1] != ["train"]:
        got = repr(words[0]) if words else "nothing"
        command_line.fail(
            prog, f"{_WORDS}: got {got} after --, expected train", code=command_line.USAGE_EXIT_CODE
        )
    # A typing mistake is told here, once, before anything starts.
    given = train.read_options(words[1:], prog=f"{prog} {_WORDS.removesuffix(' ...')}").cluster
    of_its_own = [name for name in VARIABLES if getattr(given, name) is not None]
    if of_its_own or given.distributed:
        named = ", ".join(map(flag, of_its_own or ["distributed"]))
        told = f"{named}: got it after --, expected none: launch numbers its processes"
        command_line.fail(prog, told, code=command_line.USAGE_EXIT_CODE)
    logs = launch.log_dir or Path(tempfile.mkdtemp(prefix="lstm_jax-"))
    logs.mkdir(parents=True, exist_ok=True)

    def say(text: str) -> None:
        command_line.note(f"{prog}: {text}")

    code = 1
    try:
        with StopSignals() as stop:
            launcher = Launcher(["-m", "lstm_jax", *words], processes=launch.processes, logs=logs, say=say)
            with launcher:
                code = launcher.run(restarts=launch.restarts, stop=stop)
    finally:
        # The logs stay where a message has named them.
        if launch.log_dir is None and code in (0, 128 + (stop.received or 0)):
            shutil.rmtree(logs)
    return code

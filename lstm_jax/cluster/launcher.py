"""The processes of a run on this machine, started and watched from outside.

The processes find each other through JAX's environment variables. Each writes into a file of its own; what
process 0 writes is shown, and what the others write with their number before it. When one ends with an error,
the others end by themselves (`watch.py`), and may all be started again: the same command goes on from the
newest whole checkpoint. JAX is not imported here.
"""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from lstm_jax.cluster.options import VARIABLES
from lstm_jax.cluster.watch import CRASHED, LAUNCHER, LOOPBACK, OF_ANOTHER, PROMISED_SECONDS, free_port
from lstm_jax.system.signals import StopSignals

# What the processes may take to save their state and end when they are told to stop, and when one is gone.
STOP_SECONDS = 120.0
_LOOK_SECONDS = 0.1
# Gloo writes how many processes it has connected: for its developers.
_NOISE = re.compile(rb"\[Gloo\] Rank \d+ is connected to ")


class Launcher:
    """The processes of one command, as a context manager that leaves none behind.

    Attributes:
        logs: the folder of what they write, ``process-0.log`` and so on.
    """

    def __init__(
        self, words: Sequence[str], *, processes: int, logs: Path, say: Callable[[str], None]
    ) -> None:
        """Prepare to start a command in several processes.

        Args:
            words: the words after ``python``.
            processes: how many.
            logs: the folder of what they write; files in it are continued.
            say: receives a line for the user.
        """
        self.logs = logs
        self._words = words
        self._count = processes
        self._say = say
        self._running: list[subprocess.Popen[bytes]] = []
        self._shown: list[_Shown] = []

    def __enter__(self) -> "Launcher":
        return self

    def __exit__(self, *exception: object) -> None:
        for process in self._running:
            process.kill()
            process.wait()
        self._close_shown()

    def run(self, *, restarts: int, stop: StopSignals) -> int:
        """Run the command to its end, and start it again when one of its processes has died.

        Args:
            restarts: how often, at most.
            stop: listens for signals; the first is passed on to the processes.

        Returns:
            The exit code; 128 + N after signal N.
        """
        while True:
            self._start()
            number, code = self._wait(stop)
            if code == 0 or (stop.received is not None and code == 128 + stop.received):
                return code
            self._say(f"process {number} {in_words(code)}; its log is {self._log(number)}")
            # Else it is the user's turn: the same would happen again.
            may_help = code < 0 or code == CRASHED
            if not restarts or not may_help or stop.received is not None:
                return code if code > 0 else 128 - code
            restarts -= 1
            self._say(f"all start again from the newest whole checkpoint; restarts left: {restarts}")

    def _log(self, number: int) -> Path:
        return self.logs / f"process-{number}.log"

    def _start(self) -> None:
        address = f"{LOOPBACK}:{free_port()}"
        self._close_shown()
        self._running, self._shown = [], []
        for number in range(self._count):
            named = dict(zip(VARIABLES.values(), (address, str(self._count), str(number)), strict=True))
            # One GPU each, where there are GPUs, unless the user says otherwise.
            devices = {"JAX_LOCAL_DEVICE_IDS": str(number)}
            more = {**named, LAUNCHER: str(os.getpid()), "PYTHONUNBUFFERED": "1"}
            with self._log(number).open("ab") as file:
                self._shown.append(_Shown(self._log(number), b"[%d] " % number if number else b""))
                process = subprocess.Popen(
                    [sys.executable, *self._words],
                    env={**devices, **os.environ, **more},
                    stdin=subprocess.DEVNULL,
                    stdout=file,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,  # a Ctrl-C comes to this process only, which passes it on
                )
            self._running.append(process)

    def _wait(self, stop: StopSignals) -> tuple[int, int]:
        """Wait for the end of all processes. Return the number and the code of the one that is the reason."""
        ended: dict[int, int] = {}
        deadline, passed_on = float("inf"), False
        while len(ended) < self._count:
            time.sleep(_LOOK_SECONDS)
            codes = {number: process.poll() for number, process in enumerate(self._running)}
            ended |= {
                number: code for number, code in codes.items() if code is not None and number not in ended
            }
            if any(ended.values()):
                deadline = min(deadline, time.monotonic() + PROMISED_SECONDS)
            if stop.received is not None and not passed_on:
                passed_on, deadline = True, time.monotonic() + STOP_SECONDS
                for process in self._running:
                    process.send_signal(stop.received)
            self._show()
            if time.monotonic() > deadline:
                break
        if late := [number for number in range(self._count) if number not in ended]:
            self._say(f"process {', '.join(map(str, late))} does not end by itself and is killed")
            for number in late:
                self._running[number].kill()
                self._running[number].wait()
            ended |= dict.fromkeys(late, OF_ANOTHER)
        self._show()
        # One that died is the reason of all else; one that ended for another's sake is none.
        number = min(
            ended, key=lambda each: (ended[each] >= 0, ended[each] in (0, OF_ANOTHER), ended[each] == 0)
        )
        return number, ended[number]

    def _close_shown(self) -> None:
        for shown in self._shown:
            sys.stdout.buffer.write(shown.close())
        sys.stdout.flush()

    def _show(self) -> None:
        for shown in self._shown:
            for line in shown.new_lines():
                sys.stdout.buffer.write(line)
        sys.stdout.flush()


class _Shown:
    """What has been shown of a log."""

    def __init__(self, path: Path, before: bytes) -> None:
        self._before = before
        self._file = path.open("rb")
        self._file.seek(0, os.SEEK_END)
        self._rest = b""

    def close(self) -> bytes:
        """Close the log; return what the process left of a line that it did not end."""
        self._file.close()
        return self._before + self._rest + b"\n" if self._rest else b""

    def new_lines(self) -> Iterator[bytes]:
        """Yield the lines that have been added, each with the mark of its process before it."""
        *lines, self._rest = (self._rest + self._file.read()).split(b"\n")
        for line in lines:
            if not _NOISE.match(line):
                yield self._before + line + b"\n"


def in_words(code: int) -> str:
    """Return how a process ended, from its exit code as `subprocess` gives it."""
    number = -code if code < 0 else code - 128
    try:
        name = signal.Signals(number).name
    except ValueError:
        return f"ended with code {code}"
    return f"was killed by {name}" if code < 0 else f"was stopped by {name}"

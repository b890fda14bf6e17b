"""Programs of the project as a user starts them, without the seconds that Python takes to import JAX.

A process that has imported everything, and has not touched a device, forks one for each program
(`multiprocessing`'s fork server). What a program does while it starts is tested by `subprocess` instead.
"""

import multiprocessing
import os
import runpy
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from multiprocessing import forkserver
from pathlib import Path
from subprocess import CompletedProcess, TimeoutExpired

from tests.helpers.project import PROJECT

# What commands import. If the tests run in another folder, nothing is found, and each program imports it.
_FORKING = multiprocessing.get_context("forkserver")
_FORKING.set_forkserver_preload(
    [
        "jax.experimental.multihost_utils",
        "lstm_jax.commands.exchange",
        "lstm_jax.exchange.formats",
        "lstm_jax.exchange.imported_run",
        "lstm_jax.report.files",
        "lstm_jax.runs.loop",
        "tensorboardX",
        "tests.helpers.programs",
    ]
)


def _begin_forking() -> None:
    """Start the fork server, once. It loads no kernel that it finds: a program may have to do without."""
    cache = os.environ.get("LSTM_JAX_CACHE_DIR", "")
    os.environ["LSTM_JAX_CACHE_DIR"] = os.devnull
    try:
        forkserver.ensure_running()
    finally:
        os.environ["LSTM_JAX_CACHE_DIR"] = cache


class Program:
    """A running program, with what `subprocess.Popen` has: ``pid``, ``returncode``, signals, its output."""

    def __init__(self, words: Sequence[str], *, cwd: Path, env: Mapping[str, str]) -> None:
        self._folder = tempfile.TemporaryDirectory()
        self._files = [Path(self._folder.name, name) for name in ("output", "errors")]
        for file in self._files:
            file.touch()
        _begin_forking()
        self._process = _FORKING.Process(target=_run, args=(list(words), str(cwd), dict(env), self._files))
        self._process.start()
        self.args = list(words)
        self.pid = self._process.pid

    @property
    def returncode(self) -> int | None:
        """The exit code, or the negative number of the signal that ended it; None while it runs."""
        return self._process.exitcode

    def poll(self) -> int | None:
        return self.returncode

    def send_signal(self, number: signal.Signals) -> None:
        if self.returncode is None and self.pid is not None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def so_far(self) -> str:
        """What it has written to standard output until now."""
        return self._files[0].read_text(errors="replace")

    def communicate(self, timeout: float | None = None) -> tuple[str, str]:
        """Wait for its end; returns its output and its errors."""
        self._process.join(timeout)
        if self._process.is_alive():
            self.kill()
            self._process.join()
            raise TimeoutExpired(self.args, timeout or 0, *(file.read_bytes() for file in self._files))
        output, errors = (file.read_text(errors="surrogateescape") for file in self._files)
        self._folder.cleanup()
        return output, errors

    def wait_for(self, text: str, timeout: float = 60) -> None:
        """Wait until it has written so."""
        deadline = time.monotonic() + timeout
        while text not in self.so_far() and self.returncode is None and time.monotonic() < deadline:
            time.sleep(0.01)


def start(*words: object, env: Mapping[str, str], cwd: Path = PROJECT) -> Program:
    """Start ``python WORDS``: ``train.py ...``, ``-m module ...`` or ``-c code ...``."""
    return Program([str(word) for word in words], cwd=cwd, env=env)


def run(
    *words: object, env: Mapping[str, str], cwd: Path = PROJECT, timeout: float = 300
) -> CompletedProcess[str]:
    """Run ``python WORDS`` to its end."""
    program = start(*words, env=env, cwd=cwd)
    output, errors = program.communicate(timeout)
    assert program.returncode is not None
    return CompletedProcess(program.args, program.returncode, output, errors)


def run_afresh(
    *words: object, env: Mapping[str, str], cwd: Path = PROJECT, timeout: float = 300
) -> CompletedProcess[str]:
    """Run ``python WORDS`` in a Python that has imported nothing."""
    command = [sys.executable, *map(str, words)]
    return subprocess.run(command, cwd=cwd, env=env, timeout=timeout, capture_output=True, text=True)


def _run(words: list[str], cwd: str, env: dict[str, str], files: Sequence[Path]) -> None:
    """In the new process: become what ``python WORDS`` is."""
    os.environ.clear()
    os.environ.update(env)
    os.chdir(cwd)
    for descriptor, file in enumerate((Path(os.devnull), *files)):
        opened = os.open(file, os.O_RDONLY if descriptor == 0 else os.O_WRONLY | os.O_APPEND)
        os.dup2(opened, descriptor)
    encoding = env.get("PYTHONIOENCODING", "utf-8")
    sys.stdin = open(0, encoding=encoding, closefd=False)  # noqa: SIM115  open until the end, as they are
    sys.stdout = open(1, "w", encoding=encoding, closefd=False)  # noqa: SIM115
    sys.stderr = open(2, "w", encoding=encoding, closefd=False, buffering=1, errors="backslashreplace")  # noqa: SIM115
    _configure_jax(env)
    first, *rest = words
    if first == "-m":
        sys.argv, sys.path[0] = rest, cwd
        runpy.run_module(rest[0], run_name="__main__", alter_sys=True)
    elif first == "-c":
        sys.argv, sys.path[0] = ["-c", *rest[1:]], cwd
        exec(compile(rest[0], "<string>", "exec"), {"__name__": "__main__"})
    else:
        sys.argv, sys.path[0] = words, str(Path(cwd, first).parent)
        runpy.run_path(str(Path(cwd, first)), run_name="__main__")


def _configure_jax(env: Mapping[str, str]) -> None:
    """JAX was imported without these variables, which it reads while it is imported."""
    import jax

    for name, value in env.items():
        option = name.lower()
        if option in jax.config.values:
            old = jax.config.values[option]
            jax.config.update(option, type(old)(value) if isinstance(old, int | float) else value)

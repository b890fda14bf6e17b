"""Starting a process for each framework, and talking to it.

A framework that fails, hangs or ends its process is an error of that framework; the others go on.
"""

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import Any, TypeAlias

import lstm_jax
from lstm_jax.compare.frameworks import Framework
from lstm_jax.compare.worker import DONE
from lstm_jax.errors import one_line

ENVIRONMENT = MappingProxyType(
    {
        # No framework may take a compiled program from an earlier comparison: compilation is measured.
        "JAX_ENABLE_COMPILATION_CACHE": "false",
        "TORCHINDUCTOR_FORCE_DISABLE_CACHES": "1",
        # Several processes share a device; none may take all of its memory beforehand.
        "XLA_PYTHON_CLIENT_PREALLOCATE": "false",
    }
)
# All on the CPU, also where some of them would find something else.
ON_CPU = MappingProxyType({"JAX_PLATFORMS": "cpu", "CUDA_VISIBLE_DEVICES": ""})

# Not ``-m``, by which the module would be known to pickle as another one, ``__main__``.
PROGRAM = "import sys; from lstm_jax.compare.worker import main; main(*sys.argv[1:])"

# The slowest call by far is a first step that unrolls and compiles; beyond this it counts as hanging.
CALL_SECONDS = 1200.0

# To end by itself, and remove what it has put into temporary folders, a process has so long.
END_SECONDS = 5.0


class FrameworkError(Exception):
    """A framework that cannot do what was asked; the message, one line, says why."""


class Process:
    """The process of one framework. A context manager, which ends it.

    Attributes:
        started: the time of day when it was started.
    """

    def __init__(
        self,
        framework: Framework,
        *,
        cores: Sequence[int],
        log: Path,
        environment: Mapping[str, str] = ON_CPU,
    ) -> None:
        """Start it.

        Args:
            framework: which.
            cores: the processor cores that it may use; none are set where the system cannot do that.
            log: where its output goes; it is appended.
            environment: variables besides those that all processes have.
        """
        self._log, self._closed = log, False
        self._said_before = log.stat().st_size if log.exists() else 0
        limit = ",".join(map(str, cores)) if hasattr(os, "sched_setaffinity") else ""
        self._pipe, theirs = multiprocessing.Pipe()
        python_path = [str(Path(lstm_jax.__file__).parents[1]), os.environ.get("PYTHONPATH", "")]
        variables = {"PYTHONPATH": os.pathsep.join(filter(None, python_path)), **ENVIRONMENT, **environment}
        self.started = time.time()
        with theirs, log.open("ab") as output:
            self._popen = subprocess.Popen(
                [sys.executable, "-c", PROGRAM, framework.adapter, limit, str(theirs.fileno())],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                pass_fds=[theirs.fileno()],
                env={**os.environ, **variables, **framework.environment},
                start_new_session=True,  # Ctrl-C is for us; we end it
            )

    def call(self, method: str, *arguments: Any, seconds: float = CALL_SECONDS) -> Any:
        """Let it call a method of `worker.Worker`, and return the result.

        Args:
            method: the name.
            arguments: what is passed on.
            seconds: after so long it counts as hanging, and is ended.

        Raises:
            FrameworkError: if it fails, hangs or dies.
        """
        try:
            self._pipe.send((method, arguments))
            if not self._pipe.poll(seconds):
                self._kill()
                raise FrameworkError(f"{method} took longer than {seconds:g} s")
            tag, result = self._pipe.recv()
        except (OSError, EOFError) as error:
            self._kill()
            code = self._popen.wait()
            raise FrameworkError(f"its process ended with code {code}: {self._last_words()}") from error
        if tag != DONE:
            raise FrameworkError(one_line(RuntimeError(result)))
        return result

    def _last_words(self) -> str:
        said = self._log.read_bytes()[self._said_before :].decode(errors="replace")
        lines = [line for line in said.splitlines() if line.strip()]
        return lines[-1].strip()[:300] if lines else "it said nothing"

    def close(self, *, at_once: bool = False) -> None:
        """End the process: with nothing more to do, it ends by itself; else, or ``at_once``, it is ended."""
        if self._closed:
            return
        self._closed = True
        if at_once:
            self._kill()
        self._pipe.close()
        with suppress(subprocess.TimeoutExpired):
            self._popen.wait(END_SECONDS)
        self._kill()
        self._popen.wait()

    def _kill(self) -> None:
        """Kill it and what it has started, compilers say."""
        if self._popen.returncode is not None:  # its number may be another process's by now
            return
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self._popen.pid, signal.SIGKILL)

    def __enter__(self) -> "Process":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close(at_once=kind is not None)


# Starts the process of a framework, by name.
Start: TypeAlias = Callable[[str], Process]

"""The processes of the frameworks: their start, and calls to them.

If a framework fails, hangs or ends its process, the others go on.
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
        # Compilation is measured, so no framework may use a compiled program of an earlier comparison.
        "JAX_ENABLE_COMPILATION_CACHE": "false",
        "TORCHINDUCTOR_FORCE_DISABLE_CACHES": "1",
        # Several processes share a device, so none may allocate all of its memory at the start.
        "XLA_PYTHON_CLIENT_PREALLOCATE": "false",
    }
)
# All frameworks run on the CPU, also where some of them would use another device.
ON_CPU = MappingProxyType({"JAX_PLATFORMS": "cpu", "CUDA_VISIBLE_DEVICES": ""})

# Not ``-m``: then pickle would know the module under another name, ``__main__``.
PROGRAM = "import sys; from lstm_jax.compare.worker import main; main(*sys.argv[1:])"

# A call that takes longer counts as hanging. The slowest by far is a first step that unrolls and compiles.
CALL_SECONDS = 1200.0

# The time that a process has to end by itself and to remove its temporary files.
END_SECONDS = 5.0


class FrameworkError(Exception):
    """A failure of a framework; the message, one line, says why."""


class Process:
    """The process of one framework, as a context manager that ends it.

    Attributes:
        started: the time of its start, in seconds since the epoch.
    """

    def __init__(
        self,
        framework: Framework,
        *,
        cores: Sequence[int],
        log: Path,
        environment: Mapping[str, str] = ON_CPU,
    ) -> None:
        """Start the process.

        Args:
            framework: the framework.
            cores: the processor cores that it may use, if the system can limit a process to some.
            log: the file to which its output is appended.
            environment: environment variables besides `ENVIRONMENT`.
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
                start_new_session=True,  # Ctrl-C must reach only this process, which ends the other
            )

    def call(self, method: str, *arguments: Any, seconds: float = CALL_SECONDS) -> Any:
        """Call a method of `worker.Worker` in the process, and return the result.

        Args:
            method: name of the method.
            arguments: its arguments.
            seconds: the time limit; after that the process counts as hanging, and is killed.

        Raises:
            FrameworkError: if the call fails, hangs or ends the process.
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
        """End the process. It may end by itself first, within `END_SECONDS`, unless ``at_once``."""
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
        """Kill the process and its children, such as compilers."""
        if self._popen.returncode is not None:  # another process may have its number by now
            return
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self._popen.pid, signal.SIGKILL)

    def __enter__(self) -> "Process":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close(at_once=kind is not None)


# A function that starts the process of a framework, by name.
Start: TypeAlias = Callable[[str], Process]

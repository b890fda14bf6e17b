"""Starting a process for each framework, and talking to it.

A framework that fails, hangs or ends its process is an error of that framework; the others go on.
"""

import os
import pickle
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import IO, Any, cast

import lstm_jax
from lstm_jax.compare.frameworks import Framework
from lstm_jax.compare.worker import DONE
from lstm_jax.errors import one_line

# No framework may take a compiled program from an earlier comparison: compilation is measured.
ENVIRONMENT = MappingProxyType(
    {
        "JAX_ENABLE_COMPILATION_CACHE": "false",
        "TORCHINDUCTOR_FORCE_DISABLE_CACHES": "1",
        # Several processes share an accelerator, if there is one.
        "XLA_PYTHON_CLIENT_PREALLOCATE": "false",
    }
)

# Not ``-m``, by which the module would be known to pickle as another one, ``__main__``.
PROGRAM = "import sys; from lstm_jax.compare.worker import main; main(*sys.argv[1:])"

# The slowest call by far is a first step that unrolls and compiles; beyond this it counts as hanging.
CALL_SECONDS = 1200.0


class FrameworkError(Exception):
    """A framework that cannot do what was asked; the message, one line, says why."""


class Process:
    """The process of one framework. A context manager, which ends it."""

    def __init__(self, framework: Framework, *, cores: Sequence[int], log: Path) -> None:
        """Start it.

        Args:
            framework: which.
            cores: the processor cores that it may use; none are set where the system cannot do that.
            log: where its output goes; it is appended.
        """
        self._log = log
        limit = ",".join(map(str, cores)) if hasattr(os, "sched_setaffinity") else ""
        project = str(Path(lstm_jax.__file__).parents[1])
        python_path = os.pathsep.join(filter(None, [project, os.environ.get("PYTHONPATH", "")]))
        self.started = time.time()
        with log.open("ab") as output:
            self._popen = subprocess.Popen(
                [sys.executable, "-c", PROGRAM, framework.adapter, limit],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=output,
                env={**os.environ, **ENVIRONMENT, **framework.environment, "PYTHONPATH": python_path},
                start_new_session=True,  # Ctrl-C is for us; we end it
            )
        self._requests = cast(IO[bytes], self._popen.stdin)
        self._answers = cast(IO[bytes], self._popen.stdout)

    def call(self, method: str, *arguments: Any, seconds: float = CALL_SECONDS) -> Any:
        """Let it call a method of `worker.Worker`, and return the result.

        Args:
            method: the name.
            arguments: what is passed on.
            seconds: after so long it counts as hanging, and is ended.

        Raises:
            FrameworkError: if it fails, hangs or dies.
        """
        watch = threading.Timer(seconds, self._popen.kill)
        watch.start()
        try:
            pickle.dump((method, arguments), self._requests, pickle.HIGHEST_PROTOCOL)
            self._requests.flush()
            tag, result = pickle.load(self._answers)
        except (OSError, EOFError, pickle.UnpicklingError) as error:
            hung = not watch.is_alive()
            self._popen.kill()
            code = self._popen.wait()
            if hung:
                raise FrameworkError(f"{method} took longer than {seconds:g} s") from error
            raise FrameworkError(f"its process ended with code {code}: {self._last_words()}") from error
        finally:
            watch.cancel()
        if tag != DONE:
            raise FrameworkError(one_line(RuntimeError(result)))
        return result

    def _last_words(self) -> str:
        lines = [line for line in self._log.read_text(errors="replace").splitlines() if line.strip()]
        return lines[-1].strip()[:300] if lines else "it said nothing"

    def close(self) -> None:
        """End the process."""
        self._popen.kill()
        self._popen.wait()
        for pipe in (self._requests, self._answers):
            try:
                pipe.close()
            except OSError:  # what was not sent to it any more
                continue

    def __enter__(self) -> "Process":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

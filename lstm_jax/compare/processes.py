"""Starting a process for each framework, and talking to it.

A framework that fails, hangs or ends its process is an error of that framework; the others go on.
"""

import os
import pickle
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import suppress
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import IO, Any, TypeVar, cast

import lstm_jax
from lstm_jax.compare.frameworks import Framework
from lstm_jax.compare.worker import DONE
from lstm_jax.errors import one_line

T = TypeVar("T")

ENVIRONMENT = MappingProxyType(
    {
        # No framework may take a compiled program from an earlier comparison: compilation is measured.
        "JAX_ENABLE_COMPILATION_CACHE": "false",
        "TORCHINDUCTOR_FORCE_DISABLE_CACHES": "1",
        # All on the CPU, also where some of them would find something else.
        "JAX_PLATFORMS": "cpu",
        "CUDA_VISIBLE_DEVICES": "",
    }
)

# Not ``-m``, by which the module would be known to pickle as another one, ``__main__``.
PROGRAM = "import sys; from lstm_jax.compare.worker import main; main(*sys.argv[1:])"

# The slowest call by far is a first step that unrolls and compiles; beyond this it counts as hanging.
CALL_SECONDS = 1200.0

# To end by itself, and remove what it has put into temporary folders, a process has so long.
END_SECONDS = 5.0


# Builds the kernel, and says how long that took.
BUILD = """
import time
from lstm_jax.kernels.build import why_not_available
start = time.perf_counter()
why_not = why_not_available()
print(time.perf_counter() - start if why_not is None else "")
"""


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
        self._log, self._closed = log, False
        self._said_before = log.stat().st_size if log.exists() else 0
        limit = ",".join(map(str, cores)) if hasattr(os, "sched_setaffinity") else ""
        self.started = time.time()
        with log.open("ab") as output:
            self._popen = subprocess.Popen(
                [sys.executable, "-c", PROGRAM, framework.adapter, limit],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=output,
                env={**_environment(), **framework.environment},
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
        hung = threading.Event()

        def end() -> None:
            hung.set()
            self._kill()

        watch = threading.Timer(seconds, end)
        watch.daemon = True
        try:
            watch.start()
            pickle.dump((method, arguments), self._requests, pickle.HIGHEST_PROTOCOL)
            self._requests.flush()
            tag, result = pickle.load(self._answers)
        except (OSError, EOFError, pickle.UnpicklingError) as error:
            if hung.is_set():
                raise FrameworkError(f"{method} took longer than {seconds:g} s") from error
            self._kill()
            code = self._popen.wait()
            raise FrameworkError(f"its process ended with code {code}: {self._last_words()}") from error
        finally:
            watch.cancel()
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
        if at_once:  # first: a thread may be in the middle of writing to it
            self._kill()
        with suppress(OSError):  # what was not sent to it any more
            self._requests.close()
        with suppress(subprocess.TimeoutExpired):
            self._popen.wait(END_SECONDS)
        self._kill()
        self._popen.wait()
        self._answers.close()

    def _kill(self) -> None:
        """Kill it and what it has started, compilers say."""
        if self._popen.returncode is not None:  # its number may be another process's by now
            return
        with suppress(ProcessLookupError, PermissionError):
            if hasattr(os, "killpg"):
                os.killpg(self._popen.pid, signal.SIGKILL)
            else:
                self._popen.kill()

    def __enter__(self) -> "Process":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close(at_once=kind is not None)


def several_at_once(
    names: Iterable[str], begin: Callable[[str], Callable[[], T]], *, most: int
) -> Iterator[tuple[str, "Future[T]"]]:
    """Do something with each of several frameworks, with one after the other or with some at once.

    Args:
        names: their names.
        begin: called here with a name; what it returns is then called in a thread.
        most: how many at once.

    Yields:
        Each name with what came out of it, a result or an error, as soon as it is there.
    """
    pending: dict[Future[T], str] = {}
    threads = ThreadPoolExecutor(most)
    try:
        for name in names:
            if len(pending) == most:
                yield from _those_done(pending)
            pending[threads.submit(begin(name))] = name
        while pending:
            yield from _those_done(pending)
    finally:
        # Whoever waits for a process has an answer, or an error, as soon as that is ended.
        threads.shutdown(wait=False, cancel_futures=True)


def _those_done(pending: "dict[Future[T], str]") -> Iterator[tuple[str, "Future[T]"]]:
    done, _ = wait(pending, return_when=FIRST_COMPLETED)
    for future in done:
        yield pending.pop(future), future


def seconds_to_build() -> float | None:
    """Seconds for a fresh build of our C++ kernel, which is thrown away; None if it cannot be built."""
    with tempfile.TemporaryDirectory() as cache:
        environment = {**_environment(), "LSTM_JAX_CACHE_DIR": cache}
        done = subprocess.run([sys.executable, "-c", BUILD], env=environment, capture_output=True, text=True)
    return float(done.stdout) if done.returncode == 0 and done.stdout.strip() else None


def _environment() -> dict[str, str]:
    """That of all processes: they find this package wherever they are started."""
    project = str(Path(lstm_jax.__file__).parents[1])
    python_path = os.pathsep.join(filter(None, [project, os.environ.get("PYTHONPATH", "")]))
    return {**os.environ, **ENVIRONMENT, "PYTHONPATH": python_path}

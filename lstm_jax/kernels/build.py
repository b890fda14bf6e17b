"""Compiling the C++ kernel on first use, keeping it, and loading it into JAX.

A compiled kernel is a file in the user's cache (`LSTM_JAX_CACHE_DIR` moves it), named after all that it
depends on: source, flags, compiler, processor, jaxlib. It is written aside and renamed, so that two
processes that build at once both end with a whole file. Code is only loaded from a folder that nobody
but the user can write to.
"""

import ctypes
import functools
import hashlib
import os
import platform
import shlex
import shutil
import stat
import subprocess
import tempfile
import threading
from importlib.metadata import version
from pathlib import Path

import jax

from lstm_jax.caches import cache_dir, processor
from lstm_jax.errors import one_line

SOURCE = Path(__file__).parent / "cpp"
COMPILERS = ("c++", "g++", "clang++")
# No -ffast-math: a NaN that goes in must come out.
FLAGS = ("-std=c++20", "-O3", "-fPIC", "-shared", "-ffp-contract=fast", "-fno-math-errno", "-Wno-psabi")
TARGETS = ("lstm_jax_forward", "lstm_jax_backward")
BUILD_SECONDS = 300


class NotAvailableError(Exception):
    """The kernel cannot be used here; the message says why."""


def why_not_available() -> str | None:
    """Make the kernel ready, building it if need be; what stands in the way, or None.

    The answer of the first call holds for the life of the process.
    """
    with _LOCK:  # JAX takes a handler once, from one copy of the library
        return _make_ready()


_LOCK = threading.Lock()


@functools.cache
def _make_ready() -> str | None:
    try:
        library = build()
        try:
            load(library)
        except NotAvailableError:  # damaged, or so it seems: once more
            compile_to(library, find_compiler())
            load(library)
    except NotAvailableError as error:
        return str(error)
    return None


def must_be_built() -> bool:
    """Whether `why_not_available` will have to compile the kernel first, which takes some seconds."""
    try:
        return not library_path(find_compiler()).exists()
    except (NotAvailableError, OSError):
        return False


def load_if_built() -> None:
    """Make the kernel known to JAX if it is in the cache; done at import, for a program compiled elsewhere.

    A serialised executable (`jax.experimental.serialize_executable`) finds the kernel then. Nothing is built,
    and nothing said: what stands in the way is told where the kernel is used.
    """
    try:
        if not library_path(find_compiler()).exists():
            return
    except (NotAvailableError, OSError):
        return
    why_not_available()


def find_compiler() -> list[str]:
    """The command of the C++ compiler: ``$CXX``, or the first there is of `COMPILERS`.

    Raises:
        NotAvailableError: if there is none.
    """
    if platform.system() == "Windows":
        raise NotAvailableError("it is built for Linux and macOS only")
    if named := os.environ.get("CXX"):
        command = shlex.split(named)
        if not command or shutil.which(command[0]) is None:
            raise NotAvailableError(f"there is no C++ compiler {named!r}, which CXX names")
        return command
    for name in COMPILERS:
        if shutil.which(name) is not None:
            return [name]
    raise NotAvailableError(
        f"no C++ compiler was found (looked for {', '.join(COMPILERS)}; CXX in the environment names another)"
    )


def target_flags() -> tuple[str, ...]:
    """The flags that make use of all that this processor has."""
    machine = platform.machine().lower()
    if machine in ("x86_64", "amd64"):
        return ("-march=native",)
    return ("-mcpu=native",) if machine in ("aarch64", "arm64") else ()


def library_path(compiler: list[str]) -> Path:
    """Where the compiled kernel is kept.

    Raises:
        NotAvailableError: if the compiler does not run, or there is no place to keep files.
    """
    folder = cache_dir()
    if folder is None:
        raise NotAvailableError("there is no home directory; LSTM_JAX_CACHE_DIR can name a folder instead")
    try:
        compiler_version = subprocess.run(
            [*compiler, "--version"], capture_output=True, check=True, timeout=BUILD_SECONDS
        ).stdout
    except (OSError, subprocess.SubprocessError) as error:
        raise NotAvailableError(
            f"the C++ compiler {compiler[0]!r} does not run ({one_line(error)})"
        ) from error
    key = hashlib.sha256()
    parts = [shlex.join(compiler).encode(), compiler_version, " ".join((*FLAGS, *target_flags())).encode()]
    parts += [processor().encode(), version("jaxlib").encode()]
    try:
        parts += [path.read_bytes() for path in sorted(SOURCE.iterdir()) if path.suffix in (".h", ".cc")]
    except OSError as error:
        raise NotAvailableError(f"its source is not there ({one_line(error)})") from error
    for part in parts:
        key.update(hashlib.sha256(part).digest())
    return folder / "native" / f"lstm-{key.hexdigest()[:20]}.so"


def build() -> Path:
    """The compiled kernel, built if it is not in the cache.

    Raises:
        NotAvailableError: if it cannot be built, or the cache cannot be trusted.
    """
    compiler = find_compiler()
    library = library_path(compiler)
    make_private(library.parent)
    if not library.exists():
        compile_to(library, compiler)
    return library


def make_private(folder: Path) -> None:
    """Make a folder that only the user can write to, or check that it is one.

    Raises:
        NotAvailableError: if it is not, or cannot be made.
    """
    try:
        folder.mkdir(parents=True, mode=0o700, exist_ok=True)
        status = folder.stat()
    except OSError as error:
        raise NotAvailableError(
            f"{folder}: {one_line(error)}; LSTM_JAX_CACHE_DIR can name another folder"
        ) from error
    # Whoever can write to a folder above could put another one in this one's place, unless it is sticky as
    # /tmp is. A group may write there: it is the user's own on many systems.
    above = [parent.stat().st_mode for parent in folder.resolve().parents]
    exposed = any(mode & stat.S_IWOTH and not mode & stat.S_ISVTX for mode in above)
    if exposed or status.st_uid != os.geteuid() or status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise NotAvailableError(
            f"{folder}: others can write to it, so code in it cannot be trusted; remove it, or name another "
            "folder in LSTM_JAX_CACHE_DIR"
        )


def compile_to(library: Path, compiler: list[str]) -> None:
    """Compile the kernel, and put it in its place in one step.

    Raises:
        NotAvailableError: if it cannot be compiled or written.
    """
    try:
        with tempfile.TemporaryDirectory(dir=library.parent) as scratch:
            output = Path(scratch) / library.name
            command = [*compiler, *FLAGS, *target_flags(), "-isystem", jax.ffi.include_dir()]
            done = subprocess.run(
                [*command, str(SOURCE / "handlers.cc"), "-o", str(output)],
                capture_output=True,
                text=True,
                errors="replace",
                timeout=BUILD_SECONDS,
            )
            if done.returncode:
                lines = done.stderr.splitlines()
                told = " ".join(next((line for line in lines if "error" in line), done.stderr).split())
                raise NotAvailableError(
                    f"{compiler[0]} could not compile it ({told[:300] or f'exit code {done.returncode}'})"
                )
            os.replace(output, library)
    except (OSError, subprocess.SubprocessError) as error:
        raise NotAvailableError(f"it could not be built in {library.parent} ({one_line(error)})") from error


def load(library: Path) -> None:
    """Load a compiled kernel, and make it known to JAX.

    Raises:
        NotAvailableError: if it is damaged.
    """
    try:
        handlers = ctypes.CDLL(str(library))
        for target in TARGETS:
            jax.ffi.register_ffi_target(target, jax.ffi.pycapsule(getattr(handlers, target)), platform="cpu")
    except (OSError, AttributeError, jax.errors.JaxRuntimeError) as error:
        raise NotAvailableError(
            f"{library} cannot be loaded ({one_line(error)}); LSTM_JAX_CACHE_DIR can name another folder"
        ) from error

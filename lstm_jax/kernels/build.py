"""The C++ kernel: taken from the package, or compiled on first use and kept in the cache; loaded into JAX.

A wheel brings kernels for the usual processors (`library.py`). Elsewhere, and in a checkout, the kernel is
compiled into the user's cache (`LSTM_JAX_CACHE_DIR` moves it). There, the first part of a kernel's name is
the digest of all that it depends on: source, flags, compiler, processor, jaxlib. A damaged kernel would end
the process or compute something else, so one whose content does not match its name is built again. Name and
content appear in one step, so that two processes which build at once cannot mix theirs. Code is loaded only
from the package itself, and from a folder that nobody but the user can write to.
"""

import contextlib
import ctypes
import functools
import hashlib
import logging
import os
import platform
import shlex
import shutil
import subprocess
import tempfile
import threading
import time
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

import jax

from lstm_jax.errors import one_line
from lstm_jax.kernels.library import (
    FLAGS,
    KNOWN_INTERFACES,
    PREBUILT,
    SOURCE,
    best_variant,
    file_name,
    find_built,
    interface_version,
)
from lstm_jax.system.caches import cache_dir, processor, why_not_private
from lstm_jax.system.files import sync

COMPILERS = ("c++", "g++", "clang++")
TARGETS = ("lstm_jax_forward", "lstm_jax_backward")
BUILD_SECONDS = 300
SCRATCH = "building-"  # begins the names of the folders in which the compiler works


class NotAvailableError(Exception):
    """The reason why the kernel cannot be used here."""


class Prebuilt(NamedTuple):
    """What became of the kernel that the package brings for this processor.

    Attributes:
        loaded: whether JAX has it now.
        warning: what is wrong with it, for the user; empty if nothing is, or the package brings none.
    """

    loaded: bool
    warning: str = ""


def why_not_available() -> str | None:
    """Make the kernel ready, and build it if needed; return what stands in the way, or None.

    The answer of the first call holds for the life of the process.
    """
    with _LOCK:
        if warning := _prebuilt().warning:
            _tell_once(warning)
        return _make_ready()


_LOADED: list[ctypes.CDLL] = []
_LOCK = threading.Lock()  # JAX takes a handler once, from one copy of the library


@functools.cache
def _make_ready() -> str | None:
    if _prebuilt().loaded:
        return None
    try:
        load(build(), advice="LSTM_JAX_CACHE_DIR can name another folder")
    except NotAvailableError as error:
        return str(error)
    return None


@functools.cache
def _prebuilt() -> Prebuilt:
    return load_prebuilt()


@functools.cache
def _tell_once(warning: str) -> None:
    logging.getLogger("lstm_jax").warning("lstm_jax: %s", warning)


def loaded() -> ctypes.CDLL:
    """Return the kernel that JAX has, for its other functions (`products.py`)."""
    return _LOADED[0]


def must_be_built() -> bool:
    """Return whether `why_not_available` will compile the kernel first, which takes some seconds."""
    with _LOCK:
        if _prebuilt().loaded:
            return False
    try:
        return not _is_in_cache()
    except (NotAvailableError, OSError):
        return False


def load_if_built() -> None:
    """Make the kernel known to JAX at import if there is one, for programs compiled elsewhere.

    A serialised executable (`jax.experimental.serialize_executable`) then finds the kernel. Nothing is built
    or told here: a message comes where the kernel is used.
    """
    with _LOCK, contextlib.suppress(NotAvailableError, OSError):
        if not _interface_is_known() and PREBUILT.is_dir():
            return  # to try it, JAX must be started
        if not _prebuilt().loaded and _is_in_cache():
            _make_ready()


def _interface_is_known() -> bool:
    return interface_version(Path(jax.ffi.include_dir())) in KNOWN_INTERFACES


def _is_in_cache() -> bool:
    return bool(find_built(*place(find_compiler())).intact)


def load_prebuilt() -> Prebuilt:
    """Load the kernel that the package brings for this processor, if it brings one.

    Nobody needs to check who can write to its folder: the code of the package lies beside it.
    """
    variant = best_variant()
    if variant is None:
        return Prebuilt(loaded=False)
    instead = "the native kernel is built here instead"
    try:
        found = find_built(PREBUILT, variant.name)
        if found.intact:
            if not _interface_is_known():
                # Before JAX has started, it would take anything, and then not be able to start.
                jax.local_devices(backend="cpu")
            load(found.intact[0], advice=instead)
            return Prebuilt(loaded=True)
    except NotAvailableError as error:
        return Prebuilt(loaded=False, warning=str(error))
    except OSError as error:
        return Prebuilt(loaded=False, warning=f"{PREBUILT} cannot be read ({one_line(error)}); {instead}")
    if not found.damaged:
        return Prebuilt(loaded=False)
    return Prebuilt(
        loaded=False, warning=f"{found.damaged[0]} is damaged (install lstm_jax again); {instead}"
    )


def find_compiler() -> list[str]:
    """Return the command of the C++ compiler: ``$CXX``, or the first of `COMPILERS` that exists.

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
    """Return the flags that make use of all that this processor has."""
    machine = platform.machine().lower()
    if machine in ("x86_64", "amd64"):
        return ("-march=native",)
    return ("-mcpu=native",) if machine in ("aarch64", "arm64") else ()


def place(compiler: list[str]) -> tuple[Path, str]:
    """Return the folder of compiled kernels, and the beginning of the name of this one.

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
    return folder / "native", f"lstm-{key.hexdigest()[:20]}"


def build() -> Path:
    """Return the compiled kernel; build it if it is not in the cache, or damaged there.

    Raises:
        NotAvailableError: if it cannot be built, or the cache cannot be trusted.
    """
    compiler = find_compiler()
    folder, name = place(compiler)
    if (reason := why_not_private(folder)) is not None:
        raise NotAvailableError(reason)
    try:
        built = find_built(folder, name)
        if built.intact:
            return built.intact[0]
        for path in built.damaged:
            logging.getLogger("lstm_jax").warning(
                "lstm_jax: %s is damaged: the native kernel is built again", path
            )
        library = compile_into(folder, name, compiler)
        for path in built.damaged:
            if path != library:
                path.unlink(missing_ok=True)
    except (OSError, subprocess.SubprocessError) as error:
        raise NotAvailableError(f"it could not be built in {folder} ({one_line(error)})") from error
    return library


def compile_into(folder: Path, name: str, compiler: list[str]) -> Path:
    """Compile the kernel, and put it in place in one step.

    Returns:
        Its file.

    Raises:
        NotAvailableError: if it cannot be compiled.
        OSError: if it cannot be written.
        subprocess.SubprocessError: if the compiler takes longer than `BUILD_SECONDS`.
    """
    remove_leftovers(folder)
    with tempfile.TemporaryDirectory(dir=folder, prefix=SCRATCH) as scratch:
        output = Path(scratch) / "kernel.so"
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
        library = folder / file_name(name, output.read_bytes())
        sync(output)
        os.replace(output, library)
    sync(folder)
    return library


def remove_leftovers(folder: Path) -> None:
    """Remove what killed builds left: nobody is still at work on a folder of that age."""
    for path in folder.iterdir():
        with contextlib.suppress(FileNotFoundError):  # another process has just ended its work
            if path.name.startswith(SCRATCH) and path.stat().st_mtime < time.time() - 2 * BUILD_SECONDS:
                shutil.rmtree(path, ignore_errors=True)


def load(library: Path, *, advice: str) -> None:
    """Load a compiled kernel, and make it known to JAX.

    Raises:
        NotAvailableError: if the system or JAX refuses it; ``advice`` ends the message.
    """
    try:
        handlers = ctypes.CDLL(str(library))
        for target in TARGETS:
            jax.ffi.register_ffi_target(target, jax.ffi.pycapsule(getattr(handlers, target)), platform="cpu")
        _LOADED.append(handlers)
    except jax.errors.JaxRuntimeError as error:  # made for another version of XLA's interface
        raise NotAvailableError(
            f"jaxlib {version('jaxlib')} does not take {library} ({one_line(error)}); {advice}"
        ) from error
    except (OSError, AttributeError) as error:
        raise NotAvailableError(f"{library} cannot be loaded ({one_line(error)}); {advice}") from error

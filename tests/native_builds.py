"""The kernel by itself, without Python: built with sanitizers and for other processors, and run.

    python -m tests.native_builds

makes all builds and runs them. If all pass, it writes the kind of processor and the SHA-256 of their source
to native/passed.sha256. While both are the same, the tests skip them, unless they are given ``--all``: they
take minutes. So it is with what zig builds, which `tests/kernels/test_prebuilt.py` tests and notes.
"""

import hashlib
import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

from lstm_jax.kernels import build, library
from lstm_jax.system import caches
from tests.helpers.project import PROJECT

TESTS = Path(__file__).parent / "native"
PASSED = TESTS / "passed.sha256"
OPTIONS = ("-std=c++20", "-O1", "-g", "-pthread", "-ffp-contract=fast")
# Every warning is an error here.
WARNINGS = ("-Wall", "-Wextra", "-Werror", "-Wno-psabi")
SANITIZED = ("-fsanitize=address,undefined", "-fno-sanitize-recover=all")
BUILDS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "address and undefined": ("-march=native", *SANITIZED),
        "thread": ("-march=native", "-fsanitize=thread"),
        "plain": ("-O3",),  # what every processor of this kind has: other vectors, other tiles
        "avx2": ("-O3", "-mavx2", "-mfma"),
        # Plain C++ instead of instructions that few processors have, and whose memory no sanitizer sees.
        "tiles": ("-DLSTM_JAX_EMULATE_TILES", *SANITIZED),
    }
)


def state_of_the_source() -> str:
    """The SHA-256 of all that the builds are made of."""
    sha = hashlib.sha256(repr((OPTIONS, WARNINGS, dict(BUILDS))).encode())
    for folder in (build.SOURCE, TESTS):
        for path in sorted(path for path in folder.iterdir() if path.suffix in (".h", ".cc")):
            sha.update(hashlib.sha256(path.read_bytes()).digest())
    return sha.hexdigest()


def is_known_to_pass(state: str) -> bool:
    """Whether what is in a state has passed."""
    return state in PASSED.read_text().splitlines()


def state_here() -> str:
    """The state of the source, and the kind of processor: passed on one, it may fail on another."""
    return f"{platform.machine()} {state_of_the_source()}"


def state_of_the_wheel(test: str) -> str:
    """The state of all that the kernels in a wheel depend on, for one of the tests of them."""
    sha = hashlib.sha256(state_of_the_source().encode())
    for name in ("build_wheel.py", "pyproject.toml", "requirements-layer.txt", "tests/wheel_check.py"):
        sha.update(hashlib.sha256((PROJECT / name).read_bytes()).digest())
    for module in (build, library, caches):  # they decide which kernel is loaded
        sha.update(hashlib.sha256(Path(module.__file__).read_bytes()).digest())
    python = "{}.{}".format(*sys.version_info)
    return f"{platform.machine()}-python{python}-{test} {sha.hexdigest()}"


def note(state: str) -> None:
    """Write down a state that has passed, instead of the one before."""
    others = [line for line in PASSED.read_text().splitlines() if line.split()[0] != state.split()[0]]
    PASSED.write_text("".join(f"{line}\n" for line in sorted([*others, state])))


def run_program(command: list[str | Path]) -> str:
    """Run a build of `kernel_test.cc`; returns what it prints."""
    # Memory comes full of numbers that would be seen in the results: of glibc 1.5e16, of the sanitizer NaN.
    dirty = {"MALLOC_PERTURB_": "165", "ASAN_OPTIONS": f"max_malloc_fill_size={2**30}:malloc_fill_byte=255"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=1800, env=os.environ | dirty)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def output_of(name: str, folder: Path) -> str:
    """Make a build in a folder and run it; returns what it prints."""
    program = folder / "kernel_test"
    options = [*OPTIONS, *WARNINGS, *BUILDS[name], "-I", str(build.SOURCE)]
    source = TESTS / "kernel_test.cc"
    subprocess.run([*build.find_compiler(), *options, source, "-o", program], check=True, timeout=600)
    return run_program([program])


def expected_of(name: str) -> tuple[str, ...]:
    """What a build may print."""
    if name == "tiles":
        return ("16 cases agree with tiles\n",)
    # With tiles too where the processor and the system have them.
    return ("16 cases agree with vectors\n", "16 cases agree with vectors tiles\n")


def main() -> None:
    """Make all builds, and note that they passed."""
    for name in BUILDS:
        with tempfile.TemporaryDirectory() as folder:
            printed = output_of(name, Path(folder))
        assert printed in expected_of(name), printed
        print(f"{name}: {printed}", end="", flush=True)
    note(state_here())


if __name__ == "__main__":
    main()

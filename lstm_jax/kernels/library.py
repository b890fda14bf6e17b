"""A compiled kernel as a file: what it is made of, how it is called, and which of them a wheel brings.

The name of a compiled kernel has two parts: what it was made for, and the SHA-256 of its own content. The
content of a damaged file does not match its name.

A wheel holds kernels in `PREBUILT`, one for each kind of processor of its platform. This file is the one
place that says which; `build_wheel.py`, beside `pyproject.toml`, makes them. It runs where JAX is not
installed, so only the standard library is imported here.
"""

import contextlib
import hashlib
import platform
import re
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

from lstm_jax.system.caches import processor

SOURCE = Path(__file__).parent / "cpp"
PREBUILT = Path(__file__).parent / "prebuilt"
# No -ffast-math: a NaN that goes in must come out.
FLAGS = ("-std=c++20", "-O3", "-fPIC", "-shared", "-ffp-contract=fast", "-fno-math-errno", "-Wno-psabi")

# The versions of XLA's foreign function interface that are known to take what `build_wheel.py` makes: those
# of jaxlib 0.10 to 0.12. XLA promises to take it for a year at least.
KNOWN_INTERFACES = frozenset({"0.3", "0.4", "0.5"})


class Variant(NamedTuple):
    """A kernel for one kind of processor.

    Attributes:
        name: begins the name of its file.
        cpu: what Clang calls the processor.
        needs: the features that the processor must have, as Linux names them in /proc/cpuinfo. It names only
            those that the system has switched on.
    """

    name: str
    cpu: str
    needs: frozenset[str] = frozenset()


class Platform(NamedTuple):
    """A platform with prebuilt kernels.

    Attributes:
        target: what zig calls it, with the oldest system that the kernels run on.
        tag: the same, in the name of a wheel.
        variants: the kernels, the fastest first.
    """

    target: str
    tag: str
    variants: tuple[Variant, ...]


_V3 = frozenset({"avx", "avx2", "fma", "bmi1", "bmi2", "f16c", "abm", "movbe", "xsave"})
_V4 = _V3 | {"avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"}
PLATFORMS: Mapping[str, Platform] = MappingProxyType(
    {
        "x86_64-linux-gnu": Platform(
            "x86_64-linux-gnu.2.17",
            "manylinux_2_17_x86_64",
            (
                # Its tile registers are used only if the system grants them (`Available` in cpp/tiles.h).
                Variant("x86_64_v4", "x86_64_v4+amx_tile+amx_bf16", _V4),
                Variant("x86_64_v3", "x86_64_v3", _V3),
            ),
        ),
        # Every processor of these has NEON.
        "aarch64-linux-gnu": Platform(
            "aarch64-linux-gnu.2.17", "manylinux_2_17_aarch64", (Variant("neon", "generic"),)
        ),
        "aarch64-macos": Platform("aarch64-macos.11.0", "macosx_11_0_arm64", (Variant("neon", "apple_m1"),)),
    }
)


def platform_here() -> Platform | None:
    """Return the platform of this process, or None if it has no prebuilt kernels."""
    machine = platform.machine().lower()
    system = platform.system()
    if system == "Linux" and platform.libc_ver()[0] == "glibc":
        system = "linux-gnu"
    machine = {"amd64": "x86_64", "arm64": "aarch64"}.get(machine, machine)
    return PLATFORMS.get(f"{machine}-{'macos' if system == 'Darwin' else system}")


def best_variant() -> Variant | None:
    """Return the fastest variant that this processor can run, or None if there is none."""
    here, features = platform_here(), frozenset(processor().split())
    return next((each for each in here.variants if each.needs <= features), None) if here else None


def interface_version(headers: Path) -> str:
    """Return the version of XLA's foreign function interface, "0.3" for one, or "" if the headers lack it."""
    with contextlib.suppress(OSError):
        text = (headers / "xla" / "ffi" / "api" / "c_api.h").read_text()
        numbers = re.findall(r"^#define XLA_FFI_API_M(?:AJ|IN)OR (\d+)", text, re.MULTILINE)
        return ".".join(numbers)
    return ""


class Built(NamedTuple):
    """The kernels of one name in a folder: those that are intact, and the others."""

    intact: list[Path]
    damaged: list[Path]


def find_built(folder: Path, name: str) -> Built:
    """Find the kernels whose name begins with ``name``, and compare each with the SHA-256 in its name."""
    built = Built([], [])
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        if path.name.startswith(f"{name}-") and path.suffix == ".so":
            with contextlib.suppress(FileNotFoundError):  # another process has just removed a damaged one
                intact = path.name == file_name(name, path.read_bytes())
                (built.intact if intact else built.damaged).append(path)
    return built


def file_name(name: str, content: bytes) -> str:
    """Return the file name of a compiled kernel."""
    return f"{name}-{hashlib.sha256(content).hexdigest()}.so"

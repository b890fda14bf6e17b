"""The build backend of the wheel: setuptools, and the native kernel compiled with zig.

zig comes from PyPI with its own C++ library and the interfaces of old systems. So the kernels need no old
system to be built on and no C++ runtime to run on, and can be built for another platform.
`lstm_jax/kernels/library.py` says which kernels a platform has. They are compiled against the oldest jaxlib
that is supported: a newer one takes them.

In the environment, ``LSTM_JAX_TARGET`` names another platform (a name in `library.PLATFORMS`), and
``LSTM_JAX_PREBUILT=0`` makes a wheel without kernels, as on platforms that have none. Such a wheel, an
editable installation and a source distribution need no zig.
"""

import importlib.util
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from setuptools import build_meta
from setuptools.build_meta import *  # noqa: F403  all hooks but the one below are those of setuptools
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_py import build_py

from lstm_jax.kernels import library

ROOT = Path(__file__).parent
ZIG = "ziglang==0.17.1"
# No symbols, and no way round through a table for calls within the kernel.
FLAGS = ("-s", "-fvisibility-inlines-hidden")


def get_requires_for_build_wheel(config_settings: dict[str, Any] | None = None) -> list[str]:
    """Return the packages that building the wheel needs."""
    requires = build_meta.get_requires_for_build_wheel(config_settings)
    return [*requires, *(compiler_requirements() if chosen_platform() else [])]


def compiler_requirements() -> list[str]:
    """Return the packages that compiling the kernels needs: zig, and a jaxlib for its headers."""
    oldest = re.search(r"^jax>=([\d.]+)", (ROOT / "requirements-layer.txt").read_text(), re.MULTILINE)
    assert oldest is not None, "requirements-layer.txt has a lower bound for jax"
    return [ZIG, f"jaxlib=={oldest[1]}"]


def chosen_platform() -> library.Platform | None:
    """Return the platform that the wheel is for; None if it gets no kernels."""
    if os.environ.get("LSTM_JAX_PREBUILT") == "0":
        return None
    name = os.environ.get("LSTM_JAX_TARGET")
    if name and name not in library.PLATFORMS:
        raise SystemExit(f"LSTM_JAX_TARGET: got {name!r}, expected one of {', '.join(library.PLATFORMS)}")
    return library.PLATFORMS[name] if name else library.platform_here()


def zig_command(target: str, cpu: str) -> list[str]:
    """Return the command of zig's C++ compiler for a target and a processor."""
    return [sys.executable, "-m", "ziglang", "c++", "-target", target, f"-mcpu={cpu}"]


def compile_kernels(platform: library.Platform, folder: Path) -> None:
    """Compile the kernels of a platform into a folder, each named after its content."""
    jaxlib = importlib.util.find_spec("jaxlib")
    assert jaxlib is not None, "jaxlib is one of the requirements"
    (include,) = (Path(path, "include") for path in jaxlib.submodule_search_locations or ())
    folder.mkdir()
    for variant in platform.variants:
        output = folder / "kernel.so"
        command = [*zig_command(platform.target, variant.cpu), *library.FLAGS, *FLAGS]
        files = ["-isystem", include, library.SOURCE / "handlers.cc", "-o", output]
        print("compiling", variant.name, "for", platform.target, flush=True)
        subprocess.run([*command, *files], check=True)
        output.rename(folder / library.file_name(variant.name, output.read_bytes()))


class BuildPackage(build_py):
    """Add the kernels to the files of the package."""

    def run(self) -> None:
        """Copy the package, and compile the kernels beside it."""
        super().run()
        if self.editable_mode:
            return
        folder = Path(self.build_lib, library.PREBUILT.relative_to(ROOT))
        shutil.rmtree(folder, ignore_errors=True)  # what an earlier build left
        if (platform := chosen_platform()) is not None:
            compile_kernels(platform, folder)


class PlatformWheel(bdist_wheel):
    """Name the wheel after its platform, for every Python: the kernels do not know of Python."""

    def finalize_options(self) -> None:
        """Have the files where a wheel keeps those of one platform."""
        if chosen_platform() is not None:
            self.distribution.has_ext_modules = lambda: True
        super().finalize_options()

    def get_tag(self) -> tuple[str, str, str]:
        """Return the tags of Python, its interface and the platform."""
        platform = chosen_platform()
        return super().get_tag() if platform is None else ("py3", "none", platform.tag)

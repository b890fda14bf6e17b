"""The kernels that a wheel brings: which one is taken, and what happens if it cannot be."""

import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import jax
import pytest

import build_wheel
from lstm_jax.kernels import build, library
from tests import native_builds
from tests.helpers import programs
from tests.helpers.kept import kept_folder
from tests.helpers.project import PROJECT, copy_source

PIP = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
SECONDS = 3600  # for a build: ten minutes on a quiet machine, if zig has to build its C++ library first

# What /proc/cpuinfo says of some processors.
HASWELL = "fpu sse4_2 movbe xsave avx f16c rdrand abm bmi1 avx2 bmi2 fma"
SKYLAKE = f"{HASWELL} avx512f avx512dq avx512cd avx512bw avx512vl"
SAPPHIRE_RAPIDS = f"{SKYLAKE} amx_bf16 avx512_fp16 amx_tile amx_int8"


@pytest.mark.parametrize(
    ("machine", "system", "libc", "features", "expected"),
    [
        ("x86_64", "Linux", "glibc", SAPPHIRE_RAPIDS, "x86_64_v4"),
        ("x86_64", "Linux", "glibc", SKYLAKE, "x86_64_v4"),  # its tiles are asked for at run time
        ("x86_64", "Linux", "glibc", SKYLAKE.replace(" avx512vl", ""), "x86_64_v3"),  # Xeon Phi
        ("x86_64", "Linux", "glibc", HASWELL, "x86_64_v3"),
        ("AMD64", "Linux", "glibc", HASWELL, "x86_64_v3"),
        ("x86_64", "Linux", "glibc", HASWELL.replace(" fma", ""), None),
        ("x86_64", "Linux", "glibc", "", None),  # a system that does not say
        ("x86_64", "Linux", "", SKYLAKE, None),  # musl
        ("x86_64", "Darwin", "", SKYLAKE, None),
        ("AMD64", "Windows", "", SKYLAKE, None),
        ("aarch64", "Linux", "glibc", "fp asimd", "neon"),
        ("arm64", "Darwin", "", "arm", "neon"),
        ("ppc64le", "Linux", "glibc", "", None),
    ],
)
def test_the_fastest_that_the_processor_can_run(
    machine: str,
    system: str,
    libc: str,
    features: str,
    expected: str | None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(library.platform, "machine", lambda: machine)
    monkeypatch.setattr(library.platform, "system", lambda: system)
    monkeypatch.setattr(library.platform, "libc_ver", lambda: (libc, "2.36"))
    monkeypatch.setattr(library, "processor", lambda: f"{machine} flags : {features}")
    variant = library.best_variant()
    assert (variant.name if variant else None) == expected


def test_no_name_begins_another() -> None:
    for platform in library.PLATFORMS.values():
        names = [f"{variant.name}-" for variant in platform.variants]
        assert not any(a != b and a.startswith(b) for a in names for b in names)


# --------------------------------------------------------------------------------------------------
# What becomes of it, with a stand-in that this machine's compiler has built
# --------------------------------------------------------------------------------------------------

# Uses the layer with the kernels of a folder, and interfaces that are known to take them. Prints whether one
# is to be built, and which one is loaded.
USE = """
import ctypes, sys
from pathlib import Path
from lstm_jax.kernels import library
library.PREBUILT = Path(sys.argv[1])
library.KNOWN_INTERFACES = frozenset(sys.argv[2:])
import jax, jax.numpy as jnp
loaded = []
load = ctypes.CDLL
ctypes.CDLL = lambda path: loaded.append(path) or load(path)
from lstm_jax import LSTM
from lstm_jax.kernels import build
print(build.must_be_built())
for _ in range(2):
    LSTM(3).init_with_output(jax.random.key(0), jnp.ones((2, 4, 5)))
print(*loaded)
"""


@pytest.fixture
def prebuilt(tmp_path: Path) -> Path:
    """A kernel for this processor, as a wheel brings it."""
    variant = library.best_variant()
    if variant is None:
        pytest.skip("no kernel is built for processors like this beforehand")
    content = build.build().read_bytes()
    file = tmp_path / "prebuilt" / library.file_name(variant.name, content)
    file.parent.mkdir()
    file.write_bytes(content)
    return file


INTERFACE = library.interface_version(Path(jax.ffi.include_dir()))


def use(
    prebuilt: Path, environment: dict[str, str], known: Sequence[str] = (INTERFACE,), **variables: str
) -> tuple[list[str], str]:
    """What `USE` prints, and what it says on standard error."""
    done = programs.run_afresh("-c", USE, prebuilt.parent, *known, env={**environment, **variables})
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines(), done.stderr


@pytest.mark.parametrize("known", [(INTERFACE,), ()], ids=["known", "new"])
def test_it_is_preferred_to_one_in_the_cache(
    known: Sequence[str], prebuilt: Path, environment: dict[str, str]
) -> None:
    assert build.build().exists()
    assert use(prebuilt, environment, known) == (["False", str(prebuilt)], "")


def test_the_interface_of_this_jaxlib_is_known() -> None:
    """Else a program that another process has compiled does not find the kernel before it is used."""
    assert INTERFACE in library.KNOWN_INTERFACES


def test_it_needs_no_compiler_and_no_cache(
    prebuilt: Path, environment: dict[str, str], tmp_path: Path
) -> None:
    cache = tmp_path / "cache"
    without = {"CXX": "gxx-99", "LSTM_JAX_CACHE_DIR": str(cache)}
    assert use(prebuilt, environment, **without) == (["False", str(prebuilt)], "")
    assert not cache.exists()


def test_without_one_for_this_processor_it_is_built(prebuilt: Path, environment: dict[str, str]) -> None:
    prebuilt.rename(prebuilt.with_name(prebuilt.name.replace(prebuilt.name.split("-")[0], "x86_64_v9")))
    assert use(prebuilt, environment) == (["False", str(build.build())], "")


def damage(file: Path) -> str:
    content = file.read_bytes()
    file.write_bytes(content[:9000] + bytes([content[9000] ^ 4]) + content[9001:])
    return f"{file} is damaged (install lstm_jax again)"


def make_foreign(file: Path) -> str:
    """Put an intact file there that is no library: what another system's would be to this one."""
    content = b"no library"
    name = library.file_name(file.name.split("-")[0], content)
    file.unlink()
    file.with_name(name).write_bytes(content)
    return f"{file.with_name(name)} cannot be loaded ("


def make_too_new(file: Path) -> str:
    """Put a library there that was compiled for another version of XLA's interface."""
    headers = file.parents[1] / "include"
    shutil.copytree(jax.ffi.include_dir(), headers)
    api = headers / "xla" / "ffi" / "api" / "c_api.h"
    api.write_text(api.read_text().replace("#define XLA_FFI_API_MAJOR 0", "#define XLA_FFI_API_MAJOR 77"))
    handlers = "".join(
        f"XLA_FFI_DEFINE_HANDLER_SYMBOL({target}, Run, xla::ffi::Ffi::Bind());\n" for target in build.TARGETS
    )
    source = file.parents[1] / "handlers.cc"
    source.write_text(
        '#include "xla/ffi/api/ffi.h"\n'
        f"static xla::ffi::Error Run() {{ return xla::ffi::Error::Success(); }}\n{handlers}"
    )
    output = file.with_name("kernel.so")
    command = [*build.find_compiler(), "-std=c++20", "-fPIC", "-shared", "-isystem", headers, source]
    subprocess.run([*command, "-o", output], check=True, timeout=300)
    file.unlink()
    output.rename(file.with_name(library.file_name(file.name.split("-")[0], output.read_bytes())))
    return "lstm_jax: jaxlib "


@pytest.mark.parametrize("spoil", [damage, make_foreign, make_too_new])
def test_where_it_cannot_be_used_one_warning_says_why_and_one_is_built(
    spoil: Callable[[Path], str], prebuilt: Path, environment: dict[str, str]
) -> None:
    told = spoil(prebuilt)
    known = () if spoil is make_too_new else (INTERFACE,)  # one that knows it would not refuse it
    (must_be_built, loaded), said = use(prebuilt, environment, known)
    assert must_be_built == "False"  # it is in the cache of the tests
    assert loaded.split()[-1] == str(build.build())
    assert told in said
    assert said.count("\n") == 1, said
    assert said.endswith("; the native kernel is built here instead\n")
    assert (" does not take " in said) == (spoil is make_too_new)
    assert ("is damaged" in said) == (spoil is damage)
    # Without a compiler `auto` takes another implementation, and says that too.
    (_, loaded), said = use(prebuilt, environment, known, CXX="gxx-99")
    assert str(build.build()) not in loaded
    assert [line.rpartition("; ")[2] for line in said.splitlines()] == [
        "the native kernel is built here instead",
        "'fused' is used instead",
    ]


def test_at_import_nothing_is_said_of_it(prebuilt: Path, environment: dict[str, str]) -> None:
    damage(prebuilt)
    code = USE.split("print(")[0] + "import lstm_jax.kernels.native"
    done = programs.run_afresh("-c", code, prebuilt.parent, INTERFACE, env=environment)
    assert (done.returncode, done.stderr) == (0, "")


# --------------------------------------------------------------------------------------------------
# What zig builds. It takes minutes, the first time: only where something has changed, or with --all
# --------------------------------------------------------------------------------------------------


@pytest.fixture
def tools(request: pytest.FixtureRequest, tmp_path: Path) -> dict[str, str]:
    """The environment of builds, with zig and the headers. A test that passes notes that it did."""
    state = native_builds.state_of_the_wheel(request.node.name)
    if native_builds.is_known_to_pass(state) and not request.config.getoption("--all"):
        pytest.skip("all that the kernel is built from is as it was when it passed; --all builds it")
    requirements = build_wheel.compiler_requirements()
    # From one folder, zig finds the C++ library that it has built in an earlier run.
    kept = kept_folder(request.config, "zig", otherwise=tmp_path)
    folder = kept / "-".join(requirements)
    if not folder.exists():
        with tempfile.TemporaryDirectory(dir=kept) as scratch:
            install = ["install", "--no-deps", "--no-compile", "--target", f"{scratch}/tools"]
            subprocess.run([*PIP, *install, *requirements], check=True, timeout=SECONDS)
            with contextlib.suppress(OSError):  # another process was first
                Path(scratch, "tools").rename(folder)
    return os.environ | {"PYTHONPATH": str(folder)}


@pytest.mark.parametrize("name", [name for name in library.PLATFORMS if name.endswith("linux-gnu")])
def test_the_wheel_of_a_platform(
    name: str, tools: dict[str, str], tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    source, wheels = copy_source(tmp_path / "source"), tmp_path / "wheels"
    platform = library.PLATFORMS[name]
    subprocess.run(
        [*PIP, "wheel", "--no-deps", "--no-build-isolation", "-w", wheels, source],
        check=True,
        timeout=SECONDS,
        env=tools | {"LSTM_JAX_TARGET": name},
    )
    (wheel,) = wheels.iterdir()
    assert wheel.name.endswith(f"-py3-none-{platform.tag}.whl")
    shown = subprocess.run(
        [sys.executable, "-m", "auditwheel", "show", wheel], check=True, capture_output=True, text=True
    )
    told = " ".join(shown.stdout.split())
    assert f'is consistent with the following platform tag: "{platform.tag}"' in told
    if platform == library.platform_here():
        use_installed(wheel, platform, tmp_path)
    native_builds.note(native_builds.state_of_the_wheel(request.node.name))


def use_installed(wheel: Path, platform: library.Platform, folder: Path) -> None:
    """Install a wheel, and all that it asks for, in a new environment; use it where no compiler is found."""
    environment = folder / "environment"
    subprocess.run([sys.executable, "-m", "venv", environment], check=True, timeout=600)
    python = environment / "bin" / "python"
    pip = [python, "-m", *PIP[2:]]
    subprocess.run([*pip, "install", "--no-compile", wheel], check=True, timeout=SECONDS)
    bare = {"HOME": str(folder), "PATH": str(folder / "nothing"), "JAX_PLATFORMS": "cpu"}
    done = subprocess.run(
        [python, PROJECT / "tests" / "wheel_check.py"], capture_output=True, text=True, cwd=folder, env=bare
    )
    assert done.returncode == 0, done.stderr
    package = next(environment.glob("lib/python*/site-packages/lstm_jax"))
    variant = library.best_variant()
    assert variant is not None
    assert done.stdout == f"two steps with {variant.name} of {package / '__init__.py'}\n"
    names = [path.name.rpartition("-")[0] for path in (package / "kernels" / "prebuilt").iterdir()]
    assert sorted(names) == sorted(variant.name for variant in platform.variants)
    assert not list(environment.glob("lib/python*/site-packages/tensorflow_datasets"))


def test_the_kernel_for_arm_agrees_with_its_equations(
    tools: dict[str, str], tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """Run by an emulator of the processor."""
    if (emulator := shutil.which("qemu-aarch64")) is None:
        pytest.skip("qemu-aarch64 is not installed (Debian's package qemu-user)")
    platform = library.PLATFORMS["aarch64-linux-gnu"]
    program = tmp_path / "kernel_test"
    options = [*native_builds.OPTIONS, *native_builds.WARNINGS, "-O3", "-I", library.SOURCE]
    subprocess.run(
        [
            # Static, with musl: the emulator has no C library of that processor.
            *build_wheel.zig_command("aarch64-linux-musl", platform.variants[0].cpu),
            "-static",
            *options,
            native_builds.TESTS / "kernel_test.cc",
            "-o",
            program,
        ],
        check=True,
        timeout=SECONDS,
        env=tools,
    )
    assert native_builds.run_program([emulator, program]) in native_builds.expected_of("plain")
    native_builds.note(native_builds.state_of_the_wheel(request.node.name))

"""Building the native kernel, keeping it, and doing without it."""

import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

from lstm_jax import LSTM, config, functional
from lstm_jax.errors import ImplementationError
from lstm_jax.kernels import build, choice
from lstm_jax.kernels.build import NotAvailableError
from lstm_jax.kernels.choice import Work, choose, fastest
from lstm_jax.system.caches import processor
from tests import native_builds
from tests.helpers import programs
from tests.helpers.project import Run

# Starts the layer, and says which implementation `auto` is; the kernel is built on the way.
USE = """
import jax.numpy as jnp, jax
from lstm_jax import LSTM
LSTM(3).init_with_output(jax.random.key(0), jnp.ones((2, 4, 5)))
from lstm_jax.kernels.build import why_not_available
print(why_not_available())
"""


@pytest.fixture
def compiler(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A stand-in for the C++ compiler: it copies the kernel that is built already, and counts its calls."""
    built = build.build()
    monkeypatch.setenv("LSTM_JAX_CACHE_DIR", str(tmp_path / "cache"))
    script = tmp_path / "c++"
    script.write_text(
        f"""#!/bin/sh
if [ "$1" = --version ]; then echo stand-in 1; exit; fi
echo called >> {tmp_path / "calls"}
while [ "$1" != -o ]; do shift; done
cp {built} "$2"
"""
    )
    script.chmod(0o755)
    monkeypatch.setenv("CXX", str(script))
    return script


def calls(compiler: Path) -> int:
    log = compiler.parent / "calls"
    return len(log.read_text().splitlines()) if log.exists() else 0


# --------------------------------------------------------------------------------------------------
# The cache
# --------------------------------------------------------------------------------------------------


def test_it_is_built_once(compiler: Path, tmp_path: Path) -> None:
    assert build.must_be_built()
    library = build.build()
    assert library.parent == tmp_path / "cache" / "native"
    assert list(library.parent.iterdir()) == [library]  # nothing is left over
    assert library.parent.stat().st_mode & 0o777 == 0o700
    assert not build.must_be_built()
    assert build.build() == library
    assert calls(compiler) == 1


def test_at_import_nothing_is_built_and_nothing_said(
    compiler: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    build.load_if_built()
    assert build.must_be_built()
    monkeypatch.setenv("CXX", "no-such-compiler")
    build.load_if_built()
    assert calls(compiler) == 0
    assert capfd.readouterr() == ("", "")


def test_its_name_depends_on_all_that_it_is_made_of(
    compiler: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = {build.place([str(compiler)])[1]}

    def another() -> bool:
        before = len(names)
        names.add(build.place([str(compiler)])[1])
        return len(names) > before

    assert not another()
    with monkeypatch.context() as changed:
        changed.setattr(build, "FLAGS", (*build.FLAGS, "-O2"))
        assert another()
    with monkeypatch.context() as changed:
        changed.setattr(build, "processor", lambda: "x86_64 flags: fpu")
        assert another()
    with monkeypatch.context() as changed:
        changed.setattr(build, "version", lambda package: "0.0.1")
        assert another()
    source = tmp_path / "cpp"
    source.mkdir()
    for path in build.SOURCE.iterdir():
        (source / path.name).write_bytes(path.read_bytes())
    with monkeypatch.context() as changed:
        changed.setattr(build, "SOURCE", source)
        assert not another()
        with (source / "vector.h").open("a") as header:
            header.write("// changed\n")
        assert another()
    compiler.write_text(compiler.read_text().replace("stand-in 1", "stand-in 2"))
    assert another()


def test_two_processes_at_once(compiler: Path, environment: dict[str, str]) -> None:
    """Both find nothing, both build, and both end with a whole kernel."""
    variables = {**environment, **{name: os.environ[name] for name in ("CXX", "LSTM_JAX_CACHE_DIR")}}
    processes = [programs.start("-c", USE, env=variables) for _ in range(2)]
    for process in processes:
        output, errors = process.communicate(timeout=120)
        assert (process.returncode, output) == (0, "None\n"), errors
    assert len(list(Path(variables["LSTM_JAX_CACHE_DIR"], "native").iterdir())) == 1


def test_nothing_is_built_at_import(run_afresh: Run, environment: dict[str, str], tmp_path: Path) -> None:
    code = f"""
import os
os.environ["LSTM_JAX_CACHE_DIR"] = {str(tmp_path / "cache")!r}
import lstm_jax
from lstm_jax import LSTM
import lstm_jax.kernels.native, lstm_jax.compare
LSTM(3)
print(os.path.exists({str(tmp_path / "cache")!r}))
"""
    done = run_afresh("-c", code)
    assert (done.returncode, done.stdout) == (0, "False\n"), done.stderr


DAMAGES = {
    "truncated": lambda content: content[:100],  # loaded, it ends the process with a bus error
    "a page lost": lambda content: content[: len(content) // 2 & ~4095],
    "empty": lambda content: b"",
    "one bit": lambda content: content[:9000] + bytes([content[9000] ^ 4]) + content[9001:],  # other numbers
    "one byte more": lambda content: content + b"\0",
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_kernel_is_built_again(
    compiler: Path, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    library = build.build()
    content = library.read_bytes()
    library.write_bytes(DAMAGES[damage](content))
    assert build.must_be_built()
    assert build.build() == library
    assert library.read_bytes() == content
    assert [record.getMessage() for record in caplog.records] == [
        f"lstm_jax: {library} is damaged: the native kernel is built again"
    ]
    assert build.build() == library
    assert (calls(compiler), len(caplog.records)) == (2, 1)


def test_a_kernel_without_a_digest_or_with_that_of_another_is_not_loaded(compiler: Path) -> None:
    """Older versions called it lstm-....so; a compiler may write something else each time."""
    library = build.build()
    old = library.with_name(build.place([str(compiler)])[1] + ".so")
    other = library.with_name(library.name.replace(library.stem[-64:], "0" * 64))
    library.rename(old)
    other.write_bytes(old.read_bytes())
    compiler.write_text(compiler.read_text() + 'printf "$$" >> "$2"\n')
    built = build.build()
    assert built not in (library, other)
    assert sorted(built.parent.iterdir()) == sorted([old, built])


def test_a_damaged_kernel_is_not_even_opened_by_a_program(
    compiler: Path, environment: dict[str, str]
) -> None:
    library = build.build()
    library.write_bytes(library.read_bytes()[:100_000])
    variables = {**environment, **{name: os.environ[name] for name in ("CXX", "LSTM_JAX_CACHE_DIR")}}
    done = programs.run_afresh("-c", USE, env=variables)
    assert (done.returncode, done.stdout) == (0, "None\n"), done.stderr
    assert done.stderr == f"lstm_jax: {library} is damaged: the native kernel is built again\n"
    assert calls(compiler) == 2


def test_what_the_system_does_not_load(compiler: Path) -> None:
    library = build.build().with_suffix(".other")
    library.write_bytes(b"no library")
    with pytest.raises(NotAvailableError, match=rf"{library.name} cannot be loaded \(.*\); do that"):
        build.load(library, advice="do that")


def test_it_is_on_disk_before_it_has_its_name(compiler: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else a power failure may leave the name without the content."""
    order = []

    def watched(name: str) -> Callable[..., None]:
        does = getattr(os, name)
        return lambda *args: order.append(name) or does(*args)

    for name in ("fsync", "replace"):
        monkeypatch.setattr(os, name, watched(name))
    build.build()
    assert order == ["fsync", "replace", "fsync"]


def test_what_a_killed_build_left_is_removed(compiler: Path) -> None:
    folder = build.place([str(compiler)])[0]
    for name, age in (("old", 3600), ("new", 0)):
        left = folder / f"{build.SCRATCH}{name}"
        left.mkdir(parents=True, mode=0o700)
        os.utime(left, (time.time() - age,) * 2)
    folder.chmod(0o700)
    library = build.build()
    assert sorted(path.name for path in folder.iterdir()) == [f"{build.SCRATCH}new", library.name]


def test_what_another_process_takes_away_meanwhile_is_not_missed(
    compiler: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Names that are in the folder when it is listed, and gone when they are looked at."""
    folder, name = build.place([str(compiler)])
    folder.mkdir(parents=True, mode=0o700)
    gone = [folder / f"{build.SCRATCH}gone", folder / f"{name}-{'0' * 64}.so"]
    list_folder = Path.iterdir

    def listed(path: Path) -> Iterator[Path]:
        yield from [*gone, *list_folder(path)] if path == folder else list_folder(path)

    monkeypatch.setattr(Path, "iterdir", listed)
    library = build.build()
    assert build.build() == library
    assert calls(compiler) == 1


# --------------------------------------------------------------------------------------------------
# Doing without it
# --------------------------------------------------------------------------------------------------


def test_no_compiler(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(
        NotAvailableError, match=r"no C\+\+ compiler was found \(looked for c\+\+, g\+\+, clang"
    ):
        build.find_compiler()
    monkeypatch.setenv("CXX", "gxx-99 -v")
    with pytest.raises(NotAvailableError, match=r"there is no C\+\+ compiler 'gxx-99 -v', which CXX names"):
        build.find_compiler()


def test_another_system(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(build.platform, "system", lambda: "Windows")
    with pytest.raises(NotAvailableError, match="for Linux and macOS only"):
        build.build()


@pytest.mark.parametrize(
    ("script", "message"),
    [
        ("exit 1", "the C++ compiler .* does not run"),
        ('[ "$1" = --version ] && exit 0; echo "x.h:1: error: no concept" >&2; exit 1', "error: no concept"),
        ('[ "$1" = --version ] && exit 0; exit 0', "it could not be built in .* (No such file"),
        (
            '[ "$1" = --version ] && exit 0; echo one >&2; echo two >&2; exit 3',
            "could not compile it (one two)",
        ),
        ('[ "$1" = --version ] && exit 0; exit 3', "could not compile it (exit code 3)"),
    ],
    ids=["does not run", "does not compile", "writes nothing", "says it otherwise", "says nothing"],
)
def test_a_compiler_that_fails(compiler: Path, script: str, message: str) -> None:
    compiler.write_text(f"#!/bin/sh\n{script}\n")
    with pytest.raises(NotAvailableError) as raised:
        build.build()
    assert all(part in str(raised.value) for part in message.split(" .* "))
    folder = Path(os.environ["LSTM_JAX_CACHE_DIR"], "native")
    assert not folder.exists() or not list(folder.iterdir())  # nothing is left over


def test_code_that_others_could_have_written_is_not_loaded(compiler: Path) -> None:
    build.build().parent.chmod(0o770)
    with pytest.raises(NotAvailableError, match="others can write to it, so code in it cannot be trusted"):
        build.build()


def test_a_cache_that_cannot_be_made(compiler: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("LSTM_JAX_CACHE_DIR", str(tmp_path / "file"))
    with pytest.raises(NotAvailableError, match="LSTM_JAX_CACHE_DIR can name another folder"):
        build.build()
    monkeypatch.setattr(build, "cache_dir", lambda: None)
    with pytest.raises(NotAvailableError, match="there is no home directory; LSTM_JAX_CACHE_DIR can name"):
        build.build()


def test_without_it_auto_says_why_in_one_line_and_native_is_an_error(
    environment: dict[str, str], tmp_path: Path
) -> None:
    code = """
import jax, jax.numpy as jnp
from lstm_jax import LSTM
for _ in range(2):
    LSTM(3).init(jax.random.key(0), jnp.ones((2, 4, 5)))
LSTM(3, "native").init(jax.random.key(0), jnp.ones((2, 4, 5)))
"""
    variables = {**environment, "CXX": "gxx-99", "LSTM_JAX_CACHE_DIR": str(tmp_path)}
    done = programs.run_afresh("-c", code, env=variables)
    reason = "there is no C++ compiler 'gxx-99', which CXX names"
    first = done.stderr.splitlines()[0]
    assert first == f"lstm_jax: the native kernel cannot be used: {reason}; 'fused' is used instead"
    assert done.stderr.count("is used instead") == 1
    assert f"ImplementationError: implementation 'native' cannot be used: {reason}\n" in done.stderr


def test_train_without_it(environment: dict[str, str], tmp_path: Path) -> None:
    without = {**environment, "CXX": "gxx-99"}
    command = ["train.py", "--steps", "2", "--run-dir", tmp_path / "run"]
    refused = programs.run(*command, "--implementation", "native", env=without)
    assert refused.returncode == 1
    assert refused.stderr == (
        "train.py: error: implementation 'native' cannot be used: there is no C++ compiler 'gxx-99', which "
        "CXX names\n"
    )
    assert not (tmp_path / "run").exists()
    done = programs.run(*command, env=without)
    assert done.returncode == 0, done.stderr
    assert "implementation fused, float32" in done.stdout + done.stderr
    assert (done.stdout + done.stderr).count("'fused' is used instead") == 1


# --------------------------------------------------------------------------------------------------
# The choice
# --------------------------------------------------------------------------------------------------

TASK = Work(dtypes=frozenset({"float32"}))


def test_every_name_but_auto_means_itself() -> None:
    names = [name for name in functional.IMPLEMENTATIONS if name != "native-tiles"]
    assert [choose(name, TASK) for name in names] == names
    with pytest.raises(
        ImplementationError, match="got 'cudnn', expected auto, scan, unrolled, fused, native"
    ):
        choose("cudnn", TASK)


def test_auto_on_a_cpu() -> None:
    assert fastest(TASK) == "native"
    assert fastest(TASK._replace(dtypes=frozenset({"float32", "bfloat16"}))) == "native"
    assert fastest(TASK._replace(dtypes=frozenset({"float32", "float16"}))) == "fused"
    assert fastest(TASK._replace(usual_activations=False)) == "scan"
    assert fastest(TASK._replace(unroll=2)) == "scan"


def test_what_a_run_trains_with() -> None:
    chosen = [
        choose("auto", Work.of_run(config.Config.of(**options).model.dtype))
        for options in ({}, {"recurrent_dropout_rate": 0.1}, {"dtype": "bfloat16"})
    ]
    assert chosen == ["native"] * 3


@pytest.mark.parametrize("platform", ["gpu", "tpu"])
def test_auto_on_other_platforms(monkeypatch: pytest.MonkeyPatch, platform: str) -> None:
    monkeypatch.setattr(choice, "platform", lambda: platform)
    assert fastest(TASK) == "fused"
    with pytest.raises(
        ImplementationError, match=f"'native' cannot be used: it runs on a CPU, .* on {platform}"
    ):
        choose("native", TASK)


def test_the_platform_is_that_of_the_default_device() -> None:
    assert choice.platform() == "cpu"
    with jax.default_device(jax.devices()[1]):
        assert choice.platform() == "cpu"
    with jax.default_device("tpu"):  # named only: nothing is asked of it
        assert choice.platform() == "tpu"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"dtypes": frozenset({"float32", "float16"})}, "in float32 or bfloat16, not float16; use 'fused'"),
        ({"tracks_devices": True}, "inside of shard_map it needs check_vma=False; use 'scan' with the check"),
        ({"usual_activations": False}, "it computes sigmoid gates and tanh; use 'scan' for another gate_fn"),
        (
            {"unroll": 3},
            "unroll: got 3, expected 1 \\(or 'scan'\\)",
        ),
    ],
)
def test_what_native_cannot_do(change: dict, message: str) -> None:
    with pytest.raises(ImplementationError, match=message):
        choose("native", TASK._replace(**change))


def test_auto_computes_what_the_chosen_one_computes() -> None:
    inputs = jax.random.normal(jax.random.key(1), (3, 5, 4))
    variables = LSTM(6).init(jax.random.key(0), inputs)
    texts = [
        jax.jit(LSTM(6, name).apply).lower(variables, inputs).as_text()
        for name in ("auto", "native", "fused")
    ]
    assert texts[0] == texts[1] != texts[2]
    half = LSTM(6, dtype=jnp.float16)
    assert "lstm_jax_forward" not in jax.jit(half.apply).lower(variables, inputs).as_text()


# --------------------------------------------------------------------------------------------------
# The source itself
# --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", native_builds.BUILDS)
def test_the_kernel_by_itself(name: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    """Built without Python, with sanitizers, which see every access to memory, and for other processors."""
    if name == "avx2" and "avx2" not in processor():
        pytest.skip("this processor has no AVX2")
    if native_builds.is_known_to_pass(native_builds.state_here()) and not request.config.getoption("--all"):
        pytest.skip("the source is as it was when all builds passed; pytest --all makes them again")
    assert native_builds.output_of(name, tmp_path) in native_builds.expected_of(name)

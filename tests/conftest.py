"""What tests share: strict JAX, two CPU devices, prepared MNIST, a home of their own."""

import os
import signal
from collections.abc import Iterator
from functools import partial
from pathlib import Path

# Imported, the package loads a kernel that the user's cache holds: none for the tests, which build their own.
os.environ["LSTM_JAX_CACHE_DIR"] = os.devnull

from tests.helpers.compilation import QUICK

# Before JAX is imported. So do the programs that tests start; whoever sets XLA_FLAGS decides alone.
os.environ.setdefault("XLA_FLAGS", QUICK)

import jax
import jaxtyping
import pytest

from tests.helpers import programs
from tests.helpers.project import PROJECT, Run

# Shapes in the signatures are checked while the tests run, and only then. `Config` checks itself.
jaxtyping.install_import_hook(
    [
        ".".join(path.relative_to(PROJECT).with_suffix("").parts)
        for path in (PROJECT / "lstm_jax").rglob("*.py")
        if "from jaxtyping import" in path.read_text()
    ],
    "beartype.beartype",
)

from lstm_jax import load_dataset  # noqa: E402  hooked before it is imported
from lstm_jax.data import archives  # noqa: E402
from lstm_jax.devices import compilation_cache_dir  # noqa: E402
from tests.helpers.kept import forget_oldest, kept_folder, share_files  # noqa: E402
from tests.helpers.mnist import expect, first_of_mnist  # noqa: E402

# Two devices in this process, so that sharing a batch is tested wherever the tests run.
jax.config.update("jax_platforms", "cpu")
jax.config.update("jax_num_cpu_devices", 2)
# A shell starts its background jobs with SIGINT ignored, and all that they start inherits it: without
# this, the tests that send SIGINT to a program would fail there.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# Arrays of different rank that are silently broadcast are a mistake in our code; JAX lets it pass.
jax.config.update("jax_numpy_rank_promotion", "raise")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--all",
        action="store_true",
        help="run what has passed with the same source, too: the builds of the kernel with sanitizers",
    )


@pytest.fixture
def strict_dtypes() -> Iterator[None]:
    """Refuse silent changes of dtype. Not for all tests: Adam in optax raises a float to an integer."""
    with jax.numpy_dtype_promotion("strict"):
        yield


@pytest.fixture(scope="session")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for what is made once, for all processes where pytest-xdist shares out the tests.

    Put there only what several processes may make at the same time.
    """
    own = tmp_path_factory.getbasetemp()
    return own.parent if "PYTEST_XDIST_WORKER" in os.environ else own


@pytest.fixture(scope="module", autouse=True)
def forget_programs() -> Iterator[None]:
    """Free the programs of a file: no other needs them, and searching gigabytes for garbage is slow."""
    yield
    jax.clear_caches()


@pytest.fixture(scope="session", autouse=True)
def compilation_cache(
    tmp_path_factory: pytest.TempPathFactory, shared: Path, request: pytest.FixtureRequest
) -> Iterator[None]:
    """Compile each program, and the native kernel, once, not once per test or per run of the tests."""
    cache = tmp_path_factory.mktemp("cache")
    os.environ["LSTM_JAX_CACHE_DIR"] = str(cache)
    # Kernels are shared among processes; programs are not: JAX writes one where others may be reading it.
    (cache / "native").symlink_to(kept_folder(request.config, "native", otherwise=shared))
    own = compilation_cache_dir()  # named after the processor, as programs hold machine code
    assert own is not None
    own.mkdir(parents=True)
    kept = kept_folder(request.config, f"programs-{own.name}", otherwise=shared)
    share_files(kept, own)
    # Programs that tests start find there what the tests have compiled.
    jax.config.update("jax_compilation_cache_dir", str(own))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
    # Their folder, which is a new one in each run, would be a part of the key of every program.
    jax.config.update("jax_persistent_cache_enable_xla_caches", "none")
    yield
    # A program that was killed may have left half a file.
    if not request.session.testsfailed:
        share_files(own, kept)
    forget_oldest(kept, most_bytes=500_000_000)  # ten times what all tests compile


@pytest.fixture(scope="session")
def data_dir(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data directory with the first images of MNIST, prepared as all of them are."""
    path = shared / "data"
    with pytest.MonkeyPatch.context() as patched:
        folder = first_of_mnist(tmp_path_factory.mktemp("mnist") / "archives")
        expect(patched, folder)
        patched.setattr(archives, "packaged_folder", lambda name: folder)
        load_dataset("mnist", data_dir=path)  # whoever comes second waits for its lock
    return path


@pytest.fixture(scope="session")
def environment(
    tmp_path_factory: pytest.TempPathFactory, data_dir: Path, compilation_cache: None
) -> dict[str, str]:
    """The environment of commands: an empty home, the prepared data, one cache of compiled programs."""
    kept = {
        key: value for key, value in os.environ.items() if not key.startswith(("JAX", "XLA", "XDG", "TFDS"))
    }
    return {
        **kept,
        "HOME": str(tmp_path_factory.mktemp("home")),
        "TFDS_DATA_DIR": str(data_dir),
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": os.environ["XLA_FLAGS"],
    }


@pytest.fixture(scope="session")
def run(environment: dict[str, str]) -> Run:
    """Run a Python program of the project as a user does; returns code, output and errors."""
    return partial(programs.run, env=environment)


@pytest.fixture(scope="session")
def run_afresh(environment: dict[str, str]) -> Run:
    """The same in a new Python, for what happens while a program imports."""
    return partial(programs.run_afresh, env=environment)

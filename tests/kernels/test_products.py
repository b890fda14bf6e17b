"""The choice between vectors and tile registers.

Few machines have tiles. So here a stand-in for the compiled kernel says that there are some, and how long
they take. That the kernel computes with them, and times them, is tested by `tests/native_builds.py`.
"""

import ctypes
import functools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lstm_jax import LSTM, devices
from lstm_jax.config import Config
from lstm_jax.errors import ImplementationError
from lstm_jax.kernels import build, choice, products
from lstm_jax.runs.implementation import with_products
from lstm_jax.system.caches import cpu_name

KEY = f"{cpu_name()},1,27,128,28,64,0,2"
TASK = products.Task(members=1, time=28, batch=128, inputs=28, hidden=64, bfloat16=False, threads=2)


class StandIn:
    """A kernel on a machine with tiles, which take ``ratio`` times as long as vectors."""

    def __init__(self, name: str, ratio: float = 1.0, *, usual: int = 1, rounds: int = 10) -> None:
        self._name = name
        self.ratio, self.usual, self.rounds, self.measured = ratio, usual, rounds, list[list[int]]()
        # Like a function of a library, it takes a `restype`.
        self.lstm_jax_tiles_to_vectors = functools.partial(self._time)

    def lstm_jax_tiles_are_usual(self, sizes: Any, threads: Any) -> int:
        return self.usual

    def _time(self, sizes: Any, threads: Any, bfloat16: int, seconds: Any, most: Any, ratios: Any) -> int:
        self.measured.append([*sizes, threads.value, bfloat16])
        assert seconds.value <= 0.2
        count = min(self.rounds, most.value)
        for index in range(count):
            ratios[index] = self.ratio * (1.01 if index % 2 else 0.99)
        return count


@pytest.fixture
def tiles(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[StandIn]:
    """A machine with tiles, where nothing has been measured yet."""
    assert build.why_not_available() is None
    kernel = StandIn(str(tmp_path / "lstm-abc-123.so"), 0.7)
    monkeypatch.setenv("LSTM_JAX_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.delenv(products.VARIABLE, raising=False)
    monkeypatch.setattr(build, "loaded", lambda: kernel)
    products._found.cache_clear()
    yield kernel
    products._found.cache_clear()


@pytest.mark.parametrize(
    ("usual", "ratios", "expected"),
    [
        ("tiles", [1.3, 1.2, 1.1, 1.2, 1.15], "vectors"),
        ("tiles", [0.7] * 9, "tiles"),
        ("vectors", [0.7] * 9, "tiles"),
        ("vectors", [1.4] * 9, "vectors"),
        ("vectors", [0.97] * 25, "vectors"),  # within the margin
        ("tiles", [1.04] * 25, "tiles"),
        ("vectors", [0.5, 0.5, 0.5, 1.1, 1.2, 0.5, 1.3], "vectors"),  # too many rounds say the other
        ("vectors", [0.5] * 4, "vectors"),  # too few rounds
        ("tiles", [], "tiles"),
    ],
)
def test_the_unusual_kind_must_be_clearly_faster(usual: str, ratios: list[float], expected: str) -> None:
    assert products.faster(usual, ratios) == expected


def test_a_task_is_measured_once_and_kept(tiles: StandIn, tmp_path: Path) -> None:
    tiles.usual = 0
    assert [products.choose(TASK) for _ in range(2)] == ["tiles"] * 2
    assert tiles.measured == [[1, 27, 128, 28, 64, 2, 0]]  # so many steps are enough
    notes = tmp_path / "cache" / "native" / "lstm-abc-123.json"
    assert json.loads(notes.read_text()) == {KEY: "tiles"}
    products._found.cache_clear()  # as in another process, on a machine that is disturbed
    tiles.ratio = 2.0
    assert products.choose(TASK) == "tiles"
    assert len(tiles.measured) == 1
    assert products.choose(TASK._replace(hidden=65, bfloat16=True)) == "vectors"
    assert set(json.loads(notes.read_text()).values()) == {"tiles", "vectors"}
    # Longer sequences take as much time for a step.
    assert products.choose(TASK._replace(time=784)) == "tiles"
    assert len(tiles.measured) == 2


@pytest.mark.parametrize("content", ["", "[1]", "{", f'{{"{KEY}": "magic"}}', "\xff"])
def test_damaged_notes_are_measured_again(tiles: StandIn, tmp_path: Path, content: str) -> None:
    folder = tmp_path / "cache" / "native"
    folder.mkdir(parents=True, mode=0o700)
    (tmp_path / "cache").chmod(0o700)
    (folder / "lstm-abc-123.json").write_bytes(content.encode("latin-1"))
    assert products.choose(TASK) == "tiles"
    assert json.loads((folder / "lstm-abc-123.json").read_text()) == {KEY: "tiles"}


def test_without_a_place_for_notes(tiles: StandIn, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LSTM_JAX_CACHE_DIR", "/dev/null")
    assert products.choose(TASK) == "tiles"
    tiles.rounds = -1  # no memory for a measurement
    assert products.choose(TASK._replace(hidden=7)) == "tiles"  # the usual kind


def test_a_measurement_that_failed_is_made_again(tiles: StandIn, tmp_path: Path) -> None:
    tiles.ratio, tiles.rounds = 2.0, products.FEWEST_ROUNDS - 1
    assert products.choose(TASK) == "tiles"
    assert not (tmp_path / "cache" / "native" / "lstm-abc-123.json").exists()
    products._found.cache_clear()
    tiles.rounds = products.FEWEST_ROUNDS
    assert products.choose(TASK) == "vectors"


def test_large_sizes_are_measured_on_less_or_not_at_all(tiles: StandIn) -> None:
    """Not on a single step, for which all weights are packed, and not for seconds."""
    for hidden, batch, steps, rows in (
        (64, 128, 27, 128),
        (64, 4096, 8, 441),
        (200, 512, 8, 64),
        (5, 3, 28, 3),
    ):
        short = TASK._replace(hidden=hidden, inputs=hidden, batch=batch).shortened()
        assert short is not None
        assert short.operations() <= 2e9
        assert (short.time, short.batch) == (steps, rows) or hidden == 64
        assert short.time >= 8
    assert TASK._replace(hidden=1024, inputs=1024).shortened() is None
    assert products.choose(TASK._replace(hidden=1024, inputs=1024)) == "tiles"  # the usual kind
    assert not tiles.measured


def test_the_environment_names_a_kind(tiles: StandIn, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(products.VARIABLE, "vectors")
    assert products.choose(TASK) == "vectors"
    assert not tiles.measured
    monkeypatch.setenv(products.VARIABLE, "tile")
    with pytest.raises(ImplementationError, match="LSTM_JAX_KERNEL: got 'tile', expected vectors or tiles"):
        products.choose(TASK)
    monkeypatch.setenv(products.VARIABLE, "tiles")
    assert products.choose(TASK) == "tiles"
    tiles.usual = -1
    with pytest.raises(ImplementationError, match="LSTM_JAX_KERNEL: got 'tiles', but there are no tile reg"):
        products.choose(TASK)


def test_without_tiles_nothing_is_measured(tiles: StandIn) -> None:
    tiles.usual = -1
    assert products.choose(TASK) == "vectors"
    assert not tiles.measured
    assert choice.why_no_kernel("native-tiles") == products.why_not("tiles")
    assert choice.why_no_kernel("native-vectors") is None


def test_the_choice_is_a_part_of_the_program(tiles: StandIn) -> None:
    """Of both passes, for the sizes that the kernel sees and as many threads as there are cores."""

    def program(implementation: str) -> str:
        layer = LSTM(5, implementation)
        x = jnp.ones((3, 7, 4))
        params = layer.init(jax.random.key(0), x)
        gradient = jax.grad(lambda params: layer.apply(params, x).sum())
        return jax.jit(gradient).lower(params).as_text()

    for implementation, code in (("native", 2), ("native-tiles", 2), ("native-vectors", 1)):
        text = program(implementation)
        assert text.count(f"products = {code} : i64") == 2, implementation
        assert text.count(f"most_threads = {products.most_threads()} : i64") == 2
    assert tiles.measured == [[1, 7, 3, 4, 5, products.most_threads(), 0]]


@pytest.mark.parametrize(("batch", "threads"), [(9, 1), (10, products.most_threads())])
def test_a_small_forward_pass_wakes_no_other_thread(batch: int, threads: int) -> None:
    """It takes 8 operations by each weight; the passes of a gradient take all threads."""
    layer = LSTM(64, "native")
    x = jax.random.normal(jax.random.key(1), (batch, 28, 28))
    params = layer.init(jax.random.key(0), x)
    forward = jax.jit(lambda params: layer.apply(params, x))
    gradient = jax.jit(jax.grad(lambda params: layer.apply(params, x).sum()))
    assert f"most_threads = {threads} : i64" in forward.lower(params).as_text()
    assert gradient.lower(params).as_text().count(f"most_threads = {products.most_threads()} : i64") == 2
    reference = LSTM(64, "scan").apply(params, x)
    np.testing.assert_allclose(forward(params), reference, rtol=1e-5, atol=1e-6)


def test_a_run_keeps_its_kind(tiles: StandIn, monkeypatch: pytest.MonkeyPatch) -> None:
    config, mesh = Config(), devices.make_mesh(devices=1, batch_size=128)

    def of_run(implementation: str, before: str | None) -> str:
        return with_products(config, mesh, implementation, before=before)

    assert of_run("native", None) == "native-tiles"
    assert of_run("native", "fused") == "native-vectors"
    assert of_run("native", "native") == "native-vectors"  # begun on a machine without tiles
    assert of_run("native", "native-vectors") == "native-vectors"
    assert of_run("native", "native-tiles") == "native-tiles"
    assert of_run("fused", "native-vectors") == "fused"
    assert of_run("native-vectors", "native-tiles") == "native-vectors"  # as --implementation says
    monkeypatch.setenv(products.VARIABLE, "vectors")
    assert of_run("native", "native-tiles") == "native-vectors"
    monkeypatch.delenv(products.VARIABLE)
    tiles.usual = -1  # on another machine
    assert of_run("native", "native-tiles") == "native"
    assert of_run("native", "native-vectors") == "native-vectors"
    assert of_run("native", None) == "native"


def test_the_kernel_here_takes_times() -> None:
    """Without tiles it takes those of vectors twice."""
    assert build.why_not_available() is None
    ratios = products._tiles_to_vectors(products.Task(2, 3, 40, 5, 17, bfloat16=False, threads=2))
    assert 0 < len(ratios) <= products.MOST_ROUNDS
    assert all(0 < ratio < 1e6 for ratio in ratios)
    assert np.isfinite(ctypes.c_double(ratios[0]).value)

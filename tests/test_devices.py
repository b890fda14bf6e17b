"""Devices, their mesh, and the cache of compiled programs."""

import os
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from lstm_jax import devices
from lstm_jax.errors import ConfigError
from lstm_jax.runs import loop, processes
from lstm_jax.runs.history import Notes
from tests.helpers.project import PROJECT, Run
from tests.helpers.runs import Listener


def test_the_mesh_takes_as_many_devices_as_can_share_the_batch() -> None:
    # The tests show two CPU devices.
    assert devices.make_mesh(devices=None, batch_size=4).size == 2
    assert devices.make_mesh(devices=None, batch_size=3).size == 1
    assert devices.make_mesh(devices=1, batch_size=4).size == 1
    assert devices.make_mesh(devices=2, batch_size=4).axis_names == ("data",)


def test_impossible_meshes_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"--devices: got 3, expected at most 2 \(cpu devices"):
        devices.make_mesh(devices=3, batch_size=3)
    with pytest.raises(ConfigError, match="--batch-size: got 5, expected a multiple of 2"):
        devices.make_mesh(devices=2, batch_size=5)


def test_arrays_are_shared_out_or_repeated() -> None:
    mesh = devices.make_mesh(devices=2, batch_size=2)
    array = np.arange(12).reshape(4, 3)
    shared = devices.place(mesh, array, P("data"))
    np.testing.assert_array_equal(shared, array)
    assert [shard.data.shape for shard in shared.addressable_shards] == [(2, 3), (2, 3)]
    repeated = devices.place(mesh, array, P())
    assert [shard.data.shape for shard in repeated.addressable_shards] == [(4, 3), (4, 3)]
    assert devices.own_rows(6) == slice(0, 6)  # one process has them all


def test_the_mean_over_devices() -> None:
    rng = np.random.default_rng(0)
    # Of each device: a matrix, a number, and a vector of lower precision.
    tree = {
        "matrix": rng.standard_normal((2, 3, 5), np.float32),
        "number": rng.standard_normal(2, np.float32),
        "rough": rng.integers(-8, 8, (2, 4)).astype(jnp.bfloat16),
        "nothing": (),
    }

    def mean(count: int, tree: Any) -> Any:
        mesh = devices.make_mesh(devices=count, batch_size=2)

        def of_own(tree: Any) -> Any:
            return devices.mean_over_devices(jax.tree.map(lambda leaf: leaf[0], tree))

        return devices.over_devices(of_own, mesh, in_specs=P("data"))(tree)

    for count in (1, 2):
        actual = mean(count, tree)
        assert jax.tree.structure(actual) == jax.tree.structure(tree)
        for name in ("matrix", "number", "rough"):
            assert actual[name].dtype == tree[name].dtype
            np.testing.assert_allclose(actual[name], tree[name][:count].mean(0), rtol=1e-6)


@pytest.mark.slow
def test_the_mean_over_few_cpu_devices_is_in_their_order(run: Run) -> None:
    """So that it does not depend on the processes that they are in; another order has another mean here."""
    code = """
import jax
import numpy as np
from jax.sharding import PartitionSpec as P
from lstm_jax import devices
jax.config.update("jax_num_cpu_devices", 4)
mesh = devices.make_mesh(devices=4, batch_size=4)
assert devices.order_is_known(mesh)
values = np.random.default_rng(0).standard_normal((4, 1000), np.float32)
mean = devices.over_devices(lambda own: devices.mean_over_devices(own[0]), mesh, in_specs=P("data"))(values)
first, second, third, fourth = values
print(np.array_equal(mean, (first + second + third + fourth) / 4))
print(np.array_equal(mean, ((first + second) + (third + fourth)) / 4))
"""
    done = run("-c", code)
    assert done.stdout == "True\nFalse\n", done.stderr


def test_a_change_of_processes_is_said_where_the_order_of_the_mean_changes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    mesh, listener = devices.make_mesh(devices=2, batch_size=2), Listener()
    notes = Notes(devices=2, processes=2, implementation="scan")
    assert loop.computed_here(notes, mesh, "scan", listener).processes == 1
    assert listener.messages == []  # of two numbers, any order is the same
    monkeypatch.setattr(devices, "order_is_known", lambda mesh: False)
    loop.computed_here(notes, mesh, "scan", listener)
    assert (
        "had 2 processes so far and now has 1: results agree up to float32 rounding" in listener.messages[0]
    )


def test_one_process_agrees_with_itself() -> None:
    assert processes.is_leader()
    assert processes.from_leader(lambda: [7]) == [7]
    assert processes.largest(3) == 3


def test_the_cache_of_programs_is_in_the_users_cache_folder(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert devices.compilation_cache_dir().parent == Path(os.environ["LSTM_JAX_CACHE_DIR"]) / "xla"
    monkeypatch.delenv("LSTM_JAX_CACHE_DIR")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert devices.compilation_cache_dir().parent == tmp_path / "lstm_jax" / "xla"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert devices.compilation_cache_dir().parent == tmp_path / ".cache" / "lstm_jax" / "xla"

    def homeless() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", homeless)
    assert devices.compilation_cache_dir() is None


def test_what_one_process_does_first_the_others_find() -> None:
    assert processes.leader_first(lambda: 5) == 5
    with pytest.raises(ZeroDivisionError):
        processes.leader_first(lambda: 1 / 0)


NO_DEVICE = "error: JAX finds no device to run on: JAX_PLATFORMS is cuda "
# Every command that computes with JAX, as far as its first use of it; and a script.
NEEDING_DEVICES = {
    "train": "from lstm_jax import __main__ as m; m.main(['train'])",
    "train as a library": "from lstm_jax import Config, train; train(Config.of(run_dir='run'))",
    "evaluate": "from lstm_jax import __main__ as m; m.main(['evaluate', 'run'])",
    "predict": "from lstm_jax import __main__ as m; m.main(['predict', 'run', 'digit.png'])",
    "page": "from lstm_jax import __main__ as m; m.main(['page', 'run'])",
    "export": "from lstm_jax import __main__ as m; m.main(['export', 'run', '--format', 'safetensors'])",
    "a reader": "from lstm_jax.runs.trained import load_trained; load_trained('there')",
}


def test_no_device_is_told_in_one_line(run_afresh: Run, tmp_path: Path) -> None:
    # One process for all: JAX asks again at each use. All leave nothing behind.
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "config.json").write_text("{}")
    code = f"""
import os, sys
sys.path.insert(0, {str(PROJECT)!r})
os.environ["JAX_PLATFORMS"] = "cuda"
from lstm_jax.commands import command_line
for name, command in {NEEDING_DEVICES!r}.items():
    try:
        command_line.run(lambda: exec(command), prog=name)
    except SystemExit as stop:
        assert stop.code == 1, name
"""
    done = run_afresh("-c", code, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    told = done.stderr.splitlines()
    assert [line.partition(": ")[0] for line in told] == list(NEEDING_DEVICES)
    assert all(line.partition(": ")[2].startswith(NO_DEVICE) for line in told), told
    assert [path.name for path in tmp_path.iterdir()] == ["there"]


def test_a_second_start_compiles_nothing(run: Run, tmp_path: Path) -> None:
    code = """
import sys
import jax
import json
import os
from pathlib import Path
from lstm_jax import Config, devices, train
devices.start(devices=None)
hits = []
jax.monitoring.register_event_listener(lambda name, **_: hits.append(name))
train(Config.of(run_dir=Path(sys.argv[1]), steps=1, hidden_size=6))
print(sum("cache_hits" in name for name in hits), sum("cache_misses" in name for name in hits))
"""
    first, second = (run("-c", code, tmp_path / name) for name in ("first", "second"))
    assert first.returncode == 0, first.stderr
    assert int(second.stdout.split()[0]) > 0
    assert int(second.stdout.split()[1]) == 0


def test_an_unwritable_cache_does_not_stop_a_run(run: Run, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    code = """
import os, sys
import json
import os
from pathlib import Path
os.environ["XDG_CACHE_HOME"] = sys.argv[1]
from lstm_jax import Config, devices, train
devices.start(devices=None)
print(train(Config.of(run_dir=Path(sys.argv[2]), steps=1, hidden_size=6)).summary["steps"])
"""
    done = run("-c", code, tmp_path / "file", tmp_path / "run")
    assert done.returncode == 0, done.stderr
    assert done.stdout == "1\n"


def test_processes_that_were_given_something_else_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    processes.agree({"--seed": 3})  # one process agrees with itself
    others = [{"--seed": 3, "--epochs": None}, {"--seed": 3, "--epochs": 7}]
    monkeypatch.setattr(processes, "from_all", lambda own: [own, *others])
    told = "--epochs: got None in process 0, 7 in process 2, expected the same in all processes of a run"
    with pytest.raises(ConfigError, match=f"^{told}$"):
        processes.agree({"--seed": 3, "--epochs": None})
    monkeypatch.setattr(processes, "process_count", lambda: 2)
    monkeypatch.setattr(jax, "local_devices", lambda process: [None] * (2 + process))
    with pytest.raises(ConfigError, match="number of devices: got 2 in process 0, 3 in process 1, expected"):
        processes.agree({})

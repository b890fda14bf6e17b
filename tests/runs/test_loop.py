"""Whole runs on MNIST: figures, resuming, stopping, what goes wrong, several processes."""

import json
import os
import random
import re
import shutil
import signal
import socket
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from lstm_jax import devices, train
from lstm_jax.config import Config
from lstm_jax.errors import ConfigError, NonFiniteLossError
from lstm_jax.kernels import choice
from lstm_jax.runs import loop
from lstm_jax.runs.checkpoint import digest
from lstm_jax.runs.plan import Plan
from lstm_jax.runs.trained import load_trained
from tests.helpers import programs
from tests.helpers.project import Run
from tests.helpers.runs import Listener, train_until_told
from tests.kill_and_resume import figures_of, kill_at_random_moments, state_digest, train_command

pytestmark = pytest.mark.slow


@pytest.fixture
def small(data_dir: Path, tmp_path: Path) -> dict[str, Any]:
    """Options of a run that takes a second or two: a small LSTM, 3 epochs of 5 large batches."""
    places = {"data_dir": data_dir, "run_dir": tmp_path / "run"}
    return {**places, "hidden_size": 4, "batch_size": 440, "epochs": 3, "devices": 1}


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_few_hundred_steps_of_the_tutorial_read_digits(dtype: str, data_dir: Path, tmp_path: Path) -> None:
    # The real model on the real images; a wrong label order, scale or row order stays near 10 %.
    options = {"data_dir": data_dir, "run_dir": tmp_path / "run", "dtype": dtype}
    result = train(Config.of(**options, steps=150, devices=1))
    assert result.summary is not None
    assert result.summary["test_accuracy"] > 0.8
    assert result.summary["parameter_count"] == 24_458
    assert result.history[-1]["train_loss"] < 0.8


def test_the_run_directory_tells_all(small: dict[str, Any]) -> None:
    listener = Listener()
    result = train(Config.of(**small), console=listener)
    run_dir = small["run_dir"]
    assert result.run_dir == run_dir
    assert {path.name for path in run_dir.iterdir()} == {
        ".lock", "checkpoints", "config.json", "metrics.jsonl", "summary.json", "tensorboard",
    }  # fmt: skip
    metrics = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    assert metrics == list(result.history) == listener.records
    assert [record["epoch"] for record in metrics] == [1, 2, 3]
    assert [record["step"] for record in metrics] == [5, 10, 15]
    for record in metrics:
        assert set(record) == {
            "epoch", "step", "train_loss", "validation_loss", "validation_accuracy", "test_loss",
            "test_accuracy", "train_seconds", "examples_per_second",
        }  # fmt: skip
        assert record["examples_per_second"] == pytest.approx(5 * 440 / record["train_seconds"])
        assert 0 < record["test_accuracy"] < 1
    assert metrics[2]["train_loss"] < metrics[0]["train_loss"] < 2.5
    summary = json.loads((run_dir / "summary.json").read_text())
    assert summary == result.summary
    best = max(metrics, key=lambda record: record["validation_accuracy"])
    assert summary["best_validation_test_accuracy"] == best["test_accuracy"]
    assert summary["test_accuracy"] == metrics[-1]["test_accuracy"]
    assert summary["parameters_sha256"] == digest(result.params) == digest(load_trained(run_dir).params)
    assert (summary["steps"], summary["epochs"], summary["device"]) == (15, 3, "1 x cpu")
    assert {"jax", "jaxlib", "flax", "optax"} <= set(summary["versions"])
    assert summary["wall_seconds"] > summary["train_seconds"] > 0
    assert listener.steps == 15

    # A finished run is not repeated.
    again = Listener()
    repeated = train(Config.of(**small), console=again)
    assert repeated.summary == summary
    assert again.steps == 0
    assert "This run is finished" in again.messages[-1]


def test_the_same_seed_is_the_same_run_and_another_is_not(small: dict[str, Any], tmp_path: Path) -> None:
    digests = [
        digest(train(Config.of(**{**small, "run_dir": tmp_path / name, "epochs": 1, "seed": seed})).params)
        for name, seed in [("a", 0), ("b", 0), ("c", 1)]
    ]
    assert digests[0] == digests[1] != digests[2]


@pytest.mark.parametrize(("kind", "number"), [("memory", signal.SIGTERM), ("stream", signal.SIGINT)])
def test_stopped_anywhere_it_goes_on_to_the_same_bits(
    small: dict[str, Any], tmp_path: Path, kind: str, number: signal.Signals
) -> None:
    options = {**small, "input": kind, "checkpoint_every": 2, "epochs": 2}
    whole = train(Config.of(**{**options, "run_dir": tmp_path / "whole"}))
    handlers = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    stops, result = 0, None
    while result is None or result.summary is None:
        listener = Listener(signal_after=3, number=number)
        result = train_until_told(Config.of(**options), listener)
        if result.summary is None:
            stops += 1
            assert result.stopped_by == number
            assert f"Stopped by {number.name}" in listener.messages[-1]
    assert stops >= 2
    assert digest(result.params) == digest(whole.params)
    assert state_digest(small["run_dir"]) == state_digest(tmp_path / "whole")
    assert figures_of(small["run_dir"]) == figures_of(tmp_path / "whole")
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == handlers


def test_stopped_before_the_first_step(small: dict[str, Any]) -> None:
    original = loop.Loop.compile

    def compile_and_signal(self: loop.Loop, state: Any) -> Any:
        os.kill(os.getpid(), signal.SIGTERM)
        return original(self, state)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(loop.Loop, "compile", compile_and_signal)
        result = train_until_told(Config.of(**small), Listener())
    assert result.stopped_by == signal.SIGTERM
    finished = train(Config.of(**small))
    assert finished.summary is not None


def test_off_the_main_thread_training_works_without_handlers(small: dict[str, Any]) -> None:
    results = []
    thread = threading.Thread(target=lambda: results.append(train(Config.of(**{**small, "epochs": 1}))))
    thread.start()
    thread.join()
    assert results[0].summary is not None


def test_memory_and_stream_agree(small: dict[str, Any], tmp_path: Path) -> None:
    # The same images in the same order; the programs differ, so float32 rounding may.
    results = [
        train(Config.of(**{**small, "run_dir": tmp_path / kind, "input": kind, "epochs": 1}))
        for kind in ("memory", "stream")
    ]
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5),
        *(result.params for result in results),
    )


def test_one_and_two_devices_agree_and_a_run_may_change_between(
    small: dict[str, Any], tmp_path: Path
) -> None:
    # 30 steps of Adam let differences of rounding grow; after a few steps they are still small.
    one = train(Config.of(**{**small, "run_dir": tmp_path / "one"}))
    two = train(Config.of(**{**small, "run_dir": tmp_path / "two", "devices": 2}))
    assert two.summary is not None
    assert two.summary["device"] == "2 x cpu"
    for a, b in zip(one.history, two.history, strict=True):
        assert a["train_loss"] == pytest.approx(b["train_loss"], rel=1e-5)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4), one.params, two.params)


def test_a_run_may_go_on_with_another_number_of_devices(
    small: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = {**small, "devices": None}  # all there are; the tests show two
    whole = train(Config.of(**{**options, "run_dir": tmp_path / "whole"}))
    assert train_until_told(Config.of(**options), Listener(signal_after=2)).stopped_by is not None
    real = devices.make_mesh
    monkeypatch.setattr(devices, "make_mesh", lambda **kwargs: real(**{**kwargs, "devices": 1}))
    listener = Listener()
    changed = train(Config.of(**options), console=listener)
    assert any("had 2 devices so far and now has 1" in message for message in listener.messages)
    for a, b in zip(whole.history, changed.history, strict=True):
        assert a["train_loss"] == pytest.approx(b["train_loss"], rel=1e-5)


def test_a_run_may_go_on_with_another_implementation(small: dict[str, Any], tmp_path: Path) -> None:
    whole = train(Config.of(**{**small, "run_dir": tmp_path / "whole", "implementation": "scan"}))
    for implementation, after in (("scan", 1), ("native", 1), ("fused", None)):
        listener = Listener(signal_after=after)
        result = train_until_told(Config.of(**small, implementation=implementation), listener)
        assert (result.stopped_by is None) == (after is None)
    assert any("computed by native so far and now by fused" in message for message in listener.messages)
    assert result.summary is not None
    assert result.summary["implementation"] == "fused"
    for a, b in zip(whole.history, result.history, strict=True):
        assert a["train_loss"] == pytest.approx(b["train_loss"], rel=1e-5)


def test_a_run_of_the_native_kernel_can_be_read_without_it(
    small: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    images = np.random.default_rng(0).integers(0, 256, (3, 28, 28), np.uint8)
    result = train(Config.of(**small, implementation="native"))
    with_kernel = load_trained(small["run_dir"]).probabilities(images)
    monkeypatch.setattr(choice, "why_not_available", lambda: "there is none today")
    trained = load_trained(small["run_dir"])
    assert digest(trained.params) == digest(result.params)
    # Of two images only: the program for three is compiled already.
    np.testing.assert_allclose(trained.probabilities(images[:2]), with_kernel[:2], rtol=1e-5, atol=1e-6)


def test_killed_before_its_summary_a_run_only_writes_that(small: dict[str, Any]) -> None:
    first = train(Config.of(**{**small, "epochs": 1}))
    (small["run_dir"] / "summary.json").unlink()
    listener = Listener()
    again = train(Config.of(**{**small, "epochs": 1}), console=listener)
    assert listener.steps == 0
    assert first.summary is not None
    assert again.summary is not None
    assert {**again.summary, "wall_seconds": 0} == {**first.summary, "wall_seconds": 0}


def test_a_finished_run_returns_its_own_parameters_or_none(small: dict[str, Any]) -> None:
    first = train(Config.of(**{**small, "epochs": 2}))
    assert digest(train(Config.of(**{**small, "epochs": 2})).params) == digest(first.params)
    newest = small["run_dir"] / "checkpoints" / "10"
    shutil.rmtree(newest / "state")
    listener = Listener()
    again = train(Config.of(**{**small, "epochs": 2}), console=listener)
    assert again.summary == first.summary
    assert again.params is None  # not those of epoch 1
    assert again.history == ()
    assert "no longer in its checkpoints" in listener.messages[-1]
    shutil.rmtree(small["run_dir"] / "checkpoints")
    assert train(Config.of(**{**small, "epochs": 2})).summary == first.summary


def test_a_loss_that_is_not_finite_stops_the_run_and_keeps_the_last_good_state(
    small: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    good = train_until_told(
        Config.of(**{**small, "epochs": 3, "checkpoint_every": 5}), console=Listener(signal_after=2)
    )
    assert good.stopped_by is not None
    before = state_digest(small["run_dir"])

    real = loop.compile_train_epoch

    def poisoned(*args: Any, **kwargs: Any) -> Any:
        epoch = real(*args, **kwargs)

        def run(state: Any, data: Any, start: Any, stop: Any, seed: Any) -> Any:
            broken = jax.tree.map(lambda leaf: leaf * np.float32("nan"), state.params)
            return epoch(state._replace(params=broken) if stop > start else state, data, start, stop, seed)

        return run

    monkeypatch.setattr(loop, "compile_train_epoch", poisoned)
    step = load_trained(small["run_dir"]).step
    with pytest.raises(NonFiniteLossError) as stopped:
        train(Config.of(**{**small, "epochs": 3, "checkpoint_every": 5}))
    told = str(stopped.value)
    assert f"not finite at step {step + 1}" in told
    assert f"the state of step {step} is kept" in told
    assert "--learning-rate" in told
    assert "\n" not in told
    assert state_digest(small["run_dir"]) == before


def test_a_learning_rate_that_is_too_large_ends_in_words(run: Run, tmp_path: Path) -> None:
    done = run(
        "train.py",
        "--run-dir",
        tmp_path / "run",
        "--learning-rate",
        "1e38",
        "--hidden-size",
        "4",
        "--steps",
        "20",
    )
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert "not finite" in done.stderr
    assert "--learning-rate" in done.stderr


def test_plans() -> None:
    assert Plan.of(Config(), 55_000) == Plan(429, 4290)  # as the tutorial: int(55,000 / 128) batches
    plan = Plan.of(Config.of(steps=1000), 55_000)
    assert plan.epochs == 3
    assert [plan.epoch_of(step) for step in (0, 428, 429, 999)] == [
        (0, 0, 429),
        (0, 428, 429),
        (1, 0, 429),
        (2, 141, 142),
    ]
    with pytest.raises(ConfigError, match="--batch-size: got 128, expected at most 100"):
        Plan.of(Config(), 100)


@pytest.mark.parametrize("kind", ["memory", "stream"])
def test_killed_at_random_moments_it_ends_in_the_same_bits(
    kind: str, tmp_path: Path, environment: dict[str, str]
) -> None:
    # The long version, with 20 kills: python -m tests.kill_and_resume
    if kind == "memory":  # as users compile: the other tests do without XLA's optimization
        environment = {name: value for name, value in environment.items() if name != "XLA_FLAGS"}
    cache = tmp_path / "cache"  # of their own: what was killed may have left half a program there
    shutil.copytree(os.environ["LSTM_JAX_CACHE_DIR"], cache, symlinks=True, copy_function=os.link)

    def start(command: Sequence[str]) -> Any:
        return programs.start(*command[1:], env={**environment, "LSTM_JAX_CACHE_DIR": str(cache)})

    options = ["--hidden-size", "8", "--steps", "60", "--checkpoint-every", "5", "--input", kind]
    assert start(train_command(tmp_path / "calm", options)).communicate()[1] == ""
    saved = kill_at_random_moments(
        tmp_path / "killed",
        options,
        kills=1,
        longest=0.2,
        rng=random.Random(kind),
        after_progress=1,
        start=start,
    )
    assert len(saved) == 1
    assert 0 < saved[0] < 60
    assert start(train_command(tmp_path / "killed", options)).communicate()[1] == ""
    assert state_digest(tmp_path / "killed") == state_digest(tmp_path / "calm")
    assert figures_of(tmp_path / "killed") == figures_of(tmp_path / "calm")
    assert not (tmp_path / "killed" / "damaged").exists()


WORKER = """
import json, sys
import jax
port, rank, run_dir, data_dir, runs, refused = sys.argv[1:]
jax.config.update("jax_num_cpu_devices", 1)
jax.distributed.initialize(f"127.0.0.1:{port}", 2, int(rank), coordinator_bind_address=f"127.0.0.1:{port}")
import os, signal, threading, time
from pathlib import Path
from lstm_jax import Config, train
from lstm_jax.errors import UserError
from lstm_jax.runs import checkpoint, loop, run_directory
from lstm_jax.runs.run_directory import RunDirectory
from lstm_jax.system.signals import Interrupted, StopSignals
places = {"data_dir": Path(data_dir), "run_dir": Path(run_dir)}
# What each process is given, of runs that cannot be.
for differing in json.loads(refused):
    try:
        train(Config.of(**{**places, "hidden_size": 4, "batch_size": 440, **differing[int(rank)]}))
    except UserError as refusal:
        print("refused:", refusal)
runs = json.loads(runs)
for name, options in runs.items():
    run = {**places, "run_dir": Path(run_dir, name)}
    result = train(Config.of(**run, hidden_size=4, batch_size=440, epochs=1, **options))
    print(name, result.history[-1]["train_loss"], result.summary["device"], sep=": ")
# The disk shows the second process for a time what was there some seconds ago; then for ever.
options = {**places, "run_dir": Path(run_dir, "seeds"), "hidden_size": 4, "batch_size": 440, **runs["seeds"]}
again = Config.of(**options, epochs=2)
steps, check, late = checkpoint._steps, checkpoint.checksums.check, [0, 0]
def steps_late(path):
    late[0] -= 1
    return steps(path) if late[0] < 0 else []
def check_late(path):
    late[1] -= 1
    return check(path if late[1] < 0 else path.parent / "not seen yet")
if rank == "1":
    checkpoint._steps, checkpoint.checksums.check = steps_late, check_late
for late[:] in ([99, 99], [99, 0]):
    checkpoint.LATE_SECONDS = 1
    try:
        train(again)
    except UserError as refusal:
        print("for ever:", refusal)
late[:], checkpoint.LATE_SECONDS = [2, 1], 3
result = train(again)
print("late:", json.dumps([[record["epoch"], record["train_loss"]] for record in result.history]))
# It is finished; the second process does not see that yet.
late[:] = [0, 0]
has_summary, read_summary = RunDirectory.has_summary, RunDirectory.read_summary
if rank == "1":
    RunDirectory.has_summary, RunDirectory.read_summary = False, lambda self: None
found = train(again).summary
other = [key for key in {**found, **result.summary} if found.get(key) != result.summary.get(key)]
print("finished:", sorted({*other, "train_seconds", "wall_seconds"}))  # each has clocks of its own
RunDirectory.has_summary, RunDirectory.read_summary = has_summary, read_summary
# The disk is full when the first one writes the metrics.
append = run_directory.append
def full(*args): raise OSError(28, "No space left on device")
if rank == "0":
    run_directory.append = full
try:
    train(Config.of(**{**places, "run_dir": Path(run_dir, "full")}, hidden_size=4, batch_size=440, steps=2))
except UserError as refusal:
    print("full:", refusal)
run_directory.append = append
# A signal for one of them while the data are loaded; then for one that has them and waits for the other.
load = loop.load_dataset
def signalled(*args, **kwargs):
    signal.raise_signal(signal.SIGTERM)
def slow(*args, **kwargs):
    if rank == "0":
        threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGINT)).start()
    else:
        time.sleep(2)
    return load(*args, **kwargs)
for loop.load_dataset in (signalled if rank == "1" else load, slow):
    late[0] = 1  # it would not see that nothing is saved yet
    try:
        with StopSignals() as stop:
            result = train(Config.of(**{**places, "run_dir": Path(run_dir, "signal")}), stop=stop)
        print("stopped:", result.stopped_by.name)
    except Interrupted as interrupt:
        print("interrupted:", interrupt.number.name)
jax.distributed.shutdown()
"""


# Options of the first process and of the second that cannot be one run, and what is said of them.
DIFFERENT: list[tuple[list[dict[str, Any]], str]] = [
    ([{"learning_rate": 0.01}, {"learning_rate": 0.02}], "--learning-rate: got 0.01 in process 0, 0.02 in"),
    ([{"seed": 0}, {"seed": 1}], "--seed: got 0 in process 0, 1 in process 1, expected the same in all"),
    ([{"epochs": 1}, {"epochs": 2}], "--epochs: got 1 in process 0, 2 in process 1"),
    ([{"patience": 1}, {}], "--patience: got 1 in process 0, None in process 1"),
    ([{}, {"checkpoint_every": 2}], "--checkpoint-every: got None in process 0, 2 in process 1"),
    ([{}, {"implementation": "fused"}], "--implementation: got auto in process 0, fused in process 1"),
    ([{}, {"run_dir": "elsewhere"}], "--run-dir: got "),
]


# Runs of two processes; starting them takes seconds, so these two train them all.
TOGETHER: dict[str, dict[str, Any]] = {"memory": {}, "stream": {"input": "stream"}, "seeds": {"seeds": 2}}


def test_two_processes_train_as_one(
    small: dict[str, Any], tmp_path: Path, environment: dict[str, str]
) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    # Nothing is different; but one finds no data, and then none may wait for it.
    no_data = [{}, {"data_dir": str(tmp_path / "none"), "archive_dir": str(tmp_path / "none")}]
    given = [*(options for options, _ in DIFFERENT), no_data]
    arguments = [str(tmp_path / "two"), str(small["data_dir"]), json.dumps(TOGETHER), json.dumps(given)]
    workers = [
        programs.start("-c", WORKER, str(port), str(rank), *arguments, env=environment) for rank in range(2)
    ]
    outputs, errors = zip(*(worker.communicate(timeout=240) for worker in workers), strict=True)
    assert [worker.returncode for worker in workers] == [0, 0], (outputs, errors)
    for rank, output in enumerate(outputs):
        lines = [line.removeprefix("refused: ") for line in output.splitlines() if "refused: " in line]
        for line, (_, told) in zip(lines, DIFFERENT, strict=False):
            assert line.startswith(told), output
        assert len(lines) == len(given)
        assert ("process 1 cannot go on" if rank == 0 else str(tmp_path / "none")) in lines[-1]
    assert not [*(tmp_path / "two").glob("checkpoints/[0-9]*")]  # what was refused has saved nothing
    for name, options in TOGETHER.items():
        one = train(Config.of(**{**small, "epochs": 1, "run_dir": tmp_path / name, **options}))
        for output in outputs:  # both processes know the same figures
            [told] = [line for line in output.splitlines() if line.startswith(f"{name}: ")]
            _, loss, device = told.split(": ")
            assert device == "2 x cpu"
            assert float(loss) == pytest.approx(one.history[-1]["train_loss"], rel=1e-5)
        run_dir = tmp_path / "two" / name
        assert len(figures_of(run_dir)) == (2 if name == "seeds" else 1)  # written by one of them only
        assert len(list((run_dir / "tensorboard").iterdir())) == (2 if name == "seeds" else 1)
    longer = train(Config.of(**{**small, "epochs": 2, "run_dir": tmp_path / "seeds", **TOGETHER["seeds"]}))
    for output in outputs:
        told: dict[str, list[str]] = {}
        for line in output.splitlines():
            what, _, words = line.partition(": ")
            told.setdefault(what, []).append(words)
        files, states = told["for ever"]
        assert re.search(r"process 0 finds a whole state .*, process 1 finds sha256.json is missing", files)
        assert re.search(r"process 0 finds the states of the steps \d+, process 1 finds no states", states)
        assert "name a --run-dir on a disk that all machines share" in files
        figures = [(each["epoch"], pytest.approx(each["train_loss"], rel=1e-5)) for each in longer.history]
        assert [tuple(each) for each in json.loads(told["late"][0])] == figures
        assert told["finished"] == ["['train_seconds', 'wall_seconds']"]
        assert "cannot be written (No space left on device); saved states are intact" in told["full"][0]
        assert (told["interrupted"], told["stopped"]) == (["SIGTERM"], ["SIGINT"])
    assert not (tmp_path / "two" / "seeds" / "damaged").exists()

"""Real processes on one machine that train as one: each may be killed, fail or be stopped, and none waits."""

import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from lstm_jax import train
from lstm_jax.cluster.watch import CRASHED, OF_ANOTHER, PROMISED_SECONDS, free_port
from lstm_jax.config import Config
from tests.helpers import programs
from tests.helpers.programs import Program
from tests.helpers.project import PROJECT
from tests.kill_and_resume import figures_of, kill_under_launcher, newest_step, state_digest

pytestmark = pytest.mark.slow

# Patient with a machine on which all else runs too; what is promised is counted from the event.
START_SECONDS = 240.0
# A run that goes on until it is stopped: what is saved comes from its first steps.
ENDLESS = ("--hidden-size", "4", "--batch-size", "440", "--epochs", "100000", "--checkpoint-every", "5")
HOST = socket.gethostname()

# A program that is `train.py`, except for what is done to it in one process.
TRAIN = """
import sys
from lstm_jax.commands import command_line, train
{change}
command_line.run(lambda: train.main(sys.argv[1:], prog="train.py"), prog="train.py", goes_on=True)
"""
DISK_IS_FULL = """
import shutil
from lstm_jax.runs import checkpoint
disk = {**vars(shutil), "disk_usage": lambda path: shutil._ntuple_diskusage(9, 9, 0)}
checkpoint.shutil = type("shutil", (), disk)
"""
EVALUATION_FAILS = """
from lstm_jax.runs import loop
def evaluate(*args, **kwargs): raise {error}
loop.Loop.evaluate = evaluate
"""


def started(
    words: Sequence[object],
    *,
    environment: Mapping[str, str],
    processes: int = 2,
    changes: Mapping[int, str] | None = None,
) -> list[Program]:
    """Start as many processes of one run; some of them changed by a piece of code."""
    address = f"127.0.0.1:{free_port()}"
    cluster = ["--coordinator-address", address, "--num-processes", processes, "--process-id"]
    return [
        programs.start("-c", TRAIN.format(change=changes[number]), *cluster, number, *words, env=environment)
        if changes and number in changes
        else programs.start("train.py", *cluster, number, *words, env=environment)
        for number in range(processes)
    ]


def wait_for_state(run_dir: Path, running: Sequence[Program], *, after: int = 0) -> None:
    deadline = time.monotonic() + START_SECONDS
    while newest_step(run_dir) <= after:
        assert all(program.poll() is None for program in running), [
            program.communicate() for program in running
        ]
        assert time.monotonic() < deadline
        time.sleep(0.02)


def ends_in_time(running: Sequence[Program]) -> list[tuple[int | None, str]]:
    """The exit code and the errors of each; they end within what is promised, from now on."""
    began = time.monotonic()
    found = []
    for program in running:
        _, errors = program.communicate(timeout=PROMISED_SECONDS + began - time.monotonic())
        lines = [line for line in errors.splitlines(keepends=True) if not line.startswith("[Gloo]")]
        found.append((program.returncode, "".join(lines)))
    return found


def test_killed_and_stopped_in_turns_it_goes_on_to_the_same_bits(
    tmp_path: Path, data_dir: Path, environment: dict[str, str]
) -> None:
    run_dir = tmp_path / "run"
    words = (*ENDLESS, "--run-dir", run_dir)
    for killed in (1, 0):
        before = newest_step(run_dir) if run_dir.exists() else 0
        running = started(words, environment=environment)
        wait_for_state(run_dir, running, after=before)
        running[killed].kill()
        found = ends_in_time(running)
        assert found[killed] == (-signal.SIGKILL, "")
        code, told = found[1 - killed]
        assert (code, told.count("\n")) == (OF_ANOTHER, 1), told
        assert f"process {killed} on {HOST} has ended without a word (killed, out of memory" in told
        assert "the same command goes on from what is saved" in told
    before = newest_step(run_dir)
    running = started(words, environment=environment)
    wait_for_state(run_dir, running, after=before)
    running[1].send_signal(signal.SIGTERM)
    assert [code for code, _ in ends_in_time(running)] == [128 + signal.SIGTERM] * 2
    # As many devices in one process compute the same bits.
    steps = newest_step(run_dir) + 3
    length = {"epochs": 10, "steps": steps, "hidden_size": 4, "batch_size": 440}
    for path in (run_dir, tmp_path / "calm"):
        # Continued, a run keeps the options that it was started with, but for its length. The calm one, which
        # saves nothing on the way, computes the same.
        every = {"checkpoint_every": 5} if path == run_dir else {}
        options = {"data_dir": data_dir, "run_dir": path, **every, **length}
        assert train(Config.of(**options)).summary is not None
    assert state_digest(run_dir) == state_digest(tmp_path / "calm")
    assert figures_of(run_dir) == figures_of(tmp_path / "calm")


@pytest.mark.parametrize(
    ("process", "change", "code", "words", "other_code"),
    [
        (0, DISK_IS_FULL, 1, "o space left on device", 1),
        (
            1,
            EVALUATION_FAILS.format(error='RuntimeError("of process 1")'),
            CRASHED,
            "of process 1",
            OF_ANOTHER,
        ),
        (
            0,
            EVALUATION_FAILS.format(error='MemoryError("too much")'),
            1,
            "out of memory (too much)",
            OF_ANOTHER,
        ),
    ],
    ids=["disk full on the leader", "exception", "out of memory"],
)
def test_an_error_in_one_ends_all_with_its_words(
    process: int,
    change: str,
    code: int,
    words: str,
    other_code: int,
    tmp_path: Path,
    environment: dict[str, str],
    request: pytest.FixtureRequest,
) -> None:
    if "MemoryError" in change and not request.config.getoption("--all"):
        pytest.skip("two more processes take long to start; --all starts them")
    options = ("--hidden-size", "4", "--batch-size", "440", "--steps", "3", "--run-dir", tmp_path / "run")
    running = started(options, environment=environment, changes={process: change})
    while all(program.poll() is None for program in running):
        time.sleep(0.02)
    ends = ends_in_time(running)
    found, told = ends[process]
    assert found == code
    assert words in told
    found, told = ends[1 - process]
    assert (found, told.count("\n")) == (other_code, 1), told
    assert words in told
    assert f"process {process} " in told


def test_options_that_differ_are_named_before_anything_is_written(
    tmp_path: Path, environment: dict[str, str]
) -> None:
    change = 'sys.argv += ["--checkpoint-every", "7"]'
    running = started(
        (*ENDLESS[:-2], "--run-dir", tmp_path / "run"), environment=environment, changes={1: change}
    )
    while all(program.poll() is None for program in running):
        time.sleep(0.02)
    for code, told in ends_in_time(running):
        assert (code, told.count("\n")) == (1, 1), told
        assert "--checkpoint-every: got None in process 0, 7 in process 1" in told
    assert not (tmp_path / "run").exists()


def test_a_process_that_never_starts_is_named_in_time(tmp_path: Path, environment: dict[str, str]) -> None:
    words = ("--initialization-timeout", "2", "--run-dir", tmp_path / "run")
    first, second = started(words, environment=environment)
    second.kill()
    second.communicate()
    _, told = first.communicate(timeout=START_SECONDS)
    assert (first.returncode, told.count("\n")) == (1, 1), told
    assert f"process 0 on {HOST} has waited 2 s for process 1 of 2 in vain" in told


def test_of_four_one_is_killed(
    tmp_path: Path, environment: dict[str, str], request: pytest.FixtureRequest
) -> None:
    if not request.config.getoption("--all"):
        pytest.skip("four processes take long to start; --all starts them")
    running = started((*ENDLESS, "--run-dir", tmp_path / "run"), environment=environment, processes=4)
    wait_for_state(tmp_path / "run", running)
    running[2].kill()
    _, _, killed, _ = found = ends_in_time(running)
    found.remove(killed)
    for code, told in found:
        assert (code, told.count("\n")) == (OF_ANOTHER, 1), told
        assert f"process 2 on {HOST} has ended without a word" in told


def launched(*words: object, environment: Mapping[str, str], restarts: int = 0) -> subprocess.Popen[str]:
    launch = ["launch", "--processes", "2", "--restarts", str(restarts), "--", "train"]
    return subprocess.Popen(
        [sys.executable, "-m", "lstm_jax", *launch, *map(str, words)],
        cwd=PROJECT,
        env=dict(environment),
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def test_the_launcher_starts_all_again_and_stops_cleanly(
    tmp_path: Path, data_dir: Path, environment: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    options = ["--hidden-size", "4", "--batch-size", "440", "--steps", "60", "--checkpoint-every", "3"]
    run_dir = tmp_path / "run"
    saved = kill_under_launcher(
        run_dir, options, processes=2, kills=1, longest=0.1, rng=random.Random(0), after_progress=1
    )
    assert 0 < saved[0] < 60
    calm = {"hidden_size": 4, "batch_size": 440, "steps": 60, "checkpoint_every": 3}
    assert train(Config.of(data_dir=data_dir, run_dir=tmp_path / "calm", **calm)).summary is not None
    assert state_digest(run_dir) == state_digest(tmp_path / "calm")
    assert figures_of(run_dir) == figures_of(tmp_path / "calm")


def test_the_launcher_passes_ctrl_c_on_and_the_same_command_goes_on(
    tmp_path: Path, environment: dict[str, str]
) -> None:
    run_dir = tmp_path / "run"
    with launched(*ENDLESS, "--run-dir", run_dir, environment=environment) as launcher:
        deadline = time.monotonic() + START_SECONDS
        while not newest_step(run_dir):
            assert launcher.poll() is None, launcher.communicate()
            assert time.monotonic() < deadline
            time.sleep(0.02)
        launcher.send_signal(signal.SIGINT)
        output, errors = launcher.communicate(timeout=PROMISED_SECONDS)
    assert launcher.returncode == 128 + signal.SIGINT
    assert f"is saved in {run_dir}. The same command continues this run." in output
    assert errors == ""
    assert "[Gloo]" not in output


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ((), "-- train ...: got nothing after --, expected train"),
        (("--", "evaluate"), "-- train ...: got 'evaluate' after --, expected train"),
        (
            ("--", "train", "--process-id", "0"),
            "--process-id: got it after --, expected none: launch numbers",
        ),
        (("--", "train", "--hiden-size", "3"), "launch -- train: error: Unrecognized options: --hiden-size"),
    ],
)
def test_the_launcher_refuses_mistakes_before_it_starts_anything(
    words: Sequence[str], told: str, environment: dict[str, str]
) -> None:
    done = programs.run("-m", "lstm_jax", "launch", "--processes", "2", *words, env=environment)
    assert (done.returncode, done.stderr.count("\n"), done.stdout) == (2, 1, "")
    assert told in done.stderr

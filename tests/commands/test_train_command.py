"""``train.py`` as a user meets it: options, mistakes, messages, exit codes."""

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from lstm_jax.commands import command_line
from lstm_jax.config import RECIPES, Config, recipe_config
from lstm_jax.errors import DataError
from lstm_jax.options import flag, options_of
from tests.helpers import programs
from tests.helpers.project import PROJECT, Run

pytestmark = pytest.mark.slow


def test_help_names_and_explains_every_option(run: Run) -> None:
    done = run("train.py", "--help")
    assert done.returncode == 0
    text = " ".join(done.stdout.replace("│", " ").split())
    for field in options_of(Config):
        # An option is followed by a sentence about it and by its default.
        assert re.search(rf" {flag(field.name)}[ ,][^.]*[A-Z'][^()]+", text), field.name
    assert text.count("(default: ") >= len(options_of(Config))
    for name, recipe in RECIPES.items():
        assert f"{name}: {recipe.purpose}" in text


def test_reading_options_does_not_import_jax(run_afresh: Run) -> None:
    # --help and a typing mistake are answered at once; importing JAX takes most of a second.
    code = """
import sys
from lstm_jax.commands import train
train.read_config([])
print(sorted({"jax", "flax", "numpy"} & set(sys.modules)))
import lstm_jax.__main__
print(sorted({"jax", "flax"} & set(sys.modules)))
"""
    assert run_afresh("-c", code).stdout == "[]\n[]\n"


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["--hiden-size", "3"], ["--hiden-size", "Perhaps you meant", "--hidden-size"]),
        (["--hidden-size", "many"], ["--hidden-size: got 'many', expected a whole number"]),
        (["--hidden-size", "0"], ["error: --hidden-size: got 0, expected", "from 1 to 65536"]),
        (["--hidden-size"], ["--hidden-size", "Missing value"]),
        (["--dataset", "cifar"], ["--dataset", "'cifar'", "'mnist', 'fashion_mnist', 'kmnist'"]),
        (["--recipe", "quick"], ["--recipe", "'quick'", "'tutorial'"]),
        (["--recipe"], ["--recipe", "Missing value"]),
        (["--forget-bias", "slow"], ["--forget-bias: got 'slow', expected a number, or 'chrono' ("]),
        (
            ["--task", "permuted", "--permutation-seed", "x"],
            ["--permutation-seed: got 'x', expected a whole number, or 'bit-reversal' ("],
        ),
        (
            ["--recipe", "fast", "--schedule", "constant", "--final-learning-rate-share", "0.5"],
            ["error: --final-learning-rate-share: got 0.5 with --schedule constant"],
        ),
        (["--learning-rate", "nan"], ["--learning-rate", "got nan", "above 0"]),
        (["--epochs", "1", "--steps", "2"], ["--epochs", "--steps", "not allowed together"]),
        (["--recipe", "fast", "--epochs", "1", "--steps", "2"], ["--epochs", "not allowed together"]),
        (["--batch-size", "10", "--devices", "4"], ["error: --devices: got 4", "divides"]),
        (["--run-dir="], ["--run-dir: got an empty value"]),
        (["--run-dir", ""], ["got an empty value"]),
        (["--learning-rate", "fast"], ["--learning-rate: got 'fast', expected a number"]),
        (["mnist"], ["Unrecognized options: mnist"]),
    ],
)
def test_mistakes_are_told_in_one_line(
    args: list[str], words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    from lstm_jax.commands import train

    with pytest.raises(SystemExit) as stop:
        train.read_config(args)
    assert stop.value.code == command_line.USAGE_EXIT_CODE
    told = capsys.readouterr().err
    assert told.count("\n") == 1
    assert told.startswith("train.py: error: ")
    for word in words:
        assert word in told


@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
def test_a_mistake_is_one_line_in_any_encoding(encoding: str, environment: dict[str, str]) -> None:
    # tyro draws its boxes with other characters where the output cannot show the usual ones.
    variables = {**environment, "PYTHONIOENCODING": encoding}
    done = programs.run_afresh("train.py", "--hidden-size", "many", env=variables)
    told = "--hidden-size: got 'many', expected a whole number"
    assert done.stderr == f"train.py: error: {told} (train.py --help lists the options)\n"


@pytest.mark.parametrize(
    ("args", "given"),
    [
        (["--bidirectional", "true"], ("--bidirectional", "true")),
        (["--epochs", "1", "--bidirectional=False"], ("--bidirectional", "False")),
        (["--no-bidirectional", "1", "--steps", "1"], ("--no-bidirectional", "1")),
    ],
)
def test_a_switch_that_is_given_a_value(
    args: list[str], given: tuple[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    from lstm_jax.commands import train

    with pytest.raises(SystemExit, match="2"):
        train.read_config(args)
    option, value = given
    told = "expected no value: --bidirectional switches it on, --no-bidirectional off"
    expected = f"train.py: error: {option}: got '{value}', {told} (train.py --help lists the options)\n"
    assert capsys.readouterr().err == expected


def test_options_override_the_recipe() -> None:
    from lstm_jax.commands import train

    config = train.read_config(
        ["--recipe", "tutorial", "--hidden-size", "32", "--bidirectional", "--steps", "9"]
    )
    assert config == Config.of(hidden_size=32, bidirectional=True, steps=9)
    assert train.read_config(["--recipe=tutorial", "--no-bidirectional"]) == Config()
    both_ways = ["--recipe", "accurate", "--no-train-on-all", "--steps", "9", "--schedule", "cosine"]
    expected = recipe_config("accurate", train_on_all=False, steps=9, schedule="cosine")
    assert train.read_config(both_ways) == expected
    assert train.read_config(["--recipe", "pixels", "--forget-bias", "2"]).model.forget_bias == 2.0
    assert train.read_config(["--recipe", "accurate", "--clip-norm", "None"]).optimizer.clip_norm is None
    for epochs in (["--epochs", "10"], ["--epochs=10"]):  # the default, but given
        assert train.read_config(["--recipe", "fast", *epochs]) == recipe_config("fast", epochs=10)
    permuted = ["--recipe", "permuted", "--permutation-seed", "bit-reversal"]
    assert train.read_config(permuted).model.permutation_seed == "bit-reversal"
    assert train.read_config(["--recipe", "permuted"]).model.permutation_seed == 92916


def test_a_run_prints_a_line_per_epoch_and_is_not_repeated(run: Run, tmp_path: Path) -> None:
    args = ["train.py", "--run-dir", tmp_path / "run", "--hidden-size", "4", "--steps", "20"]
    done = run(*args)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    epochs = [line for line in done.stdout.splitlines() if line.startswith("epoch")]
    assert len(epochs) == 2  # 17 steps and 3
    for line in epochs:
        assert re.fullmatch(
            r"epoch \d/2  loss \d\.\d{4}  validation \d+\.\d\d%  test \d+\.\d\d%  \d+\.\d s  [\d,]+ images/s",
            line,
        )
        assert len(line) <= 80
    assert "\x1b" not in done.stdout  # no progress bar where nobody sees it
    assert re.search(r"Execution time \d+\.\d s", done.stdout)
    assert f"Run directory: {tmp_path / 'run'}" in done.stdout
    metrics = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [record["step"] for record in metrics] == [17, 20]

    again = run(*args)
    assert again.returncode == 0
    assert "This run is finished" in again.stdout
    assert "epoch 1" not in again.stdout
    assert re.search(r"Test accuracy \d+\.\d\d%", again.stdout)

    other = run(*args, "--learning-rate", "0.02", "--seed", "3")
    assert other.returncode == 1
    assert other.stderr.count("\n") == 1
    assert "--learning-rate 0.01 there, 0.02 now" in other.stderr
    assert "--seed 0 there, 3 now" in other.stderr


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_saves_and_the_same_command_continues(
    sent: signal.Signals, environment: dict[str, str], run: Run, tmp_path: Path
) -> None:
    args = ["train.py", "--run-dir", tmp_path / "run", "--hidden-size", "64", "--epochs", "6"]
    process = programs.start(*args, env=environment)
    process.wait_for("epoch 1/6")
    process.send_signal(sent)
    output, errors = process.communicate(timeout=60)
    assert process.returncode == 128 + sent, errors
    assert errors == ""
    told = re.search(
        rf"Stopped by {sent.name}; step (\d+) of 102 is saved in .*; *", output.replace(". ", "; ")
    )
    assert told
    assert "The same command continues this run." in output
    saved = int(told[1])
    assert (tmp_path / "run" / "checkpoints" / str(saved)).is_dir()

    continued = run(*args)
    assert continued.returncode == 0, continued.stderr
    assert f"Continuing after step {saved}" in continued.stdout
    assert "Test accuracy" in continued.stdout


def listens(process: subprocess.Popen[str]) -> bool:
    """Whether a program has a handler for SIGTERM (Linux says so; elsewhere it has had the time)."""
    try:
        status = Path(f"/proc/{process.pid}/status").read_text()
    except OSError:
        time.sleep(1)
        return True
    caught = re.search(r"^SigCgt:\s*(\w+)$", status, re.MULTILINE)
    return caught is not None and bool(int(caught[1], 16) >> (signal.SIGTERM - 1) & 1)


@pytest.mark.parametrize(
    ("sent", "delay"),
    [(signal.SIGINT, 0.0), (signal.SIGTERM, 0.5), (signal.SIGINT, 1.0)],
)
def test_a_signal_while_starting_is_heard(
    sent: signal.Signals, delay: float, environment: dict[str, str], tmp_path: Path
) -> None:
    # While JAX is imported, an exception would get lost in one of its callbacks, or crash the process.
    command = [sys.executable, str(PROJECT / "train.py"), "--run-dir", str(tmp_path / "run")]
    process = subprocess.Popen(
        command, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    deadline = time.monotonic() + 60
    while not listens(process) and time.monotonic() < deadline:
        time.sleep(0.005)
    time.sleep(delay)
    process.send_signal(sent)
    output, errors = process.communicate(timeout=60)
    assert process.returncode == 128 + sent, errors
    assert "Traceback" not in errors + output
    assert f"topped by {sent.name}" in errors + output
    assert "same command" in errors + output


def test_a_progress_bar_shows_on_a_terminal(environment: dict[str, str], tmp_path: Path) -> None:
    import pty  # there is none on Windows

    args = ["--run-dir", str(tmp_path / "run"), "--hidden-size", "4", "--steps", "20"]
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, str(PROJECT / "train.py"), *args],
        env={**environment, "TERM": "xterm"},
        stdout=theirs,
        stderr=theirs,
        stdin=theirs,
    )
    os.close(theirs)
    shown = b""
    with contextlib.suppress(OSError):  # Linux ends a terminal without readers with an error
        while chunk := os.read(ours, 65536):
            shown += chunk
    os.close(ours)
    assert process.wait(timeout=60) == 0
    assert b"17/17" in shown
    assert "━".encode() in shown
    # The bar makes way for the epoch's line.
    assert re.search(rb"\x1b\[2Kepoch 1/2  loss", shown)


def test_other_folders_and_files_are_told_in_one_line(run: Run, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    for args, words in [
        (["--run-dir", tmp_path / "file" / "run"], ["file/run", "cannot write here", "--run-dir"]),
        (["--run-dir", tmp_path / "a", "--archive-dir", tmp_path / "none"], ["none"]),
        (["--run-dir", tmp_path / "b", "--data-dir", tmp_path / "file"], ["file", "--data-dir"]),
        (
            ["--run-dir", tmp_path / "c", "--batch-size", "60000"],
            ["--batch-size", "got 60000", "at most 2200"],
        ),
    ]:
        done = run("train.py", *args)
        assert done.returncode == 1, done
        assert done.stderr.count("\n") == 1, done.stderr
        assert done.stderr.startswith("train.py: error: ")
        for word in words:
            assert word in done.stderr


def test_run_tells_errors_and_keeps_tracebacks_of_bugs(capsys: pytest.CaptureFixture[str]) -> None:
    def fails(error: BaseException) -> None:
        raise error

    for error, told in [
        (DataError("no data"), "prog: error: no data\n"),
        (
            OSError(28, "No space left on device", "metrics.jsonl"),
            "prog: error: metrics.jsonl: No space left on device\n",
        ),
    ]:
        with pytest.raises(SystemExit) as stop:
            command_line.run(lambda error=error: fails(error), prog="prog")
        assert stop.value.code == 1
        assert capsys.readouterr().err == told
    with pytest.raises(ZeroDivisionError):
        command_line.run(lambda: fails(ZeroDivisionError()), prog="prog")

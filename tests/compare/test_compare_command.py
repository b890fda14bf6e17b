"""The command ``compare``: its options, its folder, and Ctrl-C."""

import dataclasses
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock
from lstm_jax.compare.options import Compare

from lstm_jax.compare import command
from lstm_jax.compare.frameworks import FRAMEWORKS
from lstm_jax.compare.results import read_results
from lstm_jax.config import recipe_config
from lstm_jax.errors import ConfigError, ResultsError
from tests.helpers.project import PROJECT


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"frameworks": "pytorh"}, "--frameworks: got 'pytorh' (did you mean pytorch?), expected some of"),
        ({"frameworks": "pytorch,"}, "--frameworks: got '', expected some of"),
        ({"hidden_size": 0}, "--hidden-size: got 0, expected a whole number from 1 to"),
        ({"epochs": -1}, "--epochs: got -1, expected a whole number from 0 to"),
        ({"threads": 10**6}, "--threads: got 1000000, expected a whole number from 1 to"),
    ],
)
def test_impossible_options_are_refused(options: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigError) as refusal:
        Compare(**options)
    assert told in str(refusal.value)


def test_the_order_of_names_is_that_of_the_tables() -> None:
    assert Compare(frameworks="pytorch,equinox,pytorch").names() == ("equinox", "pytorch")
    assert Compare().names() == tuple(FRAMEWORKS)


def test_the_command_asks_for_the_same() -> None:
    from lstm_jax.commands.command_line import parse

    options = Compare(frameworks="flax-rnn", hidden_size=5, quick=True, scaling=False, threads=1)
    words = options.command().split()
    assert words[:4] == ["python", "-m", "lstm_jax", "compare"]
    # The batch size is written out: a recipe may have another one some day.
    assert parse(Compare, words[4:], prog="compare") == dataclasses.replace(options, batch_size=128)
    fast = Compare(recipe="fast")
    assert fast.size().batch == recipe_config("fast").batch_size == 32
    assert "--batch-size 32" in fast.command()


def test_the_whole_command(run: Callable[..., Any], tmp_path: Path) -> None:
    # One of our own: the others need not be installed where this runs. A single round, on next to nothing.
    options = "--quick --frameworks lstm_jax-scan --hidden-size 2 --batch-size 2 --time-steps 2 --repeats 1"
    done = run("-m", "lstm_jax", "compare", *options.split(), "--output", tmp_path / "new" / "folder")
    assert done.returncode == 0, done.stderr
    assert "lstm_jax-scan starts" in done.stderr
    assert "| lstm_jax-scan |" in done.stdout
    found = read_results(tmp_path / "new" / "folder" / "results.json")
    assert found.frameworks["lstm_jax-scan"].agrees
    assert found.frameworks["lstm_jax-scan"].speed is not None
    assert "<table" in (tmp_path / "new" / "folder" / "report.html").read_text()


def stopped(
    options: str,
    folder: Path,
    *,
    at: str,
    environment: dict[str, str],
    seconds: float = 0,
    patience: float = 120,
) -> str:
    """What a comparison says that gets Ctrl-C so many seconds after a line; it must end as it should."""
    words = [sys.executable, "-m", "lstm_jax", "compare", *options.split(), "--output", str(folder)]
    with subprocess.Popen(
        words, cwd=PROJECT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as program:
        assert program.stderr is not None
        for line in program.stderr:
            if at in line:
                break
        time.sleep(seconds)
        program.send_signal(signal.SIGINT)
        # Which waits for all that have its pipes: no one is left.
        output, rest = program.communicate(timeout=patience)
    assert program.returncode == 130
    assert rest.endswith("python -m lstm_jax: stopped by SIGINT\n")
    assert "Traceback" not in rest
    return output


def test_ctrl_c_keeps_what_is_known(environment: dict[str, str], tmp_path: Path) -> None:
    options = "--frameworks lstm_jax-scan --hidden-size 2 --batch-size 2 --time-steps 28 --repeats 2"
    output = stopped(options, tmp_path, at="round 1 of 2", environment=environment)
    assert "Stopped before its end" in output
    found = read_results(tmp_path / "results.json")
    assert found.frameworks["lstm_jax-scan"].agrees
    assert found.frameworks["lstm_jax-scan"].speed is None


def test_ctrl_c_while_several_get_ready(environment: dict[str, str], tmp_path: Path) -> None:
    options = "--quick --frameworks lstm_jax-scan,flax-scan,flax-rnn"
    # A second later, in the middle of building a model.
    stopped(options, tmp_path, at="starts, and computes", environment=environment, seconds=1, patience=60)
    assert not (tmp_path / "results.json").exists()


def test_an_impossible_earlier_comparison(run: Callable[..., Any], tmp_path: Path) -> None:
    refused = run("-m", "lstm_jax", "compare", "--against", tmp_path / "nothing.json")
    assert refused.returncode == 1
    assert refused.stderr.count("\n") == 1
    assert "nothing.json: cannot be read" in refused.stderr


def test_a_file_that_is_none_is_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / "results.json").write_text("{}")
    with pytest.raises(ResultsError, match=r"results\.json: got format None, expected 1"):
        command.run(Compare(output=tmp_path))
    assert (tmp_path / "results.json").read_text() == "{}"


def test_the_same_command_reports_again(run: Callable[..., Any], tmp_path: Path) -> None:
    options = "--quick --frameworks lstm_jax-scan --hidden-size 2 --batch-size 2 --time-steps 2 --repeats 1"
    words = ("-m", "lstm_jax", "compare", *options.split(), "--output", tmp_path)
    first, second = run(*words), run(*words)
    assert (first.returncode, second.returncode) == (0, 0), first.stderr + second.stderr
    assert first.stdout == second.stdout
    assert "lstm_jax-scan starts" in first.stderr
    assert "lstm_jax-scan starts" not in second.stderr
    assert "no sizes and runs are left to measure" in second.stderr

    file = tmp_path / "results.json"
    third = run(*words, "--against", file)
    assert third.returncode == 1
    assert f"--against: {file} is the very comparison that would go on" in third.stderr

    with FileLock(tmp_path / ".lock"):
        fourth = run(*words)
    assert fourth.returncode == 1
    assert f"--output: another comparison is running in {tmp_path}" in fourth.stderr

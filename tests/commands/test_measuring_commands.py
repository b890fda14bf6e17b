"""The commands ``compare`` and ``benchmark``: their options, and each once as a user runs it."""

import dataclasses
import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from lstm_jax.commands.benchmark import Benchmark
from lstm_jax.commands.command_line import parse
from lstm_jax.commands.compare import Compare
from lstm_jax.compare.frameworks import FRAMEWORKS, UNROLLED, Framework
from lstm_jax.compare.size import Size, forward_flop, train_flop
from lstm_jax.config import recipe_config
from lstm_jax.errors import ConfigError
from tests.helpers import programs
from tests.helpers.project import PROJECT, Run

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(
    ("kind", "options", "told"),
    [
        (
            Compare,
            {"frameworks": "pytorh"},
            "--frameworks: got 'pytorh' (did you mean pytorch?), expected",
        ),
        (Compare, {"frameworks": "pytorch,"}, "--frameworks: got '', expected some of"),
        (Compare, {"hidden_size": 0}, "--hidden-size: got 0, expected a whole number from 1 to"),
        (Compare, {"epochs": -1}, "--epochs: got -1, expected a whole number from 0 to"),
        (Compare, {"threads": 10**6}, "--threads: got 1000000, expected a whole number from 1 to"),
        (Benchmark, {"hidden_size": "32,x"}, "--hidden-size: got '32,x', expected different whole numbers"),
        (Benchmark, {"batch_size": "0"}, "--batch-size: got '0'"),
        (Benchmark, {"time_steps": "28,28"}, "--time-steps: got '28,28', expected different"),
        (Benchmark, {"inputs": 0}, "--inputs: got 0, expected a whole number from 1 to"),
        (Benchmark, {"seconds": float("nan")}, "--seconds: got nan, expected more than 0"),
        (Benchmark, {"devices": 3}, "--batch-size: got 128, expected multiples of 3"),
        (
            Benchmark,
            {"implementations": "flax,keras"},
            "--implementations: got 'keras', expected some of",
        ),
    ],
)
def test_impossible_options_are_refused(kind: Any, options: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigError) as refusal:
        kind(**options)
    assert told in str(refusal.value)


def test_the_order_of_names_and_sizes_is_that_of_the_tables() -> None:
    assert Compare(frameworks="pytorch,equinox,pytorch").names() == ("equinox", "pytorch")
    assert Compare().names() == tuple(FRAMEWORKS)
    options = Benchmark(hidden_size="8,4", batch_size="2,6", implementations="native,scan,flax")
    assert [(size.hidden, size.batch) for size in options.sizes()] == [(8, 2), (4, 2), (8, 6), (4, 6)]
    assert options.names() == ("flax", "scan", "native")


def test_the_command_asks_for_the_same() -> None:
    options = Compare(frameworks="flax-rnn", hidden_size=5, quick=True, scaling=False, threads=1)
    words = options.command().split()
    assert words[:4] == ["python", "-m", "lstm_jax", "compare"]
    # The batch size is written out: a recipe may have another one some day.
    assert parse(Compare, words[4:], prog="compare") == dataclasses.replace(options, batch_size=128)
    assert Compare(recipe="fast").size().batch == recipe_config("fast").batch_size == 32
    benchmark = Benchmark(hidden_size="8,4", seconds=0.5)
    assert parse(Benchmark, benchmark.command().split()[4:], prog="benchmark") == benchmark


def test_what_is_left_out_is_told() -> None:
    missing = Framework("", "nowhere:Nothing", ("", ""), {"no_such_package": "no-such-pip-name"})
    assert missing.why_not(time=28) == "not installed: pip install no-such-pip-name"
    assert UNROLLED.why_not(time=28) is None
    assert "112 time steps" in (UNROLLED.why_not(time=784) or "")
    left_out = {"lstm_jax-nnx", "lstm_jax-equinox", "lstm_jax-predictor", "lstm_jax-unrolled"}
    left_out |= {"flax-rnn", "pytorch-compile"}
    assert Compare(quick=True).names() == tuple(name for name in FRAMEWORKS if name not in left_out)
    assert Compare(quick=True, frameworks="flax-rnn").names() == ("flax-rnn",)


def test_the_arithmetic_is_that_of_the_products() -> None:
    size = hidden, batch, time, inputs = Size(hidden=4, batch=6, time=3, inputs=2)
    # Of each step (rows, inner, columns); backward: the kernel of x, that of h, and h of the step before.
    forward = [(batch, inputs, 4 * hidden), (batch, hidden, 4 * hidden)]
    backward = [(inputs, batch, 4 * hidden), (hidden, batch, 4 * hidden), (batch, 4 * hidden, hidden)]
    assert forward_flop(size) == time * sum(2 * n * k * m for n, k, m in forward)
    assert train_flop(size) == time * sum(2 * n * k * m for n, k, m in forward + backward)


def test_help_does_not_wait_for_jax(run_afresh: Run) -> None:
    code = """
import sys
from lstm_jax.__main__ import COMMANDS
print(sorted({"jax", "matplotlib", "numpy", "rich", "scipy", "torch"} & set(sys.modules)), *COMMANDS)
"""
    done = run_afresh("-c", code)
    assert done.stdout.startswith("[] "), done.stderr


def test_compare_is_stopped_and_goes_on(environment: dict[str, str], tmp_path: Path) -> None:
    """Ctrl-C in the midst of the rounds; the same command then measures, and a third time reports again."""
    options = "--quick --frameworks flax-scan --hidden-size 2 --batch-size 2 --time-steps 2 --repeats 1"
    words = [sys.executable, "-m", "lstm_jax", "compare", *options.split(), "--output", str(tmp_path)]
    with subprocess.Popen(
        words, text=True, cwd=PROJECT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as program:
        assert next(line for line in program.stderr if "gets ready" in line)
        program.send_signal(signal.SIGINT)
        output, errors = program.communicate(timeout=120)  # which waits for all that have its pipes
    assert program.returncode == 130, errors
    assert errors.endswith("python -m lstm_jax: stopped by SIGINT\n")
    assert "Traceback" not in errors
    assert output == "Nothing is measured yet.\n"
    second, third = (programs.run_afresh(*words[1:], env=environment) for _ in range(2))
    assert (second.returncode, third.returncode) == (0, 0), second.stderr + third.stderr
    assert "goes on; --overwrite starts again" in second.stderr
    assert "flax-scan gets ready" in second.stderr
    assert "flax-scan gets ready" not in third.stderr
    assert second.stdout == third.stdout
    assert "| flax-scan |" in second.stdout
    found = json.loads((tmp_path / "results.json").read_text())["points"]["main"]["rows"]["flax-scan"]
    assert len(found["seconds"]["train"]) == 1
    assert found["parity"]["why_different"] is None
    assert "<table" in (tmp_path / "report.html").read_text()


def test_benchmark_on_two_devices(run: Run, tmp_path: Path) -> None:
    sizes = ["--hidden-size", "4", "--batch-size", "4", "--time-steps", "3", "--inputs", "2"]
    short = ["--rounds", "1", "--seconds", "0.001", "--devices", "2", "--implementations", "fused"]
    done = run("-m", "lstm_jax", "benchmark", *sizes, *short, "--output", tmp_path)
    assert done.returncode == 0, done.stderr
    assert "| fused |" in done.stdout
    assert "2 devices" in done.stdout
    (point,) = json.loads((tmp_path / "results.json").read_text())["points"].values()
    row = point["rows"]["fused"]
    assert row["parity"]["why_different"] is None
    assert set(row["seconds"]) == {"infer", "called", "gradient", "train", "dispatched"}
    assert row["step_memory"] > 0
    assert {path.name for path in tmp_path.iterdir()} == {"results.json", "plot.png", "plot.svg"}
    refused = run("-m", "lstm_jax", "benchmark", "--rounds", "few")
    assert (refused.returncode, refused.stderr.count("\n")) == (2, 1)
    assert "--rounds: got 'few', expected a whole number" in refused.stderr

"""The README is true: its commands run, its tables agree with the code."""

import dataclasses
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lstm_jax.config import Config, option
from tests.helpers.project import PROJECT

README = (PROJECT / "README.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.MULTILINE | re.DOTALL)


def commands() -> list[str]:
    return [line for block in blocks("bash") for line in block.splitlines()]


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """The project as seen from a folder of the test's own, so that runs/ is made there."""
    for name in ("lstm_jax", "tests", "train.py"):
        (tmp_path / name).symlink_to(PROJECT / name)
    return tmp_path


def test_the_two_main_commands() -> None:
    # A virtual environment works on systems with an externally managed Python and on all others.
    assert commands()[0] == (
        "python3 -m venv .venv && . .venv/bin/activate && pip install -r requirements.txt && python train.py"
    )
    assert commands()[1] == "pip install -r requirements-dev.txt && python -m pytest -n 2"
    # CI makes its environment from the same file and runs the same tests.
    ci = (PROJECT / ".ci" / "run").read_text()
    assert "-r requirements-dev.txt" in ci
    assert '\npython -m pytest -n 2 "$@"\n' in ci


def shorter(command: str) -> str:
    """The same command on less work: two steps of a tiny model, one kill."""
    command = command.replace("$seed", "0").removeprefix("for seed in 0 1 2; do ").removesuffix("; done")
    if command.startswith("python train.py"):
        command = re.sub(r"--(hidden-size|epochs) \d+", "", command) + " --hidden-size 3 --steps 2"
    if "kill_and_resume" in command:
        command = re.sub(r"--kills \d+", "--kills 1 --longest 0.05", command)
        command = re.sub(r"--epochs \d+", "--steps 30 --hidden-size 3", command)
    return command


@pytest.mark.parametrize(
    "commands",
    [
        [shorter(command) for command in block.splitlines()]
        for block in blocks("bash")
        if not re.search("pip install", block)
    ],
    ids=lambda block: block[0],
)
def test_the_other_commands_run(commands: list[str], project: Path, environment: dict[str, str]) -> None:
    if any(" export " in command for command in commands):  # with what requirements-compare.txt installs
        for package in ("h5py", "onnx", "safetensors"):
            pytest.importorskip(package)
    canvas = np.full((80, 60), 255, np.uint8)
    canvas[10:70, 26:34] = 0
    Image.fromarray(canvas).save(project / "digit.png")
    path = f"{Path(sys.executable).parent}{os.pathsep}{environment['PATH']}"
    for command in commands:
        if "fashion_mnist" in command:  # another data set, which the tests do not have
            continue
        done = subprocess.run(
            shlex.split(command),
            cwd=project,
            env={**environment, "PATH": path},
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, (command, done.stdout, done.stderr)
    assert (project / "runs").exists() or "kill_and_resume" in commands[0] or "archives" in commands[-1]


def test_the_library_example_runs(
    tmp_path: Path, data_dir: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TFDS_DATA_DIR", str(data_dir))
    (example,) = blocks("python")
    names: dict = {}
    exec(compile(example, "README.md", "exec"), names)
    assert names["c"].shape == names["h"].shape == (128, 64)
    assert names["outputs"].shape == (128, 28, 64)
    assert names["logits"].shape == (128, 10)
    assert float(capsys.readouterr().out.split()[-1]) > 0.8


def test_the_table_of_options_is_that_of_the_code() -> None:
    rows = dict(re.findall(r"^\| `(--[\w-]+)` \|([^|]*)\|", README, re.MULTILINE))
    assert list(rows) == [option(field.name) for field in dataclasses.fields(Config)]
    for field in dataclasses.fields(Config):
        shown, default = rows[option(field.name)].strip().strip("`"), field.default
        if default is False:
            assert shown == "off"
        elif default is not None:
            assert shown == str(default)


def test_nothing_is_left_to_fill_in() -> None:
    assert not re.search(r"^[A-Z]+$", README, re.MULTILINE)


def test_links_lead_somewhere() -> None:
    for target in re.findall(r"\]\((?!https?:)([^)#]+)\)", README):
        assert (PROJECT / target).exists(), target

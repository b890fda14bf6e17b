"""``python -m lstm_jax``: the commands, as a user calls them."""

import json
import re
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lstm_jax import load_dataset
from lstm_jax.__main__ import main
from lstm_jax.__main__ import run as run_command
from lstm_jax.commands import command_line
from lstm_jax.config import Config
from lstm_jax.runs.loop import train
from lstm_jax.runs.trained import load_trained
from tests.helpers.project import Run

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def run_dir(data_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that reads most digits rightly."""
    path = tmp_path_factory.mktemp("runs") / "run"
    train(Config.of(data_dir=data_dir, run_dir=path, steps=200, devices=1))
    return path


def test_evaluate_prints_what_training_found(run: Run, run_dir: Path) -> None:
    done = run("-m", "lstm_jax", "evaluate", run_dir)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    last = json.loads((run_dir / "metrics.jsonl").read_text().splitlines()[-1])
    assert f"accuracy {last['test_accuracy']:.2%}" in done.stdout
    assert f"loss {last['test_loss']:.4f}" in done.stdout
    lines = done.stdout.splitlines()
    per_class = lines[lines.index("accuracy per class") + 1 :][:10]
    assert [line.split()[0] for line in per_class] == [str(digit) for digit in range(10)]
    rows = [[int(word) for word in line.split()] for line in lines[-10:]]
    assert [row[0] for row in rows] == list(range(10))
    confusion = np.array(rows)[:, 1:]
    assert confusion.sum() == 1_000
    assert f"({np.trace(confusion):,} of 1,000)" in done.stdout
    np.testing.assert_array_equal(confusion.sum(axis=1), [85, 126, 116, 107, 110, 87, 87, 99, 89, 94])


def test_predict_names_digits_in_pictures(run: Run, run_dir: Path, data_dir: Path, tmp_path: Path) -> None:
    # Digits that the model reads rightly in their original form must be read in any presentation.
    test = load_dataset("mnist", data_dir=data_dir).test
    images, labels = next(test.batches(300))
    probabilities = load_trained(run_dir).probabilities(images)
    sure = [
        int(
            np.flatnonzero(
                (labels == digit) & (probabilities.max(1) > 0.98) & (probabilities.argmax(1) == digit)
            )[0]
        )
        for digit in (0, 1, 3, 7)
    ]
    expected = {}
    for i, chosen in enumerate(sure):
        big = Image.fromarray(images[chosen]).resize((140 + 40 * i, 140 + 40 * i), Image.Resampling.BICUBIC)
        canvas = Image.new("L", (400, 350))
        canvas.paste(big, (20 * i, 60))
        dark_on_light = i % 2 == 0
        picture = canvas.point(lambda grey: 255 - grey) if dark_on_light else canvas.convert("RGB")
        path = tmp_path / (f"digit {i}.png" if i < 2 else f"digit {i}.jpg")
        picture.save(path)
        expected[str(path)] = int(labels[chosen])
    done = run("-m", "lstm_jax", "predict", run_dir, *expected)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert len(lines) == len(expected)
    for line, (path, digit) in zip(lines, expected.items(), strict=True):
        named, probability = line.removeprefix(f"{path}: ").removesuffix(")").split(" (probability ")
        assert int(named) == digit, line
        assert 0.3 < float(probability) <= 1


def test_an_unreadable_image_does_not_stop_the_others(run: Run, run_dir: Path, tmp_path: Path) -> None:
    good = tmp_path / "good.png"
    canvas = np.full((60, 60), 255, np.uint8)
    canvas[10:50, 28:34] = 0
    Image.fromarray(canvas).save(good)
    (tmp_path / "bad.png").write_text("not an image")
    done = run("-m", "lstm_jax", "predict", run_dir, tmp_path / "bad.png", good, tmp_path / "none.png")
    assert done.returncode == 1
    assert [line.split(": ")[0] for line in done.stdout.splitlines()] == [str(good)]
    errors = done.stderr.splitlines()
    assert len(errors) == 2
    assert "bad.png" in errors[0]
    assert "none.png" in errors[1]


@pytest.mark.parametrize(
    ("args", "code", "words"),
    [
        (["evaluate", "nowhere"], 1, ["nowhere", "not a run directory", "no such folder"]),
        (["predict", "tests", "x.png"], 1, ["tests", "not a run directory", "no config.json"]),
        (["predict", "nowhere"], 1, ["no image given"]),
        (["evaluate"], 2, ["RUN_DIR"]),
        (["evaluate", "nowhere", "--split"], 2, ["--split"]),
        (["show"], 2, ["unknown command 'show'", "train, launch, evaluate, predict"]),
        (["explain"], 1, ["no run given"]),
        (["explain", "nowhere"], 1, ["nowhere", "not a run directory", "no such folder"]),
        (["report", "nowhere"], 1, ["nowhere", "not a run directory", "no such folder"]),
        (["report"], 2, ["RUN_DIR"]),
    ],
)
def test_mistakes_are_told_in_one_line(run: Run, args: list[str], code: int, words: list[str]) -> None:
    done = run("-m", "lstm_jax", *args)
    assert done.returncode == code
    assert done.stderr.count("\n") == 1, done.stderr
    for word in words:
        assert word in done.stderr


def test_a_run_without_a_state_is_told(run: Run, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    done = run("-m", "lstm_jax", "evaluate", tmp_path)
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert "no checkpoints here yet" in done.stderr


def test_a_damaged_newest_state_is_named_and_the_one_before_is_used(
    run: Run, run_dir: Path, tmp_path: Path
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(run_dir, copy)
    newest = copy / "checkpoints" / "200"
    shutil.copytree(newest, copy / "checkpoints" / "401")
    damaged = copy / "checkpoints" / "401" / "state" / "_METADATA"
    damaged.write_bytes(damaged.read_bytes()[:-1])
    done = run("-m", "lstm_jax", "evaluate", copy)
    assert done.returncode == 0
    assert done.stderr.count("\n") == 1
    assert f"{copy / 'checkpoints' / '401'} is damaged" in done.stderr
    assert "step 200" in done.stdout
    assert damaged.exists()  # evaluating changes nothing


def test_help(capsys: pytest.CaptureFixture[str]) -> None:
    for args, code in (([], command_line.USAGE_EXIT_CODE), (["--help"], 0)):
        assert main(args) == code
        told = capsys.readouterr().out
        for name in (
            "train",
            "evaluate",
            "predict",
            "explain",
            "report",
            "page",
            "benchmark",
            "compare",
            "export",
            "import",
        ):
            assert re.search(rf"^  {name} +[A-Z][^\n]+\.$", told, re.MULTILINE), name
    for command in ("evaluate", "predict", "explain", "report", "page", "export"):
        with pytest.raises(SystemExit, match="0"):
            main([command, "--help"])
        assert "Folder of a trained run" in capsys.readouterr().out


def test_train_is_a_command_like_the_others(
    data_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = f"--data-dir {data_dir} --run-dir {tmp_path}/run --hidden-size 3 --steps 2 --devices 2"
    assert main(["train", *options.split()]) == 0
    assert "Test accuracy" in capsys.readouterr().out.splitlines()[-1]
    with pytest.raises(SystemExit, match="2"):
        main(["train", "--hidden-size", "many"])
    told = capsys.readouterr().err
    assert told.startswith("python -m lstm_jax train: error: --hidden-size: got 'many', expected a whole")
    assert told.endswith("(python -m lstm_jax train --help lists the options)\n")


def test_messages_name_the_program_that_was_started(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for started, shown in (
        ("/usr/local/bin/lstm-jax", "lstm-jax"),
        ("lstm_jax/__main__.py", "python -m lstm_jax"),
    ):
        monkeypatch.setattr(sys, "argv", [started, "show"])
        with pytest.raises(SystemExit, match="2"):
            run_command()
        assert capsys.readouterr().err.startswith(f"{shown}: error: unknown command 'show', expected one")


@pytest.mark.parametrize(
    ("args", "told"),
    [
        (["train"], "python -m lstm_jax: stopped by SIGINT; the same command goes on from what is saved\n"),
        (["predict", "run", "x.png"], "python -m lstm_jax: stopped by SIGINT\n"),
    ],
)
def test_only_training_goes_on_after_ctrl_c(
    args: list[str], told: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(args: list[str]) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr("lstm_jax.__main__.main", interrupted)
    monkeypatch.setattr(sys, "argv", ["lstm_jax/__main__.py", *args])
    with pytest.raises(SystemExit, match="130"):
        run_command()
    assert capsys.readouterr().err == told

"""A run's files after somebody else had them: changed digits, foreign states, links, absurd options."""

import io
import json
import os
import re
import shutil
import signal
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lstm_jax import __main__ as commands
from lstm_jax import devices, train
from lstm_jax.commands import command_line
from lstm_jax.config import Config
from lstm_jax.data.dataset import load_dataset
from lstm_jax.errors import CheckpointError, ExchangeError, RunDirectoryError, UserError, printable
from lstm_jax.runs.checkpoint import digest
from lstm_jax.runs.console import TerminalConsole
from lstm_jax.runs.loop import TrainResult
from lstm_jax.runs.run_directory import RunDirectory
from lstm_jax.runs.trained import load_trained
from lstm_jax.system import files
from lstm_jax.system.files import ABANDONED_SECONDS, check_target, whole, write_whole
from tests.helpers.runs import Listener


def options(data_dir: Path, run_dir: Path, **others: Any) -> Config:
    """A run of two epochs of five steps."""
    small = {"hidden_size": 4, "batch_size": 440, "epochs": 2, "devices": 1}
    return Config.of(**{"data_dir": data_dir, "run_dir": run_dir, **small, **others})


@pytest.fixture(scope="module")
def original(data_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> TrainResult:
    return train(options(data_dir, tmp_path_factory.mktemp("original") / "run"))


@pytest.fixture
def copied(original: TrainResult, tmp_path: Path) -> Path:
    """A copy of the finished run, to be spoilt."""
    shutil.copytree(original.run_dir, tmp_path / "run")
    return tmp_path / "run"


def summary_of(run_dir: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((run_dir / "summary.json").read_text())
    return found


def test_any_changed_digit_of_a_summary_is_noticed_and_put_right(
    original: TrainResult, copied: Path, data_dir: Path
) -> None:
    text = (copied / "summary.json").read_text()
    known = text[: text.index('"wall_seconds"')]  # what follows only its own process knew
    places = [found.start() for found in re.finditer(r"(?<=[:.\d])\d(?!\d*\":)", known)]  # not in a name
    metrics = (copied / "metrics.jsonl").read_text()
    rng = np.random.default_rng(0)
    for place in rng.choice(places, 4, replace=False):
        digit = str((int(text[place]) + rng.integers(1, 10)) % 10)
        (copied / "summary.json").write_text(text[:place] + digit + text[place + 1 :])
        (copied / "metrics.jsonl").write_text(metrics.replace("1", "2", 1))
        listener = Listener()
        result = train(options(data_dir, copied), console=listener)
        assert result.summary == original.summary
        assert (copied / "summary.json").read_text() == text
        assert (copied / "metrics.jsonl").read_text() == metrics
        assert "written again from the saved state (missing or wrong: " in listener.messages[0]
        assert any(message.startswith("Test accuracy") for message in listener.messages)
        assert listener.steps == 0
    listener = Listener()
    train(options(data_dir, copied), console=listener)
    assert not any("written again" in message for message in listener.messages)


@pytest.mark.parametrize(
    "content", [b"", b"{", b"\xff\xfe", b"[]", b'{"test_accuracy": "high"}', b"[" * 10**5]
)
def test_a_damaged_summary_is_written_again_from_the_checkpoint(
    original: TrainResult, copied: Path, data_dir: Path, content: bytes
) -> None:
    (copied / "summary.json").write_bytes(content)
    listener = Listener()
    result = train(options(data_dir, copied), console=listener)
    assert listener.steps == 0
    assert "written again" in " ".join(listener.messages)
    assert "remove this" not in " ".join(listener.messages)
    assert result.summary is not None
    assert original.summary is not None
    passing = {"wall_seconds": 0}
    assert {**result.summary, **passing} == {**original.summary, **passing}
    assert summary_of(copied) == result.summary
    assert digest(result.params) == digest(original.params)


def test_without_the_last_state_a_damaged_summary_is_come_to_again(
    original: TrainResult, copied: Path, data_dir: Path
) -> None:
    (copied / "summary.json").write_text("{")
    shutil.rmtree(copied / "checkpoints" / "10")
    listener = Listener()
    result = train(options(data_dir, copied), console=listener)
    assert listener.steps == 5
    assert digest(result.params) == digest(original.params)
    assert summary_of(copied)["parameters_sha256"] == digest(original.params)


def test_the_words_of_a_user_in_a_summary_stay(copied: Path, data_dir: Path) -> None:
    noted = {**summary_of(copied), "remark": "the one for the paper"}
    (copied / "summary.json").write_text(json.dumps(noted))
    assert train(options(data_dir, copied)).summary == noted


def test_the_state_of_another_run_does_not_change_the_result(
    original: TrainResult, copied: Path, data_dir: Path, tmp_path: Path
) -> None:
    other = train(options(data_dir, tmp_path / "other", seed=5, learning_rate=0.02))
    (copied / "summary.json").unlink()
    shutil.rmtree(copied / "checkpoints" / "10")
    shutil.copytree(other.run_dir / "checkpoints" / "10", copied / "checkpoints" / "10")
    told: list[str] = []
    found = load_trained(copied, report=told.append)
    assert found.step == 5
    assert "of another run (--learning-rate 0.02 there, 0.01 here; --seed 5 there, 0 here)" in told[0]
    listener = Listener()
    result = train(options(data_dir, copied), console=listener)
    assert told[0] in listener.messages
    assert listener.steps == 5
    assert digest(result.params) == digest(original.params)
    kept = load_trained_from(copied / "of-another-run" / "10", other.run_dir, tmp_path / "again")
    assert digest(kept.params) == digest(other.params)


def load_trained_from(state: Path, run_dir: Path, scratch: Path) -> Any:
    """The model of a state in the run that it is of."""
    (scratch / "checkpoints").mkdir(parents=True)
    shutil.copy(run_dir / "config.json", scratch)
    shutil.copytree(state, scratch / "checkpoints" / state.name)
    return load_trained(scratch)


LINKS = [
    "metrics.jsonl",
    "summary.json",
    "config.json",
    ".lock",
    "checkpoints",
    "tensorboard",
    "damaged",
    "learning.png",
]


@pytest.mark.parametrize("name", LINKS)
def test_a_run_is_not_written_through_links(copied: Path, data_dir: Path, tmp_path: Path, name: str) -> None:
    elsewhere = tmp_path / "elsewhere"
    if (copied / name).is_dir() or name == "damaged":
        elsewhere.mkdir()
        (elsewhere / "file").write_text("of somebody")
        shutil.rmtree(copied / name, ignore_errors=True)
    else:
        shutil.copy(copied / name, elsewhere) if (copied / name).exists() else elsewhere.write_text("x")
        (copied / name).unlink(missing_ok=True)
    (copied / name).symlink_to(elsewhere)
    before = {path: path.read_bytes() for path in tmp_path.rglob("elsewhere*") if path.is_file()}
    with pytest.raises(RunDirectoryError, match=rf"{re.escape(name)}: got a symbolic link"):
        train(options(data_dir, copied))
    assert {path: path.read_bytes() for path in tmp_path.rglob("elsewhere*") if path.is_file()} == before
    assert sorted(tmp_path.iterdir()) == sorted([copied, elsewhere])


def test_reading_a_run_follows_links(original: TrainResult, copied: Path, tmp_path: Path) -> None:
    # Some tools keep large files elsewhere, and links to them in their place.
    for path in [path for path in copied.rglob("*") if path.is_file()]:
        store = tmp_path / "store" / path.relative_to(copied)
        store.parent.mkdir(parents=True, exist_ok=True)
        path.rename(store)
        path.symlink_to(store)
    assert digest(load_trained(copied).params) == digest(original.params)


def test_a_temporary_name_cannot_be_foreseen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "victim").write_text("of somebody")
    for name in ("summary.json.tmp", f"summary.json.{os.getpid()}.tmp"):
        (tmp_path / name).symlink_to(tmp_path / "victim")
    write_whole(tmp_path / "summary.json", "new")
    assert (tmp_path / "summary.json").read_text() == "new"
    # And if it is guessed all the same, it is not followed.
    monkeypatch.setattr(files.secrets, "token_hex", lambda count: "ab")
    (tmp_path / "summary.json.ab.tmp").symlink_to(tmp_path / "victim")
    with pytest.raises(FileExistsError):
        write_whole(tmp_path / "summary.json", "newer")
    (tmp_path / "linked.jsonl").symlink_to(tmp_path / "victim")
    with pytest.raises(OSError, match="symbolic links"):
        files.append(tmp_path / "linked.jsonl", "more")
    assert (tmp_path / "victim").read_text() == "of somebody"
    assert (tmp_path / "summary.json").stat().st_mode & 0o777 == 0o666 & ~_umask()


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def test_nothing_is_added_to_a_pipe_whether_somebody_reads_it_or_not(tmp_path: Path) -> None:
    def too_long(*_: object) -> None:
        raise AssertionError("waits for a reader")

    pipe = tmp_path / "metrics.jsonl"
    os.mkfifo(pipe)
    before = signal.signal(signal.SIGALRM, too_long)
    signal.alarm(5)
    try:
        with pytest.raises(files.NotAFileError, match="not a file, but a pipe"):
            files.append(pipe, "more")
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    with pytest.raises(files.NotAFileError, match="not a file, but a pipe"):
        files.append(pipe, "more")
    assert os.read(reader, 10) == b""
    os.close(reader)


def test_an_export_does_not_replace_a_dead_link(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").symlink_to(tmp_path / "none")
    with pytest.raises(ExchangeError, match="that exists"):
        check_target(tmp_path / "model.onnx", overwrite=False, advice="choose")


def test_what_killed_processes_leave_is_removed_and_nothing_else(tmp_path: Path) -> None:
    with RunDirectory(Config.of(run_dir=tmp_path)):
        pass
    for name in ("summary.json.123.tmp", "metrics.jsonl.0a1b2c3d4e5f6071.tmp", "config.json.77.tmp"):
        (tmp_path / name).write_text("{")
    for name in ("summary.json.bak", "notes.12.tmp"):
        (tmp_path / name).write_text("mine")
    left = (".model.onnx.lstm_jax-a1b2c3_z", ".model.keras.lstm_jax-abcdefgh")
    old = (".cache.lstm_jax-abcdefgh", ".emacs.autosave", ".emacs.abcdefgh")  # of others, the last two empty
    new = ".new.lstm_jax-abcdefgh"
    for name in (*left, *old, new):
        (tmp_path / name).mkdir()
    (tmp_path / left[0] / "model.onnx").write_text("half")
    (tmp_path / old[0] / "something").write_text("mine")
    past = time.time() - ABANDONED_SECONDS - 10
    for name in (*left, *old):
        os.utime(tmp_path / name, (past, past))
    keep = [".lock", "config.json", "summary.json.bak", "notes.12.tmp", *old, new]
    with RunDirectory(Config.of(run_dir=tmp_path)):
        assert sorted(path.name for path in tmp_path.iterdir()) == sorted(keep)


def test_an_abandoned_folder_goes_when_the_same_is_written_again(tmp_path: Path) -> None:
    with whole(tmp_path / "run") as folder:
        abandoned = folder.parent.with_name(folder.parent.name[:-8] + "abcdefgh")
        folder.mkdir()
    (abandoned / "run").mkdir(parents=True)
    past = time.time() - ABANDONED_SECONDS - 10
    os.utime(abandoned, (past, past))
    with whole(tmp_path / "other") as folder:
        folder.mkdir()
        assert not abandoned.exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["other", "run"]


@pytest.fixture
def in_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "start", lambda *, devices: None)  # JAX has begun already


def test_evaluate_writes_only_where_its_user_says(
    copied: Path,
    data_dir: Path,
    tmp_path: Path,
    in_process: None,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    config = json.loads((copied / "config.json").read_text())
    # A data directory without the decoded copy, and one that is not there.
    prepared = tmp_path / "prepared"
    shutil.copytree(data_dir, prepared, ignore=shutil.ignore_patterns("*.npz", ".lock"))
    monkeypatch.setenv("TFDS_DATA_DIR", str(data_dir))
    monkeypatch.setattr("lstm_jax.data.prepared._decode", lambda *args: load_decoded)
    examples = load_dataset("mnist", data_dir=data_dir)
    load_decoded = {
        "train": [
            np.concatenate([getattr(split, field) for split in (examples.train, examples.validation)])
            for field in ("images", "labels")
        ],
        "test": (examples.test.images, examples.test.labels),  # type: ignore[attr-defined]
    }
    for folder, words in ((prepared, ""), (tmp_path / "none", "No mnist in")):
        (copied / "config.json").write_text(json.dumps({**config, "data_dir": str(folder)}))
        before = sorted(tmp_path.rglob("*"))
        assert commands.main(["evaluate", str(copied)]) == 0
        assert sorted(tmp_path.rglob("*")) == before
        assert words in capsys.readouterr().err


def test_evaluate_and_export_follow_no_links(
    copied: Path, data_dir: Path, tmp_path: Path, in_process: None
) -> None:
    (tmp_path / "elsewhere").mkdir()
    (copied / "evaluation").symlink_to(tmp_path / "elsewhere")
    for output in (
        copied / "evaluation",
        copied / "evaluation" / "deeper",
        copied / "x" / ".." / "evaluation",
    ):
        with pytest.raises(RunDirectoryError, match="evaluation: got a symbolic link"):
            commands.main(["evaluate", str(copied), "--output", str(output)])
    file = copied / "evaluation" / "w.safetensors"
    with pytest.raises(RunDirectoryError, match="evaluation: got a symbolic link"):
        commands.main(["export", str(copied), "--format", "safetensors", "--output", str(file)])
    assert list((tmp_path / "elsewhere").iterdir()) == []
    # A folder of its own, with planted names in it.
    (copied / "own").mkdir()
    (tmp_path / "victim").write_text("of somebody")
    drawn = ("mistakes", "confusion", "calibration")
    names = ["evaluation.json", *(f"{name}.{suffix}" for name in drawn for suffix in ("png", "svg"))]
    for name in names:
        (copied / "own" / name).symlink_to(tmp_path / "victim")
    assert commands.main(["evaluate", str(copied), "--output", str(copied / "own")]) == 0
    assert (tmp_path / "victim").read_text() == "of somebody"
    assert sorted(path.name for path in (copied / "own").iterdir()) == sorted(names)
    assert not any((copied / "own" / name).is_symlink() for name in names)


ABSURD: list[tuple[str, Any]] = [
    ("hidden_size", "1" + "0" * 9),
    ("num_layers", "1" + "0" * 9),
    ("hidden_size", "1e400"),
    ("learning_rate", "1e400"),
    ("learning_rate", "1" + "0" * 400),
    ("learning_rate", "-Infinity"),
    ("learning_rate", "NaN"),
    ("seed", "1" + "0" * 5000),
    ("batch_size", '"many"'),
    ("dropout_rate", "[[[]]]"),
    ("dataset", json.dumps("\x1b[31mred\x1b]0;title\x07" + "x" * 10**5)),
    ("task", '{"a": 1}'),
    ("forget_bias", "[1]"),
    ("permutation_seed", "1.5"),
    ("data_dir", '"a\\u0000b"'),
    ("data_dir", '"\\ud800"'),
    ("run_dir", "[]"),
    ("\x1b[2Jnew", "1"),
    ("a" * 10**5, "1"),
    ("seed", "[" * 10**5),
    ("seed", " " * 2**24),
]


@pytest.mark.parametrize(("field", "value"), ABSURD, ids=[f"{f[:20]!r}-{v[:8]}" for f, v in ABSURD])
def test_absurd_options_are_told_in_one_line_by_every_command(
    copied: Path,
    data_dir: Path,
    in_process: None,
    capsys: pytest.CaptureFixture[str],
    field: str,
    value: str,
) -> None:
    config = json.loads((copied / "config.json").read_text())
    config.pop(field, None)
    text = json.dumps(config)[:-1] + f", {json.dumps(field)}: {value}}}"
    (copied / "config.json").write_text(text)
    every: list[Any] = [
        lambda: train(options(data_dir, copied)),
        lambda: commands.main(["evaluate", str(copied)]),
        lambda: commands.main(["predict", str(copied), "image.png"]),
        lambda: commands.main(["export", str(copied), "--format", "safetensors"]),
    ]
    for command in every:
        with pytest.raises(SystemExit) as stop:
            command_line.run(command, prog="prog")
        told = capsys.readouterr().err
        assert stop.value.code == 1
        assert told.startswith(f"prog: error: {copied / 'config.json'}: ")
        assert told.count("\n") == 1
        assert len(told) < 1000
        assert printable(told[:-1]) == told[:-1]


def test_large_options_of_a_small_state_cost_nothing(copied: Path) -> None:
    config = json.loads((copied / "config.json").read_text())
    large = {**config, "hidden_size": 2**16, "num_layers": 3, "bidirectional": True}
    (copied / "config.json").write_text(json.dumps(large))
    with pytest.raises(CheckpointError, match="of another run"):
        load_trained(copied)


def test_a_config_that_is_a_pipe_keeps_nobody_waiting(copied: Path, data_dir: Path) -> None:
    (copied / "summary.json").unlink()
    os.mkfifo(copied / "summary.json")
    with pytest.raises(RunDirectoryError, match=r"summary\.json: cannot be read \(not a file, but a pipe"):
        train(options(data_dir, copied))
    (copied / "config.json").unlink()
    os.mkfifo(copied / "config.json")
    with pytest.raises(RunDirectoryError, match=r"no config\.json in it"):
        load_trained(copied)


@pytest.mark.parametrize("name", ["config.json", "summary.json"])
def test_what_cannot_be_read_is_not_called_damage(
    copied: Path, data_dir: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    opened = files.open_file

    def open_file(path: Path) -> io.BufferedReader:
        if path.name == name:
            raise PermissionError(13, "Permission denied", str(path))
        return opened(path)

    monkeypatch.setattr(files, "open_file", open_file)
    with pytest.raises(UserError) as told:
        train(options(data_dir, copied))
    assert f"{copied / name}: cannot be read (Permission denied)" in str(told.value)
    for wrong in ("remove", "backup", "damaged"):
        assert wrong not in str(told.value)


def test_any_name_can_be_printed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # After all the training, the name of the run directory must not end it in a traceback.
    for encoding in ("ascii", "latin-1", "utf-8"):
        raw, errors = io.BytesIO(), io.BytesIO()
        monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding=encoding))
        monkeypatch.setattr(sys, "stderr", io.TextIOWrapper(errors, encoding=encoding))

        def command() -> int:
            TerminalConsole().message("Run directory: año/日本\udce9")
            command_line.note("año/日本\udce9")
            raise UserError("año/日本\udce9")

        with pytest.raises(SystemExit) as stop:
            command_line.run(command, prog="prog")
        sys.stdout.flush()
        sys.stderr.flush()
        assert stop.value.code == 1
        own = "año/日本".encode(encoding, errors="backslashreplace") + b"\\udce9\n"
        assert raw.getvalue() == b"Run directory: " + own
        assert errors.getvalue() == own + b"prog: error: " + own


def test_escape_sequences_do_not_reach_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    hostile = "a\x1b[31mb\x9b2Jc\rd\x07e‮f\ng"
    TerminalConsole().message(hostile)
    command_line.note(hostile)
    with pytest.raises(SystemExit):
        command_line.fail("prog", hostile)
    found = capsys.readouterr()
    for line in (*found.out.splitlines(), *found.err.splitlines()):
        assert line.endswith(r"a\x1b[31mb\x9b2Jc\rd\x07e\u202ef\ng")
    assert printable("año, 日本 - ok") == "año, 日本 - ok"

"""The run directory: what is in it, who may use it, what a damaged or full one says."""

import json
from pathlib import Path
from typing import Any

import pytest
from tensorboardX.proto.event_pb2 import Event

from lstm_jax.config import Config
from lstm_jax.errors import RunDirectoryError
from lstm_jax.runs import run_directory
from lstm_jax.runs.run_directory import DamagedJSONError, RunDirectory, read_config
from lstm_jax.system.files import write_whole


def record(epoch: int) -> dict[str, Any]:
    names = ("train_loss", "validation_loss", "validation_accuracy", "test_loss", "test_accuracy")
    figures = {name: epoch + i / 7 for i, name in enumerate(names)}
    return {"epoch": epoch, "step": 10 * epoch, **figures, "train_seconds": 1.5, "examples_per_second": 9.0}


def lines(run_dir: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]


def events(run_dir: Path) -> list[Event]:
    """All events of all files in the order they were written: length, its CRC, the event, its CRC."""
    found = []
    for path in sorted((run_dir / "tensorboard").iterdir()):
        data = path.read_bytes()
        while data:
            length = int.from_bytes(data[:8], "little")
            found.append(Event.FromString(data[12 : 12 + length]))
            data = data[16 + length :]
    return found


def test_a_new_folder_gets_the_options(tmp_path: Path) -> None:
    config = Config.of(run_dir=tmp_path / "a" / "run", hidden_size=5)
    with RunDirectory(config) as run:
        assert run.path == tmp_path / "a" / "run"
        assert run.read_summary() is None
    assert read_config(run.path) == config


def test_metrics_and_events_hold_every_epoch_once(tmp_path: Path) -> None:
    config = Config.of(run_dir=tmp_path)
    with RunDirectory(config) as run:
        run.begin([])
        for epoch in (1, 2, 3):
            run.add(record(epoch))
    assert lines(tmp_path) == [record(1), record(2), record(3)]
    # Killed after the state of epoch 2 was saved: what followed is written again, not twice.
    with RunDirectory(config) as run:
        run.begin([record(1), record(2)])
        assert lines(tmp_path) == [record(1), record(2)]
        run.add(record(3))
    assert lines(tmp_path) == [record(1), record(2), record(3)]
    # Killed between the state of epoch 4 and its line: the line is made up for.
    with RunDirectory(config) as run:
        run.begin([record(epoch) for epoch in (1, 2, 3, 4)])
    assert lines(tmp_path) == [record(epoch) for epoch in (1, 2, 3, 4)]

    scalars = {value.tag for event in events(tmp_path) for value in event.summary.value}
    assert scalars == {
        "loss/train", "loss/validation", "loss/test", "accuracy/validation", "accuracy/test",
        "speed/examples_per_second",
    }  # fmt: skip
    # TensorBoard forgets what came at or after the step of a later START.
    starts = [event.step for event in events(tmp_path) if event.HasField("session_log")]
    assert starts == [1, 21, 41]
    third = [event for event in events(tmp_path) if event.step == 30 and event.summary.value]
    assert len(third) == 2
    assert {round(v.simple_value, 4) for e in third for v in e.summary.value if v.tag == "loss/train"} == {
        3.0
    }


def test_a_torn_last_line_is_mended(tmp_path: Path) -> None:
    with RunDirectory(Config.of(run_dir=tmp_path)) as run:
        run.begin([])
        run.add(record(1))
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"epoch": 2, "st')  # the process was killed here
    with RunDirectory(Config.of(run_dir=tmp_path)) as run:
        run.begin([record(1)])
    assert lines(tmp_path) == [record(1)]


def test_other_options_are_refused_and_listed_but_other_places_are_not(tmp_path: Path) -> None:
    with RunDirectory(Config.of(run_dir=tmp_path)):
        pass
    with pytest.raises(RunDirectoryError) as refusal:
        RunDirectory(Config.of(run_dir=tmp_path, learning_rate=0.5, num_layers=2))
    told = str(refusal.value)
    assert "--learning-rate 0.01 there, 0.5 now" in told
    assert "--num-layers 1 there, 2 now" in told
    assert "--seed" not in told
    with RunDirectory(Config.of(run_dir=tmp_path, data_dir=tmp_path / "moved", implementation="fused")):
        pass


def test_two_processes_cannot_train_in_one_folder(tmp_path: Path) -> None:
    with RunDirectory(Config.of(run_dir=tmp_path)), pytest.raises(RunDirectoryError, match="another process"):
        RunDirectory(Config.of(run_dir=tmp_path))
    with RunDirectory(Config.of(run_dir=tmp_path)):
        pass


def test_followers_write_nothing(tmp_path: Path) -> None:
    with RunDirectory(Config.of(run_dir=tmp_path / "run")):
        pass
    before = sorted(path.name for path in (tmp_path / "run").iterdir())
    with RunDirectory(Config.of(run_dir=tmp_path / "run", epochs=20), leader=False) as run:
        assert run.becomes_other  # as the leader knows it
        run.begin([record(1)])
        run.add(record(2))
        run.write_summary({"a": 1})
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == before
    assert read_config(tmp_path / "run").epochs == 10
    with pytest.raises(RunDirectoryError, match="expected the same folder in all processes"):
        RunDirectory(Config.of(run_dir=tmp_path / "elsewhere"), leader=False)
    assert not (tmp_path / "elsewhere").exists()


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("config.json", "{", "is damaged (Expecting property name"),
        ("config.json", "[" * 100_000, "is damaged (maximum recursion depth"),
        (
            "config.json",
            " " * 2**24 + "{}",
            "is damaged (got a file of 16,777,218 bytes, expected at most 16,777,216)",
        ),
        ("config.json", "[1]", "expected a JSON object, found list"),
        ("config.json", '{"peepholes": 3}', "unknown options peepholes"),
        ("config.json", '{"hidden_size": 0}', "--hidden-size: got 0"),
    ],
)
def test_a_damaged_config_is_named(tmp_path: Path, name: str, content: str, words: str) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(RunDirectoryError) as refusal:
        RunDirectory(Config.of(run_dir=tmp_path))
    assert words in str(refusal.value)
    assert str(tmp_path / name) in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_a_damaged_summary_is_named(tmp_path: Path) -> None:
    with RunDirectory(Config.of(run_dir=tmp_path)) as run:
        (tmp_path / "summary.json").write_text('{"test_accuracy": 0.5')
        assert run.has_summary
        with pytest.raises(DamagedJSONError, match=r"summary\.json: is damaged \(Expecting"):
            run.read_summary()


def test_metrics_that_are_not_even_text_are_written_anew(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_bytes(b"\xff\xfe\x00")
    with RunDirectory(Config.of(run_dir=tmp_path)) as run:
        run.begin([record(1)])
    assert lines(tmp_path) == [record(1)]


def full(*args: Any) -> None:
    raise OSError(28, "No space left on device")


def test_a_full_disk_names_the_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with RunDirectory(Config.of(run_dir=tmp_path)) as run:
        run.begin([])
        monkeypatch.setattr(run_directory, "append", full)
        with pytest.raises(RunDirectoryError) as told:
            run.add(record(1))
    assert str(told.value).startswith(
        f"{tmp_path}: cannot be written (No space left on device); saved states"
    )


def test_lost_events_stop_no_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("tensorboardX.record_writer.RecordWriter.write", full)
    with RunDirectory(Config.of(run_dir=tmp_path)) as run:
        run.begin([])
        run.add(record(1))
        run.add(record(2))
    assert lines(tmp_path) == [record(1), record(2)]
    [told] = caplog.messages
    assert told.startswith(
        f"lstm_jax: {tmp_path} gets no more TensorBoard events (No space left on device); "
    )


def test_a_run_without_its_config_is_not_taken_over(tmp_path: Path) -> None:
    (tmp_path / "checkpoints").mkdir()
    with pytest.raises(RunDirectoryError, match=r"without its config\.json"):
        RunDirectory(Config.of(run_dir=tmp_path))


def test_what_is_not_a_run_directory_is_told(tmp_path: Path) -> None:
    with pytest.raises(RunDirectoryError, match="no such folder"):
        read_config(tmp_path / "none")
    with pytest.raises(RunDirectoryError, match=r"no config\.json in it"):
        read_config(tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(RunDirectoryError, match="cannot write here"):
        RunDirectory(Config.of(run_dir=tmp_path / "file"))


def test_write_whole_leaves_the_old_content_when_it_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "summary.json"
    write_whole(path, "old")

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space"):
        write_whole(path, "new")
    assert path.read_text() == "old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["summary.json"]

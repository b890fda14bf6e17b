"""Saved states beside what does not belong to them: files of file managers, states of other runs, readers."""

import json
import os
import shutil
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from orbax.checkpoint import v1 as ocp

from lstm_jax.errors import CheckpointError
from lstm_jax.runs import checkpoint, checksums
from lstm_jax.runs.checkpoint import BELONGS_TO, KEPT, SAVING, Checkpoints
from lstm_jax.runs.checksums import CHECKSUMS
from lstm_jax.system.files import NotAFileError, open_file
from tests.helpers.states import NOTES, same, saved, state_of

OPTIONS = {"seed": 0, "learning_rate": 0.01, "forget_bias": 1.0}


def saved_by(directory: Path, options: dict[str, Any] | None, steps: range, shift: int = 0) -> None:
    """The state of each step, which differs with ``shift``, saved by a run with these options."""
    with Checkpoints(directory, report=print, options=options) as checkpoints:
        for step in steps:
            checkpoints.save(step, state_of(step + shift), {**NOTES, "step": step})


def read(directory: Path, told: list[str], *, read_only: bool = False, options: Any = OPTIONS) -> Any:
    with Checkpoints(directory, report=told.append, read_only=read_only, options=options) as checkpoints:
        return checkpoints.restore(state_of(0))


# What file managers and file systems leave; and names that Orbax looks for, or takes for its own.
LEFT_BEHIND = [
    ".DS_Store",
    "._state",
    "state/Thumbs.db",
    "state/d/.nfs0000000000000001",
    "@eaDir/x",
    "state/array_metadatas/process_0 (copy)",
    "state/array_metadatas/process_1",
    "_CHECKPOINT_DELETION",
    "orbax.checkpoint",
    "state copy/_METADATA",
    "../_CHECKPOINT_METADATA",
    "../.DS_Store",
    "../@eaDir/1",
]


@pytest.mark.parametrize("read_only", [False, True])
def test_what_others_leave_in_a_state_changes_nothing(tmp_path: Path, read_only: bool) -> None:
    saved_by(tmp_path / "c", OPTIONS, range(1, 3))
    rng = np.random.default_rng(0)
    for name in LEFT_BEHIND:
        for step in ("1", "2"):
            path = tmp_path / "c" / step / name
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(rng.bytes(50))
    told: list[str] = []
    found = read(tmp_path / "c", told, read_only=read_only)
    assert (found.step, found.notes, told) == (2, {**NOTES, "step": 2}, [])
    assert same(found.state, state_of(2))
    assert (tmp_path / "c" / "2" / ".DS_Store").exists()
    assert (tmp_path / "c" / "@eaDir").is_dir()  # of a file server, and not ours to remove
    if not read_only:  # and the run goes on
        saved_by(tmp_path / "c", OPTIONS, range(3, 5))
        assert read(tmp_path / "c", told).step == 4
        assert sorted(path.name for path in (tmp_path / "c").iterdir() if path.name.isdigit()) == ["3", "4"]


def test_each_of_them_alone_too(tmp_path: Path) -> None:
    # Together they could hide each other. Orbax refuses some of these states by itself.
    saved_by(tmp_path / "whole", OPTIONS, range(1, 2))
    for number, name in enumerate(LEFT_BEHIND):
        path = tmp_path / str(number) / "1" / name
        shutil.copytree(tmp_path / "whole", tmp_path / str(number))
        path.parent.mkdir(exist_ok=True)
        path.write_text('{"a": 1}')
        told: list[str] = []
        assert same(read(tmp_path / str(number), told, read_only=True).state, state_of(1)), name
        assert told == []


def test_a_list_of_files_elsewhere_is_damage(tmp_path: Path) -> None:
    saved_by(tmp_path / "c", OPTIONS, range(1, 3))
    listed = json.loads((tmp_path / "c" / "2" / CHECKSUMS).read_text())
    secret = tmp_path / "secret"
    secret.write_text("of somebody")
    sha = checksums._sha256(secret)
    for entry in ({"../../secret": sha}, {str(secret): sha}, {"": sha}, {"a\0b": sha}, {"state": 3}):
        (tmp_path / "c" / "2" / CHECKSUMS).write_text(json.dumps({**listed, **entry}))
        told: list[str] = []
        assert read(tmp_path / "c", told, read_only=True).step == 1
        assert "holds no list of files" in told[0]
    (tmp_path / "c" / "2" / CHECKSUMS).write_text("[" * 100_000)
    told = []
    assert read(tmp_path / "c", told, read_only=True).step == 1
    assert "recursion" in told[0]


def test_a_pipe_in_the_place_of_a_file_keeps_nobody_waiting(tmp_path: Path) -> None:
    for name in ("state/_METADATA", CHECKSUMS):
        saved_by(tmp_path / name / "c", OPTIONS, range(1, 3))
        path = tmp_path / name / "c" / "2" / name
        path.unlink()
        os.mkfifo(path)
        with pytest.raises(NotAFileError):  # nor for ever reading, as a device could
            open_file(path)
        told: list[str] = []
        assert read(tmp_path / name / "c", told).step == 1
        assert "2 is damaged" in told[0]


@pytest.mark.parametrize("read_only", [False, True])
def test_a_state_of_another_run_is_named_and_not_used(tmp_path: Path, read_only: bool) -> None:
    saved_by(tmp_path / "c", OPTIONS, range(1, 3))
    other = {**OPTIONS, "seed": 7, "learning_rate": 0.5}
    saved_by(tmp_path / "other", other, range(2, 4), shift=100)
    shutil.rmtree(tmp_path / "c" / "2")
    for step in ("2", "3"):
        shutil.copytree(tmp_path / "other" / step, tmp_path / "c" / step)
    told: list[str] = []
    found = read(tmp_path / "c", told, read_only=read_only)
    assert found.step == 1
    assert same(found.state, state_of(1))
    assert len(told) == 2
    for line in told:
        assert "of another run (--seed 7 there, 0 here; --learning-rate 0.5 there, 0.01 here)" in line
    for step in ("2", "3"):
        assert same(read(tmp_path / "c", [], read_only=True, options=None).state, state_of(103))
        assert (tmp_path / "c" / step / CHECKSUMS).exists()
    assert not (tmp_path / "damaged").exists()


def test_a_run_goes_on_past_the_states_of_another_and_loses_none(tmp_path: Path) -> None:
    saved_by(tmp_path / "c", OPTIONS, range(5, 6))
    saved_by(tmp_path / "other", {**OPTIONS, "seed": 7}, range(1, 2), shift=100)
    saved_by(tmp_path / "other6", {**OPTIONS, "seed": 8}, range(6, 7), shift=100)
    saved_by(tmp_path / "other99", {**OPTIONS, "seed": 9}, range(99, 100), shift=100)
    for name, step in (("other", "1"), ("other6", "6"), ("other99", "99")):
        shutil.copytree(tmp_path / name / step, tmp_path / "c" / step)
    told: list[str] = []
    with Checkpoints(tmp_path / "c", report=told.append, options=OPTIONS) as checkpoints:
        found = checkpoints.restore(state_of(0))
        assert found is not None
        assert (found.step, checkpoints.newest_step) == (5, 5)
        for step in (6, 7, 8):
            checkpoints.save(step, state_of(step), NOTES)
            assert checkpoints.newest_step == step
    assert "moved" in told[-1]
    assert sorted(int(path.name) for path in (tmp_path / "c").iterdir()) == [1, 7, 8, 99]
    assert KEPT == 2
    assert same(read(tmp_path / "c", []).state, state_of(8))
    of_others = (tmp_path / "of-another-run", 106), (tmp_path / "c", 199)
    for folder, shifted in of_others:
        assert same(read(folder, [], read_only=True, options=None).state, state_of(shifted))


def test_a_state_under_the_name_of_another_step_is_not_used(tmp_path: Path) -> None:
    saved_by(tmp_path / "c", OPTIONS, range(1, 3))
    shutil.copytree(tmp_path / "c" / "1", tmp_path / "c" / "9")
    told: list[str] = []
    assert read(tmp_path / "c", told).step == 2
    assert len(told) == 1
    assert "c/9 is of step 1 by its own notes" in told[0]


def test_only_states_of_other_runs_are_no_beginning(tmp_path: Path) -> None:
    saved_by(tmp_path / "c", {**OPTIONS, "seed": 7}, range(1, 3))
    with pytest.raises(CheckpointError, match="every saved state is damaged or of another run"):
        read(tmp_path / "c", [])


def test_older_states_which_do_not_say_whose_they_are_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save = ocp.training.Checkpointer.save

    def save_as_before(self: Any, *args: Any, custom_metadata: Any, **options: Any) -> Any:
        older = {key: value for key, value in custom_metadata.items() if key != BELONGS_TO}
        return save(self, *args, custom_metadata=older, **options)

    with monkeypatch.context() as patched:
        patched.setattr(ocp.training.Checkpointer, "save", save_as_before)
        saved_by(tmp_path / "c", OPTIONS, range(1, 3))
    told: list[str] = []
    assert read(tmp_path / "c", told).notes == {**NOTES, "step": 2}
    assert told == []


def test_an_option_that_a_state_does_not_know_is_no_difference(tmp_path: Path) -> None:
    saved_by(tmp_path / "c", OPTIONS, range(1, 2))
    assert read(tmp_path / "c", [], options={**OPTIONS, "an_option_of_later": 3}).step == 1


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("can't start new thread"),
        RuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 8 bytes."),
        OSError(12, "Cannot allocate memory"),
    ],
)
def test_what_this_machine_lacks_is_told_as_that(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    saved_by(tmp_path / "c", OPTIONS, range(1, 3))

    def fail(*args: Any) -> None:
        raise error

    for module, name in ((ocp, "load"), (ocp, "metadata"), (checksums, "_sha256")):
        if module is checksums and not isinstance(error, OSError):
            continue
        with monkeypatch.context() as patched:
            patched.setattr(module, name, fail)
            with pytest.raises(CheckpointError) as told:
                read(tmp_path / "c", [])
        assert str(error).split("] ")[-1] in str(told.value)
        for wrong in ("damaged", "version", "backup", "remove", "delete"):
            assert wrong not in str(told.value)
    assert sorted(path.name for path in (tmp_path / "c").iterdir()) == ["1", "2"]


def test_no_room_is_made_for_arrays_that_are_not_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    saved_by(tmp_path / "c", OPTIONS, range(1, 2))
    monkeypatch.setattr(ocp, "load", lambda *args: pytest.fail("made room"))
    like = {**state_of(0), "step": np.broadcast_to(np.float32(0), (10**6, 10**6))}
    with (
        Checkpoints(tmp_path / "c", report=print) as checkpoints,
        pytest.raises(CheckpointError, match=r"got arrays of the shapes .*, expected \(1000000, 1000000\)"),
    ):
        checkpoints.restore(like)


def test_a_reader_takes_the_newer_state_if_the_trainer_replaces_what_it_reads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Each time the reader has seen which states there are, the trainer saves others and removes those.
    saved_by(tmp_path / "c", OPTIONS, range(1, 3))
    check, step = checksums.check, [2]

    def check_late(path: Path) -> Any:
        if step[0] < 6:
            saved_by(tmp_path / "c", OPTIONS, range(step[0] + 1, step[0] + 3))
            step[0] += 2
        return check(path)

    monkeypatch.setattr(checkpoint.checksums, "check", check_late)
    told: list[str] = []
    found = read(tmp_path / "c", told, read_only=True)
    assert (found.step, told) == (6, [])
    assert same(found.state, state_of(6))


def test_a_trainer_that_is_always_faster_is_not_called_damage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    saved_by(tmp_path / "c", OPTIONS, range(1, 2))
    check = checksums.check

    def check_late(path: Path) -> Any:
        os.replace(path, path.with_name(str(int(path.name) + 1)))
        return check(path)

    monkeypatch.setattr(checkpoint.checksums, "check", check_late)
    told: list[str] = []
    with pytest.raises(CheckpointError, match="a training run replaces"):
        read(tmp_path / "c", told, read_only=True)
    assert told == []


def test_a_reader_passes_over_a_state_that_is_just_being_saved(tmp_path: Path) -> None:
    saved_by(tmp_path / "c", OPTIONS, range(1, 3))
    (tmp_path / "c" / "2" / CHECKSUMS).unlink()
    (tmp_path / "c" / SAVING).write_text("2")
    told: list[str] = []
    assert read(tmp_path / "c", told, read_only=True).step == 1
    assert told == []


@pytest.mark.parametrize("content", [b"", b"two", b"\xff\xfe", b"9" * 10**6])
def test_a_damaged_note_of_a_save_is_no_traceback(tmp_path: Path, content: bytes) -> None:
    with saved(tmp_path / "c", 2):
        pass
    (tmp_path / "c" / SAVING).write_bytes(content)
    assert read(tmp_path / "c", [], read_only=True).step == 2
    assert read(tmp_path / "c", []).step == 2
    assert not (tmp_path / "c" / SAVING).exists()


def test_a_folder_in_the_place_of_that_note_is_told(tmp_path: Path) -> None:
    with saved(tmp_path / "c", 1):
        pass
    (tmp_path / "c" / SAVING).mkdir()
    assert read(tmp_path / "c", [], read_only=True).step == 1
    with pytest.raises(CheckpointError, match=r"\.saving: got a folder, expected a file or nothing"):
        read(tmp_path / "c", [])


@pytest.mark.parametrize("kind", ["link", "file"])
def test_what_has_the_name_of_a_state_is_refused_and_left_alone(tmp_path: Path, kind: str) -> None:
    with saved(tmp_path / "c", 2):
        pass
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "file").touch()
    (tmp_path / "c" / "9.orbax-checkpoint-tmp").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "c" / "old").mkdir()
    if kind == "link":
        (tmp_path / "c" / "8").symlink_to(tmp_path / "elsewhere")
    else:
        (tmp_path / "c" / "8").write_text("a file of somebody")
    with pytest.raises(CheckpointError, match=r"8: got no folder, expected a saved state or nothing; move"):
        Checkpoints(tmp_path / "c", report=print)
    with Checkpoints(tmp_path / "c", report=print, read_only=True) as checkpoints:  # readers need not care
        assert checkpoints.newest_step == 2
    assert [path.name for path in (tmp_path / "elsewhere").iterdir()] == ["file"]
    assert (tmp_path / "c" / "old").is_dir()
    assert (tmp_path / "c" / "8").is_symlink() == (kind == "link")
    if kind == "file":
        assert (tmp_path / "c" / "8").read_text() == "a file of somebody"


def test_a_second_damaged_state_of_a_step_does_not_replace_the_first(tmp_path: Path) -> None:
    for content in ("first", "second"):
        with saved(tmp_path / "c", 2):
            pass
        (tmp_path / "c" / "2" / "state" / "_METADATA").write_text(content)
        assert read(tmp_path / "c", []).step == 1
    kept = {
        path.name: (path / "state" / "_METADATA").read_text() for path in (tmp_path / "damaged").iterdir()
    }
    assert kept == {"2": "first", "2-2": "second"}


@pytest.mark.parametrize("name", ["thesis [2026]", "what?", "a*b", "[0:3"])
def test_a_path_with_the_characters_of_patterns_keeps_its_states(tmp_path: Path, name: str) -> None:
    folder = tmp_path / name / "checkpoints"
    state = {"weights": jnp.arange(5.0), "step": jnp.int32(7)}
    with Checkpoints(folder, report=print) as saved:
        saved.save(7, state, {"note": name})
    with Checkpoints(folder, report=print) as saved:
        restored = saved.restore(jax.tree.map(jnp.zeros_like, state))
    assert restored is not None
    assert restored.notes == {"note": name}
    jax.tree.map(np.testing.assert_array_equal, restored.state, state)

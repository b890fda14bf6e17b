"""Checkpoints against what happens to files: flipped bits, missing pieces, full disks, killed saves."""

import json
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lstm_jax.errors import CheckpointError
from lstm_jax.runs.checkpoint import CHECKSUMS, KEPT, SAVING, Checkpoints, digest
from tests.helpers.project import Run
from tests.helpers.states import NOTES, same, saved, state_of


def test_what_is_saved_comes_back_with_its_notes(tmp_path: Path) -> None:
    with saved(tmp_path / "c", 1) as checkpoints:
        restored = checkpoints.restore(state_of(0))
    assert restored is not None
    assert restored.step == 1
    assert same(restored.state, state_of(1))
    assert restored.notes == {**NOTES, "step": 1}
    assert jax.tree.structure(restored.state) == jax.tree.structure(state_of(1))


def test_an_empty_folder_has_no_state(tmp_path: Path) -> None:
    with Checkpoints(tmp_path / "c", report=print) as checkpoints:
        assert checkpoints.restore(state_of(0)) is None
        assert checkpoints.newest_step is None


def test_the_newest_states_are_kept_and_a_step_can_be_saved_again(tmp_path: Path) -> None:
    with saved(tmp_path / "c", 4) as checkpoints:
        checkpoints.save(4, state_of(9), NOTES)
        assert checkpoints.newest_step == 4
    with Checkpoints(tmp_path / "c", report=print) as checkpoints:
        restored = checkpoints.restore(state_of(0))
    assert restored is not None
    assert same(restored.state, state_of(9))
    assert sorted(path.name for path in (tmp_path / "c").iterdir()) == ["3", "4"]
    assert KEPT == 2


def files_of(step: Path) -> list[Path]:
    return sorted(path for path in step.rglob("*") if path.is_file() and path.stat().st_size)


def test_a_flipped_bit_in_any_file_is_noticed(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    # Orbax by itself loads flipped bits of the array payload without a word.
    with saved(tmp_path / "whole", 2):
        pass
    rng = np.random.default_rng(0)
    for file in files_of(tmp_path / "whole" / "2"):
        damaged = tmp_path / "run" / "checkpoints"
        shutil.rmtree(damaged.parent, ignore_errors=True)
        shutil.copytree(tmp_path / "whole", damaged)
        target = damaged / file.relative_to(tmp_path / "whole")
        data = bytearray(target.read_bytes())
        data[rng.integers(len(data))] ^= 1 << rng.integers(8)
        target.write_bytes(data)
        told: list[str] = []
        with Checkpoints(damaged, report=told.append) as checkpoints:
            restored = checkpoints.restore(state_of(0))
        assert restored is not None
        assert restored.step == 1, target
        assert same(restored.state, state_of(1))
        assert len(told) == 1
        assert f"{damaged / '2'} is damaged" in told[0]
        assert "\n" not in told[0]
    assert not caplog.records  # one line from us, and no wall of text from Orbax


@pytest.mark.parametrize(
    "victim", ["state", "_CHECKPOINT_METADATA", "state/manifest.ocdbt", "state/_METADATA"]
)
def test_a_missing_piece_falls_back_to_the_state_before(tmp_path: Path, victim: str) -> None:
    with saved(tmp_path / "c", 3):
        pass
    path = tmp_path / "c" / "3" / victim
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    told: list[str] = []
    with Checkpoints(tmp_path / "c", report=told.append) as checkpoints:
        restored = checkpoints.restore(state_of(0))
        assert restored is not None
        assert restored.step == 2
        assert same(restored.state, state_of(2))
        assert "3 is damaged" in told[0]
        assert (tmp_path / "damaged" / "3").is_dir()  # put aside, not thrown away
        # The run goes on: the same step can be saved again, and is the newest then.
        checkpoints.save(3, state_of(3), NOTES)
        assert checkpoints.newest_step == 3
    with Checkpoints(tmp_path / "c", report=told.append) as checkpoints:
        again = checkpoints.restore(state_of(0))
    assert again is not None
    assert (again.step, len(told)) == (3, 1)


def test_changed_notes_are_damage_too(tmp_path: Path) -> None:
    # The figures of past epochs are part of the state: a changed digit must not pass.
    with saved(tmp_path / "c", 2):
        pass
    path = tmp_path / "c" / "2" / "_CHECKPOINT_METADATA"
    metadata = json.loads(path.read_text())
    metadata["custom_metadata"]["history"][0]["train_loss"] = 0.29
    path.write_text(json.dumps(metadata))
    told: list[str] = []
    with Checkpoints(tmp_path / "c", report=told.append) as checkpoints:
        restored = checkpoints.restore(state_of(0))
    assert restored is not None
    assert restored.step == 1
    assert "SHA-256 of _CHECKPOINT_METADATA" in told[0]


def test_if_every_state_is_damaged_the_run_is_refused_not_begun_again(tmp_path: Path) -> None:
    with saved(tmp_path / "c", 2):
        pass
    for step in (1, 2):
        shutil.rmtree(tmp_path / "c" / str(step) / "state")
    told: list[str] = []
    for _ in range(2):  # the second time as well, when the damaged ones have been put aside
        with (
            Checkpoints(tmp_path / "c", report=told.append) as checkpoints,
            pytest.raises(CheckpointError, match="every saved state is damaged"),
        ):
            checkpoints.restore(state_of(0))
    assert len(told) == 2


def test_reading_changes_nothing(tmp_path: Path) -> None:
    with saved(tmp_path / "c", 2):
        pass
    (tmp_path / "c" / "2" / "_CHECKPOINT_METADATA").unlink()
    (tmp_path / "c" / "3.orbax-checkpoint-tmp").mkdir()
    before = sorted((tmp_path / "c").rglob("*"))
    told: list[str] = []
    with Checkpoints(tmp_path / "c", report=told.append, read_only=True) as checkpoints:
        restored = checkpoints.restore(state_of(0))
    assert restored is not None
    assert restored.step == 1
    assert "moved" not in told[0]
    assert sorted((tmp_path / "c").rglob("*")) == before
    with pytest.raises(CheckpointError, match="no checkpoints here yet"):
        Checkpoints(tmp_path / "none", report=told.append, read_only=True)


def test_what_killed_saves_and_deletions_leave_is_cleaned_up(tmp_path: Path) -> None:
    with saved(tmp_path / "c", 2):
        pass
    for name in ("3.orbax-checkpoint-tmp", "3"):  # killed while Orbax wrote, and before the checksums
        shutil.copytree(tmp_path / "c" / "2", tmp_path / "c" / name)
        (tmp_path / "c" / name / CHECKSUMS).unlink()
    (tmp_path / "c" / SAVING).write_text("3")
    (tmp_path / "c" / "1" / CHECKSUMS).unlink()  # an old state, half deleted
    told: list[str] = []
    with Checkpoints(tmp_path / "c", report=told.append) as checkpoints:
        restored = checkpoints.restore(state_of(0))
    assert restored is not None
    assert restored.step == 2
    assert told == []
    assert [path.name for path in (tmp_path / "c").iterdir()] == ["2"]


def test_the_very_first_save_may_be_killed(tmp_path: Path) -> None:
    with saved(tmp_path / "c", 1):
        pass
    (tmp_path / "c" / "1" / CHECKSUMS).unlink()
    (tmp_path / "c" / SAVING).write_text("1")
    with Checkpoints(tmp_path / "c", report=print) as checkpoints:
        assert checkpoints.restore(state_of(0)) is None


def test_lost_checksums_are_damage_and_not_thrown_away(tmp_path: Path) -> None:
    with saved(tmp_path / "c", 2):
        pass
    (tmp_path / "c" / "2" / CHECKSUMS).unlink()
    told: list[str] = []
    with Checkpoints(tmp_path / "c", report=told.append) as checkpoints:
        restored = checkpoints.restore(state_of(0))
    assert restored is not None
    assert restored.step == 1
    assert f"{CHECKSUMS} is missing" in told[0]
    assert (tmp_path / "damaged" / "2").is_dir()


def test_a_state_of_another_shape_is_refused_in_words(tmp_path: Path) -> None:
    with (
        saved(tmp_path / "c", 1) as checkpoints,
        pytest.raises(CheckpointError, match=r"cannot be read \(got arrays"),
    ):
        checkpoints.restore({"something": jnp.zeros(3)})


def test_a_full_disk_is_told_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with saved(tmp_path / "c", 1) as checkpoints:
        usage = shutil.disk_usage(tmp_path)._replace(free=1000)
        with monkeypatch.context() as patched:
            patched.setattr(shutil, "disk_usage", lambda path: usage)
            with pytest.raises(CheckpointError, match="cannot save the state of step 2") as refusal:
                checkpoints.save(2, state_of(2), NOTES)
        assert "no space left on device" in str(refusal.value)
        assert "\n" not in str(refusal.value)
        assert [path.name for path in (tmp_path / "c").iterdir()] == ["1"]
        checkpoints.save(2, state_of(2), NOTES)  # after making room
        assert checkpoints.newest_step == 2


SAVE_INTO_A_LIMIT = """
import resource, signal, sys
from pathlib import Path
import jax.numpy as jnp
from lstm_jax.commands import command_line
from lstm_jax.runs.checkpoint import Checkpoints
def main():
    with Checkpoints(Path(sys.argv[1]), report=print) as checkpoints:
        checkpoints.save(1, {"a": jnp.zeros(10)}, {})
        # As a quota or a disk that fills up meanwhile: a file may have so many bytes and no more.
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))
        checkpoints.save(2, {"a": jnp.arange(100_000.0) ** 0.5}, {})
command_line.run(main, prog="save")
"""


def test_a_save_that_fails_half_way_is_told_in_one_line(run: Run, tmp_path: Path) -> None:
    # Orbax writes from several threads and logs the tracebacks of all of them.
    done = run("-c", SAVE_INTO_A_LIMIT, tmp_path / "c")
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1, done.stderr
    assert "cannot save the state of step 2" in done.stderr
    with Checkpoints(tmp_path / "c", report=print) as checkpoints:
        restored = checkpoints.restore({"a": jnp.ones(10)})
    assert restored is not None
    assert restored.step == 1
    assert [path.name for path in (tmp_path / "c").iterdir()] == ["1"]


def test_the_digest_sees_names_dtypes_shapes_and_values() -> None:
    base = {"a": np.arange(6, dtype=np.float32)}
    others = [
        {"b": base["a"]},
        {"a": base["a"].astype(np.int32)},
        {"a": base["a"].reshape(2, 3)},
        {"a": -base["a"]},  # differs in the sign of 0 as well
        {"a": base["a"], "b": np.float32(0)},
    ]
    assert len({digest(tree) for tree in [base, *others]}) == len(others) + 1
    assert digest({"a": jnp.arange(6, dtype=jnp.float32)}) == digest(base)

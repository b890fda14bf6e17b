"""Where code is kept that is run without a question: nobody else may be able to write there."""

import os
from pathlib import Path

import jax
import pytest

from lstm_jax import devices
from lstm_jax.system.caches import why_not_private

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "user" / "cache" / "native"


def test_a_new_folder_is_private(folder: Path) -> None:
    umask = os.umask(0o002)
    try:
        assert why_not_private(folder) is None
    finally:
        os.umask(umask)
    assert folder.stat().st_mode & 0o777 == 0o700
    assert why_not_private(folder) is None  # and stays it


@pytest.mark.parametrize("mode", [0o770, 0o707, 0o722, 0o1777])
def test_a_folder_that_others_can_write_to_is_not_used(folder: Path, mode: int) -> None:
    assert why_not_private(folder) is None
    folder.chmod(mode)
    assert why_not_private(folder) == (
        f"{folder}: others can write to it, so code in it cannot be trusted; remove their permission and "
        "move the folder away, or name another one in LSTM_JAX_CACHE_DIR"
    )


@pytest.mark.parametrize("mode", [0o707, 0o777, 0o757])
@pytest.mark.parametrize("level", [0, 1])
def test_nor_one_that_others_could_exchange(folder: Path, level: int, mode: int) -> None:
    assert why_not_private(folder) is None
    above = folder.parents[level]
    above.chmod(mode)
    assert f"{folder}: others can write to {above}, so" in str(why_not_private(folder))
    above.chmod(mode | 0o1000)  # as /tmp: they may add to it, but not exchange what is there
    assert why_not_private(folder) is None
    above.chmod(0o775)  # a group may: on many systems it is the user's own
    assert why_not_private(folder) is None


@needs_root
@pytest.mark.parametrize("level", [-1, 0, 1])
def test_nor_one_that_belongs_to_somebody_else_or_lies_in_such(folder: Path, level: int) -> None:
    assert why_not_private(folder) is None
    theirs = folder if level < 0 else folder.parents[level]
    os.chown(theirs, 65533, -1)
    where = "it" if level < 0 else theirs
    assert f"{folder}: others can write to {where}, so" in str(why_not_private(folder))


def test_nor_one_behind_a_link_that_leads_there(folder: Path, tmp_path: Path) -> None:
    assert why_not_private(folder) is None
    link = tmp_path / "link"
    link.symlink_to(folder)
    assert why_not_private(link) is None
    folder.parent.chmod(0o777)
    assert f"{link}: others can write to {folder.parent}, so" in str(why_not_private(link))
    folder.parent.chmod(0o700)
    # The link itself must not be theirs to turn.
    public = tmp_path / "public"
    public.mkdir()
    (public / "link").symlink_to(folder)
    public.chmod(0o777)
    assert f"others can write to {public}, so" in str(why_not_private(public / "link"))


def test_nor_one_behind_a_chain_of_links_of_which_others_can_turn_one(folder: Path, tmp_path: Path) -> None:
    assert why_not_private(folder) is None
    public, down = tmp_path / "public", tmp_path / "down"
    for each in (public, down):
        each.mkdir()
    (tmp_path / "first").symlink_to("down/second")
    (down / "second").symlink_to("../public/third")  # relative, and up again
    (public / "third").symlink_to(folder)
    assert why_not_private(tmp_path / "first") is None
    public.chmod(0o777)
    for path in (tmp_path / "first", tmp_path / "down" / "second" / "kept"):
        assert f"{path}: others can write to {public}, so" in str(why_not_private(path))


def test_a_link_to_itself(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("link")
    assert "LSTM_JAX_CACHE_DIR can name another folder" in str(why_not_private(tmp_path / "link" / "native"))


def test_a_relative_name(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    relative = folder.relative_to(tmp_path)
    assert why_not_private(relative) is None
    tmp_path.chmod(0o777)
    assert f"{relative}: others can write to {tmp_path}, so" in str(why_not_private(relative))


@needs_root
def test_nor_one_behind_a_link_of_somebody_else(folder: Path, tmp_path: Path) -> None:
    assert why_not_private(folder) is None
    link = tmp_path / "link"
    link.symlink_to(folder.parent)
    os.chown(link, 65533, -1, follow_symlinks=False)
    assert f"others can write to {link}, so" in str(why_not_private(link / "native"))


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert why_not_private(tmp_path / "file" / "cache") == (
        f"{tmp_path / 'file' / 'cache'}: Not a directory; LSTM_JAX_CACHE_DIR can name another folder"
    )


@pytest.fixture
def configured(monkeypatch: pytest.MonkeyPatch) -> dict[str, object]:
    """What JAX is told, without telling it."""
    told: dict[str, object] = {}
    monkeypatch.setattr(jax.config, "update", told.__setitem__)
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR", raising=False)
    return told


def test_compiled_programs_are_held_to_the_same_rule(
    configured: dict[str, object],
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setenv("LSTM_JAX_CACHE_DIR", str(folder))
    programs = devices.compilation_cache_dir()
    devices.start(devices=None)
    assert configured["jax_compilation_cache_dir"] == str(programs)
    assert programs.stat().st_mode & 0o777 == 0o700
    assert not caplog.records
    configured.clear()
    programs.chmod(0o777)
    devices.start(devices=2)
    assert configured == {"jax_num_cpu_devices": 2}
    (record,) = caplog.records
    assert record.getMessage().startswith(
        f"lstm_jax: compiled programs are not kept: {programs}: others can write to it, so code in it cannot"
    )
    # Who names another place in JAX's own variable answers for it.
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", str(programs))
    devices.start(devices=None)
    assert len(caplog.records) == 1

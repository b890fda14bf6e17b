"""The program that kills a run again and again: when it kills, and what it makes of it."""

import random
import signal
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests import kill_and_resume


@pytest.mark.parametrize(("saved", "code"), [([0, 0, 0], 1), ([0, 40, 40], 0), ([40, 80], 1)])
def test_kills_that_came_before_any_save_show_nothing(
    saved: list[int], code: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(command: Sequence[str], check: bool) -> None:
        Path(command[command.index("--run-dir") + 1], "checkpoints").mkdir(parents=True)

    monkeypatch.setattr(kill_and_resume.subprocess, "run", run)
    monkeypatch.setattr(kill_and_resume, "kill_at_random_moments", lambda *a, **k: saved)
    monkeypatch.setattr(kill_and_resume, "state_digest", lambda run_dir: "")
    monkeypatch.setattr(kill_and_resume, "figures_of", lambda run_dir: [])
    monkeypatch.setattr("sys.argv", ["kill_and_resume", "--kills", "3"])
    assert kill_and_resume.main() == code
    told = capsys.readouterr().out
    assert ("NO   a kill came after a new state was saved" in told) == (max(saved) == 0)


def test_a_kill_that_waited_for_a_state_comes_soon_after(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else a run that is nearly at its end finishes first."""
    delays: list[float] = []

    class Killed:
        """A process that saves a state as soon as it is started."""

        returncode = -signal.SIGKILL

        def __init__(self, *_: object, **__: object) -> None:
            state = tmp_path / "checkpoints" / str(len(delays) + 1)
            state.mkdir(parents=True)
            (state / kill_and_resume.CHECKSUMS).touch()

        def poll(self) -> None: ...

        def send_signal(self, number: int) -> None: ...

        def communicate(self) -> tuple[str, str]:
            return "", ""

    monkeypatch.setattr(kill_and_resume.subprocess, "Popen", Killed)
    monkeypatch.setattr(kill_and_resume.time, "sleep", delays.append)
    saved = kill_and_resume.kill_at_random_moments(
        tmp_path, [], kills=60, longest=60, rng=random.Random(0), after_progress=30
    )
    assert saved == list(range(1, 61))
    assert max(delays[:30]) > 30
    assert max(delays[30:]) <= kill_and_resume.AFTER_PROGRESS <= 1

"""A comparison that was stopped goes on with what is missing, and with nothing else."""

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from lstm_jax.compare.beginning import beginning, source_digest

from lstm_jax.compare import comparison, continuing, measuring
from lstm_jax.compare.comparison import compare
from lstm_jax.compare.results import FrameworkResult, Results, as_json, read_results
from lstm_jax.compare.work import Examples
from lstm_jax.errors import ConfigError
from tests.helpers.fake_frameworks import FRAMEWORKS
from tests.helpers.small_comparison import EFFORT, OPTIONS

NAMES = ("right", "slow", "swapped", "inference")
OPTIONS_OF_ALL = dataclasses.replace(OPTIONS, time_steps=28, scaling=True, epochs=1, seeds=2)
CHOSEN = {name: FRAMEWORKS[name] for name in NAMES}
COMMAND = OPTIONS_OF_ALL.command()


@pytest.fixture(scope="module", autouse=True)
def small() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(measuring, "MOST_STEPS", 5)
        patch.setattr(comparison, "CURVES", {"hidden": (2,), "batch": (3,)})
        yield


def compared(
    digits: Examples, logs: Path, *, earlier: Results | None = None, saves: int | None = None
) -> tuple[Results, list[str]]:
    """A comparison, stopped after it has been saved so many times; what it found, and what it said."""
    saved: list[Results] = []
    said: list[str] = []

    def save(results: Results) -> None:
        saved.append(results)
        if len(saved) == saves:
            raise KeyboardInterrupt

    try:
        compare(
            OPTIONS_OF_ALL, CHOSEN, digits, digits,
            logs=logs, save=save, report=said.append, effort=EFFORT, earlier=earlier,
        )  # fmt: skip
    except KeyboardInterrupt:
        assert saves is not None
    return saved[-1], said


@pytest.fixture(scope="module")
def whole(digits: Examples, tmp_path_factory: pytest.TempPathFactory) -> tuple[Results, list[str]]:
    """A comparison that was not stopped, and what it said."""
    return compared(digits, tmp_path_factory.mktemp("whole"))


def without_time(results: Results) -> dict[str, Any]:
    """Results without what differs each time: the fake frameworks bring a clock, their processes do not."""
    found = json.loads(as_json(dataclasses.replace(results, date="", notes=(), peak=None)))
    for framework in found["frameworks"].values():
        for learning in framework["learning"]:
            del learning["start_seconds"]
        for measure in ("start_seconds", "start_memory", "peak_memory", "train_cpu_seconds"):
            if framework["speed"]:
                del framework["speed"][measure]
    return found


def parts(said: list[str]) -> list[str]:
    return [line for line in said if line.startswith(("hidden", "batch", "seed"))]


# It is saved after each of four frameworks' parity and once after all, after speed, after each of four sizes,
# after each of four runs.
AFTER_SPEED = 6


# In the middle of parity, after it, after speed, in the middle of the curves, in the middle of learning.
@pytest.mark.parametrize("saves", [2, 5, 6, 8, 12])
def test_wherever_it_was_stopped_it_comes_to_the_same(
    digits: Examples, whole: tuple[Results, list[str]], tmp_path: Path, saves: int
) -> None:
    early, _ = compared(digits, tmp_path / "logs", saves=saves)
    file = tmp_path / "results.json"
    file.write_text(as_json(dataclasses.replace(early, notes=(continuing.STOPPED,))))
    late, said = compared(digits, tmp_path / "logs", earlier=read_results(file))
    assert without_time(late) == without_time(whole[0])
    # Two sizes on each of two axes, two frameworks that train, two seeds.
    assert len(parts(whole[1])) == 4 + 4
    assert parts(said) == parts(whole[1])[max(saves - AFTER_SPEED, 0) :]
    begins = any("computes the same steps" in line for line in said)
    if saves < AFTER_SPEED:
        assert begins
        assert not late.notes
        return
    assert not begins
    assert late.frameworks["right"].speed == early.frameworks["right"].speed
    (note,) = late.notes
    assert note.startswith("Stopped, and continued on 20")


def test_a_size_that_kills_a_process_costs_it_no_other_size(digits: Examples, tmp_path: Path) -> None:
    chosen = {name: FRAMEWORKS[name] for name in ("right", "dies-when-small")}
    options = dataclasses.replace(OPTIONS_OF_ALL, epochs=0)
    results = compare(
        options, chosen, digits, digits,
        logs=tmp_path / "logs", save=lambda results: None, report=lambda text: None, effort=EFFORT,
    )  # fmt: skip
    points = [(curve.axis, point) for curve in results.scaling for point in curve.points]
    assert [(axis, getattr(point, axis)) for axis, point in points] == [
        ("hidden", 2), ("hidden", 3), ("batch", 3), ("batch", 4)
    ]  # fmt: skip
    for axis, point in points:
        assert len(point.seconds["right"]) == EFFORT.scaling_rounds
        if (axis, point.hidden) == ("hidden", 2):
            assert point.why_not == {"dies-when-small": "its process ended with code 5: it said nothing"}
        else:
            assert point.seconds["dies-when-small"] == point.seconds["right"]
    # Of what failed somewhere, the last words are kept.
    assert [path.name for path in (tmp_path / "logs").iterdir()] == ["dies-when-small.log"]


def test_what_is_whole_is_not_repeated(
    digits: Examples, whole: tuple[Results, list[str]], tmp_path: Path
) -> None:
    again, said = compared(digits, tmp_path / "logs", earlier=whole[0])
    assert again == whole[0]
    assert not whole[0].notes
    assert not parts(said)
    assert "no sizes and runs are left to measure" in said
    swapped = next(line for line in said if line.startswith("swapped: different"))
    assert swapped.endswith(" (found before, and not tried again)")


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        (
            {"command": COMMAND.replace("--epochs 1", "--epochs 7").replace("--no-quick", "--quick")},
            r"other options \(it has --epochs 7, now 1; --quick , now absent; --no-quick absent, now \)",
        ),
        ({"machine": {"cpu": "an abacus"}}, "other machine .*cpu an abacus, now"),
        ({"versions": {"python": "2.7"}}, "other versions .*python 2.7, now 3"),
        (
            {"frameworks": {"right": FrameworkResult("right", {"optax": "0.0.1"})}},
            r"other versions \(it has optax 0.0.1, now 0[\d.]+\)",
        ),
        (
            {"source": "0123456789abcdef"},
            r"other code of lstm_jax \(it has SHA-256 0123456789ab, now \w{12}\)",
        ),
    ],
    ids=["options", "machine", "versions", "packages", "code"],
)
def test_another_comparison_is_not_gone_on_with(
    digits: Examples, tmp_path: Path, changes: dict[str, Any], what: str
) -> None:
    asked = beginning(OPTIONS_OF_ALL, CHOSEN, digits)
    file = tmp_path / "results.json"
    file.write_text(as_json(asked))
    assert continuing.earlier_part(file, asked) == asked
    file.write_text(as_json(dataclasses.replace(asked, **changes)))
    before = file.read_bytes()
    with pytest.raises(ConfigError, match=rf"results\.json is of a comparison with {what}.*--overwrite"):
        continuing.earlier_part(file, asked)
    assert file.read_bytes() == before


def test_other_code_is_told_apart(tmp_path: Path) -> None:
    digests = []
    for name, text in [("a.py", "1"), ("a.py", "2"), ("cpp/b.h", "2"), ("cpp/b.h", "2"), ("c.txt", "3")]:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
        digests.append(source_digest(tmp_path))
    assert len(set(digests[:3])) == 3
    assert digests[2] == digests[3] == digests[4]  # the same again; and what is no code

"""A comparison that was stopped goes on with what is missing, and with nothing else."""

import dataclasses
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_compare import EFFORT, OPTIONS

from lstm_jax.compare import comparison, continuing, measuring
from lstm_jax.compare.beginning import beginning
from lstm_jax.compare.comparison import compare
from lstm_jax.compare.options import Compare
from lstm_jax.compare.results import Results, as_json, read_results
from lstm_jax.compare.work import Examples
from lstm_jax.errors import ConfigError, ResultsError
from tests.fake_frameworks import FRAMEWORKS

NAMES = ("right", "slow", "swapped", "inference")
OPTIONS_OF_ALL = dataclasses.replace(OPTIONS, time_steps=28, scaling=True, epochs=1, seeds=2)
CHOSEN = {name: FRAMEWORKS[name] for name in NAMES}


@pytest.fixture(scope="module", autouse=True)
def small() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(measuring, "MOST_STEPS", 5)
        patch.setattr(comparison, "CURVES", {"hidden": (2,), "batch": (3,)})
        yield


@pytest.fixture(scope="module")
def digits() -> Examples:
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (60, 28, 28), np.uint8)
    return Examples(images, rng.integers(0, 10, 60, np.int32))


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


# After parity, in the middle of the curves, in the middle of learning.
@pytest.mark.parametrize("saves", [1, 4, 8])
def test_wherever_it_was_stopped_it_comes_to_the_same(
    digits: Examples, whole: tuple[Results, list[str]], tmp_path: Path, saves: int
) -> None:
    early, _ = compared(digits, tmp_path / "logs", saves=saves)
    file = tmp_path / "results.json"
    file.write_text(as_json(dataclasses.replace(early, notes=(continuing.STOPPED,))))
    late, said = compared(digits, tmp_path / "logs", earlier=read_results(file))
    assert without_time(late) == without_time(whole[0])
    # Two sizes on each of two axes, two frameworks that train, two seeds; 2 is after speed.
    assert len(parts(whole[1])) == 4 + 4
    assert parts(said) == parts(whole[1])[max(saves - 2, 0) :]
    begins = any("computes the same steps" in line for line in said)
    if saves == 1:
        assert begins
        assert not late.notes
        return
    assert not begins
    assert late.frameworks["right"].speed == early.frameworks["right"].speed
    (note,) = late.notes
    assert note.startswith("Stopped, and continued on 20")


def test_what_is_whole_is_not_repeated(
    digits: Examples, whole: tuple[Results, list[str]], tmp_path: Path
) -> None:
    again, said = compared(digits, tmp_path / "logs", earlier=whole[0])
    assert again == whole[0]
    assert not whole[0].notes
    assert not parts(said)


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        (
            {"command": "python -m lstm_jax compare --epochs 7"},
            r"other options \(got '.*--epochs 7', and",
        ),
        ({"machine": {"cpu": "an abacus"}}, "other machine .*cpu: 'an abacus' and now"),
        ({"versions": {"python": "2.7"}}, "other versions .*lstm_jax"),
    ],
    ids=["options", "machine", "versions"],
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


def test_a_file_that_is_none_is_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / "results.json").write_text("{}")
    with pytest.raises(ResultsError, match=r"results\.json: got format None, expected 1"):
        comparison.run(Compare(output=tmp_path))
    assert (tmp_path / "results.json").read_text() == "{}"


def test_the_same_command_reports_again(run: Callable[..., Any], tmp_path: Path) -> None:
    options = "--quick --frameworks lstm_jax-scan --hidden-size 2 --batch-size 2 --time-steps 2 --repeats 1"
    words = ("-m", "lstm_jax", "compare", *options.split(), "--output", tmp_path)
    first, second = run(*words), run(*words)
    assert (first.returncode, second.returncode) == (0, 0), first.stderr + second.stderr
    assert first.stdout == second.stdout
    assert "lstm_jax-scan starts" in first.stderr
    assert "lstm_jax-scan starts" not in second.stderr
    assert "going on with what is missing" in second.stderr

"""results.json: read as it was written, or refused in one line."""

import dataclasses
import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lstm_jax.compare.report import as_text, write_report
from lstm_jax.compare.results import as_json, read_results
from lstm_jax.errors import ResultsError
from tests.helpers.comparison_example import PAIR, PARTS, example_results


def test_results_are_read_as_they_were_written(tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    for results in (example_results(), *PARTS.values()):
        path.write_text(as_json(results))
        assert read_results(path) == results


def test_numbers_that_are_not_finite_survive(tmp_path: Path) -> None:
    results = example_results(PAIR)
    parity = results.frameworks["pytorch"].parity
    assert parity is not None
    losses = (2.3, float("inf"), *[float("nan")] * 98)
    wrong = dataclasses.replace(parity, losses=losses, curve=float("nan"), why_different="losses: nan")
    results = results.with_framework("pytorch", parity=wrong)
    path = tmp_path / "results.json"
    path.write_text(as_json(results))
    # What other programs read as JSON too.
    json.loads(path.read_text(), parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
    found = read_results(path).frameworks["pytorch"].parity
    assert found is not None
    np.testing.assert_array_equal(found.losses, losses)
    assert as_json(read_results(path)) == as_json(results)
    write_report(results, tmp_path, against=None)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "cannot be read"),
        ("{", "cannot be read"),
        ("[" * 100_000, "cannot be read"),
        ("[]", "got format None, expected 1"),
        ('{"format": 2}', "got format 2, expected 1"),
        ('{"format": 1}', "lacks command, date"),
        ('{"command": "python -m lstm_jax benchmark", "sizes": []}', "got format None"),
    ],
)
def test_damaged_and_foreign_files_are_refused(text: str, words: str, tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    path.write_text(text)
    with pytest.raises(ResultsError, match=words) as refusal:
        read_results(path)
    assert "\n" not in str(refusal.value)
    assert str(path) in str(refusal.value)


def test_values_that_make_no_sense_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    text = as_json(example_results(PAIR, rounds=5, seeds=1, epochs=1))
    pytorch = ("frameworks", "pytorch")
    for place, value, words in [
        ((*pytorch, "speed", "train_seconds", 0), 0.0, "train_seconds: expected numbers above 0"),
        ((*pytorch, "speed", "train_seconds", 0), "x", "train_seconds: got 'x', expected float"),
        ((*pytorch, "speed", "latency_seconds", 0), "nan", "latency_seconds: expected numbers above 0"),
        ((*pytorch, "speed", "settings", "train"), 2, "settings.train: got 2, expected str"),
        (("scaling", 0, "points", 0, "steps"), 0, "steps: expected numbers above 0"),
        ((*pytorch, "title"), None, "title: got None, expected str"),
        ((*pytorch, "learning", 0, "accuracy"), [], "accuracy: expected as many as steps"),
        ((*pytorch, "learning", 0), [], "learning: got [], expected an object"),
        (("peak", "flop"), 0, "peak.flop: expected numbers above 0"),
        (("scaling", 0, "axis"), "width", "axis: got 'width', expected one of hidden, batch, time"),
        (("scaling", 0, "points", 0, "seconds", "pytorch", 0), -1, "seconds: expected numbers above 0"),
        (("hidden",), True, "hidden: got True, expected int"),
        (("hidden",), 1.5, "hidden: got 1.5, expected int"),
        (("colour",), "red", "unknown colour"),
    ]:
        values = json.loads(text)
        inner = values
        for key in place[:-1]:
            inner = inner[key]
        inner[place[-1]] = value
        path.write_text(json.dumps(values))
        with pytest.raises(ResultsError) as refusal:
            read_results(path)
        assert words in str(refusal.value)


def test_a_missing_or_binary_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    for path in (tmp_path / "nowhere.json", tmp_path, tmp_path / "binary"):
        with pytest.raises(ResultsError, match="cannot be read"):
            read_results(path)


def test_whatever_can_be_read_can_be_told(tmp_path: Path) -> None:
    """Random damage is refused in one line, or leaves results that make a report."""
    chance = random.Random(0)
    text = as_json(example_results(PAIR, rounds=5, seeds=1, epochs=1))
    path = tmp_path / "results.json"
    read, messages = 0, []
    for _ in range(150):
        values = json.loads(text)
        _damage(values, chance)
        path.write_text(json.dumps(values))
        try:
            results = read_results(path)
        except ResultsError as error:
            messages.append(str(error))
        else:
            as_text(results, None)
            read += 1
    assert read > 5
    assert len(messages) > 50
    assert not any("\n" in message for message in messages)


def _damage(values: Any, chance: random.Random) -> None:
    """Change, add or remove something anywhere."""
    while True:
        keys = list(values) if isinstance(values, dict) else list(range(len(values)))
        key = chance.choice(keys)
        if isinstance(values[key], dict | list) and values[key] and chance.random() < 0.85:
            values = values[key]
            continue
        kind = chance.randrange(4)
        if kind == 0:
            del values[key]
        elif kind == 1 and isinstance(values, dict):
            values["something"] = 1
        else:
            values[key] = chance.choice([None, -1, 0, "x", [], {}, True, 1e300, "nan", [[1.0]], ["x"]])
        return

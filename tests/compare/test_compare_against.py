"""Two comparisons beside each other, and when they say nothing about each other."""

import dataclasses

import numpy as np
from lstm_jax.compare.against import against_finding, against_table

from lstm_jax.compare.report import as_text
from lstm_jax.compare.results import Peak, Results
from tests.helpers.comparison_example import PAIR, example_results, rows_of, with_speed


def test_against_an_earlier_comparison() -> None:
    before, now = example_results(seed=1), example_results(faster=1.25)
    now = with_speed(now, "haiku", train_seconds=tuple(2 * s for s in _seconds(now, "haiku")))
    rows = rows_of(against_table(now, before))
    expected = np.median(_seconds(before, "lstm_jax-native")) / np.median(_seconds(now, "lstm_jax-native"))
    column = "then / now (95 % interval)"
    assert rows["lstm_jax-native"][column].startswith(f"{expected:.2f} (")
    words = {name: row["training is"] for name, row in rows.items()}
    assert (words["lstm_jax-native"], words["haiku"], words["pytorch"]) == (
        "faster",
        "slower",
        "no difference",
    )
    assert words["onnxruntime"] == "—"
    assert rows["onnxruntime"]["inference is"] == "no difference"
    text = against_finding(now, before).text
    assert "Faster: lstm_jax-native." in text
    assert "Slower: haiku." in text
    assert "The machine itself" not in text
    assert "lstm_jax-native" in as_text(now, before)


def _seconds(results: Results, name: str) -> tuple[float, ...]:
    speed = results.frameworks[name].speed
    assert speed is not None
    return speed.train_seconds


def test_against_says_what_cannot_be_compared() -> None:
    before, now = example_results(PAIR), example_results(PAIR[:1])
    table = against_table(now, before)
    assert "Only then: pytorch." in table.notes
    other = dataclasses.replace(before, hidden=128)
    assert not against_table(now, other).rows
    assert "hidden size 128 then, 64 now" in against_table(now, other).notes[0]
    assert "hidden size 128 then, 64 now" in against_finding(now, other).text
    quick = dataclasses.replace(before, steps_per_call=10)
    assert not against_table(quick, before).rows
    words = "not the same work: 100 train steps in a timed call then, 10 now"
    assert words in against_table(quick, before).notes[0]
    assert words in against_finding(quick, before).text
    few = rows_of(against_table(example_results(PAIR, rounds=1), before))
    assert few["pytorch"]["training is"] == "too few rounds to say"
    assert before.peak is not None
    slower = Peak(before.peak.flop, tuple(1.5 * seconds for seconds in before.peak.seconds))
    text = against_finding(dataclasses.replace(before, peak=slower), before).text
    assert "The machine itself is slower" in text
    changed = dataclasses.replace(
        before, versions={**before.versions, "lstm_jax": "9"}, machine={"cpu": "Another"}
    )
    notes = against_table(changed, before).notes
    assert "Versions: lstm_jax 0.1.0 to 9." in notes
    assert "Another machine: A processor of 2.1 GHz then, Another now." in notes

"""What a comparison tells: tables, findings, files. How the page looks is in test_compare_page.py."""

import dataclasses
import re
import statistics as stdlib_statistics
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from lstm_jax.compare.findings import Finding, Standing, findings, rank
from lstm_jax.compare.page import how
from lstm_jax.compare.plots import NAMES, SUFFIXES
from lstm_jax.compare.styles import STYLES
from lstm_jax.compare.tables import (
    Table,
    accuracy_table,
    as_markdown,
    frameworks_table,
    parity_table,
    scaling_tables,
    settings_in_words,
    speed_table,
    three_digits,
    with_spread,
)

from lstm_jax.compare.frameworks import FRAMEWORKS
from lstm_jax.compare.measuring import TIMING_RATE
from lstm_jax.compare.parity import PARITY_RATE
from lstm_jax.compare.report import NO_PICTURES, as_text, write_report
from lstm_jax.compare.results import FrameworkResult, Results, read_results
from lstm_jax.compare.statistics import LEAST_ROUNDS, ratio
from lstm_jax.config import recipe_config
from tests.helpers.comparison_example import (
    COSTS,
    PAIR,
    PARTS,
    example_results,
    rows_of,
    with_speed,
    with_troubles,
)


def finding_of(results: Results, topic: str) -> Finding:
    return next(finding for finding in findings(results) if finding.topic == topic)


# --------------------------------------------------------------------------------------------------
# Tables
# --------------------------------------------------------------------------------------------------


def test_numbers_as_words() -> None:
    words = [three_digits(value) for value in (0.0123, 0.5, 1.234, 12.34, 123.4, 12345.6)]
    assert words == ["0.012", "0.500", "1.23", "12.3", "123", "12,346"]
    assert with_spread([1.0, 2.0, 3.0, 4.0, 5.0], factor=10) == "30.0 (20.0-40.0)"
    assert with_spread([1000.0, 2000.0, 3000.0]) == "2,000 (1,500-2,500)"
    assert with_spread([2.0]) == "2.00"


def test_the_speed_table_has_the_right_numbers() -> None:
    results = example_results()
    rows = rows_of(speed_table(results))
    medians = {
        name: float(np.median(one.speed.train_seconds))
        for name, one in results.frameworks.items()
        if one.speed and one.speed.train_seconds
    }
    assert list(rows) == [*sorted(medians, key=medians.__getitem__), "onnxruntime"]
    speed = results.frameworks["pytorch"].speed
    assert speed is not None
    assert results.peak is not None
    row = rows["pytorch"]
    step = float(np.median(speed.train_seconds))
    assert row["setting"] == "2 threads; inference 1 thread; one image 1 thread"
    low, high = np.percentile(speed.train_seconds, [25, 75])
    assert row["train step, ms (quartiles)"] == f"{1e3 * step:.2f} ({1e3 * low:.2f}-{1e3 * high:.2f})"
    found = re.fullmatch(r"([\d.]+) \(([\d.]+) to ([\d.]+)\)", row["ratio to the fastest (95 % interval)"])
    assert found is not None
    assert found[1] == f"{step / medians['lstm_jax-native']:.2f}"
    assert float(found[2]) < float(found[1]) < float(found[3])
    assert row["training, images/s"] == f"{128 / step:,.0f}"
    assert row["inference, images/s"] == f"{128 / np.median(speed.infer_seconds):,.0f}"
    latency = f"{1e3 * np.median(speed.latency_seconds):.3f} ("
    assert row["a single image, ms (quartiles)"].startswith(latency)
    assert (row["first step, s"], row["start-up, s"]) == ("0.040", "2.30")
    assert row["peak memory, MB (of it at start)"] == "350 (210)"
    assert row["processor time of a train step, ms"] == f"{1.7e3 * step:.2f}"
    peak = 2 * 2048**3 / np.median(results.peak.seconds)
    # 8 T B (D + H) H for the forward pass; twice that for the backward pass, but for the inputs' gradient.
    flop = 8 * 28 * 128 * (3 * (28 + 64) * 64 - 28 * 64)
    assert row["share of peak"] == f"{flop / step / peak:.0%}"
    assert rows["lstm_jax-native"]["ratio to the fastest (95 % interval)"] == "1"
    assert rows["onnxruntime"]["train step, ms (quartiles)"] == "inference only"
    assert rows["onnxruntime"]["share of peak"] == "—"


def test_settings_as_words() -> None:
    for settings, words in [
        ({}, "—"),
        ({"train": "2 threads", "infer": "2 threads", "latency": "2 threads"}, "2 threads"),
        ({"infer": "2 threads", "latency": "1 thread"}, "inference 2 threads; one sequence 1 thread"),
    ]:
        assert settings_in_words(settings, one="sequence") == words


def test_start_up_is_the_median_of_all_starts() -> None:
    results = example_results(PAIR)
    learning = tuple(
        dataclasses.replace(run, start_seconds=seconds)
        for run, seconds in zip(results.frameworks["pytorch"].learning, (5.0, 6.0, 7.0), strict=True)
    )
    results = results.with_framework("pytorch", learning=learning)
    table = speed_table(results)
    assert rows_of(table)["pytorch"]["start-up, s"] == "5.50"  # 2.3, 5, 6 and 7
    assert "median of 4 starts" in " ".join(table.notes)
    found = finding_of(results, "Start-up")
    assert found.text.startswith("Median of 4 starts, without an interval: import and model take 1.90 s with")
    assert "5.50 s with pytorch" in found.text
    assert "median of 1 to 4 starts" in " ".join(speed_table(example_results()).notes)  # ONNX Runtime has one
    assert "median of 1 start." in " ".join(speed_table(PARTS["quick"]).notes)


def test_how_says_what_the_comparison_does() -> None:
    results = example_results(PAIR)
    told = how(results)
    assert "100 train steps in a call" in told["What is timed"]
    rate = recipe_config("tutorial").learning_rate
    assert f"{PARITY_RATE:g}, a tenth of the recipe's. At {rate:g}" in told["Learning rate of parity"]
    assert pytest.approx(10 * PARITY_RATE) == rate
    assert f"learning rate is {TIMING_RATE:g}" in told["What is timed"]
    few = how(dataclasses.replace(results, steps_per_call=10, judge_losses=results.judge_losses[:12]))
    assert "10 train steps in a call" in few["What is timed"]
    assert "losses of the first 12 steps" in few["Parity first"]
    text = as_text(results, None)
    for topic, sentences in told.items():
        assert f"- **{topic}.** {sentences}" in text


def test_those_that_differ_are_not_timed() -> None:
    results = with_troubles(example_results(seeds=1, epochs=1))
    assert results.frameworks["equinox"].speed is not None
    for table in (speed_table(results), accuracy_table(results), *scaling_tables(results)):
        assert not {"equinox", "haiku", "keras-jax"} & set(rows_of(table))
    assert rows_of(parity_table(results))["equinox"]["agrees"] == "no"
    fates = {name: row["result"] for name, row in rows_of(frameworks_table(results)).items()}
    assert set(fates) == set(results.frameworks)
    assert fates["equinox"].startswith("different: gradients: relative error 1.2e-01")
    assert fates["haiku"] == "not measured: not installed: pip install dm-haiku"
    assert fates["keras-jax"] == "not measured: ended by signal 9"
    assert fates["pytorch"] == "measured"
    # A framework that has not shown that it agrees is not timed either.
    unknown = results.with_framework("pytorch", parity=None)
    assert "pytorch" not in rows_of(speed_table(unknown))


def test_parity_shows_errors_beside_what_is_allowed() -> None:
    results = example_results(PAIR)
    rows = rows_of(parity_table(results))
    parity = results.frameworks["pytorch"].parity
    assert parity is not None
    assert rows["pytorch"]["loss curve"] == f"{parity.curve:.1e}"
    assert rows["pytorch"]["inference"] == f"{parity.inference:.1e}" != rows["pytorch"]["logits"]
    assert rows["allowed"]["logits"] == rows["allowed"]["inference"] == "1e-04"


def test_accuracy_counts_seeds_and_times() -> None:
    results = example_results(PAIR)
    runs = [
        dataclasses.replace(run, start_seconds=2.0, first_step_seconds=1.0, seconds=(1.0, 2.0, factor * 3.0))
        for run, factor in zip(results.frameworks["pytorch"].learning, (1, 2, 3), strict=True)
    ]
    accuracies = [(0.96, 0.975, 0.985), (0.97, 0.96, 0.99), (0.9, 0.96, 0.971)]
    learning = tuple(
        dataclasses.replace(run, steps=(1, 2, 3), accuracy=accuracy)
        for run, accuracy in zip(runs, accuracies, strict=True)
    )
    row = rows_of(accuracy_table(results.with_framework("pytorch", learning=learning)))["pytorch"]
    # 97 % first after 2, 1 and 9 seconds of training, 3 seconds after the start.
    assert row["97 % from first step, s"] == "2.00 (1.00 to 9.00)"
    assert row["97 % from process start, s"] == "5.00 (4.00 to 12.0)"
    assert row["98 % from first step, s"] == "2 of 3 seeds"
    deviation = stdlib_statistics.stdev([98.5, 99.0, 97.1])
    assert row["accuracy after 5 epochs, %"] == f"98.20 ± {deviation:.2f}"
    few = accuracy_table(dataclasses.replace(results, test_images=1234))
    assert "Test accuracy on 1,234 images" in few.notes[0]
    alone = rows_of(accuracy_table(results.with_framework("pytorch", learning=learning[:1])))["pytorch"]
    assert alone["97 % from first step, s"] == "2.00"
    assert alone["accuracy after 5 epochs, %"] == "98.50"


def test_scaling_has_medians_slopes_and_reasons() -> None:
    results = example_results()
    table = next(table for table in scaling_tables(results) if table.title == "Scaling over time steps")
    rows = rows_of(table)
    curve = next(curve for curve in results.scaling if curve.axis == "time")
    medians = [float(np.median(point.seconds["haiku"])) for point in curve.points]
    sizes = [point.time for point in curve.points]
    assert rows["haiku"]["784"] == f"{1e3 * medians[-1]:.0f}"
    assert rows["haiku"]["slope"] == f"{np.polyfit(np.log(sizes), np.log(medians), 1)[0]:.2f}"
    assert rows["pytorch-compile"]["784"] == "—"
    assert rows["pytorch-compile"]["slope"] != "—"
    steps = [point.steps for point in curve.points]
    assert f"Train steps in a timed call: {min(steps)} to {max(steps)}" in table.notes[0]
    assert "pytorch-compile at 784: takes minutes to compile beyond 112 time steps" in table.notes


def test_markdown_survives_bars_and_line_breaks() -> None:
    text = as_markdown(Table("T", ("a", "b"), (("x|y", "one\ntwo"),), ("three\nfour",)))
    assert text.splitlines() == [
        "## T",
        "",
        "| a | b |",
        "| --- | ---: |",
        "| x\\|y | one two |",
        "",
        "three four",
    ]


@pytest.mark.parametrize("part", PARTS)
def test_a_part_of_a_comparison_is_told_as_such(part: str, tmp_path: Path) -> None:
    results = PARTS[part]
    write_report(results, tmp_path, against=None)
    text = as_text(results, None)
    assert text.replace("\n", "").isprintable()
    for section, measured in {
        "Accuracy": any(one.learning for one in results.frameworks.values()),
        "Scaling": bool(results.scaling),
    }.items():
        told = f"## {section}\n\nNot measured in this comparison." in text
        assert told != measured
    for name in results.frameworks:
        assert name in text
    assert read_results(tmp_path / "results.json") == results


# --------------------------------------------------------------------------------------------------
# Findings
# --------------------------------------------------------------------------------------------------


def test_findings_name_the_fastest_and_where_lstm_jax_is_not() -> None:
    told = {finding.topic: finding for finding in findings(example_results())}
    training = told["Training"]
    assert training.standing is Standing.FIRST
    assert training.text.startswith("lstm_jax-native is the fastest: a train step takes 2.")
    assert re.search(
        r"The fastest other framework is pytorch: it takes 2\.\d\d times as long \(95 % interval 2\.",
        training.text,
    )
    latency = told["Latency"]
    assert latency.standing is Standing.BEHIND
    assert re.search(
        r"onnxruntime is the fastest.*lstm_jax-native takes 2\.\d\d times as long \(95 %", latency.text
    )
    for topic, words in {
        "Start-up": "0.300 s with onnxruntime, the least of all, and 1.90 s with lstm_jax-native",
        "First step": "0.040 s with pytorch, the least of all, and 0.590 s with lstm_jax-native",
    }.items():
        found = told[topic]
        assert found.standing is Standing.BEHIND
        assert words in found.text
    assert "onnxruntime" not in told["Memory"].text  # it has less to do than those that train
    # Started beside others, they say nothing of themselves.
    topics = {f.topic for f in findings(dataclasses.replace(example_results(), started_at_once=2))}
    assert set(told) - topics == {"Start-up", "First step"}
    assert finding_of(example_results(PAIR), "Memory").standing is Standing.LEVEL  # 390 and 350 MB, once


def test_sizes_at_which_another_is_faster_are_named() -> None:
    results = example_results(PAIR)
    curve = results.scaling[0]
    large = curve.points[-1]
    changed = {"pytorch": large.seconds["lstm_jax-native"], "lstm_jax-native": large.seconds["pytorch"]}
    points = (*curve.points[:-1], dataclasses.replace(large, seconds=changed))
    scaling = (dataclasses.replace(curve, points=points), *results.scaling[1:])
    before = finding_of(results, "Other sizes")
    found = finding_of(dataclasses.replace(results, scaling=scaling), "Other sizes")
    # 5 + 4 + 4 sizes, one of which is on all three curves.
    assert "the fastest at 11 of 11 sizes" in before.text
    assert before.standing is Standing.FIRST
    assert "the fastest at 10 of 11 sizes" in found.text
    assert "Not the fastest at hidden size 512 (lstm_jax-native takes" in found.text
    assert found.standing is Standing.BEHIND


def test_sizes_at_which_another_failed_are_counted() -> None:
    results = example_results(PAIR)
    curve = results.scaling[0]
    *others, large = curve.points
    failed = dataclasses.replace(
        large,
        seconds={"lstm_jax-native": large.seconds["lstm_jax-native"]},
        why_not={"pytorch": "its process ended with code -9"},
    )
    scaling = (dataclasses.replace(curve, points=(*others, failed)), *results.scaling[1:])
    found = finding_of(dataclasses.replace(results, scaling=scaling), "Other sizes")
    assert "the fastest at 10 of 10 sizes" in found.text
    assert found.text.endswith("Of these 11 sizes, failed: pytorch at 1.")


def test_no_winner_within_the_interval() -> None:
    results = example_results(PAIR)
    rng = np.random.default_rng(3)
    seen = set()
    for gap in (0.0, 0.0, 0.0, 0.01, 0.02, 0.03, 0.05, 0.1, -0.02, -0.05, -0.1):
        ours, theirs = (
            ((1 + shift) * rng.lognormal(sigma=0.05, size=15) / 1e3).tolist() for shift in (0.0, gap)
        )
        changed = with_speed(results, "lstm_jax-native", train_seconds=tuple(ours))
        changed = with_speed(changed, "pytorch", train_seconds=tuple(theirs))
        found = finding_of(changed, "Training")
        interval = ratio(theirs, ours, paired=True)
        expected = (
            Standing.FIRST
            if interval.above_one
            else Standing.BEHIND
            if interval.below_one
            else Standing.LEVEL
        )
        assert found.standing is expected
        assert ("is the fastest" in found.text) == (expected is not Standing.LEVEL)
        assert ("are level" in found.text) == (expected is Standing.LEVEL)
        seen.add(expected)
    assert len(seen) == 3


def test_two_of_the_same_camp_may_share_the_first_place() -> None:
    samples = (1.0, 1.1, 1.2, 1.3, 1.4)
    slow = tuple(3 * value for value in samples)
    ranking = rank({"flax-rnn": slow, "lstm_jax-native": samples, "lstm_jax-fused": samples[::-1]})
    assert set(ranking.first) == {"lstm_jax-native", "lstm_jax-fused"}
    assert ranking.standing is Standing.FIRST
    assert rank({"lstm_jax-native": samples, "lstm_jax-fused": slow}).standing is Standing.UNKNOWN


def test_too_few_rounds_or_seeds_name_no_winner() -> None:
    results = example_results(PAIR, rounds=LEAST_ROUNDS - 1, seeds=1)
    for topic in ("Training", "Inference", "Latency"):
        found = finding_of(results, topic)
        assert found.standing is Standing.UNKNOWN
        assert "too few rounds" in found.text
        assert "is the fastest" not in found.text
    assert "names no winner" in finding_of(results, "Time to 97 %").text
    assert finding_of(results, "Other sizes").standing is Standing.UNKNOWN


def test_seeds_that_overlap_name_no_winner() -> None:
    results = example_results(PAIR)

    def reaching(seconds: float) -> Any:
        run = results.frameworks["pytorch"].learning[0]
        return dataclasses.replace(
            run, start_seconds=0.0, first_step_seconds=0.0, steps=(1,), seconds=(seconds,), accuracy=(0.98,)
        )

    def standing(ours: tuple[float, ...], theirs: tuple[float, ...]) -> Standing:
        changed = results.with_framework("lstm_jax-native", learning=tuple(map(reaching, ours)))
        changed = changed.with_framework("pytorch", learning=tuple(map(reaching, theirs)))
        return finding_of(changed, "Time to 98 %").standing

    assert standing((1.0, 2.0, 3.0), (4.0, 5.0, 6.0)) is Standing.FIRST
    assert standing((4.0, 5.0, 6.0), (1.0, 2.0, 3.0)) is Standing.BEHIND
    assert standing((1.0, 2.0, 4.5), (4.0, 5.0, 6.0)) is Standing.LEVEL


# --------------------------------------------------------------------------------------------------
# Files
# --------------------------------------------------------------------------------------------------


def test_without_matplotlib_there_is_a_page_without_pictures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "speed.png").touch()  # of an earlier comparison
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    write_report(example_results(PAIR), tmp_path, against=None)
    assert {path.name for path in tmp_path.iterdir()} == {"results.json", "report.html"}
    page = (tmp_path / "report.html").read_text()
    assert NO_PICTURES.split("(")[0] in page
    assert "<img" not in page


def test_pictures_are_those_of_this_comparison(tmp_path: Path) -> None:
    for name in NAMES:
        for suffix in SUFFIXES:
            (tmp_path / f"{name}.{suffix}").write_text("old")
    write_report(PARTS["quick"], tmp_path, against=None)
    assert {path.name for path in tmp_path.iterdir()} == {
        "results.json",
        "report.html",
        *(f"{name}.{suffix}" for name in ("speed", "parity") for suffix in SUFFIXES),
    }
    assert (tmp_path / "speed.png").read_bytes().startswith(b"\x89PNG")
    assert (tmp_path / "speed.svg").read_bytes().startswith(b"<?xml")
    first = (tmp_path / "parity.svg").read_bytes()
    write_report(PARTS["quick"], tmp_path, against=None)
    assert (tmp_path / "parity.svg").read_bytes() == first


def test_every_framework_has_a_style_of_its_own() -> None:
    assert set(STYLES) == set(FRAMEWORKS) == set(COSTS)
    assert len({style.colour for style in STYLES.values()}) == len(STYLES)
    assert len({(style.marker, style.hollow) for style in STYLES.values()}) == len(STYLES)


def test_nothing_of_the_results_becomes_markup(tmp_path: Path) -> None:
    evil = '<script>alert("x")</script>&<img src=x onerror=alert(1)>'
    results = example_results(PAIR, rounds=5, seeds=1, epochs=1)
    pytorch = dataclasses.replace(results.frameworks["pytorch"], title=evil, versions={evil: evil})
    failed = FrameworkResult(evil, {}, why_not=evil)
    results = dataclasses.replace(
        results,
        command=evil,
        machine={"cpu": evil, evil: {"x": evil}},
        versions={evil: evil},
        notes=(evil,),
        frameworks={**results.frameworks, evil: pytorch, "failed": failed},
    )
    other = dataclasses.replace(results, machine={"cpu": evil + "2"}, date=evil)
    write_report(results, tmp_path, against=other)
    page = (tmp_path / "report.html").read_text()
    assert "<script" not in page
    assert "<img src=x" not in page
    assert page.count("&lt;script&gt;") >= 10

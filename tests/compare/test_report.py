"""What is told of a comparison and of a benchmark: tables, marks, pictures, page, files."""

import dataclasses
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from statistics import stdev
from typing import Any

import pytest

from lstm_jax.compare.frameworks import BENCHMARKED, FRAMEWORKS
from lstm_jax.compare.report import benchmark
from lstm_jax.compare.report.document import as_text, write_comparison
from lstm_jax.compare.report.pictures import DRAWN
from lstm_jax.compare.report.tables import (
    accuracy_table,
    frameworks_table,
    milliseconds,
    parity_table,
    scaling_tables,
    speed_table,
    threads_in_words,
    three_digits,
)
from lstm_jax.compare.results import About, Comparison, Learning, Parity, Point, Row, gathered, kept
from lstm_jax.compare.size import Size
from lstm_jax.compare.worker import CALLED, DISPATCHED, GRADIENT, INFER, LATENCY, PEAK_FLOP, TRAIN
from lstm_jax.report.page import page
from lstm_jax.report.tables import Table, as_markdown
from tests.helpers.browser import contrast, fetched, luminance, overflow, show, start_browser
from tests.helpers.project import PROJECT

SIZE = Size(hidden=64, batch=128, time=28, inputs=28)
ABOUT = About(
    command="python -m lstm_jax compare",
    date="2026-01-31T12:00:00+00:00",
    machine={"cpu": "A processor"},
    versions={"python": "3.11.2"},
    frameworks={name: (FRAMEWORKS[name].title, {"jax": "0.10.2"}) for name in FRAMEWORKS},
    cores=2,
    rounds=5,
    notes=("A note <b>in bold</b>.",),
    test_images=1234,
    learning_rate=0.01,
    epochs=1.0,
)
ROUNDS = (1.0, 1.1, 0.9, 1.05, 0.95)


def seconds(milliseconds: float) -> list[float]:
    return [1e-3 * milliseconds * each for each in ROUNDS]


def row(train: float | None, infer: float, latency: float, **changes: Any) -> Row:
    told = {INFER: seconds(infer), LATENCY: seconds(latency)} | ({TRAIN: seconds(train)} if train else {})
    errors = {"logits": 2e-7, "loss": 1e-7, "gradients": 3e-6, "curve": 1e-5, "call": 1e-6}
    parity = Parity(errors, [2.3, 2.2]) if train else Parity({"logits": 2e-7})
    made = Row(None, parity, 1.5, 0.5 if train else None, 200_000_000, 400_000_000, None, {}, told, told)
    return dataclasses.replace(made, **changes)


def point(size: Size, **milliseconds: float) -> Point:
    rows = {
        name.replace("_", "-"): Row(seconds={TRAIN: seconds(value)}) for name, value in milliseconds.items()
    }
    return Point(size, 50, rows)


def comparison(**rows: Row) -> Comparison:
    """A whole one, of frameworks with these rows."""
    named = {name.replace("_", "-"): each for name, each in rows.items()}
    points = {"main": Point(SIZE, 100, named, [2.3, 2.2], [PEAK_FLOP / 1e11] * 5)}
    for value, equinox, pytorch in ((32, 1.0, 2.0), (512, 4.0, 0.5)):
        points[f"hidden-{value}"] = point(SIZE._replace(hidden=value), equinox=equinox, pytorch=pytorch)
    runs = [
        Learning("pytorch", seed, 2.0, 1.0, (1, 2, 3), times, accuracy)
        for seed, (times, accuracy) in enumerate(
            [
                ((1.0, 2.0, 3.0), (0.96, 0.975, 0.985)),
                ((1.0, 2.0, 6.0), (0.97, 0.96, 0.99)),
                ((1.0, 2.0, 9.0), (0.9, 0.96, 0.971)),
            ]
        )
    ]
    about = dataclasses.replace(ABOUT, frameworks={name: ABOUT.frameworks[name] for name in named})
    return Comparison(about, points, runs)


def alone(**rows: Row) -> Comparison:
    """One without curves and runs."""
    made = comparison(**rows)
    return dataclasses.replace(made, points={"main": made.points["main"]}, runs=())


WHOLE = comparison(
    equinox=row(4.0, 2.0, 0.5),
    pytorch=row(2.0, 2.0, 0.2, threads={TRAIN: 2, INFER: 1, LATENCY: 1}),
    onnxruntime=row(None, 1.0, 0.1),
    haiku=Row(why_not="not installed: pip install dm-haiku"),
    keras_jax=Row(why_not="different: loss off", parity=Parity({"logits": 0.1, "loss": None}, [9.0, None])),  # type: ignore[list-item]
)


def rows_of(table: Table) -> dict[str, dict[str, str]]:
    """The cells of a table by the name of the row and the title of the column."""
    return {each[0]: dict(zip(table.header, each, strict=True)) for each in table.rows}


def test_numbers_as_words() -> None:
    words = [three_digits(value) for value in (0.0123, 0.5, 1.234, 12.34, 123.4, 12345.6)]
    assert words == ["0.012", "0.500", "1.23", "12.3", "123", "12,346"]
    assert milliseconds([0.01, 0.02, 0.03, 0.04, 0.05]) == "30.0 (20.0-40.0)"
    assert milliseconds([2.0]) == "2,000"
    for threads, told in [
        ({}, "—"),
        ({TRAIN: 2, INFER: 2, LATENCY: 2}, "2 threads"),
        ({INFER: 2, LATENCY: 1}, "inference 2 threads; one sequence 1 thread"),
    ]:
        assert threads_in_words(threads, one="sequence") == told


def test_the_speed_table_has_the_right_numbers_and_marks() -> None:
    table = speed_table(WHOLE.points["main"], WHOLE.runs)
    rows = rows_of(table)
    assert list(rows) == ["pytorch", "equinox", "onnxruntime"]
    pytorch, equinox, onnx = rows.values()
    assert pytorch["train step, ms (quartiles)"] == "**2.00 (1.90-2.10)**"
    assert pytorch["ratio to the fastest (95 % interval)"] == "1"
    assert equinox["ratio to the fastest (95 % interval)"] == "2.00 (2.00 to 2.00)"
    assert pytorch["training, images/s"] == "64,000"
    assert onnx["inference, images/s"] == "**128,000**"
    assert (pytorch["first step, s"], pytorch["start-up, s"]) == ("0.500", "2.00")  # 1.5, 2, 2 and 2
    assert equinox["start-up, s"] == "1.50"
    assert pytorch["peak memory, MB (of it at start)"] == "400 (200)"
    assert pytorch["processor time of a train step, ms"] == "2.00"
    assert pytorch["threads"] == "2 threads; inference 1 thread; one image 1 thread"
    # 8 T B (D + H) H for the forward pass; twice that for the backward pass, but for the inputs' gradient.
    flop = 8 * 28 * 128 * (3 * (28 + 64) * 64 - 28 * 64)
    assert pytorch["share of peak"] == f"{flop / 0.002 / 1e11:.0%}"
    assert onnx["train step, ms (quartiles)"] == "inference only"
    assert onnx["share of peak"] == onnx["ratio to the fastest (95 % interval)"] == "—"
    first = "**First** at train step: pytorch; inference: onnxruntime; a single image: onnxruntime."
    assert table.notes[0] == first
    level = comparison(equinox=row(2.005, 2.0, 0.5), pytorch=row(2.0, 4.0, 0.5))
    table = speed_table(level.points["main"], ())
    assert rows_of(table)["equinox"]["train step, ms (quartiles)"].startswith("≈ 2.00 (")
    assert "train step: pytorch ≈ equinox; inference: equinox;" in table.notes[0]


def test_those_that_differ_or_are_missing_are_told() -> None:
    parity = rows_of(parity_table(WHOLE.points["main"]))
    assert parity["pytorch"]["loss curve"] == "1.0e-05"
    assert parity["allowed"]["loss"] == "1e-05"
    assert (parity["keras-jax"]["loss"], parity["pytorch"]["agrees"]) == ("—", "yes")
    fates = {name: each["result"] for name, each in rows_of(frameworks_table(WHOLE)).items()}
    assert fates == {
        "pytorch": "measured",
        "equinox": "measured",
        "onnxruntime": "measured",
        "haiku": "not measured: not installed: pip install dm-haiku",
        "keras-jax": "not measured: different: loss off",
    }


def test_accuracy_counts_seeds_and_times() -> None:
    table = accuracy_table(WHOLE)
    (pytorch,) = rows_of(table).values()
    # 97 % first after 2, 1 and 9 seconds of training, 3 seconds after the start.
    assert pytorch["97 % from first step, s"] == "2.00 (1.00 to 9.00)"
    assert pytorch["97 % from process start, s"] == "5.00 (4.00 to 12.0)"
    assert pytorch["98 % from first step, s"] == "2 of 3 seeds"
    assert pytorch["accuracy after 1 epoch, %"] == f"98.20 ± {stdev([98.5, 99.0, 97.1]):.2f}"
    assert "Test accuracy on 1,234 images" in as_text(WHOLE, {})
    alone = rows_of(accuracy_table(dataclasses.replace(WHOLE, runs=WHOLE.runs[:1])))["pytorch"]
    assert (alone["97 % from first step, s"], alone["accuracy after 1 epoch, %"]) == ("2.00", "98.50")


def test_scaling_has_medians_slopes_marks_and_reasons() -> None:
    (table,) = scaling_tables(WHOLE)
    rows = rows_of(table)
    assert rows["equinox"] == {"hidden size": "equinox", "32": "**1.00**", "512": "4.00", "slope": "0.50"}
    assert (rows["pytorch"]["32"], rows["pytorch"]["512"]) == ("2.00", "**0.500**")
    assert rows["pytorch"]["slope"] == "-0.50"
    assert table.notes[0] == "**First**: equinox at 1 of 2 sizes; pytorch at 1 of 2 sizes."
    failed = WHOLE.points["hidden-512"]
    failed = dataclasses.replace(failed, rows={**failed.rows, "pytorch": Row(why_not="out of memory")})
    (table,) = scaling_tables(dataclasses.replace(WHOLE, points={**WHOLE.points, "hidden-512": failed}))
    assert rows_of(table)["pytorch"]["512"] == "—"
    assert table.notes[-1] == "pytorch at 512: out of memory"


def test_markdown_survives_bars_and_line_breaks() -> None:
    text = as_markdown(Table(("a", "b"), (("x|y", "one\ntwo"),), ("three\nfour",), "T"))
    assert text == "### T\n\n| a | b |\n| --- | ---: |\n| x\\|y | one two |\n\nthree four\n"


@pytest.mark.parametrize("part", ["whole", "quick", "one framework", "inference alone", "nothing"])
def test_a_part_of_a_comparison_is_told_as_such(part: str, tmp_path: Path) -> None:
    results = {
        "whole": WHOLE,
        "quick": dataclasses.replace(WHOLE, points={"main": WHOLE.points["main"]}, runs=()),
        "one framework": comparison(pytorch=row(2.0, 2.0, 0.2)),
        "inference alone": alone(onnxruntime=row(None, 1.0, 0.1)),
        "nothing": alone(haiku=Row(why_not="not installed")),
    }[part]
    (tmp_path / "parity.svg").touch()
    text = write_comparison(results, tmp_path, report=lambda text: None)
    told = {
        heading for heading, body in re.findall(r"^## (.+)\n\n(.+)", text, re.M) if "Not measured in" in body
    }
    of_quick = {"Accuracy", "Scaling"}
    assert told == {"quick": of_quick, "nothing": {"Speed", "Parity with the float64 judge", *of_quick}}.get(
        part, of_quick if part == "inference alone" else set()
    )
    assert "{" not in text
    for name in results.about.frameworks:
        assert name in text
    pictures = {path.stem for path in tmp_path.glob("*.svg")}
    assert pictures == set(re.findall(r"\]\((\w+)\.svg\)", text)) <= set(DRAWN)
    assert pictures == {"whole": set(DRAWN), "quick": {"speed", "parity"}}.get(part, pictures)
    assert (tmp_path / "report.md").read_text() == text
    assert json.loads((tmp_path / "results.json").read_text())["about"]["command"] == ABOUT.command


def test_without_matplotlib_there_are_no_pictures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    said: list[str] = []
    assert "](speed.svg)" not in write_comparison(WHOLE, tmp_path, report=said.append)
    assert "no pictures: matplotlib is not installed" in said[0]
    benchmark.write_plot([], tmp_path, report=said.append)
    assert {path.name for path in tmp_path.iterdir()} == {"results.json", "report.md", "report.html"}


def test_every_framework_has_a_style_of_its_own() -> None:
    for names in (FRAMEWORKS, BENCHMARKED):
        assert len({each.style[1] for each in names.values()}) == len(names)


def test_parts_come_back_as_they_were(tmp_path: Path) -> None:
    def never() -> Any:
        raise AssertionError("it is there")

    part = dataclasses.replace(WHOLE, points={"main": WHOLE.points["main"]}, runs=WHOLE.runs[:1])
    for name, each in {"about": part.about, "main": part.points["main"], "learning-0": part.runs[0]}.items():
        assert kept(tmp_path / f"{name}.json", type(each), lambda each=each: each) is each
        kept(tmp_path / f"{name}.json", type(each), never)
    found = gathered(tmp_path)
    assert found.as_json() == part.as_json()
    assert as_text(found, {}) == as_text(part, {})
    nan = dataclasses.replace(part.runs[0], seconds=(float("nan"), float("inf"), 1.0))
    assert json.loads(Comparison(ABOUT, {}, [nan]).as_json())["runs"][0]["seconds"] == [None, None, 1.0]


def test_the_published_document_is_written_of_the_published_measurements(tmp_path: Path) -> None:
    results = json.loads((PROJECT / "docs" / "comparison" / "results.json").read_text())
    runs = {f"learning-{number}": run for number, run in enumerate(results["runs"])}
    for name, part in {"about": results["about"], **results["points"], **runs}.items():
        (tmp_path / f"{name}.json").write_text(json.dumps(part))
    text = (PROJECT / "docs" / "COMPARISON.md").read_text()
    pictures = re.compile(r"!\[.*\]\(comparison/\w+\.svg\)\n\n\*.*\*\n\n")
    assert len(pictures.findall(text)) == len(DRAWN)
    body = as_text(gathered(tmp_path), {}).partition("- **The work.**")[2]
    assert pictures.sub("", text).partition("- **The work.**")[2] == body


# --------------------------------------------------------------------------------------------------
# The benchmark
# --------------------------------------------------------------------------------------------------


def implementation(milliseconds: float, **changes: Any) -> Row:
    told = {measure: seconds(milliseconds) for measure in (INFER, CALLED, GRADIENT, TRAIN, DISPATCHED)}
    return Row(seconds=told, first_step_seconds=1.25, step_memory=3_000_000, **changes)


def test_the_table_of_a_benchmark() -> None:
    pytorch = implementation(300.0, threads={TRAIN: 2})
    without = {measure: found for measure, found in pytorch.seconds.items() if measure != DISPATCHED}
    pytorch = dataclasses.replace(pytorch, seconds=without, step_memory=None)
    rows = {
        "flax": implementation(500.0),
        "native": implementation(125.0),
        "pytorch": pytorch,
        "fused": Row(why_not="its process ended"),
    }
    point = Point(SIZE, 100, rows, (), [PEAK_FLOP / 1e11] * 5)
    about = dataclasses.replace(ABOUT, devices=2)
    lines = benchmark.as_text(point, about).splitlines()
    assert lines[0] == "## Hidden size 64, batch 128, 28 time steps of 28 inputs, 2 devices"
    found = {
        cells[1].strip(): [*map(str.strip, cells[2:-1])] for cells in (each.split("|") for each in lines[4:8])
    }
    # 3 * 8 * 28 * 128 * 92 * 64 - 8 * 28 * 128 * 28 * 64 are 0.455 GFLOP.
    assert found["native"] == [*["**125 (119-131)**"] * 5, "4.00x", "3.6", "4%", "1.25", "3.0"]
    assert found["pytorch (2 threads)"] == [*["300 (285-315)"] * 4, "—", "1.67x", "1.5", "2%", "1.25", "—"]
    assert found["fused"] == ["—"] * 10
    assert "fused: its process ended" in lines
    first = [f"{what}: native" for what in ("forward", "called", "gradient", "train step", "dispatched")]
    assert f"**First** at {'; '.join(first)}." in lines
    assert "Peak of the matrix product: 100 GFLOP/s." in lines
    assert "`python -m lstm_jax compare`" in benchmark.heading(about)


def test_the_plot_of_a_benchmark(tmp_path: Path) -> None:
    one = Point(SIZE, 100, {"flax": implementation(500.0), "native": implementation(125.0)})
    contents = set()
    for points in ([one], [one, dataclasses.replace(one, size=SIZE._replace(hidden=128))]):  # bars, lines
        benchmark.write_plot(points, tmp_path, report=lambda text: None)
        for name, start in {"plot.png": b"\x89PNG", "plot.svg": b"<?xml"}.items():
            assert (tmp_path / name).read_bytes().startswith(start)
            contents.add((tmp_path / name).read_bytes())
    assert len(contents) == 4
    nothing_trains = dataclasses.replace(one, rows={"onnxruntime": Row(seconds={INFER: seconds(1.0)})})
    benchmark.write_plot([nothing_trains], tmp_path / "none", report=lambda text: None)
    assert not (tmp_path / "none").exists()


# --------------------------------------------------------------------------------------------------
# The page
# --------------------------------------------------------------------------------------------------


def test_the_page_is_the_document(tmp_path: Path) -> None:
    write_comparison(WHOLE, tmp_path, report=lambda text: None)
    html = (tmp_path / "report.html").read_text()
    assert html.isascii()
    assert "&lt;b&gt;in bold&lt;/b&gt;" in html
    assert '<td style="text-align:right"><strong>2.00 (1.90-2.10)</strong></td>' in html
    assert html.count("data:image/svg+xml;base64,") == 4
    assert html.count('<div class="scroll"') == html.count("<table>") == 5
    assert "<title>LSTMs compared</title>" in html
    assert not re.search(r"<script|<link(?! rel=\"icon\" href=\"data:)|src=\"(?!data:)", html)
    assert "<h1>&lt;script&gt;" in page("# <script>\n", {})


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    started = start_browser(tmp_path_factory.mktemp("browser"))
    yield started
    started.quit()


def test_the_page_in_a_browser(browser: Any, tmp_path: Path) -> None:
    """Nothing is fetched, it fits into narrow and wide windows, and its text stands out, light and dark."""
    write_comparison(WHOLE, tmp_path, report=lambda text: None)
    for width, scheme in ((360, "light"), (1600, "dark")):
        show(browser, tmp_path / "report.html", width=width, scheme=scheme)
        seen = browser.execute_script(
            """
            const ground = e => {
              const found = getComputedStyle(e).backgroundColor;
              return found === 'rgba(0, 0, 0, 0)' && e.parentElement ? ground(e.parentElement) : found;
            };
            const names = ['h1', 'p', 'em', 'thead th', 'td', 'td strong', 'tr:nth-child(even) td', 'code'];
            return {
              pictures: [...document.images].map(e => e.complete && e.naturalWidth),
              colours: names.map(name => document.querySelector(name)).map(
                e => [getComputedStyle(e).color, ground(e)]),
            };
            """
        )
        assert overflow(browser) == 0
        assert fetched(browser) <= {"data"}
        assert len(seen["pictures"]) == 4
        assert min(seen["pictures"]) > 300
        for ink, behind in seen["colours"]:
            assert contrast(ink, behind) >= 4.5
        assert (luminance(seen["colours"][0][1]) < 0.5) == (scheme == "dark")
    assert browser.get_log("browser") == []
    # A page that fetches would be noticed; its own policy stops it, so that nobody is asked.
    text = (tmp_path / "report.html").read_text()
    (tmp_path / "other.html").write_text(text.replace("</main>", '<img src="http://127.0.0.1:9/x.png">'))
    browser.get((tmp_path / "other.html").as_uri())
    assert "Content Security Policy" in browser.get_log("browser")[0]["message"]

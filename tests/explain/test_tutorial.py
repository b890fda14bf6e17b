"""The tutorial is true: its code runs, its pictures and tables are made from code and measurements.

What is measured takes minutes; here each experiment runs on next to nothing.
"""

import ast
import contextlib
import io
import json
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax
import numpy as np
import pytest

from lstm_jax.errors import ConfigError
from lstm_jax.explain import diagrams, experiments, tutorial
from lstm_jax.explain.tutorial import DOCUMENTS, TABLES, Tutorial, drawn, with_tables
from lstm_jax.model import LSTMClassifier
from tests.helpers.project import PROJECT

DOCS = PROJECT / "docs"
ENGLISH, KOREAN = (DOCS / name for name in DOCUMENTS.values())
MEASURED = json.loads((DOCS / "tutorial" / "measured.json").read_text())
FENCE = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def fences(document: Path, *languages: str) -> list[str]:
    return [code for language, code in FENCE.findall(document.read_text()) if language in languages]


def steps() -> list[tuple[str, str | None]]:
    """Each block of Python, and what the text says that it prints: the block of text right below."""
    pattern = re.compile(r"^```python\n(.*?)^```$(?:\n\n```text\n(.*?)^```$)?", re.MULTILINE | re.DOTALL)
    return [(code, output or None) for code, output in pattern.findall(ENGLISH.read_text())]


@pytest.mark.slow
def test_all_code_runs_and_prints_what_the_text_says(data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TFDS_DATA_DIR", str(data_dir))
    names: dict[str, Any] = {}
    # A reader adds a bias to a batch without a second thought.
    with jax.numpy_rank_promotion("allow"):
        for code, expected in steps():
            with contextlib.redirect_stdout(io.StringIO()) as out:
                exec(compile(code, ENGLISH.name, "exec"), names)
            if expected is not None:
                assert out.getvalue() == expected
        influence, plain = names["influence"], names["plain"]
        found = {size: influence({**plain, "h": size * plain["h"]}) for size in (0.5, 2)}
    # What the text says in words.
    assert found[0.5][0] < 1e-8 < 1e-2 < found[0.5][-1]
    assert 100 < found[2][0] / found[2][-1] < 1000
    lines = names["lines_of_program"]
    assert lines("scan", 7) == lines("scan", 28)
    assert lines("unrolled", 28) > 2 * lines("unrolled", 7)
    assert names["losses"][0] == pytest.approx(2.303, abs=0.1)
    assert names["losses"][-1] < 0.9 * names["losses"][0]


def test_the_two_languages_have_the_same_code_pictures_tables_and_links() -> None:
    assert fences(ENGLISH, "python", "shell") == fences(KOREAN, "python", "shell")
    outputs = [output for _, output in steps() if output]
    assert [text for text in fences(KOREAN, "text") if text in outputs] == outputs
    english, korean = ENGLISH.read_text(), KOREAN.read_text()
    for pattern in (
        r"!\[[^\]]*\]\(([^)]*)\)",  # pictures
        r"<!-- table: (\w+) -->",
        r"^(#+) ",
        r"(?<!!)\[[^\]]*\]\(((?!tutorial\.)[^)#]+)[^)]*\)",  # links, but to the other language and within
    ):
        of_english, of_korean = (re.findall(pattern, text, re.MULTILINE) for text in (english, korean))
        assert of_english == of_korean, pattern
        assert of_english
    assert "](tutorial.ko.md)" in english
    assert "](tutorial.md)" in korean


def test_the_page_of_code_is_the_example() -> None:
    """Functions and settings of the tutorial that the example has, too, are the example's."""

    def parts(code: str) -> dict[str, str]:
        found = {}
        for node in ast.parse(code).body:
            if isinstance(node, ast.FunctionDef):
                found[node.name] = ast.unparse(node)
            elif isinstance(node, ast.Assign):
                found[ast.unparse(node.targets[0])] = ast.unparse(node)
        return found

    example = parts((PROJECT / "examples" / "mnist_lstm.py").read_text())
    last = parts("\n".join(code for code, _ in steps()))
    del example["main"]
    assert {name: last[name] for name in example} == example


def test_the_diagrams_are_made_by_the_code(data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TFDS_DATA_DIR", str(data_dir))
    for path, content in drawn(MEASURED).items():
        assert (DOCS / path).read_text() == content, f"make it again: {tutorial.PROG}"


def test_every_picture_is_there_and_shown() -> None:
    shown = set(re.findall(r"\]\(tutorial/([^)]*)\)", ENGLISH.read_text()))
    assert shown == {path.name for path in (DOCS / "tutorial").iterdir()}


@pytest.mark.parametrize("language", DOCUMENTS)
def test_the_tables_have_what_was_measured(language: str) -> None:
    document = (DOCS / DOCUMENTS[language]).read_text()
    assert with_tables(document, MEASURED, language) == document, f"make them again: {tutorial.PROG}"
    assert re.findall(r"<!-- table: (\w+) -->", document) == list(TABLES)
    other = json.loads(json.dumps(MEASURED).replace("0.9", "0.8"))
    assert with_tables(document, other, language) != document


def test_the_text_says_in_words_what_was_measured() -> None:
    accuracy = {name: np.mean(each) for name, each in MEASURED["both_directions"]["test_accuracy"].items()}
    assert accuracy["backward, misread"] < 0.2 < 0.9 < accuracy["backward"]
    assert abs(accuracy["both, misread"] - accuracy["forward"]) < 0.01  # it reads forward only
    lengths = MEASURED["static_and_dynamic"]["lengths"]
    quotients = [each["unrolled"]["compile_seconds"] / each["scan"]["compile_seconds"] for each in lengths]
    assert quotients == sorted(quotients)
    (of_rows,) = (each for each in lengths if each["time_steps"] == 28)
    assert of_rows["unrolled"]["run_ms"] > 0.8 * of_rows["scan"]["run_ms"]
    sizes = MEASURED["batch_sizes"]["sizes"]
    after_one = [np.mean(size["test_accuracy"], axis=0)[0] for size in sizes]
    assert max(after_one[:4]) > after_one[-1]
    assert sizes[0]["epoch_seconds"] > sizes[-1]["epoch_seconds"]
    last = [run[-1]["test_accuracy"] for run in MEASURED["seeds"]["records"]]
    assert max(last) - min(last) > 0.001  # a few tenths of a percent


def test_jupytext_reads_the_tutorial_as_a_notebook() -> None:
    """Its cells are the blocks of Python, which a test runs; commands of a shell stay text."""
    jupytext = pytest.importorskip("jupytext")
    for document in (ENGLISH, KOREAN):
        cells = jupytext.read(document)["cells"]
        code = [cell["source"] for cell in cells if cell["cell_type"] == "code"]
        assert code == [block.rstrip("\n") for block in fences(document, "python")]


@pytest.mark.slow
def test_the_experiments_measure(
    data_dir: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    if not request.config.getoption("--all"):
        pytest.skip("20 s for what only the documents' command runs; --all runs it")
    monkeypatch.setenv("TFDS_DATA_DIR", str(data_dir))
    with jax.numpy_rank_promotion("allow"):
        directions = experiments.both_directions(epochs=1, seeds=1, images=1280)["test_accuracy"]
    assert set(directions) == set(experiments.DIRECTIONS)
    # The test images' last row is empty, so what reads it alone can only guess.
    assert directions["backward, misread"][0] < 0.2 < directions["forward"][0]
    (sizes,) = experiments.batch_sizes(sizes=(512,), epochs=2, seeds=1)["sizes"]
    assert sizes["steps_per_epoch"] == 4
    assert sizes["scaled_learning_rate"] == pytest.approx(0.02)
    assert np.shape(sizes["test_accuracy"]) == np.shape(sizes["scaled_test_accuracy"]) == (1, 2)
    found = experiments.seeds(count=2, epochs=1)["records"]
    assert [len(run) for run in found] == [1, 1]
    assert found[0] != found[1]
    short, long = experiments.static_and_dynamic(time_steps=(2, 4), rounds=1)["lengths"]
    assert short["unrolled"]["lines"] < long["unrolled"]["lines"]
    assert short["scan"]["lines"] == long["scan"]["lines"]


@pytest.mark.slow
def test_the_command_measures_draws_and_writes(
    data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TFDS_DATA_DIR", str(data_dir))
    (tmp_path / "tutorial").mkdir()
    (tmp_path / "tutorial" / "measured.json").write_text(json.dumps({**MEASURED, "first_digit": None}))
    for document in (ENGLISH, KOREAN):
        empty = re.sub(
            r"(<!-- table: \w+ -->\n).*?(<!-- end -->)", r"\1\2", document.read_text(), flags=re.DOTALL
        )
        (tmp_path / document.name).write_text(empty)
    probabilities = {"probabilities": [0.0] * 9 + [1.0]}
    monkeypatch.setattr(tutorial, "EXPERIMENTS", {"first_digit": lambda: probabilities})
    monkeypatch.setattr(tutorial, "MEMORY_IMAGES", {"rows": 2})
    params = LSTMClassifier(64).init(jax.random.key(0), jax.numpy.zeros((1, 28, 28)))["params"]
    monkeypatch.setattr(tutorial, "train", lambda config: SimpleNamespace(params=params))
    assert Tutorial(docs=tmp_path, measure=("all",)).run() == 0

    written = json.loads((tmp_path / "tutorial" / "measured.json").read_text())
    assert written["first_digit"] == probabilities
    assert {name: written[name] for name in TABLES if name != "machine"} == {
        name: MEASURED[name] for name in TABLES if name != "machine"
    }
    assert {path.name for path in (tmp_path / "tutorial").iterdir()} == {
        path.name for path in (DOCS / "tutorial").iterdir()
    }
    for language, name in DOCUMENTS.items():
        document = (tmp_path / name).read_text()
        assert with_tables(document, written, language) == document
        assert document.count("\n| ") == (DOCS / name).read_text().count("\n| ")


def test_what_cannot_be_measured_is_refused() -> None:
    with pytest.raises(ConfigError, match="--measure: got luck, expected some of all, batch_sizes"):
        Tutorial(measure=("seeds", "luck"))


def test_indices_and_signs_in_diagrams() -> None:
    drawn = diagrams.text(0, 0, "h_{t-1} < c_t")
    assert ">h</tspan>" in drawn
    assert ">t-1</tspan>" in drawn
    assert "&lt;" in drawn

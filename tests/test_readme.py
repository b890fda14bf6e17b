"""README.md and docs/ are true: their commands run, their code runs, their tables agree with the code.

Commands run in this process, on less work. `tests/test_results.py` is about the figures of training.
"""

import importlib.util
import re
import shlex
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lstm_jax.__main__ import (
    Benchmark,
    Compare,
    Evaluate,
    Explain,
    Export,
    Import,
    Page,
    Predict,
    Report,
    main,
)
from lstm_jax.commands import command_line, options_page, train
from lstm_jax.commands.launch import Launch
from lstm_jax.config import Config
from lstm_jax.options import flag, options_of
from tests.helpers.project import PROJECT

DOCUMENTS = (
    "README.md",
    "CONTRIBUTING.md",
    *(f"docs/{path.name}" for path in (PROJECT / "docs").glob("*.md")),
)
OPTIONS = {
    "benchmark": Benchmark,
    "compare": Compare,
    "evaluate": Evaluate,
    "explain": Explain,
    "export": Export,
    "import": Import,
    "page": Page,
    "predict": Predict,
    "report": Report,
}


def text_of(document: str) -> str:
    return (PROJECT / document).read_text()


def blocks(document: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", text_of(document), re.MULTILINE | re.DOTALL)


def commands(document: str) -> list[str]:
    """What a document has its reader type: lines of code blocks, and code in the text that starts Python."""
    lines = [line for block in blocks(document, "(?:bash|shell)") for line in block.splitlines()]
    outside = re.sub(r"^```.*?^```", "", text_of(document), flags=re.MULTILINE | re.DOTALL)
    return lines + [" ".join(code.split()) for code in re.findall(r"`(python [^`]*)`", outside)]


def test_the_two_main_commands() -> None:
    # A virtual environment works on systems with an externally managed Python and on all others.
    assert commands("README.md")[0] == (
        "python3 -m venv .venv && . .venv/bin/activate && pip install -r requirements.txt && python train.py"
    )
    assert commands("README.md")[1] == "pip install -r requirements-dev.txt && python -m pytest -n 2"
    # CI makes its environment from the same file and runs the same tests.
    ci = (PROJECT / ".ci" / "run").read_text()
    assert "-r requirements-dev.txt" in ci
    assert '\npython -m pytest -n 2 "$@"\n' in ci


def test_the_readme_is_short() -> None:
    assert len(text_of("README.md").splitlines()) <= 150


def python_words(command: str) -> list[str]:
    """The words after ``python`` in a command; none if it starts no Python."""
    words = shlex.split(command.replace("$seed", "0").removesuffix("; done"))
    return words[words.index("python") + 1 :] if "python" in words else []


def check(words: list[str]) -> None:
    """Refuse a program that does not exist, or options that it does not have."""
    if words[0] == "train.py" or words[:3] == ["-m", "lstm_jax", "train"]:
        train.read_config(words[1:] if words[0] == "train.py" else words[3:])
    elif words[:3] == ["-m", "lstm_jax", "launch"]:
        between = words.index("--")
        command_line.parse(Launch, words[3:between], prog="launch")
        check(["-m", "lstm_jax", *words[between + 1 :]])
    elif words[:2] == ["-m", "lstm_jax"] and len(words) > 2:
        command_line.parse(OPTIONS[words[2]], words[3:], prog=words[2])
    elif words[:1] == ["-m"] and words[1] != "venv":
        assert importlib.util.find_spec(words[1]), words


@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_command_can_be(document: str) -> None:
    for command in commands(document):
        # Of a mere name, such as `python -m lstm_jax export`, the options are elsewhere.
        if (words := python_words(command)) and len(words) != 3 and "--help" not in words:
            check(words)


def test_a_command_that_cannot_be_is_found() -> None:
    for command in ("train.py --hiden-size 3", "-m lstm_jax evaluate", "-m lstm_jax benchmark --rounds x"):
        with pytest.raises(SystemExit):
            check(command.split())
    with pytest.raises(KeyError):
        check(["-m", "lstm_jax", "explian"])
    with pytest.raises(AssertionError):
        check(["-m", "tests.no_such_module"])


def shorter(words: list[str]) -> list[str]:
    """The options of the same training on less work: two steps of a tiny model."""
    text = re.sub(r"--(hidden-size|epochs) \d+", "", shlex.join(words))
    return [*shlex.split(text), "--hidden-size", "3", "--steps", "2"]


# Those that belong together: what one of them writes, the next reads. Training with the options of the others
# has tests of its own.
RUN_TOGETHER = dict.fromkeys(
    block
    for document in ("README.md", "docs/training.md", "docs/exchange.md")
    for block in blocks(document, "bash")
    if "--run-dir" in block
)


@pytest.mark.parametrize("block", RUN_TOGETHER, ids=lambda block: block.splitlines()[-1])
def test_the_commands_run(
    block: str, tmp_path: Path, data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if " export " in block:  # with what requirements-export.txt installs
        for package in ("h5py", "onnx", "safetensors"):
            pytest.importorskip(package)
    if " explain " in block:
        explained = pytest.importorskip("lstm_jax.explain.files")
        monkeypatch.setattr(explained, "MEMORY_TASKS", ("rows",))  # 784 steps take long to compile
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TFDS_DATA_DIR", str(data_dir))
    canvas = np.full((80, 60), 255, np.uint8)
    canvas[10:70, 26:34] = 0
    Image.fromarray(canvas).save("digit.png")
    for words in map(python_words, block.splitlines()):
        if words[0] == "train.py":
            assert train.main(shorter(words[1:]), prog="train.py") == 0
        else:
            assert words[:2] == ["-m", "lstm_jax"]
            assert main(words[2:]) == 0
    assert (tmp_path / "runs").exists()


def test_the_layer_in_the_readme() -> None:
    import equinox as eqx
    import jax
    import jax.numpy as jnp
    from flax import nnx

    names: dict = {"jax": jax, "nnx": nnx, "eqx": eqx, "images": jnp.ones((3, 28, 28))}
    examples = blocks("README.md", "python")
    assert len(examples) == 2
    for example in examples:  # the second goes on from the first
        exec(compile(example, "README.md", "exec"), names)
        assert names["c"].shape == names["h"].shape == (3, 64)
        assert names["outputs"].shape == (3, 28, 64)


def test_the_library_example_runs(
    tmp_path: Path, data_dir: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TFDS_DATA_DIR", str(data_dir))
    first, *others = blocks("docs/layer.md", "python")
    names: dict = {}
    exec(compile(first, "docs/layer.md", "exec"), names)
    assert names["c"].shape == names["h"].shape == (128, 64)
    assert names["outputs"].shape == (128, 28, 64)
    assert names["logits"].shape == (128, 10)
    assert float(capsys.readouterr().out.split()[-1]) > 0.8
    for example in others:  # they go on from the first
        exec(compile(example, "docs/layer.md", "exec"), names)
    assert names["outputs"].shape == (128, 17, 64)
    assert names["probabilities"].shape == (1, 10)
    assert names["output"].shape == (1, 1, 64)


def test_the_page_of_options_is_made_from_the_code() -> None:
    assert text_of("docs/options.md") == options_page.page(), f"make it again: {options_page.COMMAND}"


def test_the_page_of_options_says_what_the_options_are() -> None:
    rows = {row.name: row for row in options_page.rows(Config)}
    assert list(rows) == [flag(field.name) for field in options_of(Config)]
    for field in options_of(Config):
        shown = rows[flag(field.name)]
        assert shown.meaning.endswith((".", ")")), shown
        if isinstance(field.default, bool):
            assert (shown.values, shown.default) == ("switch", "on" if field.default else "off")
        elif field.default is not None:
            assert shown.default == f"`{field.default}`"
    assert rows["--dtype"].values == "`float32`, `bfloat16`"
    assert rows["--forget-bias"].values == "FLOAT or chrono"
    assert rows["--patience"][1:3] == ("INT", "none")
    assert rows["--devices"].default == "as many as divide the batch; on a CPU, 1"


def cells(table_row: str) -> list[str]:
    return [cell.strip() for cell in table_row.strip("|").split("|")]


def test_the_results_in_the_readme_are_those_of_the_document() -> None:
    # Of a row of docs/RESULTS.md: run, command, parameters, seeds, test accuracy, epochs, training.
    found = {
        row[1]: row for row in map(cells, re.findall(r"^\| \[.*$", text_of("docs/RESULTS.md"), re.MULTILINE))
    }
    shown = list(map(cells, re.findall(r"^\| `python train.*$", text_of("README.md"), re.MULTILINE)))
    assert len(shown) >= 3
    for command, accuracy, seeds, training in shown:
        assert [accuracy, seeds] == [found[command][4], found[command][3]]
        assert training.startswith(found[command][6])


def test_the_speeds_in_the_readme_are_those_of_the_document() -> None:
    def measured(document: str) -> list[list[str]]:
        rows = map(cells, re.findall(r"^\|.*$", text_of(document), re.MULTILINE))
        return [row for row in rows if any(re.fullmatch(r"\d\.\d\dx", cell) for cell in row)]

    shown, found = measured("README.md"), measured("docs/speed.md")
    assert len(shown) == len(found) == 9
    for (_, step, ratio, share, memory), whole in zip(shown, found, strict=True):
        assert [step, ratio, share, memory] == [whole[4], whole[6], whole[8], whole[10]]


@pytest.mark.parametrize("document", DOCUMENTS)
def test_links_lead_somewhere(document: str) -> None:
    folder = (PROJECT / document).parent
    for target, anchor in re.findall(r"\]\((?!https?:)([^)#]*)(?:#([^)]+))?\)", text_of(document)):
        path = folder / target if target else PROJECT / document
        assert path.exists(), target
        if anchor and path.suffix == ".md":  # that of a page of HTML is what it makes of it
            headings = re.findall(r"^#+ (.+)$", path.read_text(), re.MULTILINE)
            assert anchor in [re.sub(r"[^\w -]", "", each).lower().replace(" ", "-") for each in headings]


def test_nothing_is_left_to_fill_in() -> None:
    for document in DOCUMENTS:
        assert not re.search(r"^[A-Z]+$|TODO", text_of(document), re.MULTILINE)
